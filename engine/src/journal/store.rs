//! The journal on disk: opening, checking, and what its callers hold.
//!
//! ```text
//! <data>/lock            who holds the store
//! <data>/format          the version of the layout; written last, when a new store is whole
//! <data>/store/N         sled: unfinished runs, and those that ended lately; `store/current` names N
//! <data>/history/*.seg   finished runs, sealed; sled holds the manifest
//! <data>/sentinel        the last acknowledged batch
//! <data>/objects/ab/..   bytes by digest: bundles and plans
//! ```
//! A store is opened whole or not at all: what is missing or changed is said, and nothing is mended in silence.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, mpsc};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::disk::{Generations, Tree, TreeError};
use super::history::{self, Index, Place};
use super::objects::Objects;
use super::query::{Page, Query};
use super::record::{self, Stored};
use super::sealer;
use super::segment::{Doomed, Listed, Segment, file_name};
use super::writer::{self, AUDIT, BATCH_KEY, End, Forcing, Job, ROW, SEGMENT, Sentinel, Write, Writer};
use super::{Error, Journal, Removed, Together};
use crate::audit::{Chain, ENTRY_BYTES, Entry, Head};
use crate::id::{Digest, RunId, Seq};
use crate::ledger::DeedRecord;
use crate::lock::{Lock, lock};
use crate::run::{Event, Record, RunSummary};

/// The version of the layout of a data folder.
const LAYOUT: u32 = 2;
/// A disk that answered so soon the last time is waited for in place.
const QUICK: Duration = Duration::from_millis(1);
/// What may stand in a data folder before its first store is made.
const OURS: [&str; 9] =
    ["lock", "digest.key", "logs", "objects", "api.sock", "store", "history", "sentinel", "sources"];

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds it.
    #[error("the data folder {path} is in use by process {pid}")]
    Locked {
        /// The data folder.
        path: PathBuf,
        /// The holder, as its lock file says.
        pid: String,
    },
    /// It was written by a version with another layout.
    #[error("the store in {path} has format {found}; this version reads format {LAYOUT}")]
    Newer {
        /// The data folder.
        path: PathBuf,
        /// What stands in its format file.
        found: String,
    },
    /// What is stored cannot be read, or is less than what was acknowledged.
    #[error("the store in {path} is damaged: {why}")]
    Damaged {
        /// The data folder.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// The system would not do it, or the folder is somebody else's.
    #[error("the data folder {path} cannot be used: {why}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
}

/// When the store tidies up. Tests and measurements set other limits; users have no reason to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many finished runs are sealed together.
    pub seal: usize,
    /// How many small segments become one.
    pub merge: usize,
    /// How many keys are written before sled moves to a fresh folder.
    pub rotate: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { seal: 2048, merge: 16, rotate: 500_000 }
    }
}

/// What a store holds, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Statistics {
    /// Batches that were acknowledged, ever.
    pub batches: u64,
    /// Runs that are not final.
    pub unfinished: u64,
    /// Finished runs that are not sealed.
    pub unsealed: u64,
    /// Finished runs in segments.
    pub sealed: u64,
    /// Deeds of the ledger.
    #[serde(default)]
    pub deeds: u64,
    /// What is kept beside records and deeds: schedules and their slots.
    #[serde(default)]
    pub rows: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes of all segments.
    pub segment_bytes: u64,
    /// Bytes of the records in segments before compression.
    pub payload_bytes: u64,
}

/// A journal in a data folder.
pub struct DiskJournal {
    folder: PathBuf,
    limits: Limits,
    shared: Arc<Shared>,
    objects: Objects,
    running: Mutex<Option<Running>>,
    /// Held while the store is open.
    lock: File,
}

struct Running {
    queue: mpsc::Sender<Job>,
    /// How many writes are in the queue.
    queued: Arc<AtomicUsize>,
    writer: Arc<Mutex<Writer>>,
    stop: Arc<AtomicBool>,
    /// What writes, what forces the sentinel, what seals.
    threads: [thread::JoinHandle<()>; 3],
}

/// What became of a write that was handed in.
enum HandedIn {
    Written(Result<(), Error>),
    Queued(oneshot::Receiver<Result<(), Error>>),
}

/// Whether this thread may wait for a disk: others take over what else it has to do.
fn may_block() -> bool {
    tokio::runtime::Handle::try_current()
        .is_ok_and(|here| here.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread)
}

