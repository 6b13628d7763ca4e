//! The store's library alone, as the journal uses it: one batch, a flush, an fdatasync. What the journal cannot beat.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::measure::percentile;

/// What was measured of it; a batch in milliseconds.
pub(crate) struct Alone {
    pub(crate) values_a_second: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// Batches of so many values of so many bytes.
pub(crate) fn batches(folder: &Path, many: u64, bytes: usize, span: Duration) -> Result<Alone, String> {
    let path = folder.join("alone");
    let db = sled::Config::new()
        .path(&path)
        .cache_capacity(48 * 1024 * 1024)
        .flush_every_ms(Some(200))
        .mode(sled::Mode::HighThroughput)
        .open()
        .map_err(|error| error.to_string())?;
    let file = File::open(path.join("db")).map_err(|error| error.to_string())?;
    let value = vec![b'x'; bytes];
    let (mut times, mut number) = (Vec::new(), 0_u64);
    let begin = Instant::now();
    while begin.elapsed() < span {
        let start = Instant::now();
        let mut batch = sled::Batch::default();
        for _ in 0..many {
            number += 1;
            // As long as a record's key.
            let mut key = [0; 25];
            key[..8].copy_from_slice(&number.to_be_bytes());
            batch.insert(&key, value.as_slice());
        }
        db.apply_batch(batch).map_err(|error| error.to_string())?;
        db.flush().map_err(|error| error.to_string())?;
        file.sync_data().map_err(|error| error.to_string())?;
        times.push(start.elapsed());
    }
    let values_a_second = number as f64 / begin.elapsed().as_secs_f64();
    drop((db, file));
    std::fs::remove_dir_all(&path).map_err(|error| error.to_string())?;
    Ok(Alone { values_a_second, p50: percentile(&mut times, 50.0), p99: percentile(&mut times, 99.0) })
}
