//! Slots in the loop: overlap is judged over the runs as they are, and a slot's run or skip is written in the same batch.
//!
//! Who decides over an old state, or over how things stood before, is told so and decides again. Nothing here computes
//! which slots there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Scheduler, Turn, Update};
use crate::bundle::Bundle;
use crate::concurrency::{Arrival, arrive};
use crate::id::RunId;
use crate::journal::{self, Journal, Row};
use crate::ledger::{Deed, DeedRecord};
use crate::run::{Record, Run, RunState};
use crate::schedule::{Last, ScheduleKey, Skip, Skipped, SlotOutcome, State};
use crate::workflow::PolicyFile;

/// What was decided of a schedule, but for overlap.
pub(crate) struct SlotWork {
    pub(crate) key: ScheduleKey,
    /// The state that it was decided over; none for a schedule that is new.
    pub(crate) rev: Option<u64>,
    /// How things stood: the last deed.
    pub(crate) standing: u64,
    /// The state after it.
    pub(crate) state: State,
    /// What else changes.
    pub(crate) rows: Vec<Row>,
    /// Skips that are told of: those that begin a range.
    pub(crate) news: Vec<Skipped>,
    /// A deed that belongs to it.
    pub(crate) deed: Option<Deed>,
    /// The slot to start.
    pub(crate) fire: Option<Fire>,
}

/// A slot to start.
pub(crate) struct Fire {
    pub(crate) run: Box<Run>,
    pub(crate) record: Box<Record>,
    pub(crate) bundle: Arc<Bundle>,
    /// The trigger's own policy.
    pub(crate) policy: Option<PolicyFile>,
    /// Up to where the audit log was looked through for a run of the same slot.
    pub(crate) seen: u64,
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum SlotAnswer {
    /// It is on disk.
    Done,
    /// Something had changed: decide again.
    Stale,
    /// The slot is late already, and a run is in its way: late ones wait, and go one by one.
    Waits,
    /// It could not be written.
    Broken(journal::Error),
}

/// What is told of a slot that has no run.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotNews {
    /// The schedule.
    pub key: ScheduleKey,
    /// The first slots that were skipped so. Those that follow for the same reason are not told one by one.
    pub skipped: Skipped,
}

/// The states of all schedules, as they are on disk.
pub(super) fn states(journal: &dyn Journal) -> Result<BTreeMap<ScheduleKey, State>, journal::Error> {
    let mut states = BTreeMap::new();
    for (name, value) in journal.rows(ScheduleKey::ROWS) {
        let key = name.strip_prefix(ScheduleKey::ROWS).and_then(ScheduleKey::parse);
        let key =
            key.ok_or_else(|| journal::Error::Damaged(format!("the row `{name}` names no schedule")))?;
        let state = State::read(&value)
            .map_err(|why| journal::Error::Damaged(format!("the row `{name}` is unreadable: {why}")))?;
        states.insert(key, state);
    }
    Ok(states)
}

impl Scheduler {
    pub(super) fn slots(&mut self, mut work: SlotWork, answer: oneshot::Sender<SlotAnswer>, turn: &mut Turn) {
        let known = self.schedules.get(&work.key).map(|state| state.rev);
        if known != work.rev || self.standing.seq != work.standing || self.stopping {
            // Whoever asked may be gone.
            let _ = answer.send(SlotAnswer::Stale);
            return;
        }
        let mut placed = None;
        if let Some(fire) = work.fire.take() {
            match self.judge(fire, &mut work) {
                Ok(judged) => placed = judged,
                Err(other) => {
                    let _ = answer.send(other);
                    return;
                }
            }
        }
        let now = self.parts.clock.now();
        if let Some(deed) = work.deed {
            let record = DeedRecord { seq: crate::id::Seq(self.standing.seq + 1), at: now, deed };
            match self.standing.apply(&record) {
                Ok(()) => turn.deeds.push(record),
                Err(error) => tracing::error!(%error, "a deed that does not fit was left out"),
            }
        }
        work.state.rev = work.rev.map_or(1, |rev| rev + 1);
        turn.rows.append(&mut work.rows);
        turn.touched.insert(work.key.clone());
        turn.news.extend(work.news.into_iter().map(|skipped| SlotNews { key: work.key.clone(), skipped }));
        self.schedules.insert(work.key, work.state);
        // After the state: what makes way may be a slot of the same schedule.
        if let Some((fire, arrival)) = placed {
            self.place(*fire.run, *fire.record, fire.bundle, arrival, turn);
        }
        turn.answers.push(Box::new(move |written| {
            let answered = match written {
                Ok(()) => SlotAnswer::Done,
                Err(error) => SlotAnswer::Broken(error.clone()),
            };
            let _ = answer.send(answered);
        }));
    }

