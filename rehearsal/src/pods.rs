//! What a pod object says about itself, for controllers and stand-ins alike.

use std::time::Duration;

use serde_json::Value;

use crate::admission::AGENT_CONTAINER;
use crate::object::{int, list};

/// Whether the Ready condition holds.
pub(crate) fn is_ready(pod: &Value) -> bool {
    list(pod, "/status/conditions").iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// Whether every container of the pod runs.
pub(crate) fn is_running(pod: &Value) -> bool {
    let statuses = list(pod, "/status/containerStatuses");
    !statuses.is_empty() && statuses.iter().all(|status| status.pointer("/state/running").is_some())
}

/// Whether the pod was given the agent.
pub(crate) fn carries_agent(pod: &Value) -> bool {
    list(pod, "/spec/initContainers").iter().any(|container| container["name"] == AGENT_CONTAINER)
}

/// How long preStop hooks hold a pod's end back: the longest `sleep`.
pub(crate) fn pre_stop(pod: &Value) -> Duration {
    let seconds = list(pod, "/spec/containers").iter().map(|container| {
        let hook = &container["lifecycle"]["preStop"];
        let said: Vec<&str> = list(hook, "/exec/command").iter().filter_map(Value::as_str).collect();
        let said = said.join(" ");
        let after = said.split("sleep ").nth(1).and_then(|rest| rest.split_whitespace().next());
        let slept = after.and_then(|number| number.trim_end_matches(['s', ';', '\'', '"']).parse().ok());
        int(hook, "/sleep/seconds").or(slept)
    });
    Duration::from_secs(seconds.flatten().max().unwrap_or_default().clamp(0, 3600) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pre_stop_sleep_is_found_in_both_forms() {
        let pod = |hook: Value| json!({"spec": {"containers": [{"lifecycle": {"preStop": hook}}]}});
        let table = [
            (json!({"sleep": {"seconds": 7}}), 7),
            (json!({"exec": {"command": ["sh", "-c", "echo bye; sleep 12; kill 1"]}}), 12),
            (json!({"exec": {"command": ["sleep", "3"]}}), 3),
            (json!({"httpGet": {"path": "/"}}), 0),
        ];
        for (hook, seconds) in table {
            assert_eq!(pre_stop(&pod(hook.clone())).as_secs(), seconds, "{hook}");
        }
    }
}
