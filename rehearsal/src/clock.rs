//! The cluster's clock: the wall clock read once, then tokio's time.
//!
//! So a test that pauses tokio's time sees timestamps that move with it, and nothing here reads the wall clock twice.

use chrono::{DateTime, SecondsFormat, Utc};
use tokio::time::Instant;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    base: DateTime<Utc>,
    started: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the one place where this crate reads the wall clock")]
    pub(crate) fn start() -> Self {
        Self { base: Utc::now(), started: Instant::now() }
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.base + self.started.elapsed()
    }

    /// Now, as `metadata.creationTimestamp` writes it.
    pub(crate) fn stamp(&self) -> String {
        seconds(self.now())
    }

    /// Now with nanoseconds, as log lines begin.
    pub(crate) fn precise(&self) -> String {
        self.now().to_rfc3339_opts(SecondsFormat::Nanos, true)
    }
}

/// A moment as Kubernetes' `Time` writes it.
pub(crate) fn seconds(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A moment so many seconds later. Objects may say any number; beyond ten years they all mean the same.
pub(crate) fn later(moment: DateTime<Utc>, seconds: i64) -> DateTime<Utc> {
    const LIMIT: i64 = 10 * 365 * 24 * 3600;
    moment + chrono::Duration::seconds(seconds.clamp(-LIMIT, LIMIT))
}

/// Reads a `Time`; what is not one reads as `None`.
pub(crate) fn parse(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|moment| moment.with_timezone(&Utc))
}
