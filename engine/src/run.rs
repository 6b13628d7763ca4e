//! A run: one execution of a graph, as a fold over its records.
//!
//! `Run::apply` is the only way a run changes, live, on resume, in audit and in tests. `decide.rs`
//! says what follows; neither file waits, looks at a clock or touches a disk.
//!
//! ```text
//! run:   queued -> running -> cancelling -> finished{succeeded | failed | cancelled}
//!        (shown as waiting while only people can move it on)
//! task:  pending -> running -> retrying | waiting -> succeeded | failed | cancelled | skipped
//! ```

mod decide;
mod event;
mod follow;
mod state;
mod summary;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Map, Value, json};

pub use self::decide::{ABANDON_AFTER, Command, LOOK_AGAIN, decide};
pub use self::event::{
    Consent, Event, HoldAnswer, Kept, Key, Origin, Outcome, Record, Slot, Sourced, Trigger,
};
pub use self::follow::FollowError;
pub use self::state::{Ending, RunState, Skipped, TaskState, WaitingFor};
pub use self::summary::RunSummary;
use crate::claim::{Claim, Held};
use crate::clock::{Timestamp, show_duration};
use crate::expression::{Ancestors, Scope, evaluate, resolve};
use crate::graph::{Graph, OnFailure, TaskNode};
use crate::id::{Attempt, Digest, RunId, Seq, TaskName};
use crate::task::{Outputs, TaskError, secret_mark};

/// The name of the checkpoint after which an attempt is given its whole timeout to take back what it did.
pub const ROLLBACK: &str = "rollback";

/// A run, as its records say.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// What is executed.
    pub graph: Arc<Graph>,
    /// What it was submitted with.
    pub submitted: Submitted,
    /// Where it is.
    pub state: RunState,
    /// The place of its last record.
    pub seq: Seq,
    /// The run that takes it back, begun when this one ended.
    pub undone_by: Option<RunId>,
    /// By their places in the graph.
    tasks: Vec<TaskRun>,
    tally: Tally,
    /// Claims held for the run; made from the spec and the inputs, so never stored.
    claims: OnceLock<Vec<Claim>>,
}

/// What a run was submitted with.
#[derive(Debug, Clone, PartialEq)]
pub struct Submitted {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub actor: String,
    /// By what.
    pub trigger: Trigger,
    /// The digest of its bundle.
    pub bundle: Digest,
    /// Its inputs, complete.
    pub inputs: BTreeMap<String, Value>,
    /// The operator's variables, as they were.
    pub vars: BTreeMap<String, Value>,
    /// The names of the operator's secrets, as they were.
    pub secrets: BTreeSet<String>,
    /// Tasks that were not selected.
    pub left_out: BTreeSet<TaskName>,
    /// The run that it follows on, and how.
    pub origin: Option<Origin>,
    /// What it takes over from that run.
    pub kept: BTreeMap<TaskName, Kept>,
    /// The environments that its tasks name.
    pub environments: BTreeSet<String>,
    /// The lanes that its tasks name.
    pub tags: BTreeSet<String>,
    /// Where the workflow's file came from.
    pub source: Option<Sourced>,
}

/// What the fold counts on its way, so that nothing has to look at every task after every record. All of it follows
/// from the tasks.
#[derive(Debug, Clone, Default)]
struct Tally {
    /// Tasks that are not final.
    open: usize,
    /// Of these, the ones for which something may be decided: every need is settled.
    ready: BTreeSet<usize>,
    /// How many needs of a task are not settled.
    unmet: Vec<usize>,
    /// Tasks that wait for people.
    waiting: usize,
    /// Tasks that failed and stop the run.
    failed: usize,
    /// Tasks that failed, the ones that count as passed too.
    failed_any: bool,
    /// Since when only people can move the run on.
    waits_since: Option<Timestamp>,
    /// How long that was the case before.
    stood_still: Duration,
    /// Somebody answered that the run is to be taken back.
    undo_wanted: bool,
    /// A hold expired: nobody looked, so nothing more is changed.
    hold_expired: bool,
}

