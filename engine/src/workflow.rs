//! A workflow file as it is written: its shape, and the JSON Schema made from it.
//!
//! Nothing here is checked beyond the shape; `graph.rs` turns it into a checked graph.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

/// A workflow file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Graylane workflow", extend("$comment" = "printed by `graylane schema workflow`"))]
pub struct WorkflowFile {
    /// The workflow's name: unique over all files of a source.
    #[schemars(regex(pattern = crate::id::NAME_PATTERN), extend("x-expected" = "a name has letters, digits, `-` and `_`, and begins with a letter"))]
    pub name: String,
    /// What the workflow is for, in a sentence.
    #[serde(default)]
    pub description: Option<String>,
    /// What a run is given, by name.
    #[serde(default)]
    pub inputs: BTreeMap<String, InputFile>,
    /// What starts runs besides people.
    #[serde(default)]
    pub triggers: Vec<TriggerFile>,
    /// Runs that must not overlap, beyond what the tasks' claims already say.
    #[serde(default)]
    pub concurrency: Option<ConcurrencyFile>,
    /// Whether a failed run is taken back.
    #[serde(default)]
    pub undo: Option<UndoFile>,
    /// The longest a run may take, from its admission.
    #[serde(default)]
    #[schemars(regex(pattern = crate::clock::DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub timeout: Option<String>,
    /// The tasks, by name.
    #[schemars(extend("minProperties" = 1))]
    pub tasks: BTreeMap<String, TaskFile>,
}

/// One input.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputFile {
    /// The type of its value.
    #[serde(rename = "type")]
    pub kind: InputKind,
    /// For a list or a map: the type of what is in it.
    #[serde(default)]
    pub of: Option<InputKind>,
    /// For a choice: the values to choose from.
    #[serde(default)]
    pub options: Option<Vec<String>>,
    /// The value where none is given.
    #[serde(default)]
    pub default: Option<Value>,
    /// Whether a value must be given.
    #[serde(default)]
    pub required: bool,
    /// For a text: a regular expression that its whole must match.
    #[serde(default)]
    pub pattern: Option<String>,
    /// What it is for.
    #[serde(default)]
    pub description: Option<String>,
}

/// The types of inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InputKind {
    /// A text.
    String,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// true or false.
    Boolean,
    /// One of `options`.
    Choice,
    /// A list of one type.
    List,
    /// Names with values of one type.
    Map,
    /// Any map.
    Object,
}

/// Something that starts runs.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TriggerFile {
    /// The trigger's name, unique in the workflow.
    #[serde(default)]
    #[schemars(regex(pattern = crate::id::NAME_PATTERN), extend("x-expected" = "a name has letters, digits, `-` and `_`, and begins with a letter"))]
    pub name: Option<String>,
    /// Five fields, minute first, as POSIX cron has them; or `@hourly`, `@daily`, `@weekly`, `@monthly`.
    pub cron: String,
    /// The IANA time zone of the schedule; UTC where none is given.
    #[serde(default)]
    pub timezone: Option<String>,
    /// The inputs of its runs.
    #[serde(default)]
    pub inputs: Map<String, Value>,
    /// The only tasks that its runs carry out.
    #[serde(default)]
    pub only: Vec<String>,
    /// Tasks that its runs leave out.
    #[serde(default)]
    pub skip: Vec<String>,
    /// What happens when a run of the workflow is active.
    #[serde(default)]
    pub policy: Option<PolicyFile>,
    /// What happens to moments that were missed.
    #[serde(default)]
    pub missed: Option<MissedFile>,
    /// How late a run may start and still be on time; five minutes where nothing is said.
    #[serde(default)]
    #[schemars(regex(pattern = crate::clock::DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub start_deadline: Option<String>,
    /// How old a moment that is made up for may be; a day where nothing is said.
    #[serde(default)]
    #[schemars(regex(pattern = crate::clock::DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub catchup_window: Option<String>,
    /// How many missed moments are made up for at most, the newest; ten where nothing is said.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    pub max_catchup: Option<u32>,
    /// Whether the last moment that fell into a freeze of an environment is made up for when the freeze ends.
    #[serde(default)]
    pub defer: bool,
    /// How far starts are spread.
    #[serde(default)]
    #[schemars(regex(pattern = crate::clock::DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub jitter: Option<String>,
}

/// Runs that must not overlap.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConcurrencyFile {
    /// Runs of one group exclude each other; the workflow's name where none is given.
    #[serde(default)]
    pub group: Option<String>,
    /// What a new run does while another is active.
    #[serde(default)]
    pub policy: Option<PolicyFile>,
}

/// What a new run does while another of its group is active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicyFile {
    /// Waits in line; twenty may wait.
    Queue,
    /// Waits alone: a newer run takes its place.
    Latest,
    /// Is refused.
    Reject,
    /// Cancels the other and starts when it has ended.
    Replace,
    /// Runs beside it.
    Allow,
}

/// What happens to missed moments of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MissedFile {
    /// They are recorded and left out.
    Skip,
    /// The last one is made up for.
    Latest,
    /// Each is made up for.
    All,
}

/// Whether a failed run is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UndoFile {
    /// What it changed stays as it is.
    Never,
    /// A run of its own takes back what the tasks that started have changed, in the reverse order.
    OnFailure,
}

/// One task.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskFile {
    /// What the task does.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The tasks that must have ended before.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Whether the task runs, as one expression; without `success()`, `failure()`, `always()` or `cancelled()` in it,
    /// it also asks that everything before succeeded.
    #[serde(default)]
    pub when: Option<String>,
    /// How a failed attempt is tried again.
    #[serde(default)]
    pub retry: Option<RetryFile>,
    /// The longest one attempt may take.
    #[serde(default)]
    #[schemars(regex(pattern = crate::clock::DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub timeout: Option<String>,
    /// What the run does when the task fails.
    #[serde(default)]
    pub on_failure: Option<OnFailureFile>,
    /// What the type is told.
    #[serde(default)]
    pub with: Map<String, Value>,
}

/// How a failed attempt is tried again.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryFile {
    /// How many attempts there are in all.
    #[schemars(range(min = 1, max = 100))]
    pub attempts: u32,
    /// The delay before the second attempt.
    #[serde(default)]
    #[schemars(regex(pattern = crate::clock::DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub backoff: Option<String>,
    /// What the delay is multiplied with each time.
    #[serde(default)]
    #[schemars(range(min = 1.0, max = 10.0))]
    pub factor: Option<f64>,
    /// The longest delay.
    #[serde(default)]
    #[schemars(regex(pattern = crate::clock::DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub max_backoff: Option<String>,
}

/// What a run does when a task fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailureFile {
    /// What runs finishes; nothing new starts but clean-up.
    Stop,
    /// The task is shown failed, and counts as passed.
    Continue,
    /// The run waits for a person to say how it goes on: retry, skip, fail or undo.
    Hold,
}
