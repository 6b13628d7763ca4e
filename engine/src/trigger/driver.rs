//! The driver: decides every slot when it is due, and at least every half minute what is left.
//!
//! ```text
//! catalogue, deeds, ends of runs, time --> a round over all schedules --> SlotWork --> the scheduler's loop (one batch a slot)
//! ```
//! The daemon starts one with `Driver::start(engine, catalogue, options)` after the engine, and stops it before the engine
//! with `Driver::stop`. It keeps nothing: a restart goes on from what is on disk. It submits no run by itself; overlap is
//! judged by the loop, in the batch that writes slot and run. Sleeping goes by the monotonic clock, deciding by the wall clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::{Catalogue, Good};
use crate::bundle::Bundle;
use crate::clock::Timestamp;
use crate::graph;
use crate::id::{RunId, WorkflowUid};
use crate::journal::{self, Row};
use crate::ledger::{Deed, Standing};
use crate::run::{Event, Record, Run, Slot, Trigger};
use crate::schedule::{
    Missed, Pausing, Pending, RowChange, Rule, Schedule, ScheduleKey, Skip, Skipped, State, TZDATA, decide,
};
use crate::scheduler::{Engine, Fire, SlotAnswer, SlotWork, Submission, SubmitError, Update, seal};
use crate::workflow::MissedFile;

/// A clock that shows so much less than what is decided had been in the future.
const WRONG_CLOCK: Duration = Duration::from_secs(300);
/// How many decisions one round makes for a schedule; the rest follows at once, after the other schedules.
const AT_ONCE: usize = 64;
/// How long it waits after a write that failed, or a decision that was overtaken too often.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Why an environment may not be written to at a moment, as the operator's files in a bundle say; in words.
pub type Frozen = Arc<dyn Fn(&Bundle, &str, Timestamp) -> Option<String> + Send + Sync>;

/// What the driver is told.
#[derive(Clone)]
pub struct Options {
    /// The freeze windows of environments; freezes by deed are known here.
    pub frozen: Frozen,
    /// How long it sleeps at most.
    pub tick: Duration,
}

impl Default for Options {
    /// No freeze windows, and every half minute.
    fn default() -> Options {
        Options { frozen: Arc::new(|_, _, _| None), tick: Duration::from_secs(30) }
    }
}

/// A driver that is running.
#[derive(Debug)]
pub struct Driver {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Driver {
    /// Decides slots from now on.
    pub fn start(engine: Engine, catalogue: watch::Receiver<Arc<Catalogue>>, options: Options) -> Driver {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(engine, catalogue, options, stop.clone()));
        Driver { stop, task }
    }

    /// Stops; what is due meanwhile is decided by the next one.
    pub async fn stop(self) {
        self.stop.cancel();
        // A panic is told by the runtime.
        let _ = self.task.await;
    }
}

async fn run(
    engine: Engine,
    mut catalogue: watch::Receiver<Arc<Catalogue>>,
    options: Options,
    stop: CancellationToken,
) {
    let mut standing = engine.standing_changes();
    let mut updates = engine.watch();
    let mut published = true;
    loop {
        let known = Arc::clone(&catalogue.borrow_and_update());
        standing.borrow_and_update();
        let round = tokio::select! {
            round = round(&engine, &known, &options) => round,
            () = stop.cancelled() => return,
        };
        let now = engine.parts().clock.now();
        let wake = round.wake.map_or(options.tick, |at| at.since(now).min(options.tick));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wake) => {}
            // Nobody publishes any more: the last catalogue holds.
            changed = catalogue.changed(), if published => published = changed.is_ok(),
            changed = standing.changed() => if changed.is_err() { return },
            () = an_end(&mut updates), if round.waits => {}
        }
    }
}

