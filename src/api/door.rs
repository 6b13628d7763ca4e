//! Tokens at the door: which one counts, and how often a wrong one may be shown.
//!
//! A token is `glt_ID_SECRET`. The ledger keeps a hash of it, under its id, and nothing keeps the token. Who shows wrong
//! ones is turned away for a while without a look, except with a token that was right from the same address before: a
//! neighbour's mistakes lock nobody out.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use graylane_engine::clock::Timestamp;
use graylane_engine::id::Digest;
use graylane_engine::ledger::Standing;
use tokio::time::Instant;

use super::caller::Caller;
use super::error::{ApiError, Code};

/// What every token begins with, so that it is known where it should not be.
pub(crate) const PREFIX: &str = "glt_";
/// For how long wrong tokens are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// How many wrong tokens an address may show in a window.
const PER_ADDRESS: u32 = 10;
/// How many all addresses together may.
const IN_ALL: u32 = 200;
/// How many addresses, and right tokens, are remembered.
const REMEMBERED: usize = 10_000;

/// The door.
#[derive(Default)]
pub(crate) struct Door {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    since: Option<Instant>,
    wrong: HashMap<IpAddr, u32>,
    in_all: u32,
    right: HashSet<(IpAddr, String)>,
}

impl Door {
    /// Whose token this is.
    ///
    /// # Errors
    /// It does not count, or too many from there did not.
    pub(crate) fn open(
        &self,
        from: IpAddr,
        token: &str,
        standing: &Standing,
        now: Timestamp,
    ) -> Result<Caller, ApiError> {
        let id = token.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).map_or("", |(id, _)| id);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let left = seen.left(Instant::now());
        let mine = seen.wrong.get(&from).copied().unwrap_or(0);
        let limited = mine >= PER_ADDRESS || seen.in_all >= IN_ALL;
        let known = (from, id.to_owned());
        if limited && !seen.right.contains(&known) {
            let seconds = left.as_secs().max(1);
            return Err(ApiError::new(Code::TooMany, "too many wrong tokens were shown")
                .hint(format!("try again in {seconds} s"))
                .header(header::RETRY_AFTER, HeaderValue::from(seconds)));
        }
        let found = standing.tokens.get(id).filter(|kept| kept.hash == Digest::of(token.as_bytes()));
        let Some(kept) = found else {
            seen.count(from);
            return Err(unauthenticated("this token is not known"));
        };
        if !kept.is_valid(now) {
            seen.count(from);
            let what = if kept.revoked.is_some() { "was revoked" } else { "has expired" };
            return Err(unauthenticated(format!("the token {id} {what}")));
        }
        if seen.right.len() >= REMEMBERED {
            seen.right.clear();
        }
        seen.right.insert(known);
        Ok(Caller::Token {
            name: kept.name.clone(),
            role: kept.role,
            environments: kept.environments.clone(),
            workflows: kept.workflows.clone(),
        })
    }
}

impl Seen {
    /// Begins a new window where the last one is over; gives how long this one goes on.
    fn left(&mut self, now: Instant) -> Duration {
        let since = *self.since.get_or_insert(now);
        let gone = now.duration_since(since);
        if gone < WINDOW {
            return WINDOW - gone;
        }
        self.since = Some(now);
        self.wrong.clear();
        self.in_all = 0;
        WINDOW
    }

    fn count(&mut self, from: IpAddr) {
        self.in_all += 1;
        if self.wrong.len() < REMEMBERED || self.wrong.contains_key(&from) {
            *self.wrong.entry(from).or_insert(0) += 1;
        }
    }
}

/// The token of a request; `None` where it shows none.
///
/// # Errors
/// Something else is shown.
pub(crate) fn shown(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    match token {
        Some(token) => Ok(Some(token)),
        None => Err(unauthenticated("the header `authorization` is not `Bearer TOKEN`")),
    }
}

/// What somebody is told who has to show a token.
pub(crate) fn unauthenticated(detail: impl Into<String>) -> ApiError {
    ApiError::new(Code::Unauthenticated, detail)
        .hint("`graylane token create`, where the daemon runs, makes one; send it as `authorization: Bearer TOKEN`")
        .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"graylane\""))
}

#[cfg(test)]
mod tests {
    use graylane_engine::id::Seq;
    use graylane_engine::ledger::{Deed, DeedRecord, Role};

    use super::*;

    fn standing() -> Standing {
        let deed = Deed::TokenCreated {
            id: "t1".into(),
            name: "ci".into(),
            hash: Digest::of(b"glt_t1_right"),
            role: Role::Viewer,
            expires: Some(Timestamp::from_millis(1_000)),
            environments: Default::default(),
            workflows: Default::default(),
            by: "ann".into(),
        };
        Standing::fold(&[DeedRecord { seq: Seq(1), at: Timestamp::from_millis(1), deed }]).expect("folds")
    }

    fn status(answer: Result<Caller, ApiError>) -> u16 {
        answer.map_or_else(|refused| refused.into_problem().status, |_| 200)
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_tokens_are_turned_away_for_a_while_and_lock_no_neighbour_out() {
        let (door, standing) = (Door::default(), standing());
        let (here, there): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let now = Timestamp::from_millis(500);
        let ask = |from, token| status(door.open(from, token, &standing, now));
        assert_eq!(ask(here, "glt_t1_right"), 200);
        for _ in 0..PER_ADDRESS {
            assert_eq!(ask(here, "glt_t1_wrong"), 401);
            assert_eq!(ask(there, "nothing like it"), 401);
        }
        assert_eq!(ask(here, "glt_t2_right"), 429);
        assert_eq!(ask(here, "glt_t1_right"), 200, "it was right from here before");
        assert_eq!(ask(there, "glt_t1_right"), 429, "it was not from there");
        tokio::time::advance(WINDOW).await;
        assert_eq!(ask(there, "glt_t1_right"), 200);
        for step in 0..IN_ALL {
            ask([10, 1, (step / 200) as u8, (step % 200) as u8].into(), "glt_t1_wrong");
        }
        assert_eq!(ask([10, 9, 9, 9].into(), "glt_t1_right"), 429, "all addresses together");
        assert_eq!(ask(there, "glt_t1_right"), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_ends_by_itself_and_when_it_is_revoked() {
        let (door, mut standing) = (Door::default(), standing());
        let from: IpAddr = [10, 0, 0, 1].into();
        let ask = |standing: &Standing, at| {
            status(door.open(from, "glt_t1_right", standing, Timestamp::from_millis(at)))
        };
        assert_eq!(ask(&standing, 999), 200);
        assert_eq!(ask(&standing, 1_000), 401);
        let deed = Deed::TokenRevoked { id: "t1".into(), by: "ann".into(), reason: None };
        standing.apply(&DeedRecord { seq: Seq(2), at: Timestamp::from_millis(5), deed }).expect("applies");
        assert_eq!(ask(&standing, 6), 401);
    }
}
