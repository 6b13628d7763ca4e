//! What a task type is: the one plug-in point of the engine.
//!
//! The engine knows what a type declares and what an attempt reports; it never knows what it does.
//!
//! ```text
//! check (static) -> claims -> plan (reads only, once a task, on disk) -> run (writes what was planned; re-entrant)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bundle::Bundle;
use crate::claim::Claim;
use crate::clock::Clock;
use crate::document::Finding;
use crate::id::{Attempt, Digest, RunId, SourceName, TaskName, WorkflowName};
use crate::ledger::{Freeze, Standing};
use crate::schema::Checker;

/// A task type.
///
/// `run` may be entered again after a crash, with the same plan: what is already done must be recognized, not done twice.
#[async_trait]
pub trait Task: Send + Sync + 'static {
    /// The type's name in workflow files.
    fn type_name(&self) -> &'static str;

    /// One line for `--help` and the reference.
    fn summary(&self) -> &'static str;

    /// The JSON Schema of `with`; every value may also be one expression.
    fn schema(&self) -> Value;

    /// What no schema can say. The spec may still hold `${{ }}`. Pointers begin at `with`.
    fn check(&self, spec: &Value, site: &Site<'_>) -> Vec<Finding>;

    /// What the task needs for itself. Called at submit, where what depends on outputs is still `${{ }}`, for
    /// claims that are held for the run; and when the task is due, with everything resolved, for those of the task.
    fn claims(&self, spec: &Value) -> Vec<Claim>;

    /// The keys of `with` that claims of the run are made from: they may depend on inputs, never on outputs.
    fn sealed_keys(&self) -> &'static [&'static str];

    /// The names of the outputs.
    fn outputs(&self) -> &'static [&'static str];

    /// Whether `${{ secrets.x }}` may stand at this pointer of `with`.
    fn takes_secret(&self, _pointer: &str) -> bool {
        false
    }

    /// What will be done, exactly. Only reads.
    ///
    /// # Errors
    /// A refusal is permanent; what a later try may mend is transient.
    async fn plan(&self, cx: &TaskContext) -> Result<Plan, TaskError>;

    /// Does what was planned. When `cx.cancel` is cancelled it goes to a safe point and returns.
    ///
    /// # Errors
    /// As [`Task::plan`].
    async fn run(&self, cx: &TaskContext, plan: &Plan) -> Result<Outputs, TaskError>;

    /// Takes back what `run` did with this plan. Entered again after a crash, as `run` is. What cannot be taken back
    /// is told in the report; a type that changes nothing has nothing to do.
    ///
    /// # Errors
    /// As [`Task::run`].
    async fn undo(&self, _cx: &TaskContext, _plan: &Plan) -> Result<Outputs, TaskError> {
        Ok(Outputs { report: vec!["it had changed nothing".into()], ..Outputs::default() })
    }

    /// What people are asked for where this type lets them decide: its attempt makes the plans of the tasks that
    /// it guards, and then waits. `None` for every type that acts by itself.
    fn ask(&self, _spec: &Value) -> Option<Ask> {
        None
    }
}

/// Who must agree before a run goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ask {
    /// How many.
    pub approvals: u32,
    /// Who may: names, and roles as `role:NAME`. Empty for everybody.
    #[serde(default)]
    pub from: Vec<String>,
    /// Whether whoever started the run may be among them.
    #[serde(default)]
    pub allow_initiator: bool,
    /// What they are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The tasks whose plans they agree to; empty for those that need the approval directly.
    #[serde(default)]
    pub guards: Vec<TaskName>,
    /// How long they have.
    pub expires: std::time::Duration,
    /// The protected environment that a guarded plan writes to: only who has proved who they are may agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protected: Option<String>,
}

/// What a static check can see besides the spec.
#[derive(Debug, Clone, Copy)]
pub struct Site<'s> {
    /// The workflow that the task stands in.
    pub workflow: Option<&'s WorkflowName>,
    /// The operator's files: environments and service manifests.
    pub files: &'s Bundle,
}

/// What a task will do, made once, by reading only.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// The type's own bytes: what `run` carries out.
    pub body: Value,
    /// The same for people.
    #[serde(default)]
    pub changes: Vec<Change>,
    /// What is allowed but worth knowing.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The outputs as far as they are known beforehand: what `graylane plan` shows to the tasks after this one.
    #[serde(default)]
    pub expected: Map<String, Value>,
    /// The environment that it writes to, where that one is protected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protected: Option<String>,
}

impl Plan {
    /// Whether there is nothing in it that an attempt could need: then it need not be kept.
    pub fn is_empty(&self) -> bool {
        *self == Plan::default()
    }
}

/// One thing that a plan changes or looks at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// What happens to it.
    pub action: Action,
    /// Which object: `Deployment mse-customer/spring-cloud-a`.
    pub object: String,
    /// Before and after as a unified diff, empty where there is nothing to compare.
    #[serde(default)]
    pub diff: String,
}

/// What happens to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is made.
    Create,
    /// It is changed.
    Update,
    /// It stays as it is.
    Keep,
    /// It is removed.
    Delete,
    /// It is only looked at.
    Check,
}

