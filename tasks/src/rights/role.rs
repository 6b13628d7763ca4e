//! The Roles of an environment and who gets them, as `kubectl apply` takes them. Nothing here talks to a cluster.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Extra, Rule, namespaces, rules};
use crate::environment::Site;

/// Who gets the rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A ServiceAccount: its namespace and its name.
    ServiceAccount(String, String),
    /// A user, as a client certificate or a provider of identities names it.
    User(String),
    /// A group.
    Group(String),
}

impl Subject {
    fn object(&self) -> Value {
        const GROUP: &str = "rbac.authorization.k8s.io";
        match self {
            Subject::ServiceAccount(namespace, name) => {
                json!({ "kind": "ServiceAccount", "namespace": namespace, "name": name })
            }
            Subject::User(name) => json!({ "kind": "User", "apiGroup": GROUP, "name": name }),
            Subject::Group(name) => json!({ "kind": "Group", "apiGroup": GROUP, "name": name }),
        }
    }
}

fn role_name(site: &Site) -> String {
    format!("graylane-{}", site.environment.name)
}

fn rule_value(rule: &Rule, namespace: &str) -> Value {
    let mut value = json!({ "apiGroups": [rule.group], "resources": [rule.resource], "verbs": rule.verbs });
    if rule.is_of_namespace() {
        // A Role can say it of its own namespace: no ClusterRole is needed.
        value["resourceNames"] = json!([namespace]);
    }
    value
}

/// A Role and a RoleBinding for each namespace of an environment.
pub fn objects(site: &Site, subject: &Subject, extras: &[Extra]) -> Vec<Value> {
    let name = role_name(site);
    let mut made = Vec::new();
    for namespace in namespaces(site) {
        let metadata = json!({ "name": name, "namespace": namespace });
        let rules: Vec<Value> =
            rules(site, &namespace, extras).iter().map(|rule| rule_value(rule, &namespace)).collect();
        made.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": rules,
        }));
        made.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
            "subjects": [subject.object()],
        }));
    }
    made
}

/// The same as YAML, with words on what each rule is for, and on what a thief could do with it.
pub fn yaml(site: &Site, subject: &Subject, extras: &[Extra]) -> String {
    let environment = &site.environment.name;
    let mut text = format!(
        "# What Graylane needs for the environment `{environment}`, made from its own list of calls: nothing else is called.\n\
         #   graylane rbac {environment} | kubectl apply -f -\n\
         # Besides this, only what the cluster allows everybody who is known to it: access reviews and discovery.\n\
         # There is no ClusterRole: nothing outside these namespaces is read or written.\n\
         #\n\
         # Whoever steals the daemon's credentials can do what stands beside each rule, in these namespaces. Together that is\n\
         # as much as owning them: give Graylane its own namespaces, its own credentials, and an audit log of the API server.\n"
    );
    for part in missing_parts(extras) {
        let _ = writeln!(text, "# {part}");
    }
    for object in objects(site, subject, extras) {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        text.push_str("---\n");
        if object["kind"] == "RoleBinding" {
            text.push_str(&crate::manifest::yaml(&object));
            continue;
        }
        let name = role_name(site);
        let _ = write!(
            text,
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{ name: {name}, namespace: {namespace} }}\nrules:\n"
        );
        for rule in rules(site, namespace, extras) {
            let _ = writeln!(text, "  # For: {}.\n  # Stolen: {}.", rule.why, rule.stolen);
            let value = rule_value(&rule, namespace);
            let list = |key: &str| value[key].to_string();
            let _ =
                write!(text, "  - apiGroups: {}\n    resources: {}\n", list("apiGroups"), list("resources"));
            if value.get("resourceNames").is_some() {
                let _ = writeln!(text, "    resourceNames: {}", list("resourceNames"));
            }
            let _ = writeln!(text, "    verbs: {}", list("verbs"));
        }
    }
    text
}

/// What is left out, and how it is asked for.
fn missing_parts(extras: &[Extra]) -> Vec<String> {
    let all = [
        (Extra::Jobs, "jobs", "`job` checks"),
        (Extra::Adopt, "adopt", "`graylane environment adopt`"),
        (Extra::Fix, "fix", "the namespace's label in `graylane environment check --fix`"),
    ];
    let left = all.into_iter().filter(|(extra, _, _)| !extras.contains(extra));
    left.map(|(_, flag, what)| format!("Left out, and added by `--with {flag}`: {what}.")).collect()
}
