//! Which attempts block their threads. That is told, because nothing else can be done about it: a thread that is blocked hears
//! neither a cancel nor a timeout, and there are only so many.
//!
//! An attempt counts its steps, and the count is odd while it is in one. Who is in the same step for so long blocks. Nothing is
//! stopped here, and nothing is journalled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::show_duration;

/// How often attempts are looked at.
pub(super) const LOOK: Duration = Duration::from_secs(2);
/// How long a step takes before it is told: others take far below a millisecond.
pub(super) const LONG: Duration = Duration::from_secs(5);

/// Counts the steps of an attempt.
#[derive(Debug, Clone, Default)]
pub(super) struct Steps(Arc<AtomicU64>);

impl Steps {
    /// Takes a step, which must not panic.
    pub(super) fn take<T>(&self, step: impl FnOnce() -> T) -> T {
        self.0.fetch_add(1, Ordering::Relaxed);
        let done = step();
        self.0.fetch_add(1, Ordering::Relaxed);
        done
    }
}

/// What the loop has seen of the steps of an attempt.
#[derive(Debug)]
pub(super) struct Watched {
    steps: Steps,
    seen: u64,
    since: Instant,
    told: bool,
}

impl Watched {
    pub(super) fn new(steps: Steps) -> Watched {
        Watched { steps, seen: 0, since: Instant::now(), told: false }
    }

    /// Looks; whether it is to be told now that the attempt blocks.
    pub(super) fn look(&mut self, now: Instant) -> bool {
        let count = self.steps.0.load(Ordering::Relaxed);
        if count.is_multiple_of(2) || count != self.seen {
            self.seen = count;
            self.since = now;
            self.told = false;
            return false;
        }
        let first = !self.told && now.duration_since(self.since) >= LONG;
        self.told |= first;
        first
    }

    /// That it blocks, in words, where that was told.
    pub(super) fn words(&self, now: Instant) -> Option<String> {
        let still = self.told && self.steps.0.load(Ordering::Relaxed) == self.seen;
        let seconds = Duration::from_secs(now.duration_since(self.since).as_secs());
        still.then(|| {
            format!(
                "it has blocked its thread for {}, and hears neither a cancel nor its timeout",
                show_duration(seconds)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_long_step_is_told_once_and_short_ones_never() {
        let steps = Steps::default();
        let mut watched = Watched::new(steps.clone());
        let mut after = async |span: Duration| {
            tokio::time::advance(span).await;
            let told = watched.look(Instant::now());
            (told, watched.words(Instant::now()))
        };
        assert_eq!(after(LONG * 2).await, (false, None), "it waits, which may take for ever");
        for _ in 0..3 {
            steps.take(|| {});
            assert_eq!(after(LONG * 2).await, (false, None), "it is in no step");
        }
        steps.0.fetch_add(1, Ordering::Relaxed);
        assert_eq!(after(LOOK).await, (false, None), "seen in this step for the first time");
        assert_eq!(after(LOOK).await, (false, None));
        let words = "it has blocked its thread for 6.0s, and hears neither a cancel nor its timeout";
        assert_eq!(after(LOOK * 2).await, (true, Some(words.into())));
        assert!(!after(LOOK).await.0, "once");
        steps.0.fetch_add(1, Ordering::Relaxed);
        assert_eq!(after(LOOK).await, (false, None), "it has let go");
    }
}
