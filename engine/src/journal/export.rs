//! A whole store in one file: a backup that is taken while the store is in use, and a new store made of one.
//!
//! ```text
//! mark (8)  frame*          frame: kind (1) length (8) payload
//! 'o' object    bytes
//! 'r' run       length (4) header (JSON), then of each record: format (1) length (4) JSON
//! 'a' audit     entries of the audit log (audit.rs), which follow on those before
//! 'x' removed   of each run that retention removed: id (16) deed (8) how many records it had (8)
//! 's' sealed    the runs and entries since the last one are a segment
//! 'd' deeds     of each deed of the ledger: format (1) length (4) JSON
//! 't' rows      of each row: length (4) name length (4) value
//! 'e' end       counts and head (JSON), then SHA-256 of everything before this frame (32)
//! ```
//! It holds what was written, not how it was kept: a later version reads it into its own layout. Copying a data folder
//! that is in use is no backup.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::disk::{Batch, Tree};
use super::objects::Objects;
use super::record::{self, FORMAT, Stored};
use super::segment::{Builder, Listed, REMOVED_BYTES};
use super::store::{DiskJournal, OpenError, complete, make, take, tree_of};
use super::writer::{BATCH_KEY, audit_key, audit_value, row_key, segment_key};
use super::{Error, Journal as _, Removed};
use crate::audit::{Chain, ENTRY_BYTES, Entry, Head};
use crate::id::{Digest, RunId, Seq, hex};
use crate::run::RunSummary;

const MARK: &[u8; 8] = b"GLEXP\0\0\x01";
/// The longest payload that is believed.
const MAX_FRAME: u64 = 1 << 32;
const ENTRIES_A_FRAME: usize = 1_024;

/// What a file holds, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counted {
    /// Runs.
    pub runs: u64,
    /// Their records.
    pub records: u64,
    /// Entries of the audit log.
    pub entries: u64,
    /// Deeds of the ledger.
    #[serde(default)]
    pub deeds: u64,
    /// Rows beside records and deeds.
    #[serde(default)]
    pub rows: u64,
    /// Runs that retention removed.
    #[serde(default)]
    pub removed: u64,
    /// Bundles and plans.
    pub objects: u64,
    /// The head of the audit log.
    pub head: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    run: RunId,
    records: u32,
    /// The hash of the last record.
    chain: String,
}

