//! Files that come with a request, and whose they are.
//!
//! Environments are the operator's. From the owner of the data folder they come with the bundle, as its other files;
//! from everybody else the workflow is taken, with the files that it names, and nothing more: the environments are those of this process, and of these
//! only the ones that the caller's token is for.

use std::collections::{BTreeMap, BTreeSet};

use graylane_engine::bundle::{ATTACHED, Bundle, WORKFLOW_FILE};
use graylane_engine::graph::{Known, check};
use graylane_engine::input::parse_pairs;
use graylane_engine::scheduler::SubmitError;
use graylane_engine::task::Site;
use graylane_tasks::environment::{gather, names};
use serde_json::{Map, Value};

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
            if names(&bundle).is_empty() {
                // Without any, names of environments would not be checked.
                return Err(ApiError::refused("there is no environment here that this caller may use"));
            }
            if let Some(given) = &given {
                // The workflow, and the patches and manifests that it names.
                let files = given.get(WORKFLOW_FILE).map(|workflow| (WORKFLOW_FILE, workflow));
                for (path, bytes) in files.into_iter().chain(given.below(ATTACHED)) {
                    bundle.add(path, bytes);
                }
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
    let key = state.digests.clone();
    let gathered = tokio::task::spawn_blocking(move || gather(&settings.environments, &key)).await;
    let gathered = gathered.map_err(|error| ApiError::store(error.to_string()))?.bundle;
    let Caller::Token { environments: mine, .. } = caller else { return Ok(gathered) };
    if mine.is_empty() {
        return Ok(gathered);
    }
    Ok(within(&gathered, mine))
}

/// A bundle with these environments alone.
pub(super) fn within(whole: &Bundle, environments: &BTreeSet<String>) -> Bundle {
    let mut bundle = Bundle::default();
    for (path, bytes) in whole.below("") {
        let mut parts = path.split('/');
        let name = match parts.next() {
            Some("environments" | "services") => parts.next().unwrap_or_default(),
            _ => {
                bundle.add(path, bytes);
                continue;
            }
        };
        if environments.contains(name.trim_end_matches(".json").trim_end_matches(".origin")) {
            bundle.add(path, bytes);
        }
    }
    bundle
}

/// Inputs as the command line has them, read by the types that the bundle's workflow declares.
pub(super) fn read_inputs(
    state: &State,
    bundle: &Bundle,
    set: &[String],
    vars: &BTreeMap<String, Value>,
    secrets: &BTreeSet<String>,
) -> Result<Map<String, Value>, ApiError> {
    let file =
        bundle.get(WORKFLOW_FILE).ok_or_else(|| ApiError::bad_request("the bundle has no workflow"))?;
    let known = Known { vars: vars.keys().cloned().collect(), secrets: secrets.clone() };
    let site = Site { workflow: None, files: bundle };
    let checked = check(WORKFLOW_FILE, file, state.engine.registry(), &known, site);
    let graph = checked.graph.ok_or(SubmitError::Invalid(checked.problems))?;
    let read = parse_pairs(&graph.inputs, set.iter().map(String::as_str));
    Ok(read.map_err(SubmitError::Inputs)?)
}
