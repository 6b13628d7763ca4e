//! What stands before every handler: who calls, whether they may, how large a body and how long an answer may be.
//!
//! Nothing reaches a handler without a row of the table that lets it.

use axum::extract::{DefaultBodyLimit, Request, State as Given};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::MethodRouter;
use graylane_engine::id::Digest;

use super::State;
use super::caller::{Caller, Who};
use super::error::{ApiError, Code};
use super::route::Route;
use super::server::Peer;

/// What the gate knows of a row.
#[derive(Clone)]
struct Row {
    who: Who,
    deadline: std::time::Duration,
    read: bool,
    #[expect(dead_code, reason = "tokens are looked up in it")]
    state: State,
}

/// The handler of a row, behind the gate.
pub(super) fn before(handler: MethodRouter<State>, state: &State, route: &Route) -> MethodRouter<State> {
    let read = route.method == Method::GET;
    let row = Row { who: route.who, deadline: route.deadline, read, state: state.clone() };
    handler.layer(DefaultBodyLimit::max(route.body)).layer(from_fn_with_state(row, pass))
}

async fn pass(Given(row): Given<Row>, mut request: Request, next: Next) -> Response {
    let caller = match identify(&row, &request) {
        Ok(caller) => caller,
        Err(refusal) => return refusal.into_response(),
    };
    request.extensions_mut().insert(caller);
    let known = row.read.then(|| request.headers().get(header::IF_NONE_MATCH).cloned()).flatten();
    let Ok(response) = tokio::time::timeout(row.deadline, next.run(request)).await else {
        return ApiError::new(Code::TooSlow, "the answer took too long").into_response();
    };
    if row.read { tagged(response, known.as_ref()).await } else { response }
}

/// Who calls, where they may.
fn identify(row: &Row, request: &Request) -> Result<Caller, ApiError> {
    let caller = match request.extensions().get::<Peer>() {
        Some(Peer::Socket) => Caller::Owner,
        None => return Err(ApiError::new(Code::Unauthenticated, "it is not known where this came from")),
    };
    if caller.may(row.who) { Ok(caller) } else { Err(ApiError::not_allowed("not with this role")) }
}

/// A JSON answer with an ETag; who has it already is told so in few bytes.
async fn tagged(response: Response, known: Option<&HeaderValue>) -> Response {
    let json = HeaderValue::from_static("application/json");
    if response.status() != StatusCode::OK || response.headers().get(header::CONTENT_TYPE) != Some(&json) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // It is in memory already: handlers give whole values.
    let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else {
        return ApiError::new(Code::Internal, "the answer could not be written").into_response();
    };
    let tag = format!("\"{}\"", Digest::of(&bytes).short());
    let has = known.and_then(|known| known.to_str().ok()).is_some_and(|known| {
        known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag || one.trim() == "*")
    });
    if let Ok(value) = HeaderValue::from_str(&tag) {
        parts.headers.insert(header::ETAG, value);
    }
    parts.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if has {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(header::CONTENT_TYPE);
        parts.headers.remove(header::CONTENT_LENGTH);
        return Response::from_parts(parts, axum::body::Body::empty());
    }
    Response::from_parts(parts, axum::body::Body::from(bytes))
}