/// A run has ended, or so much has happened that one may have.
async fn an_end(updates: &mut broadcast::Receiver<Update>) {
    loop {
        match updates.recv().await {
            Ok(Update::Record(record)) if matches!(record.event, Event::RunFinished { .. }) => return,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// What follows on a round.
#[derive(Debug, Default)]
struct Round {
    /// When there is more to decide.
    wake: Option<Timestamp>,
    /// Whether a slot waits for the end of a run.
    waits: bool,
}

impl Round {
    fn at(&mut self, at: Option<Timestamp>) {
        self.wake = [self.wake, at].into_iter().flatten().min();
    }
}

async fn round(engine: &Engine, catalogue: &Arc<Catalogue>, options: &Options) -> Round {
    let mut round = Round::default();
    let mut present = BTreeSet::new();
    for (workflow, known) in &catalogue.workflows {
        let Some(good) = &known.good else { continue };
        for trigger in &good.graph.triggers {
            let Some(rule) = rule(workflow, trigger) else { continue };
            present.insert(rule.key.clone());
            let one = One {
                rule: Arc::new(rule),
                good: good.clone(),
                trigger: trigger.clone(),
                catalogue: Arc::clone(catalogue),
                options: options.clone(),
            };
            advance(engine, one, &mut round).await;
        }
    }
    retire(engine, catalogue, &present, &mut round).await;
    round
}

/// What a trigger says, resolved.
pub(super) fn rule(workflow: &WorkflowUid, trigger: &graph::Trigger) -> Option<Rule> {
    Some(Rule {
        key: ScheduleKey { workflow: workflow.clone(), schedule: trigger.name.clone() },
        cron: trigger.cron.clone(),
        schedule: trigger.cron.parse().ok()?,
        zone: trigger.timezone,
        missed: match trigger.missed {
            MissedFile::Skip => Missed::Skip,
            MissedFile::Latest => Missed::Latest,
            MissedFile::All => Missed::All,
        },
        start_deadline: trigger.start_deadline,
        catchup_window: trigger.catchup_window,
        max_catchup: trigger.max_catchup,
        jitter: trigger.jitter,
        defer: trigger.defer,
    })
}

/// One schedule, with what its runs are made of.
#[derive(Clone)]
struct One {
    rule: Arc<Rule>,
    good: Good,
    trigger: graph::Trigger,
    catalogue: Arc<Catalogue>,
    options: Options,
}

/// What the next decision of a schedule is.
enum Step {
    /// To be written.
    Write(Box<SlotWork>),
    /// Nothing, until then.
    Nothing { next: Option<Timestamp>, pending: bool },
}

/// Decides what is due of one schedule.
async fn advance(engine: &Engine, one: One, round: &mut Round) {
    let mut stale = 0;
    for _ in 0..AT_ONCE {
        let (engine_, one_) = (engine.clone(), one.clone());
        // Whole years may have to be gone over, and bundles written.
        let step = tokio::task::spawn_blocking(move || one_.step(&engine_)).await;
        let failed = match step {
            Ok(Ok(Step::Nothing { next, pending })) => {
                round.at(next);
                round.waits |= pending;
                return;
            }
            Ok(Ok(Step::Write(work))) => match engine.slots(*work).await {
                SlotAnswer::Done => continue,
                SlotAnswer::Stale => {
                    stale += 1;
                    if stale < AT_ONCE / 4 {
                        continue;
                    }
                    "others are always faster".into()
                }
                SlotAnswer::Waits => {
                    round.waits = true;
                    let state = state(engine, &one.rule.key).ok().flatten();
                    round.at(state.and_then(|state| one.rule.first_after(state.decided)).map(|(_, due)| due));
                    return;
                }
                SlotAnswer::Broken(error) => error.to_string(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(schedule = %one.rule.key, error = failed, "slots could not be decided; this is tried again");
        round.at(Some(engine.parts().clock.now().plus(AFTER_FAILURE)));
        return;
    }
    round.at(Some(engine.parts().clock.now()));
}

/// The state of a schedule as it is on disk.
fn state(engine: &Engine, key: &ScheduleKey) -> Result<Option<State>, journal::Error> {
    let name = key.row();
    let rows = engine.parts().journal.rows(&name);
    let row = rows.into_iter().find(|(found, _)| *found == name);
    let read = row.map(|(_, value)| State::read(&value)).transpose();
    read.map_err(|why| journal::Error::Damaged(format!("the row `{name}` is unreadable: {why}")))
}

/// A decision that is being made.
struct Draft {
    key: ScheduleKey,
    rev: Option<u64>,
    standing: u64,
    state: State,
    rows: Vec<RowChange>,
    news: Vec<Skipped>,
    deed: Option<Deed>,
    fire: Option<Fire>,
    changed: bool,
}

impl Draft {
    fn new(key: &ScheduleKey, state: State, is_new: bool, standing: &Standing) -> Draft {
        Draft {
            key: key.clone(),
            rev: (!is_new).then_some(state.rev),
            standing: standing.seq,
            state,
            rows: Vec::new(),
            news: Vec::new(),
            deed: None,
            fire: None,
            changed: is_new,
        }
    }

    fn skip(&mut self, range: Skipped) {
        self.changed = true;
        if self.state.skip(&self.key, range.clone(), &mut self.rows) {
            self.news.push(range);
        }
    }

    /// Nothing that was to start later does.
    fn drop_pending(&mut self, skip: Option<Skip>, why: Option<&str>) {
        for pending in std::mem::take(&mut self.state.pending) {
            self.skip(Skipped::one(pending.nominal, skip.unwrap_or(pending.why), why.map(str::to_owned)));
        }
    }

    /// Slots up to now that nobody decides any more, by expression and zone as they were.
    fn abandon(&mut self, engine: &Engine, now: Timestamp, why: &str) {
        self.drop_pending(None, Some(why));
        let schedule = self.state.cron.parse::<Schedule>();
        let zone = self.state.timezone.parse::<chrono_tz::Tz>();
        if let (Ok(schedule), Ok(zone)) = (schedule, zone) {
            let ahead = self.state.ahead;
            for slot in schedule.slots(zone, self.state.decided).take_while(|slot| *slot <= now) {
                if ahead.is_some_and(|ahead| slot <= ahead) && has_run(engine, &self.key, slot) {
                    self.state.close(&self.key, &mut self.rows);
                } else {
                    self.skip(Skipped::one(slot, Skip::Missed, Some(why.to_owned())));
                }
            }
        }
        self.state.close(&self.key, &mut self.rows);
        self.state.decided = now;
        self.changed = true;
    }

    fn work(mut self) -> Box<SlotWork> {
        self.state.tzdata = TZDATA.to_owned();
        Box::new(SlotWork {
            key: self.key,
            rev: self.rev,
            standing: self.standing,
            state: self.state,
            rows: self.rows.into_iter().map(|(key, value)| Row { key, value }).collect(),
            news: self.news,
            deed: self.deed,
            fire: self.fire,
        })
    }
}

impl One {
    /// Makes the next decision; writes nothing but a bundle.
    fn step(&self, engine: &Engine) -> Result<Step, SubmitError> {
        let parts = engine.parts();
        let standing = engine.standing();
        let now = parts.clock.now();
        let rule = &self.rule;
        let Some(state) = state(engine, &rule.key)? else {
            let state = State::new(rule, now);
            return Ok(Step::Write(Draft::new(&rule.key, state, true, &standing).work()));
        };
        let mut draft = Draft::new(&rule.key, state, false, &standing);
        if draft.state.gone.is_some() || draft.state.hash != rule.hash() {
            if draft.state.gone.take().is_none() {
                draft.abandon(engine, now, "the schedule was changed");
            }
            draft.state.hash = rule.hash();
            draft.state.ahead = None;
            draft.state.cron.clone_from(&rule.cron);
            draft.state.timezone = rule.zone.name().to_owned();
            draft.state.since = now;
            draft.state.decided = now;
            return Ok(Step::Write(draft.work()));
        }
        if draft.state.decided > now.plus(WRONG_CLOCK) {
            return Ok(Step::Write(self.reset(engine, draft, now)));
        }
        if draft.state.is_full() {
            let ranges = parts.journal.rows(&rule.key.skips());
            let names: Vec<String> = ranges.into_iter().map(|(name, _)| name).collect();
            draft.state.trim(&names, &mut draft.rows);
            draft.changed = true;
        }
        let pausing = Pausing {
            since: standing.paused.get(&rule.key.workflow).map(|pause| pause.since),
            last: standing.was_paused.get(&rule.key.workflow).copied(),
        };
        if pausing.since.is_some() && !draft.state.pending.is_empty() {
            draft.drop_pending(Some(Skip::Paused), None);
        }
        let ahead = draft.state.ahead.filter(|ahead| *ahead > draft.state.decided);
        let has_run = |nominal: Timestamp| {
            ahead.is_some_and(|ahead| nominal <= ahead) && has_run(engine, &rule.key, nominal)
        };
        let verdict = decide(rule, draft.state.decided, now, pausing, has_run);
        for range in verdict.skips {
            draft.skip(range);
        }
        if verdict.had_run {
            draft.state.close(&rule.key, &mut draft.rows);
        }
        if !verdict.late.is_empty() {
            // What is skipped after them continues nothing from before them.
            draft.state.close(&rule.key, &mut draft.rows);
            draft.changed = true;
        }
        for nominal in verdict.late {
            draft.state.pending.push(Pending { nominal, why: Skip::Missed });
        }
        self.keep_newest(&mut draft);
        if let Some(decided) = verdict.decided {
            draft.state.decided = decided;
            draft.changed = true;
        }
        if let Some(nominal) = verdict.fire {
            self.fire(engine, &mut draft, nominal, now, false)?;
        }
        if draft.changed {
            return Ok(Step::Write(draft.work()));
        }
        // Late ones start when all that is due on time is decided.
        if let Some(first) = draft.state.pending.first().cloned() {
            self.fire(engine, &mut draft, first.nominal, now, true)?;
            if draft.changed {
                return Ok(Step::Write(draft.work()));
            }
            return Ok(Step::Nothing { next: verdict.next, pending: true });
        }
        Ok(Step::Nothing { next: verdict.next, pending: false })
    }

    /// Of what was missed, no more is made up for than the schedule says: the newest.
    fn keep_newest(&self, draft: &mut Draft) {
        let keep = match self.rule.missed {
            Missed::Skip => 0,
            Missed::Latest => 1,
            Missed::All => self.rule.max_catchup,
        };
        let missed = |pending: &Pending| pending.why == Skip::Missed;
        while draft.state.pending.iter().filter(|pending| missed(pending)).count() > keep
            && let Some(at) = draft.state.pending.iter().position(missed)
        {
            let oldest = draft.state.pending.remove(at);
            draft.skip(Skipped::one(oldest.nominal, Skip::Missed, None));
        }
        draft.state.pending.sort_by_key(|pending| pending.nominal);
    }

    /// Makes the run of a slot, or says why it has none.
    fn fire(
        &self,
        engine: &Engine,
        draft: &mut Draft,
        nominal: Timestamp,
        now: Timestamp,
        late: bool,
    ) -> Result<(), SubmitError> {
        let parts = engine.parts();
        let rule = &self.rule;
        let seen = parts.journal.head().position;
        let done = |draft: &mut Draft| {
            draft.state.pending.retain(|pending| pending.nominal != nominal);
            draft.changed = true;
        };
        if late && now.since(nominal) > rule.catchup_window {
            let waited = draft.state.pending.iter().find(|pending| pending.nominal == nominal);
            let why = waited.map_or(Skip::Missed, |pending| pending.why);
            done(draft);
            let words = "it waited for longer than the catch-up window".to_owned();
            draft.skip(Skipped::one(nominal, why, Some(words)));
            return Ok(());
        }
        let slot_name = rule.key.slot(nominal);
        if parts.journal.unique(&slot_name, 0)?.is_some() {
            // A clock that was wrong had decided it: it has its run.
            draft.state.close(&rule.key, &mut draft.rows);
            done(draft);
            return Ok(());
        }
        let slot = Slot {
            source: rule.key.workflow.source.clone(),
            schedule: rule.key.schedule.clone(),
            nominal,
            actual: now,
            catchup: late,
            tzdata: TZDATA.to_owned(),
        };
        let (run, record) = match self.run_of(engine, slot, &slot_name, now) {
            Ok(made) => made,
            Err(SubmitError::Journal(error)) => return Err(SubmitError::Journal(error)),
            Err(error) => {
                done(draft);
                draft.skip(Skipped::one(nominal, Skip::Refused, Some(refusal(&error))));
                return Ok(());
            }
        };
        let standing = engine.standing();
        let frozen = run.submitted.environments.iter().find_map(|environment| {
            let deed = standing.frozen(environment, now).map(|freeze| freeze.reason.clone());
            let why = deed.or_else(|| (self.options.frozen)(&self.good.bundle, environment, now));
            why.map(|why| format!("{environment} is frozen: {why}"))
        });
        if let Some(why) = frozen {
            self.freeze(draft, nominal, now, late, why);
            return Ok(());
        }
        done(draft);
        let (run, record) = (Box::new(run), Box::new(record));
        let bundle = Arc::clone(&self.good.bundle);
        draft.fire = Some(Fire { run, record, bundle, policy: self.trigger.policy, seen });
        Ok(())
    }

    /// A slot that falls into a freeze: it is skipped, or with `defer` the newest waits for its end.
    fn freeze(&self, draft: &mut Draft, nominal: Timestamp, now: Timestamp, late: bool, why: String) {
        let waits = self.rule.defer && now.since(nominal) <= self.rule.catchup_window;
        let known = draft.state.pending.iter().position(|pending| pending.nominal == nominal);
        if !waits {
            if let Some(at) = known {
                draft.state.pending.remove(at);
            }
            draft.skip(Skipped::one(nominal, Skip::Freeze, Some(why)));
            return;
        }
        match known {
            // It goes on waiting, now for this.
            Some(at) if late => {
                if draft.state.pending[at].why != Skip::Freeze {
                    draft.state.pending[at].why = Skip::Freeze;
                    draft.changed = true;
                }
            }
            Some(_) | None => {
                draft.state.pending.push(Pending { nominal, why: Skip::Freeze });
                draft.changed = true;
            }
        }
        // Only the latest starts when the freeze ends.
        let newest = draft.state.pending.iter().filter(|pending| pending.why == Skip::Freeze);
        let newest = newest.map(|pending| pending.nominal).max();
        let older = |pending: &Pending| pending.why == Skip::Freeze && Some(pending.nominal) != newest;
        while let Some(at) = draft.state.pending.iter().position(older) {
            let old = draft.state.pending.remove(at);
            draft.skip(Skipped::one(old.nominal, Skip::Freeze, Some(why.clone())));
        }
    }

    fn run_of(
        &self,
        engine: &Engine,
        slot: Slot,
        name: &str,
        now: Timestamp,
    ) -> Result<(Run, Record), SubmitError> {
        // The id sorts by the submission, as every run's does; the rest of it follows from the slot.
        let hash = Sha256::digest(name.as_bytes());
        let random = hash[..10].iter().fold(0, |number, byte| number << 8 | u128::from(*byte));
        let id = RunId::new(now.millis(), random);
        let names = |names: &[crate::id::TaskName]| names.iter().map(ToString::to_string).collect();
        let submission = Submission {
            bundle: Bundle::clone(&self.good.bundle),
            inputs: self.trigger.inputs.clone(),
            only: names(&self.trigger.only),
            skip: names(&self.trigger.skip),
            from: None,
            source: Some(self.good.sourced.clone()),
            actor: "graylane".into(),
            trigger: Trigger::Schedule(Box::new(slot)),
            vars: self.catalogue.vars.clone(),
            secrets: self.catalogue.secrets.clone(),
            key: None,
        };
        seal(engine.parts(), submission, BTreeMap::new(), id, now)
    }

    /// The clock had been in the future: what was decided there without a run is decided again.
    fn reset(&self, engine: &Engine, mut draft: Draft, now: Timestamp) -> Box<SlotWork> {
        let rule = &self.rule;
        tracing::error!(
            schedule = %rule.key, decided = %draft.state.decided, now = %now,
            "the clock had been in the future; the schedule goes on from the present"
        );
        draft.deed = Some(Deed::ScheduleReset {
            workflow: rule.key.workflow.clone(),
            schedule: rule.key.schedule.clone(),
            decided: draft.state.decided,
        });
        // Those that wait are of the past or of the future; the latter come again.
        draft.state.pending.retain(|pending| pending.nominal <= now);
        draft.state.close(&rule.key, &mut draft.rows);
        let written = engine.parts().journal.rows(&rule.key.skips());
        let mut ranges: BTreeMap<String, Option<Vec<u8>>> =
            written.into_iter().map(|(name, value)| (name, Some(value))).collect();
        ranges.extend(std::mem::take(&mut draft.rows));
        for (name, value) in ranges {
            let range = value.as_deref().and_then(|value| serde_json::from_slice::<Skipped>(value).ok());
            let Some(range) = range else { continue };
            if range.to <= now {
                draft.rows.push((name, value));
                continue;
            }
            let count =
                if range.from > now { 0 } else { 1 + rule.schedule.count(rule.zone, range.from, now) };
            draft.state.uncount(range.skip, range.count - count.min(range.count));
            if count == 0 {
                draft.state.ranges = draft.state.ranges.saturating_sub(1);
                draft.rows.push((name, None));
            } else {
                let to = last_slot(rule, range.from, now);
                let kept = Skipped { to, count, ..range };
                draft.rows.push((name, serde_json::to_vec(&kept).ok()));
            }
        }
        draft.state.ahead = draft.state.ahead.max(Some(draft.state.decided));
        draft.state.decided = now;
        draft.work()
    }
}

/// Whether a slot has its run; where that cannot be read, it is found out when the run is submitted.
fn has_run(engine: &Engine, key: &ScheduleKey, nominal: Timestamp) -> bool {
    engine.parts().journal.unique(&key.slot(nominal), 0).is_ok_and(|run| run.is_some())
}

/// The last slot from one on, up to a moment.
fn last_slot(rule: &Rule, from: Timestamp, until: Timestamp) -> Timestamp {
    rule.schedule.slots(rule.zone, from).take_while(|slot| *slot <= until).last().unwrap_or(from)
}

/// Why no run could be made, in one line.
fn refusal(error: &SubmitError) -> String {
    match error {
        SubmitError::Invalid(problems) => {
            problems.first().map_or_else(|| error.to_string(), |problem| problem.to_string())
        }
        _ => error.to_string(),
    }
}

/// Ends schedules that nobody knows any more: a trigger that was removed, a workflow that is gone from its source.
async fn retire(engine: &Engine, catalogue: &Catalogue, present: &BTreeSet<ScheduleKey>, round: &mut Round) {
    for (name, value) in engine.parts().journal.rows(ScheduleKey::ROWS) {
        let key = name.strip_prefix(ScheduleKey::ROWS).and_then(ScheduleKey::parse);
        let (Some(key), Ok(state)) = (key, State::read(&value)) else { continue };
        if present.contains(&key) || state.gone.is_some() {
            continue;
        }
        let unsure = match catalogue.sources.get(&key.workflow.source) {
            // It was not read yet, or cannot be read: what it holds is not known.
            Some(source) => source.read_at.is_none() || source.problem.is_some(),
            None => catalogue.sources.is_empty(),
        };
        // A file that is wrong now may come back with its schedule.
        let wrong = catalogue.workflows.get(&key.workflow).is_some_and(|known| known.good.is_none());
        if unsure || wrong {
            continue;
        }
        let now = engine.parts().clock.now();
        let mut draft = Draft::new(&key, state, false, &engine.standing());
        draft.abandon(engine, now, "the schedule is gone");
        draft.state.gone = Some(now);
        if matches!(engine.slots(*draft.work()).await, SlotAnswer::Stale | SlotAnswer::Broken(_)) {
            round.at(Some(now.plus(AFTER_FAILURE)));
        }
    }
}
