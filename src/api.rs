//! The API on the socket of the data folder. A handler parses, makes one call, maps the answer.
//!
//! Only the owner of the folder may connect (mode 0600); there is no other check, and no other listener.

mod audit;
mod environment;
pub(crate) mod error;
mod lanes;
mod store;
pub(crate) mod wire;

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path as UrlPath, Query as UrlQuery, State as Given};
use axum::response::Response;
use axum::routing::{get, post};
use futures::StreamExt as _;
use graylane_engine::bundle::Bundle;
use graylane_engine::id::{Digest, RunId, TaskName};
use graylane_engine::journal::{DiskJournal, Page, Query};
use graylane_engine::logs::LogLine;
use graylane_engine::preview::preview;
use graylane_engine::run::{Event, Record, Trigger};
use graylane_engine::scheduler::{CancelAnswer, Engine, FollowUp, Parts, PersonAnswer, Submission, Update};
use graylane_engine::task::Plan;
use graylane_engine::view::RunView;
use graylane_tasks::cluster::Clusters;
use graylane_tasks::environment::Site;
use graylane_tasks::mse_gray_deploy;
use serde_json::Value;
use tokio::net::UnixListener;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use self::error::ApiError;
use crate::settings::Settings;

/// The largest request: a bundle carries whole manifests.
const MAX_REQUEST: usize = 64 * 1024 * 1024;

/// What handlers work with.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) engine: Engine,
    pub(crate) parts: Parts,
    pub(crate) journal: Arc<DiskJournal>,
    pub(crate) clusters: Arc<Clusters>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) working: bool,
}

/// Opens the socket; a file that an ended process left behind is replaced, which the store's lock makes safe.
pub(crate) fn listen(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until it is told to stop.
pub(crate) async fn serve(listener: UnixListener, state: State, stop: CancellationToken) {
    let stopped = stop.clone().cancelled_owned();
    let served = axum::serve(listener, router(state)).with_graceful_shutdown(stopped);
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::error!(%error, "the API has ended");
        },
        // Streams of who still watches are not waited for.
        () = async { stop.cancelled().await; tokio::time::sleep(std::time::Duration::from_millis(300)).await; } => {}
    }
}

fn router(state: State) -> axum::Router {
    axum::Router::new()
        .route("/api/v1/health", get(health))
        .route("/api/v1/runs", get(runs).post(submit))
        .route("/api/v1/runs/{id}", get(run))
        .route("/api/v1/runs/{id}/cancel", post(cancel))
        .route("/api/v1/runs/{id}/answer", post(answer))
        .route("/api/v1/runs/{id}/approval", post(approval))
        .route("/api/v1/runs/{id}/follow-up", post(follow_up))
        .route("/api/v1/runs/{id}/log", get(log))
        .route("/api/v1/runs/{id}/follow", get(follow))
        .route("/api/v1/audit", get(audit::entries))
        .route("/api/v1/audit/head", get(audit::head))
        .route("/api/v1/audit/verify", post(audit::verify))
        .route("/api/v1/store", get(store::statistics))
        .route("/api/v1/store/check", post(store::check))
        .route("/api/v1/store/backup", post(store::backup))
        .route("/api/v1/store/compact", post(store::compact))
        .route("/api/v1/plans/{digest}", get(plan))
        .route("/api/v1/preview", post(preview_run))
        .route("/api/v1/lanes", post(lanes::list))
        .route("/api/v1/lanes/chain", post(lanes::chain))
        .route("/api/v1/lanes/renew", post(lanes::renew))
        .route("/api/v1/environment/check", post(environment::check))
        .route("/api/v1/environment/adopt", post(environment::adopt))
        .route("/api/v1/render", post(render))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(state)
}

async fn health(Given(state): Given<State>) -> Json<wire::Health> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Json(wire::Health { pid: std::process::id(), version, working: state.working })
}

async fn runs(Given(state): Given<State>, asked: UrlQuery<wire::List>) -> Result<Json<Page>, ApiError> {
    if asked.0.unfinished {
        let mut runs = state.engine.unfinished();
        runs.reverse();
        return Ok(Json(Page { runs, more: false }));
    }
    let query = asked.0.query().map_err(ApiError::bad_request)?;
    let page = state.engine.runs(&query).map_err(|error| ApiError::store(error.to_string()))?;
    Ok(Json(page))
}

async fn submit(
    Given(state): Given<State>,
    Json(asked): Json<wire::Submit>,
) -> Result<Json<wire::Submitted>, ApiError> {
    let id = state.engine.submit(submission(&state, asked)?).await?;
    Ok(Json(wire::Submitted { id: id.to_string() }))
}

