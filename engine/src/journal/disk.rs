//! The journal on disk, on sled. The only file that names sled.
//!
//! sled's `flush` is no fsync on Linux: every batch is followed by our own `sync_data` on its file, and
//! nothing is acknowledged before that. One writer thread takes what is queued and writes it as one
//! batch (group commit). After a failed write the handle is dead; a failed fsync is never tried again.
//!
//! ```text
//! <data>/lock            who holds the store
//! <data>/format          the version of the layout
//! <data>/store/          sled
//! <data>/sentinel        the last acknowledged batch: sled loses a damaged tail in silence
//! <data>/objects/ab/..   bytes by digest: bundles and plans
//! ```

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::record::{Chain, FORMAT, decode, encode, run_prefix};
use super::{Error, Journal};
use crate::id::{Digest, RunId};
use crate::lock::{Lock, lock};
use crate::run::Record;

const CACHE_BYTES: u64 = 48 * 1024 * 1024;
const BATCH_RECORDS: usize = 256;
const BATCH_BYTES: usize = 1024 * 1024;
/// How often the sentinel is forced to disk; it may lag behind, never run ahead.
const SENTINEL_EVERY: Duration = Duration::from_millis(100);
/// A scan that makes no progress for so long never will: sled can end up in a circle on a damaged file.
const STUCK_AFTER: Duration = Duration::from_secs(20);
const BATCH_KEY: &[u8] = b"m/batch";

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
    #[error("the store in {path} has format {found}; this version reads format {FORMAT}")]
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
    /// The system would not do it.
    #[error("the data folder {path} cannot be used: {why}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
}

/// A journal in a data folder.
pub struct DiskJournal {
    folder: PathBuf,
    db: sled::Db,
    queue: Mutex<Option<mpsc::Sender<Write>>>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
    /// Held while the store is open.
    _lock: File,
}

struct Write {
    records: Vec<Record>,
    done: oneshot::Sender<Result<(), Error>>,
}

impl std::fmt::Debug for DiskJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskJournal").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl DiskJournal {
    /// Opens the store in a data folder, and makes both where they are missing. Every record is read and checked.
    ///
    /// # Errors
    /// Who holds it, or what is wrong with it; never a shorter history than was acknowledged.
    pub fn open(folder: &Path) -> Result<DiskJournal, OpenError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| OpenError::Io { path, why: error.to_string() }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io(folder))?;
        let lock = match lock(folder).map_err(io(&folder.join("lock")))? {
            Lock::Ours(file) => file,
            Lock::Theirs(pid) => return Err(OpenError::Locked { path: folder.to_owned(), pid }),
        };
        check_format(folder)?;
        let store = folder.join("store");
        // Left over from a snapshot that was cut off; sled would stumble over it.
        for entry in fs::read_dir(&store).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with("snap.") && name.to_string_lossy().ends_with(".generating")
            {
                fs::remove_file(entry.path()).map_err(io(&entry.path()))?;
            }
        }
        let fresh = !store.exists();
        let damaged = |why: String| OpenError::Damaged { path: folder.to_owned(), why };
        let db = open_sled(&store).map_err(|error| match error {
            sled::Error::Io(error) => OpenError::Io { path: store.clone(), why: error.to_string() },
            other => damaged(other.to_string()),
        })?;
        let file = File::open(store.join("db")).map_err(io(&store.join("db")))?;
        if fresh {
            db.flush().map_err(|error| damaged(error.to_string()))?;
            file.sync_data().map_err(io(&store))?;
            for path in [store.join("conf"), store.clone(), folder.to_owned()] {
                File::open(&path).and_then(|file| file.sync_all()).map_err(io(&path))?;
            }
        }
        let batch = last_batch(&db).map_err(&damaged)?;
        let sentinel_path = folder.join("sentinel");
        let sentinel = Sentinel::open(&sentinel_path).map_err(io(&sentinel_path))?;
        let acknowledged = sentinel.read().map_err(io(&sentinel_path))?;
        if acknowledged > batch {
            return Err(damaged(format!(
                "the last {} acknowledged writes are missing (the store ends at write {batch}, {acknowledged} were acknowledged)",
                acknowledged - batch
            )));
        }
        let chains = check_all(&db).map_err(damaged)?;
        let (queue, inbox) = mpsc::channel();
        let writer = Writer { db: db.clone(), file, sentinel, batch, chains, broken: None, synced: None };
        let writer = thread::Builder::new()
            .name("journal".into())
            .spawn(move || writer.run(&inbox))
            .map_err(io(folder))?;
        Ok(DiskJournal {
            folder: folder.to_owned(),
            db,
            queue: Mutex::new(Some(queue)),
            writer: Mutex::new(Some(writer)),
            _lock: lock,
        })
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn object_path(&self, digest: &Digest) -> PathBuf {
        let (folder, name) = digest.as_str().split_at(2);
        self.folder.join("objects").join(folder).join(name)
    }
}

