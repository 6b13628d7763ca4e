//! How a failed attempt is tried again: a policy, and the delays that follow from it.
//!
//! It never decides whether an error is worth another try; the task says so (`TaskError`).

use std::time::Duration;

use crate::id::Attempt;

/// When and how often a task is tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// How many attempts there are in all; at least 1.
    pub attempts: u32,
    /// The delay before attempt 2.
    pub backoff: Duration,
    /// What the delay is multiplied with each time.
    pub factor: f64,
    /// The longest delay.
    pub max_backoff: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            attempts: 1,
            backoff: Duration::from_secs(5),
            factor: 2.0,
            max_backoff: Duration::from_secs(300),
        }
    }
}

impl RetryPolicy {
    /// Whether an attempt may follow this one.
    pub fn allows_after(&self, attempt: Attempt) -> bool {
        attempt.0 < self.attempts
    }

    /// The delay between the end of `attempt` and the start of the next; `random` spreads it by up to a tenth,
    /// so that tasks that failed together do not come back together.
    pub fn delay_after(&self, attempt: Attempt, random: u64) -> Duration {
        let exponent = i32::try_from(attempt.0.saturating_sub(1)).unwrap_or(i32::MAX);
        let plain =
            (self.backoff.as_secs_f64() * self.factor.powi(exponent)).min(self.max_backoff.as_secs_f64());
        let spread = 1.0 + (random % 1_000) as f64 / 10_000.0;
        Duration::try_from_secs_f64(plain * spread).unwrap_or(self.max_backoff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_maximum_and_are_spread_by_a_tenth() {
        let policy =
            RetryPolicy { attempts: 9, max_backoff: Duration::from_secs(30), ..RetryPolicy::default() };
        for (attempt, seconds) in [(1, 5.0), (2, 10.0), (3, 20.0), (4, 30.0), (400, 30.0)] {
            let least = policy.delay_after(Attempt(attempt), 0).as_secs_f64();
            let most = policy.delay_after(Attempt(attempt), 999).as_secs_f64();
            assert!((least - seconds).abs() < 0.01, "{attempt}: {least}");
            assert!(most > least && most < least * 1.1, "{attempt}: {most}");
        }
        assert!(policy.allows_after(Attempt(8)) && !policy.allows_after(Attempt(9)));
    }
}
