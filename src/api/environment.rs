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
    Ok(Json(readiness::check(&cluster, &site).await?))
}

pub(super) async fn fix(
    Given(state): Given<State>,
    caller: Caller,
    Body(asked): Body<wire::Fix>,
) -> Result<Json<Readiness>, ApiError> {
    let site = site(&state, &caller, asked.bundle.as_ref(), &asked.environment).await?;
    let by = caller.name(asked.actor);
    // On disk before anything is written.
    let record = async |what| {
        let deed = Deed::EnvironmentChanged { environment: asked.environment, what, by };
        state.engine.deed(deed).await?;
        Ok::<(), ApiError>(())
    };
    readiness::fix(&state.leases, &state.parts.clock, &site, record).await.map(Json)
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
    let wire::Adopt { environment, service, actor, .. } = asked;
    let by = caller.name(actor);
    // On disk before anything is written.
    let record = async |first: String| {
        let what = format!("adopted `{service}`: {first}");
        let deed = Deed::EnvironmentChanged { environment, what, by };
        state.engine.deed(deed).await?;
        Ok::<(), ApiError>(())
    };
    adoption::step(&state.leases, &state.parts.clock, &site, &service, record).await.map(Json)
}
