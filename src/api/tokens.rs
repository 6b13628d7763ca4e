//! Tokens: make one, list them, revoke one; and who one is. A token is shown once, and only its hash is kept.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State as Given;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use graylane_engine::clock::parse_duration;
use graylane_engine::id::{Digest, hex, is_name};
use graylane_engine::ledger::Deed;
use graylane_engine::scheduler::DeedError;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::caller::Caller;
use super::door::PREFIX;
use super::error::{ApiError, Code};
use super::extract::{Body, In};
use super::{State, wire};

/// The longest life of a token: after two years nobody remembers what it was for.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(2 * 366 * 24 * 3600);

pub(super) async fn create(
    Given(state): Given<State>,
    caller: Caller,
    Body(asked): Body<wire::NewToken>,
) -> Result<Json<wire::MadeToken>, ApiError> {
    caller.reach(None, [])?;
    if !is_name(&asked.name) {
        let words = format!("`{}` cannot be the name of a token's holder", asked.name);
        return Err(ApiError::bad_request(words).hint("use up to 63 letters, digits, `-` and `_`"));
    }
    let wrong = |error| ApiError::bad_request(format!("expires: {error}"));
    let life = asked.expires.as_deref().map(parse_duration).transpose().map_err(wrong)?;
    if let Some(life) = life
        && (life.is_zero() || life > LONGEST)
    {
        return Err(ApiError::bad_request("expires: a token lives for two years at most").hint("as in `90d`"));
    }
    let now = state.parts.clock.now();
    let mut random = [0; 36];
    // The clock's numbers can be guessed; these must not be.
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| ApiError::new(Code::Internal, "the system gives no random numbers"))?;
    let id = hex(&random[..4]);
    let secret = BASE64_URL_SAFE_NO_PAD.encode(&random[4..]);
    let token = format!("{PREFIX}{id}_{secret}");
    let expires = life.map(|life| now.plus(life));
    let deed = Deed::TokenCreated {
        id: id.clone(),
        name: asked.name.clone(),
        hash: Digest::of(token.as_bytes()),
        role: asked.role,
        expires,
        environments: asked.environments,
        workflows: asked.workflows,
        by: caller.name(asked.actor),
    };
    state.engine.deed(deed).await.map_err(refused)?;
    Ok(Json(wire::MadeToken { id, name: asked.name, token, expires }))
}

pub(super) async fn list(
    Given(state): Given<State>,
    caller: Caller,
) -> Result<Json<Vec<wire::Token>>, ApiError> {
    caller.reach(None, [])?;
    let now = state.parts.clock.now();
    let standing = state.engine.standing();
    let told = standing.tokens.iter().map(|(id, token)| wire::Token {
        id: id.clone(),
        name: token.name.clone(),
        role: token.role,
        state: match (token.revoked, token.is_valid(now)) {
            (Some(_), _) => "revoked",
            (None, false) => "expired",
            (None, true) => "valid",
        }
        .to_owned(),
        created: token.created,
        by: token.by.clone(),
        expires: token.expires,
        revoked: token.revoked,
        environments: token.environments.clone(),
        workflows: token.workflows.clone(),
    });
    let mut told: Vec<wire::Token> = told.collect();
    told.sort_by_key(|token| std::cmp::Reverse(token.created));
    Ok(Json(told))
}

pub(super) async fn revoke(
    Given(state): Given<State>,
    caller: Caller,
    In(id): In<String>,
    Body(asked): Body<wire::Revoke>,
) -> Result<Json<wire::Revoked>, ApiError> {
    caller.reach(None, [])?;
    if !state.engine.standing().tokens.contains_key(&id) {
        return Err(ApiError::not_found(format!("there is no token {id}")));
    }
    let deed = Deed::TokenRevoked { id: id.clone(), by: caller.name(asked.actor), reason: asked.reason };
    state.engine.deed(deed).await.map_err(refused)?;
    Ok(Json(wire::Revoked { id }))
}

fn refused(error: DeedError) -> ApiError {
    let detail = error.to_string();
    match error {
        DeedError::Refused(_) => ApiError::new(Code::Conflict, detail),
        DeedError::Journal(_) => ApiError::store(detail),
        DeedError::Stopping => ApiError::new(Code::Stopping, detail),
    }
}

pub(super) async fn me(caller: Caller) -> Json<wire::Me> {
    let none = BTreeSet::new;
    Json(match caller {
        Caller::Owner => wire::Me {
            name: None,
            role: graylane_engine::ledger::Role::Admin,
            authenticated: false,
            environments: none(),
            workflows: none(),
        },
        Caller::Token { name, role, environments, workflows } => {
            wire::Me { name: Some(name), role, authenticated: true, environments, workflows }
        }
        Caller::Anonymous(role) => {
            wire::Me { name: None, role, authenticated: false, environments: none(), workflows: none() }
        }
    })
}
