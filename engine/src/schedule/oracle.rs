//! Our slots beside those of an independent crate: random expressions, zones and moments, away from changes of the offset.
//!
//! What we do about changes is ours (`calendar.rs` has the tables); everything else is what cron has always meant.

use std::str::FromStr as _;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;

use super::*;
use crate::clock::Timestamp;

const ZONES: [&str; 14] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Santiago",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Asia/Shanghai",
    "Africa/Casablanca",
    "Pacific/Chatham",
    "America/St_Johns",
    "Asia/Tehran",
    "Pacific/Kiritimati",
    "America/Havana",
    "Africa/Cairo",
];

/// How many triples.
const CASES: u64 = 100_000;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    fn item(&mut self, low: u64, high: u64, names: &[&str]) -> String {
        let value = |random: &mut Random, at: u64| match names.get(usize::try_from(at - low).unwrap_or(99)) {
            Some(name) if random.below(3) == 0 => (*name).to_owned(),
            _ => at.to_string(),
        };
        let (a, b) = (self.between(low, high), self.between(low, high));
        let (a, b) = (a.min(b), a.max(b));
        match self.below(4) {
            // `0-sun` is every day to some.
            0 => format!("{a}-{b}"),
            1 => format!("{a}-{b}/{}", self.between(1, 9)),
            _ => value(self, a),
        }
    }

    fn field(&mut self, low: u64, high: u64, names: &[&str]) -> String {
        match self.below(6) {
            0 | 1 => "*".into(),
            2 => format!("*/{}", self.between(1, high - low + 1)),
            3 => (0..self.between(2, 4)).map(|_| self.item(low, high, names)).collect::<Vec<_>>().join(","),
            _ => self.item(low, high, names),
        }
    }

    fn expression(&mut self) -> String {
        let mut days = self.field(1, 31, &[]);
        let months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
        let weekdays = self.field(0, 7, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]);
        // Whether `*/2` restricts a day field is where even the old ones disagree.
        if weekdays != "*" && (days.starts_with("*/") || weekdays.starts_with("*/")) {
            days = "*".into();
        }
        format!(
            "{} {} {days} {} {weekdays}",
            self.field(0, 59, &[]),
            self.field(0, 23, &[]),
            self.field(1, 12, &months)
        )
    }
}

#[test]
fn slots_away_from_changes_are_those_of_an_independent_crate() {
    let mut random = Random(20_260_106);
    let (mut compared, mut near_changes, mut refused) = (0_u64, 0_u64, 0_u64);
    let two_days = 2 * 86_400;
    while compared < CASES {
        let expression = random.expression();
        let zone: Tz = ZONES[random.below(ZONES.len() as u64) as usize].parse().expect("a zone");
        // 2000 to 2037: afterwards some zones have rules that are not in every table.
        let from = i64::try_from(random.between(946_684_800, 2_145_916_800)).expect("small");
        let theirs = Cron::from_str(&expression);
        let ours = expression.parse::<Schedule>();
        let (Ok(theirs), Ok(ours)) = (&theirs, &ours) else {
            // Dates that never occur: they take them.
            assert!(ours.is_err_and(|why| why.contains("never occurs")), "{expression}: {:?}", theirs.err());
            refused += 1;
            continue;
        };
        let after = Timestamp::from_millis(u64::try_from(from).expect("positive") * 1_000);
        let next = ours.slots(zone, after).next();
        let start = DateTime::<Utc>::from_timestamp(from, 0).expect("a time").with_timezone(&zone);
        let expected = theirs.find_next_occurrence(&start, false).ok().map(|at| at.timestamp());
        let next = next.map(|next| i64::try_from(next.millis() / 1_000).expect("small"));
        let changes = |at: i64| change_between(zone, at - two_days, at + two_days).is_some();
        if [Some(from), next, expected].into_iter().flatten().any(changes) {
            near_changes += 1;
            continue;
        }
        assert_eq!(next, expected, "`{expression}` in {zone} after {start}");
        compared += 1;
    }
    assert!(near_changes < compared / 4, "{near_changes} of {compared} were near a change");
    assert!(refused < compared / 10, "{refused} of {compared} never occur");
}
