//! What lists of runs are asked for, and a page of the answer.
//!
//! Newest first, by the id of the run; a page goes on after the last id of the page before, so that a page costs the
//! same wherever it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{InvalidName, RunId};
use crate::run::RunSummary;

/// How many runs a page has where nobody says it.
pub const PAGE: usize = 50;

/// Which runs; every condition must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// Of this workflow.
    pub workflow: Option<String>,
    /// Whose tasks name this environment.
    pub environment: Option<String>,
    /// In this state.
    pub status: Option<String>,
    /// Whose tasks name this lane.
    pub tag: Option<String>,
    /// Submitted by.
    pub actor: Option<String>,
    /// Started by this kind of trigger.
    pub trigger: Option<String>,
    /// Submitted at this moment or later.
    pub since: Option<Timestamp>,
    /// Submitted before this moment.
    pub until: Option<Timestamp>,
    /// The last id of the page before.
    pub after: Option<RunId>,
    /// Whose ids begin so.
    pub ids: Option<(RunId, RunId)>,
    /// How many at most.
    pub limit: usize,
}

impl Default for Query {
    fn default() -> Query {
        Query {
            workflow: None,
            environment: None,
            status: None,
            tag: None,
            actor: None,
            trigger: None,
            since: None,
            until: None,
            after: None,
            ids: None,
            limit: PAGE,
        }
    }
}

/// Runs, newest first.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Page {
    /// The runs.
    pub runs: Vec<RunSummary>,
    /// Whether there are more after the last one.
    pub more: bool,
}

impl Query {
    /// The runs whose ids begin with this text.
    ///
    /// # Errors
    /// A text that no id begins with.
    pub fn beginning(text: &str) -> Result<Query, InvalidName> {
        let fill = |with: char| {
            let mut id = text.to_ascii_uppercase();
            while id.len() < 26 {
                // The first of the 26 digits has three bits.
                id.push(if id.is_empty() && with == 'Z' { '7' } else { with });
            }
            id.parse::<RunId>()
        };
        Ok(Query { ids: Some((fill('0')?, fill('Z')?)), ..Query::default() })
    }

    /// The ids that may match: from the first to before the second; `None` for no end.
    pub(super) fn range(&self) -> (RunId, Option<RunId>) {
        let mut from = RunId::from_bytes([0; 16]);
        if let Some(since) = self.since {
            from = from.max(RunId::new(since.millis(), 0));
        }
        let ends = [
            self.until.map(|until| RunId::new(until.millis(), 0)),
            self.after,
            self.ids.and_then(|(_, last)| next(last)),
        ];
        if let Some((first, _)) = self.ids {
            from = from.max(first);
        }
        (from, ends.into_iter().flatten().min())
    }

    /// The terms that a run must have.
    pub(super) fn terms(&self) -> Vec<Vec<u8>> {
        let conditions = [
            (b'w', &self.workflow),
            (b'e', &self.environment),
            (b's', &self.status),
            (b't', &self.tag),
            (b'a', &self.actor),
            (b'k', &self.trigger),
        ];
        conditions
            .into_iter()
            .filter_map(|(kind, value)| value.as_ref().map(|value| term(kind, value)))
            .collect()
    }

    /// Whether a run has all terms.
    pub(super) fn matches(&self, run: &RunSummary) -> bool {
        let is = |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|wanted| wanted == value);
        let has = |wanted: &Option<String>, values: &std::collections::BTreeSet<String>| {
            wanted.as_ref().is_none_or(|wanted| values.contains(wanted))
        };
        is(&self.workflow, run.workflow.as_str())
            && is(&self.status, &run.status)
            && is(&self.actor, &run.actor)
            && is(&self.trigger, &run.trigger)
            && has(&self.environment, &run.environments)
            && has(&self.tag, &run.tags)
    }
}

/// The id after this one; none after the last.
fn next(id: RunId) -> Option<RunId> {
    u128::from_be_bytes(id.to_bytes()).checked_add(1).map(|next| RunId::from_bytes(next.to_be_bytes()))
}

/// What a finished run is found by.
pub(super) fn terms_of(run: &RunSummary) -> Vec<Vec<u8>> {
    let mut terms = vec![
        term(b'w', run.workflow.as_str()),
        term(b's', &run.status),
        term(b'a', &run.actor),
        term(b'k', &run.trigger),
    ];
    terms.extend(run.environments.iter().map(|environment| term(b'e', environment)));
    terms.extend(run.tags.iter().map(|tag| term(b't', tag)));
    terms.extend(run.unique.iter().map(|name| unique_term(name)));
    terms
}

/// The term of what one run alone has.
pub(super) fn unique_term(name: &str) -> Vec<u8> {
    term(b'u', name)
}

fn term(kind: u8, value: &str) -> Vec<u8> {
    // A term is a key of two bytes' length at most; what is longer is found by its beginning.
    let value = &value.as_bytes()[..value.len().min(1000)];
    [&[kind], value].concat()
}
