//! Runs that follow on a run that is final: undo, retry and rerun, as the first record of the new run.
//!
//! Pure: a run in, an event out. What the old run left (outputs, plans, checkpoints) is copied, so that the new
//! run's records say all there is to know.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{Event, Kept, Origin, Trigger};
use super::state::{Skipped, TaskState};
use super::{ROLLBACK, Run, TaskRun};
use crate::graph::TaskNode;
use crate::id::TaskName;

/// Why a run cannot be followed on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FollowError {
    /// It is not over yet.
    #[error("run {0} is not over yet")]
    Unfinished(crate::id::RunId),
    /// It takes another one back: there is nothing else to it.
    #[error("run {0} is an undo itself; `graylane undo {1}` takes that run back again")]
    IsUndo(crate::id::RunId, crate::id::RunId),
    /// What it did was taken back.
    #[error(
        "run {0} was taken back by run {1}: nothing of it can be kept; `graylane rerun {0}` does all of it anew"
    )]
    Undone(crate::id::RunId, crate::id::RunId),
    /// It was taken back already.
    #[error("run {0} was taken back by run {1} already; `--force` does it once more")]
    TakenBack(crate::id::RunId, crate::id::RunId),
    /// Everything succeeded.
    #[error("every task of run {0} is done; name one with --from, or use `graylane rerun {0}`")]
    NothingToRetry(crate::id::RunId),
    /// Nothing was begun.
    #[error("run {0} has changed nothing: no task of it had begun to write")]
    NothingToUndo(crate::id::RunId),
    /// A task that the workflow does not have.
    #[error("the workflow has no task `{0}`")]
    NoTask(TaskName),
}

impl Run {
    fn follow(
        &self,
        trigger: Trigger,
        actor: String,
        origin: Origin,
        kept: BTreeMap<TaskName, Kept>,
    ) -> Event {
        Event::RunSubmitted {
            workflow: self.graph.name.clone(),
            revision: self.graph.revision.clone(),
            bundle: self.submitted.bundle.clone(),
            inputs: self.submitted.inputs.clone(),
            vars: self.submitted.vars.clone(),
            secrets: self.submitted.secrets.clone(),
            trigger,
            actor,
            left_out: self.submitted.left_out.clone(),
            environments: self.submitted.environments.clone(),
            tags: self.submitted.tags.clone(),
            origin: Some(origin),
            kept,
            source: self.submitted.source.clone().map(Box::new),
            key: None,
        }
    }

    /// The first record of the run that takes this one back. It covers what had begun, and is asked for in the moment
    /// in which this run ends, or later.
    ///
    /// # Errors
    /// Why there is nothing to take back.
    pub fn undo(&self, trigger: Trigger, actor: String, force: bool) -> Result<Event, FollowError> {
        if let Some(Origin::Undo { of, .. }) = self.submitted.origin {
            return Err(FollowError::IsUndo(self.id, of));
        }
        let begun: BTreeSet<&TaskName> = self.to_take_back().into_iter().collect();
        if begun.is_empty() {
            return Err(FollowError::NothingToUndo(self.id));
        }
        let mut kept = self.submitted.kept.clone();
        for (node, task) in self.tasks() {
            let outputs = task.outputs().cloned().unwrap_or_default();
            let known = kept.entry(node.name.clone()).or_default();
            // The outputs of tasks that this run had left out itself stay known.
            if task.outputs().is_some() {
                known.outputs = outputs;
            }
            known.done = false;
            known.plan.clone_from(&task.plan);
            known.checkpoints.clone_from(&task.checkpoints);
        }
        let mut event = self.follow(trigger, actor, Origin::Undo { of: self.id, force }, kept);
        if let Event::RunSubmitted { left_out, .. } = &mut event {
            *left_out = self
                .tasks()
                .filter(|(node, _)| !begun.contains(&node.name))
                .map(|(node, _)| node.name.clone())
                .collect();
        }
        Ok(event)
    }