/// Whether the runtime has other threads than this one.
fn others_work() -> bool {
    tokio::runtime::Handle::try_current().is_ok_and(|here| here.metrics().num_workers() > 1)
}

/// What the threads and the readers of a store share.
pub(super) struct Shared {
    pub(super) index: RwLock<Index>,
    pub(super) history: PathBuf,
    acknowledged: AtomicU64,
}

impl Shared {
    pub(super) fn segments(&self) -> Vec<Arc<Segment>> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).segments.clone()
    }

    pub(super) fn acknowledge(&self, batch: u64) {
        self.acknowledged.store(batch, Ordering::SeqCst);
    }
}

/// A store that was opened and checked.
struct Opened {
    tree: Tree,
    generations: Generations,
    generation: u64,
    sentinel: Sentinel,
    batch: u64,
    found: Found,
    segments: Vec<Arc<Segment>>,
}

/// What sled holds.
#[derive(Default)]
struct Found {
    index: Index,
    ends: HashMap<RunId, End>,
    audit: Vec<Entry>,
    head: Head,
    keys: u64,
}

impl std::fmt::Debug for DiskJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskJournal").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl DiskJournal {
    /// Opens the store in a data folder, and makes both where they are missing. Every record that is not sealed, the
    /// manifest and the directory of every segment are read and checked.
    ///
    /// # Errors
    /// Who holds it, or what is wrong with it; never a shorter history than was acknowledged.
    pub fn open(folder: &Path) -> Result<DiskJournal, OpenError> {
        DiskJournal::open_with(folder, Limits::default())
    }

    /// The same, with other limits.
    ///
    /// # Errors
    /// As [`DiskJournal::open`].
    pub fn open_with(folder: &Path, limits: Limits) -> Result<DiskJournal, OpenError> {
        let lock = take(folder)?;
        prepare(folder)?;
        let opened = open_store(folder)?;
        let shared = Arc::new(Shared {
            index: RwLock::default(),
            history: folder.join("history"),
            acknowledged: AtomicU64::new(0),
        });
        let running = start(opened, &shared, limits).map_err(|why| damaged(folder, why))?;
        Ok(DiskJournal {
            folder: folder.to_owned(),
            limits,
            shared,
            objects: Objects::new(folder.join("objects")),
            running: Mutex::new(Some(running)),
            lock,
        })
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the store holds.
    pub fn statistics(&self) -> Statistics {
        let index = self.shared.index.read().unwrap_or_else(PoisonError::into_inner);
        let finished = index.live.values().filter(|line| line.summary.is_final()).count() as u64;
        Statistics {
            batches: self.shared.acknowledged.load(Ordering::SeqCst),
            unfinished: index.live.len() as u64 - finished,
            unsealed: finished,
            sealed: index.segments.iter().map(|segment| u64::from(segment.about.runs)).sum(),
            deeds: index.deeds.len() as u64,
            rows: index.rows.len() as u64,
            segments: index.segments.len() as u64,
            segment_bytes: index.segments.iter().map(|segment| segment.listed.bytes).sum(),
            payload_bytes: index.segments.iter().map(|segment| segment.about.payload).sum(),
        }
    }

    pub(super) fn segments(&self) -> Vec<Arc<Segment>> {
        self.shared.segments()
    }

    /// Everything that is acknowledged at this moment, and where it is.
    pub(super) fn snapshot(&self) -> Index {
        self.shared.index.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Moves the store to a fresh folder of sled now, which gives back what it keeps for what was removed.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn compact(&self) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        let closed = || Error::Broken("the writer has stopped".into());
        {
            let running = self.running();
            running.as_ref().ok_or_else(closed)?.queue.send(Job::Compact(done)).map_err(|_| closed())?;
        }
        answer.await.map_err(|_| closed())?
    }

    /// Goes on with a store that is shorter than what was acknowledged: from now on, what is there is all there was.
    /// Gives how many writes are lost; none where nothing is missing.
    ///
    /// # Errors
    /// A store that is held, or damaged in another way.
    pub fn accept_loss(folder: &Path) -> Result<u64, OpenError> {
        if !folder.join("format").exists() {
            let why = "it holds no store of graylane".into();
            return Err(OpenError::Io { path: folder.to_owned(), why });
        }
        let _lock = take(folder)?;
        prepare(folder)?;
        let tree = tree_of(folder)?;
        let batch = tree.guarded(|tree, _| last_batch(tree)).map_err(|why| damaged(folder, why))?;
        let path = folder.join("sentinel");
        let sentinel = Sentinel::open(&path).map_err(io_error(&path))?;
        let acknowledged = sentinel.read().unwrap_or(batch);
        if acknowledged > batch {
            sentinel.write(batch).and_then(|()| sentinel.sync()).map_err(io_error(&path))?;
        }
        Ok(acknowledged.saturating_sub(batch))
    }

    pub(super) fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Hands over every run: the sealed ones in the order of their ends, then the others. A run that is sealed meanwhile
    /// is still handed over once, from where it is then.
    pub(super) fn every_run(
        &self,
        each: &mut dyn FnMut(RunId, Result<Vec<Stored>, String>) -> Result<(), String>,
    ) -> Result<(), String> {
        let (live, segments) = {
            let index = self.shared.index.read().unwrap_or_else(PoisonError::into_inner);
            (index.live.keys().copied().collect::<Vec<_>>(), index.segments.clone())
        };
        for segment in segments {
            for (_, row) in segment.in_order()? {
                each(row.id, segment.records(&row))?;
            }
        }
        for run in live {
            each(run, self.stored(run).map_err(|error| error.to_string()))?;
        }
        Ok(())
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        let running = self.running().take();
        if let Some(Running { queue, writer, stop, threads, .. }) = running {
            stop.store(true, Ordering::Relaxed);
            // A writer that has ended needs no word.
            let _ = queue.send(Job::Close);
            drop(queue);
            let [journal, forcing, sealer] = threads;
            // One that panicked has already answered everybody.
            let _ = journal.join();
            // With the last use of the writer the others have nothing more to come.
            drop(writer);
            let _ = (forcing.join(), sealer.join());
        }
    }

    pub(super) fn stored(&self, run: RunId) -> Result<Vec<Stored>, Error> {
        let place = {
            let index = self.shared.index.read().unwrap_or_else(PoisonError::into_inner);
            index.place(run)
        };
        match place.map_err(Error::Damaged)? {
            Place::Nowhere => Ok(Vec::new()),
            Place::Sealed(segment, row) => segment.records(&row).map_err(Error::Damaged),
            Place::Live(records) => Ok(records.iter().map(|stored| Stored::clone(stored)).collect()),
        }
    }
}

