//! Environments: which there are, whether they are ready for gray releases, and bringing a baseline to the version label.

use axum::Json;
use axum::extract::State as Given;
use graylane_engine::ledger::Deed;
use graylane_tasks::adoption::{self, Adoption, Stepped};
use graylane_tasks::environment::{Summary, summaries};
use graylane_tasks::readiness::{self, Readiness};

use super::caller::Caller;
use super::error::ApiError;
use super::extract::Body;
use super::site::site;
use super::{State, bundles, wire};

pub(super) async fn list(
    Given(state): Given<State>,
    caller: Caller,
    Body(asked): Body<wire::Environments>,
) -> Result<Json<Vec<Summary>>, ApiError> {
    let bundle = bundles::sent(&state, &caller, asked.bundle.as_ref()).await?;
    Ok(Json(summaries(&bundle, state.parts.clock.now())))
}

pub(super) async fn check(
    Given(state): Given<State>,
    caller: Caller,
    Body(asked): Body<wire::Look>,
) -> Result<Json<Readiness>, ApiError> {
    let site = site(&state, &caller, asked.bundle.as_ref(), &asked.environment).await?;
    let cluster = state.clusters.connect(&site).await?;
    Ok(Json(readiness::check(&cluster, &site, false).await?))
}

pub(super) async fn fix(
    Given(state): Given<State>,
    caller: Caller,
    Body(asked): Body<wire::Fix>,
) -> Result<Json<Readiness>, ApiError> {
    let site = site(&state, &caller, asked.bundle.as_ref(), &asked.environment).await?;
    let cluster = state.clusters.connect(&site).await?;
    let found = readiness::check(&cluster, &site, false).await?;
    let wrong: Vec<String> = found
        .findings
        .iter()
        .filter(|finding| finding.fixable)
        .map(|finding| finding.message.clone())
        .collect();
    if wrong.is_empty() {
        return Ok(Json(found));
    }
    // On disk before anything is written.
    let what = format!("mended: {}", wrong.join("; "));
    let deed =
        Deed::EnvironmentChanged { environment: asked.environment, what, by: caller.name(asked.actor) };
    state.engine.deed(deed).await?;
    Ok(Json(readiness::check(&cluster, &site, true).await?))
}

pub(super) async fn plan(
    Given(state): Given<State>,
    caller: Caller,
    Body(asked): Body<wire::Adopt>,
) -> Result<Json<Adoption>, ApiError> {
    let site = site(&state, &caller, asked.bundle.as_ref(), &asked.environment).await?;
    let cluster = state.clusters.connect(&site).await?;
    Ok(Json(adoption::look(&cluster, &site, &asked.service, state.parts.clock.now()).await?))
}

pub(super) async fn step(
    Given(state): Given<State>,
    caller: Caller,
    Body(asked): Body<wire::Adopt>,
) -> Result<Json<Stepped>, ApiError> {
    let site = site(&state, &caller, asked.bundle.as_ref(), &asked.environment).await?;
    let cluster = state.clusters.connect(&site).await?;
    let now = state.parts.clock.now();
    let next = adoption::look(&cluster, &site, &asked.service, now).await?;
    if next.writes
        && let Some(first) = next.steps.first()
    {
        // On disk before anything is written.
        let what = format!("adopted `{}`: {first}", asked.service);
        let deed =
            Deed::EnvironmentChanged { environment: asked.environment, what, by: caller.name(asked.actor) };
        state.engine.deed(deed).await?;
    }
    Ok(Json(adoption::step(&cluster, &site, &asked.service, now).await?))
}