/// A task in a run.
#[derive(Debug, Clone, Default)]
pub struct TaskRun {
    /// Where it is.
    pub state: TaskState,
    /// The plan that every attempt carries out, once it is made.
    pub plan: Option<Digest>,
    /// Points that an attempt has passed.
    pub checkpoints: BTreeSet<String>,
    /// When the first attempt began.
    pub started: Option<Timestamp>,
    /// When it became final.
    pub ended: Option<Timestamp>,
    /// Whether it was done by the run that this one follows on.
    pub kept: bool,
    /// How everything up to it ended, once it is settled.
    lineage: Option<Lineage>,
    claims: OnceLock<Vec<Claim>>,
}

/// What `success()` and `failure()` say of a task and everything before it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Lineage {
    success: bool,
    failure: bool,
}

impl Lineage {
    const CLEAN: Lineage = Lineage { success: true, failure: false };

    fn and(self, other: Lineage) -> Lineage {
        Lineage { success: self.success && other.success, failure: self.failure || other.failure }
    }
}

/// An event that cannot follow on a state. On resume it means a damaged journal.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("run {run}, record {seq}: `{event}` cannot follow on {state}")]
pub struct IllegalEvent {
    /// The run.
    pub run: RunId,
    /// The record.
    pub seq: Seq,
    /// The state, in words.
    pub state: String,
    /// The event's name.
    pub event: &'static str,
}

impl Run {
    /// Begins a run with its first record, which must be `RunSubmitted`.
    ///
    /// # Errors
    /// Another first record.
    pub fn begin(graph: Arc<Graph>, record: &Record) -> Result<Run, IllegalEvent> {
        let Event::RunSubmitted {
            actor,
            trigger,
            bundle,
            inputs,
            vars,
            secrets,
            left_out,
            environments,
            tags,
            origin,
            kept,
            source,
            ..
        } = &record.event
        else {
            return Err(IllegalEvent {
                run: record.run,
                seq: record.seq,
                state: "nothing".into(),
                event: record.event.name(),
            });
        };
        let unmet = (0..graph.len()).map(|place| graph.needs_of(place).count()).collect();
        let mut run = Run {
            id: record.run,
            tasks: vec![TaskRun::default(); graph.len()],
            tally: Tally { open: graph.len(), unmet, ..Tally::default() },
            graph,
            submitted: Submitted {
                at: record.at,
                actor: actor.clone(),
                trigger: trigger.clone(),
                bundle: bundle.clone(),
                inputs: inputs.clone(),
                vars: vars.clone(),
                secrets: secrets.clone(),
                left_out: left_out.clone(),
                origin: origin.clone(),
                kept: kept.clone(),
                environments: environments.clone(),
                tags: tags.clone(),
                source: source.as_deref().cloned(),
            },
            state: RunState::Queued,
            seq: record.seq,
            undone_by: None,
            claims: OnceLock::new(),
        };
        for place in 0..run.tasks.len() {
            let name = &run.graph.at(place).name;
            let task = &mut run.tasks[place];
            if left_out.contains(name) {
                task.finish(record.at, TaskState::Skipped(Skipped::NotSelected));
            } else if let Some(kept) = kept.get(name) {
                task.plan.clone_from(&kept.plan);
                task.checkpoints.clone_from(&kept.checkpoints);
                if kept.done {
                    task.kept = true;
                    let outputs = kept.outputs.clone();
                    task.finish(record.at, TaskState::Succeeded { attempt: Attempt(0), outputs });
                }
            }
        }
        for place in 0..run.tasks.len() {
            if run.tasks[place].state.is_final() {
                run.ended(place);
            } else if run.tally.unmet[place] == 0 {
                run.tally.ready.insert(place);
            }
        }
        Ok(run)
    }

