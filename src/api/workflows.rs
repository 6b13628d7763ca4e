//! Workflows as the daemon knows them, from all sources: what is good, what is wrong, what is paused; and a run by name.

use axum::Json;
use axum::extract::State as Given;
use graylane_engine::bundle::{ATTACHED, WORKFLOW_FILE};
use graylane_engine::clock::{Timestamp, rfc3339};
use graylane_engine::id::WorkflowUid;
use graylane_engine::ledger::{Deed, Standing};
use graylane_engine::run::Trigger;
use graylane_engine::scheduler::{DeedError, Submission};
use graylane_engine::trigger::{Catalogue, Known};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::caller::Caller;
use super::error::{ApiError, Code};
use super::extract::{Body, In};
use super::runs::{IdempotencyKey, granted};
use super::wire::Submitted;
use super::{State, bundles};
use crate::problems::WireProblem;

/// Everything that is known of workflows.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Workflows {
    pub(crate) workflows: Vec<WorkflowView>,
    pub(crate) sources: Vec<SourceView>,
    /// What is wrong with the operator's own files: environments and services.
    pub(crate) problems: Vec<WireProblem>,
}

/// A source.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct SourceView {
    pub(crate) name: String,
    /// Where it is.
    pub(crate) place: String,
    /// When it was read last.
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub(crate) read_at: Option<Timestamp>,
    /// The commit that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) commit: Option<String>,
    /// Why it cannot be read now; what was read before still holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
    /// What is worth knowing besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
    /// Problems of files that give no workflow.
    pub(crate) problems: Vec<WireProblem>,
}

/// A workflow of a source.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct WorkflowView {
    pub(crate) source: String,
    pub(crate) name: String,
    /// The file, below its source.
    pub(crate) path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    /// The last good revision; none where there has been none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<String>,
    /// The commit that it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) commit: Option<String>,
    /// Since when it holds.
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub(crate) since: Option<Timestamp>,
    pub(crate) triggers: Vec<TriggerView>,
    /// What is wrong with the file as it is now, and warnings.
    pub(crate) problems: Vec<WireProblem>,
    /// Set while its triggers start nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) paused: Option<PauseView>,
}

/// A schedule of a workflow.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct TriggerView {
    pub(crate) name: String,
    pub(crate) cron: String,
    pub(crate) timezone: String,
}

/// Who paused a workflow, and why.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct PauseView {
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub(crate) since: Timestamp,
    pub(crate) by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

/// Something that happened to a workflow.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct WorkflowDeed {
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub(crate) at: Timestamp,
    /// `workflow-taken`, `workflow-gone`, `workflow-paused`, ...
    pub(crate) deed: String,
    /// Who did it; none where Graylane saw it by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<String>,
    pub(crate) what: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) commit: Option<String>,
}

/// Why a workflow is paused, or not any more.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct PauseRequest {
    /// Counts on the socket alone; elsewhere the token says who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) actor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

/// A run of a workflow as the daemon knows it.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct RunRequest {
    #[serde(default)]
    pub(crate) inputs: Map<String, Value>,
    /// Inputs as the command line has them, `NAME=VALUE`: parsed by their declared type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) set: Vec<String>,
    #[serde(default)]
    pub(crate) only: Vec<String>,
    #[serde(default)]
    pub(crate) skip: Vec<String>,
    /// Counts on the socket alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) actor: Option<String>,
}

/// The longest reason.
const REASON_LENGTH: usize = 1_000;

/// A catalogue as it is shown.
pub(crate) fn shown(catalogue: &Catalogue, standing: &Standing) -> Workflows {
    let sources = catalogue.sources.iter().map(|(name, source)| SourceView {
        name: name.to_string(),
        place: source.place.clone(),
        read_at: source.read_at,
        commit: source.commit.clone(),
        problem: source.problem.clone(),
        note: source.note.clone(),
        problems: source.problems.iter().map(WireProblem::from).collect(),
    });
    Workflows {
        workflows: catalogue.workflows.iter().map(|(uid, known)| view(uid, known, standing)).collect(),
        sources: sources.collect(),
        problems: catalogue.problems.iter().map(WireProblem::from).collect(),
    }
}

