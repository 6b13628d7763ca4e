//! Runs by the name of their workflow: files, variables and environments are those of the daemon.

use axum::Json;
use axum::extract::State as Given;
use graylane_engine::document::Problem;
use graylane_engine::input::parse_pairs;
use graylane_engine::run::Trigger;
use graylane_engine::scheduler::{Submission, SubmitError};
use graylane_engine::trigger::{Good, Known};

use super::caller::Caller;
use super::error::ApiError;
use super::extract::{Body, In};
use super::runs::{IdempotencyKey, one};
use super::{State, wire};

/// Submits a run of a workflow of the catalogue, by its name, or as `source/name` where two sources have one of it.
pub(super) async fn submit(
    Given(state): Given<State>,
    caller: Caller,
    key: IdempotencyKey,
    In(name): In<String>,
    Body(asked): Body<wire::SubmitNamed>,
) -> Result<Json<wire::Submitted>, ApiError> {
    let good = good(&state, &name)?;
    let workflow = good.graph.name.as_str();
    let mut bundle = (*good.bundle).clone();
    if let Caller::Token { workflows, environments, .. } = &caller {
        if !workflows.is_empty() && !workflows.contains(workflow) {
            return Err(ApiError::not_allowed(format!("this token is not for the workflow {workflow}")));
        }
        if !environments.is_empty() {
            bundle = super::bundles::within(&bundle, environments);
        }
    }
    let key = key.of(&caller, &(&name, &asked));
    let mut inputs = asked.inputs;
    if !asked.set.is_empty() {
        let read = parse_pairs(&good.graph.inputs, asked.set.iter().map(String::as_str));
        inputs.extend(read.map_err(SubmitError::Inputs)?);
    }
    let from = asked.from.as_deref().map(|text| one(&state, &caller, text)).transpose()?;
    let id = state
        .engine
        .submit(Submission {
            bundle,
            inputs,
            only: asked.only,
            skip: asked.skip,
            from: from.map(|run| run.id),
            actor: caller.name(asked.actor),
            trigger: Trigger::Manual,
            source: Some(good.sourced.clone()),
            key,
            vars: state.settings.vars.clone(),
            secrets: state.settings.secret_names(),
        })
        .await?;
    Ok(Json(wire::Submitted { id: id.to_string() }))
}

/// The last good revision of a workflow.
fn good(state: &State, name: &str) -> Result<Good, ApiError> {
    let catalogue = state.catalogue.get().map(|catalogue| catalogue.borrow().clone());
    let catalogue = catalogue.ok_or_else(|| {
        ApiError::not_found("no daemon reads workflows here").hint("start `graylane serve`, or submit a file")
    })?;
    let fits = |uid: &graylane_engine::id::WorkflowUid| uid.name.as_str() == name || uid.to_string() == name;
    let found: Vec<(String, &Known)> = catalogue
        .workflows
        .iter()
        .filter(|(uid, _)| fits(uid))
        .map(|(uid, known)| (uid.to_string(), known))
        .collect();
    match found.as_slice() {
        [] => Err(ApiError::not_found(format!("there is no workflow `{name}`"))
            .hint("`graylane workflows list` shows them")),
        [(_, Known { good: Some(good), .. })] => Ok(good.clone()),
        [(uid, known)] => {
            let problems: Vec<Problem> = known.problems.clone();
            Err(ApiError::from(SubmitError::Invalid(problems)).hint(format!("{uid} has never been valid")))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|(uid, _)| uid.as_str()).collect();
            Err(ApiError::refused(format!("more than one source has `{name}`: {}", names.join(", "))))
        }
    }
}
