//! Where every run is, and lists of runs: those that are in sled by a table in memory, the finished ones in segments.
//!
//! The table is small: runs that are active, and finished ones that are not sealed yet. A list merges it with the
//! segments, newest first, and reads no more of them than it shows. Nothing here writes.

use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use super::query::{Page, Query, unique_term};
use super::record::Stored;
use super::segment::{Lines, Row, Segment, Walk};
use crate::audit::{Chain, Entry, Head};
use crate::id::{RunId, Seq};
use crate::ledger::DeedRecord;
use crate::run::{Record, RunSummary};

/// A run that is in sled.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) summary: RunSummary,
    /// Its acknowledged records. They are kept here too, because sled refuses reads after a failed write.
    pub(super) records: Vec<Arc<Stored>>,
}

impl Line {
    /// The place of its last record.
    pub(super) fn last(&self) -> u64 {
        self.records.len() as u64
    }
}

/// Every run.
#[derive(Debug, Default, Clone)]
pub(super) struct Index {
    pub(super) live: BTreeMap<RunId, Line>,
    /// In the order of the audit log.
    pub(super) segments: Vec<Arc<Segment>>,
    /// The entries of the audit log after the last segment's.
    pub(super) audit: VecDeque<Entry>,
    /// The end of the audit log, with all these records in it.
    pub(super) head: Head,
    /// All deeds: people do them, so there are not many.
    pub(super) deeds: Vec<Arc<Stored>>,
    pub(super) rows: BTreeMap<String, Vec<u8>>,
    /// What one run alone has, of the runs of the table.
    unique: HashMap<String, RunId>,
}

/// Where a run is.
pub(super) enum Place {
    Nowhere,
    Live(Vec<Arc<Stored>>),
    Sealed(Arc<Segment>, Row),
}

impl Index {
    /// Follows a run by one more record.
    pub(super) fn follow(&mut self, record: &Record, stored: Arc<Stored>) {
        match self.live.get_mut(&record.run) {
            Some(line) => {
                line.summary.follow(record);
                line.records.push(stored);
            }
            None => {
                if let Some(summary) = RunSummary::begin(record) {
                    self.unique.extend(summary.unique.iter().map(|name| (name.clone(), record.run)));
                    self.live.insert(record.run, Line { summary, records: vec![stored] });
                }
            }
        }
    }

    /// A run that is in a segment now.
    pub(super) fn forget(&mut self, run: RunId) {
        let line = self.live.remove(&run);
        for name in line.iter().flat_map(|line| &line.summary.unique) {
            self.unique.remove(name);
        }
    }

