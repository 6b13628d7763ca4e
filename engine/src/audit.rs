//! The audit log: which records people must be able to prove, chained over all runs in the order in which they happened.
//!
//! ```text
//! entry  position (8) at (8) run (16) seq (8) chain (32): big-endian; `chain` is the hash of the run's record at `seq`,
//!        or, where `run` is all zeros, of the ledger's deed at `seq`
//! head   SHA-256(head before, or zeros | entry)
//! ```
//! A record's hash covers everything before it in its run, so the entry of a run's end covers the whole run, and a
//! head covers every run and every deed before it. Deeds (ledger.rs) all stand in the log. Nothing here reads a disk or signs anything.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::clock::Timestamp;
use crate::id::{InvalidName, RunId, Seq, TaskName, hex};
use crate::run::{Consent, Event, HoldAnswer};

/// A SHA-256 over a record or an entry and everything before it.
pub type Chain = [u8; 32];

/// The length of an entry's stored form.
pub const ENTRY_BYTES: usize = 72;

/// Whether a record stands in the audit log: what a person or a trigger asked for, and how a run ended.
pub fn is_audited(event: &Event) -> bool {
    match event {
        Event::RunSubmitted { .. }
        | Event::CancelRequested { .. }
        | Event::HoldAnswered { .. }
        | Event::Approved { .. }
        | Event::Rejected { .. }
        | Event::RunFinished { .. } => true,
        Event::RunAdmitted
        | Event::RunTimedOut
        | Event::AttemptStarted { .. }
        | Event::AttemptResumed { .. }
        | Event::PlanMade { .. }
        | Event::PhaseEntered { .. }
        | Event::CheckpointPassed { .. }
        | Event::AttemptSucceeded { .. }
        | Event::AttemptFailed { .. }
        | Event::TaskCancelled { .. }
        | Event::TaskSkipped { .. }
        | Event::TaskFailed { .. }
        | Event::TaskHeld { .. }
        | Event::ApprovalAsked { .. }
        | Event::WaitExpired { .. }
        | Event::AnswerIgnored { .. } => false,
    }
}

/// Who did it, and what it was, in words.
pub fn words(event: &Event) -> (Option<&str>, String) {
    match event {
        Event::RunSubmitted { workflow, actor, trigger, origin, .. } => {
            let origin =
                origin.as_ref().map(|from| format!(", {} {}", from.words(), from.of())).unwrap_or_default();
            (Some(actor), format!("submitted {workflow} ({}{origin})", trigger.kind()))
        }
        Event::CancelRequested { actor, reason, now } => {
            let how = if *now { "cancelled at once" } else { "cancelled" };
            (Some(actor), reason.as_ref().map_or(how.to_owned(), |reason| format!("{how}: {reason}")))
        }
        Event::RunFinished { outcome, reason, undone_by } => {
            let why = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            let undone = undone_by.map(|run| format!("; taken back by run {run}")).unwrap_or_default();
            (None, format!("{}{why}{undone}", outcome.word()))
        }
        Event::HoldAnswered { task, answer, actor, comment } => {
            let answer = match answer {
                HoldAnswer::Retry => "retry",
                HoldAnswer::Skip => "skip",
                HoldAnswer::Fail => "fail",
                HoldAnswer::Undo => "undo",
            };
            (Some(actor), format!("held {task}: {answer}{}", said(comment.as_deref())))
        }
        Event::Approved { task, consent } => (Some(&consent.actor), consented("approved", task, consent)),
        Event::Rejected { task, consent } => (Some(&consent.actor), consented("rejected", task, consent)),
        other => (None, other.name().to_owned()),
    }
}

fn consented(what: &str, task: &TaskName, consent: &Consent) -> String {
    let proof = if consent.authenticated { "" } else { ", unauthenticated" };
    format!("{what} {task}{proof}{}", said(consent.comment.as_deref()))
}

fn said(comment: Option<&str>) -> String {
    comment.map(|comment| format!(": {comment}")).unwrap_or_default()
}

/// One entry: a record, and the hash that it has in its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the log, counted from 1.
    pub position: u64,
    /// When it happened.
    pub at: Timestamp,
    /// The run; [`RunId::LEDGER`] for a deed, which belongs to none.
    pub run: RunId,
    /// The record, or the deed.
    pub seq: Seq,
    /// The hash of that record over everything before it in its run; of a deed over all deeds before it.
    pub chain: Chain,
}

impl Entry {
    /// Whether it names a deed of the ledger.
    pub fn is_deed(&self) -> bool {
        self.run == RunId::LEDGER
    }

    /// The stored form.
    pub fn to_bytes(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.position.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.at.millis().to_be_bytes());
        bytes[16..32].copy_from_slice(&self.run.to_bytes());
        bytes[32..40].copy_from_slice(&self.seq.0.to_be_bytes());
        bytes[40..].copy_from_slice(&self.chain);
        bytes
    }

    /// Reads the stored form.
    pub fn from_bytes(bytes: &[u8]) -> Option<Entry> {
        let number = |from: usize| {
            bytes.get(from..from + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes)
        };
        Some(Entry {
            position: number(0)?,
            at: Timestamp::from_millis(number(8)?),
            run: RunId::from_bytes(bytes.get(16..32)?.try_into().ok()?),
            seq: Seq(number(32)?),
            chain: bytes.get(40..ENTRY_BYTES)?.try_into().ok()?,
        })
    }
}

/// The end of the log: the place of its last entry, and the hash over all of them.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// The place of the last entry; 0 where there is none.
    pub position: u64,
    /// The hash.
    pub chain: Chain,
}

impl Head {
    /// The head after one more entry.
    #[must_use]
    pub fn after(&self, entry: &Entry) -> Head {
        let mut hash = Sha256::new();
        hash.update(self.chain);
        hash.update(entry.to_bytes());
        Head { position: entry.position, chain: hash.finalize().into() }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.position, hex(&self.chain))
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Head {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Head, InvalidName> {
        let wrong = || InvalidName(format!("`{text}` is not an audit head: write it as POSITION:HASH"));
        let (position, hash) = text.trim().split_once(':').ok_or_else(wrong)?;
        let chain = from_hex(hash).and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)?;
        Ok(Head { position: position.parse().map_err(|_| wrong())?, chain })
    }
}

/// The bytes of hexadecimal digits.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_heads_come_back_from_their_stored_form() {
        let entry = Entry {
            position: 7,
            at: Timestamp::from_millis(5),
            run: RunId::new(3, 4),
            seq: Seq(2),
            chain: [9; 32],
        };
        assert_eq!(Entry::from_bytes(&entry.to_bytes()), Some(entry));
        assert_eq!(Entry::from_bytes(&entry.to_bytes()[1..]), None);
        let head = Head::default().after(&entry);
        assert_eq!(head.to_string().parse(), Ok(head));
        for bad in ["", "7", "7:", "x:00", "7:zz", "7:é"] {
            assert!(bad.parse::<Head>().is_err(), "{bad}");
        }
    }
}
