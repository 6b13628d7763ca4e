//! The defaults that an API server writes into objects, as far as a reader of them can tell.

use base64::Engine as _;
use serde_json::{Map, Value, json};

use crate::kinds::{self, Kind};
use crate::object::{self, set_default};

/// Fills in what a client left out.
pub(crate) fn apply(kind: &Kind, object: &mut Value) {
    match kind.resource {
        kinds::PODS => pod_spec(&mut object["spec"]),
        kinds::DEPLOYMENTS => deployment(object),
        kinds::REPLICA_SETS | kinds::STATEFUL_SETS => {
            set_default(object, &["spec", "replicas"], 1);
            template(object);
        }
        "daemonsets.apps" => template(object),
        kinds::JOBS => job(object),
        kinds::SERVICES => service(object),
        kinds::AUTOSCALERS => autoscaler(object),
        kinds::SECRETS => secret(object),
        kinds::NAMESPACES => {
            let name = object::name(object).to_owned();
            object::set(object, &["metadata", "labels", "kubernetes.io/metadata.name"], name);
            set_default(object, &["spec", "finalizers"], json!(["kubernetes"]));
            set_default(object, &["status", "phase"], "Active");
        }
        _ => {}
    }
}

/// What a Pod asks for where it only says its limits; a template is left as it is.
pub(crate) fn requests(pod: &mut Value) {
    for group in ["initContainers", "containers"] {
        for container in pod["spec"].get_mut(group).and_then(Value::as_array_mut).into_iter().flatten() {
            let limits = object::map(container, "/resources/limits").cloned().unwrap_or_default();
            for (name, limit) in limits {
                set_default(container, &["resources", "requests", &name], limit);
            }
        }
    }
}

fn template(object: &mut Value) {
    if let Some(spec) = object.pointer_mut("/spec/template/spec") {
        pod_spec(spec);
    }
}

fn deployment(object: &mut Value) {
    set_default(object, &["spec", "replicas"], 1);
    set_default(object, &["spec", "revisionHistoryLimit"], 10);
    set_default(object, &["spec", "progressDeadlineSeconds"], 600);
    set_default(object, &["spec", "strategy", "type"], "RollingUpdate");
    if object["spec"]["strategy"]["type"] == "RollingUpdate" {
        set_default(object, &["spec", "strategy", "rollingUpdate", "maxUnavailable"], "25%");
        set_default(object, &["spec", "strategy", "rollingUpdate", "maxSurge"], "25%");
    }
    template(object);
}

fn autoscaler(object: &mut Value) {
    set_default(object, &["spec", "minReplicas"], 1);
    if object::list(object, "/spec/metrics").is_empty() {
        let target = json!({ "type": "Utilization", "averageUtilization": 80 });
        let cpu = json!([{ "type": "Resource", "resource": { "name": "cpu", "target": target } }]);
        object::set(object, &["spec", "metrics"], cpu);
    }
}

fn job(object: &mut Value) {
    set_default(object, &["spec", "backoffLimit"], 6);
    set_default(object, &["spec", "completions"], 1);
    set_default(object, &["spec", "parallelism"], 1);
    set_default(object, &["spec", "completionMode"], "NonIndexed");
    set_default(object, &["spec", "suspend"], false);
    let (uid, name) = (object::uid(object).to_owned(), object::name(object).to_owned());
    if !uid.is_empty() && object["spec"]["manualSelector"] != true {
        set_default(
            object,
            &["spec", "selector", "matchLabels", "batch.kubernetes.io/controller-uid"],
            uid.clone(),
        );
        for (key, value) in [
            ("batch.kubernetes.io/controller-uid", &uid),
            ("batch.kubernetes.io/job-name", &name),
            ("controller-uid", &uid),
            ("job-name", &name),
        ] {
            set_default(object, &["spec", "template", "metadata", "labels", key], value.clone());
        }
    }
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if labels.is_object() {
        set_default(object, &["metadata", "labels"], labels);
    }
    template(object);
}

