//! The logs of runs: lines that tasks write, in one file a run, beside the journal.
//!
//! A log is told to people and nothing follows from it: it is never read back by the engine.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::{Timestamp, rfc3339};
use crate::id::{RunId, TaskName};

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogLine {
    /// When it was written.
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// The task.
    pub task: TaskName,
    /// Which try.
    pub attempt: u32,
    /// The text.
    pub line: String,
}

/// The longest line; the rest of it is left out.
const LINE_BYTES: usize = 4 * 1024;
/// A run's log becomes its older half at this size, and the older half before it goes.
const HALF_BYTES: u64 = 8 * 1024 * 1024;

/// A text of at most so many bytes, and whether something of it is missing, in words.
pub(crate) fn bounded(mut text: String, bytes: usize) -> String {
    if text.len() <= bytes {
        return text;
    }
    let whole = text.len();
    let end = (0..=bytes).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.truncate(end);
    text.push_str(&format!(" ... ({} more bytes are left out)", whole - end));
    text
}

/// Where logs are kept.
#[derive(Debug, Clone)]
pub struct Logs {
    folder: Option<PathBuf>,
}

impl Logs {
    /// Removes the log of a run.
    ///
    /// # Errors
    /// What the system said; a run without a log has nothing to remove.
    pub fn remove(&self, run: RunId) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        for name in [format!("{run}.older.ndjson"), format!("{run}.ndjson")] {
            match fs::remove_file(folder.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

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
            let open = || OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
            let mut file = open()?;
            if file.metadata()?.len() >= HALF_BYTES {
                let older = folder.join(format!("{run}.older.ndjson"));
                let dropped = older.exists();
                fs::rename(&path, &older)?;
                file = open()?;
                if dropped {
                    let told = "(lines before these were dropped: of a log so long only the end is kept)";
                    write_line(&mut file, &LogLine { line: told.into(), ..line.clone() })?;
                }
            }
            write_line(&mut file, line)
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
        let mut lines = Vec::new();
        for name in [format!("{run}.older.ndjson"), format!("{run}.ndjson")] {
            match fs::read_to_string(folder.join(name)) {
                Ok(text) => {
                    lines.extend(text.lines().filter_map(|line| serde_json::from_str::<LogLine>(line).ok()))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(lines)
    }
}

fn write_line(file: &mut fs::File, line: &LogLine) -> io::Result<()> {
    let mut text = serde_json::to_vec(line).map_err(io::Error::other)?;
    text.push(b'\n');
    file.write_all(&text)
}

impl LogLine {
    /// A line; what is too long is cut, and says so.
    pub fn new(at: Timestamp, task: TaskName, attempt: u32, line: String) -> LogLine {
        LogLine { at, task, attempt, line: bounded(line, LINE_BYTES) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_without_end_keeps_its_end_and_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let logs = Logs::in_folder(folder.path());
        let run = RunId::new(1, 1);
        let task: TaskName = "a".parse().expect("a name");
        let line =
            |number: u64| LogLine::new(Timestamp::from_millis(number), task.clone(), 1, "灰".repeat(3_000));
        // Some 80 MB are written; `cargo xtask long` says a gigabyte.
        let megabytes = std::env::var("GRAYLANE_LOG_MEGABYTES").ok().and_then(|text| text.parse().ok());
        let lines = megabytes.unwrap_or(80_u64) * 1024 * 1024 / LINE_BYTES as u64;
        for number in 0..lines {
            logs.add(run, &line(number));
        }
        let size: u64 = fs::read_dir(folder.path().join("logs"))
            .expect("there")
            .flatten()
            .map(|entry| entry.metadata().expect("there").len())
            .sum();
        assert!(size < 3 * HALF_BYTES, "{size}");
        let kept = logs.read(run).expect("read");
        assert_eq!(kept.last().map(|line| line.at.millis()), Some(lines - 1));
        assert!(kept.iter().any(|line| line.line.starts_with("(lines before these were dropped")));
        let last = &kept[kept.len() - 1].line;
        assert!(last.ends_with("more bytes are left out)") && last.len() < LINE_BYTES + 100, "{last}");
    }
}