/// What a task leaves for those after it, and for people.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Outputs {
    /// Values by name: `${{ tasks.x.outputs.name }}`.
    pub values: Map<String, Value>,
    /// What is worth showing when the run ends.
    #[serde(default)]
    pub report: Vec<String>,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{message}")]
pub struct TaskError {
    /// Whether another attempt may mend it.
    pub kind: ErrorKind,
    /// What went wrong, naming the object.
    pub message: String,
    /// More lines: the pod, the container, the last log lines.
    #[serde(default)]
    pub details: Vec<String>,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
    /// What it had found out before that, by the names of its outputs. It is shown; no expression sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Box<Map<String, Value>>>,
}

/// Whether another attempt may mend an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// It may pass: a network, a conflict, a failed check.
    Transient,
    /// It will not: a refusal, a mistake in the spec, a missing right.
    Permanent,
    /// Only a person can tell: the plan does not fit what is there any more. The task is held.
    Hold,
}

impl TaskError {
    fn new(kind: ErrorKind, message: String) -> Self {
        TaskError { kind, message, details: Vec::new(), hint: None, values: None }
    }

    /// An error that a later attempt may mend.
    pub fn transient(message: impl Into<String>) -> Self {
        TaskError::new(ErrorKind::Transient, message.into())
    }

    /// An error that no later attempt will mend.
    pub fn permanent(message: impl Into<String>) -> Self {
        TaskError::new(ErrorKind::Permanent, message.into())
    }

    /// An error on which a person is to say how it goes on.
    pub fn hold(message: impl Into<String>) -> Self {
        TaskError::new(ErrorKind::Hold, message.into())
    }

    /// The same, with more lines.
    pub fn details(mut self, details: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(details);
        self
    }

    /// The same, with what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, with what was found out before it.
    pub fn values(mut self, values: Map<String, Value>) -> Self {
        self.values = Some(Box::new(values));
        self
    }
}

/// How far something is; shown live, never journalled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// What is counted.
    pub what: String,
    /// How many are done.
    pub done: u64,
    /// How many there are.
    pub total: u64,
    /// What stands in the way at the moment.
    #[serde(default)]
    pub note: String,
}

/// Where an attempt's reports go.
#[async_trait]
pub trait Reporter: Send + Sync {
    /// Journals a phase; returns when it is on disk.
    async fn phase(&self, text: String) -> Result<(), TaskError>;
    /// Journals a checkpoint; returns when it is on disk.
    async fn checkpoint(&self, name: String) -> Result<(), TaskError>;
    /// Adds a line to the run's log.
    fn log(&self, line: String);
    /// Shows progress to who is watching.
    fn progress(&self, progress: Progress);
}

/// Where secrets are read from.
pub trait SecretSource: Send + Sync {
    /// The value of a secret that the settings name.
    ///
    /// # Errors
    /// Why it cannot be read; never its value.
    fn read(&self, name: &str) -> Result<String, String>;
}

/// What an attempt is given.
pub struct TaskContext {
    /// The run.
    pub run: RunId,
    /// Its workflow.
    pub workflow: WorkflowName,
    /// The source of its file; none where a person brought their own.
    pub source: Option<SourceName>,
    /// The task.
    pub task: TaskName,
    /// Which try this is.
    pub attempt: Attempt,
    /// `with`, every expression resolved; secrets are marks that only [`TaskContext::reveal`] opens.
    pub spec: Value,
    /// Everything the run was submitted with.
    pub bundle: Arc<Bundle>,
    /// Time and randomness.
    pub clock: Arc<dyn Clock>,
    /// Cancelled when the attempt shall go to a safe point.
    pub cancel: CancellationToken,
    /// Checkpoints of earlier attempts.
    pub checkpoints: BTreeSet<String>,
    /// For [`Task::undo`]: also where an object is not as the run left it.
    pub force: bool,
    /// For [`Task::undo`]: the run that is taken back.
    pub undoes: Option<RunId>,
    /// What is frozen, at any moment.
    pub standing: watch::Receiver<Arc<Standing>>,
    /// The plans of tasks before this one, where nothing is run and a plan is only shown.
    pub assumed: Vec<Plan>,
    /// Where reports go.
    pub reporter: Arc<dyn Reporter>,
    /// Where secrets come from.
    pub secrets: Arc<dyn SecretSource>,
}

impl TaskContext {
    /// A first attempt outside of every run: nobody listens, nothing is kept, no secret is known. For plans that are only
    /// shown, for measurements, and for tests.
    pub fn alone(
        run: RunId,
        workflow: WorkflowName,
        task: TaskName,
        spec: Value,
        bundle: Arc<Bundle>,
        clock: Arc<dyn Clock>,
    ) -> TaskContext {
        TaskContext {
            run,
            workflow,
            source: None,
            task,
            attempt: Attempt::FIRST,
            spec,
            bundle,
            clock,
            cancel: CancellationToken::new(),
            checkpoints: BTreeSet::new(),
            force: false,
            undoes: None,
            standing: watch::channel(Arc::default()).1,
            assumed: Vec::new(),
            reporter: Arc::new(Nobody),
            secrets: Arc::new(Nobody),
        }
    }

