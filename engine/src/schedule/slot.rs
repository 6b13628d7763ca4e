//! What becomes of every slot of a schedule: decided from plain data, and what is kept of it.
//!
//! ```text
//! (decided up to, now] -> decide -> skips (missed, paused) | late ones to catch up | one to fire -> the scheduler's loop
//! ```
//! Overlap is not judged here, since only the loop knows all runs; nor are freezes, which belong to environments. What
//! is kept: a `State` for each schedule, and ranges of equal skips. A slot that has a run is kept as that run alone.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Schedule;
use crate::clock::Timestamp;
use crate::id::{RunId, WorkflowUid};

/// How many slots one decision goes over; the rest follows in the next.
const AT_ONCE: u64 = 20_000;
/// How many ranges of skips are told one by one; of older ones, only numbers are kept.
const RANGES: u32 = 1_000;

/// A schedule of a workflow: what its slots are kept under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScheduleKey {
    /// The workflow.
    pub workflow: WorkflowUid,
    /// The trigger's name.
    pub schedule: String,
}

impl fmt::Display for ScheduleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.workflow, self.schedule)
    }
}

impl ScheduleKey {
    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<ScheduleKey> {
        let (workflow, schedule) = text.rsplit_once('/')?;
        Some(ScheduleKey { workflow: workflow.parse().ok()?, schedule: schedule.to_owned() })
    }

    /// The name of the row that holds its state.
    pub fn row(&self) -> String {
        format!("{}{self}", ScheduleKey::ROWS)
    }

    /// The beginning of the names of all these rows.
    pub const ROWS: &str = "schedule/";

    /// The beginning of the names of the rows that hold its skips.
    pub fn skips(&self) -> String {
        format!("skip/{self}/")
    }

    /// The name of the row of skips from this slot on; names are in the order of time.
    pub fn skip_row(&self, from: Timestamp) -> String {
        format!("{}{:012}", self.skips(), from.millis() / 1_000)
    }

    /// What one run alone may have: that it is the run of this slot.
    pub fn slot(&self, nominal: Timestamp) -> String {
        format!("slot:{self}@{}", nominal.millis() / 1_000)
    }
}

/// What a schedule says, resolved.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Whose it is.
    pub key: ScheduleKey,
    /// The expression as written.
    pub cron: String,
    /// The expression.
    pub schedule: Schedule,
    /// Its zone.
    pub zone: Tz,
    /// What happens to slots that were missed.
    pub missed: Missed,
    /// How late a slot still counts as on time.
    pub start_deadline: Duration,
    /// How old a slot that is caught up may be.
    pub catchup_window: Duration,
    /// How many are caught up at most.
    pub max_catchup: usize,
    /// How far starts are spread.
    pub jitter: Duration,
    /// Whether the last slot of a freeze starts when it ends.
    pub defer: bool,
}

/// What happens to slots that were missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// They are recorded and left out.
    Skip,
    /// The last one is made up for.
    Latest,
    /// Each is made up for.
    All,
}

impl Rule {
    /// What the slots follow from; where it changes, they are other slots.
    pub fn hash(&self) -> String {
        let text = format!("{}\n{}", self.cron, self.zone.name());
        crate::id::hex(&Sha256::digest(text.as_bytes())[..8])
    }

    /// When the run of a slot is to start; `next` is the slot after it. The same after every restart.
    pub fn due(&self, nominal: Timestamp, next: Option<Timestamp>) -> Timestamp {
        let gap = next.map_or(self.jitter, |next| next.since(nominal));
        let spread = u64::try_from(self.jitter.min(gap).as_millis()).unwrap_or(u64::MAX);
        if spread == 0 {
            return nominal;
        }
        let text = format!("{}@{}", self.key.workflow, nominal.millis() / 1_000);
        let hash = Sha256::digest(text.as_bytes());
        let number = hash[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        nominal.plus(Duration::from_millis(number % spread))
    }

    /// The due times of a slot that was not decided yet, and the slot: the first after this one.
    pub fn first_after(&self, decided: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let mut slots = self.schedule.slots(self.zone, decided);
        let nominal = slots.next()?;
        let next = if self.jitter.is_zero() { None } else { slots.next() };
        Some((nominal, self.due(nominal, next)))
    }
}

/// Why a slot has no run that started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Skip {
    /// Another run was in the way, and the policy refuses.
    Overlap,
    /// The workflow was paused.
    Paused,
    /// Nobody decided it in time.
    Missed,
    /// An environment of its run was frozen.
    Freeze,
    /// Its run waited, and a newer one replaced it.
    Replaced,
    /// Its run waited, and a newer one took its place.
    Superseded,
    /// No run could be made of it.
    Refused,
}

