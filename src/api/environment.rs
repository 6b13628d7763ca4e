//! Environments: whether they are ready for gray releases, and bringing a baseline to the version label.

use axum::Json;
use axum::extract::State as Given;
use graylane_tasks::adoption;
use graylane_tasks::readiness::{self, Readiness};

use super::error::ApiError;
use super::lanes::place;
use super::{State, wire};

pub(super) async fn check(
    Given(state): Given<State>,
    Json(asked): Json<wire::Check>,
) -> Result<Json<Readiness>, ApiError> {
    let (site, cluster) = place(&state, &asked.bundle, &asked.environment).await?;
    let found = readiness::check(&cluster, &site, asked.fix).await?;
    for finding in found.findings.iter().filter(|finding| finding.fixed) {
        tracing::info!(actor = %asked.actor, environment = %asked.environment, fixed = %finding.message, "an environment was mended");
    }
    Ok(Json(found))
}

pub(super) async fn adopt(
    Given(state): Given<State>,
    Json(asked): Json<wire::Adopt>,
) -> Result<Json<wire::Adopted>, ApiError> {
    let (site, cluster) = place(&state, &asked.bundle, &asked.environment).await?;
    let now = state.parts.clock.now();
    if !asked.step {
        return Ok(Json(wire::Adopted::Plan(adoption::look(&cluster, &site, &asked.service, now).await?)));
    }
    let stepped = adoption::step(&cluster, &site, &asked.service, now).await?;
    tracing::info!(actor = %asked.actor, environment = %asked.environment, service = %asked.service, did = %stepped.did, "a baseline is adopted");
    Ok(Json(wire::Adopted::Step(stepped)))
}
