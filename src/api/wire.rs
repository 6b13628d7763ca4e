//! What goes over the socket. These types are the API; domain types are converted by hand where they differ.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use graylane_engine::clock::{Timestamp, rfc3339};
use graylane_engine::id::{RunId, TaskName};
use graylane_engine::journal::{PAGE, Query};
use graylane_engine::ledger::Role;
use graylane_engine::logs::LogLine;
use graylane_engine::preview::{TaskPreview, Verdict};
use graylane_engine::run::{HoldAnswer, Record};
use graylane_engine::task::{Plan, Progress, TaskError};
use graylane_engine::view::{Next, RunSummary, RunView};
use graylane_tasks::inventory::Lane;
use graylane_tasks::mse_gray_deploy::RenderRequest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::problems::WireProblem;

/// Who answers.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Health {
    pub(crate) pid: u32,
    pub(crate) version: String,
    /// Whether unfinished runs go on here; else the store is only looked at.
    pub(crate) working: bool,
}

/// A run to submit.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Submit {
    /// Workflow, environments and manifests, as the bundle writes itself.
    pub(crate) bundle: Value,
    #[serde(default)]
    pub(crate) inputs: Map<String, Value>,
    /// More inputs, as the command line has them: `NAME=VALUE`, read by their declared types.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) set: Vec<String>,
    #[serde(default)]
    pub(crate) only: Vec<String>,
    #[serde(default)]
    pub(crate) skip: Vec<String>,
    /// The run whose outputs stand for those of tasks that are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
    #[serde(default)]
    pub(crate) actor: Option<String>,
    #[serde(default)]
    pub(crate) vars: BTreeMap<String, Value>,
    #[serde(default)]
    pub(crate) secrets: BTreeSet<String>,
}

/// A run that was taken.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Submitted {
    pub(crate) id: String,
}

/// Which runs to list: as it stands in the address, and on the command line.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct List {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workflow: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) environment: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) actor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trigger: Option<String>,
    /// Submitted at this moment or later, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<String>,
    /// Submitted before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<String>,
    /// Only runs that are not final; they are listed whole.
    #[serde(default)]
    pub(crate) unfinished: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<usize>,
    /// What the page before gave as `next`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<String>,
    /// The last run of the page before, by its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<String>,
}

/// Runs, newest first.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct RunPage {
    pub(crate) runs: Vec<RunSummary>,
    /// Whether there are more after the last one.
    pub(crate) more: bool,
    /// The `cursor` of the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

/// That something happened in a run.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Hint {
    pub(crate) run: RunId,
    pub(crate) seq: u64,
    pub(crate) event: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) task: Option<TaskName>,
}

/// The longest page.
const MAX_PAGE: usize = 1_000;

impl List {
    /// The engine's query.
    pub(crate) fn query(self) -> Result<Query, String> {
        let after = self.after.map(|after| after.parse().map_err(|error| format!("after: {error}")));
        let moment = |name: &str, text: Option<String>| {
            text.map(|text| text.parse::<Timestamp>().map_err(|why| format!("{name}: {why}"))).transpose()
        };
        let (since, until) = (moment("since", self.since)?, moment("until", self.until)?);
        let limit = self.limit.unwrap_or(PAGE);
        if limit == 0 || limit > MAX_PAGE {
            return Err(format!("limit: a page has 1 to {MAX_PAGE} runs"));
        }
        Ok(Query {
            workflow: self.workflow,
            environment: self.environment,
            status: self.status,
            tag: self.tag,
            actor: self.actor,
            trigger: self.trigger,
            since,
            until,
            after: after.transpose()?,
            limit,
            ..Query::default()
        })
    }
}

/// Which part of the audit log.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditPart {
    /// After this position; without it, the newest entries.
    #[serde(default)]
    pub(crate) after: Option<u64>,
    #[serde(default)]
    pub(crate) limit: Option<usize>,
    /// What this person did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) actor: Option<String>,
    /// At this moment or later, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<String>,
    /// Before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<String>,
}

/// Which slots.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SlotPart {
    /// Of this schedule or workflow, or of the schedule `SOURCE/WORKFLOW/SCHEDULE`.
    #[serde(default)]
    pub(crate) schedule: Option<String>,
    /// With this in its outcome.
    #[serde(default)]
    pub(crate) outcome: Option<String>,
    /// Not older than this moment, in RFC 3339.
    #[serde(default)]
    pub(crate) since: Option<String>,
    #[serde(default)]
    pub(crate) limit: Option<usize>,
}