/// What became of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotOutcome {
    /// Its run started.
    Fired,
    /// Its run started late, as `missed` or `defer` says.
    CaughtUp,
    /// It has none that started.
    Skipped(Skip),
}

impl SlotOutcome {
    /// All of them.
    pub const ALL: [SlotOutcome; 9] = [
        SlotOutcome::Fired,
        SlotOutcome::CaughtUp,
        SlotOutcome::Skipped(Skip::Overlap),
        SlotOutcome::Skipped(Skip::Paused),
        SlotOutcome::Skipped(Skip::Missed),
        SlotOutcome::Skipped(Skip::Freeze),
        SlotOutcome::Skipped(Skip::Replaced),
        SlotOutcome::Skipped(Skip::Superseded),
        SlotOutcome::Skipped(Skip::Refused),
    ];

    /// As it is shown and counted.
    pub fn word(self) -> &'static str {
        match self {
            SlotOutcome::Fired => "fired",
            SlotOutcome::CaughtUp => "caught_up",
            SlotOutcome::Skipped(Skip::Overlap) => "skipped(overlap)",
            SlotOutcome::Skipped(Skip::Paused) => "skipped(paused)",
            SlotOutcome::Skipped(Skip::Missed) => "skipped(missed)",
            SlotOutcome::Skipped(Skip::Freeze) => "skipped(freeze)",
            SlotOutcome::Skipped(Skip::Replaced) => "skipped(replaced)",
            SlotOutcome::Skipped(Skip::Superseded) => "skipped(superseded)",
            SlotOutcome::Skipped(Skip::Refused) => "skipped(refused)",
        }
    }
}

/// Slots that follow on each other and were skipped for the same reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    /// The first.
    pub from: Timestamp,
    /// The last.
    pub to: Timestamp,
    /// How many.
    pub count: u64,
    /// Why.
    pub skip: Skip,
    /// Why, in words: which run was in the way, which environment is frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Skipped {
    /// One slot.
    pub fn one(at: Timestamp, skip: Skip, why: Option<String>) -> Skipped {
        Skipped { from: at, to: at, count: 1, skip, why }
    }

    fn continues(&self, next: &Skipped) -> bool {
        self.skip == next.skip && self.why == next.why && self.to < next.from
    }
}

/// A slot that starts later than it was due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pending {
    /// The slot.
    pub nominal: Timestamp,
    /// Why it did not start: `missed` or `freeze`.
    pub why: Skip,
}

/// The last slot that was decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Last {
    /// The slot.
    pub nominal: Timestamp,
    /// What became of it, in one word.
    pub outcome: String,
    /// Its run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
}

/// What is kept of a schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The version of this form.
    pub version: u8,
    /// Counts changes, so that nobody decides over an old one.
    pub rev: u64,
    /// Of expression and zone.
    pub hash: String,
    /// The expression.
    pub cron: String,
    /// The zone.
    pub timezone: String,
    /// Since when its slots are decided: none before is its.
    pub since: Timestamp,
    /// Every slot up to here is decided, but for those that are pending.
    pub decided: Timestamp,
    /// Up to here, slots that are not decided may have a run: a clock that was in the future had started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<Timestamp>,
    /// Slots that start later than they were due, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<Pending>,
    /// The skips that the next one may continue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<Skipped>,
    /// How many ranges of skips lie in rows of their own.
    #[serde(default)]
    pub ranges: u32,
    /// How many slots had which outcome, ever.
    #[serde(default)]
    pub counts: BTreeMap<String, u64>,
    /// The last slot that was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Last>,
    /// Since when nobody knows the schedule any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<Timestamp>,
    /// The version of the time zones that the last decision went by.
    pub tzdata: String,
}

