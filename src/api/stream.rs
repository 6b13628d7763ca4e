//! A run as it goes on, one JSON object a line: what has happened, then what happens, until it is final.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::State as Given;
use axum::response::Response;
use futures::{Stream, StreamExt as _};
use graylane_engine::id::{RunId, Seq};
use graylane_engine::journal::Error;
use graylane_engine::run::{Event, Record};
use graylane_engine::scheduler::{Engine, Update};
use tokio::sync::broadcast::error::RecvError;

use super::caller::Caller;
use super::error::{ApiError, Code};
use super::extract::In;
use super::route::Lines;
use super::runs::one;
use super::{State, wire};

/// How many records are read at a time.
const PAGE: usize = 1_000;

/// Everything that has happened in a run, and then what happens, until it is final: one JSON object a line.
pub(super) async fn follow(
    Given(state): Given<State>,
    caller: Caller,
    In(run): In<String>,
) -> Result<Lines<wire::Update>, ApiError> {
    let id = one(&state, &caller, &run)?.id;
    let lines = updates(&state, id, 0).await?.map(|update| {
        let mut line = serde_json::to_vec(&update).unwrap_or_default();
        line.push(b'\n');
        Ok::<Bytes, Infallible>(Bytes::from(line))
    });
    Response::builder()
        .header("content-type", "application/x-ndjson")
        .body(Body::from_stream(lines))
        .map(Lines::new)
        .map_err(|error| ApiError::new(Code::Internal, error.to_string()))
}

/// What happened in a run after this record, and then what happens, until it is final. However much that is, no more
/// than a page of it is held at a time.
pub(super) async fn updates(
    state: &State,
    id: RunId,
    after: u64,
) -> Result<impl Stream<Item = wire::Update> + Send + use<>, ApiError> {
    let unread = |error: Error| ApiError::store(error.to_string());
    if let Some(before) = after.checked_sub(1)
        && state.engine.records_after(id, Seq(before), 1).await.map_err(unread)?.is_empty()
    {
        return Err(ApiError::bad_request(format!("Last-Event-ID: run {id} has no event {after}")));
    }
    // First watch, then read: nothing is missed in between, and what comes twice has a seq to be told by.
    let updates = state.engine.watch();
    let mut live = Live {
        id,
        updates,
        last: after,
        behind: true,
        done: false,
        ended: false,
        engine: state.engine.clone(),
    };
    // What cannot be read is said before the answer begins.
    let first = live.page().await.map_err(unread)?;
    let live = futures::stream::unfold(live, |mut live| async move { Some((live.next().await?, live)) });
    Ok(futures::stream::iter(first).chain(live.flat_map(futures::stream::iter)))
}

/// A follower of one run.
struct Live {
    id: RunId,
    updates: tokio::sync::broadcast::Receiver<Update>,
    /// The last record that was told.
    last: u64,
    /// Whether the journal may hold more than was told.
    behind: bool,
    /// Whether its last record was told.
    done: bool,
    ended: bool,
    engine: Engine,
}

impl Live {
    /// What happens next; after the last record, the whole run; then nothing.
    async fn next(&mut self) -> Option<Vec<wire::Update>> {
        loop {
            if self.ended {
                return None;
            }
            if self.done {
                self.ended = true;
                let view = self.engine.view(self.id).await.ok()??;
                return Some(vec![wire::Update::Ended(Box::new(view))]);
            }
            if self.behind {
                let page = self.page().await.ok()?;
                if !page.is_empty() {
                    return Some(page);
                }
                continue;
            }
            match self.updates.recv().await {
                Ok(Update::Record(record)) if record.run == self.id => {
                    if record.seq.0 == self.last + 1 {
                        return Some(self.take(vec![(*record).clone()]));
                    }
                    self.behind = record.seq.0 > self.last;
                }
                Ok(Update::Progress { run, task, progress }) if run == self.id => {
                    return Some(vec![wire::Update::Progress { task: task.to_string(), progress }]);
                }
                Ok(Update::Log { run, line }) if run == self.id => {
                    return Some(vec![wire::Update::Log(line)]);
                }
                Ok(_) => {}
                // Too slow: what was missed is in the journal.
                Err(RecvError::Lagged(_)) => self.behind = true,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The next page of what is on disk.
    async fn page(&mut self) -> Result<Vec<wire::Update>, Error> {
        let records = self.engine.records_after(self.id, Seq(self.last), PAGE).await?;
        self.behind = records.len() == PAGE;
        if records.is_empty() && self.last > 0 {
            // Who comes back after the end is told of the end once more.
            let last = self.engine.records_after(self.id, Seq(self.last - 1), 1).await?;
            self.done = last.iter().any(ends);
        }
        Ok(self.take(records))
    }

    /// Tells records that were not told yet.
    fn take(&mut self, records: Vec<Record>) -> Vec<wire::Update> {
        self.last = records.last().map_or(self.last, |record| record.seq.0);
        self.done |= records.last().is_some_and(ends);
        records.into_iter().map(|record| wire::Update::Record(Box::new(record))).collect()
    }
}

/// Whether nothing follows in its run.
fn ends(record: &Record) -> bool {
    matches!(record.event, Event::RunFinished { .. })
}
