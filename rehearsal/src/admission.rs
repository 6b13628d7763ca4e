//! What happens to a Pod between a client's create and the store: its account, and the agent's mutating webhook.
//!
//! Only Pods are touched, as with the real webhook: a Deployment never shows the agent.

use serde_json::{Value, json};

use crate::kinds;
use crate::object;
use crate::pods;
use crate::store::State;

/// The init container by which everyone recognises an enrolled pod.
pub const AGENT_CONTAINER: &str = "one-pilot-initcontainer";
/// The agent's own image; every node of an enrolled cluster has it long before a release.
pub(crate) const AGENT_IMAGE: &str = "registry.cn-hangzhou.aliyuncs.com/acs/ack-onepilot-init:5.2.1";
const AGENT_OPTION: &str = "-javaagent:/home/admin/.opt/AliyunJavaAgent/aliyun-java-agent.jar";

/// Gives a pod its account, the account's token, and the rest of what every pod gets.
pub(crate) fn assign_account(pod: &mut Value, suffix: &str) {
    let spec = &mut pod["spec"];
    object::set_default(spec, &["serviceAccountName"], "default");
    let account = spec["serviceAccountName"].clone();
    object::set_default(spec, &["serviceAccount"], account);
    object::set_default(spec, &["enableServiceLinks"], true);
    object::set_default(spec, &["preemptionPolicy"], "PreemptLowerPriority");
    object::set_default(spec, &["priority"], 0);
    let soon = |key: &str| {
        let key = format!("node.kubernetes.io/{key}");
        json!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 })
    };
    object::set_default(spec, &["tolerations"], json!([soon("not-ready"), soon("unreachable")]));
    if spec["automountServiceAccountToken"] == false {
        return;
    }
    let name = format!("kube-api-access-{suffix}");
    let sources = json!([
        { "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } },
        { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
        { "downwardAPI": { "items": [{ "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } }] } },
    ]);
    push(spec, "volumes", json!({ "name": name, "projected": { "sources": sources, "defaultMode": 420 } }));
    for group in ["initContainers", "containers"] {
        for container in spec.get_mut(group).and_then(Value::as_array_mut).into_iter().flatten() {
            let path = "/var/run/secrets/kubernetes.io/serviceaccount";
            push(container, "volumeMounts", json!({ "name": name, "readOnly": true, "mountPath": path }));
        }
    }
}

/// Adds the agent to a pod whose namespace or labels ask for it.
pub(crate) fn inject_agent(state: &State, pod: &mut Value) {
    let namespace = state.find(kinds::NAMESPACES, "", object::namespace(pod));
    let enrolled = namespace.and_then(|namespace| object::label(namespace, "mse-enable")) == Some("enabled");
    give_agent(pod, enrolled);
}

/// What the agent's webhook makes of a new pod, in a namespace that is enrolled or not: also for a webhook that stands
/// before another API server.
pub fn give_agent(pod: &mut Value, namespace_enrolled: bool) {
    if !is_enrolled(pod, namespace_enrolled) || pods::carries_agent(pod) {
        return;
    }
    let agent = json!({
        "name": AGENT_CONTAINER,
        "image": AGENT_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "resources": {"limits": {"cpu": "200m", "memory": "250Mi"}},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": [{"name": "mse-agent", "mountPath": "/home/admin/.opt"}],
    });
    push_front(&mut pod["spec"], "initContainers", agent);
    push_front(&mut pod["spec"], "volumes", json!({"name": "mse-agent", "emptyDir": {}}));
    let containers = pod["spec"].get_mut("containers").and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten().filter(|container| container.is_object()) {
        add_java_option(container);
        push_front(container, "volumeMounts", json!({"name": "mse-agent", "mountPath": "/home/admin/.opt"}));
    }
}

fn is_enrolled(pod: &Value, namespace_enrolled: bool) -> bool {
    match object::label(pod, "msePilotAutoEnable") {
        Some("off") => false,
        Some("on") => true,
        _ => namespace_enrolled,
    }
}

fn add_java_option(container: &mut Value) {
    let env = container.as_object_mut().map(|map| map.entry("env").or_insert_with(|| json!([])));
    let Some(Value::Array(env)) = env else { return };
    match env.iter_mut().find(|variable| variable["name"] == "JAVA_TOOL_OPTIONS") {
        Some(variable) => {
            let said = object::text(variable, "/value").to_owned();
            variable["value"] = format!("{said} {AGENT_OPTION}").trim().into();
        }
        None => env.push(json!({"name": "JAVA_TOOL_OPTIONS", "value": AGENT_OPTION})),
    }
}

fn push(value: &mut Value, field: &str, item: Value) {
    let Some(map) = value.as_object_mut() else { return };
    if let Value::Array(items) = map.entry(field).or_insert_with(|| json!([])) {
        items.push(item);
    }
}

fn push_front(value: &mut Value, field: &str, item: Value) {
    let Some(map) = value.as_object_mut() else { return };
    let list = map.entry(field).or_insert_with(|| json!([]));
    if let Value::Array(items) = list {
        items.insert(0, item);
    }
}