/// An entry of the audit log, told.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct AuditLine {
    pub(crate) position: u64,
    pub(crate) at: String,
    /// None for a deed, which belongs to no run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) run: Option<String>,
    /// The place of the record in its run, or of the deed among all deeds.
    pub(crate) seq: u64,
    pub(crate) event: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) actor: Option<String>,
    pub(crate) what: String,
    /// The hash of the record over everything before it in its run.
    pub(crate) record_hash: String,
    /// The head of the log after this entry, as POSITION:HASH. HASH is the SHA-256 of the hash before it (32 bytes,
    /// zeros before the first) and of the entry: position (8), at in milliseconds since 1970 (8), run as the 16 bytes of
    /// its ULID (zeros for a deed), seq (8), record hash (32); numbers big-endian.
    pub(crate) head: String,
}

/// Heads that were kept elsewhere.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Anchors {
    pub(crate) heads: Vec<String>,
}

/// Where a backup is written: an absolute path of this machine.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Backup {
    pub(crate) path: PathBuf,
}

/// A wish that what retention does not keep is removed.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Prune {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) actor: Option<String>,
    /// Only tell which runs it would be.
    #[serde(default)]
    pub(crate) dry_run: bool,
}

/// What was removed, or would be.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Pruned {
    /// What the settings say, in words.
    pub(crate) rule: String,
    /// How many runs.
    pub(crate) runs: u64,
    /// How many bundles and plans that nobody names any more; none where nothing was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) objects: Option<u64>,
    /// The runs that would be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) due: Vec<RunSummary>,
}

/// A wish that a run ends.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Cancel {
    pub(crate) actor: Option<String>,
    #[serde(default)]
    pub(crate) reason: Option<String>,
    #[serde(default)]
    pub(crate) now: bool,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Cancelled {
    /// `cancelling`, `already-cancelling` or `not-active`.
    pub(crate) answer: String,
}

/// A freeze of an environment.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ToFreeze {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) actor: Option<String>,
    /// Why, for those whom it stops.
    pub(crate) reason: String,
    /// When it ends by itself, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<String>,
}

/// The end of one.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ToThaw {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) actor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

/// An environment that people have frozen.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Frozen {
    pub(crate) environment: String,
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub(crate) since: Timestamp,
    pub(crate) by: String,
    pub(crate) reason: String,
    /// When it ends by itself.
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub(crate) until: Option<Timestamp>,
}

impl Frozen {
    /// In a line.
    pub(crate) fn words(&self) -> String {
        let until = self.until.map(|until| format!(" until {until}")).unwrap_or_default();
        format!("{} is frozen{until} by {}, since {}: {}", self.environment, self.by, self.since, self.reason)
    }
}

/// How things stand, for whoever is woken.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Status {
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub(crate) at: Timestamp,
    /// Whether unfinished runs are carried on; else `graylane resume` does.
    pub(crate) carried_on: bool,
    pub(crate) journal: JournalState,
    /// Runs that are not final, those that need somebody first.
    pub(crate) unfinished: Vec<Unfinished>,
    /// The last runs that failed, newest first.
    pub(crate) failed: Vec<Failed>,
    pub(crate) paused: Vec<Paused>,
    pub(crate) frozen: Vec<Frozen>,
    pub(crate) schedules: Schedules,
    /// The lanes of each environment, as its cluster says.
    pub(crate) lanes: Vec<LanesOf>,
}

/// Whether anything can be recorded.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct JournalState {
    pub(crate) writable: bool,
    /// Since when it cannot be written.
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub(crate) since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

/// A run that is not final.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Unfinished {
    pub(crate) run: RunSummary,
    /// Whether it stands still until somebody does something.
    pub(crate) needs_somebody: bool,
    pub(crate) next: Vec<Next>,
}

/// A run that failed.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Failed {
    pub(crate) run: RunSummary,
    /// The first task that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) task: Option<String>,
    /// Why, in a line.
    pub(crate) why: String,
    /// The run that takes it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) undone_by: Option<RunId>,
    /// What shows more.
    pub(crate) command: String,
}

/// How schedules stand.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Schedules {
    /// How many there are; those that are gone are not counted.
    pub(crate) known: usize,
    /// How many slots had which outcome, ever.
    pub(crate) outcomes: BTreeMap<String, u64>,
    /// The oldest slot that is due and has neither a run nor a reason why it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) undecided: Option<UndecidedSlot>,
}

