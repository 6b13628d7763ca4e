//! The logs of runs: lines that tasks write, in one file a run, beside the journal.
//!
//! A log is told to people and nothing follows from it: it is never read back by the engine.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{RunId, TaskName};

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was written.
    pub at: Timestamp,
    /// The task.
    pub task: TaskName,
    /// Which try.
    pub attempt: u32,
    /// The text.
    pub line: String,
}

/// Where logs are kept.
#[derive(Debug, Clone)]
pub struct Logs {
    folder: Option<PathBuf>,
}

impl Logs {
    /// Logs below a data folder.
    pub fn in_folder(data: &Path) -> Logs {
        Logs { folder: Some(data.join("logs")) }
    }

    /// Logs that are not kept.
    pub fn none() -> Logs {
        Logs { folder: None }
    }

    /// Adds a line. A log that cannot be written stops no run: the failure is told once a line, to the daemon's own log.
    pub fn add(&self, run: RunId, line: &LogLine) {
        let Some(folder) = &self.folder else { return };
        let written = (|| {
            fs::create_dir_all(folder)?;
            let path = folder.join(format!("{run}.ndjson"));
            let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
            let mut text = serde_json::to_vec(line).map_err(io::Error::other)?;
            text.push(b'\n');
            file.write_all(&text)
        })();
        if let Err(error) = written {
            tracing::warn!(%run, %error, "a log line could not be written");
        }
    }

    /// All lines of a run. A last line that a crash cut short is left out.
    ///
    /// # Errors
    /// What the system said; a run without a log has no lines.
    pub fn read(&self, run: RunId) -> io::Result<Vec<LogLine>> {
        let Some(folder) = &self.folder else { return Ok(Vec::new()) };
        match fs::read_to_string(folder.join(format!("{run}.ndjson"))) {
            Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}
