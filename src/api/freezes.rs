//! Freezing an environment, and thawing it: deeds of the ledger. Windows of the environment's file are not changed here.

use axum::Json;
use axum::extract::State as Given;
use graylane_engine::clock::Timestamp;
use graylane_engine::ledger::Deed;
use graylane_engine::schema::nearest;

use super::caller::Caller;
use super::error::{ApiError, Code};
use super::extract::{Body, In};
use super::wire::{Frozen, ToFreeze, ToThaw};
use super::{State, bundles};

/// The longest reason: it is shown in lines.
const REASON_BYTES: usize = 1_000;

pub(super) async fn list(Given(state): Given<State>, caller: Caller) -> Json<Vec<Frozen>> {
    Json(frozen(&state, &caller))
}

/// What people have frozen, as far as the caller may see it.
pub(super) fn frozen(state: &State, caller: &Caller) -> Vec<Frozen> {
    let standing = state.engine.standing();
    let seen = standing.freezes(state.parts.clock.now()).filter(|(name, _)| caller.reach_environment(name));
    seen.map(|(environment, freeze)| Frozen {
        environment: environment.to_owned(),
        since: freeze.since,
        by: freeze.by.clone(),
        reason: freeze.reason.clone(),
        until: freeze.until,
    })
    .collect()
}

pub(super) async fn freeze(
    Given(state): Given<State>,
    caller: Caller,
    In(environment): In<String>,
    Body(asked): Body<ToFreeze>,
) -> Result<Json<Vec<Frozen>>, ApiError> {
    may(&caller, &environment)?;
    known(&state, &environment).await?;
    let reason = asked.reason.trim().to_owned();
    if reason.is_empty() || reason.len() > REASON_BYTES {
        return Err(ApiError::bad_request(format!("reason: say why, in at most {REASON_BYTES} bytes")));
    }
    let until = asked.until.as_deref().map(str::parse::<Timestamp>).transpose();
    let until = until.map_err(|why| ApiError::bad_request(format!("until: {why}")))?;
    let by = caller.name(asked.actor);
    state.engine.deed(Deed::EnvironmentFrozen { environment, by, reason, until }).await?;
    Ok(Json(frozen(&state, &caller)))
}

pub(super) async fn thaw(
    Given(state): Given<State>,
    caller: Caller,
    In(environment): In<String>,
    Body(asked): Body<ToThaw>,
) -> Result<Json<Vec<Frozen>>, ApiError> {
    may(&caller, &environment)?;
    let by = caller.name(asked.actor);
    state.engine.deed(Deed::EnvironmentThawed { environment, by, reason: asked.reason }).await?;
    Ok(Json(frozen(&state, &caller)))
}

fn may(caller: &Caller, environment: &str) -> Result<(), ApiError> {
    if caller.reach_environment(environment) {
        return Ok(());
    }
    Err(ApiError::not_allowed(format!("the token is not for environment `{environment}`")))
}

/// A freeze of a name that is none would stop nobody, and nobody would notice. A broken file still names its environment.
async fn known(state: &State, environment: &str) -> Result<(), ApiError> {
    let gathered = bundles::operators(state, &Caller::Owner).await?;
    let mut names = graylane_tasks::environment::names(&gathered);
    let folder = state.settings.environments.clone();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_file = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        names.extend(path.file_stem().filter(|_| is_file).map(|stem| stem.to_string_lossy().into_owned()));
    }
    if names.iter().any(|name| name == environment) {
        return Ok(());
    }
    let near = nearest(environment, names.iter().map(String::as_str));
    let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    Err(ApiError::new(Code::NotFound, format!("there is no environment `{environment}`{near}")))
}
