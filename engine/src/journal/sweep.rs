//! Removes bytes that nobody names any more: bundles and plans of runs that retention removed, or that a crash left behind.
//!
//! What was put lately stays: the record that names it may still be on its way.

use std::collections::HashSet;

use super::store::DiskJournal;
use super::{Error, Journal as _};

impl DiskJournal {
    /// Removes every object that no record and no deed names, and that was not put lately.
    pub(super) fn sweep_objects(&self) -> Result<u64, Error> {
        // Before anything is read: whatever is put from now on stays.
        let begun = self.objects().lately();
        let mut named = HashSet::new();
        self.every_run(&mut |run, stored| {
            for stored in stored? {
                let record = stored.record().map_err(|why| format!("run {run}: {why}"))?;
                named.extend(record.event.objects());
            }
            Ok(())
        })
        .map_err(Error::Damaged)?;
        named.extend(self.deeds()?.iter().filter_map(|(record, _)| record.deed.object().cloned()));
        let io =
            |error: std::io::Error| Error::Io { path: self.folder().join("objects"), why: error.to_string() };
        let mut removed = 0;
        for digest in self.objects().all().map_err(io)? {
            if !named.contains(&digest) && self.objects().remove(&digest, begun).map_err(io)? {
                removed += 1;
            }
        }
        Ok(removed)
    }
}
