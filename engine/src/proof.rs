//! Is the history what it was? Reads all of it, and follows the audit log beside it.
//!
//! Alone it can only say that everything fits together: whoever rewrites all of it, with all hashes, leaves a history
//! that fits too. Against a head that was kept elsewhere (signed, in a log, in a notification) it says more: nothing
//! up to that head was changed, removed, inserted or put in another order, and nothing was cut off before it.

use std::collections::{BTreeMap, HashMap, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::audit::{Chain, Entry, Head, is_audited};
use crate::id::{RunId, Seq};
use crate::journal::{Error, Journal, Query, Removed};
use crate::ledger::Deed;
use crate::retention::{self, RemovedRuns};
use crate::run::Event;

/// How many entries are read at a time.
const PAGE: usize = 4_096;
/// More problems than that help nobody.
const MAX_PROBLEMS: usize = 100;

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verified {
    /// The end of the audit log.
    pub head: String,
    /// Its entries.
    pub entries: u64,
    /// Runs whose records were followed.
    pub runs: u64,
    /// Deeds of the ledger that were followed.
    #[serde(default)]
    pub deeds: u64,
    /// Runs that retention removed: their entries are followed, their records are gone.
    #[serde(default)]
    pub removed: u64,
    /// What says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retention: Vec<RemovedRuns>,
    /// What does not fit, a sentence each; empty where everything does.
    pub problems: Vec<String>,
}

impl Verified {
    fn problem(&mut self, text: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(text);
        }
    }
}

/// Follows the whole history, and compares it with heads that were kept elsewhere.
///
/// # Errors
/// A journal that cannot be read at all.
pub fn verify(journal: &dyn Journal, anchors: &[Head]) -> Result<Verified, Error> {
    let end = journal.head();
    let mut verified = Verified {
        head: end.to_string(),
        entries: 0,
        runs: 0,
        deeds: 0,
        removed: 0,
        retention: Vec::new(),
        problems: Vec::new(),
    };
    let mut removals = Removals::of(journal)?;
    let deeds = deeds(journal, &mut verified);
    let mut head = Head::default();
    // Entries of runs whose end has not come yet.
    let mut open: HashMap<RunId, Vec<Entry>> = HashMap::new();
    let mut closed: HashSet<RunId> = HashSet::new();
    let mut seen: Vec<Head> = anchors.iter().filter(|anchor| anchor.position == 0).map(|_| head).collect();
    loop {
        let page = match journal.audit(head.position, PAGE) {
            Ok(page) => page,
            Err(error) => {
                verified
                    .problem(format!("the audit log cannot be read after entry {}: {error}", head.position));
                break;
            }
        };
        // What was added since the beginning is left for the next time.
        let page: Vec<Entry> = page.into_iter().filter(|entry| entry.position <= end.position).collect();
        if page.is_empty() {
            break;
        }
        for entry in page {
            if entry.position != head.position + 1 {
                verified.problem(format!("entry {} of the audit log is missing", head.position + 1));
            }
            head = head.after(&entry);
            if anchors.iter().any(|anchor| anchor.position == head.position) {
                seen.push(head);
            }
            verified.entries += 1;
            if entry.is_deed() {
                deed(&entry, &deeds, &mut verified);
                continue;
            }
            if removals.take(&entry) {
                if closed.insert(entry.run) {
                    verified.removed += 1;
                }
                continue;
            }
            if closed.contains(&entry.run) {
                verified.problem(format!("entry {}: run {} had ended before", entry.position, entry.run));
                continue;
            }
            let run = entry.run;
            open.entry(run).or_default().push(entry);
            let entries = &open[&run];
            if let Some(is_final) = follow(journal, entries, &mut verified)
                && is_final
            {
                open.remove(&run);
                closed.insert(run);
                verified.runs += 1;
                removals.ended(&entry);
            }
        }
    }
    if head != end && verified.problems.is_empty() {
        verified.problem(format!("the audit log ends at {head}, and should end at {end}"));
    }
    for (run, entries) in &open {
        let last = entries.last().map_or(0, |last| last.position);
        verified.runs += 1;
        all_entries(journal, *run, entries, last, &mut verified);
    }
    removals.compare(journal, &mut verified)?;
    unlogged(journal, deeds.len() as u64, end, &mut verified)?;
    strangers(journal, &open, &closed, end, &mut verified)?;
    for anchor in anchors {
        let at = seen.iter().find(|seen| seen.position == anchor.position);
        match at {
            Some(at) if at == anchor => {}
            Some(_) => verified.problem(format!(
                "the history up to entry {} is not the one whose head was kept: it was rewritten",
                anchor.position
            )),
            None => verified.problem(format!(
                "the audit log ends at entry {}, and a head of entry {} was kept: its tail was cut off",
                end.position, anchor.position
            )),
        }
    }
    Ok(verified)
}

