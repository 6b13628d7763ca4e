//! The lock of a folder: who works in it, readable by people. The system lets go of a dead process's lock.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Whose a folder is.
#[derive(Debug)]
pub enum Lock {
    /// Ours, while the file is held.
    Ours(File),
    /// Another process's, by the number that it wrote; `unknown` where it has not yet.
    Theirs(String),
}

/// Takes the lock of a folder, which must exist, and writes this process's number into it.
///
/// # Errors
/// What the system said.
pub fn lock(folder: &Path) -> io::Result<Lock> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(folder.join("lock"))?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
            Ok(Lock::Ours(file))
        }
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Whoever holds the lock may just be writing its number.
            let _ = file.read_to_string(&mut pid);
            Ok(Lock::Theirs(if pid.trim().is_empty() { "unknown".into() } else { pid.trim().to_owned() }))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}
