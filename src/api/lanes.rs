//! Lanes: as the cluster has them, hop by hop, and longer than they were meant to live.

use axum::Json;
use axum::extract::State as Given;
use graylane_engine::ledger::Deed;
use graylane_tasks::inventory::{self, Chain, Lane, Standing};
use graylane_tasks::renewal::{self, Renewed};

use super::caller::Caller;
use super::error::ApiError;
use super::extract::Body;
use super::site::site;
use super::{State, wire};

pub(super) async fn list(
    Given(state): Given<State>,
    caller: Caller,
    Body(asked): Body<wire::Look>,
) -> Result<Json<Vec<Lane>>, ApiError> {
    let site = site(&state, &caller, asked.bundle.as_ref(), &asked.environment).await?;
    let cluster = state.clusters.connect(&site).await?;
    Ok(Json(inventory::lanes(&cluster, &site, state.parts.clock.now()).await?))
}

pub(super) async fn chain(
    Given(state): Given<State>,
    caller: Caller,
    Body(asked): Body<wire::OneLane>,
) -> Result<Json<Chain>, ApiError> {
    let site = site(&state, &caller, asked.bundle.as_ref(), &asked.environment).await?;
    let cluster = state.clusters.connect(&site).await?;
    let standing = Standing::look(&cluster).await?;
    let now = state.parts.clock.now();
    let chain = inventory::chain(&standing, &site, &asked.tag, now);
    chain.map(Json).ok_or_else(|| {
        let known = inventory::lanes_of(&standing, &site, now).into_iter().map(|lane| lane.tag);
        let known: Vec<String> = known.collect();
        ApiError::not_found(renewal::no_such_lane(&asked.tag, &asked.environment, &known))
    })
}

pub(super) async fn renew(
    Given(state): Given<State>,
    caller: Caller,
    Body(asked): Body<wire::Renew>,
) -> Result<Json<Renewed>, ApiError> {
    let wire::Renew { bundle, environment, tag, length, actor } = asked;
    let site = site(&state, &caller, bundle.as_ref(), &environment).await?;
    let by = caller.name(actor);
    // On disk before anything is written.
    let record = async |until| {
        let deed = Deed::LaneRenewed { environment: environment.clone(), tag: tag.clone(), until, by };
        state.engine.deed(deed).await?;
        Ok::<(), ApiError>(())
    };
    let renewed = renewal::renew(&state.leases, &state.parts.clock, &site, (&tag, &length), record).await;
    renewed.map(Json)
}
