//! What goes over the socket. These types are the API; domain types are converted by hand where they differ.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use graylane_engine::id::TaskName;
use graylane_engine::journal::{PAGE, Query};
use graylane_engine::logs::LogLine;
use graylane_engine::preview::{TaskPreview, Verdict};
use graylane_engine::run::{HoldAnswer, Record};
use graylane_engine::task::{Plan, Progress, TaskError};
use graylane_engine::view::RunView;
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
    pub(crate) inputs: Map<String, Value>,
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
    /// Only runs that are not final; they are listed whole.
    #[serde(default)]
    pub(crate) unfinished: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<usize>,
    /// The last run of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<String>,
}

/// The longest page.
const MAX_PAGE: usize = 1_000;

impl List {
    /// The engine's query.
    pub(crate) fn query(self) -> Result<Query, String> {
        let after = self.after.map(|after| after.parse().map_err(|error| format!("after: {error}")));
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