impl Drop for DiskJournal {
    fn drop(&mut self) {
        self.stop();
        // A program that is being started elsewhere in this process has the file too, for a moment: closing it is not enough.
        let _ = self.lock.unlock();
    }
}

impl DiskJournal {
    /// Writes at once where nobody else does and nobody is in line, so that no other thread has to wake for it; else
    /// puts the write in line, where it becomes part of the next batch. Whoever writes two things of one run waits for the
    /// first: between callers there is no order.
    fn hand_in(&self, write: Write) -> Result<HandedIn, Error> {
        let closed = || Error::Broken("the writer has stopped".into());
        let (writer, queue) = {
            let running = self.running();
            let running = running.as_ref().ok_or_else(closed)?;
            let is_idle = running.queued.load(Ordering::SeqCst) == 0;
            (is_idle.then(|| Arc::clone(&running.writer)), running.queue.clone())
        };
        let idle = writer.as_ref().filter(|_| may_block()).and_then(|writer| writer.try_lock().ok());
        let Some(mut writer) = idle else {
            let running = self.running();
            return running
                .as_ref()
                .and_then(|running| running.line_up(write))
                .map(HandedIn::Queued)
                .ok_or_else(closed);
        };
        let quick = writer.took < QUICK && others_work();
        let work = || {
            let answer = writer.write_all(vec![write]).pop().unwrap_or(Ok(()));
            if writer.has_chores() {
                // The thread is gone where the store is being closed.
                let _ = queue.send(Job::KeepHouse);
            }
            Ok(HandedIn::Written(answer))
        };
        // To give away what else this thread has to do wakes another thread, which takes longer than a quick disk.
        if quick { work() } else { tokio::task::block_in_place(work) }
    }
}

impl Running {
    /// Puts a write in line; none where nobody works it off any more.
    fn line_up(&self, write: Write) -> Option<oneshot::Receiver<Result<(), Error>>> {
        let (done, answer) = oneshot::channel();
        self.queued.fetch_add(1, Ordering::SeqCst);
        self.queue.send(Job::Write(write, done)).ok()?;
        Some(answer)
    }
}

