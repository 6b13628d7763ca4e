//! Five-field POSIX cron, checked and translated for the `cron` crate, which is Quartz-like.
//!
//! It says whether an expression is valid, what is odd about it, and which local times it matches. Which instants
//! these are is said in `schedule/calendar.rs`: the crate loses and doubles times when it is given a zone with
//! daylight saving. What becomes of a slot is decided in `schedule/slot.rs`. Nothing here looks at a clock.

mod calendar;
#[cfg(test)]
mod oracle;
mod slot;

use std::collections::BTreeSet;
use std::ops::Range;
use std::str::FromStr;

use chrono::{NaiveDateTime, TimeZone, Utc};

pub use self::calendar::{Change, Slots, change_between, local};
pub use self::slot::{
    Change as RowChange, Last, Missed, Pausing, Pending, Rule, ScheduleKey, Skip, Skipped, SlotOutcome,
    State, Verdict, decide,
};

/// A cron expression that is valid.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// One, or two where both day fields are restricted: POSIX means either, the crate means both.
    parts: Vec<cron::Schedule>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<String>,
    /// Whether its hour field covers the whole day: then it follows the clock through a change of daylight saving, and
    /// else it names times of the day, of which each happens once.
    pub interval_like: bool,
}

struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", min: 0, max: 59, names: &[] },
    Field { name: "hour", min: 0, max: 23, names: &[] },
    Field { name: "day of month", min: 1, max: 31, names: &[] },
    Field {
        name: "month",
        min: 1,
        max: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    Field { name: "day of week", min: 0, max: 7, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];

impl FromStr for Schedule {
    type Err = String;

    /// Reads an expression; the error is a sentence for its author.
    fn from_str(text: &str) -> Result<Schedule, String> {
        let text = text.trim();
        let expanded = match text {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            _ if text.starts_with('@') => {
                return Err(format!("`{text}` is not known: use @hourly, @daily, @weekly or @monthly"));
            }
            _ => text,
        };
        if expanded.starts_with("CRON_TZ=") || expanded.starts_with("TZ=") {
            return Err("the time zone does not belong here: use `timezone`".into());
        }
        let words: Vec<&str> = expanded.split_whitespace().collect();
        if words.len() != 5 {
            let more = if words.len() > 5 { "; there are no seconds and no years" } else { "" };
            return Err(format!(
                "a schedule has five fields (minute, hour, day of month, month, day of week), not {}{more}",
                words.len()
            ));
        }
        let mut warnings = Vec::new();
        let mut sets: Vec<BTreeSet<u32>> = Vec::new();
        for (field, word) in FIELDS.iter().zip(&words) {
            sets.push(parse_field(field, word, &mut warnings)?);
        }
        // Sunday is 0 and 7.
        if sets[4].remove(&7) {
            sets[4].insert(0);
        }
        let (days, weekdays) = (words[2] != "*", words[4] != "*");
        if days && weekdays {
            warnings.push("day of month and day of week are both restricted: either one is enough".into());
        }
        let weekday_list = list(sets[4].iter().map(|day| day + 1));
        let day_list = list(sets[2].iter().copied());
        let base =
            [list(sets[0].iter().copied()), list(sets[1].iter().copied()), list(sets[3].iter().copied())];
        let combinations: &[(bool, bool)] = match (days, weekdays) {
            (true, true) => &[(true, false), (false, true)],
            (true, false) => &[(true, false)],
            (false, true) => &[(false, true)],
            (false, false) => &[(false, false)],
        };
        let mut parts = Vec::new();
        for (use_days, use_weekdays) in combinations {
            let quartz = format!(
                "0 {} {} {} {} {}",
                base[0],
                base[1],
                if *use_days { day_list.as_str() } else { "*" },
                base[2],
                if *use_weekdays { weekday_list.as_str() } else { "*" }
            );
            parts.push(cron::Schedule::from_str(&quartz).map_err(|error| format!("`{text}`: {error}"))?);
        }
        let schedule = Schedule { parts, warnings, interval_like: sets[1].len() == 24 };
        let probe = NaiveDateTime::default();
        if schedule.next_local(probe).is_none() {
            return Err("this date never occurs".into());
        }
        Ok(schedule)
    }
}

/// The field of an expression that an error speaks of, where it speaks of one.
pub fn field_of(text: &str, error: &str) -> Option<Range<usize>> {
    let index = FIELDS.iter().position(|field| error.split(": ").next() == Some(field.name))?;
    let word = text.split_whitespace().nth(index)?;
    // Both are parts of one text.
    let start = word.as_ptr() as usize - text.as_ptr() as usize;
    Some(start..start + word.len())
}

impl Schedule {
    /// The first matching local time after `after`, by the calendar alone; the search ends with the year 2100.
    pub fn next_local(&self, after: NaiveDateTime) -> Option<NaiveDateTime> {
        let dressed = Utc.from_utc_datetime(&after);
        self.parts.iter().filter_map(|part| part.after(&dressed).next()).map(|at| at.naive_utc()).min()
    }

    /// Whether day of month and day of week are both restricted, so that either one is enough.
    pub fn either_day(&self) -> bool {
        self.parts.len() > 1
    }
}

/// The version of the time zones that are compiled in.
pub const TZDATA: &str = chrono_tz::IANA_TZDB_VERSION;

fn list(values: impl Iterator<Item = u32>) -> String {
    values.map(|value| value.to_string()).collect::<Vec<_>>().join(",")
}

fn parse_field(field: &Field, word: &str, warnings: &mut Vec<String>) -> Result<BTreeSet<u32>, String> {
    let mut set = BTreeSet::new();
    for item in word.split(',') {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => {
                let step: u32 = step.parse().ok().filter(|step| *step > 0).ok_or_else(|| {
                    format!("{}: `{item}` has no valid step; a step is a number from 1", field.name)
                })?;
                (range, Some(step))
            }
            None => (item, None),
        };
        let (low, high) = if range == "*" {
            (field.min, if field.max == 7 { 6 } else { field.max })
        } else if let Some((low, high)) = range.split_once('-') {
            (value(field, low, item)?, value(field, high, item)?)
        } else if step.is_some() {
            let hint = format!("{range}-{}/{}", field.max, step.unwrap_or(1));
            return Err(format!("{}: `{item}` is not POSIX; write `{hint}`", field.name));
        } else {
            let single = value(field, range, item)?;
            (single, single)
        };
        if low > high {
            return Err(format!("{}: `{item}` runs backwards", field.name));
        }
        let step = step.unwrap_or(1);
        let span = high - low + 1;
        if step > 1 && range == "*" && !span.is_multiple_of(step) {
            warnings
                .push(format!("{}: `{item}` does not divide {span}: the last step is shorter", field.name));
        }
        set.extend((low..=high).step_by(step as usize));
    }
    Ok(set)
}

