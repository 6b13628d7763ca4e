//! What a copy leaves behind: what the server wrote, what belongs to whoever deployed the baseline, and what only one Service can have.

use serde_json::Value;

use super::references::each;
use crate::manifest::{clean, map_at};

/// Prefixes of labels and annotations by which other tools own objects, or act on them: a second certificate or DNS record, a sync, a prune.
const MARKS: [&str; 16] = [
    "argocd.argoproj.io/",
    "meta.helm.sh/",
    "helm.sh/",
    "kustomize.toolkit.fluxcd.io/",
    "helm.toolkit.fluxcd.io/",
    "fluxcd.io/",
    "kapp.k14s.io/",
    "objectset.rio.cattle.io/",
    "config.kubernetes.io/",
    "internal.config.kubernetes.io/",
    "cert-manager.io/",
    "acme.cert-manager.io/",
    "external-dns.alpha.kubernetes.io/",
    "external-dns.kubernetes.io/",
    "kubectl.kubernetes.io/",
    "deployment.kubernetes.io/",
];

const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Argo CD's default label of what it owns. Where a selector asks for it, it stays there, and goes from the metadata.
const INSTANCE: &str = "app.kubernetes.io/instance";

/// A baseline object without what belongs to the server, or to whoever deployed it.
pub(super) fn strip(object: &Value) -> Value {
    let mut gray = clean(object);
    let metadata = map_at(&mut gray, &["metadata"]);
    metadata.remove("ownerReferences");
    metadata.remove("finalizers");
    for key in ["labels", "annotations"] {
        if let Some(Value::Object(map)) = metadata.get_mut(key) {
            map.retain(|key, _| !MARKS.iter().any(|mark| key.starts_with(mark)) && key != INSTANCE);
            if let Some(manager) = map.get_mut(MANAGED_BY) {
                *manager = "graylane".into();
            }
            if map.is_empty() {
                metadata.remove(key);
            }
        }
    }
    if let Some(Value::Object(annotations)) = gray.pointer_mut("/spec/template/metadata/annotations") {
        annotations.retain(|key, _| !key.starts_with("kubectl.kubernetes.io/"));
    }
    without_nulls(&mut gray);
    gray
}

/// `strategy:` with nothing behind it means the default; the API server takes no null from an apply.
pub(super) fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Fields that would clash with the baseline's Service, or cost another load balancer.
const SERVICE_FIELDS: [&str; 12] = [
    "clusterIPs",
    "healthCheckNodePort",
    "loadBalancerIP",
    "loadBalancerClass",
    "loadBalancerSourceRanges",
    "externalIPs",
    "externalTrafficPolicy",
    "ipFamily",
    "ipFamilies",
    "ipFamilyPolicy",
    "allocateLoadBalancerNodePorts",
    "internalTrafficPolicy",
];

/// Annotations by which cloud providers and load balancers find what they provide.
const LOAD_BALANCERS: [&str; 12] = [
    "service.beta.kubernetes.io/",
    "service.alpha.kubernetes.io/",
    "service.kubernetes.io/",
    "service.cloud.tencent.com/",
    "kubernetes.io/elb",
    "cloud.google.com/",
    "networking.gke.io/",
    "metallb.universe.tf/",
    "metallb.io/",
    "io.cilium/",
    "oci.oraclecloud.com/",
    "load-balancer.hetzner.cloud/",
];

/// A Service inside the cluster, whatever the baseline's is: no node ports, no addresses, no load balancer.
pub(super) fn service(gray: &mut Value) {
    if let Some(Value::Object(annotations)) = gray.pointer_mut("/metadata/annotations") {
        annotations.retain(|key, _| !LOAD_BALANCERS.iter().any(|mark| key.starts_with(mark)));
    }
    let spec = map_at(gray, &["spec"]);
    spec.retain(|key, _| !SERVICE_FIELDS.contains(&key.as_str()));
    if spec.get("clusterIP").and_then(Value::as_str) != Some("None") {
        spec.remove("clusterIP");
    }
    if matches!(spec.get("type").and_then(Value::as_str), Some("LoadBalancer" | "NodePort")) {
        spec.insert("type".into(), "ClusterIP".into());
    }
    if let Some(Value::Array(ports)) = spec.get_mut("ports") {
        for port in ports.iter_mut().filter_map(Value::as_object_mut) {
            port.remove("nodePort");
            // Server-side apply merges ports by number and protocol: without it older servers refuse.
            port.entry("protocol").or_insert_with(|| "TCP".into());
        }
    }
}

/// Ports of the node, which only one pod of a node can have; gives those that were left out.
pub(super) fn host_ports(gray: &mut Value) -> Vec<i64> {
    let mut dropped = Vec::new();
    let Some(spec) = gray.pointer_mut("/spec/template/spec") else { return dropped };
    if spec["hostNetwork"] == true {
        // There every port is the node's; it is refused as a whole.
        return dropped;
    }
    for list in ["containers", "initContainers"] {
        for container in each(spec, list) {
            for port in each(container, "ports").filter_map(Value::as_object_mut) {
                dropped.extend(port.remove("hostPort").and_then(|port| port.as_i64()));
            }
        }
    }
    dropped
}

/// Rules of the scheduler that count pods by labels that both versions carry: the copy's count the lane only.
pub(super) fn spreads(gray: &mut Value, version: (&str, &str)) {
    let labels: std::collections::BTreeMap<String, String> =
        crate::manifest::texts(gray, "/spec/template/metadata/labels");
    let Some(spec) = gray.pointer_mut("/spec/template/spec") else { return };
    let own = |selector: Option<&mut Value>| {
        if let Some(selector) = selector.filter(|selector| super::selector::matches(selector, &labels)) {
            map_at(selector, &["matchLabels"]).insert(version.0.into(), version.1.into());
        }
    };
    for constraint in each(spec, "topologySpreadConstraints") {
        own(constraint.get_mut("labelSelector"));
    }
    if let Some(anti) = spec.pointer_mut("/affinity/podAntiAffinity") {
        for term in each(anti, "requiredDuringSchedulingIgnoredDuringExecution") {
            own(term.get_mut("labelSelector"));
        }
        for term in each(anti, "preferredDuringSchedulingIgnoredDuringExecution") {
            own(term.pointer_mut("/podAffinityTerm/labelSelector"));
        }
    }
}