#[async_trait]
impl Journal for DiskJournal {
    async fn write(&self, together: Together) -> Result<(), Error> {
        if together.is_empty() {
            return Ok(());
        }
        let Together { records, deeds, rows } = together;
        let json = |record: Record| {
            serde_json::to_vec(&record)
                .map(|json| (record, json))
                .map_err(|error| Error::Broken(error.to_string()))
        };
        let records = records.into_iter().map(json).collect::<Result<_, _>>()?;
        let write = Write { records, deeds, rows };
        match self.hand_in(write)? {
            HandedIn::Written(answer) => answer,
            HandedIn::Queued(answer) => {
                answer.await.map_err(|_| Error::Broken("the writer has stopped".into()))?
            }
        }
    }

    fn deeds(&self) -> Result<Vec<(DeedRecord, Chain)>, Error> {
        let index = self.shared.index.read().unwrap_or_else(PoisonError::into_inner);
        index.deeds().map_err(Error::Damaged)
    }

    fn deed(&self, seq: Seq) -> Result<Option<DeedRecord>, Error> {
        let index = self.shared.index.read().unwrap_or_else(PoisonError::into_inner);
        index.deed(seq).map_err(Error::Damaged)
    }

    fn rows(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        self.shared.index.read().unwrap_or_else(PoisonError::into_inner).rows_below(prefix)
    }

    fn unique(&self, name: &str, seen: u64) -> Result<Option<RunId>, Error> {
        let found = self.shared.index.read().unwrap_or_else(PoisonError::into_inner).unique(name, seen);
        match found {
            Ok(run) => Ok(Some(run)),
            Err(segments) => history::find_unique(&segments, name).map_err(Error::Damaged),
        }
    }

    fn read_chained(&self, run: RunId) -> Result<Vec<(Record, Chain)>, Error> {
        let stored = self.stored(run)?;
        let decoded = stored.iter().map(|stored| stored.record().map(|record| (record, stored.chain)));
        decoded.collect::<Result<_, _>>().map_err(|why| Error::Damaged(format!("run {run}: {why}")))
    }

    fn read_after(&self, run: RunId, after: Seq, limit: usize) -> Result<Vec<Record>, Error> {
        let skip = usize::try_from(after.0).unwrap_or(usize::MAX);
        let stored = {
            let index = self.shared.index.read().unwrap_or_else(PoisonError::into_inner);
            index.live_after(run, skip, limit)
        };
        let decode =
            |stored: &Stored| stored.record().map_err(|why| Error::Damaged(format!("run {run}: {why}")));
        match stored {
            Some(stored) => stored.iter().map(|stored| decode(stored)).collect(),
            // Its hash is checked from its first record on.
            None => self.stored(run)?.iter().skip(skip).take(limit).map(decode).collect(),
        }
    }

    fn list(&self, query: &Query) -> Result<Page, Error> {
        let (live, segments) = {
            let index = self.shared.index.read().unwrap_or_else(PoisonError::into_inner);
            (index.live(query), index.segments.clone())
        };
        history::list(live, &segments, query).map_err(Error::Damaged)
    }

    fn unfinished(&self) -> Vec<RunSummary> {
        self.shared.index.read().unwrap_or_else(PoisonError::into_inner).unfinished()
    }

    fn audit(&self, after: u64, limit: usize) -> Result<Vec<Entry>, Error> {
        let (segments, rest) = {
            let index = self.shared.index.read().unwrap_or_else(PoisonError::into_inner);
            (index.segments.clone(), index.audit_after(after, limit))
        };
        let first = segments.partition_point(|segment| segment.listed.audit_to <= after);
        let mut entries: Vec<Entry> = Vec::new();
        for segment in &segments[first..] {
            if entries.len() >= limit {
                break;
            }
            let left = limit - entries.len();
            entries.extend(segment.audit_after(after, left).map_err(Error::Damaged)?);
        }
        entries.extend(rest);
        entries.truncate(limit);
        Ok(entries)
    }

    fn head(&self) -> Head {
        self.shared.index.read().unwrap_or_else(PoisonError::into_inner).head
    }

