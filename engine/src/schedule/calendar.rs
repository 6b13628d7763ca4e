//! Which instants the local times of a schedule are, through every change of a zone's offset.
//!
//! ```text
//! fold  a local time happens twice   a time of the day: the first time only    interval-like: both times
//! gap   a local time never happens   a time of the day: at the gap's end, once  interval-like: not at all
//! ```
//! An instant is found span by span: between two changes the offset is constant, and local times are instants.

use chrono::{DateTime, NaiveDateTime, Offset as _, TimeZone as _};
use chrono_tz::Tz;

use super::Schedule;
use crate::clock::Timestamp;

/// No zone changes twice in so little time; a search for a change looks this often.
const STEP: i64 = 6 * 3600;
/// No change is larger: whole days were left out at the date line.
const LARGEST: i64 = 26 * 3600;
/// The calendar ends with the year 2100.
const END: i64 = 4_133_980_800;

/// A change of a zone's offset, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The first instant with the new offset.
    pub at: i64,
    /// The offset before.
    pub before: i64,
    /// The offset from then on.
    pub after: i64,
}

fn offset(zone: Tz, at: i64) -> i64 {
    zone.offset_from_utc_datetime(&naive(at)).fix().local_minus_utc().into()
}

fn naive(seconds: i64) -> NaiveDateTime {
    DateTime::from_timestamp(seconds, 0).unwrap_or_default().naive_utc()
}

/// The local time of an instant, and its offset in seconds.
pub fn local(zone: Tz, at: Timestamp) -> (NaiveDateTime, i64) {
    let seconds = seconds(at);
    let offset = offset(zone, seconds);
    (naive(seconds + offset), offset)
}

fn seconds(at: Timestamp) -> i64 {
    i64::try_from(at.millis() / 1_000).unwrap_or(END)
}

/// The first change after one instant and not after another.
pub fn change_between(zone: Tz, after: i64, until: i64) -> Option<Change> {
    let mut low = after;
    let mut before = offset(zone, low);
    while low < until {
        let high = (low + STEP).min(until);
        let new = offset(zone, high);
        if new != before {
            // The change is in (low, high].
            let (mut low, mut high) = (low, high);
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if offset(zone, middle) == before { low = middle } else { high = middle }
            }
            return Some(Change { at: high, before, after: offset(zone, high) });
        }
        low = high;
        before = new;
    }
    None
}

/// The slots of a schedule after an instant, in order, each once.
#[derive(Debug, Clone)]
pub struct Slots<'s> {
    schedule: &'s Schedule,
    zone: Tz,
    /// The next instant to look at.
    at: i64,
    /// The last change up to there, where it is near enough to matter.
    last: Option<Change>,
    /// Where the search for the present slot began.
    from: i64,
}

impl Schedule {
    /// The slots after this instant.
    pub fn slots(&self, zone: Tz, after: Timestamp) -> Slots<'_> {
        let at = seconds(after) + 1;
        Slots { schedule: self, zone, at, last: last_change(zone, at), from: at }
    }

    /// How many slots there are after one instant and not after another.
    pub fn count(&self, zone: Tz, after: Timestamp, until: Timestamp) -> u64 {
        self.slots(zone, after).take_while(|slot| *slot <= until).count() as u64
    }
}

/// The last change up to an instant that can still be felt there.
fn last_change(zone: Tz, at: i64) -> Option<Change> {
    let mut found = None;
    let mut after = at - LARGEST;
    while let Some(change) = change_between(zone, after, at) {
        after = change.at;
        found = Some(change);
    }
    found
}

impl Slots<'_> {
    /// The first local time from here on that matches, in seconds.
    fn matching(&self, from: i64) -> Option<i64> {
        self.schedule.next_local(naive(from - 1)).map(|at| at.and_utc().timestamp())
    }

    fn found(&mut self, at: i64) -> Option<Timestamp> {
        self.at = at + 1;
        self.from = self.at;
        u64::try_from(at).ok().map(|at| Timestamp::from_millis(at * 1_000))
    }
}

