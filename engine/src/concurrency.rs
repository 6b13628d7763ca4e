//! Runs and tasks that must not overlap: who may start, and who waits for whom.
//!
//! Everything here follows from the states of the active runs; no lock, queue or counter is kept.

use std::collections::{BTreeMap, HashMap};

use crate::claim::{Claim, Mode};
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
    let queued = || runs.values().filter(|run| matches!(run.state, RunState::Queued));
    if queued().next().is_none() {
        return Vec::new();
    }
    let mut taken = Taken::default();
    runs.values().filter(|run| is_active(run)).for_each(|run| taken.add(run));
    let mut admitted = Vec::new();
    for run in queued() {
        if taken.by(run).is_none() {
            admitted.push(run.id);
        }
        // A run that was submitted before another one and still waits has the older right.
        taken.add(run);
    }
    admitted
}

/// For whom a queued run waits.
pub fn waits_for(runs: &ActiveRuns, run: &Run) -> Option<Blocker> {
    if !matches!(run.state, RunState::Queued) {
        return None;
    }
    let mut taken = Taken::default();
    let earlier = |other: &Run| other.id < run.id && matches!(other.state, RunState::Queued);
    runs.values()
        .filter(|other| other.id != run.id && (is_active(other) || earlier(other)))
        .for_each(|other| taken.add(other));
    taken.by(run)
}

/// Admitted and not over: one that has just ended is in nobody's way.
fn is_active(run: &Run) -> bool {
    !run.state.is_final() && run.admitted().is_some()
}

/// What runs hold, or have the older right to.
#[derive(Default)]
struct Taken<'r> {
    groups: HashMap<&'r str, &'r Run>,
    /// The first that writes and the first that only reads.
    claims: HashMap<&'r str, (Option<&'r Run>, Option<&'r Run>)>,
    /// Tasks that have every lane of an environment for themselves.
    every_lane: Vec<(&'r Claim, &'r Run)>,
}

impl<'r> Taken<'r> {
    fn add(&mut self, run: &'r Run) {
        if let Some(concurrency) = &run.graph.concurrency {
            self.groups.entry(&concurrency.group).or_insert(run);
        }
        for claim in run.run_claims().unwrap_or_default() {
            let (write, read) = self.claims.entry(&claim.resource).or_default();
            match claim.mode {
                Mode::Write => write.get_or_insert(run),
                Mode::Read => read.get_or_insert(run),
            };
        }
        let every = run.held_claims().into_iter().filter(|claim| claim.every_lane_of().is_some());
        self.every_lane.extend(every.map(|claim| (claim, run)));
    }

    /// Who is in the way of a run that is not among them.
    fn by(&self, run: &Run) -> Option<Blocker> {
        if let Some(concurrency) = &run.graph.concurrency
            && concurrency.policy != Some(PolicyFile::Allow)
            && let Some(other) = self.groups.get(concurrency.group.as_str())
        {
            return Some(blocker(other, format!("the group `{}`", concurrency.group)));
        }
        run.run_claims().unwrap_or_default().iter().find_map(|claim| {
            if let Some((_, other)) = self.every_lane.iter().find(|(every, _)| every.excludes(claim)) {
                return Some(blocker(other, claim.to_string()));
            }
            let (write, read) = self.claims.get(claim.resource.as_str())?;
            let other = write.or(if claim.mode == Mode::Write { *read } else { None })?;
            Some(blocker(other, claim.to_string()))
        })
    }
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
        /// By which policy.
        policy: PolicyFile,
        /// Queued runs that it supersedes, or under `replace` replaces.
        supersedes: Vec<RunId>,
        /// Active runs that it cancels.
        replaces: Vec<RunId>,
    },
    /// It is refused.
    Refused(Blocker),
}

/// What follows from submitting `new` beside `runs`. The policy of what asks for it is before the file's, and `default`
/// holds where neither says anything.
pub fn arrive(runs: &ActiveRuns, new: &Run, own: Option<PolicyFile>, default: PolicyFile) -> Arrival {
    let written = new.graph.concurrency.as_ref().and_then(|concurrency| concurrency.policy);
    // What takes a run back waits its turn, whatever the file says of runs that go forward.
    let policy = if new.is_undo() { default } else { own.or(written).unwrap_or(default) };
    let rivals: Vec<&Run> = runs.values().filter(|other| rivals(new, other)).collect();
    let ids = |queued: bool| {
        // Nothing pushes aside what takes a run back.
        let of =
            rivals.iter().filter(|run| !run.is_undo() && matches!(run.state, RunState::Queued) == queued);
        of.map(|run| run.id).collect::<Vec<_>>()
    };
    match policy {
        PolicyFile::Allow => Arrival::Enter { policy, supersedes: Vec::new(), replaces: Vec::new() },
        PolicyFile::Latest => Arrival::Enter { policy, supersedes: ids(true), replaces: Vec::new() },
        PolicyFile::Replace => Arrival::Enter { policy, supersedes: ids(true), replaces: ids(false) },
        PolicyFile::Reject => match rivals.first() {
            Some(run) => Arrival::Refused(blocker(run, format!("the workflow `{}`", run.graph.name))),
            None => Arrival::Enter { policy, supersedes: Vec::new(), replaces: Vec::new() },
        },
        PolicyFile::Queue => {
            match rivals.iter().filter(|run| matches!(run.state, RunState::Queued)).nth(QUEUE_LIMIT - 1) {
                Some(run) => {
                    Arrival::Refused(blocker(run, format!("the last of {QUEUE_LIMIT} places in line")))
                }
                None => Arrival::Enter { policy, supersedes: Vec::new(), replaces: Vec::new() },
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