/// What retention removed, as tombstones and rows tell it; deeds say what it should be.
struct Removals {
    gone: HashMap<RunId, Removed>,
    /// Begun and not done: some of these may still be there, by the digest that their deed has.
    begun: HashMap<RunId, String>,
    /// The hashes of the ends of what is gone, by the deed.
    ends: HashMap<Seq, BTreeMap<RunId, Chain>>,
    /// The same of what is still there, by the digest of the deed.
    still: HashMap<String, BTreeMap<RunId, Chain>>,
}

impl Removals {
    fn of(journal: &dyn Journal) -> Result<Removals, Error> {
        let begun = retention::begun(journal).into_iter();
        let begun =
            begun.flat_map(|(digest, (runs, _))| runs.into_iter().map(move |run| (run, digest.clone())));
        Ok(Removals {
            begun: begun.collect(),
            gone: journal.removed()?.into_iter().map(|removed| (removed.run, removed)).collect(),
            ends: HashMap::new(),
            still: HashMap::new(),
        })
    }

    /// Takes an entry of a run that is gone; the closing one with its hash.
    fn take(&mut self, entry: &Entry) -> bool {
        let Some(removed) = self.gone.get(&entry.run) else { return false };
        if entry.seq.0 == removed.records {
            self.ends.entry(removed.deed).or_default().insert(entry.run, entry.chain);
        }
        true
    }

    /// A run that is still there has ended.
    fn ended(&mut self, entry: &Entry) {
        if let Some(digest) = self.begun.get(&entry.run) {
            self.still.entry(digest.clone()).or_default().insert(entry.run, entry.chain);
        }
    }

    fn compare(mut self, journal: &dyn Journal, verified: &mut Verified) -> Result<(), Error> {
        for (record, _) in journal.deeds()? {
            let Deed::RunsRemoved { by, rule, runs, ended_from, ended_to, digest } = record.deed else {
                continue;
            };
            if record.seq.0 > verified.deeds {
                continue;
            }
            let mut ends = self.ends.remove(&record.seq).unwrap_or_default();
            ends.extend(self.still.remove(digest.as_str()).unwrap_or_default());
            if retention::digest(&ends) != digest {
                verified.problem(format!(
                    "deed {} removed {runs} runs, and those that are gone are not the same ones",
                    record.seq
                ));
            }
            let (deed, at) = (record.seq, record.at);
            verified.retention.push(RemovedRuns { deed, at, by, rule, runs, ended_from, ended_to });
        }
        for (deed, ends) in self.ends {
            let count = ends.len();
            verified
                .problem(format!("{count} runs are gone, and deed {deed} does not say that it removed them"));
        }
        Ok(())
    }
}

/// The hashes of all deeds.
fn deeds(journal: &dyn Journal, verified: &mut Verified) -> Vec<Chain> {
    match journal.deeds() {
        Ok(deeds) => deeds.into_iter().map(|(_, chain)| chain).collect(),
        Err(error) => {
            verified.problem(format!("the ledger cannot be read: {error}"));
            Vec::new()
        }
    }
}

/// Compares an entry with the deed that it names: the log names them in their order.
fn deed(entry: &Entry, deeds: &[Chain], verified: &mut Verified) {
    let position = entry.position;
    if entry.seq.0 != verified.deeds + 1 {
        verified.problem(format!("entry {position}: deed {} is missing", verified.deeds + 1));
    }
    verified.deeds = entry.seq.0;
    let at = usize::try_from(entry.seq.0).ok().and_then(|seq| seq.checked_sub(1));
    match at.and_then(|at| deeds.get(at)) {
        Some(chain) if *chain == entry.chain => {}
        Some(_) => verified.problem(format!("entry {position}: deed {} is not what it was", entry.seq)),
        None => verified.problem(format!("entry {position}: deed {} is missing", entry.seq)),
    }
}

