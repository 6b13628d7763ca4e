//! What is measured with: percentiles, the memory and the time of this process, the size of a folder, raw appends.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

/// Of these durations the one that so many of a hundred do not exceed, in milliseconds.
pub(crate) fn percentile(times: &mut [Duration], of_hundred: f64) -> f64 {
    times.sort();
    let at = (times.len() as f64 * of_hundred / 100.0).ceil() as usize;
    times.get(at.saturating_sub(1)).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
}

/// Memory of this process in MB: now, and at most.
pub(crate) fn memory() -> (f64, f64) {
    memory_of("self")
}

/// The same of another one, by its id.
pub(crate) fn memory_of(process: &str) -> (f64, f64) {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Seconds of processor time that this process has used.
pub(crate) fn processor_seconds() -> f64 {
    processor_seconds_of("self")
}

/// The same of another one, by its id.
pub(crate) fn processor_seconds_of(process: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // After the name in brackets: utime and stime are fields 14 and 15, in hundredths (proc(5)).
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Bytes of all files below a folder, as their lengths and as the blocks that they take.
pub(crate) fn size(folder: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    let mut total = (0, 0);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(about) = entry.metadata() else { continue };
        let (length, blocks) =
            if about.is_dir() { size(&entry.path()) } else { (about.len(), about.blocks() * 512) };
        total = (total.0 + length, total.1 + blocks);
    }
    total
}

/// Raw appends of so many bytes, each followed by fdatasync: how many a second, and the median in milliseconds.
pub(crate) fn raw_appends(folder: &Path, bytes: usize, span: Duration) -> Result<(f64, f64), String> {
    let wrong = |error: std::io::Error| error.to_string();
    let path = folder.join("raw");
    let mut file = File::create(&path).map_err(wrong)?;
    let block = vec![b'x'; bytes];
    let mut times = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < span {
        let start = Instant::now();
        file.write_all(&block).map_err(wrong)?;
        file.sync_data().map_err(wrong)?;
        times.push(start.elapsed());
    }
    let a_second = times.len() as f64 / begin.elapsed().as_secs_f64();
    fs::remove_file(&path).map_err(wrong)?;
    Ok((a_second, percentile(&mut times, 50.0)))
}
