//! A segment: finished runs in one immutable file, in the order in which they ended, found by id and by term.
//!
//! ```text
//! <number>.seg   blocks | directory | footer
//! block          of one of seven streams, with its own checksum; records, summaries and terms are compressed (LZ4)
//!   records      of each run, as it ended: of each record its format (1), length (4), JSON
//!   runs         by id: id (16) place in `records` (8) length (4) count (4) hash of the last record (32)
//!   summaries    in the order of `runs`: length (4), JSON
//!   terms        sorted: length (2), term, place in `postings` (8), count (4)
//!   postings     places in `runs` (4), ascending, of the runs that have a term
//!   removed      of each run that retention removed: id (16) the deed that says so (8) how many records it had (8)
//!   audit        the slice of the audit log up to the last run's end
//! directory      what the segment is, as JSON; of each block stream, place, sizes, first position, checksum, first key
//! footer         place of the directory (8), its length (4), its SHA-256 (32), mark (8)
//! ```
//! The manifest in sled names the SHA-256 of the directory, and the directory those of the blocks: no byte can change
//! unseen. A run that is looked for costs a few small reads, wherever it is. Nothing here knows which segments there are.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Removed;
use super::query::terms_of;
use super::record::{self, Stored};
use crate::audit::{Chain, ENTRY_BYTES, Entry, Head};
use crate::id::{RunId, Seq, hex};
use crate::run::RunSummary;

const MARK: &[u8; 8] = b"GLSEG\0\0\x01";
const FOOTER: usize = 52;
const BLOCK: usize = 64 * 1024;
const RUN_BYTES: usize = 64;
pub(super) const REMOVED_BYTES: usize = 32;
/// How many runs or postings one block holds.
const RUNS_A_BLOCK: usize = 256;
const SUMMARIES_A_BLOCK: usize = 32;
const POSTINGS_A_BLOCK: usize = 4096;
/// The largest block that is believed; a longer one is damage.
const MAX_BLOCK: u32 = 256 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Records,
    Runs,
    Summaries,
    Terms,
    Postings,
    Audit,
    Removed,
}

const STREAMS: [Stream; 7] = [
    Stream::Records,
    Stream::Runs,
    Stream::Summaries,
    Stream::Terms,
    Stream::Postings,
    Stream::Audit,
    Stream::Removed,
];

impl Stream {
    fn is_compressed(self) -> bool {
        match self {
            Stream::Records | Stream::Summaries | Stream::Terms => true,
            // Ids, hashes and numbers would not become smaller.
            Stream::Runs | Stream::Postings | Stream::Audit | Stream::Removed => false,
        }
    }
}

impl Removed {
    fn to_bytes(self) -> [u8; REMOVED_BYTES] {
        let mut bytes = [0; REMOVED_BYTES];
        bytes[..16].copy_from_slice(&self.run.to_bytes());
        bytes[16..24].copy_from_slice(&self.deed.0.to_be_bytes());
        bytes[24..].copy_from_slice(&self.records.to_be_bytes());
        bytes
    }

    /// Reads as many as there are.
    pub(super) fn read(bytes: &[u8]) -> impl Iterator<Item = Removed> {
        bytes.chunks_exact(REMOVED_BYTES).filter_map(|bytes| {
            Some(Removed {
                run: RunId::from_bytes(bytes[..16].try_into().ok()?),
                deed: Seq(u64::from_be_bytes(bytes[16..24].try_into().ok()?)),
                records: u64::from_be_bytes(bytes[24..].try_into().ok()?),
            })
        })
    }

    /// The stored form of several.
    pub(super) fn write(removed: &[Removed]) -> Vec<u8> {
        removed.iter().flat_map(|removed| removed.to_bytes()).collect()
    }
}

/// What a segment is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct About {
    pub(super) runs: u32,
    pub(super) records: u64,
    /// The bytes of the records before compression.
    pub(super) payload: u64,
    pub(super) first: RunId,
    pub(super) last: RunId,
    /// The head of the audit log before the slice, and after it.
    pub(super) audit_from: String,
    pub(super) audit_to: String,
}

impl About {
    pub(super) fn heads(&self) -> Result<(Head, Head), String> {
        let parse = |text: &str| text.parse::<Head>().map_err(|error| error.to_string());
        Ok((parse(&self.audit_from)?, parse(&self.audit_to)?))
    }
}

