//! Who answers, and what can be asked for.

use axum::Json;
use axum::extract::State as Given;
use serde_json::Value;

use super::{State, openapi, wire};

pub(super) async fn health(Given(state): Given<State>) -> Json<wire::Health> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Json(wire::Health { pid: std::process::id(), version, working: state.working })
}

pub(super) async fn document() -> Json<Value> {
    Json(openapi::document().clone())
}
