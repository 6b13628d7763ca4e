//! Files that come with a request, and whose they are.
//!
//! Environments are the operator's. From the owner of the data folder they come with the bundle, as its other files;
//! from everybody else the workflow is taken and nothing more: the environments are those of this process, and of these
//! only the ones that the caller's token is for.

use graylane_engine::bundle::{Bundle, WORKFLOW_FILE};
use graylane_tasks::environment::gather;
use serde_json::Value;

use super::State;
use super::caller::Caller;
use super::error::ApiError;

/// The bundle of a request: what was sent, as far as the caller may bring it.
pub(super) async fn sent(state: &State, caller: &Caller, value: Option<&Value>) -> Result<Bundle, ApiError> {
    let given = value.map(parsed).transpose()?;
    match given {
        Some(given) if caller.is_owner() => Ok(given),
        given => {
            let mut bundle = operators(state, caller).await?;
            if let Some(workflow) = given.as_ref().and_then(|given| given.get(WORKFLOW_FILE)) {
                bundle.add(WORKFLOW_FILE, workflow);
            }
            Ok(bundle)
        }
    }
}

fn parsed(value: &Value) -> Result<Bundle, ApiError> {
    Bundle::from_bytes(value.to_string().as_bytes()).map_err(ApiError::bad_request)
}

/// The operator's files as this process has them, as far as the caller's token is for them.
pub(super) async fn operators(state: &State, caller: &Caller) -> Result<Bundle, ApiError> {
    let settings = std::sync::Arc::clone(&state.settings);
    let key = crate::holder::digest_key(&settings).map_err(ApiError::store)?;
    let gathered = tokio::task::spawn_blocking(move || gather(&settings.environments, &key)).await;
    let gathered = gathered.map_err(|error| ApiError::store(error.to_string()))?.bundle;
    let Caller::Token { environments: mine, .. } = caller else { return Ok(gathered) };
    if mine.is_empty() {
        return Ok(gathered);
    }
    let mut bundle = Bundle::default();
    for (path, bytes) in gathered.below("environments/").chain(gathered.below("services/")) {
        let name = path.split('/').nth(1).unwrap_or_default();
        let name = name.trim_end_matches(".json").trim_end_matches(".origin");
        if mine.contains(name) {
            bundle.add(path, bytes);
        }
    }
    Ok(bundle)
}
