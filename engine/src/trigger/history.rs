//! What became of slots, and how schedules stand: read off runs, states and ranges of skips, and kept nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Catalogue;
use super::driver::rule;
use crate::clock::{Timestamp, rfc3339};
use crate::id::RunId;
use crate::journal::{Error, Journal, Query};
use crate::run::{Event, RunSummary};
use crate::schedule::{Last, Pending, Rule, Schedule, ScheduleKey, Skip, Skipped, SlotOutcome, State};

/// How many runs are read at a time.
const PAGE: usize = 200;

/// How a schedule stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduleLine {
    /// Source, workflow and trigger, with `/` between them.
    pub schedule: String,
    /// The expression.
    pub cron: String,
    /// The zone.
    pub timezone: String,
    /// The next slot that is not decided; none for a schedule that is gone.
    #[serde(default, with = "rfc3339::option")]
    #[schemars(with = "Option<String>")]
    pub next: Option<Timestamp>,
    /// Every slot up to here is decided, but for those that are pending.
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub decided: Timestamp,
    /// The last slot that was decided.
    pub last: Option<LastSlot>,
    /// Slots that start later than they were due.
    pub pending: Vec<PendingSlot>,
    /// How many slots had which outcome.
    pub counts: BTreeMap<String, u64>,
    /// Since when nobody knows it any more.
    #[serde(default, with = "rfc3339::option")]
    #[schemars(with = "Option<String>")]
    pub gone: Option<Timestamp>,
}

/// The last slot that was decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LastSlot {
    /// The slot.
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub nominal: Timestamp,
    /// What became of it, in one word.
    pub outcome: String,
    /// Its run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
}

/// A slot that starts later than it was due.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PendingSlot {
    /// The slot.
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub nominal: Timestamp,
    /// What it waits for, in words.
    pub why: String,
}

/// What became of a slot, or of several that follow on each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SlotLine {
    /// Source, workflow and trigger.
    pub schedule: String,
    /// The slot; the first of several.
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub from: Timestamp,
    /// The last of several.
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub to: Timestamp,
    /// How many.
    pub count: u64,
    /// What became of it: an outcome, `queued` while its run waits, or `pending` while it is to start late.
    pub outcome: String,
    /// Its run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Which slots.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SlotQuery {
    /// Of schedules whose name is this, or the workflow, or source and workflow.
    pub schedule: Option<String>,
    /// Only of these workflows; of all where none is named.
    pub workflows: BTreeSet<String>,
    /// With this outcome.
    pub outcome: Option<String>,
    /// Not older than this.
    pub since: Option<Timestamp>,
    /// How many lines at most.
    pub limit: usize,
}

/// Schedules in numbers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Figures {
    /// How many schedules there are; those that are gone are not counted.
    pub schedules: usize,
    /// How many slots had which outcome, over all schedules.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// The oldest slot that is due, and waits for its decision or for its late start.
    pub oldest_undecided: Option<Undecided>,
}

/// A slot that is due, and has neither a run nor a reason why it has none.
#[derive(Debug, Clone, PartialEq)]
pub struct Undecided {
    /// Source, workflow and trigger.
    pub schedule: String,
    /// The slot.
    pub slot: Timestamp,
    /// Since when it is due: with `jitter`, a little later than the slot.
    pub due: Timestamp,
    /// What it waits for, in words; none where nobody has decided it.
    pub why: Option<String>,
}

fn pending(pending: &Pending) -> PendingSlot {
    PendingSlot { nominal: pending.nominal, why: late(pending).to_owned() }
}

/// What a slot waits for that starts later than it was due.
fn late(pending: &Pending) -> &'static str {
    match pending.why {
        Skip::Freeze => "it starts when the freeze ends",
        _ => "it was missed, and starts when those before it have ended",
    }
}

fn states(journal: &dyn Journal) -> Result<Vec<(ScheduleKey, State)>, Error> {
    let rows = journal.rows(ScheduleKey::ROWS).into_iter();
    let read = rows.map(|(name, value)| {
        let key = name.strip_prefix(ScheduleKey::ROWS).and_then(ScheduleKey::parse);
        let wrong = |why: String| Error::Damaged(format!("the row `{name}` is unreadable: {why}"));
        let key = key.ok_or_else(|| wrong("it names no schedule".into()))?;
        State::read(&value).map(|state| (key, state)).map_err(wrong)
    });
    read.collect()
}

