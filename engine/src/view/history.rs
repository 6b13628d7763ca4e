//! How a run went, out of its records: attempts with their phases, and what people said.
//!
//! The fold keeps how things are; this tells how they became so. Nothing follows from it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::audit::{is_audited, words};
use crate::clock::{Timestamp, rfc3339};
use crate::id::TaskName;
use crate::run::{Event, Record};
use crate::task::TaskError;

/// One try of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AttemptView {
    /// Which one, from 1.
    pub attempt: u32,
    /// When it began.
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub started_at: Timestamp,
    /// When it was over.
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ended_at: Option<Timestamp>,
    /// How it ended, in one word; none while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// Why it did not do what it should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
    /// What it did, step by step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepView>,
}

/// A step of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepView {
    /// When.
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// `phase`, `checkpoint`, `plan` or `resumed`.
    pub kind: String,
    /// In words.
    pub what: String,
}

/// What somebody asked for or said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SaidView {
    /// When.
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// Who.
    pub by: String,
    /// What, in words.
    pub what: String,
    /// Whether they had proved who they are; only consents say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticated: Option<bool>,
}

/// How a run went.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct History {
    pub(super) attempts: BTreeMap<TaskName, Vec<AttemptView>>,
    pub(super) said: Vec<SaidView>,
    /// Whether it was ended without rollback and clean-up.
    pub(super) ended_at_once: bool,
}

impl History {
    pub(super) fn of(records: &[Record]) -> History {
        let mut history = History::default();
        for record in records {
            history.follow(record);
        }
        history
    }

    fn follow(&mut self, record: &Record) {
        let at = record.at;
        if is_audited(&record.event)
            && let (Some(by), what) = words(&record.event)
        {
            let authenticated = match &record.event {
                Event::Approved { consent, .. } | Event::Rejected { consent, .. } => {
                    Some(consent.authenticated)
                }
                _ => None,
            };
            self.said.push(SaidView { at, by: by.to_owned(), what, authenticated });
        }
        match &record.event {
            Event::CancelRequested { now: true, .. } => self.ended_at_once = true,
            Event::AttemptStarted { task, attempt, .. } => {
                let begun = AttemptView {
                    attempt: attempt.0,
                    started_at: at,
                    ended_at: None,
                    ended: None,
                    error: None,
                    steps: Vec::new(),
                };
                self.attempts.entry(task.clone()).or_default().push(begun);
            }
            Event::AttemptResumed { task, .. } => {
                self.step(task, at, "resumed", "entered again after a stop".into());
            }
            Event::PlanMade { task, plan, .. } => self.step(task, at, "plan", plan.to_string()),
            Event::PhaseEntered { task, phase, .. } => self.step(task, at, "phase", phase.clone()),
            Event::CheckpointPassed { task, name, .. } => self.step(task, at, "checkpoint", name.clone()),
            Event::AttemptSucceeded { task, .. } => self.ends(task, at, "succeeded", None),
            Event::AttemptFailed { task, error, .. } => self.ends(task, at, "failed", Some(error)),
            Event::TaskHeld { task, error, .. } => self.ends(task, at, "held", Some(error)),
            Event::TaskCancelled { task, error } => self.ends(task, at, "cancelled", error.as_ref()),
            Event::ApprovalAsked { task, .. } => self.step(task, at, "phase", "people are asked".into()),
            Event::Approved { task, .. } => self.step(task, at, "phase", "somebody agreed".into()),
            Event::Rejected { task, .. } => self.ends(task, at, "rejected", None),
            Event::WaitExpired { task } => self.ends(task, at, "expired", None),
            _ => {}
        }
    }

    fn last(&mut self, task: &TaskName) -> Option<&mut AttemptView> {
        self.attempts.get_mut(task)?.last_mut()
    }

    fn step(&mut self, task: &TaskName, at: Timestamp, kind: &str, what: String) {
        if let Some(last) = self.last(task) {
            last.steps.push(StepView { at, kind: kind.into(), what });
        }
    }

    fn ends(&mut self, task: &TaskName, at: Timestamp, word: &str, error: Option<&TaskError>) {
        if let Some(last) = self.last(task)
            && last.ended.is_none()
        {
            last.ended_at = Some(at);
            last.ended = Some(word.into());
            last.error = error.cloned();
        }
    }
}
