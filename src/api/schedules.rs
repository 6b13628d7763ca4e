//! Schedules over the API: how they stand, and what became of their slots.

use axum::Json;
use axum::extract::State as Given;
use graylane_engine::trigger::{self, ScheduleLine, SlotLine, SlotQuery};

use super::State;
use super::caller::Caller;
use super::error::ApiError;
use super::extract::Asked;
use super::wire::SlotPart;

const MAX_SLOTS: usize = 10_000;

pub(super) async fn list(
    Given(state): Given<State>,
    caller: Caller,
) -> Result<Json<Vec<ScheduleLine>>, ApiError> {
    let mut lines =
        trigger::schedules(&*state.parts.journal).map_err(|error| ApiError::store(error.to_string()))?;
    lines.retain(|line| reaches(&caller, &line.schedule));
    Ok(Json(lines))
}

pub(super) async fn slots(
    Given(state): Given<State>,
    caller: Caller,
    Asked(asked): Asked<SlotPart>,
) -> Result<Json<Vec<SlotLine>>, ApiError> {
    let limit = asked.limit.unwrap_or(50);
    if limit > MAX_SLOTS {
        return Err(ApiError::bad_request(format!("limit: at most {MAX_SLOTS} lines")));
    }
    let since = asked.since.as_deref().map(str::parse).transpose();
    let since = since.map_err(|why: String| ApiError::bad_request(format!("since: {why}")))?;
    // A page is of what the caller may see.
    let workflows = match &caller {
        Caller::Token { workflows, .. } => workflows.clone(),
        Caller::Owner | Caller::Anonymous(_) => Default::default(),
    };
    let query = SlotQuery { schedule: asked.schedule, workflows, outcome: asked.outcome, since, limit };
    let journal = state.parts.journal;
    let read = tokio::task::spawn_blocking(move || trigger::slots(&*journal, &query)).await;
    let read = read.map_err(|error| ApiError::store(error.to_string()))?;
    let mut lines = read.map_err(|error| ApiError::store(error.to_string()))?;
    lines.retain(|line| reaches(&caller, &line.schedule));
    Ok(Json(lines))
}

/// Whether the caller may see a schedule, which is named by source, workflow and trigger.
pub(super) fn reaches(caller: &Caller, schedule: &str) -> bool {
    caller.reach(schedule.split('/').nth(1), std::iter::empty()).is_ok()
}