fn pod_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    set_default(spec, &["restartPolicy"], "Always");
    set_default(spec, &["terminationGracePeriodSeconds"], 30);
    set_default(spec, &["dnsPolicy"], "ClusterFirst");
    set_default(spec, &["schedulerName"], "default-scheduler");
    set_default(spec, &["securityContext"], json!({}));
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        set_default(spec, &["serviceAccount"], account);
    }
    for group in ["containers", "initContainers"] {
        if let Some(containers) = spec.get_mut(group).and_then(Value::as_array_mut) {
            containers.iter_mut().for_each(container);
        }
    }
    if let Some(volumes) = spec.get_mut("volumes").and_then(Value::as_array_mut) {
        volumes.iter_mut().for_each(volume);
    }
}

fn container(container: &mut Value) {
    if !container.is_object() {
        return;
    }
    let image = object::text(container, "/image").to_owned();
    let last = image.rsplit('/').next().unwrap_or_default();
    let moving = !image.contains('@') && (!last.contains(':') || last.ends_with(":latest"));
    set_default(container, &["imagePullPolicy"], if moving { "Always" } else { "IfNotPresent" });
    set_default(container, &["terminationMessagePath"], "/dev/termination-log");
    set_default(container, &["terminationMessagePolicy"], "File");
    set_default(container, &["resources"], json!({}));
    each(container, "ports", |port| set_default(port, &["protocol"], "TCP"));
    each(container, "env", |env| {
        if env.pointer("/valueFrom/fieldRef").is_some() {
            set_default(env, &["valueFrom", "fieldRef", "apiVersion"], "v1");
        }
    });
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get_mut(probe).filter(|probe| probe.is_object()) else { continue };
        set_default(probe, &["timeoutSeconds"], 1);
        set_default(probe, &["periodSeconds"], 10);
        set_default(probe, &["successThreshold"], 1);
        set_default(probe, &["failureThreshold"], 3);
        if probe.get("httpGet").is_some() {
            set_default(probe, &["httpGet", "scheme"], "HTTP");
            set_default(probe, &["httpGet", "path"], "/");
        }
    }
}

fn volume(volume: &mut Value) {
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if volume.get(source).is_some_and(Value::is_object) {
            set_default(volume, &[source, "defaultMode"], 420);
        }
    }
    if volume.as_object().is_some_and(|map| map.len() == 1) {
        object::set(volume, &["emptyDir"], json!({}));
    }
}

fn service(object: &mut Value) {
    set_default(object, &["spec", "type"], "ClusterIP");
    set_default(object, &["spec", "sessionAffinity"], "None");
    let external_name = object["spec"]["type"] == "ExternalName";
    if !external_name {
        set_default(object, &["spec", "internalTrafficPolicy"], "Cluster");
        set_default(object, &["spec", "ipFamilies"], json!(["IPv4"]));
        set_default(object, &["spec", "ipFamilyPolicy"], "SingleStack");
    }
    if matches!(object::text(object, "/spec/type"), "NodePort" | "LoadBalancer") {
        set_default(object, &["spec", "externalTrafficPolicy"], "Cluster");
    }
    each(&mut object["spec"], "ports", |port| {
        set_default(port, &["protocol"], "TCP");
        let number = port["port"].clone();
        set_default(port, &["targetPort"], number);
    });
    set_default(object, &["status", "loadBalancer"], json!({}));
}

fn secret(object: &mut Value) {
    set_default(object, &["type"], "Opaque");
    let Some(Value::Object(plain)) = object::remove(object, &["stringData"]) else { return };
    for (key, value) in plain {
        if let Some(text) = value.as_str() {
            object::set(object, &["data", &key], base64::engine::general_purpose::STANDARD.encode(text));
        }
    }
}

fn each(value: &mut Value, field: &str, change: impl Fn(&mut Value)) {
    if let Some(items) = value.get_mut(field).and_then(Value::as_array_mut) {
        items.iter_mut().filter(|item| item.is_object()).for_each(change);
    }
}

/// Labels and annotations as an owned map.
pub(crate) fn labels_of(value: &Value, pointer: &str) -> Map<String, Value> {
    object::map(value, pointer).cloned().unwrap_or_default()
}
