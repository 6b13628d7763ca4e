//! The stored form of a record: a version, the hash that chains it to the one before, and its JSON.
//!
//! ```text
//! key    'e' run (16 bytes) seq (8 bytes, big-endian)
//! value  format (1 byte) chain (32 bytes) JSON
//! chain  SHA-256(chain of the record before, or zeros | key | JSON)
//! ```
//! A deed of the ledger is stored in the same way, under `d` seq, in a chain of its own.

use sha2::{Digest as _, Sha256};

use crate::audit::Chain;
use crate::id::{RunId, Seq};
use crate::ledger::DeedRecord;
use crate::run::Record;

/// The version of the stored form.
pub const FORMAT: u8 = 1;

pub(super) const PREFIX: u8 = b'e';
/// Of the keys of deeds.
pub(super) const DEED: u8 = b'd';

/// A record as it is stored, wherever it lies.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    pub(super) format: u8,
    /// The hash of the record over everything before it in its run.
    pub(super) chain: Chain,
    pub(super) json: Vec<u8>,
}

impl Stored {
    pub(super) fn of(before: &Chain, record: &Record) -> Result<Stored, String> {
        let json = serde_json::to_vec(record).map_err(|error| error.to_string())?;
        Ok(Stored { format: FORMAT, chain: link(before, &key(record.run, record.seq), &json), json })
    }

    pub(super) fn of_deed(before: &Chain, deed: &DeedRecord) -> Result<Stored, String> {
        let json = serde_json::to_vec(deed).map_err(|error| error.to_string())?;
        Ok(Stored { format: FORMAT, chain: link(before, &deed_key(deed.seq), &json), json })
    }

    /// Reads a value, which must follow on the record before it.
    pub(super) fn from_value(before: &Chain, key: &[u8], value: &[u8]) -> Result<Stored, String> {
        let (format, rest) = value.split_first().ok_or("an empty record")?;
        let (stored, json) = rest.split_at_checked(32).ok_or("a record that is cut short")?;
        let chain = link(before, key, json);
        if chain != stored {
            return Err("a record was changed, or one before it is missing".into());
        }
        Ok(Stored { format: *format, chain, json: json.to_vec() })
    }

    /// The record itself.
    pub(super) fn record(&self) -> Result<Record, String> {
        if self.format != FORMAT {
            return Err(format!("a record of format {}, which this version does not know", self.format));
        }
        serde_json::from_slice(&self.json).map_err(|error| format!("a record that cannot be read: {error}"))
    }
}

impl Stored {
    /// The deed itself.
    pub(super) fn deed(&self) -> Result<DeedRecord, String> {
        if self.format != FORMAT {
            return Err(format!("a deed of format {}, which this version does not know", self.format));
        }
        serde_json::from_slice(&self.json).map_err(|error| format!("a deed that cannot be read: {error}"))
    }
}

/// The key of a deed.
pub(super) fn deed_key(seq: Seq) -> [u8; 9] {
    let mut key = [DEED; 9];
    key[1..].copy_from_slice(&seq.0.to_be_bytes());
    key
}

/// The value of a record of the present format.
pub(super) fn value(chain: &Chain, json: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(33 + json.len());
    value.push(FORMAT);
    value.extend_from_slice(chain);
    value.extend_from_slice(json);
    value
}

/// The key of a record.
pub(super) fn key(run: RunId, seq: Seq) -> [u8; 25] {
    let mut key = [0; 25];
    key[0] = PREFIX;
    key[1..17].copy_from_slice(&run.to_bytes());
    key[17..].copy_from_slice(&seq.0.to_be_bytes());
    key
}

/// The beginning of the keys of a run.
pub(super) fn run_prefix(run: RunId) -> [u8; 17] {
    let mut prefix = [0; 17];
    prefix[0] = PREFIX;
    prefix[1..].copy_from_slice(&run.to_bytes());
    prefix
}

/// The run and the place that a key names.
pub(super) fn parse_key(key: &[u8]) -> Option<(RunId, Seq)> {
    let run = RunId::from_bytes(key.get(1..17)?.try_into().ok()?);
    Some((run, Seq(u64::from_be_bytes(key.get(17..25)?.try_into().ok()?))))
}

/// The hash of a record over everything before it in its run.
pub(super) fn link(before: &Chain, key: &[u8], json: &[u8]) -> Chain {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(key);
    hash.update(json);
    hash.finalize().into()
}