/// What the manifest says of a segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Listed {
    pub(super) number: u64,
    pub(super) bytes: u64,
    /// SHA-256 of the directory, in hexadecimal digits.
    pub(super) digest: String,
    pub(super) runs: u32,
    pub(super) audit_to: u64,
}

#[derive(Debug, Clone)]
struct Block {
    offset: u64,
    stored: u32,
    raw: u32,
    /// The position of its first byte in its stream.
    start: u64,
    check: [u8; 16],
    /// The first id or term in it.
    key: Vec<u8>,
}

/// A run in the table of runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Row {
    pub(super) id: RunId,
    place: u64,
    length: u32,
    pub(super) count: u32,
    pub(super) chain: Chain,
}

impl Row {
    fn to_bytes(self) -> [u8; RUN_BYTES] {
        let mut bytes = [0; RUN_BYTES];
        bytes[..16].copy_from_slice(&self.id.to_bytes());
        bytes[16..24].copy_from_slice(&self.place.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_be_bytes());
        bytes[28..32].copy_from_slice(&self.count.to_be_bytes());
        bytes[32..].copy_from_slice(&self.chain);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Row> {
        Some(Row {
            id: RunId::from_bytes(bytes.get(..16)?.try_into().ok()?),
            place: u64::from_be_bytes(bytes.get(16..24)?.try_into().ok()?),
            length: u32::from_be_bytes(bytes.get(24..28)?.try_into().ok()?),
            count: u32::from_be_bytes(bytes.get(28..32)?.try_into().ok()?),
            chain: bytes.get(32..RUN_BYTES)?.try_into().ok()?,
        })
    }
}

/// A segment that can be read.
pub(super) struct Segment {
    pub(super) listed: Listed,
    pub(super) about: About,
    file: File,
    path: PathBuf,
    blocks: [Vec<Block>; 7],
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Where the runs of a term are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Postings {
    place: u64,
    pub(super) count: u32,
}

/// The name of a segment's file.
pub(super) fn file_name(number: u64) -> String {
    format!("{number:010}.seg")
}

impl Segment {
    /// Opens the segment that the manifest names, and checks its size and its directory; blocks are checked when they are read.
    pub(super) fn open(folder: &Path, listed: Listed) -> Result<Segment, String> {
        let path = folder.join(file_name(listed.number));
        let shown = path.display().to_string();
        let wrong = |why: &str| format!("{shown}: {why}");
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => wrong("it is missing"),
            _ => wrong(&error.to_string()),
        })?;
        let length = file.metadata().map_err(|error| wrong(&error.to_string()))?.len();
        if length != listed.bytes {
            return Err(wrong(&format!("it has {length} bytes, and {} were written", listed.bytes)));
        }
        let mut footer = [0; FOOTER];
        file.read_exact_at(&mut footer, length.saturating_sub(FOOTER as u64))
            .map_err(|error| wrong(&error.to_string()))?;
        let number = |from: usize, to: usize| {
            footer[from..to].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let (place, size) = (number(0, 8), number(8, 12));
        if &footer[44..] != MARK || hex(&footer[12..44]) != listed.digest {
            return Err(wrong("it is not the segment that was written"));
        }
        if place.checked_add(size).and_then(|end| end.checked_add(FOOTER as u64)) != Some(length) {
            return Err(wrong("its directory is not where it says"));
        }
        let mut directory = vec![0; usize::try_from(size).unwrap_or(usize::MAX).min(1 << 30)];
        file.read_exact_at(&mut directory, place).map_err(|error| wrong(&error.to_string()))?;
        if Sha256::digest(&directory)[..] != footer[12..44] {
            return Err(wrong("its directory was changed"));
        }
        let (about, blocks) =
            read_directory(&directory).ok_or_else(|| wrong("its directory is unreadable"))?;
        Ok(Segment { listed, about, file, path, blocks })
    }