fn view(uid: &WorkflowUid, known: &Known, standing: &Standing) -> WorkflowView {
    let good = known.good.as_ref();
    let triggers = good.map(|good| {
        let each = good.graph.triggers.iter().map(|trigger| TriggerView {
            name: trigger.name.clone(),
            cron: trigger.cron.clone(),
            timezone: trigger.timezone.name().to_owned(),
        });
        each.collect()
    });
    WorkflowView {
        source: uid.source.to_string(),
        name: uid.name.to_string(),
        path: known.path.clone(),
        description: good.and_then(|good| good.graph.description.clone()),
        revision: good.map(|good| good.revision.to_string()),
        commit: good.and_then(|good| good.sourced.commit.clone()),
        since: good.map(|good| good.since),
        triggers: triggers.unwrap_or_default(),
        problems: known.problems.iter().map(WireProblem::from).collect(),
        paused: standing.paused.get(uid).map(|pause| PauseView {
            since: pause.since,
            by: pause.by.clone(),
            reason: pause.reason.clone(),
        }),
    }
}

pub(super) async fn list(Given(state): Given<State>, caller: Caller) -> Json<Workflows> {
    let catalogue = std::sync::Arc::clone(&state.catalogue.borrow());
    let mut shown = shown(&catalogue, &state.engine.standing());
    shown.workflows.retain(|workflow| reaches(&caller, &workflow.name).is_ok());
    Json(shown)
}

/// The workflow that the path names.
fn uid(caller: &Caller, (source, workflow): (String, String)) -> Result<WorkflowUid, ApiError> {
    let uid: WorkflowUid =
        format!("{source}/{workflow}").parse().map_err(|error| ApiError::bad_request(format!("{error}")))?;
    reaches(caller, uid.name.as_str())?;
    Ok(uid)
}

/// Refuses who is limited to other workflows.
fn reaches(caller: &Caller, workflow: &str) -> Result<(), ApiError> {
    match caller {
        Caller::Token { name, workflows, .. } if !workflows.is_empty() && !workflows.contains(workflow) => {
            Err(ApiError::not_allowed(format!("the token of {name} is not for the workflow {workflow}")))
        }
        Caller::Token { .. } | Caller::Owner | Caller::Anonymous(_) => Ok(()),
    }
}

fn known(catalogue: &Catalogue, uid: &WorkflowUid) -> Result<Known, ApiError> {
    let known = catalogue.workflows.get(uid).cloned();
    known.ok_or_else(|| ApiError::not_found(format!("there is no workflow {uid}")))
}

pub(super) async fn show(
    Given(state): Given<State>,
    caller: Caller,
    In(path): In<(String, String)>,
) -> Result<Json<WorkflowView>, ApiError> {
    let uid = uid(&caller, path)?;
    let known = known(&state.catalogue.borrow(), &uid)?;
    Ok(Json(view(&uid, &known, &state.engine.standing())))
}

pub(super) async fn history(
    Given(state): Given<State>,
    caller: Caller,
    In(path): In<(String, String)>,
) -> Result<Json<Vec<WorkflowDeed>>, ApiError> {
    let uid = uid(&caller, path)?;
    let deeds = state.engine.deeds().map_err(|error| ApiError::store(error.to_string()))?;
    let mine = deeds.into_iter().filter(|record| record.deed.workflow() == Some(&uid));
    let shown: Vec<WorkflowDeed> = mine
        .map(|record| {
            let (revision, commit) = match &record.deed {
                Deed::WorkflowTaken { revision, commit, .. } => (Some(revision.to_string()), commit.clone()),
                _ => (None, None),
            };
            WorkflowDeed {
                at: record.at,
                deed: record.deed.name().to_owned(),
                by: record.deed.actor().map(str::to_owned),
                what: record.deed.words(),
                revision,
                commit,
            }
        })
        .collect();
    if shown.is_empty() {
        known(&state.catalogue.borrow(), &uid)?;
    }
    Ok(Json(shown))
}