/// How all schedules stand, also those that are gone.
///
/// # Errors
/// A journal that cannot be read.
pub fn schedules(journal: &dyn Journal) -> Result<Vec<ScheduleLine>, Error> {
    let line = |(key, state): (ScheduleKey, State)| ScheduleLine {
        schedule: key.to_string(),
        next: next_of(&state).filter(|_| state.gone.is_none()),
        cron: state.cron,
        timezone: state.timezone,
        decided: state.decided,
        last: state.last.map(|Last { nominal, outcome, run }| LastSlot { nominal, outcome, run }),
        pending: state.pending.iter().map(pending).collect(),
        counts: state.counts,
        gone: state.gone,
    };
    Ok(states(journal)?.into_iter().map(line).collect())
}

impl SlotQuery {
    /// Whether a schedule is one that is asked for.
    fn asks(&self, key: &ScheduleKey) -> bool {
        let workflow = &key.workflow;
        let mine = self.workflows.is_empty() || self.workflows.contains(workflow.name.as_str());
        mine && self.schedule.as_deref().is_none_or(|asked| {
            asked == key.schedule
                || asked == workflow.name.as_str()
                || asked == workflow.to_string()
                || asked == key.to_string()
                || asked == format!("{}/{}", workflow.name, key.schedule)
        })
    }
}

/// What became of slots, newest first.
///
/// # Errors
/// A journal that cannot be read.
pub fn slots(journal: &dyn Journal, query: &SlotQuery) -> Result<Vec<SlotLine>, Error> {
    let mut lines = Vec::new();
    let of_range = |key: &ScheduleKey, range: Skipped| SlotLine {
        schedule: key.to_string(),
        from: range.from,
        to: range.to,
        count: range.count,
        outcome: SlotOutcome::Skipped(range.skip).word().into(),
        run: None,
        why: range.why,
    };
    for (key, state) in states(journal)? {
        if !query.asks(&key) {
            continue;
        }
        lines.extend(state.open.map(|range| of_range(&key, range)));
        lines.extend(state.pending.into_iter().map(|pending| SlotLine {
            schedule: key.to_string(),
            from: pending.nominal,
            to: pending.nominal,
            count: 1,
            outcome: "pending".into(),
            run: None,
            why: Some(late(&pending).into()),
        }));
        for (name, value) in journal.rows(&key.skips()) {
            let range = serde_json::from_slice(&value)
                .map_err(|error| Error::Damaged(format!("the row `{name}` is unreadable: {error}")))?;
            lines.push(of_range(&key, range));
        }
    }
    for trigger in ["schedule", "catchup"] {
        runs(journal, trigger, query, &mut lines)?;
    }
    lines.retain(|line| {
        query.since.is_none_or(|since| line.to >= since)
            && query.outcome.as_ref().is_none_or(|outcome| line.outcome.contains(outcome.as_str()))
    });
    lines.sort_by(|a, b| (b.to, &a.schedule).cmp(&(a.to, &b.schedule)));
    lines.truncate(query.limit);
    Ok(lines)
}

fn runs(
    journal: &dyn Journal,
    trigger: &str,
    query: &SlotQuery,
    lines: &mut Vec<SlotLine>,
) -> Result<(), Error> {
    let mut found = 0;
    let mut list = Query { trigger: Some(trigger.into()), limit: PAGE, ..Query::default() };
    loop {
        let page = journal.list(&list)?;
        for run in &page.runs {
            let Some((key, nominal)) = slot_of(run) else { continue };
            if !query.asks(&key) {
                continue;
            }
            let outcome = outcome_of(journal, run, trigger == "catchup")?;
            if query.outcome.as_ref().is_some_and(|wanted| !outcome.contains(wanted.as_str())) {
                continue;
            }
            found += 1;
            lines.push(SlotLine {
                schedule: key.to_string(),
                from: nominal,
                to: nominal,
                count: 1,
                outcome: outcome.into(),
                run: Some(run.id),
                why: None,
            });
        }
        // Runs come in the order of their submission, which is the order of slots but for late ones.
        if !page.more || found >= query.limit {
            return Ok(());
        }
        list.after = page.runs.last().map(|run| run.id);
    }
}

