//! `store check`: reads every byte that is kept, and says everything that is wrong.
//!
//! Opening has checked what is in sled; here come all blocks of all segments, all objects, and whether what records
//! name is there. It changes nothing.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::objects::Objects;
use super::record::Stored;
use super::store::DiskJournal;
use super::{Error, Journal as _};
use crate::id::{Digest, RunId, Seq};
use crate::ledger::{Deed, Standing};

/// What a check has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Checked {
    /// Runs whose records were read.
    pub runs: u64,
    /// Their records.
    pub records: u64,
    /// Deeds of the ledger, and rows beside them.
    #[serde(default)]
    pub ledger: u64,
    /// Runs that retention removed.
    #[serde(default)]
    pub removed: u64,
    /// Objects whose bytes were read.
    pub objects: u64,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
}

impl DiskJournal {
    /// Reads everything.
    pub fn check(&self) -> Checked {
        let mut checked = Checked::default();
        for segment in self.segments() {
            checked.problems.extend(segment.check().err());
        }
        let mut named = HashSet::new();
        let walked = self.every_run(&mut |run, stored| {
            match stored {
                Ok(stored) => {
                    checked.runs += 1;
                    checked.records += stored.len() as u64;
                    checked.problems.extend(objects_named(run, &stored, &mut named).err());
                }
                Err(why) => checked.problems.push(why),
            }
            Ok(())
        });
        checked.problems.extend(walked.err());
        match self.deeds() {
            Ok(deeds) => {
                let by_retention: HashSet<Seq> = deeds
                    .iter()
                    .filter(|(record, _)| matches!(record.deed, Deed::RunsRemoved { .. }))
                    .map(|(record, _)| record.seq)
                    .collect();
                match self.removed() {
                    Ok(removed) => {
                        checked.removed = removed.len() as u64;
                        let strange = removed.iter().filter(|removed| !by_retention.contains(&removed.deed));
                        checked.problems.extend(strange.map(|removed| {
                            format!("run {} is gone, and no deed says that it was removed", removed.run)
                        }));
                    }
                    Err(error) => checked.problems.push(error.to_string()),
                }
                checked.ledger = (deeds.len() + self.rows("").len()) as u64;
                named.extend(deeds.iter().filter_map(|(record, _)| record.deed.object().cloned()));
                let folded = Standing::fold(deeds.iter().map(|(deed, _)| deed));
                checked.problems.extend(folded.err().map(|why| format!("the ledger: {why}")));
            }
            Err(error) => checked.problems.push(error.to_string()),
        }
        self.check_objects(&named, &mut checked);
        checked
    }

    fn check_objects(&self, named: &HashSet<Digest>, checked: &mut Checked) {
        let objects: &Objects = self.objects();
        let all = match objects.all() {
            Ok(all) => all,
            Err(error) => {
                checked.problems.push(format!("the folder of objects cannot be read: {error}"));
                return;
            }
        };
        let mut missing: HashSet<&Digest> = named.iter().collect();
        for digest in &all {
            missing.remove(digest);
            match self.get(digest) {
                Ok(_) => checked.objects += 1,
                Err(Error::Damaged(why)) => checked.problems.push(why),
                Err(error) => checked.problems.push(error.to_string()),
            }
        }
        checked.problems.extend(missing.into_iter().map(|digest| format!("the object {digest} is missing")));
    }
}

/// The digests that a run's records name.
pub(super) fn objects_named(
    run: RunId,
    stored: &[Stored],
    named: &mut HashSet<Digest>,
) -> Result<(), String> {
    for stored in stored {
        let record = stored.record().map_err(|why| format!("run {run}: {why}"))?;
        named.extend(record.event.objects());
    }
    Ok(())
}