pub(super) async fn pause(
    Given(state): Given<State>,
    caller: Caller,
    In(path): In<(String, String)>,
    Body(asked): Body<PauseRequest>,
) -> Result<Json<PauseView>, ApiError> {
    let workflow = uid(&caller, path)?;
    must_be_known(&state, &workflow)?;
    let (by, reason) = (caller.name(asked.actor), bounded(asked.reason));
    state
        .engine
        .deed(Deed::WorkflowPaused { workflow: workflow.clone(), by, reason })
        .await
        .map_err(refused)?;
    let standing = state.engine.standing();
    let pause = standing.paused.get(&workflow);
    let pause =
        pause.ok_or_else(|| ApiError::new(Code::Conflict, format!("{workflow} was unpaused meanwhile")))?;
    Ok(Json(PauseView { since: pause.since, by: pause.by.clone(), reason: pause.reason.clone() }))
}

pub(super) async fn unpause(
    Given(state): Given<State>,
    caller: Caller,
    In(path): In<(String, String)>,
    Body(asked): Body<PauseRequest>,
) -> Result<Json<WorkflowDeed>, ApiError> {
    let workflow = uid(&caller, path)?;
    let (by, reason) = (caller.name(asked.actor), bounded(asked.reason));
    let deed = Deed::WorkflowUnpaused { workflow, by, reason };
    let what = deed.words();
    let name = deed.name().to_owned();
    let by = deed.actor().map(str::to_owned);
    state.engine.deed(deed).await.map_err(refused)?;
    Ok(Json(WorkflowDeed { at: state.parts.clock.now(), deed: name, by, what, revision: None, commit: None }))
}

/// Where sources are read, a name that they do not hold is a mistake. A command that holds the store for a moment reads none.
fn must_be_known(state: &State, workflow: &WorkflowUid) -> Result<(), ApiError> {
    let catalogue = state.catalogue.borrow();
    let standing = state.engine.standing();
    if catalogue.workflows.contains_key(workflow)
        || standing.revisions.contains_key(workflow)
        || catalogue.sources.is_empty()
    {
        return Ok(());
    }
    Err(ApiError::not_found(format!("there is no workflow {workflow}")))
}

fn bounded(reason: Option<String>) -> Option<String> {
    reason
        .filter(|reason| !reason.trim().is_empty())
        .map(|reason| reason.chars().take(REASON_LENGTH).collect())
}

fn refused(error: DeedError) -> ApiError {
    match error {
        DeedError::Refused(why) => ApiError::new(Code::Conflict, why.to_string()),
        DeedError::Journal(error) => ApiError::store(error.to_string()),
        DeedError::Stopping => ApiError::new(Code::Stopping, error.to_string()),
    }
}

pub(super) async fn run(
    Given(state): Given<State>,
    caller: Caller,
    key: IdempotencyKey,
    In(path): In<(String, String)>,
    Body(asked): Body<RunRequest>,
) -> Result<Json<Submitted>, ApiError> {
    let uid = uid(&caller, path)?;
    let key = key.of(&caller, &(uid.to_string(), &asked));
    if let Some(before) = granted(&state, key.as_ref()).await? {
        return Ok(before);
    }
    let known = known(&state.catalogue.borrow(), &uid)?;
    let good = known.good.ok_or_else(|| {
        let first = known.problems.first().map(|problem| format!(": {problem}")).unwrap_or_default();
        ApiError::new(Code::InvalidWorkflow, format!("{uid} has no revision that can run{first}"))
    })?;
    let mut inputs =
        graylane_engine::input::parse_pairs(&good.graph.inputs, asked.set.iter().map(String::as_str))
            .map_err(|wrong| ApiError::new(Code::InvalidInputs, wrong.join("; ")))?;
    inputs.extend(asked.inputs);
    let mut bundle = bundles::operators(&state, &caller).await?;
    bundle.add(WORKFLOW_FILE, good.bundle.get(WORKFLOW_FILE).unwrap_or_default());
    // The files that it names are a part of the revision.
    for (name, bytes) in good.bundle.below(ATTACHED) {
        bundle.add(name, bytes);
    }
    let submission = Submission {
        bundle,
        inputs,
        only: asked.only,
        skip: asked.skip,
        from: None,
        actor: caller.name(asked.actor),
        trigger: Trigger::Manual,
        vars: state.settings.vars.clone(),
        secrets: state.settings.secret_names(),
        source: Some(good.sourced),
        key,
    };
    let id = state.engine.submit(submission).await?;
    Ok(Json(Submitted { id: id.to_string() }))
}
