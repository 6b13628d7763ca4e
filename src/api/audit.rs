//! The audit log over the API: entries told in words, the head, and whether all of it fits.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State as Given;
use graylane_engine::audit::{Chain, Entry, Head, words};
use graylane_engine::id::{RunId, hex};
use graylane_engine::journal::{Error, Journal};
use graylane_engine::ledger::DeedRecord;
use graylane_engine::proof::{self, Verified};
use graylane_engine::run::Record;

use super::State;
use super::caller::Caller;
use super::error::ApiError;
use super::extract::{Asked, Body};
use super::wire::{Anchors, AuditLine, AuditPart};

const MAX_ENTRIES: usize = 10_000;

pub(super) async fn entries(
    Given(state): Given<State>,
    caller: Caller,
    Asked(asked): Asked<AuditPart>,
) -> Result<Json<Vec<AuditLine>>, ApiError> {
    // The log tells of everything.
    caller.reach(None, [])?;
    let journal = state.parts.journal;
    let limit = asked.limit.unwrap_or(50);
    if limit > MAX_ENTRIES {
        return Err(ApiError::bad_request(format!("limit: at most {MAX_ENTRIES} entries")));
    }
    let after = asked.after.unwrap_or_else(|| journal.head().position.saturating_sub(limit as u64));
    off_thread(move || told(&*journal, after, limit)).await
}

/// Entries after this position, told in words.
pub(super) fn told(journal: &dyn Journal, after: u64, limit: usize) -> Result<Vec<AuditLine>, Error> {
    let entries = journal.audit(after, limit)?;
    let mut runs: HashMap<RunId, Vec<Record>> = HashMap::new();
    let mut lines = Vec::with_capacity(entries.len());
    let deeds = if entries.iter().any(Entry::is_deed) { journal.deeds()? } else { Vec::new() };
    for entry in entries {
        if entry.is_deed() {
            lines.push(deed(&entry, &deeds)?);
            continue;
        }
        if !runs.contains_key(&entry.run) {
            // Runs of a page mostly come one after the other.
            if runs.len() > 256 {
                runs.clear();
            }
            runs.insert(entry.run, journal.read(entry.run)?);
        }
        lines.push(line(&entry, &runs[&entry.run])?);
    }
    Ok(lines)
}

fn line(entry: &Entry, records: &[Record]) -> Result<AuditLine, Error> {
    let record = records.iter().find(|record| record.seq == entry.seq).ok_or_else(|| {
        Error::Damaged(format!(
            "audit entry {}: record {} of run {} is missing",
            entry.position, entry.seq, entry.run
        ))
    })?;
    let (actor, what) = words(&record.event);
    Ok(AuditLine {
        position: entry.position,
        at: entry.at.to_string(),
        run: Some(entry.run.to_string()),
        seq: entry.seq.0,
        event: record.event.name().into(),
        actor: actor.map(str::to_owned),
        what,
        record_hash: hex(&entry.chain),
    })
}

fn deed(entry: &Entry, deeds: &[(DeedRecord, Chain)]) -> Result<AuditLine, Error> {
    let (record, _) = deeds.iter().find(|(record, _)| record.seq == entry.seq).ok_or_else(|| {
        Error::Damaged(format!("audit entry {}: deed {} is missing", entry.position, entry.seq))
    })?;
    Ok(AuditLine {
        position: entry.position,
        at: entry.at.to_string(),
        run: None,
        seq: entry.seq.0,
        event: record.deed.name().into(),
        actor: record.deed.actor().map(str::to_owned),
        what: record.deed.words(),
        record_hash: hex(&entry.chain),
    })
}

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