/// A change to what is kept beside the state: a row's name, and what it says now.
pub type Change = (String, Option<Vec<u8>>);

impl State {
    /// The version of this form.
    pub const VERSION: u8 = 1;

    /// A schedule that is new at this moment: it never fires for the past.
    pub fn new(rule: &Rule, now: Timestamp) -> State {
        State {
            version: State::VERSION,
            rev: 0,
            hash: rule.hash(),
            cron: rule.cron.clone(),
            timezone: rule.zone.name().to_owned(),
            since: now,
            decided: now,
            ahead: None,
            pending: Vec::new(),
            open: None,
            ranges: 0,
            counts: BTreeMap::new(),
            last: None,
            gone: None,
            tzdata: super::TZDATA.to_owned(),
        }
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// A form that this version does not know, as a sentence.
    pub fn read(bytes: &[u8]) -> Result<State, String> {
        let state: State = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if state.version != State::VERSION {
            return Err(format!("it has format {}, which this version does not know", state.version));
        }
        Ok(state)
    }

    /// The stored form.
    pub fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Counts one outcome.
    pub fn count(&mut self, outcome: SlotOutcome, by: u64) {
        *self.counts.entry(outcome.word().to_owned()).or_default() += by;
    }

    /// Takes a count back: slots that a wrong clock had decided are decided again.
    pub fn uncount(&mut self, skip: Skip, by: u64) {
        let count = self.counts.entry(SlotOutcome::Skipped(skip).word().to_owned()).or_default();
        *count = count.saturating_sub(by);
    }

    /// Keeps a range of skips: it continues the last one, or begins a new one. Gives whether it begins one.
    pub fn skip(&mut self, key: &ScheduleKey, range: Skipped, rows: &mut Vec<Change>) -> bool {
        let outcome = SlotOutcome::Skipped(range.skip);
        self.count(outcome, range.count);
        self.last = Some(Last { nominal: range.to, outcome: outcome.word().into(), run: None });
        if let Some(open) = self.open.as_mut().filter(|open| open.continues(&range)) {
            open.to = range.to;
            open.count += range.count;
            return false;
        }
        self.close(key, rows);
        self.open = Some(range);
        true
    }

    /// What comes next continues no range.
    pub fn close(&mut self, key: &ScheduleKey, rows: &mut Vec<Change>) {
        if let Some(open) = self.open.take() {
            let value = serde_json::to_vec(&open).unwrap_or_default();
            let name = key.skip_row(open.from);
            // A slot that a wrong clock had decided may have one already.
            rows.push((name, Some(value)));
            self.ranges += 1;
        }
    }

    /// Where there are too many ranges, removes the older half; `ranges` are the names of all, oldest first.
    pub fn trim(&mut self, ranges: &[String], rows: &mut Vec<Change>) {
        if self.ranges <= RANGES {
            return;
        }
        let half = ranges.len() / 2;
        rows.extend(ranges[..half].iter().map(|name| (name.clone(), None)));
        self.ranges = u32::try_from(ranges.len() - half).unwrap_or(u32::MAX);
    }

    /// Whether there may be more ranges than are kept.
    pub fn is_full(&self) -> bool {
        self.ranges > RANGES
    }
}

/// What is known of the pauses of a workflow.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pausing {
    /// Since when it is paused.
    pub since: Option<Timestamp>,
    /// The last pause that is over.
    pub last: Option<(Timestamp, Timestamp)>,
}