fn value(field: &Field, text: &str, item: &str) -> Result<u32, String> {
    let lower = text.to_ascii_lowercase();
    if let Some(at) = field.names.iter().position(|name| *name == lower) {
        let first = if field.name == "month" { 1 } else { 0 };
        return Ok(u32::try_from(at).unwrap_or(0) + first);
    }
    let number: u32 = text.parse().map_err(|_| {
        let near = crate::schema::nearest(&lower, field.names.iter().copied());
        let hint = match near {
            _ if text == "?" => "; write `*`".into(),
            Some(near) => format!("; did you mean `{near}`?"),
            None => String::new(),
        };
        format!("{}: `{item}` is not a number, a name, a range or a list{hint}", field.name)
    })?;
    if number < field.min || number > field.max {
        return Err(format!("{}: {number} is not between {} and {}", field.name, field.min, field.max));
    }
    Ok(number)
}

/// The time zone of this name.
///
/// # Errors
/// A sentence with the nearest name.
pub fn timezone(name: &str) -> Result<chrono_tz::Tz, String> {
    name.parse::<chrono_tz::Tz>().map_err(|_| {
        let near = crate::schema::nearest(name, chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()));
        match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => "a zone of the IANA database was expected, as `Asia/Shanghai` or `UTC`".into(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(expression: &str, after: &str, count: usize) -> Vec<String> {
        let schedule: Schedule = expression.parse().expect(expression);
        let mut at = NaiveDateTime::parse_from_str(after, "%Y-%m-%d %H:%M").expect("a time");
        (0..count)
            .map(|_| {
                at = schedule.next_local(at).expect("a next time");
                at.format("%Y-%m-%d %H:%M").to_string()
            })
            .collect()
    }

    #[test]
    fn five_fields_mean_what_posix_says() {
        let from = "2026-01-01 00:00"; // a Thursday
        for (expression, expected) in [
            ("30 2 * * 1-5", "2026-01-01 02:30"),
            ("0 0 * * 0", "2026-01-04 00:00"),
            ("0 0 * * 7", "2026-01-04 00:00"),
            ("0 0 * * sun", "2026-01-04 00:00"),
            ("0 0 13 * 5", "2026-01-02 00:00"),
            ("0 0 29 2 *", "2028-02-29 00:00"),
            ("@monthly", "2026-02-01 00:00"),
            ("*/15 3 1 JAN *", "2026-01-01 03:00"),
        ] {
            assert_eq!(next(expression, from, 1), [expected], "{expression}");
        }
    }

    #[test]
    fn what_is_not_posix_is_refused_with_a_sentence() {
        for (expression, words) in [
            ("30 2 * *", "not 4"),
            ("0 30 2 * * 1", "no seconds"),
            ("61 * * * *", "61 is not between 0 and 59"),
            ("5/20 * * * *", "write `5-59/20`"),
            ("0 0 31 2 *", "never occurs"),
            ("CRON_TZ=UTC 0 0 * * *", "use `timezone`"),
            ("0 0 * * fri-mon", "runs backwards"),
            ("@yearly-ish", "is not known"),
            ("0 0 * * */0", "no valid step"),
        ] {
            let error = expression.parse::<Schedule>().expect_err(expression);
            assert!(error.contains(words), "{expression}: {error}");
        }
        assert_eq!("*/45 * * * *".parse::<Schedule>().expect("valid").warnings.len(), 1);
        assert!(timezone("Asia/Shangai").expect_err("unknown").contains("Asia/Shanghai"));
    }
}
