//! The task type `approval`: the run waits until people agree. It writes nothing and decides nothing: who may agree is
//! checked by the scheduler, and what they agree to are the plans of the tasks that it guards.

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::claim::Claim;
use crate::clock::{DURATION_PATTERN, parse_duration};
use crate::document::Finding;
use crate::task::{Ask, Outputs, Plan, Site, Task, TaskContext, TaskError};

/// How long people have where the file does not say it.
const EXPIRES: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// What stands before the name of a role in `from`.
pub const ROLE: &str = "role:";

/// People agree, or do not.
#[derive(Debug, Default)]
pub struct Approval;

#[async_trait]
impl Task for Approval {
    fn type_name(&self) -> &'static str {
        "approval"
    }

    fn summary(&self) -> &'static str {
        "waits until people agree to what the next tasks will do"
    }

    fn schema(&self) -> Value {
        json!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "approvals": {
                    "type": "integer", "minimum": 1, "maximum": 20,
                    "description": "How many must agree; 1 where it is not written.",
                },
                "from": {
                    "type": "array", "items": { "type": "string", "pattern": "\\S", "x-expected": "a name, or `role:NAME`" },
                    "description": "Who may agree: names, and roles as `role:NAME`. Everybody where it is not written.",
                },
                "allow_initiator": {
                    "type": "boolean",
                    "description": "Whether whoever started the run may be one of them; false where it is not written.",
                },
                "message": { "type": "string", "description": "What they are told." },
                "guards": {
                    "type": "array", "items": { "type": "string" },
                    "description": "The tasks whose plans they agree to; those that need this one directly where it is not written.",
                },
                "expires": {
                    "type": "string", "pattern": DURATION_PATTERN,
                    "x-expected": "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`",
                    "description": "How long they have; then it counts as rejected. 24h where it is not written.",
                },
            },
        })
    }

    fn check(&self, spec: &Value, _site: &Site<'_>) -> Vec<Finding> {
        let mut findings = Vec::new();
        let from: Vec<&str> =
            spec["from"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (index, name) in from.iter().enumerate() {
            if from[..index].contains(name) {
                findings.push(Finding::at(format!("/from/{index}"), format!("`{name}` stands here twice")));
            }
            if *name == ROLE {
                findings.push(Finding::at(format!("/from/{index}"), "a role needs a name: `role:NAME`"));
            }
        }
        let open = from.is_empty() || from.iter().any(|name| name.starts_with(ROLE) || name.contains("${{"));
        if let Some(wanted) = spec["approvals"].as_u64()
            && !open
            && wanted > from.len() as u64
        {
            let words = format!("{wanted} must agree, but `from` names only {}", from.len());
            findings.push(Finding::at("/approvals", words));
        }
        findings
    }

    fn claims(&self, _spec: &Value) -> Vec<Claim> {
        Vec::new()
    }

    fn sealed_keys(&self) -> &'static [&'static str] {
        &[]
    }

    fn outputs(&self) -> &'static [&'static str] {
        &["approvers"]
    }

    async fn plan(&self, _cx: &TaskContext) -> Result<Plan, TaskError> {
        Ok(Plan::default())
    }

    async fn run(&self, _cx: &TaskContext, _plan: &Plan) -> Result<Outputs, TaskError> {
        // Only a preview comes here: the scheduler asks people instead.
        Ok(Outputs::default())
    }

    fn ask(&self, spec: &Value) -> Option<Ask> {
        let texts = |key: &str| {
            let items = spec[key].as_array().into_iter().flatten();
            items.filter_map(|item| item.as_str().map(str::to_owned)).collect::<Vec<String>>()
        };
        Some(Ask {
            approvals: spec["approvals"].as_u64().and_then(|many| u32::try_from(many).ok()).unwrap_or(1),
            from: texts("from"),
            allow_initiator: spec["allow_initiator"].as_bool().unwrap_or(false),
            message: spec["message"].as_str().map(str::to_owned),
            guards: texts("guards").iter().filter_map(|name| name.parse().ok()).collect(),
            expires: spec["expires"].as_str().and_then(|text| parse_duration(text).ok()).unwrap_or(EXPIRES),
            protected: None,
        })
    }
}