/// Deeds that the audit log does not know.
fn unlogged(journal: &dyn Journal, deeds: u64, end: Head, verified: &mut Verified) -> Result<(), Error> {
    if deeds > verified.deeds {
        // They may have been done since.
        let later = journal.audit(end.position, usize::MAX)?;
        let later = later.iter().filter(|entry| entry.is_deed()).count() as u64;
        if deeds > verified.deeds + later {
            verified.problem(format!("deed {} is not in the audit log", verified.deeds + later + 1));
        }
    }
    Ok(())
}

/// Compares a run's newest entry with the run's records; tells whether the entry is the run's end.
fn follow(journal: &dyn Journal, entries: &[Entry], verified: &mut Verified) -> Option<bool> {
    let newest = entries.last()?;
    // A submit is looked at with what follows on it, or at the end: most runs are read once.
    if newest.seq.0 == 1 {
        return Some(false);
    }
    let records = match journal.read_chained(newest.run) {
        Ok(records) => records,
        Err(error) => {
            verified.problem(format!("run {}: {error}", newest.run));
            return None;
        }
    };
    let at = usize::try_from(newest.seq.0 - 1).ok().and_then(|at| records.get(at));
    let Some((record, chain)) = at else {
        verified.problem(format!(
            "entry {}: record {} of run {} is missing",
            newest.position, newest.seq, newest.run
        ));
        return None;
    };
    if *chain != newest.chain {
        verified.problem(format!(
            "entry {}: run {} is not what it was: a record up to {} was changed",
            newest.position, newest.run, newest.seq
        ));
        return None;
    }
    let is_final = matches!(record.event, Event::RunFinished { .. });
    if is_final {
        compare(newest.run, &records, entries, verified);
        if records.len() as u64 != newest.seq.0 {
            verified.problem(format!("run {}: records follow on its end", newest.run));
        }
    }
    Some(is_final)
}

/// A run that goes on: every entry names one of its records, and every audited record has its entry.
fn all_entries(journal: &dyn Journal, run: RunId, entries: &[Entry], last: u64, verified: &mut Verified) {
    match journal.read_chained(run) {
        Ok(records) if records.is_empty() => {
            verified.problem(format!("entry {last}: run {run} is missing"));
        }
        Ok(records) => {
            let until = entries.last().map_or(0, |last| last.seq.0);
            // Records that came since the verification began have no entry in it yet.
            let records: Vec<_> =
                records.into_iter().take_while(|(record, _)| record.seq.0 <= until).collect();
            compare(run, &records, entries, verified);
        }
        Err(error) => verified.problem(format!("run {run}: {error}")),
    }
}

fn compare(
    run: RunId,
    records: &[(crate::run::Record, crate::audit::Chain)],
    entries: &[Entry],
    verified: &mut Verified,
) {
    let audited = records.iter().filter(|(record, _)| is_audited(&record.event));
    let audited: Vec<(u64, &crate::audit::Chain)> =
        audited.map(|(record, chain)| (record.seq.0, chain)).collect();
    let logged: Vec<(u64, &crate::audit::Chain)> =
        entries.iter().map(|entry| (entry.seq.0, &entry.chain)).collect();
    if audited != logged {
        verified.problem(format!("run {run}: its records and the audit log do not tell the same"));
    }
}

/// Runs that the audit log does not know.
fn strangers(
    journal: &dyn Journal,
    open: &HashMap<RunId, Vec<Entry>>,
    closed: &HashSet<RunId>,
    end: Head,
    verified: &mut Verified,
) -> Result<(), Error> {
    let mut query = Query { limit: 1_000, ..Query::default() };
    loop {
        let page = match journal.list(&query) {
            Ok(page) => page,
            Err(error) => {
                verified.problem(format!("the lists cannot be read: {error}"));
                return Ok(());
            }
        };
        for run in &page.runs {
            if !open.contains_key(&run.id) && !closed.contains(&run.id) {
                // It may have been submitted since.
                let later = journal.audit(end.position, usize::MAX)?;
                if !later.iter().any(|entry| entry.run == run.id) {
                    verified.problem(format!("run {} is not in the audit log", run.id));
                }
            }
        }
        query.after = page.runs.last().map(|run| run.id);
        if !page.more {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