impl DiskJournal {
    /// Writes everything that is acknowledged at this moment into a new file, which is on disk when this returns.
    ///
    /// # Errors
    /// A file that is there already or cannot be written; anything in the store that is not what was written.
    pub fn export(&self, path: &Path) -> Result<Counted, Error> {
        let failed = |error: io::Error| Error::Io { path: path.to_owned(), why: error.to_string() };
        if path.exists() {
            return Err(failed(io::Error::other("it exists already")));
        }
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".draft");
        let draft = path.with_file_name(name);
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&draft).map_err(failed)?;
        let written = self.export_to(&mut Framed::new(BufWriter::new(file)));
        let done = written.and_then(|(counted, file)| {
            let synced = (|| {
                file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
                fs::rename(&draft, path)?;
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
            })();
            synced.map(|()| counted).map_err(|error: io::Error| error.to_string())
        });
        done.map_err(|why| {
            // A file that is not whole is no backup.
            let _ = fs::remove_file(&draft);
            Error::Io { path: path.to_owned(), why }
        })
    }

    fn export_to(&self, out: &mut Framed<BufWriter<File>>) -> Result<(Counted, BufWriter<File>), String> {
        let said = |error: Error| error.to_string();
        let index = self.snapshot();
        let mut counted = Counted { head: index.head.to_string(), ..Counted::default() };
        out.mark()?;
        let mut sealed = 0;
        for segment in &index.segments {
            for (_, row) in segment.in_order()? {
                out.run(row.id, &segment.records(&row)?, &mut counted)?;
            }
            let removed = segment.removed()?;
            for part in removed.chunks(ENTRIES_A_FRAME) {
                out.frame(b'x', &Removed::write(part))?;
            }
            counted.removed += removed.len() as u64;
            out.entries(&segment.audit()?, &mut counted)?;
            out.frame(b's', &[])?;
            sealed = segment.listed.audit_to;
        }
        for (run, line) in &index.live {
            let records: Vec<Stored> = line.records.iter().map(|stored| Stored::clone(stored)).collect();
            out.run(*run, &records, &mut counted)?;
        }
        out.entries(&index.audit_after(sealed, usize::MAX), &mut counted)?;
        for deed in &index.deeds {
            out.named.extend(deed.deed()?.deed.object().cloned());
        }
        let deeds: Vec<(u8, &[u8])> =
            index.deeds.iter().map(|deed| (deed.format, deed.json.as_slice())).collect();
        for part in deeds.chunks(ENTRIES_A_FRAME) {
            let each = part.iter().flat_map(|(format, json)| [&[*format][..], &length(json), json].concat());
            out.frame(b'd', &each.collect::<Vec<u8>>())?;
        }
        let rows: Vec<(&String, &Vec<u8>)> = index.rows.iter().collect();
        for part in rows.chunks(ENTRIES_A_FRAME) {
            let each = part.iter().flat_map(|(name, value)| {
                [&length(name.as_bytes())[..], name.as_bytes(), &length(value), value].concat()
            });
            out.frame(b't', &each.collect::<Vec<u8>>())?;
        }
        counted.deeds = deeds.len() as u64;
        counted.rows = rows.len() as u64;
        // What records name was there before them; what is missing must not be missed by whoever needs the backup.
        let kept: BTreeSet<Digest> =
            self.objects().all().map_err(|error| error.to_string())?.into_iter().collect();
        if let Some(lost) = out.named.difference(&kept).next() {
            return Err(format!("the store is damaged: the object {lost} is missing"));
        }
        for digest in self.objects().all().map_err(|error| error.to_string())? {
            out.frame(b'o', &self.get(&digest).map_err(said)?)?;
            counted.objects += 1;
        }
        let digest = out.digest();
        let mut end = serde_json::to_vec(&counted).map_err(|error| error.to_string())?;
        end.extend_from_slice(&digest);
        out.frame(b'e', &end)?;
        Ok((counted, out.take()?))
    }

    /// Makes a store in a new folder of what a file holds. The file is read to its end and checked before the store can
    /// be opened.
    ///
    /// # Errors
    /// A folder that holds a store already; a file that is cut short or was changed.
    pub fn import(folder: &Path, path: &Path) -> Result<Counted, OpenError> {
        let file = File::open(path)
            .map_err(|error| OpenError::Io { path: path.to_owned(), why: error.to_string() })?;
        let _lock = take(folder)?;
        if folder.join("format").exists() {
            let why = "it holds a store already, and nothing is ever written over one".into();
            return Err(OpenError::Io { path: folder.to_owned(), why });
        }
        make(folder)?;
        let tree = tree_of(folder)?;
        let mut import = Import {
            tree: &tree,
            objects: Objects::new(folder.join("objects")),
            history: &folder.join("history"),
            batch: Batch::default(),
            batches: 0,
            pending: Vec::new(),
            removed: Vec::new(),
            entries: Vec::new(),
            head: Head::default(),
            sealed: Head::default(),
            segments: 0,
            deeds: Vec::new(),
            logged: Vec::new(),
            counted: Counted::default(),
        };
        let wrong = |why: String| OpenError::Damaged { path: path.to_owned(), why };
        let counted = import.read(&mut BufReader::new(file)).map_err(wrong)?;
        let batches = import.batches;
        drop(import);
        complete(folder, batches)?;
        Ok(counted)
    }
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes()
}

/// Cuts off what stands behind its length.
fn cut(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(4)?;
    rest.split_at_checked(u32::from_be_bytes(length.try_into().ok()?) as usize)
}

/// Writes frames, and the digest of all of them.
struct Framed<W> {
    out: Option<W>,
    hash: Sha256,
    /// The objects that records name.
    named: BTreeSet<Digest>,
}

impl<W: Write> Framed<W> {
    fn new(out: W) -> Framed<W> {
        Framed { out: Some(out), hash: Sha256::new(), named: BTreeSet::new() }
    }

    fn mark(&mut self) -> Result<(), String> {
        self.bytes(MARK)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.hash.update(bytes);
        self.out.as_mut().map_or(Ok(()), |out| out.write_all(bytes)).map_err(|error| error.to_string())
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> Result<(), String> {
        self.bytes(&[kind])?;
        self.bytes(&(payload.len() as u64).to_be_bytes())?;
        self.bytes(payload)
    }

    fn run(&mut self, run: RunId, records: &[Stored], counted: &mut Counted) -> Result<(), String> {
        let header = Header {
            run,
            records: u32::try_from(records.len()).map_err(|_| "a run that is too large".to_owned())?,
            chain: hex(&records.last().map(|last| last.chain).unwrap_or_default()),
        };
        let header = serde_json::to_vec(&header).map_err(|error| error.to_string())?;
        let mut payload = Vec::new();
        payload.extend_from_slice(&length(&header));
        payload.extend_from_slice(&header);
        for record in records {
            payload.push(record.format);
            payload.extend_from_slice(&length(&record.json));
            payload.extend_from_slice(&record.json);
        }
        for record in records {
            self.named.extend(record.record()?.event.objects());
        }
        counted.runs += 1;
        counted.records += records.len() as u64;
        self.frame(b'r', &payload)
    }

    fn entries(&mut self, entries: &[Entry], counted: &mut Counted) -> Result<(), String> {
        for part in entries.chunks(ENTRIES_A_FRAME) {
            let payload: Vec<u8> = part.iter().flat_map(Entry::to_bytes).collect();
            self.frame(b'a', &payload)?;
        }
        counted.entries += entries.len() as u64;
        Ok(())
    }

    fn digest(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }

    fn take(&mut self) -> Result<W, String> {
        self.out.take().ok_or_else(|| "it was written already".into())
    }
}

/// A store that is being made.
struct Import<'s> {
    tree: &'s Tree,
    objects: Objects,
    history: &'s Path,
    batch: Batch,
    batches: u64,
    /// Runs and entries since the last segment.
    pending: Vec<(RunSummary, Vec<Stored>)>,
    removed: Vec<Removed>,
    entries: Vec<Entry>,
    head: Head,
    sealed: Head,
    segments: u64,
    /// The hashes of the deeds.
    deeds: Vec<Chain>,
    /// The deeds that the audit log names, with their hashes.
    logged: Vec<(Seq, Chain)>,
    counted: Counted,
}

