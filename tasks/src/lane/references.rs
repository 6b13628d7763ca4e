//! Names inside objects that mean other objects: which places there are, and following them to the copies.
//!
//! What is not renamed with its service keeps its name. Nothing here knows labels or gateways.

use std::collections::BTreeSet;

use serde_json::Value;

use super::gray_name;
use crate::manifest::{kind, name};

/// The objects that are renamed together, by kind and name.
pub(super) type Names = BTreeSet<(String, String)>;

/// The names of these objects.
pub(super) fn names<'o>(objects: impl IntoIterator<Item = &'o Value>) -> Names {
    objects.into_iter().map(|object| (kind(object).to_owned(), name(object).to_owned())).collect()
}

/// Follows every reference of an object, or of a part of one that has its shape, to what is renamed.
pub(super) fn follow(of: &str, object: &mut Value, tag: &str, names: &Names) {
    let follow = |kind: &str, value: &mut Value| {
        if let Some(old) = value.as_str()
            && names.contains(&(kind.to_owned(), old.to_owned()))
        {
            *value = gray_name(old, tag).into();
        }
    };
    match of {
        "Deployment" => {
            if let Some(spec) = object.pointer_mut("/spec/template/spec") {
                pod(spec, &follow);
            }
        }
        "Ingress" => {
            let Some(spec) = object.get_mut("spec") else { return };
            if let Some(backend) = spec.pointer_mut("/defaultBackend/service/name") {
                follow("Service", backend);
            }
            // A certificate is the host's, not the version's: `tls` stays shared.
            for path in each(spec, "rules").flat_map(|rule| each_at(rule, "/http/paths")) {
                if let Some(backend) = path.pointer_mut("/backend/service/name") {
                    follow("Service", backend);
                }
            }
        }
        "HTTPRoute" => {
            let Some(spec) = object.get_mut("spec") else { return };
            for rule in each(spec, "rules") {
                for backend in each(rule, "backendRefs") {
                    http_backend(backend, &follow);
                }
                for filter in each(rule, "filters") {
                    if let Some(backend) = filter.pointer_mut("/requestMirror/backendRef") {
                        http_backend(backend, &follow);
                    }
                }
            }
        }
        _ => {}
    }
}

/// A backend of an HTTPRoute is a Service of the same namespace, unless it says otherwise.
fn http_backend(backend: &mut Value, follow: &impl Fn(&str, &mut Value)) {
    let plain = backend["kind"].as_str().is_none_or(|kind| kind == "Service")
        && backend["group"].as_str().is_none_or(str::is_empty)
        && backend.get("namespace").is_none();
    if plain && let Some(name) = backend.get_mut("name") {
        follow("Service", name);
    }
}

/// The items of a list in a map.
pub(super) fn each<'v>(value: &'v mut Value, key: &str) -> impl Iterator<Item = &'v mut Value> {
    value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The items of a list at a pointer.
pub(super) fn each_at<'v>(value: &'v mut Value, pointer: &str) -> impl Iterator<Item = &'v mut Value> {
    value.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Every place in a pod spec that names a ConfigMap or a Secret (Kubernetes API reference, PodSpec v1).
fn pod(spec: &mut Value, follow: &impl Fn(&str, &mut Value)) {
    let at = |value: &mut Value, pointer: &str, kind: &str| {
        if let Some(found) = value.pointer_mut(pointer) {
            follow(kind, found);
        }
    };
    for secret in each(spec, "imagePullSecrets") {
        at(secret, "/name", "Secret");
    }
    for volume in each(spec, "volumes") {
        at(volume, "/configMap/name", "ConfigMap");
        at(volume, "/secret/secretName", "Secret");
        at(volume, "/azureFile/secretName", "Secret");
        at(volume, "/csi/nodePublishSecretRef/name", "Secret");
        for driver in ["cephfs", "rbd", "iscsi", "flexVolume", "scaleIO", "storageos", "cinder"] {
            at(volume, &format!("/{driver}/secretRef/name"), "Secret");
        }
        for source in each_at(volume, "/projected/sources") {
            at(source, "/configMap/name", "ConfigMap");
            at(source, "/secret/name", "Secret");
        }
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in each(spec, list) {
            for source in each(container, "envFrom") {
                at(source, "/configMapRef/name", "ConfigMap");
                at(source, "/secretRef/name", "Secret");
            }
            for variable in each(container, "env") {
                at(variable, "/valueFrom/configMapKeyRef/name", "ConfigMap");
                at(variable, "/valueFrom/secretKeyRef/name", "Secret");
            }
        }
    }
}
