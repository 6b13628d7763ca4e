//! Objects as rows: the `Table` that `kubectl get` asks for and prints.
//!
//! Columns are those of Kubernetes' own printers (pkg/printers/internalversion), for the kinds that people look at here;
//! the others have a name and an age. Nothing here changes an object or decides which ones are shown.

use chrono::{DateTime, Utc};
use http::header;
use serde_json::{Value, json};

use super::Call;
use crate::kinds::{self, Kind};
use crate::object::{int, list, map, name, text};
use crate::{clock, object};

/// Which form of a row's object a client wants beside the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Include {
    Nothing,
    Metadata,
    Object,
}

/// What a client that asked for a table gets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table {
    kind: &'static Kind,
    include: Include,
}

/// The media type, as `Accept` names it.
const ASKED: &str = "as=Table";
/// The one version of it that is served.
const VERSION: &str = "v=v1";

impl Table {
    /// The table that a request asks for, where it does: the first acceptable form of `Accept` counts.
    pub(crate) fn asked(call: &Call, kind: &'static Kind) -> Option<Table> {
        let accepted = call.header(header::ACCEPT).split(',').map(|form| form.replace(' ', ""));
        let mut served =
            accepted.filter(|form| form.starts_with("application/json") || form.starts_with("*/*"));
        let first = served.find(|form| !form.contains("as=") || form.contains(VERSION))?;
        let include = match call.query.get("includeObject") {
            Some("None") => Include::Nothing,
            Some("Object") => Include::Object,
            _ => Include::Metadata,
        };
        first.contains(ASKED).then_some(Table { kind, include })
    }

    /// The whole table.
    pub(crate) fn of<'o>(
        self,
        metadata: &Value,
        objects: impl Iterator<Item = &'o Value>,
        now: DateTime<Utc>,
    ) -> Value {
        let columns = columns(self.kind);
        let rows: Vec<Value> = objects.map(|object| self.row(&columns, object, now)).collect();
        let columns: Vec<Value> = columns.iter().map(Column::definition).collect();
        json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "columnDefinitions": columns, "rows": rows,
        })
    }

    /// A table of one object, as watches send it.
    pub(crate) fn of_one(self, object: &Value, now: DateTime<Utc>) -> Value {
        let metadata = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
        self.of(&metadata, std::iter::once(object), now)
    }

    /// A bookmark among tables: nothing but its revision.
    pub(crate) fn mark(self, bookmark: &Value, now: DateTime<Utc>) -> Value {
        self.of(&bookmark["metadata"], std::iter::empty(), now)
    }

    fn row(self, columns: &[Column], object: &Value, now: DateTime<Utc>) -> Value {
        let cells: Vec<Value> = columns.iter().map(|column| (column.cell)(object, now)).collect();
        let mut row = json!({ "cells": cells });
        match self.include {
            Include::Nothing => {}
            Include::Object => row["object"] = object.clone(),
            Include::Metadata => {
                row["object"] = json!({
                    "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
                });
            }
        }
        row
    }
}

/// A column: its name, whether only `-o wide` shows it, and what stands in it.
struct Column {
    name: &'static str,
    wide: bool,
    number: bool,
    cell: fn(&Value, DateTime<Utc>) -> Value,
}

impl Column {
    fn definition(&self) -> Value {
        json!({
            "name": self.name, "type": if self.number { "integer" } else { "string" },
            "format": if self.name == "Name" { "name" } else { "" },
            "description": "", "priority": i32::from(self.wide),
        })
    }
}

const fn shown(name: &'static str, cell: fn(&Value, DateTime<Utc>) -> Value) -> Column {
    Column { name, wide: false, number: false, cell }
}

const fn count(name: &'static str, cell: fn(&Value, DateTime<Utc>) -> Value) -> Column {
    Column { name, wide: false, number: true, cell }
}

const fn wide(name: &'static str, cell: fn(&Value, DateTime<Utc>) -> Value) -> Column {
    Column { name, wide: true, number: false, cell }
}

const NAME: Column = shown("Name", |object, _| name(object).into());
const AGE: Column =
    shown("Age", |object, now| since(text(object, "/metadata/creationTimestamp"), now).into());