/// What follows for a schedule at a moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Verdict {
    /// Slots without a run, in order.
    pub skips: Vec<Skipped>,
    /// Slots to start late, oldest first.
    pub late: Vec<Timestamp>,
    /// The slot to start now, after all these.
    pub fire: Option<Timestamp>,
    /// Whether the last slot has its run already: nothing continues over it.
    pub had_run: bool,
    /// Up to which slot this decides; none where nothing is due.
    pub decided: Option<Timestamp>,
    /// When there is more to decide; none where the schedule has no more slots.
    pub next: Option<Timestamp>,
}

/// Decides the slots after `decided`, up to the first that is to start, or up to one that `has_run`: a run that a wrong
/// clock had started stays its run.
pub fn decide(
    rule: &Rule,
    decided: Timestamp,
    now: Timestamp,
    pausing: Pausing,
    has_run: impl Fn(Timestamp) -> bool,
) -> Verdict {
    let mut verdict = Verdict::default();
    let mut late: VecDeque<Timestamp> = VecDeque::new();
    let keep = match rule.missed {
        Missed::Skip => 0,
        Missed::Latest => 1,
        Missed::All => rule.max_catchup,
    };
    let mut slots = rule.schedule.slots(rule.zone, decided).peekable();
    let mut seen = 0;
    while let Some(nominal) = slots.next() {
        if nominal > now {
            let next = if rule.jitter.is_zero() { None } else { slots.peek().copied() };
            verdict.next = Some(rule.due(nominal, next));
            break;
        }
        let due = if rule.jitter.is_zero() { nominal } else { rule.due(nominal, slots.peek().copied()) };
        if due > now {
            verdict.next = Some(due);
            break;
        }
        seen += 1;
        if seen > AT_ONCE {
            verdict.next = Some(now);
            break;
        }
        verdict.decided = Some(nominal);
        if has_run(nominal) {
            verdict.had_run = true;
            verdict.next = Some(now);
            break;
        }
        let over = pausing.last.filter(|(_, until)| nominal <= *until);
        if pausing.since.is_some() || over.is_some_and(|(from, _)| from <= nominal) {
            skip(&mut verdict.skips, nominal, Skip::Paused);
        } else if over.is_some() {
            // It was due before a pause that is over: nothing fires for what is past.
            skip(&mut verdict.skips, nominal, Skip::Missed);
        } else if now.since(due) <= rule.start_deadline {
            verdict.fire = Some(nominal);
            // There may be more at once; whoever carries this out asks again.
            verdict.next = Some(now);
            break;
        } else if keep > 0 && now.since(nominal) <= rule.catchup_window {
            late.push_back(nominal);
            if late.len() > keep
                && let Some(oldest) = late.pop_front()
            {
                skip(&mut verdict.skips, oldest, Skip::Missed);
            }
        } else {
            skip(&mut verdict.skips, nominal, Skip::Missed);
        }
    }
    verdict.late = late.into();
    verdict
}