    fn head_at(&self, position: u64) -> Result<Option<Head>, Error> {
        if position > self.head().position {
            return Ok(None);
        }
        // A segment knows the head before it.
        let segments = self.shared.segments();
        let first = segments.partition_point(|segment| segment.listed.audit_to < position);
        let before = match (segments.get(first), segments.last()) {
            (Some(segment), _) => segment.about.heads().map(|heads| heads.0),
            (None, Some(last)) => last.about.heads().map(|heads| heads.1),
            (None, None) => Ok(Head::default()),
        };
        let before = before.map_err(Error::Damaged)?;
        let count = usize::try_from(position.saturating_sub(before.position)).unwrap_or(usize::MAX);
        let entries = if count == 0 { Vec::new() } else { self.audit(before.position, count)? };
        let head = entries.iter().fold(before, |head, entry| head.after(entry));
        Ok((head.position == position).then_some(head))
    }

    async fn prune(&self, deed: Seq, runs: Vec<RunId>) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        let closed = || Error::Broken("the writer has stopped".into());
        let doomed = Arc::new(Doomed { deed, runs: runs.into_iter().collect() });
        {
            let running = self.running();
            running
                .as_ref()
                .ok_or_else(closed)?
                .queue
                .send(Job::Prune(doomed, done))
                .map_err(|_| closed())?;
        }
        answer.await.map_err(|_| closed())?
    }

    fn removed(&self) -> Result<Vec<Removed>, Error> {
        let mut removed = Vec::new();
        for segment in self.segments() {
            removed.extend(segment.removed().map_err(Error::Damaged)?);
        }
        Ok(removed)
    }

    fn sweep(&self) -> Result<u64, Error> {
        self.sweep_objects()
    }

    fn put(&self, bytes: &[u8]) -> Result<Digest, Error> {
        self.objects.put(bytes)
    }

    fn get(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        self.objects.get(digest)
    }

    fn reopen(&self) -> Result<(), Error> {
        self.stop();
        let acknowledged = self.shared.acknowledged.load(Ordering::SeqCst);
        let opened = open_store(&self.folder).map_err(|error| Error::Broken(error.to_string()))?;
        if opened.batch < acknowledged {
            return Err(Error::Damaged(format!(
                "it ends at write {}, and {acknowledged} were acknowledged",
                opened.batch
            )));
        }
        let running = start(opened, &self.shared, self.limits).map_err(Error::Damaged)?;
        *self.running() = Some(running);
        Ok(())
    }
}

fn damaged(folder: &Path, why: String) -> OpenError {
    OpenError::Damaged { path: folder.to_owned(), why }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |error| OpenError::Io { path: path.clone(), why: error.to_string() }
}

/// Takes the lock of a data folder, which is made where it is missing.
pub(super) fn take(folder: &Path) -> Result<File, OpenError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io_error(folder))?;
    match lock(folder).map_err(io_error(&folder.join("lock")))? {
        Lock::Ours(file) => Ok(file),
        Lock::Theirs(pid) => Err(OpenError::Locked { path: folder.to_owned(), pid }),
    }
}

/// Makes sure that a folder holds a store of this layout, and makes an empty one where there is none.
fn prepare(folder: &Path) -> Result<(), OpenError> {
    let path = folder.join("format");
    match fs::read_to_string(&path) {
        Ok(found) if found.trim() == LAYOUT.to_string() => return Ok(()),
        Ok(found) => {
            let found = found.trim().chars().take(20).collect();
            return Err(OpenError::Newer { path: folder.to_owned(), found });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error(&path)(error)),
    }
    for entry in fs::read_dir(folder).map_err(io_error(folder))?.flatten() {
        let name = entry.file_name();
        if !OURS.iter().any(|ours| name.to_str() == Some(*ours)) {
            let why = format!("it holds `{}`, and no store of graylane", name.to_string_lossy());
            return Err(OpenError::Io { path: folder.to_owned(), why });
        }
    }
    let sentinel = folder.join("sentinel");
    // Written before `format`: where it counts writes, a store was in use here.
    if Sentinel::open(&sentinel).and_then(|sentinel| sentinel.read()).is_ok_and(|batch| batch > 0) {
        return Err(damaged(folder, "its `format` file is missing".into()));
    }
    make(folder)?;
    complete(folder, 0)
}

