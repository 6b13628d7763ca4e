//! The daemon: one process that holds one data folder, answers on its socket and over TCP, and carries on what was cut
//! off. This is where its parts are put together, started and stopped.
//!
//! ```text
//! listener (TCP) -> store -> engine -> socket      first signal: drain, to the deadline      second signal: end at once
//! ```

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use graylane_engine::clock::show_duration;
use graylane_engine::scheduler::Mode;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::access::held;
use crate::api::server::serve_tcp;
use crate::cli::{EXIT_SURROUNDINGS, Failure, print};
use crate::daemon::Daemon;
use crate::holder::{Holder, socket_path};
use crate::rehearse::Tell;
use crate::settings::{Anonymous, LogFormat, Settings};
use crate::tls::Certificates;

/// How long the store may not be writable before the daemon gives up: whoever watches over it may know better.
const MEND_WITHIN: Duration = Duration::from_secs(5 * 60);
/// How often it is looked whether the data folder is still there.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Runs the daemon to its end; gives the exit code.
///
/// # Errors
/// Why it could not start.
pub(crate) async fn serve(settings: &Settings, tell: Tell) -> Result<u8, Failure> {
    let mut settings = settings.clone();
    let embedded = embedded(&mut settings)?;
    may_listen(&settings)?;
    let certificates = settings.tls.as_ref().map(Certificates::open).transpose();
    let certificates = certificates.map_err(Failure::refused)?.map(Arc::new);
    // Before the store is opened: what cannot be reached starts nothing.
    let listener = TcpListener::bind(settings.listen).await.map_err(|error| {
        Failure::surroundings(format!("{} cannot be listened at: {error}", settings.listen))
            .hint("another process may have it: name another address with --listen")
    })?;
    let address = listener.local_addr().map_err(|error| Failure::surroundings(error.to_string()))?;
    let mut signals = Signals::new().map_err(|error| Failure::surroundings(error.to_string()))?;
    let holder = Holder::open(&settings, Mode::Work, tell).await.map_err(|error| held(&error))?;
    let beside = Daemon::start(&settings, &holder).await.map_err(Failure::surroundings)?;
    let scheme = if certificates.is_some() { "https" } else { "http" };
    for line in introduction(&settings, &holder, &format!("{scheme}://{address}"), embedded) {
        print(&line);
    }
    let stop = CancellationToken::new();
    if let Some(certificates) = &certificates {
        tokio::spawn(Arc::clone(certificates).watch(stop.clone()));
    }
    let mut server = tokio::spawn(serve_tcp(listener, certificates, holder.router.clone(), stop.clone()));
    let code = tokio::select! {
        () = signals.next() => {
            beside.stopping(settings.drain);
            drain(&holder, &settings, signals.next()).await
        }
        lost = &mut server => {
            let why = lost.map_or_else(|error| error.to_string(), |lost| match lost {
                Ok(()) => "it has ended".into(),
                Err(error) => error.to_string(),
            });
            say(&settings, &format!("error: the listener at {address} is lost: {why}"));
            EXIT_SURROUNDINGS
        }
        why = store_lost(&settings, &holder) => {
            say(&settings, &format!("error: the store is lost: {why}"));
            EXIT_SURROUNDINGS
        }
    };
    stop.cancel();
    if !server.is_finished() {
        // It ends by itself when it is told to, soon.
        let _ = tokio::time::timeout(Duration::from_secs(2), server).await;
    }
    beside.close().await;
    holder.close().await;
    Ok(code)
}

/// Tells what becomes of the daemon itself. Whoever reads the log as JSON finds it there, and no line that is none.
pub(crate) fn say(settings: &Settings, words: &str) {
    match settings.log_format {
        LogFormat::Json => tracing::warn!(target: "graylane::serve", "{words}"),
        LogFormat::Compact | LogFormat::Pretty => crate::cli::note(words),
    }
}

/// Where nobody without a token may come in over a wire that others can read.
fn may_listen(settings: &Settings) -> Result<(), Failure> {
    let open = settings.anonymous != Anonymous::None;
    if settings.listen.ip().is_loopback() || settings.allow_insecure {
        return Ok(());
    }
    let missing = match (&settings.tls, open) {
        (Some(_), false) => return Ok(()),
        (None, false) => "without TLS",
        (Some(_), true) => "without tokens (`anonymous`)",
        (None, true) => "without TLS and without tokens (`anonymous`)",
    };
    Err(Failure::refused(format!(
        "{} is not this machine alone, and must not be served {missing}",
        settings.listen
    ))
    .hint(
        "name `tls.certificate` and `tls.key`, or listen on 127.0.0.1; `allow_insecure: true` takes the risk",
    ))
}