impl Drop for DiskJournal {
    fn drop(&mut self) {
        // Closing the queue ends the writer; what it has taken is still written.
        if let Ok(mut queue) = self.queue.lock() {
            queue.take();
        }
        if let Ok(mut writer) = self.writer.lock()
            && let Some(writer) = writer.take()
        {
            // A writer that panicked has already answered everybody.
            let _ = writer.join();
        }
    }
}

#[async_trait]
impl Journal for DiskJournal {
    async fn append(&self, records: Vec<Record>) -> Result<(), Error> {
        if records.is_empty() {
            return Ok(());
        }
        let (done, answer) = oneshot::channel();
        let closed = || Error::Broken("the writer has stopped".into());
        {
            let queue = self.queue.lock().map_err(|_| closed())?;
            queue.as_ref().ok_or_else(closed)?.send(Write { records, done }).map_err(|_| closed())?;
        }
        answer.await.map_err(|_| closed())?
    }

    fn read(&self, run: RunId) -> Result<Vec<Record>, Error> {
        let mut chain = Chain::default();
        let mut records = Vec::new();
        for entry in self.db.scan_prefix(run_prefix(run)) {
            let (key, value) = entry.map_err(|error| Error::Damaged(error.to_string()))?;
            let (next, record) =
                decode(&chain, &key, &value).map_err(|why| Error::Damaged(format!("run {run}: {why}")))?;
            chain = next;
            records.push(record);
        }
        Ok(records)
    }

    fn scan(&self, each: &mut dyn FnMut(Record)) -> Result<(), Error> {
        walk(&self.db, |_, record| each(record)).map_err(Error::Damaged)
    }

    fn put(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        let path = self.object_path(&digest);
        let io = |path: &Path, error: &io::Error| Error::Io { path: path.to_owned(), why: error.to_string() };
        let parent = path.parent().unwrap_or(&self.folder).to_owned();
        fs::create_dir_all(&parent).map_err(|error| io(&parent, &error))?;
        // Unfinished bytes never stand under a digest's name, and two who write the same do not share a draft.
        static DRAFTS: AtomicU64 = AtomicU64::new(0);
        let draft = DRAFTS.fetch_add(1, Ordering::Relaxed);
        let draft = path.with_extension(format!("{}-{draft}.draft", std::process::id()));
        let written = (|| {
            if path.exists() {
                // Whoever wrote it may not be done with the folder yet.
                return File::open(&parent)?.sync_all();
            }
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&parent)?.sync_all()?;
            parent.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        })();
        written.map_err(|error: io::Error| io(&path, &error))?;
        Ok(digest)
    }

    fn get(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let path = self.object_path(digest);
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Damaged(format!("{} is missing", path.display())),
            _ => Error::Io { path: path.clone(), why: error.to_string() },
        })?;
        if Digest::of(&bytes) == *digest {
            Ok(bytes)
        } else {
            Err(Error::Damaged(format!("{} is not what was written", path.display())))
        }
    }
}

