//! Server-sent events: of one run, and of all that people ask for and how runs end.
//!
//! ```text
//! /runs/{run}/events  id = the record's seq: everything that happened in the run, then what happens, until it has ended
//! /events             id = the audit log's position: what is in the log after Last-Event-ID, page by page, then what comes;
//!                     between them, without an id, a hint for each record of a run, as it is written
//! ```
//! Who comes back with `Last-Event-ID` misses nothing that has an id, however far behind. What is sent waits for who
//! reads it: a page is read from the journal when the one before has gone out.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, State as Given};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures::{Stream, StreamExt as _};
use graylane_engine::audit::is_audited;
use graylane_engine::clock::Timestamp;
use graylane_engine::id::RunId;
use graylane_engine::run::Record;
use graylane_engine::scheduler::Update;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::audit::Teller;
use super::caller::Caller;
use super::error::ApiError;
use super::extract::In;
use super::route::{Events, Operation, Part};
use super::runs::one;
use super::{State, stream, wire};

/// How many entries are read at a time.
const PAGE: usize = 500;
/// How many pages are read at the same time, for all who follow.
static READERS: Semaphore = Semaphore::const_new(2);
/// How often something is sent where nothing happens, so that a broken connection is noticed.
const QUIET: Duration = Duration::from_secs(15);

/// The last event that a client has seen.
pub(super) struct LastEvent(Option<u64>);

impl Part for LastEvent {
    fn describe(operation: &mut Operation<'_>) {
        operation.last_event = true;
    }
}

impl<S: Send + Sync> FromRequestParts<S> for LastEvent {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<LastEvent, ApiError> {
        let Some(value) = parts.headers.get("last-event-id") else { return Ok(LastEvent(None)) };
        let last = value.to_str().ok().and_then(|text| text.trim().parse().ok());
        let wrong = || ApiError::bad_request("Last-Event-ID: it is the `id` of an event of this stream");
        last.map(|last| LastEvent(Some(last))).ok_or_else(wrong)
    }
}

/// One event as it is sent.
fn event(name: &str, id: Option<u64>, data: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(data).unwrap_or_default();
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    // JSON on one line holds no line break.
    Bytes::from(format!("{id}event: {name}\ndata: {data}\n\n"))
}

fn response<T>(events: impl Stream<Item = Bytes> + Send + 'static) -> Events<T> {
    let quiet = futures::stream::unfold(Box::pin(events), |mut events| async move {
        let next = match tokio::time::timeout(QUIET, events.next()).await {
            Ok(next) => next?,
            Err(_) => Bytes::from_static(b": nothing new\n\n"),
        };
        Some((Ok::<Bytes, Infallible>(next), events))
    });
    let mut response = Response::new(Body::from_stream(quiet));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Events::new(response)
}

/// A run as it goes on, to its end.
pub(super) async fn of_run(
    Given(state): Given<State>,
    caller: Caller,
    LastEvent(last): LastEvent,
    In(run): In<String>,
) -> Result<Events<wire::RunEvent>, ApiError> {
    let id = one(&state, &caller, &run)?.id;
    let updates = stream::updates(&state, id, last.unwrap_or(0)).await?;
    Ok(response(updates.map(|update| match update {
        wire::Update::Record(record) => event("record", Some(record.seq.0), &wire::RunEvent::Record(record)),
        wire::Update::Progress { task, progress } => {
            event("progress", None, &wire::RunEvent::Progress { task, progress })
        }
        wire::Update::Log(line) => event("log", None, &wire::RunEvent::Log(line)),
        wire::Update::Ended(view) => event("ended", None, &wire::RunEvent::Ended(view)),
    })))
}

