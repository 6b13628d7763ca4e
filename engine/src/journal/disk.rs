//! sled, and what it takes to use it safely. The only file that names it; what is kept in it is not known here.
//!
//! sled's `flush` is no fsync on Linux: every batch is followed by our own `sync_data` on its file. It
//! panics on some damaged files and never ends a scan of others, so it is opened and scanned on threads
//! of their own. It replays at open what was written since the last open, and keeps memory for it: the
//! store moves to a fresh folder now and then, and the numbered folders here are those.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

const CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// A scan that makes no progress for so long never will: sled can end up in a circle on a damaged file.
const STUCK_AFTER: Duration = Duration::from_secs(20);

/// How often sled is asked whether a handle that was dropped has let go, a twentieth of a second apart.
const RELEASED_AFTER: u32 = 100;

/// Why sled cannot be opened.
#[derive(Debug)]
pub(super) enum TreeError {
    /// The system would not do it.
    Io(String),
    /// Its files are not what it wrote.
    Damaged(String),
}

/// Keys and values in a folder, in the order of their keys.
#[derive(Clone)]
pub(super) struct Tree {
    db: sled::Db,
    file: Arc<File>,
}

/// Changes that are made together.
#[derive(Default)]
pub(super) struct Batch {
    inner: sled::Batch,
    /// How many bytes it carries.
    pub(super) bytes: usize,
    /// How many keys it changes.
    pub(super) keys: usize,
}

impl Batch {
    pub(super) fn insert(&mut self, key: &[u8], value: &[u8]) {
        self.inner.insert(key, value);
        self.bytes += key.len() + value.len();
        self.keys += 1;
    }

    pub(super) fn remove(&mut self, key: &[u8]) {
        self.inner.remove(key);
        self.bytes += key.len();
        self.keys += 1;
    }
}

