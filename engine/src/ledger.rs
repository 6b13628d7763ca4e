//! The ledger: what happened that belongs to no run, as deeds in one hash-chained stream beside the runs' records.
//!
//! ```text
//! Engine::deed -> DeedRecord -> journal (its own keys, and an entry of the audit log) -> Standing::apply -> Standing
//! ```
//! A deed is on disk before anybody is answered, and `Standing` is nothing but the fold of all deeds. A new deed is a
//! variant of `Deed`, and its arm in `words`, `actor`, `refuses` and `apply`. A stored form is never changed, only added
//! to. Nothing here knows a secret: of a token only a hash is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{Digest, Seq, WorkflowUid};

/// One deed, as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeedRecord {
    /// Its place among all deeds, counted from 1.
    pub seq: Seq,
    /// When it was done.
    pub at: Timestamp,
    /// What was done.
    #[serde(flatten)]
    pub deed: Deed,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "deed", rename_all = "kebab-case")]
pub enum Deed {
    /// The workflow's triggers start nothing any more.
    WorkflowPaused {
        /// The workflow.
        workflow: WorkflowUid,
        /// Who did it.
        by: String,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The workflow's triggers start runs again, from now on.
    WorkflowUnpaused {
        /// The workflow.
        workflow: WorkflowUid,
        /// Who did it.
        by: String,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A revision of a workflow was found good, and holds from now on; its bytes are on disk under their digest.
    WorkflowTaken {
        /// The workflow.
        workflow: WorkflowUid,
        /// The file, below its source.
        path: String,
        /// The SHA-256 of the file; where it names others, of the bundle of all, which is what is on disk then.
        revision: Digest,
        /// The commit that it comes from, where it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        commit: Option<String>,
        /// The files that it names beside itself.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        attached: Vec<String>,
    },
    /// No file holds the workflow any more.
    WorkflowGone {
        /// The workflow.
        workflow: WorkflowUid,
        /// How that was seen.
        reason: String,
    },
    /// Nothing is written to the environment any more; a second one changes reason and end.
    EnvironmentFrozen {
        /// The environment.
        environment: String,
        /// Who did it.
        by: String,
        /// Why.
        reason: String,
        /// When it ends by itself; none where it is thawed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
    /// The environment may be written to again.
    EnvironmentThawed {
        /// The environment.
        environment: String,
        /// Who did it.
        by: String,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Somebody may call the API with a token.
    TokenCreated {
        /// What it is called by in lists and when it is revoked.
        id: String,
        /// Who or what holds it: the name that stands in records.
        name: String,
        /// The SHA-256 of the token, which itself is kept nowhere.
        hash: Digest,
        /// What it may do.
        role: Role,
        /// When it ends by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires: Option<Timestamp>,
        /// The only environments that it may act on; empty for all.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        environments: BTreeSet<String>,
        /// The only workflows that it may act on; empty for all.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        workflows: BTreeSet<String>,
        /// Who made it.
        by: String,
    },
    /// A token is of no more use.
    TokenRevoked {
        /// The token.
        id: String,
        /// Who did it.
        by: String,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A lane lives longer than it was meant to.
    LaneRenewed {
        /// The environment.
        environment: String,
        /// The lane.
        tag: String,
        /// When its time is up now.
        until: Timestamp,
        /// Who did it.
        by: String,
    },
    /// Something of an environment's cluster is written outside any run: a label, a selector, a baseline made anew.
    EnvironmentChanged {
        /// The environment.
        environment: String,
        /// What, in words.
        what: String,
        /// Who did it.
        by: String,
    },
    /// Runs were removed, as the operator's settings say. Their entries of the audit log stay.
    RunsRemoved {
        /// Who asked for it; `graylane` where it was due.
        by: String,
        /// Which runs the settings mean, in words.
        rule: String,
        /// How many.
        runs: u64,
        /// When the first of them had ended.
        ended_from: Timestamp,
        /// When the last of them had ended.
        ended_to: Timestamp,
        /// The SHA-256 of their ids and of the hashes of their ends.
        digest: Digest,
    },
    /// The clock had been in the future, and a schedule goes on from the present.
    ScheduleReset {
        /// The workflow.
        workflow: WorkflowUid,
        /// Its schedule.
        schedule: String,
        /// Up to when its slots had been decided.
        decided: Timestamp,
    },
}

/// What the holder of a token may do. Everybody may look, and an admin may do everything; operators and approvers are not
/// each other, so that nobody agrees to what they started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Start, end and answer runs.
    Operator,
    /// Agree to what comes next.
    Approver,
    /// Make and revoke tokens, and all else.
    Admin,
}

impl Role {
    /// All of them, the least first.
    pub const ALL: [Role; 4] = [Role::Viewer, Role::Operator, Role::Approver, Role::Admin];

    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Approver => "approver",
            Role::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        let found = Role::ALL.into_iter().find(|role| role.word() == text);
        found.ok_or_else(|| format!("`{text}` is no role: use viewer, operator, approver or admin"))
    }
}

impl Deed {
    /// The deed's name, as it is stored.
    pub fn name(&self) -> &'static str {
        match self {
            Deed::WorkflowPaused { .. } => "workflow-paused",
            Deed::WorkflowUnpaused { .. } => "workflow-unpaused",
            Deed::WorkflowTaken { .. } => "workflow-taken",
            Deed::WorkflowGone { .. } => "workflow-gone",
            Deed::EnvironmentFrozen { .. } => "environment-frozen",
            Deed::EnvironmentThawed { .. } => "environment-thawed",
            Deed::TokenCreated { .. } => "token-created",
            Deed::TokenRevoked { .. } => "token-revoked",
            Deed::LaneRenewed { .. } => "lane-renewed",
            Deed::EnvironmentChanged { .. } => "environment-changed",
            Deed::RunsRemoved { .. } => "runs-removed",
            Deed::ScheduleReset { .. } => "schedule-reset",
        }
    }

    /// Who did it; `None` where Graylane did by itself.
    pub fn actor(&self) -> Option<&str> {
        match self {
            Deed::WorkflowPaused { by, .. }
            | Deed::WorkflowUnpaused { by, .. }
            | Deed::EnvironmentFrozen { by, .. }
            | Deed::EnvironmentThawed { by, .. }
            | Deed::TokenCreated { by, .. }
            | Deed::TokenRevoked { by, .. }
            | Deed::LaneRenewed { by, .. }
            | Deed::EnvironmentChanged { by, .. }
            | Deed::RunsRemoved { by, .. } => Some(by),
            Deed::WorkflowTaken { .. } | Deed::WorkflowGone { .. } | Deed::ScheduleReset { .. } => None,
        }
    }

    /// The workflow that it concerns, where it is about one.
    pub fn workflow(&self) -> Option<&WorkflowUid> {
        match self {
            Deed::WorkflowPaused { workflow, .. }
            | Deed::WorkflowUnpaused { workflow, .. }
            | Deed::WorkflowTaken { workflow, .. }
            | Deed::WorkflowGone { workflow, .. }
            | Deed::ScheduleReset { workflow, .. } => Some(workflow),
            Deed::EnvironmentFrozen { .. }
            | Deed::EnvironmentThawed { .. }
            | Deed::TokenCreated { .. }
            | Deed::TokenRevoked { .. }
            | Deed::LaneRenewed { .. }
            | Deed::EnvironmentChanged { .. }
            | Deed::RunsRemoved { .. } => None,
        }
    }

    /// The stored bytes that it names: a workflow file, with those that it names.
    pub fn object(&self) -> Option<&Digest> {
        match self {
            Deed::WorkflowTaken { revision, .. } => Some(revision),
            Deed::WorkflowPaused { .. }
            | Deed::WorkflowUnpaused { .. }
            | Deed::WorkflowGone { .. }
            | Deed::EnvironmentFrozen { .. }
            | Deed::EnvironmentThawed { .. }
            | Deed::TokenCreated { .. }
            | Deed::TokenRevoked { .. }
            | Deed::LaneRenewed { .. }
            | Deed::EnvironmentChanged { .. }
            | Deed::RunsRemoved { .. }
            | Deed::ScheduleReset { .. } => None,
        }
    }

    /// What it was, in words.
    pub fn words(&self) -> String {
        let why =
            |reason: &Option<String>| reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        match self {
            Deed::WorkflowPaused { workflow, reason, .. } => format!("paused {workflow}{}", why(reason)),
            Deed::WorkflowUnpaused { workflow, reason, .. } => format!("unpaused {workflow}{}", why(reason)),
            Deed::WorkflowTaken { workflow, path, revision, commit, attached } => {
                let commit = commit.as_ref().map(|commit| format!(" of commit {commit}")).unwrap_or_default();
                let with = match attached.len() {
                    0 => String::new(),
                    1..=3 => format!(", with {}", attached.join(", ")),
                    many => format!(", with {many} files that it names"),
                };
                format!("took revision {} of {workflow} from {path}{commit}{with}", revision.short())
            }
            Deed::WorkflowGone { workflow, reason } => format!("{workflow} is gone: {reason}"),
            Deed::EnvironmentFrozen { environment, reason, until, .. } => {
                let until = until.map(|until| format!(" until {until}")).unwrap_or_default();
                format!("froze {environment}{until}: {reason}")
            }
            Deed::EnvironmentThawed { environment, reason, .. } => {
                format!("thawed {environment}{}", why(reason))
            }
            Deed::TokenCreated { id, name, role, .. } => {
                format!("created token {id} for {name}, {}", role.word())
            }
            Deed::TokenRevoked { id, reason, .. } => format!("revoked token {id}{}", why(reason)),
            Deed::LaneRenewed { environment, tag, until, .. } => {
                format!("renewed lane {tag} of {environment} until {until}")
            }
            Deed::EnvironmentChanged { environment, what, .. } => format!("{environment}: {what}"),
            Deed::RunsRemoved { rule, runs, ended_from, ended_to, .. } => {
                format!("removed {runs} runs ({rule}), which had ended from {ended_from} to {ended_to}")
            }
            Deed::ScheduleReset { workflow, schedule, decided } => format!(
                "the clock had been in the future: schedule {schedule} of {workflow} was decided up to {decided}, and goes on from the present"
            ),
        }
    }
}

/// A workflow whose triggers start nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pause {
    /// Since when.
    pub since: Timestamp,
    /// Who did it.
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The last good revision of a workflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// The file, below its source.
    pub path: String,
    /// The SHA-256 under which the store has it.
    pub revision: Digest,
    /// Whether that is a bundle: the file names others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bundled: bool,
    /// The commit that it comes from, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Since when it holds.
    pub since: Timestamp,
}

/// An environment that is not to be written to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Freeze {
    /// Since when.
    pub since: Timestamp,
    /// Who did it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// A token, without the token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    /// Who or what holds it.
    pub name: String,
    /// The SHA-256 of the token.
    pub hash: Digest,
    /// What it may do.
    pub role: Role,
    /// When it ends by itself.
    pub expires: Option<Timestamp>,
    /// The only environments that it may act on; empty for all.
    pub environments: BTreeSet<String>,
    /// The only workflows that it may act on; empty for all.
    pub workflows: BTreeSet<String>,
    /// When it was made.
    pub created: Timestamp,
    /// Who made it.
    pub by: String,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
}

