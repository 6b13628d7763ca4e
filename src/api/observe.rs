//! For machines that watch: metrics, and whether the process lives and can be used.
//!
//! `/healthz`: the engine's loop answers; where it does not, only a new process helps. `/readyz`: runs can be taken here, now.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State as Given;
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use graylane_engine::trigger;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;

use super::State;
use super::route::{Answer, Operation, Route};
use crate::metrics::Plain;

/// How long the engine's loop may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The handler of a row, measured.
pub(super) fn measured(handler: MethodRouter<State>, state: &State, route: &Route) -> MethodRouter<State> {
    let (metrics, path, method) = (state.metrics.clone(), route.path, route.method.to_string());
    handler.layer(from_fn(move |request: axum::extract::Request, next: Next| {
        let (metrics, method) = (metrics.clone(), method.clone());
        async move {
            let began = Instant::now();
            let response = next.run(request).await;
            metrics.call(path, &method, response.status().as_u16(), began.elapsed());
            response
        }
    }))
}

/// Whether a part is as it should be.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Part {
    name: &'static str,
    ok: bool,
    /// In words.
    detail: String,
}

/// What a check found.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Condition {
    /// Whether all parts are as they should be.
    ok: bool,
    parts: Vec<Part>,
}

impl IntoResponse for Condition {
    fn into_response(self) -> Response {
        let status = if self.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, Json(self)).into_response()
    }
}

impl Answer for Condition {
    fn describe(operation: &mut Operation<'_>) {
        operation.answer = Some(("application/json", operation.schemas.subschema_for::<Condition>()));
    }
}

fn condition(parts: Vec<Part>) -> Condition {
    Condition { ok: parts.iter().all(|part| part.ok), parts }
}

fn part(name: &'static str, found: Result<String, String>) -> Part {
    let ok = found.is_ok();
    Part { name, ok, detail: found.unwrap_or_else(|why| why) }
}

impl State {
    /// Whether the engine's loop answers, and the journal can be read.
    ///
    /// # Errors
    /// What does not answer.
    pub(crate) async fn alive(&self) -> Result<(), String> {
        match tokio::time::timeout(ANSWER_WITHIN, self.engine.answers()).await {
            Ok(true) => {}
            Ok(false) => return Err("the engine has ended".into()),
            Err(_) => return Err(format!("the engine does not answer within {} s", ANSWER_WITHIN.as_secs())),
        }
        let journal = self.journal.clone();
        let read = tokio::task::spawn_blocking(move || journal.statistics());
        match tokio::time::timeout(ANSWER_WITHIN, read).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err("the journal does not answer".into()),
        }
    }

    /// Whether the store can be written: the last write was not refused, and its disk takes a file.
    async fn writable(&self) -> Result<String, String> {
        if let Some(error) = self.engine.broken() {
            return Err(error.to_string());
        }
        let folder = self.settings.data.clone();
        let probe = tokio::task::spawn_blocking(move || {
            use std::io::Write as _;
            let path = folder.join("sources").join(".probe");
            let made =
                std::fs::metadata(&folder).and_then(|_| std::fs::create_dir_all(folder.join("sources")));
            let written = made.and_then(|()| {
                let mut file = std::fs::File::create(&path)?;
                file.write_all(&[0; 4096])?;
                file.sync_data()
            });
            // What could not be written is not there.
            let _ = std::fs::remove_file(&path);
            written.map_err(|error| format!("the data folder cannot be written: {error}"))
        });
        match tokio::time::timeout(ANSWER_WITHIN, probe).await {
            Ok(Ok(written)) => written.map(|()| "can be written".into()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the disk does not answer".into()),
        }
    }

    /// Whether every source was looked at once; one that cannot be read is told, and what was good of it holds.
    fn sources(&self) -> Result<String, String> {
        let catalogue = self.catalogue.borrow();
        let looked =
            catalogue.sources.values().filter(|source| source.read_at.is_some() || source.problem.is_some());
        let (looked, all) = (looked.count(), catalogue.sources.len());
        let away = catalogue.sources.values().filter(|source| source.problem.is_some()).count();
        match (looked == all, away) {
            (false, _) => Err(format!("{looked} of {all} were looked at")),
            (true, 0) => Ok(format!("all {all} were read")),
            (true, away) => Ok(format!("all {all} were looked at; {away} cannot be read now")),
        }
    }
}

pub(super) async fn live(Given(state): Given<State>) -> Condition {
    condition(vec![part("engine", state.alive().await.map(|()| "answers".into()))])
}

pub(super) async fn ready(Given(state): Given<State>) -> Condition {
    let draining = state.draining.is_cancelled();
    condition(vec![
        part("engine", state.alive().await.map(|()| "answers".into())),
        part("store", state.writable().await),
        part("sources", state.sources()),
        part("draining", if draining { Err("the daemon is about to end".into()) } else { Ok("no".into()) }),
    ])
}

/// The text that Prometheus reads.
pub(super) struct Exposition(String);

impl IntoResponse for Exposition {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], self.0).into_response()
    }
}

impl Answer for Exposition {
    fn describe(operation: &mut Operation<'_>) {
        operation.answer = Some(("text/plain", operation.schemas.subschema_for::<String>()));
    }
}

pub(super) async fn metrics(Given(state): Given<State>) -> Exposition {
    let now = state.parts.clock.now();
    let standing = state.engine.standing();
    let catalogue = Arc::clone(&state.catalogue.borrow());
    let (journal, known) = (Arc::clone(&state.parts.journal), Arc::clone(&catalogue));
    let read = tokio::task::spawn_blocking(move || trigger::figures(&*journal, &known, now, |_| true)).await;
    let slots = match read {
        Ok(Ok(figures)) => Some(figures),
        Ok(Err(error)) => {
            tracing::warn!(%error, "schedules cannot be counted");
            None
        }
        // A panic in it is told by the runtime.
        Err(_) => None,
    };
    let plain = Plain {
        now,
        unfinished: &state.engine.unfinished(),
        store: state.journal.statistics(),
        broken: state.engine.broken().is_some(),
        catalogue: &catalogue,
        slots,
        paused: standing.paused.len(),
        frozen: standing.freezes(now).count(),
    };
    Exposition(state.metrics.render(&plain))
}