impl Import<'_> {
    fn read(&mut self, file: &mut impl Read) -> Result<Counted, String> {
        let cut = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => "it is cut short".to_owned(),
            _ => error.to_string(),
        };
        let mut hash = Sha256::new();
        let mut mark = [0; 8];
        file.read_exact(&mut mark).map_err(cut)?;
        if &mark != MARK {
            return Err("it is no backup of this version of graylane".into());
        }
        hash.update(mark);
        loop {
            let before = hash.clone();
            let mut head = [0; 9];
            file.read_exact(&mut head).map_err(cut)?;
            let length = head[1..].iter().fold(0_u64, |length, byte| length << 8 | u64::from(*byte));
            if length > MAX_FRAME {
                return Err("a part of it is too long".into());
            }
            let mut payload = Vec::new();
            file.take(length).read_to_end(&mut payload).map_err(cut)?;
            if payload.len() as u64 != length {
                return Err("it is cut short".into());
            }
            hash.update(head);
            hash.update(&payload);
            match head[0] {
                b'r' => self.run(&payload)?,
                b'a' => self.audit(&payload)?,
                b'x' => self.removed(&payload)?,
                b's' => self.seal()?,
                b'd' => self.deeds(&payload)?,
                b't' => self.rows(&payload)?,
                b'o' => {
                    self.objects.put(&payload).map_err(|error| error.to_string())?;
                    self.counted.objects += 1;
                }
                b'e' => {
                    let counted = self.end(&payload, &before.finalize().into())?;
                    return match file.read(&mut [0]).map_err(cut)? {
                        0 => Ok(counted),
                        _ => Err("something stands after its end".into()),
                    };
                }
                other => {
                    return Err(format!("it has a part of kind {other}, which this version does not know"));
                }
            }
        }
    }

    fn run(&mut self, payload: &[u8]) -> Result<(), String> {
        let (header, records) = parse_run(payload).ok_or("a run that is unreadable")?;
        let mut chain = Chain::default();
        let mut stored = Vec::with_capacity(records.len());
        for (seq, (format, json)) in (1..).zip(records) {
            if format != FORMAT {
                return Err(format!("a record of format {format}, which this version does not know"));
            }
            chain = record::link(&chain, &record::key(header.run, Seq(seq)), json);
            stored.push(Stored { format, chain, json: json.to_vec() });
        }
        if hex(&chain) != header.chain || stored.len() != header.records as usize {
            return Err(format!("run {}: a record was changed, or one is missing", header.run));
        }
        let mut summary: Option<RunSummary> = None;
        for stored in &stored {
            let record = stored.record()?;
            match &mut summary {
                Some(summary) => summary.follow(&record),
                None => summary = RunSummary::begin(&record),
            }
        }
        let summary = summary.ok_or_else(|| format!("run {} has no beginning", header.run))?;
        self.counted.runs += 1;
        self.counted.records += stored.len() as u64;
        self.pending.push((summary, stored));
        Ok(())
    }

    fn audit(&mut self, payload: &[u8]) -> Result<(), String> {
        for bytes in payload.chunks(ENTRY_BYTES) {
            let entry = Entry::from_bytes(bytes).ok_or("an entry of the audit log is unreadable")?;
            if entry.position != self.head.position + 1 {
                return Err(format!("entry {} of the audit log is missing", self.head.position + 1));
            }
            self.head = self.head.after(&entry);
            if entry.is_deed() {
                self.logged.push((entry.seq, entry.chain));
            }
            self.entries.push(entry);
            self.counted.entries += 1;
        }
        Ok(())
    }

    fn deeds(&mut self, payload: &[u8]) -> Result<(), String> {
        let mut rest = payload;
        while let Some((format, after)) = rest.split_first() {
            let (json, after) = cut(after).ok_or("a deed is cut short")?;
            rest = after;
            let seq = Seq(self.deeds.len() as u64 + 1);
            let key = record::deed_key(seq);
            let chain = record::link(&self.deeds.last().copied().unwrap_or_default(), &key, json);
            let stored = Stored { format: *format, chain, json: json.to_vec() };
            if stored.deed()?.seq != seq {
                return Err(format!("deed {seq} is missing"));
            }
            self.batch.insert(&key, &record::value(&chain, json));
            self.deeds.push(chain);
            self.counted.deeds += 1;
        }
        Ok(())
    }

    fn rows(&mut self, payload: &[u8]) -> Result<(), String> {
        let mut rest = payload;
        while !rest.is_empty() {
            let row =
                cut(rest).and_then(|(name, after)| cut(after).map(|(value, after)| (name, value, after)));
            let (name, value, after) = row.ok_or("a row is cut short")?;
            let name = std::str::from_utf8(name).map_err(|_| "the name of a row is unreadable")?;
            self.batch.insert(&row_key(name), value);
            self.counted.rows += 1;
            rest = after;
        }
        Ok(())
    }

    fn removed(&mut self, payload: &[u8]) -> Result<(), String> {
        if !payload.len().is_multiple_of(REMOVED_BYTES) {
            return Err("the list of removed runs is cut short".into());
        }
        let before = self.removed.len();
        self.removed.extend(Removed::read(payload));
        self.counted.removed += (self.removed.len() - before) as u64;
        Ok(())
    }

    fn seal(&mut self) -> Result<(), String> {
        let number = self.segments + 1;
        let mut builder = Builder::new(self.history, number, self.sealed)?;
        for (summary, stored) in self.pending.drain(..) {
            builder.run(&summary, &stored)?;
        }
        self.removed.drain(..).for_each(|removed| builder.removed(removed));
        for entry in self.entries.drain(..) {
            builder.entry(&entry);
        }
        let segment = builder.finish(number)?;
        let listed: &Listed = &segment.listed;
        let value = serde_json::to_vec(listed).map_err(|error| error.to_string())?;
        self.batch.insert(&segment_key(number), &value);
        self.segments = number;
        self.sealed = self.head;
        self.commit()
    }

    fn commit(&mut self) -> Result<(), String> {
        self.batches += 1;
        self.batch.insert(BATCH_KEY, &self.batches.to_be_bytes());
        self.tree.commit(std::mem::take(&mut self.batch))
    }

    fn end(&mut self, payload: &[u8], digest: &[u8; 32]) -> Result<Counted, String> {
        let wrong = || "its end is unreadable".to_owned();
        let (json, stored) = payload.split_at_checked(payload.len().saturating_sub(32)).ok_or_else(wrong)?;
        if stored != digest {
            return Err("it was changed: its checksum is another one".into());
        }
        let said: Counted = serde_json::from_slice(json).map_err(|_| wrong())?;
        let deeds: Vec<(Seq, Chain)> = (1..).map(Seq).zip(self.deeds.iter().copied()).collect();
        if deeds != self.logged {
            return Err("its deeds and its audit log do not tell the same".into());
        }
        let mut head = self.sealed;
        for entry in std::mem::take(&mut self.entries) {
            head = head.after(&entry);
            self.batch.insert(&audit_key(entry.position), &audit_value(&entry, &head));
        }
        for (summary, stored) in std::mem::take(&mut self.pending) {
            for (seq, record) in (1..).zip(stored) {
                self.batch
                    .insert(&record::key(summary.id, Seq(seq)), &record::value(&record.chain, &record.json));
            }
            if self.batch.bytes > 1 << 20 {
                self.commit()?;
            }
        }
        self.commit()?;
        let counted = Counted { head: head.to_string(), ..self.counted.clone() };
        if counted != said {
            return Err(format!("it says that it holds {said:?}, and holds {counted:?}"));
        }
        Ok(counted)
    }
}

/// Of a record its format and its JSON.
type Raw<'p> = (u8, &'p [u8]);

/// A run's header and its records.
fn parse_run(payload: &[u8]) -> Option<(Header, Vec<Raw<'_>>)> {
    let (length, rest) = payload.split_at_checked(4)?;
    let (header, mut rest) = rest.split_at_checked(u32::from_be_bytes(length.try_into().ok()?) as usize)?;
    let header = serde_json::from_slice(header).ok()?;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (head, after) = rest.split_at_checked(5)?;
        let length = u32::from_be_bytes(head[1..].try_into().ok()?) as usize;
        let (json, after) = after.split_at_checked(length)?;
        records.push((head[0], json));
        rest = after;
    }
    Some((header, records))
}