/// What is asked for, and how runs end; from now on where nothing is said.
pub(super) async fn of_all(
    Given(state): Given<State>,
    caller: Caller,
    LastEvent(last): LastEvent,
) -> Result<Events<wire::Happened>, ApiError> {
    // First watch, then read: nothing is missed in between.
    let updates = state.engine.watch();
    let journal = Arc::clone(&state.parts.journal);
    let head = journal.head().position;
    if let Some(last) = last.filter(|last| *last > head) {
        return Err(ApiError::bad_request(format!(
            "Last-Event-ID: there is no event {last}, the last one is {head}"
        ))
        .hint("leave it away to begin with what comes now"));
    }
    let after = last.unwrap_or(head);
    let teller = tokio::task::spawn_blocking(move || Teller::new(journal, after)).await;
    let teller = teller.map_err(|error| ApiError::store(error.to_string()))?;
    let teller = teller.map_err(|error| ApiError::store(error.to_string()))?;
    let all = All {
        state,
        caller,
        updates,
        teller: Some(teller),
        ready: VecDeque::new(),
        reached: HashMap::new(),
        behind: true,
    };
    Ok(response(futures::stream::unfold(all, |mut all| async move { Some((all.next().await?, all)) })))
}

/// Who follows everything.
struct All {
    state: State,
    caller: Caller,
    updates: Receiver<Update>,
    /// Knows the last entry that was told; away while it reads.
    teller: Option<Teller>,
    ready: VecDeque<Bytes>,
    /// Which runs the caller's token is for.
    reached: HashMap<RunId, bool>,
    /// Whether the log may hold more.
    behind: bool,
}

impl All {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            if self.behind {
                self.read().await?;
                continue;
            }
            match self.updates.recv().await {
                Ok(Update::Record(record)) => {
                    self.behind = is_audited(&record.event);
                    if self.reaches(record.run) {
                        self.ready.push_back(event("record", None, &wire::Happened::Record(hint(&record))));
                    }
                }
                // It is in the log; and what was missed is too, as far as it has an id.
                Ok(Update::Deed(_)) | Err(RecvError::Lagged(_)) => self.behind = true,
                Ok(_) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Reads the next page of the log.
    async fn read(&mut self) -> Option<()> {
        let mut teller = self.teller.take()?;
        // Who is far behind leaves the processor to others.
        let _turn = READERS.acquire().await.ok()?;
        let read = tokio::task::spawn_blocking(move || {
            let page = teller.page(PAGE).map(|lines| lines.into_iter().map(told).collect::<Vec<_>>());
            (teller, page)
        });
        // Where it cannot be read, the stream ends: whoever reads comes back with the last id.
        let (teller, page) = read.await.ok()?;
        self.teller = Some(teller);
        let page = page.ok()?;
        self.behind = page.len() == PAGE;
        for (run, event) in page {
            let mine = match run {
                Some(run) => self.reaches(run),
                None => self.caller.reach(None, []).is_ok(),
            };
            if mine {
                self.ready.push_back(event);
            }
        }
        Some(())
    }

    fn reaches(&mut self, run: RunId) -> bool {
        match &self.caller {
            Caller::Token { environments, workflows, .. }
                if !environments.is_empty() || !workflows.is_empty() => {}
            Caller::Token { .. } | Caller::Owner | Caller::Anonymous(_) => return true,
        }
        if self.reached.len() > 10_000 {
            self.reached.clear();
        }
        let (state, caller) = (&self.state, &self.caller);
        *self.reached.entry(run).or_insert_with(|| one(state, caller, &run.to_string()).is_ok())
    }
}

/// An entry of the log as it is sent, and the run that it is of.
fn told((_, line): (Timestamp, wire::AuditLine)) -> (Option<RunId>, Bytes) {
    let run = line.run.as_ref().and_then(|run| run.parse().ok());
    (run, event("audit", Some(line.position), &wire::Happened::Audit(line)))
}

/// What a record is about, in few bytes: whoever wants more asks for the run.
fn hint(record: &Record) -> wire::Hint {
    wire::Hint {
        run: record.run,
        seq: record.seq.0,
        event: record.event.name().to_owned(),
        task: record.event.task().cloned(),
    }
}
