//! Runs and tasks that must not overlap: who may start, and who waits for whom.
//!
//! Everything here follows from the states of the active runs; no lock, queue or counter is kept.

use std::collections::BTreeMap;

use crate::claim::Claim;
use crate::id::{RunId, WorkflowName};
use crate::run::{Run, RunState};
use crate::workflow::PolicyFile;

/// The most runs of a group that may wait in line.
pub const QUEUE_LIMIT: usize = 20;

/// All runs that are not final, by id: the order of their submission.
pub type ActiveRuns = BTreeMap<RunId, Run>;

/// For whom something waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Blocker {
    /// The run that is in the way.
    pub run: RunId,
    /// Its workflow.
    pub workflow: WorkflowName,
    /// What it holds: a claim, or the place in a group.
    pub holds: String,
}

/// The runs that may be admitted now, oldest first; earlier runs that still wait keep their turn.
pub fn admit(runs: &ActiveRuns) -> Vec<RunId> {
    let mut admitted: Vec<RunId> = Vec::new();
    for (id, run) in runs {
        if matches!(run.state, RunState::Queued) && queued_behind(runs, run, &admitted).is_none() {
            admitted.push(*id);
        }
    }
    admitted
}

/// For whom a queued run waits.
pub fn waits_for(runs: &ActiveRuns, run: &Run) -> Option<Blocker> {
    queued_behind(runs, run, &[])
}

fn queued_behind(runs: &ActiveRuns, run: &Run, admitted: &[RunId]) -> Option<Blocker> {
    let claims = run.run_claims().unwrap_or_default();
    for (id, other) in runs.iter().filter(|(id, _)| **id != run.id) {
        // One that has just ended is in nobody's way.
        if other.state.is_final() {
            continue;
        }
        let active = other.admitted().is_some() || admitted.contains(id);
        // A run that was submitted before this one and still waits has the older right.
        let earlier = *id < run.id && matches!(other.state, RunState::Queued);
        if !active && !earlier {
            continue;
        }
        if let Some(group) = shared_group(run, other) {
            return Some(blocker(other, format!("the group `{group}`")));
        }
        let theirs = other.run_claims().unwrap_or_default();
        if let Some(claim) = claims.iter().find(|claim| theirs.iter().any(|their| their.excludes(claim))) {
            return Some(blocker(other, claim.to_string()));
        }
    }
    None
}

fn blocker(run: &Run, holds: String) -> Blocker {
    Blocker { run: run.id, workflow: run.graph.name.clone(), holds }
}

fn shared_group<'r>(one: &'r Run, other: &Run) -> Option<&'r str> {
    let mine = one.graph.concurrency.as_ref()?;
    let theirs = other.graph.concurrency.as_ref()?;
    (mine.policy != Some(PolicyFile::Allow) && mine.group == theirs.group).then_some(mine.group.as_str())
}

/// Who holds what a task of `run` claims for itself.
pub fn holder(runs: &ActiveRuns, run: &Run, claims: &[Claim]) -> Option<Blocker> {
    if claims.is_empty() {
        return None;
    }
    runs.values().filter(|other| other.id != run.id).find_map(|other| {
        let held = other.held_claims();
        let claim = claims.iter().find(|claim| held.iter().any(|their| their.excludes(claim)))?;
        Some(blocker(other, claim.to_string()))
    })
}

/// What a new run does to the others, by the policy that holds for it.
#[derive(Debug, Clone, PartialEq)]
pub enum Arrival {
    /// It takes its place; these runs, which waited, make way for it.
    Enter {
        /// Queued runs that it supersedes.
        supersedes: Vec<RunId>,
        /// Active runs that it cancels.
        replaces: Vec<RunId>,
    },
    /// It is refused.
    Refused(Blocker),
}

/// What follows from submitting `new` beside `runs`.
pub fn arrive(runs: &ActiveRuns, new: &Run, default: PolicyFile) -> Arrival {
    let written = new.graph.concurrency.as_ref().and_then(|concurrency| concurrency.policy);
    let policy = written.unwrap_or(default);
    let rivals: Vec<&Run> = runs.values().filter(|other| rivals(new, other)).collect();
    let ids = |queued: bool| {
        let of = rivals.iter().filter(|run| matches!(run.state, RunState::Queued) == queued);
        of.map(|run| run.id).collect::<Vec<_>>()
    };
    match policy {
        PolicyFile::Allow => Arrival::Enter { supersedes: Vec::new(), replaces: Vec::new() },
        PolicyFile::Latest => Arrival::Enter { supersedes: ids(true), replaces: Vec::new() },
        PolicyFile::Replace => Arrival::Enter { supersedes: ids(true), replaces: ids(false) },
        PolicyFile::Reject => match rivals.first() {
            Some(run) => Arrival::Refused(blocker(run, format!("the workflow `{}`", run.graph.name))),
            None => Arrival::Enter { supersedes: Vec::new(), replaces: Vec::new() },
        },
        PolicyFile::Queue => {
            match rivals.iter().filter(|run| matches!(run.state, RunState::Queued)).nth(QUEUE_LIMIT - 1) {
                Some(run) => {
                    Arrival::Refused(blocker(run, format!("the last of {QUEUE_LIMIT} places in line")))
                }
                None => Arrival::Enter { supersedes: Vec::new(), replaces: Vec::new() },
            }
        }
    }
}

/// Runs that the policy is about: of one group where one is written, else of one workflow and for the same claims.
fn rivals(new: &Run, other: &Run) -> bool {
    if new.graph.concurrency.is_some() && shared_group(new, other).is_some() {
        return true;
    }
    let mine = new.run_claims().unwrap_or_default();
    let theirs = other.run_claims().unwrap_or_default();
    new.graph.concurrency.is_none()
        && new.graph.name == other.graph.name
        && mine.iter().any(|claim| theirs.iter().any(|their| their.excludes(claim)))
}
