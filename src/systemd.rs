//! What systemd is told: ready, stopping, a status line, and signs of life (sd_notify(3)).
//!
//! One datagram each to the socket that `NOTIFY_SOCKET` names; without it nothing is told. Signs of life are sent only
//! while the engine shows them: it never says alive because a timer went off.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// The service manager that started this process, if one did.
#[derive(Debug, Clone)]
pub(crate) struct Systemd {
    socket: Option<SocketAddr>,
    watchdog: Option<Duration>,
}

impl Systemd {
    /// The one that started this process.
    pub(crate) fn of_process() -> Systemd {
        let variable = |name: &str| std::env::var(name).ok();
        Systemd::of(
            variable("NOTIFY_SOCKET").as_deref(),
            variable("WATCHDOG_USEC").as_deref(),
            variable("WATCHDOG_PID").as_deref(),
        )
    }

    fn of(socket: Option<&str>, microseconds: Option<&str>, pid: Option<&str>) -> Systemd {
        let address = socket.and_then(|text| match text.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None if text.starts_with('/') => SocketAddr::from_pathname(text).ok(),
            None => None,
        });
        // It may be meant for a process that started this one.
        let ours = pid.is_none_or(|pid| pid == std::process::id().to_string());
        let microseconds =
            microseconds.and_then(|text| text.parse().ok()).filter(|number| *number > 0 && ours);
        Systemd {
            watchdog: microseconds.map(Duration::from_micros).filter(|_| address.is_some()),
            socket: address,
        }
    }

    /// Everything is open and answers.
    pub(crate) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// What is going on, in a line that `systemctl status` shows.
    pub(crate) fn status(&self, status: &str) {
        self.tell(&format!("STATUS={}", one_line(status)));
    }

    /// The end has begun; it may take this long.
    pub(crate) fn stopping(&self, within: Duration) {
        let within = within.as_micros();
        self.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={within}\nSTATUS=draining"));
    }

    /// Sends signs of life as long as `alive` says so, twice as often as they are waited for. Does nothing where nobody
    /// waits for them.
    pub(crate) async fn watch<F>(self, alive: impl Fn() -> F, stop: CancellationToken)
    where
        F: Future<Output = Result<(), String>>,
    {
        let Some(limit) = self.watchdog else { return };
        let mut every = tokio::time::interval(limit / 2);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = every.tick() => {}
            }
            // An engine that does not answer in this time is as good as dead: the next sign would come too late.
            match tokio::time::timeout(limit / 2, alive()).await {
                Ok(Ok(())) => self.tell("WATCHDOG=1"),
                Ok(Err(why)) => tracing::error!(why, "no sign of life is given to systemd"),
                Err(_) => tracing::error!(why = "no answer", "no sign of life is given to systemd"),
            }
        }
    }

    fn tell(&self, words: &str) {
        let Some(address) = &self.socket else { return };
        let sent = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.send_to_addr(words.as_bytes(), address)
        });
        if let Err(error) = sent {
            tracing::debug!(%error, "systemd was not told");
        }
    }
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn received(socket: &UnixDatagram) -> Vec<String> {
        let mut all = Vec::new();
        let mut bytes = [0; 512];
        while let Ok(length) = socket.recv(&mut bytes) {
            all.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
        all
    }

    fn listener() -> (tempfile::TempDir, UnixDatagram, String) {
        let folder = tempfile::tempdir().expect("made");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        socket.set_nonblocking(true).expect("set");
        (folder, socket, path.display().to_string())
    }

    #[test]
    fn the_manager_hears_ready_status_and_stopping() {
        let (_folder, socket, path) = listener();
        let systemd = Systemd::of(Some(&path), None, None);
        systemd.ready("listens on\n127.0.0.1:7420");
        systemd.status("3 runs");
        systemd.stopping(Duration::from_secs(30));
        assert_eq!(
            received(&socket),
            [
                "READY=1\nSTATUS=listens on 127.0.0.1:7420",
                "STATUS=3 runs",
                "STOPPING=1\nEXTEND_TIMEOUT_USEC=30000000\nSTATUS=draining"
            ]
        );
        // Nobody there, or nobody asked: nothing happens.
        for nobody in [None, Some("relative"), Some("/nowhere/at/all"), Some("@no-such-name")] {
            Systemd::of(nobody, None, None).ready("");
        }
    }

    #[test]
    fn signs_of_life_are_for_the_process_that_they_are_asked_of() {
        let ours = std::process::id().to_string();
        for (microseconds, pid, expected) in [
            (Some("2000000"), None, true),
            (Some("2000000"), Some(ours.as_str()), true),
            (Some("2000000"), Some("1"), false),
            (Some("0"), None, false),
            (Some("soon"), None, false),
            (None, None, false),
        ] {
            let systemd = Systemd::of(Some("/run/notify"), microseconds, pid);
            assert_eq!(systemd.watchdog.is_some(), expected, "{microseconds:?} {pid:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn signs_of_life_stop_when_the_engine_shows_none() {
        let (_folder, socket, path) = listener();
        let systemd = Systemd::of(Some(&path), Some("2000000"), None);
        let (stop, dead, hangs) = (CancellationToken::new(), AtomicBool::new(false), AtomicBool::new(false));
        let alive = || async {
            if hangs.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            if dead.load(Ordering::SeqCst) { Err("the loop does not answer".to_owned()) } else { Ok(()) }
        };
        let story = async {
            let second = Duration::from_secs(1);
            let heard_after = async |seconds: u32| {
                tokio::time::sleep(second * seconds).await;
                received(&socket).len()
            };
            assert!(heard_after(10).await >= 9, "twice in two seconds");
            dead.store(true, Ordering::SeqCst);
            heard_after(1).await;
            assert_eq!(heard_after(10).await, 0, "it says no");
            dead.store(false, Ordering::SeqCst);
            assert!(heard_after(10).await >= 8);
            hangs.store(true, Ordering::SeqCst);
            heard_after(2).await;
            assert_eq!(heard_after(10).await, 0, "it says nothing");
            stop.cancel();
        };
        tokio::join!(systemd.clone().watch(alive, stop.clone()), story);
    }
}
