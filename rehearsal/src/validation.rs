//! What an API server refuses, for the kinds that releases touch: names, labels, workloads, Services, Ingresses.
//!
//! Every problem of an object is reported at once, by field. Nothing here changes an object.

use serde_json::{Map, Value};

use crate::kinds::{self, Kind};
use crate::object::{self, int, list, map, text};
use crate::schema::{self, Shape};
use crate::selector;
use crate::status::{Cause, Failure};

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// Checks a new object, or with `old` the update of one.
pub(crate) fn check(kind: &Kind, object: &Value, old: Option<&Value>) -> Result<(), Failure> {
    let mut causes = Vec::new();
    metadata(kind, object, &mut causes);
    match kind.resource {
        kinds::DEPLOYMENTS | kinds::REPLICA_SETS | kinds::STATEFUL_SETS | "daemonsets.apps" => {
            workload(object, &mut causes);
        }
        kinds::JOBS => job(object, &mut causes),
        kinds::PODS => pod_spec(&object["spec"], "spec", &mut causes),
        kinds::SERVICES => service(object, &mut causes),
        kinds::INGRESSES => ingress(object, &mut causes),
        kinds::HTTP_ROUTES => http_route(object, &mut causes),
        kinds::CONFIG_MAPS | kinds::SECRETS => config_keys(object, &mut causes),
        kinds::AUTOSCALERS => autoscaler(object, &mut causes),
        _ => {}
    }
    if let Some(old) = old {
        immutable(kind, object, old, &mut causes);
    }
    if causes.is_empty() { Ok(()) } else { Err(Failure::invalid(kind, object::name(object), &causes)) }
}

/// The fields of an object that no schema declares, by their path.
pub(crate) fn unknown_fields(kind: &Kind, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect_unknown(&schema::root(kind), object, &mut String::new(), &mut found);
    found
}

/// Drops what no schema declares: the server does not keep what it does not know.
pub(crate) fn prune_unknown(kind: &Kind, object: &mut Value) {
    prune(&schema::root(kind), object);
}

/// Whether the object reads as its type; the answer is the decoder's complaint.
pub(crate) fn decodes(kind: &Kind, object: &Value) -> Result<(), Failure> {
    use k8s_openapi::api::{apps::v1 as apps, batch::v1 as batch, core::v1 as core, networking::v1 as net};
    use serde::Deserialize as _;
    let answer = match kind.resource {
        kinds::DEPLOYMENTS => apps::Deployment::deserialize(object).map(drop),
        kinds::REPLICA_SETS => apps::ReplicaSet::deserialize(object).map(drop),
        kinds::STATEFUL_SETS => apps::StatefulSet::deserialize(object).map(drop),
        "daemonsets.apps" => apps::DaemonSet::deserialize(object).map(drop),
        kinds::PODS => core::Pod::deserialize(object).map(drop),
        kinds::SERVICES => core::Service::deserialize(object).map(drop),
        kinds::CONFIG_MAPS => core::ConfigMap::deserialize(object).map(drop),
        kinds::SECRETS => core::Secret::deserialize(object).map(drop),
        kinds::JOBS => batch::Job::deserialize(object).map(drop),
        kinds::INGRESSES => net::Ingress::deserialize(object).map(drop),
        _ => Ok(()),
    };
    answer.map_err(|error| {
        // Required fields are validation's business, which names them all.
        let (version, name) = (kind.version, kind.kind);
        Failure::bad_request(format!(
            "{name} in version {version:?} cannot be handled as a {name}: json: {error}"
        ))
    })
}