    /// Changes rows.
    pub(super) fn change(&mut self, rows: impl IntoIterator<Item = super::Row>) {
        for super::Row { key, value } in rows {
            match value {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
    }

    pub(super) fn rows_below(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        let from = self.rows.range(prefix.to_owned()..);
        let below = from.take_while(|(key, _)| key.starts_with(prefix));
        below.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    pub(super) fn deeds(&self) -> Result<Vec<(DeedRecord, Chain)>, String> {
        self.deeds.iter().map(|stored| stored.deed().map(|deed| (deed, stored.chain))).collect()
    }

    /// The deed at this place.
    pub(super) fn deed(&self, seq: Seq) -> Result<Option<DeedRecord>, String> {
        let at = usize::try_from(seq.0).ok().and_then(|seq| seq.checked_sub(1));
        at.and_then(|at| self.deeds.get(at)).map(|stored| stored.deed()).transpose()
    }

    /// Records of a run of the table, from this place on; `None` for a run that is not in it.
    pub(super) fn live_after(&self, run: RunId, skip: usize, limit: usize) -> Option<Vec<Arc<Stored>>> {
        let records = &self.live.get(&run)?.records;
        Some(records.iter().skip(skip).take(limit).cloned().collect())
    }

    /// The run of the table that has this alone, and the segments where another one may.
    pub(super) fn unique(&self, name: &str, seen: u64) -> Result<RunId, Vec<Arc<Segment>>> {
        self.unique.get(name).copied().ok_or_else(|| {
            let first = self.segments.partition_point(|segment| segment.listed.audit_to <= seen);
            self.segments[first..].to_vec()
        })
    }

    /// Entries after this position that are not sealed.
    pub(super) fn audit_after(&self, position: u64, limit: usize) -> Vec<Entry> {
        let first = self.audit.partition_point(|entry| entry.position <= position);
        self.audit.iter().skip(first).take(limit).copied().collect()
    }

    pub(super) fn place(&self, run: RunId) -> Result<Place, String> {
        if let Some(line) = self.live.get(&run) {
            return Ok(Place::Live(line.records.clone()));
        }
        find(&self.segments, run)
    }

    pub(super) fn unfinished(&self) -> Vec<RunSummary> {
        self.live.values().map(|line| &line.summary).filter(|run| !run.is_final()).cloned().collect()
    }

    /// Runs of the table that a query asks for, newest first.
    pub(super) fn live(&self, query: &Query) -> Vec<RunSummary> {
        let (from, end) = query.range();
        if end.is_some_and(|end| end <= from) {
            return Vec::new();
        }
        let lines: Box<dyn DoubleEndedIterator<Item = &Line>> = match end {
            Some(end) => Box::new(self.live.range(from..end).map(|(_, line)| line)),
            None => Box::new(self.live.range(from..).map(|(_, line)| line)),
        };
        let matching = lines.rev().map(|line| &line.summary).filter(|run| query.matches(run));
        matching.take(query.limit.saturating_add(1)).cloned().collect()
    }
}

/// The run of these segments that has something alone.
pub(super) fn find_unique(segments: &[Arc<Segment>], name: &str) -> Result<Option<RunId>, String> {
    let term = unique_term(name);
    for segment in segments.iter().rev() {
        if let Some(postings) = segment.postings(&term)?
            && let Some(place) = Walk::new(segment, postings).before(segment.about.runs)?
        {
            return Lines::new(segment).id(place).map(Some);
        }
    }
    Ok(None)
}

/// The segment that holds a run. Ids lie close together in time, so most segments are passed over by their ends.
pub(super) fn find(segments: &[Arc<Segment>], run: RunId) -> Result<Place, String> {
    for segment in segments.iter().rev() {
        if let Some(row) = segment.find(run)? {
            return Ok(Place::Sealed(Arc::clone(segment), row));
        }
    }
    Ok(Place::Nowhere)
}

/// Merges runs of the table with those of segments. A segment is opened when the list comes to its newest run.
pub(super) fn list(live: Vec<RunSummary>, segments: &[Arc<Segment>], query: &Query) -> Result<Page, String> {
    let (from, end) = query.range();
    let terms = query.terms();
    let mut waiting: Vec<&Segment> = segments
        .iter()
        .map(AsRef::as_ref)
        .filter(|segment| segment.about.last >= from && end.is_none_or(|end| segment.about.first < end))
        .collect();
    waiting.sort_by_key(|segment| segment.about.last);
    let mut open: Vec<Cursor<'_>> = Vec::new();
    // The newest run of each source, and where it comes from.
    let mut heads: BinaryHeap<(RunId, usize)> = BinaryHeap::new();
    let mut live = live.into_iter().peekable();
    let mut page = Page::default();
    loop {
        let newest = heads.peek().map(|(id, _)| *id).max(live.peek().map(|run| run.id));
        if waiting.last().is_some_and(|segment| newest.is_none_or(|newest| segment.about.last > newest))
            && let Some(segment) = waiting.pop()
        {
            if let Some(mut cursor) = Cursor::open(segment, &terms, from, end)?
                && let Some(id) = cursor.advance()?
            {
                heads.push((id, open.len()));
                open.push(cursor);
            }
            continue;
        }
        let Some(newest) = newest else { return Ok(page) };
        if page.runs.len() >= query.limit {
            page.more = true;
            return Ok(page);
        }
        if live.peek().is_some_and(|run| run.id == newest) {
            page.runs.extend(live.next());
            // A run that was sealed a moment ago is shown once.
            if heads.peek().is_none_or(|(id, _)| *id != newest) {
                continue;
            }
        }
        if let Some((id, source)) = heads.pop() {
            if page.runs.last().is_none_or(|run| run.id != id) {
                page.runs.push(open[source].summary()?);
            }
            if let Some(next) = open[source].advance()? {
                heads.push((next, source));
            }
        }
    }
}

/// The runs of one segment that a query asks for, newest first.
struct Cursor<'s> {
    walks: Vec<Walk<'s>>,
    lines: Lines<'s>,
    low: u32,
    /// The present run is at this place, the next one before it.
    bound: u32,
}

impl<'s> Cursor<'s> {
    fn open(
        segment: &'s Segment,
        terms: &[Vec<u8>],
        from: RunId,
        end: Option<RunId>,
    ) -> Result<Option<Cursor<'s>>, String> {
        let mut walks = Vec::new();
        for term in terms {
            let Some(postings) = segment.postings(term)? else { return Ok(None) };
            walks.push((postings.count, Walk::new(segment, postings)));
        }
        // The rarest term leads.
        walks.sort_by_key(|(count, _)| *count);
        let walks = walks.into_iter().map(|(_, walk)| walk).collect();
        let low = segment.before(from)?;
        let bound = end.map_or(Ok(segment.about.runs), |end| segment.before(end))?;
        Ok(Some(Cursor { walks, lines: Lines::new(segment), low, bound }))
    }

    /// Goes to the next run that has every term; gives its id.
    fn advance(&mut self) -> Result<Option<RunId>, String> {
        loop {
            if self.bound <= self.low {
                return Ok(None);
            }
            let (mut first, mut found) = (None, self.bound - 1);
            for walk in &mut self.walks {
                let Some(before) = walk.before(found + 1)? else { return Ok(None) };
                first.get_or_insert(before);
                found = before;
            }
            if first.is_none_or(|first| first == found) {
                if found < self.low {
                    return Ok(None);
                }
                self.bound = found;
                return self.lines.id(found).map(Some);
            }
            self.bound = found + 1;
        }
    }

    fn summary(&mut self) -> Result<RunSummary, String> {
        self.lines.summary(self.bound)
    }
}