    /// Says whether a slot's run takes its place, or is skipped, as the policy says over the runs that are active now.
    fn judge(&self, fire: Fire, work: &mut SlotWork) -> Result<Option<(Fire, Arrival)>, SlotAnswer> {
        let Some(slot) = fire.run.submitted.trigger.slot() else { return Ok(None) };
        match self.parts.journal.unique(&work.key.slot(slot.nominal), fire.seen) {
            Ok(None) => {}
            // It has its run: a clock that was wrong had decided it before.
            Ok(Some(_)) => return Ok(None),
            Err(error) => return Err(SlotAnswer::Broken(error)),
        }
        let is_ours = |other: &Run| {
            other.submitted.trigger.slot().is_some_and(|theirs| {
                theirs.catchup && theirs.key(&other.graph.name) == work.key && !other.state.is_final()
            })
        };
        if slot.catchup && self.runs.values().any(is_ours) {
            return Err(SlotAnswer::Waits);
        }
        let mut changes = Vec::new();
        let arrival = arrive(&self.runs, &fire.run, fire.policy, PolicyFile::Reject);
        let placed = match &arrival {
            // It is late already: it starts when the others have ended, as long as its window allows.
            Arrival::Refused(_) if slot.catchup => return Err(SlotAnswer::Waits),
            Arrival::Refused(blocker) => {
                let why = format!("run {} is active and holds {}", blocker.run, blocker.holds);
                let skipped = Skipped::one(slot.nominal, Skip::Overlap, Some(why));
                if work.state.skip(&work.key, skipped.clone(), &mut changes) {
                    work.news.push(skipped);
                }
                None
            }
            Arrival::Enter { .. } => {
                work.state.close(&work.key, &mut changes);
                let outcome = if slot.catchup { SlotOutcome::CaughtUp } else { SlotOutcome::Fired };
                let (nominal, run) = (slot.nominal, Some(fire.run.id));
                work.state.last = Some(Last { nominal, outcome: outcome.word().into(), run });
                Some((fire, arrival))
            }
        };
        work.rows.extend(changes.into_iter().map(|(key, value)| Row { key, value }));
        Ok(placed)
    }

    /// Counts the slot of a run when its outcome is certain: it starts, or it is to end before it did.
    pub(super) fn count_slot(&mut self, run: RunId, gave_way: Option<Skip>, turn: &mut Turn) {
        let Some(run) = self.runs.get(&run) else { return };
        let Some(slot) = run.submitted.trigger.slot() else { return };
        let key = slot.key(&run.graph.name);
        let outcome = match gave_way {
            Some(skip) => SlotOutcome::Skipped(skip),
            None if slot.catchup => SlotOutcome::CaughtUp,
            None => SlotOutcome::Fired,
        };
        if let Some(skip) = gave_way {
            let why = Some(format!("run {}", run.id));
            turn.news.push(SlotNews { key: key.clone(), skipped: Skipped::one(slot.nominal, skip, why) });
        }
        let (nominal, id) = (slot.nominal, run.id);
        let Some(state) = self.schedules.get_mut(&key) else { return };
        state.count(outcome, 1);
        state.rev += 1;
        if let Some(last) = state.last.as_mut().filter(|last| last.nominal == nominal && last.run == Some(id))
        {
            last.outcome = outcome.word().into();
        }
        turn.touched.insert(key);
    }

    /// Whether a run's slot still has no outcome.
    pub(super) fn slot_is_open(&self, run: RunId) -> bool {
        let open =
            |run: &Run| run.submitted.trigger.slot().is_some() && matches!(run.state, RunState::Queued);
        self.runs.get(&run).is_some_and(open)
    }

    /// The rows of the schedules that a turn has touched.
    pub(super) fn touched_rows(&self, turn: &mut Turn) {
        for key in std::mem::take(&mut turn.touched) {
            if let Some(state) = self.schedules.get(&key) {
                turn.rows.push(Row { key: key.row(), value: Some(state.write()) });
            }
        }
    }

    pub(super) fn tell_slots(&self, news: Vec<SlotNews>) {
        for news in news {
            let Skipped { from, count, skip, why, .. } = &news.skipped;
            let (schedule, why) = (news.key.to_string(), why.as_deref().unwrap_or(""));
            let outcome = SlotOutcome::Skipped(*skip).word();
            if *skip == Skip::Paused {
                tracing::info!(schedule, slot = %from, count, outcome, "slots skipped");
            } else {
                tracing::warn!(schedule, slot = %from, count, outcome, why, "slots skipped");
            }
            // Nobody may be watching.
            let _ = self.shared.updates.send(Update::Slot(Arc::new(news)));
        }
    }
}
