//! A run: one execution of a graph, as a fold over its records.
//!
//! `Run::apply` is the only way a run changes, live, on resume, in audit and in tests. `decide.rs`
//! says what follows; neither file waits, looks at a clock or touches a disk.
//!
//! ```text
//! run:   queued -> running <-> waiting -> cancelling -> finished{succeeded | failed | cancelled}
//! task:  pending -> running -> retrying | waiting -> succeeded | failed | cancelled | skipped
//! ```

mod decide;
mod event;
mod state;
mod summary;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value, json};

pub use self::decide::{ABANDON_AFTER, Command, LOOK_AGAIN, decide};
pub use self::event::{Event, Outcome, Record, Trigger};
pub use self::state::{Ending, RunState, Skipped, TaskState, WaitingFor};
pub use self::summary::RunSummary;
use crate::claim::{Claim, Held};
use crate::clock::Timestamp;
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
    tasks: BTreeMap<TaskName, TaskRun>,
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
    /// The environments that its tasks name.
    pub environments: BTreeSet<String>,
    /// The lanes that its tasks name.
    pub tags: BTreeSet<String>,
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
    claims: OnceLock<Vec<Claim>>,
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
        let mut tasks: BTreeMap<TaskName, TaskRun> =
            graph.tasks().map(|node| (node.name.clone(), TaskRun::default())).collect();
        for (name, task) in &mut tasks {
            if left_out.contains(name) {
                task.state = TaskState::Skipped(Skipped::NotSelected);
                task.ended = Some(record.at);
            }
        }
        Ok(Run {
            id: record.run,
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
                environments: environments.clone(),
                tags: tags.clone(),
            },
            state: RunState::Queued,
            seq: record.seq,
            tasks,
            claims: OnceLock::new(),
        })
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
            Event::RunFinished { outcome, reason } => {
                if self.tasks.values().any(|task| matches!(task.state, TaskState::Running { .. })) {
                    return Err(self.illegal(record, "a run with a running task"));
                }
                self.state = RunState::Finished {
                    at: record.at,
                    outcome: *outcome,
                    reason: reason.clone(),
                    admitted: self.admitted(),
                };
            }
            // It is kept for the audit; it changes nothing.
            Event::AnswerIgnored { .. } => {}
            Event::AttemptStarted { task, .. }
            | Event::AttemptResumed { task, .. }
            | Event::PlanMade { task, .. }
            | Event::PhaseEntered { task, .. }
            | Event::CheckpointPassed { task, .. }
            | Event::AttemptSucceeded { task, .. }
            | Event::AttemptFailed { task, .. }
            | Event::TaskCancelled { task, .. }
            | Event::TaskSkipped { task, .. }
            | Event::TaskFailed { task, .. } => {
                let Some(entry) = self.tasks.get_mut(task) else {
                    return Err(self.illegal(record, "a run without this task"));
                };
                let ending = matches!(self.state, RunState::Cancelling { .. });
                if let Err(state) = entry.apply(record, ending) {
                    return Err(self.illegal(record, &state));
                }
            }
        }
        self.seq = record.seq;
        Ok(())
    }

    fn end_early(&mut self, record: &Record, ending: Ending) -> Result<(), IllegalEvent> {
        match &self.state {
            RunState::Queued | RunState::Running { .. } | RunState::Waiting { .. } => {
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
            RunState::Waiting { admitted, .. } => Some(*admitted),
            RunState::Cancelling { admitted, .. } | RunState::Finished { admitted, .. } => *admitted,
        }
    }

    /// The task of this name.
    pub fn task(&self, name: &TaskName) -> Option<&TaskRun> {
        self.tasks.get(name)
    }

    /// Every task with its node, each after those that it needs.
    pub fn tasks(&self) -> impl Iterator<Item = (&TaskNode, &TaskRun)> {
        self.graph.tasks().filter_map(|node| self.tasks.get(&node.name).map(|task| (node, task)))
    }

    /// The state of a task; `Pending` for a name that is not in the graph.
    pub fn task_state(&self, name: &TaskName) -> &TaskState {
        self.tasks.get(name).map_or(&TaskState::Pending, |task| &task.state)
    }

    /// Whether this is the attempt whose answers count.
    pub fn is_current(&self, task: &TaskName, attempt: Attempt) -> bool {
        matches!(self.task_state(task), TaskState::Running { attempt: current, .. } if *current == attempt)
    }

    /// How everything before a task ended: what the four functions of `when` say.
    pub fn ancestors_of(&self, name: &TaskName) -> Ancestors {
        let mut ancestors = Ancestors {
            success: true,
            failure: false,
            cancelled: matches!(self.state, RunState::Cancelling { .. }),
        };
        for node in self.graph.ancestors(name) {
            match self.task_state(&node.name) {
                TaskState::Succeeded { .. } | TaskState::Skipped(Skipped::NotSelected | Skipped::When) => {}
                TaskState::Failed { .. } => match node.on_failure {
                    OnFailure::Continue => {}
                    OnFailure::Stop => {
                        ancestors.success = false;
                        ancestors.failure = true;
                    }
                },
                TaskState::Pending
                | TaskState::Running { .. }
                | TaskState::Retrying { .. }
                | TaskState::Waiting { .. }
                | TaskState::Cancelled { .. }
                | TaskState::Skipped(Skipped::Upstream | Skipped::Ending) => ancestors.success = false,
            }
        }
        ancestors
    }

    /// What the expressions of a task see. Tasks that are not before it are absent.
    pub fn scope(&self, name: &TaskName) -> Scope {
        let mut tasks = Map::new();
        for node in self.graph.ancestors(name) {
            let state = self.task_state(&node.name);
            let outputs = state.outputs().map(|outputs| outputs.values.clone()).unwrap_or_default();
            tasks.insert(node.name.to_string(), json!({ "status": state.word(), "outputs": outputs }));
        }
        let mut scope = self.input_scope();
        scope.variables.insert("tasks".into(), Value::Object(tasks));
        let secrets: Map<String, Value> =
            self.submitted.secrets.iter().map(|name| (name.clone(), secret_mark(name).into())).collect();
        scope.variables.insert("secrets".into(), Value::Object(secrets));
        scope
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
        let run = json!({
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
        let Some(task) = self.tasks.get(&node.name) else { return &[] };
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
        for (node, task) in self.tasks() {
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
            (Event::TaskCancelled { error, .. }, TaskState::Running { .. } | TaskState::Retrying { .. }) => {
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
