//! What made two runs differ: inputs, files of their bundles, plans; and how both ended. Nothing of it is kept.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State as Given;
use graylane_engine::bundle::Bundle;
use graylane_engine::id::{Digest, TaskName};
use graylane_engine::task::Plan;
use graylane_engine::view::{RunView, TaskView};
use serde_json::Value;
use similar::TextDiff;

use super::State;
use super::caller::Caller;
use super::error::ApiError;
use super::extract::In;
use super::runs::one;
use super::wire::{ChangedInput, RunDiff, TaskDiff, TextChange};

pub(super) async fn diff(
    Given(state): Given<State>,
    caller: Caller,
    In((a, b)): In<(String, String)>,
) -> Result<Json<RunDiff>, ApiError> {
    let (a, b) = (view(&state, &caller, &a).await?, view(&state, &caller, &b).await?);
    let compared = tokio::task::spawn_blocking(move || compare(&state, &a, &b)).await;
    compared.map_err(|error| ApiError::store(error.to_string()))?.map(Json)
}

async fn view(state: &State, caller: &Caller, run: &str) -> Result<RunView, ApiError> {
    let id = one(state, caller, run)?.id;
    let view = state.engine.view(id).await.map_err(|error| ApiError::store(error.to_string()))?;
    view.ok_or_else(|| ApiError::not_found(format!("there is no run {id}")))
}

fn compare(state: &State, a: &RunView, b: &RunView) -> Result<RunDiff, ApiError> {
    let names: BTreeSet<&String> = a.inputs.keys().chain(b.inputs.keys()).collect();
    let inputs = names.into_iter().filter(|name| a.inputs.get(*name) != b.inputs.get(*name));
    let inputs = inputs.map(|name| ChangedInput {
        name: name.clone(),
        a: a.inputs.get(name).cloned(),
        b: b.inputs.get(name).cloned(),
    });
    let (plans_a, plans_b) = (plans(state, a)?, plans(state, b)?);
    let tasks: BTreeSet<&TaskName> = a.tasks.iter().chain(&b.tasks).map(|task| &task.name).collect();
    let text = |plans: &BTreeMap<TaskName, Plan>, task| plans.get(task).map(told).unwrap_or_default();
    let plans =
        tasks.iter().filter_map(|task| change(task.as_str(), &text(&plans_a, *task), &text(&plans_b, *task)));
    let (images_a, images_b) = (images(&plans_a), images(&plans_b));
    let gone = images_a.difference(&images_b).map(|image| format!("- {image}"));
    let come = images_b.difference(&images_a).map(|image| format!("+ {image}"));
    let find = |view: &RunView, name: &TaskName| view.tasks.iter().find(|task| task.name == *name).cloned();
    let ended = tasks.iter().map(|name| {
        let (a, b) = (find(a, name), find(b, name));
        TaskDiff {
            name: name.to_string(),
            a_ms: a.as_ref().and_then(took),
            b_ms: b.as_ref().and_then(took),
            a: a.map(|task| task.status),
            b: b.map(|task| task.status),
        }
    });
    Ok(RunDiff {
        inputs: inputs.collect(),
        files: if a.bundle == b.bundle { Vec::new() } else { files(state, &a.bundle, &b.bundle)? },
        plans: plans.collect(),
        images: gone.chain(come).collect(),
        tasks: ended.collect(),
        a: a.summary.clone(),
        b: b.summary.clone(),
    })
}

fn took(task: &TaskView) -> Option<u64> {
    u64::try_from(task.ended_at?.since(task.started_at?).as_millis()).ok()
}

fn change(path: &str, a: &str, b: &str) -> Option<TextChange> {
    let diff = || TextDiff::from_lines(a, b).unified_diff().context_radius(2).to_string();
    (a != b).then(|| TextChange { path: path.to_owned(), diff: diff() })
}

/// The files of two bundles: workflow, environments, manifests. Secrets are digests there already.
fn files(state: &State, a: &Digest, b: &Digest) -> Result<Vec<TextChange>, ApiError> {
    let read = |digest: &Digest| -> Result<BTreeMap<String, String>, ApiError> {
        let bytes = state.parts.journal.get(digest).map_err(|error| ApiError::store(error.to_string()))?;
        let bundle = Bundle::from_bytes(&bytes).map_err(ApiError::store)?;
        Ok(bundle.below("").map(|(path, bytes)| (path.to_owned(), readable(path, bytes))).collect())
    };
    let (a, b) = (read(a)?, read(b)?);
    let paths: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let text = |files: &BTreeMap<String, String>, path: &String| files.get(path).cloned().unwrap_or_default();
    Ok(paths.into_iter().filter_map(|path| change(path, &text(&a, path), &text(&b, path))).collect())
}

/// JSON on one line says nothing in a diff.
fn readable(path: &str, bytes: &[u8]) -> String {
    let value = if path.ends_with(".json") { serde_json::from_slice::<Value>(bytes).ok() } else { None };
    let pretty = value.and_then(|value| serde_json::to_string_pretty(&value).ok()).map(|text| text + "\n");
    pretty.unwrap_or_else(|| String::from_utf8_lossy(bytes).into_owned())
}

fn plans(state: &State, view: &RunView) -> Result<BTreeMap<TaskName, Plan>, ApiError> {
    let mut plans = BTreeMap::new();
    for task in &view.tasks {
        if let Some(digest) = &task.plan {
            let plan = state.engine.plan(digest).map_err(|error| ApiError::store(error.to_string()))?;
            plans.insert(task.name.clone(), plan);
        }
    }
    Ok(plans)
}

/// A plan as people read it.
fn told(plan: &Plan) -> String {
    let mut text = String::new();
    for change in &plan.changes {
        text.push_str(&format!("{:?} {}\n", change.action, change.object).to_lowercase());
        text.push_str(&change.diff);
    }
    plan.warnings.iter().for_each(|warning| text.push_str(&format!("note: {warning}\n")));
    text
}

/// Every image that plans name.
fn images(plans: &BTreeMap<TaskName, Plan>) -> BTreeSet<String> {
    fn collect(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("image").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| collect(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| collect(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut found = BTreeSet::new();
    plans.values().for_each(|plan| collect(&plan.body, &mut found));
    found
}
