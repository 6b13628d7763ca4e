//! The leak test: no Service may select pods of another version than its own.
//!
//! Works on Services as they will be and on pod templates; it asks no cluster.

use std::collections::BTreeMap;

use serde_json::Value;

use super::labels::{GRAY_TYPE, TYPE, VERSION};
use crate::manifest::{kind, name, namespace, selects, texts};

/// Pods that will exist: a Deployment's template.
#[derive(Debug, Clone)]
pub struct Pods {
    /// The Deployment.
    pub deployment: String,
    /// Its namespace, where that is not the environment's.
    pub namespace: Option<String>,
    /// The labels of its pods.
    pub labels: BTreeMap<String, String>,
}

impl Pods {
    /// The pods of a Deployment.
    pub fn of(deployment: &Value) -> Pods {
        Pods {
            deployment: name(deployment).to_owned(),
            namespace: namespace(deployment).map(str::to_owned),
            labels: texts(deployment, "/spec/template/metadata/labels"),
        }
    }

    /// The lane whose pods these are; none for the baseline's.
    fn lane(&self) -> Option<&str> {
        let gray = self.labels.get(TYPE).is_some_and(|kind| kind == GRAY_TYPE);
        if gray { self.labels.get(VERSION).map(String::as_str) } else { None }
    }
}

/// A Service that would send requests to the wrong version.
#[derive(Debug, Clone, PartialEq)]
pub struct Leak {
    /// The Service.
    pub service: String,
    /// The Deployment whose pods it would select.
    pub deployment: String,
    /// What to do.
    pub hint: String,
}

impl std::fmt::Display for Leak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Service {} would send its requests to the pods of Deployment {}",
            self.service, self.deployment
        )
    }
}

/// Every leak between Services as they will be and pods as they will be.
///
/// A Service belongs to the lane that its labels name, else to the baseline; pods likewise.
pub fn leaks<'o>(services: impl IntoIterator<Item = &'o Value>, pods: &[Pods]) -> Vec<Leak> {
    let mut found = Vec::new();
    for service in services.into_iter().filter(|object| kind(object) == "Service") {
        let selector = texts(service, "/spec/selector");
        let labels = texts(service, "/metadata/labels");
        let gray = labels.get(TYPE).is_some_and(|kind| kind == GRAY_TYPE);
        let lane = if gray { labels.get(VERSION).map(String::as_str) } else { None };
        // A Service selects pods of its own namespace alone.
        let here = |pods: &&Pods| pods.namespace.as_deref() == namespace(service);
        let pods = pods.iter().filter(here);
        for pods in pods.filter(|pods| pods.lane() != lane && selects(&selector, &pods.labels)) {
            let wanted = lane.unwrap_or(super::labels::ORIGINAL);
            let service = name(service);
            let hint = match selector.get(VERSION) {
                // Somebody wired it to the lane by hand: it never selected the baseline.
                Some(asked) => format!(
                    "Service {service} asks for `{VERSION}: {asked}` itself: remove it, the lane has Services of its own"
                ),
                None => format!(
                    "add `{VERSION}: {wanted}` to the selector of Service {service}, once the baseline's pods carry the label"
                ),
            };
            found.push(Leak { service: service.to_owned(), deployment: pods.deployment.clone(), hint });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(selector: &Value, lane: Option<&str>) -> Value {
        let labels = lane.map_or(json!({}), |tag| json!({ TYPE: GRAY_TYPE, VERSION: tag }));
        json!({ "kind": "Service", "metadata": { "name": "s", "labels": labels }, "spec": { "selector": selector } })
    }

    #[test]
    fn a_leak_is_a_selector_that_meets_pods_of_another_version() {
        let gray = Pods {
            deployment: "a-mse-gray".into(),
            namespace: None,
            labels: [("app", "a"), (VERSION, "gray"), (TYPE, GRAY_TYPE)]
                .map(|(k, v)| (k.into(), v.into()))
                .into(),
        };
        let base = Pods {
            deployment: "a".into(),
            namespace: None,
            labels: [("app", "a"), (VERSION, "original")].map(|(k, v)| (k.into(), v.into())).into(),
        };
        let pods = [gray, base];
        for (selector, lane, expected) in [
            (json!({ "app": "a" }), None, vec!["a-mse-gray"]),
            (json!({ "app": "a", VERSION: "original" }), None, vec![]),
            (json!({ "app": "b" }), None, vec![]),
            (json!({}), None, vec![]),
            (json!({ "app": "a", VERSION: "gray" }), Some("gray"), vec![]),
            (json!({ "app": "a" }), Some("gray"), vec!["a"]),
            (json!({ "app": "a" }), Some("blue"), vec!["a-mse-gray", "a"]),
            (json!({ VERSION: "gray" }), None, vec!["a-mse-gray"]),
        ] {
            let found = leaks([&service(&selector, lane)], &pods);
            let found: Vec<&str> = found.iter().map(|leak| leak.deployment.as_str()).collect();
            assert_eq!(found, expected, "{selector} of {lane:?}");
        }
    }
}