fn submission(state: &State, asked: wire::Submit) -> Result<Submission, ApiError> {
    let from = asked.from.as_deref().map(|text| run_id(state, text)).transpose()?;
    Ok(Submission {
        bundle: bundle(&asked.bundle)?,
        inputs: asked.inputs,
        only: asked.only,
        skip: asked.skip,
        from,
        actor: asked.actor,
        trigger: Trigger::Manual,
        vars: asked.vars,
        secrets: asked.secrets,
    })
}

fn bundle(value: &Value) -> Result<Bundle, ApiError> {
    Bundle::from_bytes(value.to_string().as_bytes()).map_err(ApiError::bad_request)
}

async fn run(Given(state): Given<State>, UrlPath(id): UrlPath<String>) -> Result<Json<RunView>, ApiError> {
    let id = run_id(&state, &id)?;
    let view = state.engine.view(id).await.map_err(|error| ApiError::store(error.to_string()))?;
    view.map(Json).ok_or_else(|| ApiError::not_found(format!("there is no run {id}")))
}

/// A run's id, or the beginning of one that only one run has, or `latest`.
fn run_id(state: &State, text: &str) -> Result<RunId, ApiError> {
    let query = match text {
        "latest" => Query { limit: 1, ..Query::default() },
        text => Query { limit: 2, ..Query::beginning(text).map_err(|_| no_run(text))? },
    };
    let page = state.engine.runs(&query).map_err(|error| ApiError::store(error.to_string()))?;
    match page.runs.as_slice() {
        [one] => Ok(one.id),
        [] if text == "latest" => Err(ApiError::not_found("there is no run yet")),
        [] => Err(no_run(text)),
        _ => Err(ApiError::not_found(format!("more than one run begins with `{text}`: give more of the id"))),
    }
}

fn no_run(text: &str) -> ApiError {
    ApiError::not_found(format!("there is no run `{text}`"))
}

async fn cancel(
    Given(state): Given<State>,
    UrlPath(id): UrlPath<String>,
    Json(asked): Json<wire::Cancel>,
) -> Result<Json<wire::Cancelled>, ApiError> {
    let id = run_id(&state, &id)?;
    let answer = match state.engine.cancel(id, asked.actor, asked.reason, asked.now).await {
        CancelAnswer::Cancelling => "cancelling",
        CancelAnswer::AlreadyCancelling => "already-cancelling",
        CancelAnswer::NotActive => "not-active",
        CancelAnswer::Broken(error) => return Err(ApiError::store(error.to_string())),
    };
    Ok(Json(wire::Cancelled { answer: answer.into() }))
}

async fn answer(
    Given(state): Given<State>,
    UrlPath(id): UrlPath<String>,
    Json(asked): Json<wire::Answer>,
) -> Result<Json<wire::Answered>, ApiError> {
    let id = run_id(&state, &id)?;
    let actor = state.settings.actor(asked.actor);
    let task = task_name(asked.task)?;
    let answered = state.engine.answer_hold(id, task, asked.answer, actor, asked.comment).await;
    taken(id, "held", answered)
}

async fn approval(
    Given(state): Given<State>,
    UrlPath(id): UrlPath<String>,
    Json(asked): Json<wire::Consent>,
) -> Result<Json<wire::Answered>, ApiError> {
    let id = run_id(&state, &id)?;
    let actor = state.settings.actor(asked.actor);
    let task = task_name(asked.task)?;
    let answered = state.engine.approve(id, task, asked.agrees, actor, asked.comment).await;
    taken(id, "waiting for approval", answered)
}

fn task_name(text: Option<String>) -> Result<Option<TaskName>, ApiError> {
    text.map(|text| text.parse()).transpose().map_err(|error| ApiError::bad_request(format!("{error}")))
}

fn taken(id: RunId, what: &str, answer: PersonAnswer) -> Result<Json<wire::Answered>, ApiError> {
    match answer {
        PersonAnswer::Taken(task) => Ok(Json(wire::Answered { task })),
        PersonAnswer::NotWaiting => {
            Err(ApiError::conflict("not-waiting", format!("no such task of run {id} is {what}")))
        }
        PersonAnswer::Several(tasks) => {
            let names: Vec<String> = tasks.iter().map(ToString::to_string).collect();
            let words = format!("{} of run {id} are {what}: say which with --task", names.join(" and "));
            Err(ApiError::conflict("not-waiting", words))
        }
        PersonAnswer::Refused(why) => Err(ApiError::not_allowed(why)),
        PersonAnswer::Broken(error) => Err(ApiError::store(error.to_string())),
    }
}

async fn follow_up(
    Given(state): Given<State>,
    UrlPath(id): UrlPath<String>,
    Json(asked): Json<wire::FollowUp>,
) -> Result<Json<wire::Submitted>, ApiError> {
    let id = run_id(&state, &id)?;
    let how = match asked.how {
        wire::How::Undo { force } => FollowUp::Undo { force },
        wire::How::Retry { from } => FollowUp::Retry { from: task_name(from)? },
        wire::How::Rerun => FollowUp::Rerun,
    };
    let id = state.engine.follow_up(id, how, asked.actor).await?;
    Ok(Json(wire::Submitted { id: id.to_string() }))
}