/// A slot that waits.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct UndecidedSlot {
    pub(crate) schedule: String,
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub(crate) slot: Timestamp,
    /// What it waits for.
    pub(crate) why: String,
    /// What can be done, or shows more.
    pub(crate) command: String,
}

/// A workflow whose triggers start nothing.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Paused {
    pub(crate) workflow: String,
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub(crate) since: Timestamp,
    pub(crate) by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

/// The lanes of an environment.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct LanesOf {
    pub(crate) environment: String,
    pub(crate) lanes: Vec<Lane>,
    /// Those whose time is up, or soon is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) expiring: Vec<Expiring>,
    /// Why they are not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trouble: Option<String>,
}

/// A lane whose time is up, or soon is.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Expiring {
    pub(crate) tag: String,
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub(crate) expires: Timestamp,
    /// Whether it is up: whatever takes expired lanes down takes this one.
    pub(crate) expired: bool,
    /// What lets it live longer.
    pub(crate) command: String,
}

/// What made two runs differ.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct RunDiff {
    pub(crate) a: RunSummary,
    pub(crate) b: RunSummary,
    /// Inputs with other values.
    pub(crate) inputs: Vec<ChangedInput>,
    /// Files of what they were submitted with: the workflow, environments, manifests.
    pub(crate) files: Vec<TextChange>,
    /// Plans, by task.
    pub(crate) plans: Vec<TextChange>,
    /// Images that only one of them names, with `-` or `+` before.
    pub(crate) images: Vec<String>,
    /// How tasks ended.
    pub(crate) tasks: Vec<TaskDiff>,
}

/// An input of two runs.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ChangedInput {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) a: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) b: Option<Value>,
}

/// A text that is another one.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct TextChange {
    /// The file, or the task of a plan.
    pub(crate) path: String,
    /// As a unified diff.
    pub(crate) diff: String,
}

/// A task of two runs.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct TaskDiff {
    pub(crate) name: String,
    /// Its state there; none where the run has no such task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) a: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) b: Option<String>,
    /// How long it took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) a_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) b_ms: Option<u64>,
}

/// How a held task goes on.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Answer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) task: Option<String>,
    pub(crate) answer: HoldAnswer,
    pub(crate) actor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) comment: Option<String>,
}

/// Somebody's word on an approval.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Approval")]
pub(crate) struct Consent {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) task: Option<String>,
    pub(crate) agrees: bool,
    pub(crate) actor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) comment: Option<String>,
}

/// An answer that is on disk.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Answered {
    /// The task that it holds for.
    pub(crate) task: TaskName,
}

/// A run that follows on one that is over.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct FollowUp {
    #[serde(flatten)]
    pub(crate) how: How,
    pub(crate) actor: Option<String>,
}

/// How it follows.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "how", rename_all = "kebab-case")]
pub(crate) enum How {
    /// It takes back what the other one changed.
    Undo {
        #[serde(default)]
        force: bool,
    },
    /// It does what the other one did not get done.
    Retry {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
    },
    /// It does all of it once more.
    Rerun,
}

/// Whose environments.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Environments {
    /// The operator's files; those of the process that answers where none are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bundle: Option<Value>,
}

/// What to look at in an environment.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Look {
    /// The operator's files; those of the process that answers where none are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bundle: Option<Value>,
    pub(crate) environment: String,
}

/// Which lane of an environment.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct OneLane {
    /// The operator's files; those of the process that answers where none are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bundle: Option<Value>,
    pub(crate) environment: String,
    pub(crate) tag: String,
}

/// A wish that a lane lives longer.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Renew {
    /// The operator's files; those of the process that answers where none are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bundle: Option<Value>,
    pub(crate) environment: String,
    pub(crate) tag: String,
    /// From now on, as in `8h`.
    #[serde(rename = "for")]
    pub(crate) length: String,
    #[serde(default)]
    pub(crate) actor: Option<String>,
}

/// An environment that is to be written to.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Fix {
    /// The operator's files; those of the process that answers where none are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bundle: Option<Value>,
    pub(crate) environment: String,
    #[serde(default)]
    pub(crate) actor: Option<String>,
}

/// A service whose baseline is brought to the version label.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Adopt {
    /// The operator's files; those of the process that answers where none are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bundle: Option<Value>,
    pub(crate) environment: String,
    pub(crate) service: String,
    #[serde(default)]
    pub(crate) actor: Option<String>,
}