    /// The first record of a run that does what this one did not get done, or `from` and all that comes after it.
    ///
    /// Kept is a task that succeeded after nothing but kept tasks. A task that had begun goes on with its plan, unless it
    /// was rolled back: what production was before stays known over retries.
    ///
    /// # Errors
    /// Why nothing of it can be done again.
    pub fn retry(&self, actor: String, from: Option<&TaskName>) -> Result<Event, FollowError> {
        if !self.state.is_final() {
            return Err(FollowError::Unfinished(self.id));
        }
        if let Some(Origin::Undo { of, .. }) = self.submitted.origin {
            return Err(FollowError::IsUndo(self.id, of));
        }
        if let Some(by) = self.undone_by {
            return Err(FollowError::Undone(self.id, by));
        }
        let mut again: BTreeSet<&TaskName> = BTreeSet::new();
        if let Some(from) = from {
            let node = self.graph.task(from).ok_or_else(|| FollowError::NoTask(from.clone()))?;
            again.insert(&node.name);
            again.extend(self.graph.descendants(from).into_iter().map(|node| &node.name));
        }
        let mut kept: BTreeMap<TaskName, Kept> = BTreeMap::new();
        for (node, task) in self.tasks() {
            let left_out = matches!(task.state, TaskState::Skipped(Skipped::NotSelected));
            if left_out {
                kept.extend(self.submitted.kept.get(&node.name).map(|old| (node.name.clone(), old.clone())));
                continue;
            }
            let after_kept = node.needs.iter().all(|need| !again.contains(need));
            let done = task.outputs().is_some() && after_kept && !again.contains(&node.name);
            let agreed = !node.is_approval()
                || self.guarded_by(node).iter().all(|guarded| {
                    self.task(guarded).is_some_and(|task| task.plan.is_none() || goes_on(task))
                });
            if done && agreed {
                let outputs = task.outputs().cloned().unwrap_or_default();
                let (plan, checkpoints) = (task.plan.clone(), task.checkpoints.clone());
                kept.insert(node.name.clone(), Kept { done: true, outputs, plan, checkpoints });
                continue;
            }
            // A `when` that did not hold is asked again, and changes nothing for those after it.
            if !matches!(task.state, TaskState::Skipped(Skipped::When)) || again.contains(&node.name) {
                again.insert(&node.name);
            }
            let agreed_to = node.needs.iter().any(|need| {
                let approval = self.graph.task(need).is_some_and(TaskNode::is_approval);
                approval && kept.get(need).is_some_and(|kept| kept.done)
            });
            // What comes after something that is done anew is planned anew.
            if after_kept && goes_on(task) && (task.started.is_some() || agreed_to) {
                let (plan, checkpoints) = (task.plan.clone(), task.checkpoints.clone());
                let carried = Kept { done: false, plan, checkpoints, ..Kept::default() };
                kept.insert(node.name.clone(), carried);
            }
        }
        if again.is_empty() {
            return Err(FollowError::NothingToRetry(self.id));
        }
        Ok(self.follow(Trigger::Manual, actor, Origin::Retry { of: self.id }, kept))
    }

    /// The first record of a run that does all of it once more.
    ///
    /// # Errors
    /// A run that takes another one back.
    pub fn rerun(&self, actor: String) -> Result<Event, FollowError> {
        if let Some(Origin::Undo { of, .. }) = self.submitted.origin {
            return Err(FollowError::IsUndo(self.id, of));
        }
        let mut kept = self.submitted.kept.clone();
        kept.retain(|name, _| self.submitted.left_out.contains(name));
        Ok(self.follow(Trigger::Manual, actor, Origin::Rerun { of: self.id }, kept))
    }

    /// The tasks whose plans an approval guards: those that it names, else those that need it directly.
    pub fn guarded_by(&self, approval: &TaskNode) -> Vec<TaskName> {
        let named = approval.kind.ask(&approval.with).map(|ask| ask.guards).unwrap_or_default();
        if named.is_empty() {
            self.graph.dependents(&approval.name).map(|node| node.name.clone()).collect()
        } else {
            named
        }
    }
}

/// Whether what a task had planned is still to be carried out: a plan that was rolled back is over.
fn goes_on(task: &TaskRun) -> bool {
    task.plan.is_some() && !task.checkpoints.contains(ROLLBACK)
}