fn collect_unknown(shape: &Shape, value: &Value, path: &mut String, found: &mut Vec<String>) {
    match (shape, value) {
        (Shape::Atomic(inner), _) => collect_unknown(inner, value, path, found),
        (Shape::Struct(name), Value::Object(map)) => {
            let Some(fields) = schema::fields(name) else { return };
            for (field, inner) in map {
                let length = path.len();
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(field);
                match fields.get(field) {
                    Some(shape) => collect_unknown(shape, inner, path, found),
                    None => found.push(path.clone()),
                }
                path.truncate(length);
            }
        }
        (Shape::Map(inner), Value::Object(map)) => {
            for (field, value) in map {
                let length = path.len();
                path.push_str(&format!(".{field}"));
                collect_unknown(inner, value, path, found);
                path.truncate(length);
            }
        }
        (Shape::List(_, item), Value::Array(items)) => {
            for (at, value) in items.iter().enumerate() {
                let length = path.len();
                path.push_str(&format!("[{at}]"));
                collect_unknown(item, value, path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

fn prune(shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Atomic(inner), value) => prune(inner, value),
        (Shape::Struct(name), Value::Object(map)) => {
            let Some(fields) = schema::fields(name) else { return };
            map.retain(|field, _| fields.contains_key(field));
            for (field, inner) in map.iter_mut() {
                if let Some(shape) = fields.get(field) {
                    prune(shape, inner);
                }
            }
        }
        (Shape::Map(inner), Value::Object(map)) => map.values_mut().for_each(|value| prune(inner, value)),
        (Shape::List(_, item), Value::Array(items)) => items.iter_mut().for_each(|value| prune(item, value)),
        _ => {}
    }
}

// --- names and labels

fn is_label(name: &str) -> bool {
    let edge = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    !name.is_empty()
        && name.starts_with(edge)
        && name.ends_with(edge)
        && name.chars().all(|c| edge(c) || c == '-')
}

fn is_label_value(value: &str) -> bool {
    let edge = |letter: char| letter.is_ascii_alphanumeric();
    value.is_empty()
        || value.starts_with(edge)
            && value.ends_with(edge)
            && value.chars().all(|c| edge(c) || "-_.".contains(c))
}

fn is_subdomain(name: &str) -> bool {
    name.split('.').all(is_label)
}

fn metadata(kind: &Kind, object: &Value, causes: &mut Vec<Cause>) {
    let name = object::name(object);
    let shown = Value::from(name);
    let mut refuse = |why: &str| causes.push(Cause::invalid("metadata.name", &shown, why));
    match kind.resource {
        kinds::SERVICES => {
            if !is_label(name) || !name.starts_with(|letter: char| letter.is_ascii_lowercase()) {
                refuse(DNS_1035);
            }
            if name.len() > 63 {
                refuse("must be no more than 63 characters");
            }
        }
        kinds::NAMESPACES => {
            if !is_label(name) {
                refuse(LABEL);
            }
            if name.len() > 63 {
                refuse("must be no more than 63 characters");
            }
        }
        _ if kind.group == "rbac.authorization.k8s.io" => {}
        _ => {
            if !is_subdomain(name) {
                refuse(SUBDOMAIN);
            }
            if name.len() > 253 {
                refuse("must be no more than 253 characters");
            }
        }
    }
    labels(object, "/metadata/labels", "metadata.labels", causes);
    let size: usize = map(object, "/metadata/annotations")
        .map(|all| all.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum())
        .unwrap_or_default();
    if size > 262_144 {
        causes.push(Cause {
            reason: "FieldValueTooLong",
            field: "metadata.annotations".to_owned(),
            message: "Too long: may not be more than 262144 bytes".to_owned(),
        });
    }
    for key in map(object, "/metadata/annotations").into_iter().flat_map(Map::keys) {
        label_key(&key.to_lowercase(), "metadata.annotations", causes);
    }
}

fn labels(object: &Value, pointer: &str, field: &str, causes: &mut Vec<Cause>) {
    for (key, value) in map(object, pointer).into_iter().flatten() {
        label_key(key, field, causes);
        let Some(said) = value.as_str() else {
            causes.push(Cause::invalid(field, value, "labels are strings"));
            continue;
        };
        if !is_label_value(said) {
            causes.push(Cause::invalid(field, value, LABEL_VALUE));
        }
        if said.len() > 63 {
            causes.push(Cause::invalid(field, value, "must be no more than 63 characters"));
        }
    }
}

fn label_key(key: &str, field: &str, causes: &mut Vec<Cause>) {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let shown = Value::from(key);
    if name.is_empty() || !is_label_value(name) {
        causes.push(Cause::invalid(field, &shown, QUALIFIED));
    } else if name.len() > 63 {
        causes.push(Cause::invalid(field, &shown, "name part must be no more than 63 characters"));
    }
    if prefix.is_some_and(|prefix| !is_subdomain(prefix)) {
        causes.push(Cause::invalid(field, &shown, &format!("prefix part {SUBDOMAIN}")));
    }
}

// --- workloads

fn workload(object: &Value, causes: &mut Vec<Cause>) {
    if let Some(replicas) = int(object, "/spec/replicas").filter(|replicas| *replicas < 0) {
        causes.push(Cause::invalid("spec.replicas", &replicas.into(), "must be greater than or equal to 0"));
    }
    let selector = &object["spec"]["selector"];
    let template = defaults_labels(object);
    if map(selector, "/matchLabels").is_none_or(Map::is_empty)
        && list(selector, "/matchExpressions").is_empty()
    {
        if selector.is_null() {
            causes.push(Cause::required("spec.selector", ""));
            let why = "`selector` does not match template `labels`";
            causes.push(Cause::invalid("spec.template.metadata.labels", &Value::Object(template), why));
        } else {
            causes.push(Cause::invalid(
                "spec.selector",
                selector,
                "empty selector is invalid for deployment",
            ));
        }
    } else if !selector::label_selector_holds(selector, Some(&template)) {
        let why = "`selector` does not match template `labels`";
        causes.push(Cause::invalid("spec.template.metadata.labels", &Value::Object(template), why));
    }
    labels(object, "/spec/template/metadata/labels", "spec.template.labels", causes);
    let spec = &object["spec"]["template"]["spec"];
    pod_spec(spec, "spec.template.spec", causes);
    if !spec["restartPolicy"].is_null() && spec["restartPolicy"] != "Always" {
        let said = text(spec, "/restartPolicy");
        causes.push(Cause::unsupported("spec.template.spec.restartPolicy", said, &["Always"]));
    }
    strategy(object, causes);
}

fn strategy(object: &Value, causes: &mut Vec<Cause>) {
    let strategy = &object["spec"]["strategy"];
    match text(strategy, "/type") {
        "" | "RollingUpdate" => {}
        "Recreate" if strategy["rollingUpdate"].is_null() => {}
        "Recreate" => causes.push(Cause {
            reason: "FieldValueForbidden",
            field: "spec.strategy.rollingUpdate".to_owned(),
            message: "Forbidden: may not be specified when strategy `type` is 'Recreate'".to_owned(),
        }),
        other => causes.push(Cause::unsupported("spec.strategy.type", other, &["Recreate", "RollingUpdate"])),
    }
    let zero = |value: &Value| *value == 0 || *value == "0" || *value == "0%";
    let rolling = &strategy["rollingUpdate"];
    if zero(&rolling["maxSurge"]) && zero(&rolling["maxUnavailable"]) {
        let why = "may not be 0 when `maxSurge` is 0";
        causes.push(Cause::invalid(
            "spec.strategy.rollingUpdate.maxUnavailable",
            &rolling["maxUnavailable"],
            why,
        ));
    }
}

fn defaults_labels(object: &Value) -> Map<String, Value> {
    crate::defaults::labels_of(object, "/spec/template/metadata/labels")
}

fn autoscaler(object: &Value, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    let (least, most) = (int(spec, "/minReplicas").unwrap_or(1), int(spec, "/maxReplicas").unwrap_or(0));
    if least < 1 {
        let why = "must be greater than or equal to 1";
        causes.push(Cause::invalid("spec.minReplicas", &spec["minReplicas"], why));
    }
    if most < 1 {
        causes.push(Cause::invalid("spec.maxReplicas", &most.into(), "must be greater than 0"));
    } else if most < least {
        let why = "must be greater than or equal to `minReplicas`";
        causes.push(Cause::invalid("spec.maxReplicas", &most.into(), why));
    }
    for field in ["kind", "name"] {
        if text(&spec["scaleTargetRef"], &format!("/{field}")).is_empty() {
            causes.push(Cause::required(format!("spec.scaleTargetRef.{field}"), ""));
        }
    }
}

fn job(object: &Value, causes: &mut Vec<Cause>) {
    let spec = &object["spec"]["template"]["spec"];
    pod_spec(spec, "spec.template.spec", causes);
    if !matches!(text(spec, "/restartPolicy"), "OnFailure" | "Never") {
        let why = "valid values: \"OnFailure\", \"Never\"";
        causes.push(Cause::required("spec.template.spec.restartPolicy", why));
    }
}

fn pod_spec(spec: &Value, field: &str, causes: &mut Vec<Cause>) {
    if list(spec, "/containers").is_empty() {
        causes.push(Cause::required(format!("{field}.containers"), ""));
    }
    let mut names: Vec<&str> = Vec::new();
    for group in ["initContainers", "containers"] {
        for (at, container) in list(spec, &format!("/{group}")).iter().enumerate() {
            let place = format!("{field}.{group}[{at}]");
            let name = text(container, "/name");
            if name.is_empty() {
                causes.push(Cause::required(format!("{place}.name"), ""));
            } else if !is_label(name) {
                causes.push(Cause::invalid(format!("{place}.name"), &name.into(), LABEL));
            } else if names.contains(&name) {
                let message = format!("Duplicate value: {name:?}");
                causes.push(Cause { reason: "FieldValueDuplicate", field: format!("{place}.name"), message });
            }
            names.push(name);
            if text(container, "/image").is_empty() {
                causes.push(Cause::required(format!("{place}.image"), ""));
            }
            container_details(spec, container, &place, causes);
        }
    }
}

fn container_details(spec: &Value, container: &Value, place: &str, causes: &mut Vec<Cause>) {
    let volumes: Vec<&str> = list(spec, "/volumes").iter().map(|volume| text(volume, "/name")).collect();
    for (at, mount) in list(container, "/volumeMounts").iter().enumerate() {
        let name = text(mount, "/name");
        if !volumes.contains(&name) {
            let (reason, field) = ("FieldValueNotFound", format!("{place}.volumeMounts[{at}].name"));
            causes.push(Cause { reason, field, message: format!("Not found: {name:?}") });
        }
    }
    for (at, port) in list(container, "/ports").iter().enumerate() {
        if !int(port, "/containerPort").is_some_and(|number| (1..=65535).contains(&number)) {
            let field = format!("{place}.ports[{at}].containerPort");
            causes.push(Cause::invalid(
                field,
                &port["containerPort"],
                "must be between 1 and 65535, inclusive",
            ));
        }
    }
    for (at, env) in list(container, "/env").iter().enumerate() {
        if text(env, "/name").is_empty() {
            causes.push(Cause::required(format!("{place}.env[{at}].name"), ""));
        }
        if !text(env, "/value").is_empty() && !env["valueFrom"].is_null() {
            let why = "may not be specified when `value` is not empty";
            causes.push(Cause::invalid(format!("{place}.env[{at}].valueFrom"), &Value::from(""), why));
        }
    }
    let policy = text(container, "/imagePullPolicy");
    if !matches!(policy, "" | "Always" | "IfNotPresent" | "Never") {
        let supported = &["Always", "IfNotPresent", "Never"];
        causes.push(Cause::unsupported(format!("{place}.imagePullPolicy"), policy, supported));
    }
}

// --- Services, Ingresses, configuration

fn service(object: &Value, causes: &mut Vec<Cause>) {
    let kind = text(object, "/spec/type");
    if !matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName") {
        let supported = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
        causes.push(Cause::unsupported("spec.type", kind, supported));
    }
    if kind == "ExternalName" && text(object, "/spec/externalName").is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    }
    let ports = list(object, "/spec/ports");
    if ports.is_empty() && kind != "ExternalName" && object["spec"]["clusterIP"] != "None" {
        causes.push(Cause::required("spec.ports", ""));
    }
    for (at, port) in ports.iter().enumerate() {
        if !int(port, "/port").is_some_and(|number| (1..=65535).contains(&number)) {
            let field = format!("spec.ports[{at}].port");
            causes.push(Cause::invalid(field, &port["port"], "must be between 1 and 65535, inclusive"));
        }
        if int(port, "/targetPort").is_some_and(|number| !(1..=65535).contains(&number)) {
            let field = format!("spec.ports[{at}].targetPort");
            causes.push(Cause::invalid(field, &port["targetPort"], "must be between 1 and 65535, inclusive"));
        }
        if ports.len() > 1 && text(port, "/name").is_empty() {
            causes.push(Cause::required(format!("spec.ports[{at}].name"), ""));
        }
    }
    labels(object, "/spec/selector", "spec.selector", causes);
}

fn ingress(object: &Value, causes: &mut Vec<Cause>) {
    let rules = list(object, "/spec/rules");
    if rules.is_empty() && object["spec"]["defaultBackend"].is_null() {
        let why = "either `defaultBackend` or `rules` must be specified";
        causes.push(Cause::invalid("spec", &Value::Array(Vec::new()), why));
    }
    for (rule_at, rule) in rules.iter().enumerate() {
        let host = text(rule, "/host");
        if !host.is_empty() && !is_subdomain(host.strip_prefix("*.").unwrap_or(host)) {
            causes.push(Cause::invalid(format!("spec.rules[{rule_at}].host"), &host.into(), SUBDOMAIN));
        }
        for (at, path) in list(rule, "/http/paths").iter().enumerate() {
            let place = format!("spec.rules[{rule_at}].http.paths[{at}]");
            ingress_path(path, &place, causes);
        }
    }
}

/// What the published HTTPRoute definition asks for: bounds of its lists, and names of its choices.
fn http_route(object: &Value, causes: &mut Vec<Cause>) {
    let rules = list(object, "/spec/rules");
    let many = |causes: &mut Vec<Cause>, field: String, count: usize, most: usize| {
        if count > most {
            causes.push(Cause::invalid(field, &count.into(), &format!("must have at most {most} items")));
        }
    };
    many(causes, "spec.rules".into(), rules.len(), 16);
    let total: usize = rules.iter().map(|rule| list(rule, "/matches").len()).sum();
    many(causes, "spec.rules".into(), total, 128);
    for (at, rule) in rules.iter().enumerate() {
        let place = format!("spec.rules[{at}]");
        many(causes, format!("{place}.matches"), list(rule, "/matches").len(), 64);
        many(causes, format!("{place}.filters"), list(rule, "/filters").len(), 16);
        let modifiers = list(rule, "/filters").iter().filter(|f| text(f, "/type") == "RequestHeaderModifier");
        if modifiers.count() > 1 {
            let why = "RequestHeaderModifier filter cannot be repeated";
            causes.push(Cause::invalid(format!("{place}.filters"), &Value::Null, why));
        }
        for (index, one) in list(rule, "/matches").iter().enumerate() {
            many(causes, format!("{place}.matches[{index}].headers"), list(one, "/headers").len(), 16);
            for header in list(one, "/headers") {
                let kind = text(header, "/type");
                if !matches!(kind, "" | "Exact" | "RegularExpression") {
                    let field = format!("{place}.matches[{index}].headers.type");
                    causes.push(Cause::unsupported(field, kind, &["Exact", "RegularExpression"]));
                }
            }
        }
    }
}

fn ingress_path(path: &Value, place: &str, causes: &mut Vec<Cause>) {
    let kind = text(path, "/pathType");
    let said = text(path, "/path");
    match kind {
        "" => causes.push(Cause::required(format!("{place}.pathType"), "pathType must be specified")),
        "Exact" | "Prefix" if !said.starts_with('/') => {
            causes.push(Cause::invalid(format!("{place}.path"), &said.into(), "must be an absolute path"));
        }
        "Exact" | "Prefix" | "ImplementationSpecific" => {}
        other => {
            let supported = &["Exact", "ImplementationSpecific", "Prefix"];
            causes.push(Cause::unsupported(format!("{place}.pathType"), other, supported));
        }
    }
    let service = &path["backend"]["service"];
    if path["backend"]["resource"].is_null() {
        if text(service, "/name").is_empty() {
            causes.push(Cause::required(format!("{place}.backend.service.name"), ""));
        }
        if int(service, "/port/number").is_none() && text(service, "/port/name").is_empty() {
            causes.push(Cause::required(format!("{place}.backend"), "port name or number is required"));
        }
    }
}

fn config_keys(object: &Value, causes: &mut Vec<Cause>) {
    let valid = |key: &str| {
        !key.is_empty()
            && key.len() <= 253
            && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    for key in map(object, "/data").into_iter().flat_map(Map::keys).filter(|key| !valid(key)) {
        let why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
        causes.push(Cause::invalid(format!("data[{key}]"), &Value::from(key.as_str()), why));
    }
}

// --- what may not change

fn immutable(kind: &Kind, object: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let mut keep = |field: &str, pointer: &str| {
        let (now, was) = (object.pointer(pointer), old.pointer(pointer));
        if now != was && was.is_some_and(|was| !was.is_null() && *was != "") {
            causes.push(Cause::invalid(field, now.unwrap_or(&Value::Null), "field is immutable"));
        }
    };
    match kind.resource {
        kinds::DEPLOYMENTS | kinds::REPLICA_SETS | kinds::STATEFUL_SETS | "daemonsets.apps" => {
            keep("spec.selector", "/spec/selector");
        }
        kinds::JOBS => {
            keep("spec.selector", "/spec/selector");
            keep("spec.template", "/spec/template");
            keep("spec.completions", "/spec/completions");
        }
        kinds::SERVICES
            if object["spec"]["type"] != "ExternalName" && old["spec"]["type"] != "ExternalName" =>
        {
            keep("spec.clusterIPs[0]", "/spec/clusterIP");
        }
        kinds::SECRETS => keep("type", "/type"),
        _ => {}
    }
    if matches!(kind.resource, kinds::CONFIG_MAPS | kinds::SECRETS)
        && old["immutable"] == true
        && object["data"] != old["data"]
    {
        causes.push(Cause {
            reason: "FieldValueForbidden",
            field: "data".to_owned(),
            message: "Forbidden: field is immutable when `immutable` is set".to_owned(),
        });
    }
    if kind.resource == kinds::PODS {
        pod_update(object, old, causes);
    }
}

/// Of a pod's spec only images, deadlines and more tolerations may change.
fn pod_update(object: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let rest = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"] {
            object::remove(&mut spec, &[field]);
        }
        for group in ["containers", "initContainers"] {
            for container in spec.get_mut(group).and_then(Value::as_array_mut).into_iter().flatten() {
                object::remove(container, &["image"]);
            }
        }
        spec
    };
    if rest(object) != rest(old) {
        causes.push(Cause {
            reason: "FieldValueForbidden",
            field: "spec".to_owned(),
            message: "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)".to_owned(),
        });
    }
}
