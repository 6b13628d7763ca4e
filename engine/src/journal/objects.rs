//! Bytes by digest: bundles, plans and workflow files, one file each in `<data>/objects`. Nothing here is ever changed.
//! Removed is only what nobody names any more (`sweep.rs`).

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Error;
use crate::id::Digest;

/// How many digests are remembered as being on disk.
const KNOWN: usize = 4096;

/// The folder of objects.
#[derive(Debug)]
pub(super) struct Objects {
    folder: PathBuf,
    /// Digests whose bytes this process has put on disk, or found there and made sure of.
    known: Mutex<HashSet<Digest>>,
    /// When this process last put what it has put: a record that names it may still be on its way.
    touched: Mutex<HashMap<Digest, Instant>>,
}

/// How long what was put is left alone without a record that names it.
const LATELY: Duration = Duration::from_secs(600);

impl Objects {
    pub(super) fn new(folder: PathBuf) -> Objects {
        Objects { folder, known: Mutex::default(), touched: Mutex::default() }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let (folder, name) = digest.as_str().split_at(2);
        self.folder.join(folder).join(name)
    }

    /// Keeps bytes; they are on disk when this returns. Bytes that are known to be there cost no write.
    pub(super) fn put(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        let path = self.path(&digest);
        // First of all: whoever removes what nobody names sees it, or has removed the file before it is looked for.
        self.touch(&digest);
        if self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&digest) && path.exists() {
            return Ok(digest);
        }
        write(&path, bytes).map_err(|error| Error::Io { path: path.clone(), why: error.to_string() })?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(digest.clone());
        Ok(digest)
    }

    fn touch(&self, digest: &Digest) {
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if touched.len() >= KNOWN {
            touched.retain(|_, at| now.duration_since(*at) < LATELY);
        }
        touched.insert(digest.clone(), now);
    }

    /// The moment before which what was put has its record by now.
    pub(super) fn lately(&self) -> Option<Instant> {
        Instant::now().checked_sub(LATELY)
    }

    /// Removes bytes that nobody names, unless they were put after this moment; tells whether it did.
    pub(super) fn remove(&self, digest: &Digest, before: Option<Instant>) -> io::Result<bool> {
        let touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        if touched.get(digest).is_some_and(|at| before.is_none_or(|before| *at >= before)) {
            return Ok(false);
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
        fs::remove_file(self.path(digest)).map(|()| true)
    }

    pub(super) fn get(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let path = self.path(digest);
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

    /// Every digest that has a file.
    pub(super) fn all(&self) -> io::Result<Vec<Digest>> {
        let mut found = Vec::new();
        let folders = match fs::read_dir(&self.folder) {
            Ok(folders) => folders,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(error),
        };
        for folder in folders {
            let folder = folder?;
            let start = folder.file_name();
            for file in fs::read_dir(folder.path())? {
                let name = file?.file_name();
                // Drafts have other names.
                let whole = format!("{}{}", start.to_string_lossy(), name.to_string_lossy());
                found.extend(whole.parse::<Digest>());
            }
        }
        found.sort();
        Ok(found)
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Err(io::Error::other("no folder")) };
    fs::create_dir_all(parent)?;
    if path.exists() {
        // Whoever wrote it may not be done with the folder yet.
        return File::open(parent)?.sync_all();
    }
    // Unfinished bytes never stand under a digest's name, and two who write the same do not share a draft.
    static DRAFTS: AtomicU64 = AtomicU64::new(0);
    let draft = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let draft = path.with_extension(format!("{}-{draft}.draft", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    })();
    if written.is_err() {
        // A full disk keeps no drafts.
        let _ = fs::remove_file(&draft);
    }
    written?;
    for folder in path.ancestors().skip(1).take(3) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