/// Makes the parts of a new store; it cannot be opened yet.
pub(super) fn make(folder: &Path) -> Result<(), OpenError> {
    let generations = Generations::new(folder.join("store"));
    for part in ["store", "history"] {
        let part = folder.join(part);
        // A new store that a crash cut off before it was in use holds nothing.
        match fs::remove_dir_all(&part) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(&part)(error)),
        }
        fs::DirBuilder::new().mode(0o700).create(&part).map_err(io_error(&part))?;
    }
    Tree::open(&generations.path(1)).map(drop).map_err(|error| tree_error(folder, error))?;
    let written = (|| {
        generations.switch(1)?;
        let sentinel = Sentinel::open(&folder.join("sentinel"))?;
        sentinel.write(0)?;
        sentinel.sync()?;
        File::open(folder)?.sync_all()
    })();
    written.map_err(io_error(folder))
}

/// Makes a new store one that can be opened, with so many batches in it.
pub(super) fn complete(folder: &Path, batches: u64) -> Result<(), OpenError> {
    let path = folder.join("format");
    let written = (|| {
        File::open(folder.join("history"))?.sync_all()?;
        fs::write(&path, format!("{LAYOUT}\n"))?;
        File::open(&path)?.sync_all()?;
        File::open(folder)?.sync_all()?;
        let sentinel = Sentinel::open(&folder.join("sentinel"))?;
        sentinel.write(batches)?;
        sentinel.sync()?;
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
        parent.map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    })();
    written.map_err(io_error(folder))
}

/// The sled that is in use.
pub(super) fn tree_of(folder: &Path) -> Result<Tree, OpenError> {
    let wrong = |why: String| damaged(folder, why);
    let (generations, generation) = current(folder)?;
    if !generations.path(generation).is_dir() {
        return Err(wrong(format!("its folder `store/{generation}` is missing")));
    }
    Tree::open(&generations.path(generation)).map_err(|error| tree_error(folder, error))
}

fn current(folder: &Path) -> Result<(Generations, u64), OpenError> {
    let generations = Generations::new(folder.join("store"));
    let found = generations.current().and_then(|found| found.ok_or("`store/current` is missing".into()));
    found.map(|number| (generations, number)).map_err(|why| damaged(folder, why))
}

fn tree_error(folder: &Path, error: TreeError) -> OpenError {
    match error {
        TreeError::Io(why) => OpenError::Io { path: folder.join("store"), why },
        TreeError::Damaged(why) => damaged(folder, why),
    }
}

/// Opens and checks everything that is needed to go on.
fn open_store(folder: &Path) -> Result<Opened, OpenError> {
    let wrong = |why: String| damaged(folder, why);
    let (generations, generation) = current(folder)?;
    let tree = tree_of(folder)?;
    let path = folder.join("sentinel");
    if !path.exists() {
        return Err(wrong("its `sentinel` file is missing".into()));
    }
    let sentinel = Sentinel::open(&path).map_err(io_error(&path))?;
    let acknowledged = sentinel.read().map_err(|_| wrong("its `sentinel` file is cut short".into()))?;
    let history = folder.join("history");
    let read = tree.guarded(move |tree, progress| {
        let batch = last_batch(tree)?;
        if acknowledged > batch {
            return Err(format!(
                "the last {} acknowledged writes are missing (the store ends at write {batch}, {acknowledged} were acknowledged)",
                acknowledged - batch
            ));
        }
        let segments = open_segments(tree, &history)?;
        let sealed = segments.last().map_or(Ok(Head::default()), |last| last.about.heads().map(|heads| heads.1))?;
        let found = read_all(tree, sealed, progress)?;
        Ok((batch, segments, found))
    });
    let (batch, segments, found) = read.map_err(wrong)?;
    generations.sweep(generation);
    sweep_history(&folder.join("history"), &segments);
    Ok(Opened { tree, generations, generation, sentinel, batch, found, segments })
}

pub(super) fn last_batch(tree: &Tree) -> Result<u64, String> {
    match tree.get(BATCH_KEY)? {
        None => Ok(0),
        Some(bytes) => {
            let bytes: [u8; 8] =
                bytes.try_into().map_err(|_| "the number of the last write is unreadable".to_owned())?;
            Ok(u64::from_be_bytes(bytes))
        }
    }
}