fn columns(kind: &Kind) -> Vec<Column> {
    match kind.resource {
        kinds::PODS => vec![
            NAME,
            shown("Ready", |pod, _| {
                let (ready, all) = ready_containers(pod);
                format!("{ready}/{all}").into()
            }),
            shown("Status", |pod, _| pod_status(pod).into()),
            shown("Restarts", restarts),
            AGE,
            wide("IP", |pod, _| or_none(text(pod, "/status/podIP"))),
            wide("Node", |pod, _| or_none(text(pod, "/spec/nodeName"))),
            wide("Nominated Node", |pod, _| or_none(text(pod, "/status/nominatedNodeName"))),
            wide("Readiness Gates", |_, _| or_none("")),
        ],
        kinds::DEPLOYMENTS => vec![
            NAME,
            shown("Ready", |it, _| format!("{}/{}", of_status(it, "readyReplicas"), desired(it)).into()),
            count("Up-to-date", |it, _| of_status(it, "updatedReplicas").into()),
            count("Available", |it, _| of_status(it, "availableReplicas").into()),
            AGE,
            wide("Containers", |it, _| template(it, "name").into()),
            wide("Images", |it, _| template(it, "image").into()),
            wide("Selector", |it, _| pairs(it, "/spec/selector/matchLabels")),
        ],
        kinds::REPLICA_SETS => vec![
            NAME,
            count("Desired", |it, _| desired(it).into()),
            count("Current", |it, _| of_status(it, "replicas").into()),
            count("Ready", |it, _| of_status(it, "readyReplicas").into()),
            AGE,
            wide("Containers", |it, _| template(it, "name").into()),
            wide("Images", |it, _| template(it, "image").into()),
            wide("Selector", |it, _| pairs(it, "/spec/selector/matchLabels")),
        ],
        "statefulsets.apps" => vec![
            NAME,
            shown("Ready", |it, _| format!("{}/{}", of_status(it, "readyReplicas"), desired(it)).into()),
            AGE,
            wide("Containers", |it, _| template(it, "name").into()),
            wide("Images", |it, _| template(it, "image").into()),
        ],
        kinds::SERVICES => vec![
            NAME,
            shown("Type", |it, _| text(it, "/spec/type").into()),
            shown("Cluster-IP", |it, _| or_none(text(it, "/spec/clusterIP"))),
            shown("External-IP", external_address),
            shown("Port(s)", ports),
            AGE,
            wide("Selector", |it, _| pairs(it, "/spec/selector")),
        ],
        kinds::ENDPOINTS => vec![NAME, shown("Endpoints", endpoints), AGE],
        kinds::INGRESSES => vec![
            NAME,
            shown("Class", |it, _| or_none(text(it, "/spec/ingressClassName"))),
            shown("Hosts", hosts),
            shown("Address", |it, _| addresses(it).into()),
            shown("Ports", |it, _| if list(it, "/spec/tls").is_empty() { "80" } else { "80, 443" }.into()),
            AGE,
        ],
        kinds::CONFIG_MAPS => {
            vec![NAME, count("Data", |it, _| (entries(it, "/data") + entries(it, "/binaryData")).into()), AGE]
        }
        kinds::SECRETS => vec![
            NAME,
            shown("Type", |it, _| text(it, "/type").into()),
            count("Data", |it, _| entries(it, "/data").into()),
            AGE,
        ],
        kinds::SERVICE_ACCOUNTS => {
            vec![NAME, count("Secrets", |it, _| list(it, "/secrets").len().into()), AGE]
        }
        kinds::NAMESPACES => vec![NAME, shown("Status", |it, _| text(it, "/status/phase").into()), AGE],
        kinds::NODES => vec![
            NAME,
            shown("Status", |it, _| {
                let ready = condition(it, "Ready").is_some_and(|found| text(found, "/status") == "True");
                if ready { "Ready" } else { "NotReady" }.into()
            }),
            shown("Roles", |_, _| or_none("")),
            AGE,
            shown("Version", |it, _| text(it, "/status/nodeInfo/kubeletVersion").into()),
        ],
        kinds::JOBS => vec![
            NAME,
            shown("Completions", |it, _| {
                format!("{}/{}", of_status(it, "succeeded"), int(it, "/spec/completions").unwrap_or(1)).into()
            }),
            shown("Duration", duration),
            AGE,
            wide("Containers", |it, _| template(it, "name").into()),
            wide("Images", |it, _| template(it, "image").into()),
        ],
        kinds::EVENTS => vec![
            shown("Last Seen", |it, now| {
                let last = ["/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"];
                let at = last.iter().map(|pointer| text(it, pointer)).find(|at| !at.is_empty());
                since(at.unwrap_or_default(), now).into()
            }),
            shown("Type", |it, _| text(it, "/type").into()),
            shown("Reason", |it, _| text(it, "/reason").into()),
            shown("Object", |it, _| {
                let kind = text(it, "/involvedObject/kind").to_lowercase();
                format!("{kind}/{}", text(it, "/involvedObject/name")).into()
            }),
            wide("Source", |it, _| text(it, "/source/component").into()),
            shown("Message", |it, _| text(it, "/message").trim().into()),
            wide("Count", |it, _| int(it, "/count").unwrap_or(1).into()),
            wide("Name", |it, _| name(it).into()),
        ],
        _ => vec![NAME, AGE],
    }
}

fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>" } else { text }.into()
}

fn of_status(object: &Value, field: &str) -> i64 {
    object["status"][field].as_i64().unwrap_or_default()
}

fn desired(object: &Value) -> i64 {
    int(object, "/spec/replicas").unwrap_or(1)
}

fn entries(object: &Value, pointer: &str) -> usize {
    map(object, pointer).map_or(0, serde_json::Map::len)
}

/// A field of every container of a workload's template, joined.
fn template(object: &Value, field: &str) -> String {
    let containers = list(object, "/spec/template/spec/containers").iter();
    let values: Vec<&str> =
        containers.map(|container| container[field].as_str().unwrap_or_default()).collect();
    values.join(",")
}

/// Labels as `key=value`, joined.
fn pairs(object: &Value, pointer: &str) -> Value {
    let pairs: Vec<String> = map(object, pointer)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    or_none(&pairs.join(","))
}

fn condition<'o>(object: &'o Value, kind: &str) -> Option<&'o Value> {
    list(object, "/status/conditions").iter().find(|found| found["type"] == kind)
}

fn ready_containers(pod: &Value) -> (usize, usize) {
    let ready =
        list(pod, "/status/containerStatuses").iter().filter(|status| status["ready"] == true).count();
    (ready, list(pod, "/spec/containers").len())
}

fn restarts(pod: &Value, now: DateTime<Utc>) -> Value {
    let statuses = list(pod, "/status/containerStatuses");
    let count: i64 = statuses.iter().filter_map(|status| status["restartCount"].as_i64()).sum();
    let last = statuses.iter().map(|status| text(status, "/lastState/terminated/finishedAt")).max();
    match last.filter(|at| count > 0 && !at.is_empty()) {
        Some(at) => format!("{count} ({} ago)", since(at, now)).into(),
        None => count.to_string().into(),
    }
}