    /// Folds all records of a run.
    ///
    /// # Errors
    /// Records that do not follow on each other.
    pub fn fold(graph: Arc<Graph>, records: &[Record]) -> Result<Run, IllegalEvent> {
        let (first, rest) = records.split_first().ok_or_else(|| IllegalEvent {
            run: RunId::from_bytes([0; 16]),
            seq: Seq(0),
            state: "nothing".into(),
            event: "no record",
        })?;
        let mut run = Run::begin(graph, first)?;
        for record in rest {
            run.apply(record)?;
        }
        Ok(run)
    }

    /// Changes the run by one record: the only way it changes.
    ///
    /// # Errors
    /// A record that cannot follow; the run is then as it was.
    pub fn apply(&mut self, record: &Record) -> Result<(), IllegalEvent> {
        if record.run != self.id || record.seq.0 != self.seq.0 + 1 || self.state.is_final() {
            return Err(self.illegal(record, &format!("{:?} at record {}", self.state, self.seq)));
        }
        match &record.event {
            Event::RunSubmitted { .. } => return Err(self.illegal(record, "a run that has begun")),
            Event::RunAdmitted => match self.state {
                RunState::Queued => self.state = RunState::Running { since: record.at },
                _ => return Err(self.illegal(record, &format!("{:?}", self.state))),
            },
            Event::CancelRequested { actor, reason, now } => {
                let ending = Ending::Cancelled { actor: actor.clone(), reason: reason.clone(), now: *now };
                self.end_early(record, ending)?;
            }
            Event::RunTimedOut => self.end_early(record, Ending::TimedOut)?,
            Event::RunFinished { outcome, reason, undone_by } => {
                if self.tasks.iter().any(|task| matches!(task.state, TaskState::Running { .. })) {
                    return Err(self.illegal(record, "a run with a running task"));
                }
                self.state = RunState::Finished {
                    at: record.at,
                    outcome: *outcome,
                    reason: reason.clone(),
                    admitted: self.admitted(),
                };
                self.undone_by = *undone_by;
            }
            // It is kept for the audit; it changes nothing.
            Event::AnswerIgnored { .. } => {}
            event => {
                let Some(task) = event.task() else { return Err(self.illegal(record, "anything")) };
                let Some(place) = self.graph.place(task) else {
                    return Err(self.illegal(record, "a run without this task"));
                };
                let ending = matches!(self.state, RunState::Cancelling { .. });
                let waited = matches!(self.tasks[place].state, TaskState::Waiting { .. });
                if let Err(state) = self.tasks[place].apply(record, ending) {
                    return Err(self.illegal(record, &state));
                }
                let waits = matches!(self.tasks[place].state, TaskState::Waiting { .. });
                self.tally.waiting = self.tally.waiting + usize::from(waits) - usize::from(waited);
                if self.tasks[place].state.is_final() {
                    self.ended(place);
                }
                self.tally.undo_wanted |=
                    matches!(record.event, Event::HoldAnswered { answer: HoldAnswer::Undo, .. });
                self.tally.hold_expired |=
                    matches!(record.event, Event::WaitExpired { .. }) && !self.graph.at(place).is_approval();
            }
        }
        self.seq = record.seq;
        self.keep_time(record.at);
        Ok(())
    }

    /// What follows for the others when the task at this place has become final.
    fn ended(&mut self, place: usize) {
        self.tally.open -= 1;
        self.tally.ready.remove(&place);
        let failed = matches!(self.tasks[place].state, TaskState::Failed { .. });
        self.tally.failed_any |= failed;
        if failed && self.graph.at(place).on_failure != OnFailure::Continue {
            self.tally.failed += 1;
        }
        self.settle(place);
    }

    /// A task is settled when it is final and all that it needs is settled: one that was left out, or that ended early,
    /// lets nothing after it begin before what comes before it is over.
    fn settle(&mut self, place: usize) {
        let graph = Arc::clone(&self.graph);
        let mut stack = vec![place];
        while let Some(place) = stack.pop() {
            if self.tally.unmet[place] > 0 || self.tasks[place].lineage.is_some() {
                continue;
            }
            self.tasks[place].lineage =
                self.lineage_before(place).map(|before| before.and(self.verdict(place)));
            for after in graph.dependents_of(place) {
                self.tally.unmet[after] -= 1;
                if self.tally.unmet[after] > 0 {
                    continue;
                }
                if self.tasks[after].state.is_final() {
                    stack.push(after);
                } else {
                    self.tally.ready.insert(after);
                }
            }
        }
    }

