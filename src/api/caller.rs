//! Who calls, and what they may: roles, and the environments and workflows that a token is limited to.
//!
//! Whoever reaches the socket owns the data folder and may do everything; a name that is said there is not proved.

use std::collections::BTreeSet;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use graylane_engine::ledger::Role;
use graylane_engine::scheduler::Actor;

use super::door::unauthenticated;
use super::error::ApiError;
use crate::settings::Settings;

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// Also who has shown no token.
    Anybody,
    /// Every role.
    Viewer,
    /// Operators and admins.
    Operator,
    /// Approvers and admins.
    Approver,
    /// Admins.
    Admin,
    /// The owner of the data folder, over its socket: it means this machine's files.
    Owner,
}

impl Who {
    /// Whether this role may; the owner of the data folder always may.
    pub(crate) fn allows(self, role: Role) -> bool {
        match self {
            Who::Anybody | Who::Viewer => true,
            Who::Operator => matches!(role, Role::Operator | Role::Admin),
            Who::Approver => matches!(role, Role::Approver | Role::Admin),
            Who::Admin => role == Role::Admin,
            Who::Owner => false,
        }
    }

    /// In one word, as the document has it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Who::Anybody => "anybody",
            Who::Viewer => "viewer",
            Who::Operator => "operator",
            Who::Approver => "approver",
            Who::Admin => "admin",
            Who::Owner => "owner",
        }
    }
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The owner of the data folder, over the socket. Any name may be said.
    Owner,
    /// Somebody with a token.
    Token {
        /// Whose name stands in what they do.
        name: String,
        /// What they may do.
        role: Role,
        /// Only where a run names these; empty for all.
        environments: BTreeSet<String>,
        /// Only for these; empty for all.
        workflows: BTreeSet<String>,
    },
    /// Somebody without one, where the settings give such people a role.
    Anonymous(Role),
}

impl Caller {
    /// Whether they reached us over the socket.
    pub(crate) fn is_owner(&self) -> bool {
        *self == Caller::Owner
    }

    /// Whether they may use a route of this kind.
    pub(crate) fn may(&self, who: Who) -> bool {
        match self {
            Caller::Owner => true,
            Caller::Token { role, .. } | Caller::Anonymous(role) => who.allows(*role),
        }
    }

    /// What they may do.
    pub(crate) fn role(&self) -> Role {
        match self {
            Caller::Owner => Role::Admin,
            Caller::Token { role, .. } | Caller::Anonymous(role) => *role,
        }
    }

    /// The name under which what they do is recorded. What is said counts on the socket alone.
    pub(crate) fn name(&self, said: Option<String>) -> String {
        match self {
            Caller::Owner => said.filter(|said| !said.is_empty()).unwrap_or_else(|| "unknown".into()),
            Caller::Token { name, .. } => name.clone(),
            Caller::Anonymous(_) => "anonymous".into(),
        }
    }

    /// The person who answers, with the roles that the settings give to the name.
    pub(crate) fn actor(&self, settings: &Settings, said: Option<String>) -> Actor {
        let name = self.name(said);
        let authenticated = matches!(self, Caller::Token { .. });
        Actor { authenticated, ..settings.actor(name) }
    }

    /// Whether they may see and change this environment.
    pub(crate) fn reach_environment(&self, environment: &str) -> bool {
        match self {
            Caller::Token { environments, .. } => {
                environments.is_empty() || environments.contains(environment)
            }
            Caller::Owner | Caller::Anonymous(_) => true,
        }
    }

    /// Whether they may see this workflow.
    pub(crate) fn reach_workflow(&self, workflow: &str) -> bool {
        match self {
            Caller::Token { workflows, .. } => workflows.is_empty() || workflows.contains(workflow),
            Caller::Owner | Caller::Anonymous(_) => true,
        }
    }

    /// Refuses who is limited to other workflows, or to other environments than all of these.
    ///
    /// # Errors
    /// What they may not.
    pub(crate) fn reach<'n>(
        &self,
        workflow: Option<&str>,
        environments: impl IntoIterator<Item = &'n str>,
    ) -> Result<(), ApiError> {
        let Caller::Token { name, environments: mine, workflows, .. } = self else { return Ok(()) };
        if !workflows.is_empty() && workflow.is_none_or(|workflow| !workflows.contains(workflow)) {
            let list = workflows.iter().cloned().collect::<Vec<_>>().join(", ");
            return Err(ApiError::not_allowed(format!("the token of {name} is for these workflows: {list}")));
        }
        let mut named = environments.into_iter().peekable();
        if !mine.is_empty() && (named.peek().is_none() || named.any(|one| !mine.contains(one))) {
            let list = mine.iter().cloned().collect::<Vec<_>>().join(", ");
            return Err(ApiError::not_allowed(format!(
                "the token of {name} is for these environments: {list}"
            )));
        }
        Ok(())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, ApiError> {
        // The gate puts it there before any handler is reached.
        parts.extensions.get().cloned().ok_or_else(|| unauthenticated("nobody has asked"))
    }
}
