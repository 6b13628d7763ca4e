//! The audit log over the API: entries told in words, the head, and whether all of it fits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use axum::Json;
use axum::extract::State as Given;
use graylane_engine::audit::{Entry, Head, words};
use graylane_engine::clock::Timestamp;
use graylane_engine::id::{RunId, hex};
use graylane_engine::journal::{Error, Journal, Removed};
use graylane_engine::proof::{self, Verified};
use graylane_engine::run::Record;

use super::State;
use super::caller::Caller;
use super::error::ApiError;
use super::extract::{Asked, Body};
use super::wire::{Anchors, AuditLine, AuditPart};

const MAX_ENTRIES: usize = 10_000;
/// How many entries are read at a time where only some are wanted.
const PART: usize = 4_096;

pub(super) async fn entries(
    Given(state): Given<State>,
    caller: Caller,
    Asked(asked): Asked<AuditPart>,
) -> Result<Json<Vec<AuditLine>>, ApiError> {
    // The log tells of everything.
    caller.reach(None, [])?;
    let journal = state.parts.journal;
    let limit = asked.limit.unwrap_or(50);
    if limit == 0 || limit > MAX_ENTRIES {
        return Err(ApiError::bad_request(format!("limit: 1 to {MAX_ENTRIES} entries")));
    }
    let moment = |name: &str, text: &Option<String>| {
        let parsed = text.as_deref().map(str::parse::<Timestamp>).transpose();
        parsed.map_err(|why| ApiError::bad_request(format!("{name}: {why}")))
    };
    let (since, until) = (moment("since", &asked.since)?, moment("until", &asked.until)?);
    let all = asked.actor.is_none() && since.is_none() && until.is_none();
    let (actor, newest) = (asked.actor, asked.after.is_none());
    let wants = move |line: &AuditLine, at: Timestamp| {
        actor.as_ref().is_none_or(|actor| line.actor.as_ref() == Some(actor))
            && since.is_none_or(|since| at >= since)
            && until.is_none_or(|until| at < until)
    };
    let begin = match asked.after {
        Some(after) => after,
        None if all => journal.head().position.saturating_sub(limit as u64),
        None => 0,
    };
    off_thread(move || {
        let mut teller = Teller::new(journal, begin)?;
        let mut lines: VecDeque<AuditLine> = VecDeque::new();
        while newest || lines.len() < limit {
            let page = teller.page(if all { limit } else { PART })?;
            if page.is_empty() {
                break;
            }
            lines.extend(page.into_iter().filter(|(at, line)| wants(line, *at)).map(|(_, line)| line));
            if newest {
                lines.drain(..lines.len().saturating_sub(limit));
            }
        }
        lines.truncate(limit);
        Ok(lines.into())
    })
    .await
}

/// How many records of runs a teller remembers.
const REMEMBERED: usize = 4_096;

/// Tells entries in their order, page by page. A page costs what it tells, wherever it is in the log.
pub(super) struct Teller {
    journal: Arc<dyn Journal>,
    /// The head after what was told last.
    head: Head,
    /// Runs of a page mostly come one after the other.
    runs: HashMap<RunId, Vec<Record>>,
    remembered: usize,
    /// The runs that retention has removed; looked up when the records of one are not there.
    removed: HashMap<RunId, Removed>,
}

impl Teller {
    /// Begins after this position.
    pub(super) fn new(journal: Arc<dyn Journal>, after: u64) -> Result<Teller, Error> {
        let head = journal.head_at(after)?.unwrap_or_else(|| journal.head());
        Ok(Teller { journal, head, runs: HashMap::new(), remembered: 0, removed: HashMap::new() })
    }

    /// The next entries, told in words; none at the end of the log. Between pages nothing of runs is remembered.
    pub(super) fn page(&mut self, limit: usize) -> Result<Vec<(Timestamp, AuditLine)>, Error> {
        let entries = self.journal.audit(self.head.position, limit)?;
        let told = entries.iter().map(|entry| Ok((entry.at, self.line(entry)?))).collect();
        self.runs.clear();
        self.remembered = 0;
        told
    }

    fn line(&mut self, entry: &Entry) -> Result<AuditLine, Error> {
        self.head = self.head.after(entry);
        let (event, actor, what) = if entry.is_deed() { self.deed(entry)? } else { self.record(entry)? };
        Ok(AuditLine {
            position: entry.position,
            at: entry.at.to_string(),
            run: (!entry.is_deed()).then(|| entry.run.to_string()),
            seq: entry.seq.0,
            event,
            actor,
            what,
            record_hash: hex(&entry.chain),
            head: self.head.to_string(),
        })
    }

    fn record(&mut self, entry: &Entry) -> Result<Told, Error> {
        if let Some(removed) = self.removed.get(&entry.run) {
            return Ok(gone(removed));
        }
        if !self.runs.contains_key(&entry.run) {
            let records = self.journal.read(entry.run)?;
            if records.is_empty() {
                self.removed =
                    self.journal.removed()?.into_iter().map(|removed| (removed.run, removed)).collect();
                if let Some(removed) = self.removed.get(&entry.run) {
                    return Ok(gone(removed));
                }
            }
            if self.remembered + records.len() > REMEMBERED {
                self.runs.clear();
                self.remembered = 0;
            }
            self.remembered += records.len();
            self.runs.insert(entry.run, records);
        }
        let record = self.runs[&entry.run].iter().find(|record| record.seq == entry.seq);
        let record = record.ok_or_else(|| {
            Error::Damaged(format!(
                "audit entry {}: record {} of run {} is missing",
                entry.position, entry.seq, entry.run
            ))
        })?;
        let (actor, what) = words(&record.event);
        Ok((record.event.name().into(), actor.map(str::to_owned), what))
    }

    fn deed(&self, entry: &Entry) -> Result<Told, Error> {
        let record = self.journal.deed(entry.seq)?.ok_or_else(|| {
            Error::Damaged(format!("audit entry {}: deed {} is missing", entry.position, entry.seq))
        })?;
        let actor = record.deed.actor().map(str::to_owned);
        Ok((record.deed.name().into(), actor, record.deed.words()))
    }
}

fn gone(removed: &Removed) -> Told {
    ("removed".into(), None, format!("its records were removed, as deed {} says", removed.deed))
}

/// Event, actor, and what it was in words.
type Told = (String, Option<String>, String);

pub(super) async fn head(Given(state): Given<State>) -> Json<String> {
    Json(state.parts.journal.head().to_string())
}

pub(super) async fn verify(
    Given(state): Given<State>,
    Body(asked): Body<Anchors>,
) -> Result<Json<Verified>, ApiError> {
    let heads: Result<Vec<Head>, _> = asked.heads.iter().map(|head| head.parse()).collect();
    let heads = heads.map_err(|error| ApiError::bad_request(error.to_string()))?;
    let journal = state.parts.journal;
    off_thread(move || proof::verify(&*journal, &heads)).await
}

/// Reading much is not for the threads that serve others.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<Json<T>, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| ApiError::store(error.to_string()))?;
    done.map(Json).map_err(|error| ApiError::store(error.to_string()))
}