/// The segments that the manifest names, in the order of the audit log, each following on the one before.
fn open_segments(tree: &Tree, folder: &Path) -> Result<Vec<Arc<Segment>>, String> {
    let mut listed: Vec<Listed> = Vec::new();
    tree.scan(&[SEGMENT], |_, value| {
        let entry = serde_json::from_slice(value).map_err(|_| "the manifest of segments is unreadable")?;
        listed.push(entry);
        Ok(())
    })?;
    listed.sort_by_key(|segment| segment.audit_to);
    let mut segments: Vec<Arc<Segment>> = Vec::with_capacity(listed.len());
    let mut head = Head::default();
    for listed in listed {
        let segment = Segment::open(folder, listed)?;
        let (from, to) = segment.about.heads()?;
        if from != head {
            return Err(format!("{}: it does not follow on the segment before it", segment.path().display()));
        }
        head = to;
        segments.push(Arc::new(segment));
    }
    Ok(segments)
}

/// Reads and checks every record and every entry of the audit log that is in sled.
fn read_all(tree: &Tree, sealed: Head, progress: &AtomicU64) -> Result<Found, String> {
    let mut found = Found { head: sealed, ..Found::default() };
    tree.scan(&[AUDIT], |_, value| {
        progress.fetch_add(1, Ordering::Relaxed);
        found.keys += 1;
        let entry = Entry::from_bytes(value).ok_or("an entry of the audit log is unreadable")?;
        if entry.position <= sealed.position {
            return Ok(());
        }
        let head = found.head.after(&entry);
        if entry.position != found.head.position + 1 || value.get(ENTRY_BYTES..) != Some(&head.chain[..]) {
            return Err(format!(
                "entry {} of the audit log was changed, or one before it is missing",
                entry.position
            ));
        }
        found.head = head;
        found.audit.push(entry);
        Ok(())
    })?;
    tree.scan(&[record::PREFIX], |key, value| {
        progress.fetch_add(1, Ordering::Relaxed);
        found.keys += 1;
        let (run, seq) = record::parse_key(key).ok_or("a key that is cut short")?;
        let before = found.ends.get(&run).copied().unwrap_or_default();
        let wrong = |why: &str| format!("run {run}: {why}");
        if seq.0 != before.seq + 1 || before.is_final {
            return Err(wrong("a record is missing, or one is too many"));
        }
        let stored = Stored::from_value(&before.chain, key, value).map_err(|why| wrong(&why))?;
        let record = stored.record().map_err(|why| wrong(&why))?;
        if record.run != run || record.seq != seq {
            return Err(wrong("a record stands where another should be"));
        }
        let is_final = matches!(record.event, Event::RunFinished { .. });
        found.ends.insert(run, End { seq: seq.0, chain: stored.chain, is_final });
        found.index.follow(&record, Arc::new(stored));
        Ok(())
    })?;
    read_ledger(tree, &mut found, progress)?;
    Ok(found)
}

/// Reads and checks every deed, against the audit log too as far as it is in sled, and the rows.
fn read_ledger(tree: &Tree, found: &mut Found, progress: &AtomicU64) -> Result<(), String> {
    let mut chain = Chain::default();
    let deeds = &mut found.index.deeds;
    tree.scan(&[record::DEED], |key, value| {
        progress.fetch_add(1, Ordering::Relaxed);
        let seq = Seq(deeds.len() as u64 + 1);
        let wrong = |why: &str| format!("deed {seq}: {why}");
        if key != record::deed_key(seq) {
            return Err(wrong("it is missing"));
        }
        let stored = Stored::from_value(&chain, key, value).map_err(|why| wrong(&why))?;
        let deed = stored.deed().map_err(|why| wrong(&why))?;
        if deed.seq != seq {
            return Err(wrong("another one stands in its place"));
        }
        chain = stored.chain;
        deeds.push(Arc::new(stored));
        Ok(())
    })?;
    let logged = found.audit.iter().filter(|entry| entry.is_deed());
    for entry in logged {
        let at = usize::try_from(entry.seq.0).ok().and_then(|seq| seq.checked_sub(1));
        let deed = at.and_then(|at| found.index.deeds.get(at));
        if deed.is_none_or(|deed| deed.chain != entry.chain) {
            return Err(format!("deed {}, which the audit log names, is missing or was changed", entry.seq));
        }
    }
    let rows = &mut found.index.rows;
    tree.scan(&[ROW], |key, value| {
        progress.fetch_add(1, Ordering::Relaxed);
        let name = String::from_utf8(key[1..].to_vec()).map_err(|_| "the name of a row is unreadable")?;
        rows.insert(name, value.to_vec());
        Ok(())
    })?;
    found.keys += (found.index.deeds.len() + found.index.rows.len()) as u64;
    Ok(())
}

