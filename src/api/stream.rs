//! A run as it goes on, one JSON object a line: what has happened, then what happens, until it is final.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::State as Given;
use axum::response::Response;
use futures::{Stream, StreamExt as _};
use graylane_engine::id::RunId;
use graylane_engine::run::{Event, Record};
use graylane_engine::scheduler::{Engine, Update};
use tokio::sync::broadcast::error::RecvError;

use super::caller::Caller;
use super::error::{ApiError, Code};
use super::extract::In;
use super::route::Lines;
use super::runs::one;
use super::{State, wire};

/// Everything that has happened in a run, and then what happens, until it is final: one JSON object a line.
pub(super) async fn follow(
    Given(state): Given<State>,
    caller: Caller,
    In(run): In<String>,
) -> Result<Lines<wire::Update>, ApiError> {
    let id = one(&state, &caller, &run)?.id;
    let lines = updates(&state, id, 0)?.map(|update| {
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

/// What happened in a run after this record, and then what happens, until it is final.
pub(super) fn updates(
    state: &State,
    id: RunId,
    after: u64,
) -> Result<impl Stream<Item = wire::Update> + Send + use<>, ApiError> {
    // First watch, then read: nothing is missed in between, and what comes twice has a seq to be told by.
    let updates = state.engine.watch();
    let records = state.engine.records(id).map_err(|error| ApiError::store(error.to_string()))?;
    let done = records.iter().any(|record| matches!(record.event, Event::RunFinished { .. }));
    let last = records.last().map_or(0, |record| record.seq.0);
    let past = futures::stream::iter(
        records
            .into_iter()
            .filter(move |record| record.seq.0 > after)
            .map(|record| wire::Update::Record(Box::new(record)))
            .collect::<Vec<_>>(),
    );
    let live = Live { id, updates, last, done, ended: false, engine: state.engine.clone() };
    let live = futures::stream::unfold(live, |mut live| async move { Some((live.next().await?, live)) });
    Ok(past.chain(live.flat_map(futures::stream::iter)))
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
