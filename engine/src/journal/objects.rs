//! Bytes by digest: bundles, plans and workflow files, one file each in `<data>/objects`. Nothing here is ever changed or removed.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

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
}

impl Objects {
    pub(super) fn new(folder: PathBuf) -> Objects {
        Objects { folder, known: Mutex::new(HashSet::new()) }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let (folder, name) = digest.as_str().split_at(2);
        self.folder.join(folder).join(name)
    }

    /// Keeps bytes; they are on disk when this returns. Bytes that are known to be there cost no write.
    pub(super) fn put(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        let path = self.path(&digest);
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
