//! The store over the API: what it holds, a check of all of it, a backup while it is in use.

use axum::Json;
use axum::extract::State as Given;
use graylane_engine::journal::{Checked, Counted, Statistics};

use super::State;
use super::caller::Caller;
use super::error::ApiError;
use super::extract::Body;
use super::wire::{Backup, Prune, Pruned};

pub(super) async fn statistics(Given(state): Given<State>) -> Json<Statistics> {
    Json(state.journal.statistics())
}

pub(super) async fn check(Given(state): Given<State>) -> Result<Json<Checked>, ApiError> {
    let checked = tokio::task::spawn_blocking(move || state.journal.check()).await;
    checked.map(Json).map_err(|error| ApiError::store(error.to_string()))
}

/// The file is written by this process: only the owner of the folder can ask for it.
pub(super) async fn backup(
    Given(state): Given<State>,
    Body(asked): Body<Backup>,
) -> Result<Json<Counted>, ApiError> {
    let written = tokio::task::spawn_blocking(move || state.journal.export(&asked.path)).await;
    let written = written.map_err(|error| ApiError::store(error.to_string()))?;
    written.map(Json).map_err(|error| ApiError::store(error.to_string()))
}

pub(super) async fn prune(
    Given(state): Given<State>,
    caller: Caller,
    Body(asked): Body<Prune>,
) -> Result<Json<Pruned>, ApiError> {
    caller.reach(None, [])?;
    let keeper = state.keeper();
    let policy = keeper.policy();
    if policy.keeps_all() {
        return Err(ApiError::refused("the settings do not say how long runs are kept")
            .hint("set `retention.age`, as 90d, or `retention.runs`, as 10000"));
    }
    let (rule, store) = (policy.words(), |error: String| ApiError::store(error));
    if asked.dry_run {
        let kept = keeper.kept().await;
        let runs = state.engine.due(policy, kept).await.map_err(|error| store(error.to_string()))?;
        return Ok(Json(Pruned { rule, runs: runs.len() as u64, objects: None, due: runs }));
    }
    let done = keeper.pass(caller.name(asked.actor)).await.map_err(store)?;
    Ok(Json(Pruned { rule, runs: done.runs, objects: Some(done.objects), due: Vec::new() }))
}

pub(super) async fn compact(Given(state): Given<State>) -> Result<Json<Statistics>, ApiError> {
    state.journal.compact().await.map_err(|error| ApiError::store(error.to_string()))?;
    Ok(Json(state.journal.statistics()))
}