fn skip(skips: &mut Vec<Skipped>, at: Timestamp, skip: Skip) {
    match skips.last_mut() {
        Some(last) if last.skip == skip => {
            last.to = at;
            last.count += 1;
        }
        _ => skips.push(Skipped::one(at, skip, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(86_400);

    fn rule(cron: &str) -> Rule {
        Rule {
            key: ScheduleKey::parse("team/release/nightly").expect("a schedule"),
            cron: cron.into(),
            schedule: cron.parse().expect(cron),
            zone: Tz::UTC,
            missed: Missed::Skip,
            start_deadline: 5 * MINUTE,
            catchup_window: DAY,
            max_catchup: 10,
            jitter: Duration::ZERO,
            defer: false,
        }
    }

    fn at(text: &str) -> Timestamp {
        format!("2026-05-{text}Z").parse().expect(text)
    }

    /// A verdict in one line: `skips | late | fire | decided`.
    fn told(verdict: &Verdict) -> String {
        let short = |at: Timestamp| at.to_string()[8..16].to_owned();
        let skips = verdict.skips.iter().map(|range| {
            let word = SlotOutcome::Skipped(range.skip).word();
            format!("{}..{} {} {word}", short(range.from), short(range.to), range.count)
        });
        let late = verdict.late.iter().map(|late| short(*late)).collect::<Vec<_>>();
        let some = |at: Option<Timestamp>| at.map_or("-".to_owned(), short);
        let skips = skips.collect::<Vec<_>>().join("; ");
        format!("{skips} | {} | {} | {}", late.join(" "), some(verdict.fire), some(verdict.decided))
    }

    #[test]
    fn what_follows_for_slots_is_a_table() {
        let hourly = "0 * * * *";
        let table: [(&str, Missed, &str, &str, &str); 12] = [
            ("nothing is due", Missed::Skip, "10T10:00:00", "10T10:59:59", " |  | - | -"),
            ("on the second", Missed::Skip, "10T10:00:00", "10T11:00:00", " |  | 10T11:00 | 10T11:00"),
            ("late, and on time", Missed::Skip, "10T10:00:00", "10T11:05:00", " |  | 10T11:00 | 10T11:00"),
            (
                "a moment later it is missed",
                Missed::Skip,
                "10T10:00:00",
                "10T11:05:01",
                "10T11:00..10T11:00 1 skipped(missed) |  | - | 10T11:00",
            ),
            (
                "three days of downtime",
                Missed::Skip,
                "10T10:00:00",
                "13T10:30:00",
                "10T11:00..13T10:00 72 skipped(missed) |  | - | 13T10:00",
            ),
            (
                "the same, and the last is made up for",
                Missed::Latest,
                "10T10:00:00",
                "13T10:30:00",
                "10T11:00..13T09:00 71 skipped(missed) | 13T10:00 | - | 13T10:00",
            ),
            (
                "the same, and the last three are",
                Missed::All,
                "10T10:00:00",
                "13T10:30:00",
                "10T11:00..13T07:00 69 skipped(missed) | 13T08:00 13T09:00 13T10:00 | - | 13T10:00",
            ),
            (
                "the same, and one is on time",
                Missed::All,
                "10T10:00:00",
                "13T10:04:00",
                "10T11:00..13T06:00 68 skipped(missed) | 13T07:00 13T08:00 13T09:00 | 13T10:00 | 13T10:00",
            ),
            (
                "what is older than the window is not made up for",
                Missed::Latest,
                "10T10:00:00",
                "10T11:30:00",
                " | 10T11:00 | - | 10T11:00",
            ),
            ("a clock that went back", Missed::All, "10T10:00:00", "10T09:58:00", " |  | - | -"),
            ("a clock that went back far", Missed::All, "10T10:00:00", "10T01:00:00", " |  | - | -"),
            (
                "one at a time",
                Missed::Skip,
                "10T10:59:00",
                "10T12:00:00",
                "10T11:00..10T11:00 1 skipped(missed) |  | 10T12:00 | 10T12:00",
            ),
        ];
        for (what, missed, decided, now, expected) in table {
            let rule = Rule { missed, max_catchup: 3, ..rule(hourly) };
            let verdict = decide(&rule, at(decided), at(now), Pausing::default(), |_| false);
            assert_eq!(told(&verdict), expected, "{what}");
        }
        let short = Rule { missed: Missed::All, catchup_window: 90 * MINUTE, ..rule(hourly) };
        let verdict = decide(&short, at("10T00:00:00"), at("10T10:20:00"), Pausing::default(), |_| false);
        assert_eq!(told(&verdict), "10T01:00..10T08:00 8 skipped(missed) | 10T09:00 10T10:00 | - | 10T10:00");
    }

    #[test]
    fn pauses_cover_what_was_due_in_them_and_nothing_fires_for_the_time_before() {
        let rule = Rule { missed: Missed::All, ..rule("0 * * * *") };
        let paused = Pausing { since: Some(at("10T10:30:00")), last: None };
        let verdict = decide(&rule, at("10T10:00:00"), at("10T13:01:00"), paused, |_| false);
        assert_eq!(told(&verdict), "10T11:00..10T13:00 3 skipped(paused) |  | - | 10T13:00");
        let over = Pausing { since: None, last: Some((at("10T11:30:00"), at("10T13:00:00"))) };
        let verdict = decide(&rule, at("10T10:00:00"), at("10T14:01:00"), over, |_| false);
        assert_eq!(
            told(&verdict),
            "10T11:00..10T11:00 1 skipped(missed); 10T12:00..10T13:00 2 skipped(paused) |  | 10T14:00 | 10T14:00"
        );
    }

    #[test]
    fn a_year_of_every_minute_is_one_range() {
        let rule = rule("* * * * *");
        let (mut decided, end) = (at("10T00:00:00"), at("10T00:00:00").plus(DAY * 365));
        let paused = Pausing { since: Some(decided), last: None };
        let mut state = State::new(&rule, decided);
        let mut rows = Vec::new();
        while decided < end {
            let verdict = decide(&rule, decided, end, paused, |_| false);
            for range in verdict.skips {
                state.skip(&rule.key, range, &mut rows);
            }
            decided = verdict.decided.expect("more is due");
        }
        assert_eq!(rows, []);
        let open = state.open.expect("a range");
        assert_eq!((open.count, open.to), (365 * 1_440, end));
        assert_eq!(state.counts["skipped(paused)"], 365 * 1_440);
    }

    #[test]
    fn jitter_delays_starts_and_nothing_else() {
        let plain = rule("*/10 * * * *");
        let rule = Rule { jitter: 4 * MINUTE, ..plain.clone() };
        let start = at("10T00:00:00");
        let slots: Vec<Timestamp> = rule.schedule.slots(rule.zone, start).take(200).collect();
        let due: Vec<Timestamp> = slots.windows(2).map(|pair| rule.due(pair[0], Some(pair[1]))).collect();
        let delays: std::collections::BTreeSet<u64> =
            slots.iter().zip(&due).map(|(slot, due)| due.since(*slot).as_secs() / 30).collect();
        assert_eq!(delays.len(), 8, "all of four minutes are used, by the half minute: {delays:?}");
        assert!(slots.iter().zip(&due).all(|(slot, due)| due >= slot && due.since(*slot) < 4 * MINUTE));
        let again: Vec<Timestamp> =
            slots.windows(2).map(|pair| rule.clone().due(pair[0], Some(pair[1]))).collect();
        assert_eq!(again, due, "the same after a restart");
        // It is decided when it is due, and the deadline counts from there.
        let (slot, when) = (slots[0], due[0]);
        let before = Timestamp::from_millis(when.millis() - 1);
        let verdict = decide(&rule, start, before, Pausing::default(), |_| false);
        assert_eq!((verdict.fire, verdict.next), (None, Some(when)));
        assert_eq!(decide(&rule, start, when, Pausing::default(), |_| false).fire, Some(slot));
        let wide = Rule { jitter: Duration::from_secs(90 * 60), ..plain };
        let order = slots.windows(2).all(|pair| wide.due(pair[0], Some(pair[1])) < pair[1]);
        assert!(order, "a slot starts before the next is due, however wide the jitter");
    }

    #[test]
    fn the_stored_form_stays_readable() {
        let stored = r#"{"version":1,"rev":7,"hash":"0011223344556677","cron":"0 * * * *","timezone":"UTC","since":1000,"decided":2000,"pending":[{"nominal":1500,"why":"missed"}],"open":{"from":1000,"to":1500,"count":2,"skip":"overlap","why":"run x"},"ranges":3,"counts":{"fired":4},"last":{"nominal":1500,"outcome":"fired"},"tzdata":"2025b"}"#;
        let state = State::read(stored.as_bytes()).expect("readable");
        assert_eq!(String::from_utf8(state.write()).expect("text"), stored);
        assert!(State::read(stored.replacen("\"version\":1", "\"version\":9", 1).as_bytes()).is_err());
        let key = ScheduleKey::parse("team/release/nightly").expect("a schedule");
        assert_eq!(ScheduleKey::parse(&key.to_string()), Some(key.clone()));
        assert_eq!(key.slot(Timestamp::from_millis(60_000)), "slot:team/release/nightly@60");
    }
}
