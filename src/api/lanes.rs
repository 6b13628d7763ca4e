//! Lanes: as the cluster has them, hop by hop, and longer than they were meant to live.

use axum::Json;
use axum::extract::State as Given;
use graylane_tasks::cluster::Cluster;
use graylane_tasks::environment::Site;
use graylane_tasks::inventory::{self, Chain, Lane, Standing};
use graylane_tasks::renewal::{self, Renewed};
use serde_json::Value;

use super::error::ApiError;
use super::{State, bundle, wire};

pub(super) async fn list(
    Given(state): Given<State>,
    Json(asked): Json<wire::Look>,
) -> Result<Json<Vec<Lane>>, ApiError> {
    let (site, cluster) = place(&state, &asked.bundle, &asked.environment).await?;
    Ok(Json(inventory::lanes(&cluster, &site, state.parts.clock.now()).await?))
}

pub(super) async fn chain(
    Given(state): Given<State>,
    Json(asked): Json<wire::OneLane>,
) -> Result<Json<Chain>, ApiError> {
    let (site, cluster) = place(&state, &asked.bundle, &asked.environment).await?;
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
    Json(asked): Json<wire::Renew>,
) -> Result<Json<Renewed>, ApiError> {
    let wire::Renew { lane, length, actor } = asked;
    let (site, cluster) = place(&state, &lane.bundle, &lane.environment).await?;
    let renewed = renewal::renew(&cluster, &site, &lane.tag, &length, state.parts.clock.now()).await?;
    tracing::info!(%actor, lane = %lane.tag, environment = %lane.environment, until = %renewed.expires, "a lane was renewed");
    Ok(Json(renewed))
}

/// An environment, and its cluster.
pub(super) async fn place(
    state: &State,
    files: &Value,
    environment: &str,
) -> Result<(Site, Cluster), ApiError> {
    let site = Site::load(&bundle(files)?, environment).map_err(ApiError::refused)?;
    let cluster = state.clusters.connect(&site).await?;
    Ok((site, cluster))
}