    /// Whether everything before a task is over, so that it can be decided whether it begins.
    fn is_ready(&self, name: &TaskName) -> bool {
        self.graph.place(name).is_some_and(|place| self.tally.unmet[place] == 0)
    }

    /// The run's own time stands still while only people can move it on.
    fn keep_time(&mut self, now: Timestamp) {
        let waits = self.waits_for_people();
        match (waits, self.tally.waits_since) {
            (true, None) => self.tally.waits_since = Some(now),
            (false, Some(since)) => {
                self.tally.stood_still += now.since(since);
                self.tally.waits_since = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    fn end_early(&mut self, record: &Record, ending: Ending) -> Result<(), IllegalEvent> {
        match &self.state {
            RunState::Queued | RunState::Running { .. } => {
                self.state = RunState::Cancelling { since: record.at, ending, admitted: self.admitted() };
                Ok(())
            }
            // `--now` may follow on a cancel that takes too long.
            RunState::Cancelling {
                ending: Ending::Cancelled { now: false, .. } | Ending::TimedOut,
                admitted,
                ..
            } if matches!(ending, Ending::Cancelled { now: true, .. }) => {
                self.state = RunState::Cancelling { since: record.at, ending, admitted: *admitted };
                Ok(())
            }
            RunState::Cancelling { .. } | RunState::Finished { .. } => {
                Err(self.illegal(record, &format!("{:?}", self.state)))
            }
        }
    }

    fn illegal(&self, record: &Record, state: &str) -> IllegalEvent {
        IllegalEvent { run: self.id, seq: record.seq, state: state.to_owned(), event: record.event.name() }
    }

    /// When the run was admitted; `None` while it is queued, or where it never was.
    pub fn admitted(&self) -> Option<Timestamp> {
        match &self.state {
            RunState::Queued => None,
            RunState::Running { since } => Some(*since),
            RunState::Cancelling { admitted, .. } | RunState::Finished { admitted, .. } => *admitted,
        }
    }

    /// One word for its state: as [`RunState::word`], or `waiting`.
    pub fn word(&self) -> &'static str {
        if self.waits_for_people() { "waiting" } else { self.state.word() }
    }

    /// Whether only people can move the run on: a task waits for them, and nothing else is under way.
    pub fn waits_for_people(&self) -> bool {
        matches!(self.state, RunState::Running { .. })
            && self.tally.waiting > 0
            && self.tally.ready.len() == self.tally.waiting
    }

    /// When the run's own time is up; `None` where it has no limit, or while the time stands still.
    fn time_is_up_at(&self) -> Option<Timestamp> {
        let RunState::Running { since } = self.state else { return None };
        if self.tally.waits_since.is_some() {
            return None;
        }
        Some(since.plus(self.graph.timeout? + self.tally.stood_still))
    }

    /// Whether the run is over and did what it should.
    pub fn succeeded(&self) -> bool {
        matches!(self.state, RunState::Finished { outcome: Outcome::Succeeded, .. })
    }

    /// Whether this run takes back what another one did.
    pub fn is_undo(&self) -> bool {
        matches!(self.submitted.origin, Some(Origin::Undo { .. }))
    }

    /// The tasks that an undo has to look at: they started here and had a plan, so something may have been written.
    pub fn to_take_back(&self) -> Vec<&TaskName> {
        let begun = |task: &TaskRun| task.started.is_some() && task.plan.is_some();
        self.tasks().filter(|(_, task)| begun(task)).map(|(node, _)| &node.name).collect()
    }

    /// The task of this name.
    pub fn task(&self, name: &TaskName) -> Option<&TaskRun> {
        self.tasks.get(self.graph.place(name)?)
    }

    /// Every task with its node, each after those that it needs.
    pub fn tasks(&self) -> impl Iterator<Item = (&TaskNode, &TaskRun)> {
        self.graph.tasks().zip(&self.tasks)
    }

    /// The tasks for which something may have to be decided: what is final and what waits for other tasks is left out.
    fn ready(&self) -> impl Iterator<Item = (&TaskNode, &TaskRun)> {
        self.tally.ready.iter().map(|place| (self.graph.at(*place), &self.tasks[*place]))
    }

    /// The state of a task; `Pending` for a name that is not in the graph.
    pub fn task_state(&self, name: &TaskName) -> &TaskState {
        self.task(name).map_or(&TaskState::Pending, |task| &task.state)
    }

    /// Whether this is the attempt whose answers count.
    pub fn is_current(&self, task: &TaskName, attempt: Attempt) -> bool {
        matches!(self.task_state(task), TaskState::Running { attempt: current, .. } if *current == attempt)
    }

    /// How everything before a task ended: what the four functions of `when` say.
    pub fn ancestors_of(&self, name: &TaskName) -> Ancestors {
        let cancelled = matches!(self.state, RunState::Cancelling { .. });
        let remembered = self.graph.place(name).and_then(|place| self.lineage_before(place));
        let lineage = remembered.unwrap_or_else(|| {
            let before =
                self.graph.ancestors(name).into_iter().filter_map(|node| self.graph.place(&node.name));
            before.map(|place| self.verdict(place)).fold(Lineage::CLEAN, Lineage::and)
        });
        Ancestors { success: lineage.success, failure: lineage.failure, cancelled }
    }

    /// What was remembered of everything before a task; `None` where something of it was not final in time.
    fn lineage_before(&self, place: usize) -> Option<Lineage> {
        self.graph
            .needs_of(place)
            .try_fold(Lineage::CLEAN, |before, need| Some(before.and(self.tasks[need].lineage?)))
    }

    /// What one task alone means for those after it.
    fn verdict(&self, place: usize) -> Lineage {
        let (success, failure) = match &self.tasks[place].state {
            TaskState::Succeeded { .. }
            | TaskState::Skipped(Skipped::NotSelected | Skipped::When | Skipped::Answered) => (true, false),
            TaskState::Failed { .. } => match self.graph.at(place).on_failure {
                OnFailure::Continue => (true, false),
                OnFailure::Stop | OnFailure::Hold => (false, true),
            },
            TaskState::Pending
            | TaskState::Running { .. }
            | TaskState::Retrying { .. }
            | TaskState::Waiting { .. }
            | TaskState::Cancelled { .. }
            | TaskState::Skipped(Skipped::Upstream | Skipped::Ending) => (false, false),
        };
        Lineage { success, failure }
    }

    /// What the expressions of a task see. Tasks that are not before it are absent.
    pub fn scope(&self, name: &TaskName) -> Scope {
        let mut tasks = Map::new();
        for before in self.readable(name) {
            let state = self.task_state(before);
            let kept = self.submitted.kept.get(before).map(|kept| &kept.outputs);
            let outputs = state.outputs().or(kept).map(|outputs| outputs.values.clone()).unwrap_or_default();
            tasks.insert(before.to_string(), json!({ "status": state.word(), "outputs": outputs }));
        }
        let mut scope = self.input_scope();
        scope.variables.insert("tasks".into(), Value::Object(tasks));
        let secrets: Map<String, Value> =
            self.submitted.secrets.iter().map(|name| (name.clone(), secret_mark(name).into())).collect();
        scope.variables.insert("secrets".into(), Value::Object(secrets));
        scope
    }

    /// The tasks that expressions of a task may see: those before it, and of these only the ones that they name. To a
    /// run that takes another one back everything is over.
    fn readable(&self, name: &TaskName) -> Vec<&TaskName> {
        let Some(node) = self.graph.task(name) else { return Vec::new() };
        if self.is_undo() {
            return self.submitted.kept.keys().collect();
        }
        match &node.reads {
            Some(reads) if reads.is_empty() => Vec::new(),
            Some(reads) => {
                let before = self.graph.ancestors(name).into_iter().map(|node| &node.name);
                before.filter(|before| reads.contains(before.as_str())).collect()
            }
            None => self.graph.ancestors(name).into_iter().map(|node| &node.name).collect(),
        }
    }

    /// Whether a task's own `when` holds, its ancestors having ended so; where none is written it does.
    ///
    /// # Errors
    /// An expression that cannot be evaluated, or is neither true nor false, as a permanent error.
    pub fn when_holds(&self, node: &TaskNode, ancestors: Ancestors) -> Result<bool, TaskError> {
        let Some(when) = &node.when else { return Ok(true) };
        let mut scope = self.scope(&node.name);
        scope.ancestors = Some(ancestors);
        match evaluate(&when.source, &scope) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(other) => {
                let words = crate::schema::value_words(&other);
                Err(TaskError::permanent(format!("`when` must be true or false, not {words}")))
            }
            Err(error) => Err(TaskError::permanent(format!("`when` cannot be evaluated: {error}"))),
        }
    }

    /// What is known at submit.
    fn input_scope(&self) -> Scope {
        let mut scope = Scope::default();
        let inputs: Map<String, Value> =
            self.submitted.inputs.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let vars: Map<String, Value> =
            self.submitted.vars.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        scope.variables.insert("inputs".into(), Value::Object(inputs));
        scope.variables.insert("vars".into(), Value::Object(vars));
        let slot = self.submitted.trigger.slot();
        let run = json!({
            "trigger": self.submitted.trigger.kind(),
            "nominal": slot.map(|slot| slot.nominal.to_string()),
            "actual": slot.map(|slot| slot.actual.to_string()),
            "id": self.id.to_string(),
            "workflow": self.graph.name.as_str(),
            "revision": self.graph.revision.as_str(),
            "submitted_at": self.submitted.at.to_string(),
            "actor": self.submitted.actor,
        });
        scope.variables.insert("run".into(), run);
        scope
    }

    /// A task's `with`, every expression resolved.
    ///
    /// # Errors
    /// The expression that cannot be evaluated, as a permanent error.
    pub fn resolved(&self, node: &TaskNode) -> Result<Value, TaskError> {
        resolve(&node.with, &self.scope(&node.name)).map_err(|(pointer, error)| {
            let at = pointer.trim_start_matches('/').replace('/', ".");
            TaskError::permanent(format!("`with.{at}` cannot be evaluated: {error}"))
        })
    }

    /// The claims that the run holds from admission to its end.
    ///
    /// # Errors
    /// A claim's key that cannot be evaluated, as a sentence; found at submit.
    pub fn run_claims(&self) -> Result<&[Claim], String> {
        if let Some(claims) = self.claims.get() {
            return Ok(claims);
        }
        let mut claims = Vec::new();
        for (node, spec) in self.sealed_specs()? {
            claims.extend(node.kind.claims(&spec).into_iter().filter(|claim| claim.held == Held::Run));
        }
        claims.sort();
        claims.dedup();
        Ok(self.claims.get_or_init(|| claims))
    }

    /// The specs of the selected tasks with their sealed keys resolved, which depend on inputs only.
    fn sealed_specs(&self) -> Result<Vec<(&TaskNode, Value)>, String> {
        let scope = self.input_scope();
        let selected =
            self.tasks().filter(|(_, task)| !matches!(task.state, TaskState::Skipped(Skipped::NotSelected)));
        let mut specs = Vec::new();
        for (node, _) in selected {
            let mut spec = node.with.clone();
            for key in node.kind.sealed_keys() {
                if let Some(value) = spec.get_mut(*key) {
                    *value = resolve(value, &scope).map_err(|(_, error)| {
                        format!("task `{}`: `{key}` cannot be evaluated: {error}", node.name)
                    })?;
                }
            }
            specs.push((node, spec));
        }
        Ok(specs)
    }

    /// The environments and the lanes that the run's tasks name, as far as its inputs say it.
    ///
    /// # Errors
    /// A key that cannot be evaluated, as a sentence.
    pub fn places(&self) -> Result<(BTreeSet<String>, BTreeSet<String>), String> {
        let (mut environments, mut tags) = (BTreeSet::new(), BTreeSet::new());
        for (node, spec) in self.sealed_specs()? {
            for claim in node.kind.claims(&spec) {
                environments.extend(claim.environment().map(str::to_owned));
                tags.extend(claim.tag().map(str::to_owned));
            }
            // A task whose services only outputs will name still says where.
            if node.kind.sealed_keys().contains(&"environment") {
                environments.extend(spec.get("environment").and_then(Value::as_str).map(str::to_owned));
            }
        }
        Ok((environments, tags))
    }

    /// The claims that a task holds while it runs, once everything before it has ended.
    pub fn task_claims(&self, node: &TaskNode) -> &[Claim] {
        let Some(task) = self.task(&node.name) else { return &[] };
        task.claims.get_or_init(|| {
            // A spec that cannot be resolved claims nothing: the task fails when it starts.
            let spec = self.resolved(node).unwrap_or(Value::Null);
            node.kind.claims(&spec).into_iter().filter(|claim| claim.held == Held::Task).collect()
        })
    }

    /// Every claim that is held at the moment.
    pub fn held_claims(&self) -> Vec<&Claim> {
        if matches!(self.state, RunState::Finished { .. }) || self.admitted().is_none() {
            return Vec::new();
        }
        let mut held: Vec<&Claim> = self.run_claims().unwrap_or_default().iter().collect();
        for (node, task) in self.ready() {
            if matches!(task.state, TaskState::Running { .. }) {
                held.extend(self.task_claims(node));
            }
        }
        held
    }
}

impl TaskRun {
    /// Changes the task by one record; the error is its state in words, where the event cannot follow.
    fn apply(&mut self, record: &Record, ending: bool) -> Result<(), String> {
        let at = record.at;
        let illegal = |state: &TaskState| Err(format!("task {}", state.word()));
        match (&record.event, &mut self.state) {
            (
                Event::AttemptStarted { attempt, deadline, .. },
                TaskState::Pending | TaskState::Retrying { .. },
            ) => {
                self.state = TaskState::Running {
                    attempt: *attempt,
                    since: at,
                    deadline: *deadline,
                    entered: at,
                    cleans_up: ending,
                    phase: None,
                };
                self.started.get_or_insert(at);
            }
            (
                Event::AttemptResumed { attempt, deadline: until, .. },
                TaskState::Running { attempt: current, deadline, entered, .. },
            ) if attempt == current => {
                *deadline = *until;
                *entered = at;
            }
            (Event::PlanMade { plan, attempt, .. }, TaskState::Running { attempt: current, .. })
                if attempt == current && self.plan.is_none() =>
            {
                self.plan = Some(plan.clone());
            }
            // Made early, for those who are to agree to it.
            (Event::PlanMade { plan, .. }, TaskState::Pending) if self.plan.is_none() => {
                self.plan = Some(plan.clone());
            }
            (
                Event::PhaseEntered { phase: text, attempt, .. },
                TaskState::Running { attempt: current, phase, .. },
            ) if attempt == current => {
                *phase = Some(text.clone());
            }
            (Event::CheckpointPassed { name, attempt, .. }, TaskState::Running { attempt: current, .. })
                if attempt == current =>
            {
                self.checkpoints.insert(name.clone());
            }
            (
                Event::AttemptSucceeded { attempt, outputs, .. },
                TaskState::Running { attempt: current, .. },
            ) if attempt == current => {
                self.finish(at, TaskState::Succeeded { attempt: *attempt, outputs: outputs.clone() });
            }
            (
                Event::AttemptFailed { attempt, error, retry_at, .. },
                TaskState::Running { attempt: current, cleans_up, .. },
            ) if attempt == current => {
                let (attempt, error, cleans_up) = (*attempt, error.clone(), *cleans_up);
                match retry_at {
                    Some(at) => self.state = TaskState::Retrying { attempt, at: *at, error, cleans_up },
                    None => self.finish(at, TaskState::Failed { attempt: Some(attempt), error }),
                }
            }
            (
                Event::TaskHeld { attempt, error, expires, .. },
                TaskState::Running { attempt: current, .. },
            ) if attempt == current => {
                let on = WaitingFor::Hold { error: error.clone() };
                self.state = TaskState::Waiting { on, attempt: *attempt, since: at, expires: *expires };
            }
            (
                Event::ApprovalAsked { attempt, ask, plans, expires, .. },
                TaskState::Running { attempt: current, .. },
            ) if attempt == current => {
                let on = WaitingFor::Approval { ask: ask.clone(), plans: plans.clone(), given: Vec::new() };
                self.state = TaskState::Waiting { on, attempt: *attempt, since: at, expires: *expires };
            }
            (
                Event::HoldAnswered { answer, .. },
                TaskState::Waiting { on: WaitingFor::Hold { error }, attempt, .. },
            ) => {
                let (attempt, error) = (*attempt, error.clone());
                match answer {
                    HoldAnswer::Retry => {
                        // Whoever says so has seen what was rolled back, and wants it to go forward again.
                        self.checkpoints.remove(ROLLBACK);
                        self.state = TaskState::Retrying { attempt, at, error, cleans_up: ending };
                    }
                    HoldAnswer::Skip => self.finish(at, TaskState::Skipped(Skipped::Answered)),
                    HoldAnswer::Fail | HoldAnswer::Undo => {
                        self.finish(at, TaskState::Failed { attempt: Some(attempt), error });
                    }
                }
            }
            (
                Event::Approved { consent, .. },
                TaskState::Waiting { on: WaitingFor::Approval { ask, given, .. }, attempt, .. },
            ) => {
                given.push(consent.clone());
                if given.len() >= ask.approvals as usize {
                    let names = given.iter().map(|consent| Value::from(consent.actor.clone())).collect();
                    let values = Map::from_iter([("approvers".to_owned(), Value::Array(names))]);
                    let outputs = Outputs { values, report: Vec::new() };
                    let attempt = *attempt;
                    self.finish(at, TaskState::Succeeded { attempt, outputs });
                }
            }
            (
                Event::Rejected { consent, .. },
                TaskState::Waiting { on: WaitingFor::Approval { .. }, attempt, .. },
            ) => {
                let because = consent.comment.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                let error = TaskError::permanent(format!("rejected by {}{because}", consent.actor));
                let attempt = Some(*attempt);
                self.finish(at, TaskState::Failed { attempt, error });
            }
            (Event::WaitExpired { .. }, TaskState::Waiting { on, attempt, since, .. }) => {
                let waited = show_duration(at.since(*since));
                let error = match on {
                    WaitingFor::Hold { error } => error
                        .clone()
                        .details([format!("it was held for {waited}, and nobody said how it goes on")]),
                    WaitingFor::Approval { ask, given, .. } => TaskError::permanent(format!(
                        "rejected: {} of {} had agreed when the time was up after {waited}",
                        given.len(),
                        ask.approvals
                    )),
                };
                let attempt = Some(*attempt);
                self.finish(at, TaskState::Failed { attempt, error });
            }
            (
                Event::TaskCancelled { error, .. },
                TaskState::Running { .. } | TaskState::Retrying { .. } | TaskState::Waiting { .. },
            ) => {
                self.finish(at, TaskState::Cancelled { error: error.clone() });
            }
            (Event::TaskSkipped { reason, .. }, TaskState::Pending) => {
                self.finish(at, TaskState::Skipped(*reason));
            }
            (Event::TaskFailed { error, .. }, TaskState::Pending) => {
                self.finish(at, TaskState::Failed { attempt: None, error: error.clone() });
            }
            (_, state) => return illegal(state),
        }
        Ok(())
    }

    fn finish(&mut self, at: Timestamp, state: TaskState) {
        self.state = state;
        self.ended = Some(at);
    }

    /// What the task put out, where it succeeded.
    pub fn outputs(&self) -> Option<&Outputs> {
        self.state.outputs()
    }
}
