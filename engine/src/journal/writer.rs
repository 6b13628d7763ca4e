//! The one thread that writes: group commit, the manifest of segments, and moving the store to a fresh folder.
//!
//! It takes what is queued and writes it as one batch; what comes in during a flush is the next batch, and
//! nobody waits for a timer. After a failed write it only says no: a failed fsync is never tried again.
//!
//! ```text
//! 'e' run seq     a record (record.rs)                         of runs that are not sealed
//! 'd' seq         a deed of the ledger (record.rs)
//! 't' name        a row: something small that changes with what is written beside it
//! 'a' position    an entry of the audit log, and the head after it   after the last segment's
//! 's' number      what the manifest says of a segment (JSON)
//! 'm/batch'       the number of the last batch
//! ```

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use tokio::sync::oneshot;

use super::disk::{Batch, Generations, Tree};
use super::history::{self, Place};
use super::record::{self, Stored};
use super::sealer::{Made, Order};
use super::segment::{Doomed, Listed, file_name};
use super::store::{Limits, Shared};
use super::{Error, Row};
use crate::audit::{Chain, Entry, Head, is_audited};
use crate::id::{RunId, Seq};
use crate::ledger::DeedRecord;
use crate::run::{Event, Record, RunSummary};

const BATCH_RECORDS: usize = 256;
/// How many keys of sealed runs one batch removes beside what it writes.
const RECLAIM_KEYS: u64 = 512;
/// How often the sentinel is forced to disk; it may lag behind, never run ahead.
const SENTINEL_EVERY: Duration = Duration::from_millis(100);

pub(super) const AUDIT: u8 = b'a';
pub(super) const SEGMENT: u8 = b's';
pub(super) const ROW: u8 = b't';
pub(super) const BATCH_KEY: &[u8] = b"m/batch";

/// The key of an entry of the audit log.
pub(super) fn audit_key(position: u64) -> [u8; 9] {
    numbered(AUDIT, position)
}

/// The key of a segment in the manifest.
pub(super) fn segment_key(number: u64) -> [u8; 9] {
    numbered(SEGMENT, number)
}

/// The key of a row.
pub(super) fn row_key(name: &str) -> Vec<u8> {
    [&[ROW], name.as_bytes()].concat()
}