/// The one word for a pod, as kubectl's users know it: the phase, or the reason that hides behind it.
fn pod_status(pod: &Value) -> String {
    let mut word = match text(pod, "/status/reason") {
        "" => text(pod, "/status/phase"),
        reason => reason,
    }
    .to_owned();
    let init = list(pod, "/status/initContainerStatuses");
    let waits = init.iter().enumerate().find_map(|(at, status)| {
        let ended = status.pointer("/state/terminated");
        let code = ended.and_then(|ended| ended["exitCode"].as_i64());
        match (code, ended) {
            (Some(0), _) => None,
            (Some(code), Some(ended)) => Some(format!("Init:{}", ending(ended, code))),
            _ => Some(match text(status, "/state/waiting/reason") {
                "" | "PodInitializing" => format!("Init:{at}/{}", list(pod, "/spec/initContainers").len()),
                reason => format!("Init:{reason}"),
            }),
        }
    });
    if let Some(waits) = &waits {
        word.clone_from(waits);
    } else {
        // The first container that has something to say counts, as in the printers: they walk backwards.
        let mut running = false;
        for status in list(pod, "/status/containerStatuses").iter().rev() {
            let waiting = text(status, "/state/waiting/reason");
            if !waiting.is_empty() {
                word = waiting.to_owned();
            } else if let Some(ended) = status.pointer("/state/terminated") {
                word = ending(ended, ended["exitCode"].as_i64().unwrap_or_default());
            } else if status["ready"] == true && status.pointer("/state/running").is_some() {
                running = true;
            }
        }
        if word == "Completed" && running {
            let ready = condition(pod, "Ready").is_some_and(|found| text(found, "/status") == "True");
            word = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if object::is_dying(pod) { "Terminating".to_owned() } else { word }
}

fn ending(ended: &Value, code: i64) -> String {
    match (text(ended, "/reason"), ended["signal"].as_i64().filter(|signal| *signal != 0)) {
        ("", Some(signal)) => format!("Signal:{signal}"),
        ("", None) => format!("ExitCode:{code}"),
        (reason, _) => reason.to_owned(),
    }
}

fn external_address(service: &Value, _: DateTime<Utc>) -> Value {
    match text(service, "/spec/type") {
        "ExternalName" => text(service, "/spec/externalName").into(),
        "LoadBalancer" => match addresses(service) {
            found if found.is_empty() => "<pending>".into(),
            found => found.into(),
        },
        _ => or_none(""),
    }
}

/// What a load balancer answers on.
fn addresses(object: &Value) -> String {
    let ingress = list(object, "/status/loadBalancer/ingress").iter();
    let found: Vec<&str> = ingress
        .map(|entry| match text(entry, "/ip") {
            "" => text(entry, "/hostname"),
            ip => ip,
        })
        .collect();
    found.join(",")
}

fn ports(service: &Value, _: DateTime<Utc>) -> Value {
    let ports: Vec<String> = list(service, "/spec/ports")
        .iter()
        .map(|port| {
            let node = port["nodePort"].as_i64().map(|node| format!(":{node}")).unwrap_or_default();
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            format!("{}{node}/{protocol}", port["port"].as_i64().unwrap_or_default())
        })
        .collect();
    or_none(&ports.join(","))
}

fn hosts(ingress: &Value, _: DateTime<Utc>) -> Value {
    let rules = list(ingress, "/spec/rules");
    let hosts: Vec<&str> =
        rules.iter().map(|rule| text(rule, "/host")).filter(|host| !host.is_empty()).collect();
    if hosts.is_empty() { "*".into() } else { hosts.join(",").into() }
}

fn endpoints(object: &Value, _: DateTime<Utc>) -> Value {
    let mut found = Vec::new();
    for subset in list(object, "/subsets") {
        for address in list(subset, "/addresses") {
            for port in list(subset, "/ports") {
                found.push(format!("{}:{}", text(address, "/ip"), port["port"].as_i64().unwrap_or_default()));
            }
        }
    }
    let more = found.len().saturating_sub(3);
    let shown = found[..found.len().min(3)].join(",");
    if more > 0 { format!("{shown} + {more} more...").into() } else { or_none(&shown) }
}

fn duration(job: &Value, now: DateTime<Utc>) -> Value {
    let Some(begun) = clock::parse(text(job, "/status/startTime")) else { return "".into() };
    let ended = clock::parse(text(job, "/status/completionTime")).unwrap_or(now);
    human((ended - begun).num_seconds()).into()
}

fn since(at: &str, now: DateTime<Utc>) -> String {
    clock::parse(at).map_or("<unknown>".to_owned(), |at| human((now - at).num_seconds()))
}

/// A span as kubectl shows ages: two units at most, the larger one alone where it says enough
/// (k8s.io/apimachinery/pkg/util/duration).
fn human(seconds: i64) -> String {
    let two = |large: i64, unit: &str, small: i64, below: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{below}"),
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        ..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(hours / 24, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{}d", hours / 24),
        63_072_000..252_288_000 => two(hours / 24 / 365, "y", hours / 24 % 365, "d"),
        _ => format!("{}y", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_written_as_kubectl_writes_them() {
        let table = [
            (-5, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (599, "9m59s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (28_799, "7h59m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (691_199, "7d23h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (400 * 24 * 3600, "400d"),
            (9 * 365 * 24 * 3600, "9y"),
        ];
        for (seconds, expected) in table {
            assert_eq!(human(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn a_pod_is_told_in_the_word_that_says_most() {
        let pod = |status: Value| json!({ "spec": { "containers": [{}], "initContainers": [{}, {}] }, "status": status });
        let waiting = |reason: &str| json!({ "state": { "waiting": { "reason": reason } } });
        let ended = |code: i64, reason: &str| json!({ "state": { "terminated": { "exitCode": code, "reason": reason } } });
        let running = json!({ "ready": true, "state": { "running": {} } });
        let done = ended(0, "Completed");
        let table = [
            (json!({ "phase": "Pending" }), "Pending"),
            (json!({ "phase": "Failed", "reason": "Evicted" }), "Evicted"),
            (
                json!({ "phase": "Pending", "initContainerStatuses": [done, waiting("PodInitializing")] }),
                "Init:1/2",
            ),
            (
                json!({ "phase": "Pending", "initContainerStatuses": [waiting("ImagePullBackOff")] }),
                "Init:ImagePullBackOff",
            ),
            (json!({ "phase": "Pending", "initContainerStatuses": [ended(3, "Error")] }), "Init:Error"),
            (
                json!({ "phase": "Pending", "containerStatuses": [waiting("ContainerCreating")] }),
                "ContainerCreating",
            ),
            (
                json!({ "phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff")] }),
                "CrashLoopBackOff",
            ),
            (json!({ "phase": "Failed", "containerStatuses": [ended(137, "OOMKilled")] }), "OOMKilled"),
            (json!({ "phase": "Failed", "containerStatuses": [ended(2, "")] }), "ExitCode:2"),
            (json!({ "phase": "Running", "containerStatuses": [running] }), "Running"),
        ];
        for (status, expected) in table {
            assert_eq!(pod_status(&pod(status.clone())), expected, "{status}");
        }
        let mut dying = pod(json!({ "phase": "Running" }));
        dying["metadata"] = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" });
        assert_eq!(pod_status(&dying), "Terminating");
    }
}