/// Removes files that no manifest names: what a crash or a merge had left behind.
fn sweep_history(folder: &Path, segments: &[Arc<Segment>]) {
    let named: HashSet<String> = segments.iter().map(|segment| file_name(segment.listed.number)).collect();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name.ends_with(".seg") || name.ends_with(".draft");
        if ours && !named.contains(&name) {
            tracing::debug!(name, "a left-over file of the history is removed");
            // It is in nobody's way.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether retention had removed a run, and a crash left its records in sled.
fn is_removed(segments: &[Arc<Segment>], run: RunId) -> Result<bool, String> {
    for segment in segments {
        if segment.removed()?.iter().any(|removed| removed.run == run) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Starts the threads of a store that was opened, and fills what readers share.
fn start(opened: Opened, shared: &Arc<Shared>, limits: Limits) -> Result<Running, String> {
    let Opened { tree, generations, generation, sentinel, batch, found, segments } = opened;
    let Found { mut index, mut ends, audit, head, keys } = found;
    let deed =
        index.deeds.last().map_or((0, Chain::default()), |last| (index.deeds.len() as u64, last.chain));
    let sealed = segments.last().map_or(0, |last| last.listed.audit_to);
    let mut finished = VecDeque::new();
    let mut ended = HashSet::new();
    for entry in &audit {
        if ends.get(&entry.run).is_some_and(|end| end.is_final && end.seq == entry.seq.0) {
            finished.push_back((entry.run, entry.position));
            ended.insert(entry.run);
        }
    }
    // Sealed before a crash, and not removed yet; else a run that the audit log does not know.
    let mut doomed = VecDeque::new();
    for (run, end) in &ends {
        if end.is_final && !ended.contains(run) {
            match history::find(&segments, *run)? {
                Place::Sealed(_, row) if row.chain == end.chain => doomed.push_back((*run, end.seq)),
                Place::Nowhere if is_removed(&segments, *run)? => doomed.push_back((*run, end.seq)),
                _ => return Err(format!("run {run} has ended, and the audit log does not say so")),
            }
        }
    }
    for (run, _) in &doomed {
        index.forget(*run);
        ends.remove(run);
    }
    let first_audit = {
        // Entries up to the sealed position that are still there.
        let mut first = sealed;
        tree.scan(&[AUDIT], |_, value| {
            let position = Entry::from_bytes(value).map_or(u64::MAX, |entry| entry.position);
            first = first.min(position.saturating_sub(1));
            Err(String::new())
        })
        .unwrap_or_default();
        first
    };
    let next_segment = segments.iter().map(|segment| segment.listed.number).max().unwrap_or(0) + 1;
    index.segments = segments;
    index.head = head;
    index.audit = audit.into();
    *shared.index.write().unwrap_or_else(PoisonError::into_inner) = index;
    shared.acknowledge(batch);
    let (queue, inbox) = mpsc::channel();
    let (sealer, orders) = mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let (forcing, force) = Forcing::of(&sentinel).map_err(|error| error.to_string())?;
    let writer = Writer {
        shared: Arc::clone(shared),
        limits,
        tree,
        generations,
        generation,
        sentinel,
        batch,
        head,
        deed,
        ends,
        finished,
        doomed,
        doomed_audit: (first_audit, sealed),
        next_segment,
        sealer,
        sealing: false,
        pruning: VecDeque::new(),
        seal_at: limits.seal,
        written: keys,
        broken: None,
        forcing,
        took: Duration::MAX,
    };
    let done = queue.clone();
    let (folder, stopped) = (shared.history.clone(), Arc::clone(&stop));
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        thread::Builder::new().name(name.into()).spawn(work).map_err(|error| error.to_string())
    };
    let writer = Arc::new(Mutex::new(writer));
    let queued = Arc::new(AtomicUsize::new(0));
    let (worked, counted) = (Arc::clone(&writer), Arc::clone(&queued));
    let thread = spawn("journal", Box::new(move || writer::run(&worked, &inbox, &counted)))?;
    let forcing = spawn("sentinel", Box::new(force))?;
    let sealer = spawn("sealer", Box::new(move || sealer::run(&folder, &stopped, &orders, &done)))?;
    Ok(Running { queue, queued, writer, stop, threads: [thread, forcing, sealer] })
}
