//! How long things take: pulls, starts, and the lag of everything that follows something else.
//!
//! All randomness of the crate comes from the seeded generator here, so that a run with one seed repeats.

use std::time::Duration;

/// A range of durations, from which each occurrence draws its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The shortest.
    pub from: Duration,
    /// The longest.
    pub to: Duration,
}

impl Span {
    /// A span in milliseconds.
    pub const fn millis(from: u64, to: u64) -> Self {
        Self { from: Duration::from_millis(from), to: Duration::from_millis(to) }
    }
}

/// The delays of a cluster and its gateway.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Delays {
    /// Pulling an image.
    pub pull: Span,
    /// From a pulled image to a running container.
    pub start: Span,
    /// From a running container to a passed readiness probe, besides the probe's own initial delay.
    pub ready: Span,
    /// What an init container runs.
    pub init: Span,
    /// What a container needs to stop after its preStop hook.
    pub stop: Span,
    /// What a container of a failing image runs before it exits.
    pub run: Span,
    /// How far Endpoints and EndpointSlices follow behind the pods.
    pub endpoints: Span,
    /// How far the gateway's routes follow behind Ingresses.
    pub gateway_routes: Span,
    /// How far the gateway's backends follow behind EndpointSlices.
    pub gateway_endpoints: Span,
    /// The first back-off of a failing image or container; it doubles with each failure.
    pub backoff: Duration,
    /// Where the back-off stops growing.
    pub backoff_limit: Duration,
    /// Factor on the initial delays of readiness probes and on preStop hooks.
    pub probes: f64,
}

impl Delays {
    /// Delays like those of a small, healthy cluster, in the order of a second.
    pub const fn realistic() -> Self {
        Self {
            pull: Span::millis(150, 600),
            start: Span::millis(150, 500),
            ready: Span::millis(50, 200),
            init: Span::millis(50, 150),
            stop: Span::millis(150, 400),
            run: Span::millis(200, 400),
            endpoints: Span::millis(0, 1000),
            gateway_routes: Span::millis(0, 3000),
            gateway_endpoints: Span::millis(0, 300),
            backoff: Duration::from_secs(2),
            backoff_limit: Duration::from_secs(60),
            probes: 1.0,
        }
    }

    /// A few milliseconds everywhere: for tests that run in real time.
    pub const fn fast() -> Self {
        Self {
            pull: Span::millis(2, 8),
            start: Span::millis(2, 8),
            ready: Span::millis(1, 4),
            init: Span::millis(1, 3),
            stop: Span::millis(1, 4),
            run: Span::millis(2, 5),
            endpoints: Span::millis(0, 10),
            gateway_routes: Span::millis(0, 30),
            gateway_endpoints: Span::millis(0, 5),
            backoff: Duration::from_millis(40),
            backoff_limit: Duration::from_millis(400),
            probes: 0.01,
        }
    }

    /// No delay but the back-off of failures, which would otherwise spin.
    pub const fn none() -> Self {
        Self {
            pull: Span::millis(0, 0),
            start: Span::millis(0, 0),
            ready: Span::millis(0, 0),
            init: Span::millis(0, 0),
            stop: Span::millis(0, 0),
            run: Span::millis(1, 1),
            endpoints: Span::millis(0, 0),
            gateway_routes: Span::millis(0, 0),
            gateway_endpoints: Span::millis(0, 0),
            backoff: Duration::from_millis(20),
            backoff_limit: Duration::from_millis(200),
            probes: 0.0,
        }
    }
}

impl Default for Delays {
    fn default() -> Self {
        Self::realistic()
    }
}

/// A small seeded generator (splitmix64): enough to spread delays and names, never for secrets.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below the bound; 0 for an empty range.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    pub(crate) fn within(&mut self, span: Span) -> Duration {
        let width = span.to.saturating_sub(span.from).as_micros() as u64;
        span.from + Duration::from_micros(self.below(width + 1))
    }

    /// Letters and digits as Kubernetes appends them to generated names.
    pub(crate) fn suffix(&mut self, length: usize) -> String {
        (0..length).map(|_| ALPHABET[self.below(ALPHABET.len() as u64) as usize] as char).collect()
    }

    pub(crate) fn uid(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xfff,
            0x8000 | ((low >> 48) & 0x3fff),
            low & 0xffff_ffff_ffff
        )
    }
}

/// No vowels and no look-alikes, so that no words arise.
pub(crate) const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence_and_stays_within_the_span() {
        let (mut a, mut b) = (Random::new(7), Random::new(7));
        let span = Span::millis(300, 1200);
        for _ in 0..1000 {
            let drawn = a.within(span);
            assert_eq!(drawn, b.within(span));
            assert!(span.from <= drawn && drawn <= span.to);
        }
        assert_ne!(Random::new(1).uid(), Random::new(2).uid());
    }
}