fn numbered(prefix: u8, number: u64) -> [u8; 9] {
    let mut key = [prefix; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The value of an entry of the audit log.
pub(super) fn audit_value(entry: &Entry, head: &Head) -> Vec<u8> {
    [entry.to_bytes().as_slice(), &head.chain].concat()
}

/// What the thread is asked for.
pub(super) enum Job {
    Write(Write, oneshot::Sender<Result<(), Error>>),
    Made(Box<Made>),
    /// Remove finished runs, as a deed that is on disk says.
    Prune(Arc<Doomed>, oneshot::Sender<Result<(), Error>>),
    /// Move to a fresh folder now.
    Compact(oneshot::Sender<Result<(), Error>>),
    /// There is something to seal or to clear away.
    KeepHouse,
    Close,
}

/// What is written together.
pub(super) struct Write {
    /// Each with its JSON, which whoever waits has made: this thread is the one that all share.
    pub(super) records: Vec<(Record, Vec<u8>)>,
    pub(super) deeds: Vec<DeedRecord>,
    pub(super) rows: Vec<Row>,
}

/// What a batch holds, for the index: readers see it when it is on disk.
#[derive(Default)]
struct Done {
    records: Vec<(Record, Arc<Stored>)>,
    deeds: Vec<Arc<Stored>>,
    rows: Vec<Row>,
    entries: Vec<Entry>,
}

/// The number of the last acknowledged batch, in a file of its own: sled loses a damaged tail in silence.
pub(super) struct Sentinel {
    file: File,
}

impl Sentinel {
    pub(super) fn open(path: &Path) -> io::Result<Sentinel> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        Ok(Sentinel { file })
    }

    pub(super) fn read(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(u64::from_be_bytes(bytes))
    }

    pub(super) fn write(&self, batch: u64) -> io::Result<()> {
        self.file.write_all_at(&batch.to_be_bytes(), 0)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Has the sentinel forced to disk by a thread of its own: it may lag behind, so no write waits for a second fdatasync.
pub(super) struct Forcing {
    asked: mpsc::SyncSender<()>,
    failed: Arc<OnceLock<String>>,
    last: Option<tokio::time::Instant>,
}

impl Forcing {
    /// The thread's work beside the writer's end of it. The work ends when the writer is gone, or at the first error.
    pub(super) fn of(sentinel: &Sentinel) -> io::Result<(Forcing, impl FnOnce() + Send + 'static)> {
        let file = sentinel.file.try_clone()?;
        let (asked, inbox) = mpsc::sync_channel(1);
        let failed = Arc::new(OnceLock::new());
        let told = Arc::clone(&failed);
        let work = move || {
            while inbox.recv().is_ok() {
                if let Err(error) = file.sync_data() {
                    told.get_or_init(|| error.to_string());
                    return;
                }
            }
        };
        Ok((Forcing { asked, failed, last: None }, work))
    }

    /// Asks for it where the last time is long enough ago.
    fn ask(&mut self) {
        let now = tokio::time::Instant::now();
        if self.last.is_none_or(|last| now.duration_since(last) >= SENTINEL_EVERY) {
            // One that is still at work takes the newest number along, or is asked the next time.
            let _ = self.asked.try_send(());
            self.last = Some(now);
        }
    }
}

/// The end of a run's records.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct End {
    pub(super) seq: u64,
    pub(super) chain: Chain,
    pub(super) is_final: bool,
}

/// What is to be removed, and who waits for it.
type Pruning = (Arc<Doomed>, oneshot::Sender<Result<(), Error>>);

/// Owns everything that writes; one at a time has it.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) limits: Limits,
    pub(super) tree: Tree,
    pub(super) generations: Generations,
    pub(super) generation: u64,
    pub(super) sentinel: Sentinel,
    pub(super) batch: u64,
    pub(super) head: Head,
    /// The last deed and its hash.
    pub(super) deed: (u64, Chain),
    /// The ends of the runs that are in sled.
    pub(super) ends: HashMap<RunId, End>,
    /// Finished runs that are not sealed, in the order of their ends, with the position of that in the audit log.
    pub(super) finished: VecDeque<(RunId, u64)>,
    /// Sealed runs whose records are still in sled.
    pub(super) doomed: VecDeque<(RunId, u64)>,
    /// Entries of the audit log that are sealed and still in sled: after the first, up to the second position.
    pub(super) doomed_audit: (u64, u64),
    pub(super) next_segment: u64,
    pub(super) sealer: mpsc::Sender<Order>,
    /// What the sealer works on has this many runs; none while it is idle.
    pub(super) sealing: bool,
    /// What is to be removed, and who waits for it.
    pub(super) pruning: VecDeque<Pruning>,
    /// How many finished runs start the next sealing.
    pub(super) seal_at: usize,
    /// Keys written since the store moved to this folder.
    pub(super) written: u64,
    pub(super) broken: Option<Error>,
    pub(super) forcing: Forcing,
    /// How long the last write took; very long where nothing was written yet.
    pub(super) took: Duration,
}

/// Waits for whoever uses the writer; one that panicked has said so in `broken`.
pub(super) fn hold(writer: &Mutex<Writer>) -> MutexGuard<'_, Writer> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Works off the queue, on a thread of its own. `queued` counts the writes in it.
pub(super) fn run(writer: &Mutex<Writer>, inbox: &mpsc::Receiver<Job>, queued: &AtomicUsize) {
    loop {
        let reclaims = {
            let mut writer = hold(writer);
            catch_unwind(AssertUnwindSafe(|| writer.keep_house()))
                .unwrap_or_else(|_| writer.break_down("the store panicked".into()));
            writer.broken.is_none() && writer.has_doomed()
        };
        let first = if reclaims {
            match inbox.try_recv() {
                Ok(job) => Some(job),
                Err(mpsc::TryRecvError::Empty) => None,
                Err(mpsc::TryRecvError::Disconnected) => break,
            }
        } else {
            let Ok(job) = inbox.recv() else { break };
            Some(job)
        };
        let mut writer = hold(writer);
        let (mut writes, mut waiting) = (Vec::new(), Vec::new());
        let mut records = 0;
        let mut made = None;
        let mut compact = None;
        let mut close = false;
        let mut next = first;
        // No waiting for more: what came in during the last flush is the batch.
        while let Some(job) = next {
            match job {
                Job::Write(write, done) => {
                    records += write.records.len() + write.deeds.len() + write.rows.len();
                    writes.push(write);
                    waiting.push(done);
                }
                Job::Made(what) => made = Some(what),
                Job::Prune(doomed, done) => writer.pruning.push_back((doomed, done)),
                Job::Compact(done) => compact = Some(done),
                Job::KeepHouse => {}
                Job::Close => close = true,
            }
            next = if records < BATCH_RECORDS && made.is_none() && compact.is_none() && !close {
                inbox.try_recv().ok()
            } else {
                None
            };
        }
        queued.fetch_sub(writes.len(), Ordering::SeqCst);
        for (done, answer) in waiting.into_iter().zip(writer.write_all(writes)) {
            // Whoever does not wait any more has lost nothing: the record is on disk.
            let _ = done.send(answer);
        }
        if let Some(made) = made {
            catch_unwind(AssertUnwindSafe(|| writer.take(*made)))
                .unwrap_or_else(|_| writer.break_down("the store panicked".into()));
        }
        if let Some(done) = compact {
            // Whoever asked may be gone.
            let _ = done.send(writer.compact());
        }
        if close {
            break;
        }
    }
    // The last acknowledged number outlives a clean end.
    let writer = hold(writer);
    if writer.broken.is_none() {
        let _ = writer.sentinel.sync();
    }
}

impl Writer {
    /// Writes as one batch; an answer for each.
    pub(super) fn write_all(&mut self, writes: Vec<Write>) -> Vec<Result<(), Error>> {
        let many = writes.len();
        let begin = tokio::time::Instant::now();
        let answers = catch_unwind(AssertUnwindSafe(|| self.write(writes))).unwrap_or_else(|_| {
            self.break_down("the store panicked".into());
            vec![Err(Error::Broken("the store panicked".into())); many]
        });
        self.took = begin.elapsed();
        answers
    }

    /// Whether the thread has something to do besides what is queued.
    pub(super) fn has_chores(&self) -> bool {
        self.broken.is_none() && (self.has_doomed() || self.must_seal() || self.must_rotate())
    }

    /// Whether so many runs have ended that they are to be sealed.
    fn must_seal(&self) -> bool {
        !self.sealing && self.finished.len() >= self.seal_at
    }

    /// Whether the store is to move to a fresh folder, as soon as nothing else is under way.
    fn must_rotate(&self) -> bool {
        self.written >= self.limits.rotate
    }

    fn break_down(&mut self, why: String) {
        self.broken.get_or_insert(Error::Broken(why));
    }

    fn write(&mut self, writes: Vec<Write>) -> Vec<Result<(), Error>> {
        if let Some(broken) = &self.broken {
            return vec![Err(broken.clone()); writes.len()];
        }
        let mut batch = Batch::default();
        let mut done = Done::default();
        let answers: Vec<Result<(), Error>> =
            writes.into_iter().map(|write| self.encode(write, &mut batch, &mut done)).collect();
        self.reclaim(&mut batch);
        if batch.keys == 0 {
            return answers;
        }
        if let Err(why) = self.commit(batch) {
            self.break_down(why);
            return vec![Err(self.broken.clone().unwrap_or(Error::Broken(String::new()))); answers.len()];
        }
        let mut index = self.shared.index.write().unwrap_or_else(PoisonError::into_inner);
        for (record, stored) in done.records {
            index.follow(&record, stored);
        }
        index.deeds.extend(done.deeds);
        index.change(done.rows);
        index.audit.extend(done.entries);
        index.head = self.head;
        answers
    }

    /// Encodes one write; all or nothing of it moves chains and audit log on.
    fn encode(&mut self, write: Write, batch: &mut Batch, done: &mut Done) -> Result<(), Error> {
        let Write { records, deeds, rows } = write;
        // First whether all of it follows on what there is: then nothing is in the way of the rest.
        let mut moved: Vec<(RunId, End)> = Vec::with_capacity(1);
        for (record, _) in &records {
            let end = match moved.iter_mut().find(|(run, _)| *run == record.run) {
                Some((_, end)) => end,
                None => {
                    let end = match self.ends.get(&record.run) {
                        Some(end) => *end,
                        None => self.end_of_unknown(record.run)?,
                    };
                    moved.push((record.run, end));
                    &mut moved.last_mut().ok_or(Error::OutOfOrder(record.run))?.1
                }
            };
            if record.seq.0 != end.seq + 1 || end.is_final {
                return Err(Error::OutOfOrder(record.run));
            }
            end.seq = record.seq.0;
            end.is_final = matches!(record.event, Event::RunFinished { .. });
        }
        if let Some(deed) = deeds.iter().zip(1..).find(|(deed, more)| deed.seq.0 != self.deed.0 + more) {
            return Err(Error::DeedOutOfOrder(deed.0.seq.0));
        }
        let json = deeds.iter().map(serde_json::to_vec).collect::<Result<Vec<_>, _>>();
        let json = json.map_err(|error| Error::Broken(error.to_string()))?;
        for (record, json) in records {
            let end = self.ends.entry(record.run).or_default();
            let key = record::key(record.run, record.seq);
            let chain = record::link(&end.chain, &key, &json);
            let is_final = matches!(record.event, Event::RunFinished { .. });
            *end = End { seq: record.seq.0, chain, is_final };
            batch.insert(&key, &record::value(&chain, &json));
            if is_audited(&record.event) {
                let position = self.head.position + 1;
                let entry = Entry { position, at: record.at, run: record.run, seq: record.seq, chain };
                self.log(entry, batch, done);
            }
            if is_final {
                self.finished.push_back((record.run, self.head.position));
            }
            done.records.push((record, Arc::new(Stored { format: record::FORMAT, chain, json })));
        }
        for (deed, json) in deeds.into_iter().zip(json) {
            let key = record::deed_key(deed.seq);
            let chain = record::link(&self.deed.1, &key, &json);
            self.deed = (deed.seq.0, chain);
            batch.insert(&key, &record::value(&chain, &json));
            let position = self.head.position + 1;
            let entry = Entry { position, at: deed.at, run: RunId::LEDGER, seq: deed.seq, chain };
            self.log(entry, batch, done);
            done.deeds.push(Arc::new(Stored { format: record::FORMAT, chain, json }));
        }
        for Row { key, value } in &rows {
            match value {
                Some(value) => batch.insert(&row_key(key), value),
                None => batch.remove(&row_key(key)),
            }
        }
        done.rows.extend(rows);
        Ok(())
    }

    /// Adds an entry to the audit log.
    fn log(&mut self, entry: Entry, batch: &mut Batch, done: &mut Done) {
        self.head = self.head.after(&entry);
        batch.insert(&audit_key(entry.position), &audit_value(&entry, &self.head));
        done.entries.push(entry);
    }

    /// A run that is not in sled is new, or it is sealed and final.
    fn end_of_unknown(&self, run: RunId) -> Result<End, Error> {
        let segments = self.shared.segments();
        match history::find(&segments, run).map_err(Error::Damaged)? {
            Place::Sealed(_, row) => Ok(End { seq: u64::from(row.count), chain: row.chain, is_final: true }),
            Place::Live(_) | Place::Nowhere => Ok(End::default()),
        }
    }

    fn commit(&mut self, mut batch: Batch) -> Result<(), String> {
        if let Some(why) = self.forcing.failed.get() {
            return Err(why.clone());
        }
        let number = self.batch + 1;
        batch.insert(BATCH_KEY, &number.to_be_bytes());
        self.written += batch.keys as u64;
        self.tree.commit(batch)?;
        self.batch = number;
        self.shared.acknowledge(number);
        self.sentinel.write(number).map_err(|error| error.to_string())?;
        self.forcing.ask();
        Ok(())
    }

    fn has_doomed(&self) -> bool {
        !self.doomed.is_empty() || self.doomed_audit.0 < self.doomed_audit.1
    }

    /// Adds the removal of some sealed runs to a batch; of a run all records, so that a crash leaves whole runs only.
    fn reclaim(&mut self, batch: &mut Batch) {
        let mut keys = 0;
        while keys < RECLAIM_KEYS
            && let Some((run, last)) = self.doomed.pop_front()
        {
            for seq in 1..=last {
                batch.remove(&record::key(run, Seq(seq)));
            }
            keys += last;
        }
        while keys < RECLAIM_KEYS && self.doomed_audit.0 < self.doomed_audit.1 {
            self.doomed_audit.0 += 1;
            batch.remove(&audit_key(self.doomed_audit.0));
            keys += 1;
        }
    }

    /// Starts what is due: sealing, merging, a move to a fresh folder.
    fn keep_house(&mut self) {
        if let Some(broken) = self.broken.clone() {
            self.pruned(|| Err(broken.clone()), usize::MAX);
            return;
        }
        if !self.sealing
            && let Some((doomed, _)) = self.pruning.front()
        {
            let doomed = Arc::clone(doomed);
            self.prune(&doomed);
        }
        if !self.sealing {
            let segments = self.shared.segments();
            let small = |runs: u32| (runs as usize) < self.limits.seal * self.limits.merge / 2;
            let tail = segments.iter().rev().take_while(|segment| small(segment.listed.runs)).count();
            if tail >= self.limits.merge {
                let segments = segments[segments.len() - tail..].to_vec();
                self.order(|number| Order::Merge { number, segments });
            } else if self.must_seal() {
                self.seal(self.limits.seal, None);
            }
        }
        if self.must_rotate() && !self.has_doomed() && !self.sealing {
            let moved = catch_unwind(AssertUnwindSafe(|| self.rotate()))
                .unwrap_or_else(|_| Err("the store panicked".into()));
            if let Err(why) = moved {
                // The old folder is whole and in use; the next try is far away.
                tracing::warn!(why, "the store could not move to a fresh folder");
                self.written = 0;
            }
        }
    }

    fn compact(&mut self) -> Result<(), Error> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        catch_unwind(AssertUnwindSafe(|| self.rotate()))
            .unwrap_or_else(|_| Err("the store panicked".into()))
            .map_err(Error::Broken)
    }

    fn order(&mut self, make: impl FnOnce(u64) -> Order) {
        let number = self.next_segment;
        self.next_segment += 1;
        self.sealing = self.sealer.send(make(number)).is_ok();
    }

    /// The next step of a removal: what is not sealed is sealed without the runs, then segment by segment is written anew.
    fn prune(&mut self, doomed: &Arc<Doomed>) {
        if let Some(last) = self.finished.iter().rposition(|(run, _)| doomed.runs.contains(run)) {
            return self.seal(last + 1, Some(Arc::clone(doomed)));
        }
        for segment in self.shared.segments() {
            let found = doomed
                .runs
                .iter()
                .try_fold(false, |found, run| Ok::<bool, String>(found || segment.find(*run)?.is_some()));
            match found {
                Ok(true) => {
                    let doomed = Arc::clone(doomed);
                    return self.order(|number| Order::Prune { number, segment, doomed });
                }
                Ok(false) => {}
                Err(why) => return self.pruned(|| Err(Error::Damaged(why.clone())), 1),
            }
        }
        self.pruned(|| Ok(()), 1);
    }

    /// Answers those who wait for a removal, as many as these.
    fn pruned(&mut self, answer: impl Fn() -> Result<(), Error>, count: usize) {
        for _ in 0..count {
            let Some((_, done)) = self.pruning.pop_front() else { return };
            // Whoever asked may be gone.
            let _ = done.send(answer());
        }
    }

    fn seal(&mut self, count: usize, doomed: Option<Arc<Doomed>>) {
        let index = self.shared.index.read().unwrap_or_else(PoisonError::into_inner);
        let mut runs: Vec<RunSummary> = Vec::new();
        let mut to = 0;
        for (run, position) in self.finished.iter().take(count) {
            let Some(line) = index.live.get(run) else { continue };
            runs.push(line.summary.clone());
            to = *position;
        }
        let from =
            index.segments.last().map_or(Ok(Head::default()), |last| last.about.heads().map(|heads| heads.1));
        drop(index);
        let Ok(from) = from else { return };
        if !runs.is_empty() {
            let tree = self.tree.clone();
            self.order(|number| Order::Seal { number, tree, from, to, runs, doomed });
        }
    }

    /// Makes a new file part of the store.
    fn take(&mut self, made: Made) {
        self.sealing = false;
        if self.broken.is_some() {
            return;
        }
        let done = match made {
            Made::Failed(why) => {
                tracing::warn!(why, "finished runs could not be sealed; this is tried again later");
                self.seal_at = self.finished.len() + self.limits.seal;
                let path = self.shared.history.clone();
                self.pruned(|| Err(Error::Io { path: path.clone(), why: why.clone() }), usize::MAX);
                return;
            }
            Made::Sealed { segment, runs } => self.list(&segment.listed, &[]).map(|()| {
                let to = segment.listed.audit_to;
                let mut index = self.shared.index.write().unwrap_or_else(PoisonError::into_inner);
                index.segments.push(Arc::new(segment));
                while index.audit.front().is_some_and(|entry| entry.position <= to) {
                    index.audit.pop_front();
                }
                for run in &runs {
                    index.forget(run.id);
                    if let Some(end) = self.ends.remove(&run.id) {
                        self.doomed.push_back((run.id, end.seq));
                    }
                }
                drop(index);
                self.finished.drain(..runs.len());
                self.doomed_audit.1 = to;
                self.seal_at = self.limits.seal;
            }),
            Made::Merged { segment, old } => self.list(&segment.listed, &old).map(|()| {
                let mut index = self.shared.index.write().unwrap_or_else(PoisonError::into_inner);
                let first = index.segments.iter().position(|segment| old.contains(&segment.listed.number));
                index.segments.retain(|segment| !old.contains(&segment.listed.number));
                index.segments.insert(first.unwrap_or_default(), Arc::new(segment));
                drop(index);
                for number in old {
                    let path = self.shared.history.join(file_name(number));
                    // A reader may still have it open, which keeps its bytes; a file that stays is swept at the next start.
                    let _ = fs::remove_file(path);
                }
            }),
        };
        if let Err(why) = done {
            self.break_down(why);
        }
    }

    fn list(&mut self, listed: &Listed, old: &[u64]) -> Result<(), String> {
        let mut batch = Batch::default();
        let value = serde_json::to_vec(listed).map_err(|error| error.to_string())?;
        batch.insert(&segment_key(listed.number), &value);
        for number in old {
            batch.remove(&segment_key(*number));
        }
        self.commit(batch)
    }

    /// Copies what is live into a fresh folder and goes on there: sled keeps memory, and time to open, for all that was
    /// ever written to it.
    fn rotate(&mut self) -> Result<(), String> {
        let number = self.generation + 1;
        let path = self.generations.path(number);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|error| error.to_string())?;
        }
        let fresh = Tree::open(&path).map_err(|error| format!("{error:?}"))?;
        let mut batch = Batch::default();
        let mut keys = 0;
        let mut failed = Ok(());
        self.tree.scan(&[], |key, value| {
            batch.insert(key, value);
            keys += 1;
            if batch.bytes > 1 << 20 {
                failed = fresh.commit(std::mem::take(&mut batch));
            }
            failed.clone()
        })?;
        fresh.commit(batch)?;
        self.generations.switch(number).map_err(|error| error.to_string())?;
        self.tree = fresh;
        self.generation = number;
        self.written = 0;
        self.generations.sweep(number);
        tracing::debug!(keys, "the store moved to a fresh folder");
        Ok(())
    }
}