impl Token {
    /// Whether it counts at this moment.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|expires| now < expires)
    }
}

/// A deed that cannot be done as things stand. In a journal it means a damaged store.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// How things stand: the fold of all deeds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standing {
    /// The last deed.
    pub seq: u64,
    /// The workflows that are paused.
    pub paused: BTreeMap<WorkflowUid, Pause>,
    /// The last pause that is over, from when to when.
    pub was_paused: BTreeMap<WorkflowUid, (Timestamp, Timestamp)>,
    /// The workflows that sources hold, each with its last good revision.
    pub revisions: BTreeMap<WorkflowUid, Revision>,
    frozen: BTreeMap<String, Freeze>,
    /// The tokens, by id; revoked ones too.
    pub tokens: BTreeMap<String, Token>,
}

impl Standing {
    /// How things stand after all these deeds.
    ///
    /// # Errors
    /// A deed that cannot follow on those before it.
    pub fn fold<'d>(deeds: impl IntoIterator<Item = &'d DeedRecord>) -> Result<Standing, Refused> {
        let mut standing = Standing::default();
        for deed in deeds {
            standing.apply(deed)?;
        }
        Ok(standing)
    }

    /// The freeze of an environment at this moment, as far as deeds say it; windows of its file are not known here.
    pub fn frozen(&self, environment: &str, now: Timestamp) -> Option<&Freeze> {
        self.frozen.get(environment).filter(|freeze| freeze.until.is_none_or(|until| now < until))
    }

    /// All environments that are frozen at this moment.
    pub fn freezes(&self, now: Timestamp) -> impl Iterator<Item = (&str, &Freeze)> {
        let holds = move |freeze: &Freeze| freeze.until.is_none_or(|until| now < until);
        self.frozen
            .iter()
            .filter(move |(_, freeze)| holds(freeze))
            .map(|(name, freeze)| (name.as_str(), freeze))
    }

    /// Why a deed cannot be done now; `None` where it can.
    pub fn refuses(&self, deed: &Deed, now: Timestamp) -> Option<Refused> {
        let no = |words: String| Some(Refused(words));
        match deed {
            Deed::WorkflowPaused { workflow, .. } => {
                let pause = self.paused.get(workflow)?;
                no(format!("{workflow} is paused already: by {}, since {}", pause.by, pause.since))
            }
            Deed::WorkflowUnpaused { workflow, .. } if self.paused.contains_key(workflow) => None,
            Deed::WorkflowUnpaused { workflow, .. } => no(format!("{workflow} is not paused")),
            Deed::EnvironmentFrozen { environment, until, .. } => {
                let until = until.filter(|until| *until <= now)?;
                no(format!("the freeze of {environment} would end at {until}, which is past"))
            }
            Deed::EnvironmentThawed { environment, .. } => match self.frozen(environment, now) {
                Some(_) => None,
                None => no(format!("{environment} is not frozen")),
            },
            Deed::TokenCreated { id, name, .. } => {
                if self.tokens.contains_key(id) {
                    return no(format!("there is a token {id} already"));
                }
                let other = self.tokens.iter().find(|(_, token)| token.name == *name && token.is_valid(now));
                other.and_then(|(other, _)| {
                    no(format!(
                        "token {other} is for {name} already: revoke it, or name the new one otherwise"
                    ))
                })
            }
            Deed::TokenRevoked { id, .. } => match self.tokens.get(id) {
                None => no(format!("there is no token {id}")),
                Some(Token { revoked: Some(at), .. }) => no(format!("token {id} was revoked at {at}")),
                Some(_) => None,
            },
            Deed::EnvironmentChanged { environment, .. } => {
                let freeze = self.frozen(environment, now)?;
                no(format!(
                    "{environment} is frozen: by {}, since {}: {}",
                    freeze.by, freeze.since, freeze.reason
                ))
            }
            // A lane that lives longer changes nothing that anybody meets.
            Deed::LaneRenewed { .. } => None,
            Deed::WorkflowGone { workflow, .. } if !self.revisions.contains_key(workflow) => {
                no(format!("{workflow} is not known"))
            }
            Deed::WorkflowTaken { .. }
            | Deed::WorkflowGone { .. }
            | Deed::RunsRemoved { .. }
            | Deed::ScheduleReset { .. } => None,
        }
    }

    /// The only way in which things change.
    ///
    /// # Errors
    /// A deed out of order, or one that means nothing as things stand.
    pub fn apply(&mut self, record: &DeedRecord) -> Result<(), Refused> {
        if record.seq.0 != self.seq + 1 {
            return Err(Refused(format!("deed {} follows on deed {}", record.seq, self.seq)));
        }
        // What was taken once is taken again: clocks go back, and what was refused for the time alone is no damage.
        let at = record.at;
        match &record.deed {
            Deed::WorkflowPaused { workflow, by, reason } => {
                let pause = Pause { since: at, by: by.clone(), reason: reason.clone() };
                self.paused.insert(workflow.clone(), pause);
            }
            Deed::WorkflowUnpaused { workflow, .. } => {
                let pause = self.paused.remove(workflow);
                let pause = pause.ok_or_else(|| Refused(format!("{workflow} is not paused")))?;
                self.was_paused.insert(workflow.clone(), (pause.since, at));
            }
            Deed::EnvironmentFrozen { environment, by, reason, until } => {
                let freeze = Freeze { since: at, by: by.clone(), reason: reason.clone(), until: *until };
                self.frozen.insert(environment.clone(), freeze);
            }
            Deed::EnvironmentThawed { environment, .. } => {
                self.frozen.remove(environment);
            }
            Deed::TokenCreated { id, name, hash, role, expires, environments, workflows, by } => {
                let token = Token {
                    name: name.clone(),
                    hash: hash.clone(),
                    role: *role,
                    expires: *expires,
                    environments: environments.clone(),
                    workflows: workflows.clone(),
                    created: at,
                    by: by.clone(),
                    revoked: None,
                };
                if self.tokens.insert(id.clone(), token).is_some() {
                    return Err(Refused(format!("there are two tokens {id}")));
                }
            }
            Deed::TokenRevoked { id, .. } => {
                let token =
                    self.tokens.get_mut(id).ok_or_else(|| Refused(format!("there is no token {id}")))?;
                token.revoked = Some(at);
            }
            Deed::LaneRenewed { .. } | Deed::EnvironmentChanged { .. } => {}
            Deed::WorkflowTaken { workflow, path, revision, commit, attached } => {
                let (path, revision, commit) = (path.clone(), revision.clone(), commit.clone());
                let bundled = !attached.is_empty();
                let revision = Revision { path, revision, bundled, commit, since: at };
                self.revisions.insert(workflow.clone(), revision);
            }
            Deed::WorkflowGone { workflow, .. } => {
                let known = self.revisions.remove(workflow);
                known.ok_or_else(|| Refused(format!("{workflow} is not known")))?;
            }
            Deed::RunsRemoved { .. } | Deed::ScheduleReset { .. } => {}
        }
        self.seq = record.seq.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid() -> WorkflowUid {
        "team/release".parse().expect("a workflow")
    }

    fn paused() -> Deed {
        Deed::WorkflowPaused { workflow: uid(), by: "ann".into(), reason: Some("holidays".into()) }
    }

    fn unpaused() -> Deed {
        Deed::WorkflowUnpaused { workflow: uid(), by: "bob".into(), reason: None }
    }

    fn frozen(until: Option<u64>) -> Deed {
        Deed::EnvironmentFrozen {
            environment: "production".into(),
            by: "ann".into(),
            reason: "sale".into(),
            until: until.map(Timestamp::from_millis),
        }
    }

    fn token(id: &str, name: &str) -> Deed {
        Deed::TokenCreated {
            id: id.into(),
            name: name.into(),
            hash: Digest::of(b"secret"),
            role: Role::Operator,
            expires: Some(Timestamp::from_millis(5_000)),
            environments: BTreeSet::from(["staging".to_owned()]),
            workflows: BTreeSet::new(),
            by: "ann".into(),
        }
    }

    /// Does what is not refused, a second each; gives the refusals.
    fn story(deeds: Vec<Deed>) -> (Standing, Vec<String>) {
        let mut standing = Standing::default();
        let mut refused = Vec::new();
        for (second, deed) in (1_u64..).zip(deeds) {
            let at = Timestamp::from_millis(second * 1_000);
            if let Some(why) = standing.refuses(&deed, at) {
                refused.push(why.to_string());
                continue;
            }
            let record = DeedRecord { seq: Seq(standing.seq + 1), at, deed };
            standing.apply(&record).expect("what is not refused is taken");
        }
        (standing, refused)
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_a_sentence_and_changes_nothing() {
        let (standing, refused) = story(vec![unpaused(), paused(), paused(), unpaused()]);
        assert_eq!(
            refused,
            [
                "team/release is not paused",
                "team/release is paused already: by ann, since 1970-01-01T00:00:02.000Z"
            ]
        );
        assert!(standing.paused.is_empty());
        let over = (Timestamp::from_millis(2_000), Timestamp::from_millis(4_000));
        assert_eq!(standing.was_paused[&uid()], over);
        let revoked = || Deed::TokenRevoked { id: "t1".into(), by: "ann".into(), reason: None };
        let (standing, refused) = story(vec![
            token("t1", "ci"),
            token("t1", "other"),
            token("t2", "ci"),
            revoked(),
            revoked(),
            token("t2", "ci"),
        ]);
        assert_eq!(refused.len(), 3, "{refused:?}");
        assert!(!standing.tokens["t1"].is_valid(Timestamp::from_millis(1)));
        assert!(standing.tokens["t2"].is_valid(Timestamp::from_millis(4_999)));
        assert!(!standing.tokens["t2"].is_valid(Timestamp::from_millis(5_000)), "it has expired");
    }

    #[test]
    fn the_last_good_revision_of_a_workflow_holds_until_it_is_gone() {
        let taken = |bytes: &[u8], commit: Option<&str>| Deed::WorkflowTaken {
            workflow: uid(),
            path: "release.yaml".into(),
            revision: Digest::of(bytes),
            commit: commit.map(str::to_owned),
            attached: Vec::new(),
        };
        let gone = || Deed::WorkflowGone { workflow: uid(), reason: "deleted".into() };
        let (standing, refused) = story(vec![gone(), taken(b"one", None), taken(b"two", Some("abc"))]);
        assert_eq!(refused, ["team/release is not known"]);
        let held = &standing.revisions[&uid()];
        assert_eq!((&held.revision, held.commit.as_deref()), (&Digest::of(b"two"), Some("abc")));
        assert_eq!(held.since, Timestamp::from_millis(3_000));
        let (standing, _) = story(vec![taken(b"one", None), gone()]);
        assert!(standing.revisions.is_empty());
        let text = serde_json::to_string(&taken(b"one", None)).expect("written");
        assert_eq!(serde_json::from_str::<Deed>(&text).expect("read"), taken(b"one", None));
        let Deed::WorkflowTaken { workflow, path, revision, commit, .. } = taken(b"one", None) else {
            return;
        };
        let attached = vec!["patches/more.yaml".to_owned()];
        let with = Deed::WorkflowTaken { workflow, path, revision, commit, attached };
        assert!(with.words().ends_with(" from release.yaml, with patches/more.yaml"), "{}", with.words());
        let (standing, _) = story(vec![taken(b"one", None), with]);
        assert!(standing.revisions[&uid()].bundled && !text.contains("attached"), "{text}");
    }

    #[test]
    fn a_freeze_ends_by_itself_and_a_second_one_changes_its_end() {
        let thawed =
            || Deed::EnvironmentThawed { environment: "production".into(), by: "ann".into(), reason: None };
        let at = Timestamp::from_millis;
        let (standing, refused) =
            story(vec![thawed(), frozen(Some(9_000)), frozen(Some(10_000)), frozen(Some(1))]);
        assert_eq!(refused.len(), 2, "{refused:?}");
        assert!(standing.frozen("production", at(9_500)).is_some());
        assert!(standing.frozen("production", at(10_000)).is_none());
        assert_eq!(standing.freezes(at(9_999)).count(), 1);
        assert_eq!(standing.freezes(at(10_000)).count(), 0);
        let (standing, _) = story(vec![frozen(None), thawed()]);
        assert!(standing.frozen("production", at(1)).is_none());
    }

    #[test]
    fn deeds_keep_their_stored_form_and_their_order() {
        let record = DeedRecord { seq: Seq(1), at: Timestamp::from_millis(7), deed: paused() };
        let json = r#"{"seq":1,"at":7,"deed":"workflow-paused","workflow":"team/release","by":"ann","reason":"holidays"}"#;
        assert_eq!(serde_json::to_string(&record).expect("written"), json);
        assert_eq!(serde_json::from_str::<DeedRecord>(json).expect("read"), record);
        let text = serde_json::to_string(&token("t1", "ci")).expect("written");
        assert_eq!(serde_json::from_str::<Deed>(&text).expect("read"), token("t1", "ci"));
        for deed in [paused(), unpaused(), frozen(None), token("t", "n")] {
            let text = serde_json::to_value(&deed).expect("written");
            assert_eq!(text["deed"], deed.name());
            assert!(!deed.words().is_empty() && deed.actor().is_some());
        }
        let late = DeedRecord { seq: Seq(3), ..record };
        assert!(Standing::default().apply(&late).is_err());
    }
}