/// Stops softly: nothing new starts, what runs may end by itself until the deadline; a second signal ends the patience.
async fn drain(holder: &Holder, settings: &Settings, again: impl Future<Output = ()>) -> u8 {
    let deadline = settings.drain;
    let active = holder.engine.unfinished();
    if !active.is_empty() {
        say(
            settings,
            &format!(
                "stopping: nothing new starts; what runs has {} to come to an end ({} unfinished); a second signal ends at once",
                show_duration(deadline),
                active.len()
            ),
        );
    }
    tokio::select! {
        () = holder.engine.drain() => {}
        () = tokio::time::sleep(deadline) => {
            say(settings, "the time is up: what still runs is cut off, and is resumed at the next start");
        }
        () = again => say(settings, "ended at once: what still runs is resumed at the next start"),
    }
    0
}

/// Ends where there is no store any more; gives why. A disk that is full for a while is no loss.
async fn store_lost(settings: &Settings, holder: &Holder) -> String {
    let data = &settings.data;
    let gone = async {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if !data.join("format").exists() {
                return format!("the data folder {} is gone", data.display());
            }
        }
    };
    let broken = async {
        loop {
            let why = holder.engine.until_broken().await;
            let tried = show_duration(MEND_WITHIN);
            say(settings, &format!("error: {why}; nothing new starts, and it is tried again for {tried}"));
            if tokio::time::timeout(MEND_WITHIN, holder.engine.until_mended()).await.is_err() {
                return why.to_string();
            }
            say(settings, "the store can be written again");
        }
    };
    tokio::select! {
        why = gone => why,
        why = broken => why,
    }
}

/// What the daemon uses, in lines.
fn introduction(settings: &Settings, holder: &Holder, address: &str, embedded: bool) -> Vec<String> {
    let mut lines = vec![
        format!("graylane {} (process {})", env!("CARGO_PKG_VERSION"), std::process::id()),
        format!("API           {address}"),
        format!("socket        {}", socket_path(&settings.data).display()),
        format!("data          {}", settings.data.display()),
    ];
    let environments = settings.environments.display();
    lines.push(if embedded {
        "environments  no configuration: the embedded one, `production` on a rehearsal cluster".into()
    } else {
        format!("environments  {environments}")
    });
    for source in &settings.sources {
        lines.push(format!("workflows     {source}"));
    }
    let valid = holder.engine.standing().tokens.values().filter(|token| token.revoked.is_none()).count();
    lines.push(match (settings.anonymous, valid) {
        (Anonymous::Operator, _) => {
            "tokens        not needed here to look and to operate (`anonymous: operator`)".into()
        }
        (Anonymous::Viewer, _) => "tokens        not needed here to look (`anonymous: viewer`)".into(),
        (Anonymous::None, 0) => {
            "tokens        none yet: `graylane token create NAME --role viewer` makes one".into()
        }
        (Anonymous::None, 1) => "tokens        1".into(),
        (Anonymous::None, count) => format!("tokens        {count}"),
    });
    let unfinished = holder.engine.unfinished().len();
    if unfinished > 0 {
        lines.push(format!("runs          {unfinished} unfinished, which go on"));
    }
    lines
}

/// The files of the embedded environment, as they are written where there is no configuration.
const EMBEDDED: [(&str, &str); 5] = [
    ("environments/rehearsal.yaml", include_str!("../config/environments/production.yaml")),
    ("services/nacos.yaml", include_str!("../config/services/nacos.yaml")),
    ("services/spring-a.yaml", include_str!("../config/services/spring-a.yaml")),
    ("services/spring-b.yaml", include_str!("../config/services/spring-b.yaml")),
    ("services/spring-c.yaml", include_str!("../config/services/spring-c.yaml")),
];

/// Where neither a settings file nor a folder of environments is there: the embedded environment, in which nothing real
/// can be hurt, and which anybody on this machine may operate.
fn embedded(settings: &mut Settings) -> Result<bool, Failure> {
    if settings.file.is_some() || settings.environments.exists() {
        return Ok(false);
    }
    let folder = settings.beside("embedded");
    let written = |path: &PathBuf, text: &str| {
        std::fs::create_dir_all(path.parent().unwrap_or(&folder))?;
        std::fs::write(path, text)
    };
    for (name, text) in EMBEDDED {
        let path = folder.join(name);
        written(&path, text)
            .map_err(|error| Failure::surroundings(format!("{}: {error}", path.display())))?;
    }
    settings.environments = folder.join("environments");
    if settings.anonymous == Anonymous::None && settings.listen.ip().is_loopback() {
        settings.anonymous = Anonymous::Operator;
    }
    Ok(true)
}

/// What tells a process to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