    fn wrong(&self, why: impl std::fmt::Display) -> String {
        format!("{}: {why}", self.path.display())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn stored_block(&self, block: &Block) -> Result<Vec<u8>, String> {
        if block.stored > MAX_BLOCK || block.raw > MAX_BLOCK {
            return Err(self.wrong("a block that is too long"));
        }
        let mut bytes = vec![0; block.stored as usize];
        self.file.read_exact_at(&mut bytes, block.offset).map_err(|error| self.wrong(error))?;
        if Sha256::digest(&bytes)[..16] != block.check {
            return Err(self.wrong(format_args!("the block at byte {} was changed", block.offset)));
        }
        Ok(bytes)
    }

    fn block(&self, stream: Stream, index: usize) -> Result<Vec<u8>, String> {
        let block =
            self.blocks[stream as usize].get(index).ok_or_else(|| self.wrong("a block is missing"))?;
        let bytes = self.stored_block(block)?;
        if !stream.is_compressed() {
            return Ok(bytes);
        }
        lz4_flex::block::decompress(&bytes, block.raw as usize).map_err(|error| self.wrong(error))
    }

    /// Bytes of a stream, from as many blocks as they lie in.
    fn bytes(&self, stream: Stream, from: u64, length: usize) -> Result<Vec<u8>, String> {
        let blocks = &self.blocks[stream as usize];
        let mut index = blocks.partition_point(|block| block.start <= from).saturating_sub(1);
        let mut found = Vec::with_capacity(length.min(1 << 24));
        let mut at = from;
        while found.len() < length {
            let start =
                blocks.get(index).map(|block| block.start).ok_or_else(|| self.wrong("it ends early"))?;
            let block = self.block(stream, index)?;
            let skip = usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
            let part = block.get(skip..).filter(|part| !part.is_empty());
            let part = part.ok_or_else(|| self.wrong("it ends early"))?;
            let part = &part[..part.len().min(length - found.len())];
            found.extend_from_slice(part);
            at += part.len() as u64;
            index += 1;
        }
        Ok(found)
    }

    /// How many runs have ids before this one.
    pub(super) fn before(&self, id: RunId) -> Result<u32, String> {
        if id > self.about.last {
            return Ok(self.about.runs);
        }
        let blocks = &self.blocks[Stream::Runs as usize];
        let after = blocks.partition_point(|block| block.key.as_slice() < &id.to_bytes()[..]);
        let Some(index) = after.checked_sub(1) else { return Ok(0) };
        let rows = self.rows(index)?;
        let inside = rows.partition_point(|row| row.id < id);
        u32::try_from(index * RUNS_A_BLOCK + inside).map_err(|_| self.wrong("too many runs"))
    }

    fn rows(&self, block: usize) -> Result<Vec<Row>, String> {
        Ok(self.block(Stream::Runs, block)?.chunks_exact(RUN_BYTES).filter_map(Row::from_bytes).collect())
    }

    /// The run at this place in the order of ids.
    pub(super) fn row(&self, index: u32) -> Result<Row, String> {
        let rows = self.rows(index as usize / RUNS_A_BLOCK)?;
        rows.get(index as usize % RUNS_A_BLOCK).copied().ok_or_else(|| self.wrong("a run is missing"))
    }

    /// The lines of all runs, in the order of ids.
    fn summaries(&self) -> Result<Vec<RunSummary>, String> {
        let mut all = Vec::with_capacity(self.about.runs as usize);
        for index in 0..self.blocks[Stream::Summaries as usize].len() {
            let block = self.block(Stream::Summaries, index)?;
            for json in summaries_in(&block) {
                all.push(serde_json::from_slice(json).map_err(|error| self.wrong(error))?);
            }
        }
        Ok(all)
    }

    /// The run of this id.
    pub(super) fn find(&self, id: RunId) -> Result<Option<Row>, String> {
        if id < self.about.first || id > self.about.last {
            return Ok(None);
        }
        let index = self.before(id)?;
        if index >= self.about.runs {
            return Ok(None);
        }
        let row = self.row(index)?;
        Ok((row.id == id).then_some(row))
    }

    /// The records of a run, as they were stored, checked against the hash of the last one.
    pub(super) fn records(&self, row: &Row) -> Result<Vec<Stored>, String> {
        let bytes = self.bytes(Stream::Records, row.place, row.length as usize)?;
        let mut rest = bytes.as_slice();
        let mut stored = Vec::with_capacity((row.count as usize).min(1 << 20));
        let mut chain = Chain::default();
        for seq in 1..=u64::from(row.count) {
            let cut = || self.wrong(format_args!("run {}: a record is cut short", row.id));
            let (head, after) = rest.split_at_checked(5).ok_or_else(cut)?;
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let (json, after) = after.split_at_checked(length).ok_or_else(cut)?;
            rest = after;
            let key = record::key(row.id, crate::id::Seq(seq));
            chain = record::link(&chain, &key, json);
            stored.push(Stored { format: head[0], chain, json: json.to_vec() });
        }
        if chain != row.chain {
            return Err(self.wrong(format_args!("run {}: a record was changed, or one is missing", row.id)));
        }
        Ok(stored)
    }

    /// The runs that have a term; none where no run has it.
    pub(super) fn postings(&self, term: &[u8]) -> Result<Option<Postings>, String> {
        let blocks = &self.blocks[Stream::Terms as usize];
        let after = blocks.partition_point(|block| block.key.as_slice() <= term);
        let Some(index) = after.checked_sub(1) else { return Ok(None) };
        let block = self.block(Stream::Terms, index)?;
        let mut rest = block.as_slice();
        while let Some((length, after)) = rest.split_at_checked(2) {
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            let cut = || self.wrong("a term is cut short");
            let (found, after) = after.split_at_checked(length).ok_or_else(cut)?;
            let (numbers, after) = after.split_at_checked(12).ok_or_else(cut)?;
            if found == term {
                let place = numbers[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
                let count = u32::from_be_bytes([numbers[8], numbers[9], numbers[10], numbers[11]]);
                return Ok(Some(Postings { place, count }));
            }
            rest = after;
        }
        Ok(None)
    }

    /// The whole slice of the audit log, checked from its first head to its last.
    pub(super) fn audit(&self) -> Result<Vec<Entry>, String> {
        let mut entries = Vec::new();
        for index in 0..self.blocks[Stream::Audit as usize].len() {
            let block = self.block(Stream::Audit, index)?;
            entries.extend(block.chunks_exact(ENTRY_BYTES).filter_map(Entry::from_bytes));
        }
        let (mut head, end) = self.about.heads().map_err(|error| self.wrong(error))?;
        for entry in &entries {
            if entry.position != head.position + 1 {
                return Err(
                    self.wrong(format_args!("audit entry {} is not where it should be", entry.position))
                );
            }
            head = head.after(entry);
        }
        if head != end {
            return Err(self.wrong("its part of the audit log is not what was written"));
        }
        Ok(entries)
    }

    /// Entries of its slice after this position, at most so many: the blocks that hold them are read, and no others.
    pub(super) fn audit_after(&self, position: u64, limit: usize) -> Result<Vec<Entry>, String> {
        let (from, to) = self.about.heads().map_err(|error| self.wrong(error))?;
        let first = position.max(from.position);
        let count = usize::try_from(to.position.saturating_sub(first)).unwrap_or(usize::MAX).min(limit);
        if count == 0 {
            return Ok(Vec::new());
        }
        let place = (first - from.position) * ENTRY_BYTES as u64;
        let bytes = self.bytes(Stream::Audit, place, count * ENTRY_BYTES)?;
        let entries: Vec<Entry> = bytes.chunks_exact(ENTRY_BYTES).filter_map(Entry::from_bytes).collect();
        match entries.iter().zip(first + 1..).find(|(entry, expected)| entry.position != *expected) {
            None => Ok(entries),
            Some((entry, _)) => {
                Err(self.wrong(format_args!("audit entry {} is not where it should be", entry.position)))
            }
        }
    }

    /// The runs of it that retention removed.
    pub(super) fn removed(&self) -> Result<Vec<Removed>, String> {
        let mut removed = Vec::new();
        for index in 0..self.blocks[Stream::Removed as usize].len() {
            removed.extend(Removed::read(&self.block(Stream::Removed, index)?));
        }
        Ok(removed)
    }

    /// The records of every run as they lie in the file: in the order in which the runs ended.
    pub(super) fn in_order(&self) -> Result<Vec<(u32, Row)>, String> {
        let mut rows = Vec::with_capacity(self.about.runs as usize);
        for block in 0..self.blocks[Stream::Runs as usize].len() {
            rows.extend(self.rows(block)?);
        }
        let mut rows: Vec<(u32, Row)> = (0..).zip(rows).collect();
        rows.sort_by_key(|(_, row)| row.place);
        Ok(rows)
    }

    /// Reads every block: what `store check` does.
    pub(super) fn check(&self) -> Result<(), String> {
        for stream in STREAMS {
            for index in 0..self.blocks[stream as usize].len() {
                self.block(stream, index)?;
            }
        }
        self.audit()?;
        Ok(())
    }
}

/// The runs of a term, read backwards; remembers the block that it read last.
pub(super) struct Walk<'s> {
    segment: &'s Segment,
    postings: Postings,
    block: Option<(usize, Vec<u8>)>,
}

impl<'s> Walk<'s> {
    pub(super) fn new(segment: &'s Segment, postings: Postings) -> Walk<'s> {
        Walk { segment, postings, block: None }
    }

    /// The last run of the term that stands before this place.
    pub(super) fn before(&mut self, bound: u32) -> Result<Option<u32>, String> {
        let (mut low, mut high) = (0, self.postings.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.at(middle)? < bound {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1).map(|index| self.at(index)).transpose()
    }

    fn at(&mut self, index: u32) -> Result<u32, String> {
        let place = self.postings.place + u64::from(index);
        let block = usize::try_from(place).unwrap_or(usize::MAX) / POSTINGS_A_BLOCK;
        if self.block.as_ref().is_none_or(|(number, _)| *number != block) {
            self.block = Some((block, self.segment.block(Stream::Postings, block)?));
        }
        let inside = usize::try_from(place).unwrap_or(usize::MAX) % POSTINGS_A_BLOCK * 4;
        let bytes = self.block.as_ref().and_then(|(_, bytes)| bytes.get(inside..inside + 4));
        let bytes: [u8; 4] = bytes
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| self.segment.wrong("a posting is missing"))?;
        Ok(u32::from_be_bytes(bytes))
    }
}

/// Lines of runs, read one near the other: remembers the blocks that it read last.
pub(super) struct Lines<'s> {
    segment: &'s Segment,
    rows: Option<(usize, Vec<Row>)>,
    summaries: Option<(usize, Vec<u8>)>,
}

impl<'s> Lines<'s> {
    pub(super) fn new(segment: &'s Segment) -> Lines<'s> {
        Lines { segment, rows: None, summaries: None }
    }

    /// The id of the run at this place.
    pub(super) fn id(&mut self, index: u32) -> Result<RunId, String> {
        let block = index as usize / RUNS_A_BLOCK;
        if self.rows.as_ref().is_none_or(|(number, _)| *number != block) {
            self.rows = Some((block, self.segment.rows(block)?));
        }
        let row = self.rows.as_ref().and_then(|(_, rows)| rows.get(index as usize % RUNS_A_BLOCK));
        row.map(|row| row.id).ok_or_else(|| self.segment.wrong("a run is missing"))
    }

    /// The line of the run at this place.
    pub(super) fn summary(&mut self, index: u32) -> Result<RunSummary, String> {
        let block = index as usize / SUMMARIES_A_BLOCK;
        if self.summaries.as_ref().is_none_or(|(number, _)| *number != block) {
            self.summaries = Some((block, self.segment.block(Stream::Summaries, block)?));
        }
        let bytes = self.summaries.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        let json = summaries_in(bytes).nth(index as usize % SUMMARIES_A_BLOCK);
        let json = json.ok_or_else(|| self.segment.wrong("a summary is missing"))?;
        serde_json::from_slice(json).map_err(|error| self.segment.wrong(error))
    }
}

/// The summaries of a block, as JSON.
fn summaries_in(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = block;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_at_checked(4)?;
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
        let (json, after) = after.split_at_checked(length)?;
        rest = after;
        Some(json)
    })
}

fn read_directory(bytes: &[u8]) -> Option<(About, [Vec<Block>; 7])> {
    let (length, rest) = bytes.split_at_checked(4)?;
    let (json, mut rest) = rest.split_at_checked(u32::from_be_bytes(length.try_into().ok()?) as usize)?;
    let about: About = serde_json::from_slice(json).ok()?;
    let mut blocks: [Vec<Block>; 7] = Default::default();
    while !rest.is_empty() {
        let (head, after) = rest.split_at_checked(43)?;
        let (key, after) = after.split_at_checked(usize::from(u16::from_be_bytes([head[41], head[42]])))?;
        rest = after;
        blocks.get_mut(usize::from(head[0]))?.push(Block {
            offset: u64::from_be_bytes(head[1..9].try_into().ok()?),
            stored: u32::from_be_bytes(head[9..13].try_into().ok()?),
            raw: u32::from_be_bytes(head[13..17].try_into().ok()?),
            start: u64::from_be_bytes(head[17..25].try_into().ok()?),
            check: head[25..41].try_into().ok()?,
            key: key.to_vec(),
        });
    }
    Some((about, blocks))
}

fn write_directory(about: &About, blocks: &[Vec<Block>; 7]) -> Result<Vec<u8>, String> {
    let json = serde_json::to_vec(about).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&u32::try_from(json.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&json);
    for (stream, blocks) in (0_u8..).zip(blocks) {
        for block in blocks {
            bytes.push(stream);
            bytes.extend_from_slice(&block.offset.to_be_bytes());
            bytes.extend_from_slice(&block.stored.to_be_bytes());
            bytes.extend_from_slice(&block.raw.to_be_bytes());
            bytes.extend_from_slice(&block.start.to_be_bytes());
            bytes.extend_from_slice(&block.check);
            bytes.extend_from_slice(&u16::try_from(block.key.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend_from_slice(&block.key);
        }
    }
    Ok(bytes)
}

/// Runs that are to be removed, and the deed that says so.
#[derive(Debug)]
pub(super) struct Doomed {
    pub(super) deed: Seq,
    pub(super) runs: HashSet<RunId>,
}

impl Doomed {
    pub(super) fn removed(&self, run: RunId, records: u64) -> Removed {
        Removed { run, deed: self.deed, records }
    }
}

/// Writes a segment: runs in the order in which they ended, then the audit log's slice, then the end.
pub(super) struct Builder {
    folder: PathBuf,
    draft: PathBuf,
    file: BufWriter<File>,
    offset: u64,
    blocks: [Vec<Block>; 7],
    /// Records that do not fill a block yet, and the position of the first of them.
    pending: Vec<u8>,
    written: u64,
    /// Each with its summary.
    rows: Vec<(Row, Vec<u8>)>,
    /// Which rows, in the order in which they were added, have a term.
    terms: BTreeMap<Vec<u8>, Vec<u32>>,
    records: u64,
    from: Head,
    to: Head,
    audit: Vec<u8>,
    removed: Vec<Removed>,
}

impl Builder {
    /// Begins a segment whose slice of the audit log follows on this head.
    pub(super) fn new(folder: &Path, number: u64, from: Head) -> Result<Builder, String> {
        let draft = folder.join(file_name(number)).with_extension("draft");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&draft).map_err(|error| format!("{}: {error}", draft.display()))?;
        Ok(Builder {
            folder: folder.to_owned(),
            draft,
            file: BufWriter::with_capacity(1 << 18, file),
            offset: 0,
            blocks: Default::default(),
            pending: Vec::new(),
            written: 0,
            rows: Vec::new(),
            terms: BTreeMap::new(),
            records: 0,
            from,
            to: from,
            audit: Vec::new(),
            removed: Vec::new(),
        })
    }

    /// Adds a finished run.
    pub(super) fn run(&mut self, summary: &RunSummary, records: &[Stored]) -> Result<(), String> {
        let place = self.written + self.pending.len() as u64;
        let length = records.iter().map(|record| record.json.len() + 5).sum::<usize>();
        let small = |number: usize| u32::try_from(number).map_err(|_| "a run that is too large".to_owned());
        let row = Row {
            id: summary.id,
            place,
            length: small(length)?,
            count: small(records.len())?,
            chain: records.last().map(|record| record.chain).unwrap_or_default(),
        };
        for record in records {
            self.pending.push(record.format);
            self.pending.extend_from_slice(&small(record.json.len())?.to_be_bytes());
            self.pending.extend_from_slice(&record.json);
            if self.pending.len() >= BLOCK {
                self.flush_records()?;
            }
        }
        self.row(row, summary)
    }

    fn row(&mut self, row: Row, summary: &RunSummary) -> Result<(), String> {
        let json = serde_json::to_vec(summary).map_err(|error| error.to_string())?;
        let index = u32::try_from(self.rows.len()).map_err(|_| "too many runs for a segment".to_owned())?;
        self.records += u64::from(row.count);
        self.rows.push((row, json));
        for term in terms_of(summary) {
            self.terms.entry(term).or_default().push(index);
        }
        Ok(())
    }

    /// Adds the next entry of the audit log.
    pub(super) fn entry(&mut self, entry: &Entry) {
        self.audit.extend_from_slice(&entry.to_bytes());
        self.to = self.to.after(entry);
    }

    /// Notes that a run was here.
    pub(super) fn removed(&mut self, removed: Removed) {
        self.removed.push(removed);
    }

    /// Adds a segment without some of its runs.
    pub(super) fn segment_without(&mut self, segment: &Segment, doomed: &Doomed) -> Result<(), String> {
        let summaries = segment.summaries()?;
        self.removed.extend(segment.removed()?);
        for (index, row) in segment.in_order()? {
            if doomed.runs.contains(&row.id) {
                self.removed(doomed.removed(row.id, u64::from(row.count)));
                continue;
            }
            let summary =
                summaries.get(index as usize).ok_or_else(|| segment.wrong("a summary is missing"))?;
            self.run(summary, &segment.records(&row)?)?;
        }
        segment.audit()?.iter().for_each(|entry| self.entry(entry));
        Ok(())
    }

    /// Adds a whole segment; its records are copied as they lie in its file.
    pub(super) fn segment(&mut self, segment: &Segment) -> Result<(), String> {
        self.flush_records()?;
        let base = self.written;
        for block in &segment.blocks[Stream::Records as usize] {
            let bytes = segment.stored_block(block)?;
            let copied = Block { offset: self.offset, start: base + block.start, ..block.clone() };
            self.raw(&bytes)?;
            self.written = copied.start + u64::from(copied.raw);
            self.blocks[Stream::Records as usize].push(copied);
        }
        let summaries = segment.summaries()?;
        for (index, row) in segment.in_order()? {
            let summary =
                summaries.get(index as usize).ok_or_else(|| segment.wrong("a summary is missing"))?;
            self.row(Row { place: base + row.place, ..row }, summary)?;
        }
        self.removed.extend(segment.removed()?);
        for entry in segment.audit()? {
            self.entry(&entry);
        }
        Ok(())
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.file.write_all(bytes).map_err(|error| format!("{}: {error}", self.draft.display()))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn flush_records(&mut self) -> Result<(), String> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.pending);
        self.block(Stream::Records, self.written, Vec::new(), &bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn block(&mut self, stream: Stream, start: u64, key: Vec<u8>, raw: &[u8]) -> Result<(), String> {
        let compressed;
        let stored = if stream.is_compressed() {
            compressed = lz4_flex::block::compress(raw);
            compressed.as_slice()
        } else {
            raw
        };
        let mut check = [0; 16];
        check.copy_from_slice(&Sha256::digest(stored)[..16]);
        let size =
            |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| "a block that is too large".to_owned());
        let block = Block { offset: self.offset, stored: size(stored)?, raw: size(raw)?, start, check, key };
        self.raw(stored)?;
        self.blocks[stream as usize].push(block);
        Ok(())
    }

    /// Writes what is found by, and puts the file in its place: it is on disk when this returns. The manifest does not
    /// name it yet.
    pub(super) fn finish(mut self, number: u64) -> Result<Segment, String> {
        self.flush_records()?;
        let rows = std::mem::take(&mut self.rows);
        let mut order: Vec<u32> = (0..).take(rows.len()).collect();
        order.sort_by_key(|index| rows[*index as usize].0.id);
        let mut place_of = vec![0_u32; rows.len()];
        for (place, index) in (0_u32..).zip(&order) {
            place_of[*index as usize] = place;
        }
        let mut terms = std::mem::take(&mut self.terms);
        for runs in terms.values_mut() {
            runs.iter_mut().for_each(|index| *index = place_of[*index as usize]);
            runs.sort_unstable();
        }
        let rows: Vec<&(Row, Vec<u8>)> = order.iter().map(|index| &rows[*index as usize]).collect();
        // Of one whose runs were all removed the audit log stays: no run is looked for in it.
        let nobody = RunId::LEDGER;
        let first = rows.first().map_or(nobody, |(row, _)| row.id);
        let last = rows.last().map_or(nobody, |(row, _)| row.id);
        for (number, rows) in rows.chunks(RUNS_A_BLOCK).enumerate() {
            let bytes: Vec<u8> = rows.iter().flat_map(|(row, _)| row.to_bytes()).collect();
            let key = rows.first().map(|(row, _)| row.id.to_bytes().to_vec()).unwrap_or_default();
            self.block(Stream::Runs, (number * RUNS_A_BLOCK * RUN_BYTES) as u64, key, &bytes)?;
        }
        let mut start = 0;
        for rows in rows.chunks(SUMMARIES_A_BLOCK) {
            let mut bytes = Vec::new();
            for (_, json) in rows {
                bytes.extend_from_slice(&u32::try_from(json.len()).unwrap_or(u32::MAX).to_be_bytes());
                bytes.extend_from_slice(json);
            }
            self.block(Stream::Summaries, start, Vec::new(), &bytes)?;
            start += bytes.len() as u64;
        }
        self.terms(&terms)?;
        let audit = std::mem::take(&mut self.audit);
        for (number, part) in audit.chunks(ENTRY_BYTES * RUNS_A_BLOCK).enumerate() {
            self.block(Stream::Audit, (number * ENTRY_BYTES * RUNS_A_BLOCK) as u64, Vec::new(), part)?;
        }
        let removed = std::mem::take(&mut self.removed);
        for (number, part) in removed.chunks(RUNS_A_BLOCK).enumerate() {
            let start = (number * RUNS_A_BLOCK * REMOVED_BYTES) as u64;
            self.block(Stream::Removed, start, Vec::new(), &Removed::write(part))?;
        }
        let about = About {
            runs: u32::try_from(rows.len()).map_err(|_| "too many runs for a segment".to_owned())?,
            records: self.records,
            payload: self.written,
            first,
            last,
            audit_from: self.from.to_string(),
            audit_to: self.to.to_string(),
        };
        self.close(number, about)
    }

    fn terms(&mut self, terms: &BTreeMap<Vec<u8>, Vec<u32>>) -> Result<(), String> {
        let mut place = 0;
        let (mut block, mut key, mut start) = (Vec::new(), Vec::new(), 0);
        for (term, runs) in terms {
            if block.is_empty() {
                key.clone_from(term);
            }
            block.extend_from_slice(&u16::try_from(term.len()).unwrap_or(u16::MAX).to_be_bytes());
            block.extend_from_slice(term);
            block.extend_from_slice(&u64::to_be_bytes(place));
            block.extend_from_slice(&u32::try_from(runs.len()).unwrap_or(u32::MAX).to_be_bytes());
            place += runs.len() as u64;
            if block.len() >= BLOCK / 8 {
                self.block(Stream::Terms, start, std::mem::take(&mut key), &block)?;
                start += block.len() as u64;
                block.clear();
            }
        }
        if !block.is_empty() {
            self.block(Stream::Terms, start, key, &block)?;
        }
        let all: Vec<u32> = terms.values().flatten().copied().collect();
        for (number, part) in all.chunks(POSTINGS_A_BLOCK).enumerate() {
            let bytes: Vec<u8> = part.iter().flat_map(|index| index.to_be_bytes()).collect();
            self.block(Stream::Postings, (number * POSTINGS_A_BLOCK * 4) as u64, Vec::new(), &bytes)?;
        }
        Ok(())
    }

    fn close(mut self, number: u64, about: About) -> Result<Segment, String> {
        let directory = write_directory(&about, &self.blocks)?;
        let digest = Sha256::digest(&directory);
        let mut end = directory.clone();
        end.extend_from_slice(&self.offset.to_be_bytes());
        end.extend_from_slice(&u32::try_from(directory.len()).unwrap_or(u32::MAX).to_be_bytes());
        end.extend_from_slice(&digest);
        end.extend_from_slice(MARK);
        self.raw(&end)?;
        let path = self.folder.join(file_name(number));
        let written = (|| {
            self.file.flush()?;
            self.file.get_ref().sync_all()?;
            fs::rename(&self.draft, &path)?;
            File::open(&self.folder)?.sync_all()
        })();
        written.map_err(|error: io::Error| format!("{}: {error}", path.display()))?;
        let listed = Listed {
            number,
            bytes: self.offset,
            digest: hex(&digest),
            runs: about.runs,
            audit_to: self.to.position,
        };
        Segment::open(&self.folder, listed)
    }
}