/// The slot that a run is the run of.
pub(super) fn slot_of(run: &RunSummary) -> Option<(ScheduleKey, Timestamp)> {
    run.unique.iter().find_map(|name| {
        let (key, seconds) = name.strip_prefix("slot:")?.rsplit_once('@')?;
        let seconds: u64 = seconds.parse().ok()?;
        Some((ScheduleKey::parse(key)?, Timestamp::from_millis(seconds.checked_mul(1_000)?)))
    })
}

/// The outcome of a slot that has a run.
fn outcome_of(journal: &dyn Journal, run: &RunSummary, late: bool) -> Result<&'static str, Error> {
    let started = if late { SlotOutcome::CaughtUp } else { SlotOutcome::Fired };
    match run.status.as_str() {
        "queued" => Ok("queued"),
        // It may have been ended before it started, by a newer one.
        "cancelled" | "cancelling" => {
            let records = journal.read(run.id)?;
            if records.iter().any(|record| matches!(record.event, Event::RunAdmitted)) {
                return Ok(started.word());
            }
            let way = records.iter().find_map(|record| match &record.event {
                Event::CancelRequested { actor, reason: Some(reason), .. } if actor == "graylane" => {
                    let replaced = reason.starts_with("replaced");
                    Some(SlotOutcome::Skipped(if replaced { Skip::Replaced } else { Skip::Superseded }))
                }
                _ => None,
            });
            Ok(way.unwrap_or(started).word())
        }
        _ => Ok(started.word()),
    }
}

/// Schedules in numbers, at this moment; only those that are `wanted`. A slot is due as its trigger says, and where the
/// catalogue does not know it (nobody reads sources here, or its file is wrong) as the schedule stood.
///
/// # Errors
/// A journal that cannot be read.
pub fn figures(
    journal: &dyn Journal,
    catalogue: &Catalogue,
    now: Timestamp,
    wanted: impl Fn(&ScheduleKey) -> bool,
) -> Result<Figures, Error> {
    let known = catalogue.workflows.iter().flat_map(|(workflow, known)| {
        let triggers = known.good.iter().flat_map(|good| &good.graph.triggers);
        triggers.filter_map(move |trigger| rule(workflow, trigger))
    });
    let rules: BTreeMap<ScheduleKey, Rule> = known.map(|rule| (rule.key.clone(), rule)).collect();
    let outcomes = SlotOutcome::ALL.map(|outcome| (outcome.word(), 0)).into();
    let mut figures = Figures { schedules: 0, outcomes, oldest_undecided: None };
    for (key, state) in states(journal)? {
        if !wanted(&key) {
            continue;
        }
        for (outcome, count) in &mut figures.outcomes {
            *count += state.counts.get(*outcome).copied().unwrap_or(0);
        }
        if state.gone.is_some() {
            continue;
        }
        figures.schedules += 1;
        let next = match rules.get(&key) {
            Some(rule) => rule.first_after(state.decided),
            None => next_of(&state).map(|slot| (slot, slot)),
        };
        let next = next.filter(|(_, due)| *due <= now).map(|(slot, due)| (slot, due, None));
        let first = state.pending.first();
        let waiting = first.map(|first| (first.nominal, first.nominal, Some(late(first).into())));
        let oldest = [next, waiting].into_iter().flatten().min_by_key(|(slot, ..)| *slot);
        if let Some((slot, due, why)) = oldest
            && figures.oldest_undecided.as_ref().is_none_or(|oldest| slot < oldest.slot)
        {
            figures.oldest_undecided = Some(Undecided { schedule: key.to_string(), slot, due, why });
        }
    }
    Ok(figures)
}

/// The next slot that is not decided, by expression and zone as they stood.
fn next_of(state: &State) -> Option<Timestamp> {
    let schedule = state.cron.parse::<Schedule>().ok()?;
    let zone = state.timezone.parse::<chrono_tz::Tz>().ok()?;
    schedule.slots(zone, state.decided).next()
}
