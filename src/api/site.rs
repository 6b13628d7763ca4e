//! What would happen in an environment: previews, gray copies. Nothing is written.

use axum::Json;
use axum::extract::State as Given;
use graylane_engine::preview::preview;
use graylane_tasks::environment::Site;
use graylane_tasks::mse_gray_deploy;
use serde_json::Value;

use super::caller::Caller;
use super::error::ApiError;
use super::extract::Body;
use super::{State, bundles, runs, wire};

pub(super) async fn preview_run(
    Given(state): Given<State>,
    caller: Caller,
    Body(asked): Body<wire::Submit>,
) -> Result<Json<Vec<wire::Preview>>, ApiError> {
    let submission = runs::submission(&state, &caller, asked).await?;
    let previews = preview(&state.parts, &state.engine.standing_changes(), submission).await?;
    Ok(Json(previews.into_iter().map(wire::Preview::from).collect()))
}

pub(super) async fn render(
    Given(state): Given<State>,
    caller: Caller,
    Body(asked): Body<wire::Render>,
) -> Result<Json<Vec<Value>>, ApiError> {
    let site = site(&state, &caller, asked.bundle.as_ref(), &asked.request.environment).await?;
    Ok(Json(mse_gray_deploy::rendered(&state.clusters, &site, &asked.request).await?))
}

/// An environment as the caller may see it.
pub(super) async fn site(
    state: &State,
    caller: &Caller,
    bundle: Option<&Value>,
    environment: &str,
) -> Result<Site, ApiError> {
    let bundle = bundles::sent(state, caller, bundle).await?;
    Site::load(&bundle, environment).map_err(ApiError::refused)
}
