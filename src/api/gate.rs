//! What stands before every handler: who calls, whether they may, how large a body and how long an answer may be.
//!
//! Nothing reaches a handler without a row of the table that lets it.

use std::net::IpAddr;

use axum::extract::{DefaultBodyLimit, Request, State as Given};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::MethodRouter;
use graylane_engine::id::Digest;
use graylane_engine::ledger::Role;

use super::State;
use super::caller::{Caller, Who};
use super::door::{self, PREFIX, unauthenticated};
use super::error::{ApiError, Code};
use super::route::Route;
use super::server::Peer;
use crate::settings::Anonymous;

/// What the gate knows of a row.
#[derive(Clone)]
struct Row {
    who: Who,
    deadline: std::time::Duration,
    read: bool,
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
    refuse_token_in_address(request)?;
    let caller = match request.extensions().get::<Peer>() {
        Some(Peer::Socket) => return Ok(Caller::Owner),
        Some(Peer::Tcp(from)) => over_tcp(row, from.ip(), request)?,
        None => return Err(unauthenticated("it is not known where this came from")),
    };
    if caller.may(row.who) {
        return Ok(caller);
    }
    Err(match (&caller, row.who) {
        (_, Who::Owner) => {
            ApiError::not_allowed("this is for the owner of the data folder, over its socket: run it there")
        }
        (Caller::Anonymous(_), who) => unauthenticated(format!("this is for {}s", who.word())),
        (_, who) => ApiError::not_allowed(format!(
            "this is for {}s, and {} is {}",
            who.word(),
            caller.name(None),
            caller.role().word()
        )),
    })
}

fn over_tcp(row: &Row, from: IpAddr, request: &Request) -> Result<Caller, ApiError> {
    if let Some(token) = door::shown(request.headers())? {
        let state = &row.state;
        return state.door.open(from, token, &state.engine.standing(), state.parts.clock.now());
    }
    let role = match row.state.settings.anonymous {
        Anonymous::None if row.who == Who::Anybody => Role::Viewer,
        Anonymous::None => return Err(unauthenticated("a token is needed")),
        Anonymous::Viewer => Role::Viewer,
        Anonymous::Operator => Role::Operator,
    };
    if row.who != Who::Anybody {
        refuse_foreign_page(request)?;
    }
    Ok(Caller::Anonymous(role))
}

/// Addresses end up in logs, histories and referrers.
fn refuse_token_in_address(request: &Request) -> Result<(), ApiError> {
    let address = request.uri();
    let query = address.query().unwrap_or_default();
    let named = |pair: &str| {
        let name = pair.split('=').next().unwrap_or_default().to_ascii_lowercase();
        ["token", "access_token", "api_key", "apikey", "authorization"].contains(&name.as_str())
    };
    if query.split('&').any(named) || query.contains(PREFIX) || address.path().contains(PREFIX) {
        return Err(ApiError::new(
            Code::TokenInAddress,
            "a token in an address is not taken: it would end up in logs",
        )
        .hint("send it as `authorization: Bearer TOKEN`, and revoke this one"));
    }
    Ok(())
}

/// Where people without a token may do something, a page of somebody else's in their browser may not do it for them: not
/// from its own origin, and not over a name that was pointed at us.
fn refuse_foreign_page(request: &Request) -> Result<(), ApiError> {
    let text = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let ours = name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let origin = text(header::ORIGIN).map(|origin| origin.split("://").nth(1).unwrap_or_default());
    if ours && origin.is_none_or(|origin| origin == host) {
        return Ok(());
    }
    Err(unauthenticated(
        "without a token only this address itself may be asked, not from another page or name",
    ))
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
