//! The door through which time and randomness come in.
//!
//! Everything inside takes `now: Timestamp` as an argument. The two clocks here are the only places
//! that may ask the machine for the time; no rule is decided in this file.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A moment in UTC, in milliseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment this many milliseconds after 1970 began.
    pub const fn from_millis(millis: u64) -> Self {
        Timestamp(millis)
    }

    /// Milliseconds since 1970.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// The moment `after` this one.
    pub fn plus(self, after: Duration) -> Self {
        Timestamp(self.0.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero where it is not after it.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl std::str::FromStr for Timestamp {
    type Err = String;

    /// Reads RFC 3339, as in `2026-12-24T18:00:00+08:00`.
    fn from_str(text: &str) -> Result<Timestamp, String> {
        let moment = DateTime::parse_from_rfc3339(text)
            .map_err(|_| format!("`{text}` is not a time: write it as in `2026-12-24T18:00:00+08:00`"))?;
        u64::try_from(moment.timestamp_millis())
            .map(Timestamp)
            .map_err(|_| format!("`{text}` is before 1970"))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        let moment = DateTime::<Utc>::from_timestamp_millis(millis).unwrap_or(DateTime::<Utc>::MAX_UTC);
        f.write_str(&moment.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Moments as people and programs are shown them: RFC 3339, where records keep milliseconds. Both are read.
pub mod rfc3339 {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Timestamp;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Read {
        Millis(u64),
        Text(String),
    }

    impl Read {
        fn moment<E: serde::de::Error>(self) -> Result<Timestamp, E> {
            match self {
                Read::Millis(millis) => Ok(Timestamp(millis)),
                Read::Text(text) => text.parse().map_err(E::custom),
            }
        }
    }

    /// Writes it.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(at)
    }

    /// Reads it.
    ///
    /// # Errors
    /// Something that is no moment.
    pub fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Timestamp, D::Error> {
        Read::deserialize(deserializer)?.moment()
    }

    /// The same of a moment that may be absent.
    pub mod option {
        use super::{Deserialize, Deserializer, Read, Serialize, Serializer, Timestamp};

        /// Writes it.
        ///
        /// # Errors
        /// The serializer's.
        pub fn serialize<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
            at.map(|at| at.to_string()).serialize(serializer)
        }

        /// Reads it.
        ///
        /// # Errors
        /// Something that is no moment.
        pub fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
            Option::<Read>::deserialize(deserializer)?.map(Read::moment).transpose()
        }
    }
}

/// Where time and randomness come from.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The present moment, by the wall clock.
    fn now(&self) -> Timestamp;

    /// 64 random bits: for ids and jitter, not for keys.
    fn random(&self) -> u64;
}

/// The machine's clock.
#[derive(Debug, Default)]
pub struct WallClock {
    random: Seeded,
}

impl Clock for WallClock {
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn random(&self) -> u64 {
        use std::hash::{BuildHasher as _, RandomState};
        // RandomState is seeded by the operating system; the counter makes every call differ.
        RandomState::new().hash_one(self.random.next())
    }
}

/// A clock for tests: it begins at a fixed moment and follows tokio's time, which tests can pause.
#[derive(Debug)]
pub struct TestClock {
    start: Timestamp,
    origin: tokio::time::Instant,
    random: Seeded,
}

impl TestClock {
    /// A clock that now shows 2026-01-02T03:04:05Z, with randomness from `seed`.
    pub fn new(seed: u64) -> Self {
        TestClock {
            start: Timestamp(1_767_323_045_000),
            origin: tokio::time::Instant::now(),
            random: Seeded(Mutex::new(seed)),
        }
    }
}

impl TestClock {
    /// The same clock, this much later: what it shows after a restart.
    pub fn later(mut self, after: Duration) -> Self {
        self.start = self.start.plus(after);
        self
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.start.plus(self.origin.elapsed())
    }

    fn random(&self) -> u64 {
        self.random.next()
    }
}

/// A splitmix64 sequence.
#[derive(Debug, Default)]
struct Seeded(Mutex<u64>);

impl Seeded {
    fn next(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Reads a duration as people write it: `90s`, `10m`, `1h30m`, `250ms`, `2d`.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "`{text}` is not a duration: write a number and a unit, as in `90s`, `10m`, `1h30m` or `250ms`"
        )
    };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let millis = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        rest = &rest[letters..];
        let term = Duration::from_millis(number.checked_mul(millis).ok_or_else(wrong)?);
        total = total.checked_add(term).ok_or_else(wrong)?;
    }
    Ok(total)
}

/// Writes a duration for people: `850ms`, `12s`, `1m40s`, `2h05m`.
pub fn show_duration(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    match seconds {
        0 => format!("{millis}ms"),
        1..10 => format!("{seconds}.{}s", millis / 100),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
    }
}

/// The pattern of every duration, for schemas.
pub const DURATION_PATTERN: &str = "^([0-9]+(ms|s|m|h|d))+$";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, millis) in
            [("90s", 90_000), ("1h30m", 5_400_000), ("250ms", 250), ("2d", 172_800_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "1 h", "-1s", "1y", "99999999999999999999s", "18446744073709551615d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn timestamps_print_as_rfc_3339() {
        assert_eq!(Timestamp::from_millis(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!("1970-01-01T08:00:01+08:00".parse(), Ok(Timestamp::from_millis(1_000)));
        for bad in ["", "tomorrow", "2026-02-30T00:00:00Z", "2026-01-01", "1969-01-01T00:00:00Z"] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }
}