impl Iterator for Slots<'_> {
    type Item = Timestamp;

    fn next(&mut self) -> Option<Timestamp> {
        let times_of_day = !self.schedule.interval_like;
        while self.at < END {
            let offset = offset(self.zone, self.at);
            let mut from = self.at + offset;
            if let Some(change) = self.last.filter(|_| times_of_day) {
                let (old, new) = (change.at + change.before, change.at + change.after);
                if self.at == change.at && old < new && self.matching(old)? < new {
                    return self.found(self.at);
                }
                // What happened before the fold does not happen again.
                from = from.max(old);
            }
            let next = change_between(self.zone, self.at, self.at + STEP);
            let until = next.map_or(self.at + STEP, |change| change.at);
            let matching = self.matching(from)?;
            if matching < until + offset {
                return self.found(matching - offset);
            }
            self.at = until;
            self.last = next.or(self.last);
            // Two days without a slot: none can come back in a fold, and none is before the next match.
            let near = matching - offset - LARGEST - STEP;
            if next.is_none() && self.at - self.from > 2 * LARGEST && near > self.at {
                self.at = near;
                self.last = last_change(self.zone, near);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next slots after a moment, in UTC, as `day hour:minute`.
    fn slots(cron: &str, zone: &str, after: &str, count: usize) -> String {
        let schedule: Schedule = cron.parse().expect(cron);
        let zone: Tz = zone.parse().expect(zone);
        let after: Timestamp = format!("{after}:00Z").parse().expect(after);
        let all = schedule.slots(zone, after).take(count).map(|slot| slot.to_string());
        let short = all.map(|slot| slot[5..16].replace('T', " ")).collect::<Vec<_>>();
        short.join(", ")
    }

    #[test]
    fn a_time_that_happens_twice_or_never_is_a_table() {
        let table = [
            // Berlin: 02:00 becomes 03:00 on 29 March at 01:00Z, and 03:00 becomes 02:00 on 25 October at 01:00Z.
            ("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00", "03-28 01:30, 03-29 01:00, 03-30 00:30"),
            ("0,30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", "03-29 01:00, 03-30 00:00, 03-30 00:30"),
            ("0 2-3 * * *", "Europe/Berlin", "2026-03-28T12:00", "03-29 01:00, 03-30 00:00, 03-30 01:00"),
            ("0 */2 * * *", "Europe/Berlin", "2026-03-28T22:30", "03-28 23:00, 03-29 01:00, 03-29 02:00"),
            ("30 * * * *", "Europe/Berlin", "2026-03-28T23:00", "03-28 23:30, 03-29 00:30, 03-29 01:30"),
            ("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:15", "03-29 00:30, 03-29 01:00, 03-29 01:30"),
            ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", "10-25 00:30, 10-26 01:30, 10-27 01:30"),
            ("0 2 * * *", "Europe/Berlin", "2026-10-24T12:00", "10-25 00:00, 10-26 01:00, 10-27 01:00"),
            ("0 3 * * *", "Europe/Berlin", "2026-10-24T12:00", "10-25 02:00, 10-26 02:00, 10-27 02:00"),
            ("30 * * * *", "Europe/Berlin", "2026-10-24T23:45", "10-25 00:30, 10-25 01:30, 10-25 02:30"),
            ("30 0-23 25 10 *", "Europe/Berlin", "2026-10-24T23:45", "10-25 00:30, 10-25 01:30, 10-25 02:30"),
            ("*/20 2 * * *", "Europe/Berlin", "2026-10-25T00:10", "10-25 00:20, 10-25 00:40, 10-26 01:00"),
            // In the middle of the second time there is nothing left for a time of the day.
            ("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10", "10-26 01:30, 10-27 01:30, 10-28 01:30"),
            ("30 * * * *", "Europe/Berlin", "2026-10-25T01:10", "10-25 01:30, 10-25 02:30, 10-25 03:30"),
            // Santiago: midnight of 6 September is missing at 04:00Z, and 4 April has 23:00 twice from 03:00Z.
            ("@daily", "America/Santiago", "2026-09-04T12:00", "09-05 04:00, 09-06 04:00, 09-07 03:00"),
            ("0 0-1 * * *", "America/Santiago", "2026-09-05T12:00", "09-06 04:00, 09-07 03:00, 09-07 04:00"),
            ("30 0 * * 0", "America/Santiago", "2026-09-05T12:00", "09-06 04:00, 09-13 03:30, 09-20 03:30"),
            ("30 23 * * *", "America/Santiago", "2026-04-04T12:00", "04-05 02:30, 04-06 03:30, 04-07 03:30"),
            ("30 * * * *", "America/Santiago", "2026-04-05T02:00", "04-05 02:30, 04-05 03:30, 04-05 04:30"),
            // Lord Howe: half an hour, missing on 4 October from 15:30Z of the day before, twice on 5 April from 15:00Z.
            (
                "15 2 * * *",
                "Australia/Lord_Howe",
                "2026-10-02T20:00",
                "10-03 15:30, 10-04 15:15, 10-05 15:15",
            ),
            (
                "15 * * * *",
                "Australia/Lord_Howe",
                "2026-10-03T14:00",
                "10-03 14:45, 10-03 16:15, 10-03 17:15",
            ),
            (
                "45 1 * * *",
                "Australia/Lord_Howe",
                "2026-04-04T00:00",
                "04-04 14:45, 04-05 15:15, 04-06 15:15",
            ),
            (
                "45 * * * *",
                "Australia/Lord_Howe",
                "2026-04-04T14:00",
                "04-04 14:45, 04-04 15:15, 04-04 16:15",
            ),
            // Kathmandu: three quarters of an hour beside the hour, and no change.
            ("0 0 * * *", "Asia/Kathmandu", "2026-01-01T00:00", "01-01 18:15, 01-02 18:15, 01-03 18:15"),
            // A whole day that there never was.
            ("0 12 30 * *", "Pacific/Apia", "2011-12-01T00:00", "12-30 10:00, 01-29 22:00, 03-29 22:00"),
            ("0 0 29 2 *", "UTC", "2026-01-01T00:00", "02-29 00:00, 02-29 00:00, 02-29 00:00"),
            ("0 9 29 2 *", "Europe/Berlin", "2028-02-28T12:00", "02-29 08:00, 02-29 08:00, 02-29 08:00"),
        ];
        for (cron, zone, after, expected) in table {
            assert_eq!(slots(cron, zone, after, 3), expected, "{cron} in {zone} after {after}");
        }
        let leap: Schedule = "0 0 29 2 *".parse().expect("valid");
        let from = "2026-01-01T00:00:00Z".parse().expect("a time");
        let years: Vec<String> =
            leap.slots(Tz::UTC, from).take(3).map(|slot| slot.to_string()[..4].to_owned()).collect();
        assert_eq!(years, ["2028", "2032", "2036"]);
        assert_eq!(
            leap.slots(Tz::UTC, from).count(),
            18,
            "the calendar ends with the year 2100, which is no leap year"
        );
    }

    #[test]
    fn slots_from_anywhere_are_the_same_slots() {
        for (cron, zone) in [
            ("*/17 1-3 * * *", "Europe/Berlin"),
            ("*/13 * * * *", "Australia/Lord_Howe"),
            ("5 0 * * *", "America/Santiago"),
        ] {
            let schedule: Schedule = cron.parse().expect(cron);
            let zone: Tz = zone.parse().expect(zone);
            for day in ["2026-03-28", "2026-04-04", "2026-09-05", "2026-10-03", "2026-10-24"] {
                let start: Timestamp = format!("{day}T00:00:00Z").parse().expect(day);
                let end = start.plus(std::time::Duration::from_secs(48 * 3600));
                let all: Vec<Timestamp> =
                    schedule.slots(zone, start).take_while(|slot| *slot <= end).collect();
                for seconds in (0..48 * 3600).step_by(419) {
                    let after = start.plus(std::time::Duration::from_secs(seconds));
                    let next = all.iter().find(|slot| **slot > after).copied();
                    if next.is_some() {
                        assert_eq!(
                            schedule.slots(zone, after).next(),
                            next,
                            "{cron} in {zone} after {after}"
                        );
                    }
                }
            }
        }
    }
}