impl Tree {
    /// Opens a folder; makes it, durably, where it is missing.
    pub(super) fn open(folder: &Path) -> Result<Tree, TreeError> {
        let io = |error: io::Error| TreeError::Io(error.to_string());
        // Left over from a snapshot that was cut off; sled would stumble over it.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with("snap.") && name.to_string_lossy().ends_with(".generating")
            {
                fs::remove_file(entry.path()).map_err(io)?;
            }
        }
        let fresh = !folder.exists();
        // sled makes an empty store where its file is gone.
        if !fresh && !folder.join("db").is_file() {
            return Err(TreeError::Damaged("its file `db` is missing".into()));
        }
        let config = sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(200))
            .mode(sled::Mode::HighThroughput);
        let mut tries = 0;
        let db = loop {
            let config = config.clone();
            match quietly(move || config.open()).map_err(TreeError::Damaged)? {
                Ok(db) => break db,
                // The folder is ours: threads of a handle that was just dropped are about to let go of it.
                Err(sled::Error::Io(error))
                    if error.to_string().contains("lock") && tries < RELEASED_AFTER =>
                {
                    tries += 1;
                    thread::park_timeout(Duration::from_millis(50));
                }
                Err(sled::Error::Io(error)) => return Err(TreeError::Io(error.to_string())),
                Err(other) => return Err(TreeError::Damaged(other.to_string())),
            }
        };
        let file = File::open(folder.join("db")).map_err(io)?;
        let tree = Tree { db, file: Arc::new(file) };
        if fresh {
            tree.flush().map_err(TreeError::Damaged)?;
            for path in [&folder.join("conf"), folder] {
                File::open(path).and_then(|file| file.sync_all()).map_err(io)?;
            }
        }
        Ok(tree)
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        self.db.get(key).map(|value| value.map(|value| value.to_vec())).map_err(|error| error.to_string())
    }

    /// Hands over every key that begins so, in order, until an error.
    pub(super) fn scan(
        &self,
        prefix: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        for entry in self.db.scan_prefix(prefix) {
            let (key, value) = entry.map_err(|error| error.to_string())?;
            each(&key, &value)?;
        }
        Ok(())
    }

    /// Makes the changes, all or none of them; they are on disk when this returns.
    pub(super) fn commit(&self, batch: Batch) -> Result<(), String> {
        self.db.apply_batch(batch.inner).map_err(|error| error.to_string())?;
        self.flush()
    }

    fn flush(&self) -> Result<(), String> {
        self.db.flush().map_err(|error| error.to_string())?;
        self.file.sync_data().map_err(|error| error.to_string())
    }

    /// Reads on a thread that is given up when it makes no progress: `work` counts what it reads.
    pub(super) fn guarded<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tree, &AtomicU64) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        self.guarded_for(STUCK_AFTER, work)
    }

    fn guarded_for<T: Send + 'static>(
        &self,
        stuck_after: Duration,
        work: impl FnOnce(&Tree, &AtomicU64) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let progress = Arc::new(AtomicU64::new(0));
        let (done, answer) = mpsc::channel();
        let (tree, counter) = (self.clone(), Arc::clone(&progress));
        thread::Builder::new()
            .name("store check".into())
            .spawn(move || {
                let answer = catch_unwind(AssertUnwindSafe(|| work(&tree, &counter)))
                    .unwrap_or_else(|_| Err("it cannot be read to its end".into()));
                drop(tree);
                // Nobody waits any more once the scan was given up.
                let _ = done.send(answer);
            })
            .map_err(|error| error.to_string())?;
        let mut last = 0;
        loop {
            match answer.recv_timeout(stuck_after) {
                Ok(answer) => return answer,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err("it cannot be read to its end".into());
                }
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

/// Which of the numbered folders below `store` is in use.
pub(super) struct Generations {
    folder: PathBuf,
}

impl Generations {
    pub(super) fn new(folder: PathBuf) -> Generations {
        Generations { folder }
    }

    pub(super) fn path(&self, number: u64) -> PathBuf {
        self.folder.join(number.to_string())
    }

    /// The number in use; none in a new store.
    pub(super) fn current(&self) -> Result<Option<u64>, String> {
        match fs::read_to_string(self.folder.join("current")) {
            Ok(text) => text.trim().parse().map(Some).map_err(|_| "`store/current` is unreadable".into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A new store that a crash cut off before it was in use has nothing to lose.
                let begun = fs::read_dir(&self.folder).into_iter().flatten().flatten().count();
                if begun > 1 { Err("`store/current` is missing".into()) } else { Ok(None) }
            }
            Err(error) => Err(format!("`store/current`: {error}")),
        }
    }

    /// Takes a folder into use; it is the current one after a crash too when this returns.
    pub(super) fn switch(&self, number: u64) -> io::Result<()> {
        let draft = self.folder.join("current.draft");
        fs::write(&draft, format!("{number}\n"))?;
        File::open(&draft)?.sync_all()?;
        fs::rename(&draft, self.folder.join("current"))?;
        File::open(&self.folder)?.sync_all()
    }

    /// Removes every folder but the one in use: what a move had left behind.
    pub(super) fn sweep(&self, current: u64) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let number = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
            if number.is_some_and(|number| number != current)
                && let Err(error) = fs::remove_dir_all(entry.path())
            {
                tracing::warn!(%error, path = %entry.path().display(), "an old folder of the store stays");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_that_never_ends_or_panics_is_given_up_and_a_slow_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let tree = Tree::open(&folder.path().join("1")).expect("opened");
        let soon = Duration::from_millis(400);
        let slow = tree.guarded_for(soon, |_, progress| {
            for _ in 0..10 {
                progress.fetch_add(1, Ordering::Relaxed);
                thread::park_timeout(Duration::from_millis(40));
            }
            Ok(7)
        });
        assert_eq!(slow, Ok(7));
        let (release, held) = mpsc::channel::<()>();
        let stuck = tree.guarded_for(soon, move |_, progress| {
            progress.fetch_add(3, Ordering::Relaxed);
            // Released when the test is over.
            let _ = held.recv();
            Ok(())
        });
        assert_eq!(stuck, Err("reading it makes no progress after 3 records".into()));
        drop(release);
        let panics = tree.guarded_for(STUCK_AFTER, |_, _| -> Result<(), String> { panic!("as sled does") });
        assert_eq!(panics, Err("it cannot be read to its end".into()));
    }
}