    /// Journals what the attempt does now; returns when it is on disk.
    ///
    /// # Errors
    /// The journal cannot be written: stop at once.
    pub async fn phase(&self, text: impl Into<String> + Send) -> Result<(), TaskError> {
        self.reporter.phase(text.into()).await
    }

    /// Journals that a point is passed, for attempts after a crash; returns when it is on disk.
    ///
    /// # Errors
    /// The journal cannot be written: stop at once.
    pub async fn checkpoint(&self, name: &str) -> Result<(), TaskError> {
        self.reporter.checkpoint(name.to_owned()).await
    }

    /// Whether an attempt, this one or an earlier, had passed the point when this one began.
    pub fn passed(&self, name: &str) -> bool {
        self.checkpoints.contains(name)
    }

    /// The run that is taken back; without one, this run.
    pub fn taken_back(&self) -> RunId {
        self.undoes.unwrap_or(self.run)
    }

    /// Whether people have frozen an environment, at this moment.
    pub fn frozen(&self, environment: &str) -> Option<Freeze> {
        self.standing.borrow().frozen(environment, self.clock.now()).cloned()
    }

    /// Adds a line to the run's log.
    pub fn log(&self, line: impl Into<String>) {
        self.reporter.log(line.into());
    }

    /// Shows how far something is.
    pub fn progress(&self, what: impl Into<String>, done: u64, total: u64, note: impl Into<String>) {
        self.reporter.progress(Progress { what: what.into(), done, total, note: note.into() });
    }

    /// Puts secrets in the place of their marks. The result must not be logged, planned or put out.
    ///
    /// # Errors
    /// A secret that cannot be read.
    pub fn reveal(&self, text: &str) -> Result<String, TaskError> {
        let mut revealed = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(SECRET_MARK.0) {
            let Some((name, after)) = after.split_once(SECRET_MARK.1) else { break };
            revealed.push_str(before);
            let value = self.secrets.read(name);
            revealed.push_str(&value.map_err(|why| TaskError::permanent(format!("secret `{name}`: {why}")))?);
            rest = after;
        }
        revealed.push_str(rest);
        Ok(revealed)
    }
}

impl TaskContext {
    /// The values of the secrets whose marks stand in a text, to be kept out of what is kept.
    ///
    /// # Errors
    /// A secret that cannot be read.
    pub fn secrets_in(&self, text: &str) -> Result<Vec<String>, TaskError> {
        let marks = text.split(SECRET_MARK.0).skip(1).filter_map(|rest| rest.split_once(SECRET_MARK.1));
        marks.map(|(name, _)| self.reveal(&secret_mark(name))).collect()
    }
}

/// Listens to no report, and knows no secret.
struct Nobody;

#[async_trait]
impl Reporter for Nobody {
    async fn phase(&self, _text: String) -> Result<(), TaskError> {
        Ok(())
    }

    async fn checkpoint(&self, _name: String) -> Result<(), TaskError> {
        Ok(())
    }

    fn log(&self, _line: String) {}

    fn progress(&self, _progress: Progress) {}
}

impl SecretSource for Nobody {
    fn read(&self, name: &str) -> Result<String, String> {
        Err(format!("there is no secret `{name}`"))
    }
}

/// What a secret looks like in a resolved spec: a mark with its name.
pub(crate) const SECRET_MARK: (&str, &str) = ("\u{27e6}secret ", "\u{27e7}");

/// The mark of a secret.
pub(crate) fn secret_mark(name: &str) -> String {
    format!("{}{name}{}", SECRET_MARK.0, SECRET_MARK.1)
}

/// The task types that workflow files may name.
#[derive(Default)]
pub struct Registry {
    types: BTreeMap<&'static str, Entry>,
}

struct Entry {
    task: Arc<dyn Task>,
    checker: OnceLock<Checker>,
}

impl Registry {
    /// Adds a type; one of the same name is replaced.
    pub fn add(&mut self, task: impl Task) {
        let task: Arc<dyn Task> = Arc::new(task);
        self.types.insert(task.type_name(), Entry { task, checker: OnceLock::new() });
    }

    /// The type of this name.
    pub fn get(&self, type_name: &str) -> Option<&Arc<dyn Task>> {
        self.types.get(type_name).map(|entry| &entry.task)
    }

    /// The checker of the type's `with`.
    pub(crate) fn checker(&self, type_name: &str) -> Option<&Checker> {
        let entry = self.types.get(type_name)?;
        Some(entry.checker.get_or_init(|| Checker::new(entry.task.schema())))
    }

    /// All types, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Task>> {
        self.types.values().map(|entry| &entry.task)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.types.keys()).finish()
    }
}

/// A stored plan's name: the digest of its bytes.
pub fn plan_digest(plan: &Plan) -> (Digest, Vec<u8>) {
    // A plan holds values that came from JSON: writing them back cannot fail.
    let bytes = serde_json::to_vec(plan).unwrap_or_default();
    (Digest::of(&bytes), bytes)
}