/// What to render.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Render {
    /// The operator's files; those of the process that answers where none are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bundle: Option<Value>,
    pub(crate) request: RenderRequest,
}

/// What a task would do.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Preview {
    pub(crate) task: String,
    #[serde(rename = "type")]
    pub(crate) type_name: String,
    /// `plan`, `skipped`, `refused` or `unknown`.
    pub(crate) verdict: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<Plan>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<TaskError>,
}

impl From<TaskPreview> for Preview {
    fn from(preview: TaskPreview) -> Preview {
        let (verdict, plan, reason, error) = match preview.verdict {
            Verdict::Plan(plan) => ("plan", Some(plan), None, None),
            Verdict::Skipped(reason) => ("skipped", None, Some(reason.to_owned()), None),
            Verdict::Refused(error) => ("refused", None, None, Some(error)),
            Verdict::Unknown => {
                ("unknown", None, Some("something before it would not succeed".to_owned()), None)
            }
        };
        Preview {
            task: preview.task.to_string(),
            type_name: preview.type_name,
            verdict: verdict.into(),
            plan,
            reason,
            error,
        }
    }
}

/// What happens, one a line.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Update {
    /// A record that is on disk.
    Record(Box<Record>),
    /// How far a task is.
    Progress {
        task: String,
        #[serde(flatten)]
        progress: Progress,
    },
    /// A line of the log.
    Log(LogLine),
    /// The last line: the run is final, and this is all of it.
    Ended(Box<RunView>),
}

/// The data of an event of a run's stream, by the event's name.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum RunEvent {
    /// `record`: one that is on disk; its `seq` is the event's id.
    Record(Box<Record>),
    /// `progress`: how far a task is.
    Progress {
        task: String,
        #[serde(flatten)]
        progress: Progress,
    },
    /// `log`: a line of the log.
    Log(LogLine),
    /// `ended`: the run is final, and this is all of it.
    Ended(Box<RunView>),
}

/// The data of an event of the stream of everything, by the event's name.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Happened {
    /// `audit`: an entry of the audit log; its position is the event's id.
    Audit(AuditLine),
    /// `record`: something happened in a run; without an id.
    Record(Hint),
}

/// A token to make.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    /// Who or what will hold it: the name that stands in records.
    pub(crate) name: String,
    /// What it may do.
    pub(crate) role: Role,
    /// After how long it ends by itself, as in `90d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<String>,
    /// The only environments that it is for; all where none is named.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) environments: BTreeSet<String>,
    /// The only workflows that it is for; all where none is named.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) workflows: BTreeSet<String>,
    /// Who makes it; only over the socket, a token says it by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) actor: Option<String>,
}

/// A token that was made. It is never shown again.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct MadeToken {
    pub(crate) id: String,
    pub(crate) name: String,
    /// The token itself.
    pub(crate) token: String,
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub(crate) expires: Option<Timestamp>,
}

/// A token, without the token.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Token {
    pub(crate) id: String,
    /// Who or what holds it.
    pub(crate) name: String,
    pub(crate) role: Role,
    /// `valid`, `expired` or `revoked`.
    pub(crate) state: String,
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub(crate) created: Timestamp,
    /// Who made it.
    pub(crate) by: String,
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub(crate) expires: Option<Timestamp>,
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub(crate) revoked: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) environments: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) workflows: BTreeSet<String>,
}

/// A token that shall end.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revoke {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) actor: Option<String>,
}

/// A token that has ended.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Revoked {
    pub(crate) id: String,
}

/// Who calls.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Me {
    /// The name of the token's holder; none over the socket, where any name may be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) role: Role,
    /// Whether the name is proved.
    pub(crate) authenticated: bool,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) environments: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) workflows: BTreeSet<String>,
}

/// An error, as RFC 9457 shapes it, with a code that does not change.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Problem {
    /// `urn:graylane:problem:CODE`.
    #[serde(rename = "type", default, skip_serializing_if = "String::is_empty")]
    pub(crate) kind: String,
    /// The code in words, whatever the case.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) title: String,
    /// The status of the answer.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) status: u16,
    /// What went wrong, as programs tell it apart.
    pub(crate) code: String,
    /// The same of this case.
    pub(crate) detail: String,
    /// Problems of files, each with its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) problems: Vec<WireProblem>,
    /// More lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) details: Vec<String>,
    /// What can be done about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
}

fn is_zero(status: &u16) -> bool {
    *status == 0
}