async fn log(
    Given(state): Given<State>,
    UrlPath(id): UrlPath<String>,
) -> Result<Json<Vec<LogLine>>, ApiError> {
    let id = run_id(&state, &id)?;
    state.engine.log(id).map(Json).map_err(|error| ApiError::store(error.to_string()))
}

async fn plan(Given(state): Given<State>, UrlPath(digest): UrlPath<String>) -> Result<Json<Plan>, ApiError> {
    let digest: Digest = digest.parse().map_err(|error| ApiError::bad_request(format!("{error}")))?;
    state.engine.plan(&digest).map(Json).map_err(|error| ApiError::store(error.to_string()))
}

/// Everything that has happened in a run, and then what happens, until it is final: one JSON object a line.
async fn follow(Given(state): Given<State>, UrlPath(id): UrlPath<String>) -> Result<Response, ApiError> {
    let id = run_id(&state, &id)?;
    // First watch, then read: nothing is missed in between, and what comes twice has a seq to be told by.
    let updates = state.engine.watch();
    let records = state.engine.records(id).map_err(|error| ApiError::store(error.to_string()))?;
    let done = records.iter().any(|record| matches!(record.event, Event::RunFinished { .. }));
    let last = records.last().map_or(0, |record| record.seq.0);
    let past = futures::stream::iter(
        records.into_iter().map(|record| wire::Update::Record(Box::new(record))).collect::<Vec<_>>(),
    );
    let live = Live { id, updates, last, done, ended: false, engine: state.engine.clone() };
    let live = futures::stream::unfold(live, |mut live| async move { Some((live.next().await?, live)) });
    let lines = past.chain(live.flat_map(futures::stream::iter)).map(|update| {
        let mut line = serde_json::to_vec(&update).unwrap_or_default();
        line.push(b'\n');
        Ok::<Bytes, Infallible>(Bytes::from(line))
    });
    Response::builder()
        .header("content-type", "application/x-ndjson")
        .body(Body::from_stream(lines))
        .map_err(|error| ApiError::bad_request(error.to_string()))
}

/// A follower of one run.
struct Live {
    id: RunId,
    updates: tokio::sync::broadcast::Receiver<Update>,
    last: u64,
    done: bool,
    ended: bool,
    engine: Engine,
}

impl Live {
    /// What happens next; after the last record, the whole run; then nothing.
    async fn next(&mut self) -> Option<Vec<wire::Update>> {
        if self.ended {
            return None;
        }
        if self.done {
            self.ended = true;
            let view = self.engine.view(self.id).await.ok()??;
            return Some(vec![wire::Update::Ended(Box::new(view))]);
        }
        loop {
            match self.updates.recv().await {
                Ok(Update::Record(record)) if record.run == self.id => {
                    return Some(self.take(vec![(*record).clone()]));
                }
                Ok(Update::Progress { run, task, progress }) if run == self.id => {
                    return Some(vec![wire::Update::Progress { task: task.to_string(), progress }]);
                }
                Ok(Update::Log { run, line }) if run == self.id => {
                    return Some(vec![wire::Update::Log(line)]);
                }
                Ok(_) => {}
                // Too slow: what was missed is in the journal.
                Err(RecvError::Lagged(_)) => {
                    let records = self.engine.records(self.id).unwrap_or_default();
                    return Some(self.take(records));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The records that were not told yet.
    fn take(&mut self, records: Vec<Record>) -> Vec<wire::Update> {
        let new: Vec<Record> = records.into_iter().filter(|record| record.seq.0 > self.last).collect();
        self.last = new.last().map_or(self.last, |record| record.seq.0);
        self.done |= new.iter().any(|record| matches!(record.event, Event::RunFinished { .. }));
        new.into_iter().map(|record| wire::Update::Record(Box::new(record))).collect()
    }
}

async fn preview_run(
    Given(state): Given<State>,
    Json(asked): Json<wire::Submit>,
) -> Result<Json<Vec<wire::Preview>>, ApiError> {
    let previews = preview(&state.parts, submission(&state, asked)?).await?;
    Ok(Json(previews.into_iter().map(wire::Preview::from).collect()))
}

async fn render(
    Given(state): Given<State>,
    Json(asked): Json<wire::Render>,
) -> Result<Json<Vec<Value>>, ApiError> {
    let site = Site::load(&bundle(&asked.bundle)?, &asked.request.environment).map_err(ApiError::refused)?;
    Ok(Json(mse_gray_deploy::rendered(&state.clusters, &site, &asked.request).await?))
}