fn check_format(folder: &Path) -> Result<(), OpenError> {
    let path = folder.join("format");
    match fs::read_to_string(&path) {
        Ok(found) if found.trim() == FORMAT.to_string() => Ok(()),
        Ok(found) => {
            Err(OpenError::Newer { path: folder.to_owned(), found: found.trim().chars().take(20).collect() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if folder.join("store").exists() {
                let why = "its `format` file is missing".into();
                return Err(OpenError::Damaged { path: folder.to_owned(), why });
            }
            let written =
                fs::write(&path, format!("{FORMAT}\n")).and_then(|()| File::open(&path)?.sync_all());
            written.map_err(|error| OpenError::Io { path, why: error.to_string() })
        }
        Err(error) => Err(OpenError::Io { path, why: error.to_string() }),
    }
}

/// sled panics on some damaged files: it is opened on a thread of its own, whose panic is an answer.
fn open_sled(store: &Path) -> Result<sled::Db, sled::Error> {
    let config = sled::Config::new()
        .path(store)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(Some(200))
        .mode(sled::Mode::HighThroughput);
    quietly(move || config.open()).unwrap_or_else(|panic| Err(sled::Error::Unsupported(panic)))
}

/// Runs work on a thread, and gives back what its panic said.
fn quietly<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let spawned = thread::Builder::new().name("store".into()).spawn(move || {
        catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
            let words = panic.downcast_ref::<String>().cloned();
            words
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                .unwrap_or_else(|| "unreadable".into())
        })
    });
    match spawned.map(thread::JoinHandle::join) {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err("unreadable".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn last_batch(db: &sled::Db) -> Result<u64, String> {
    match db.get(BATCH_KEY).map_err(|error| error.to_string())? {
        None => Ok(0),
        Some(bytes) => {
            let bytes: [u8; 8] =
                bytes.as_ref().try_into().map_err(|_| "the number of the last write is unreadable")?;
            Ok(u64::from_be_bytes(bytes))
        }
    }
}

/// Reads and checks every record, on a thread that can be given up; tells the end of every run's chain.
fn check_all(db: &sled::Db) -> Result<HashMap<RunId, (u64, Chain)>, String> {
    let progress = Arc::new(AtomicU64::new(0));
    let (done, answer) = mpsc::channel();
    let (db, counter) = (db.clone(), Arc::clone(&progress));
    let work = move || {
        let mut chains = HashMap::new();
        let walked = walk(&db, |chain, record| {
            counter.fetch_add(1, Ordering::Relaxed);
            chains.insert(record.run, (record.seq.0, chain));
        });
        walked.map(|()| chains)
    };
    thread::Builder::new()
        .name("store check".into())
        .spawn(move || {
            let answer = catch_unwind(AssertUnwindSafe(work))
                .unwrap_or_else(|_| Err("it cannot be read to its end".into()));
            // Nobody waits any more once the scan was given up.
            let _ = done.send(answer);
        })
        .map_err(|error| error.to_string())?;
    let mut last = 0;
    loop {
        match answer.recv_timeout(STUCK_AFTER) {
            Ok(answer) => return answer,
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err("it cannot be read to its end".into()),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let now = progress.load(Ordering::Relaxed);
                if now == last {
                    return Err(format!("reading it makes no progress after {now} records"));
                }
                last = now;
            }
        }
    }
}

fn walk(db: &sled::Db, mut each: impl FnMut(Chain, Record)) -> Result<(), String> {
    let mut current: Option<RunId> = None;
    let mut chain = Chain::default();
    for entry in db.scan_prefix([super::record::PREFIX]) {
        let (key, value) = entry.map_err(|error| error.to_string())?;
        let run = key.get(1..17).and_then(|bytes| bytes.try_into().ok()).map(RunId::from_bytes);
        let run = run.ok_or("a key that is cut short")?;
        if current != Some(run) {
            current = Some(run);
            chain = Chain::default();
        }
        let (next, record) = decode(&chain, &key, &value).map_err(|why| format!("run {run}: {why}"))?;
        chain = next;
        each(chain, record);
    }
    Ok(())
}

/// The number of the last acknowledged batch, in a file of its own.
struct Sentinel {
    file: File,
}

impl Sentinel {
    fn open(path: &Path) -> io::Result<Sentinel> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        Ok(Sentinel { file })
    }

    fn read(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        match self.file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Ok(u64::from_be_bytes(bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn write(&self, batch: u64) -> io::Result<()> {
        self.file.write_all_at(&batch.to_be_bytes(), 0)
    }
}

/// A record's key and its value.
type Stored = ([u8; 25], Vec<u8>);

/// Owns everything that writes; runs on its own thread.
struct Writer {
    db: sled::Db,
    file: File,
    sentinel: Sentinel,
    batch: u64,
    /// The last record and its hash, of every run.
    chains: HashMap<RunId, (u64, Chain)>,
    broken: Option<Error>,
    synced: Option<tokio::time::Instant>,
}

impl Writer {
    fn run(mut self, inbox: &mpsc::Receiver<Write>) {
        while let Ok(first) = inbox.recv() {
            let mut writes = vec![first];
            let mut records = writes[0].records.len();
            // No waiting for more: what came in during the last flush is the batch.
            while records < BATCH_RECORDS {
                let Ok(next) = inbox.try_recv() else { break };
                records += next.records.len();
                writes.push(next);
            }
            let answers = catch_unwind(AssertUnwindSafe(|| self.write(&writes))).unwrap_or_else(|_| {
                self.broken = Some(Error::Broken("the store panicked".into()));
                vec![Err(Error::Broken("the store panicked".into())); writes.len()]
            });
            for (write, answer) in writes.into_iter().zip(answers) {
                // Whoever does not wait any more has lost nothing: the record is on disk.
                let _ = write.done.send(answer);
            }
        }
        // The last acknowledged number outlives a clean end.
        if self.broken.is_none() {
            let _ = self.sentinel.file.sync_data();
        }
    }

    fn write(&mut self, writes: &[Write]) -> Vec<Result<(), Error>> {
        if let Some(broken) = &self.broken {
            return vec![Err(broken.clone()); writes.len()];
        }
        let mut answers = Vec::with_capacity(writes.len());
        let mut batch = sled::Batch::default();
        let mut bytes = 0;
        let mut any = false;
        for write in writes {
            match self.encode(&write.records) {
                Ok(entries) => {
                    for (key, value) in entries {
                        bytes += value.len();
                        batch.insert(&key, value);
                        any = true;
                    }
                    answers.push(Ok(()));
                }
                Err(error) => answers.push(Err(error)),
            }
        }
        if bytes > BATCH_BYTES * 64 {
            tracing::warn!(bytes, "a very large batch is written to the journal");
        }
        if !any {
            return answers;
        }
        if let Err(why) = self.commit(batch) {
            let broken = Error::Broken(why);
            self.broken = Some(broken.clone());
            return vec![Err(broken); writes.len()];
        }
        answers
    }

    /// Encodes the records of one write; all or none of them move the chains on.
    fn encode(&mut self, records: &[Record]) -> Result<Vec<Stored>, Error> {
        let mut moved: HashMap<RunId, (u64, Chain)> = HashMap::new();
        let mut entries = Vec::with_capacity(records.len());
        for record in records {
            let (seq, chain) =
                moved.get(&record.run).or_else(|| self.chains.get(&record.run)).copied().unwrap_or_default();
            if record.seq.0 != seq + 1 {
                return Err(Error::OutOfOrder(record.run));
            }
            let (next, value) = encode(&chain, record).map_err(Error::Broken)?;
            moved.insert(record.run, (record.seq.0, next));
            entries.push((super::record::key(record.run, record.seq), value));
        }
        self.chains.extend(moved);
        Ok(entries)
    }

    fn commit(&mut self, mut batch: sled::Batch) -> Result<(), String> {
        let number = self.batch + 1;
        batch.insert(BATCH_KEY, &number.to_be_bytes());
        self.db.apply_batch(batch).map_err(|error| error.to_string())?;
        self.db.flush().map_err(|error| error.to_string())?;
        self.file.sync_data().map_err(|error| error.to_string())?;
        self.batch = number;
        self.sentinel.write(number).map_err(|error| error.to_string())?;
        let now = tokio::time::Instant::now();
        if self.synced.is_none_or(|last| now.duration_since(last) >= SENTINEL_EVERY) {
            self.sentinel.file.sync_data().map_err(|error| error.to_string())?;
            self.synced = Some(now);
        }
        Ok(())
    }
}
