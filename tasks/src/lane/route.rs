//! The route of a lane: which requests enter it, written for the gateway.
//!
//! Annotations and their precedence: Alibaba Cloud, "Annotations supported by MSE Ingress".

use graylane_engine::document::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::labels::TAG_HEADER;
use crate::manifest::{map_at, texts};

const CANARY: &str = "nginx.ingress.kubernetes.io/canary";
const BY_HEADER: &str = "nginx.ingress.kubernetes.io/canary-by-header";
const BY_HEADER_VALUE: &str = "nginx.ingress.kubernetes.io/canary-by-header-value";
const BY_HEADER_PATTERN: &str = "nginx.ingress.kubernetes.io/canary-by-header-pattern";
const BY_COOKIE: &str = "nginx.ingress.kubernetes.io/canary-by-cookie";
const BY_COOKIE_VALUE: &str = "mse.ingress.kubernetes.io/canary-by-cookie-value";
const WEIGHT: &str = "nginx.ingress.kubernetes.io/canary-weight";
const SET_HEADER: &str = "mse.ingress.kubernetes.io/request-header-control-update";

/// Which requests enter a lane, and where. One of `header`, `cookie` and `weight` says which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The service whose Ingress lets them in.
    pub service: String,
    /// Requests that carry a header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<Header>,
    /// Requests that carry a cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<Cookie>,
    /// A share of all requests, in percent. A lane by weight cannot promise that a user stays on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub weight: Option<u32>,
}

/// Requests that carry a header: with this value, or one that a pattern matches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The header's name.
    pub name: String,
    /// Its value, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// A regular expression for its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
}

/// Requests that carry a cookie: with this value, or `always` where none is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cookie {
    /// The cookie's name.
    pub name: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// What is wrong with an `entry`, expressions left aside.
pub fn check(entry: &Value) -> Vec<Finding> {
    let Some(map) = entry.as_object() else { return Vec::new() };
    let mut findings = Vec::new();
    let ways: Vec<&str> =
        ["header", "cookie", "weight"].into_iter().filter(|way| map.contains_key(*way)).collect();
    match ways.as_slice() {
        [_] => {}
        [] => findings.push(
            Finding::at("", "`entry` does not say which requests enter")
                .on_key()
                .label("add `header`, `cookie` or `weight`"),
        ),
        _ => findings.push(
            Finding::at("", format!("`entry` says {} ways in", ways.len()))
                .on_key()
                .label("one of `header`, `cookie` and `weight`")
                .hint("a header or cookie is never weighted by the gateway"),
        ),
    }
    if let Some(header) = map.get("header").and_then(Value::as_object) {
        match (header.get("value"), header.get("pattern")) {
            (Some(_), None) | (None, Some(_)) => {}
            (None, None) => findings.push(
                Finding::at("/header", "`header` does not say which value")
                    .on_key()
                    .label("add `value` or `pattern`"),
            ),
            (Some(_), Some(_)) => findings.push(
                Finding::at("/header/pattern", "`header` has a value and a pattern")
                    .on_key()
                    .label("keep one of the two"),
            ),
        }
        if let Some(pattern) = header.get("pattern").and_then(Value::as_str)
            && !pattern.contains("${{")
            && let Err(error) = regex::Regex::new(pattern)
        {
            let why = error.to_string();
            let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            findings.push(Finding::at("/header/pattern", "not a regular expression").label(why));
        }
        if header
            .get("name")
            .and_then(Value::as_str)
            .is_some_and(|name| name.eq_ignore_ascii_case(TAG_HEADER))
        {
            findings.push(
                Finding::at("/header/name", format!("`{TAG_HEADER}` cannot decide who enters a lane"))
                    .label("it carries the tag from hop to hop"),
            );
        }
    }
    findings
}

/// Turns a copied Ingress into the lane's route: who enters, and the header that carries the tag on.
pub fn write(ingress: &mut Value, entry: &Entry, tag: &str) {
    let annotations = map_at(ingress, &["metadata", "annotations"]);
    // What the baseline's Ingress says of canaries is not the lane's.
    annotations.retain(|key, _| !key.contains(".ingress.kubernetes.io/canary"));
    let mut set = |key: &str, value: String| annotations.insert(key.to_owned(), value.into());
    set(CANARY, "true".into());
    set(SET_HEADER, format!("{TAG_HEADER} {tag}"));
    if let Some(header) = &entry.header {
        set(BY_HEADER, header.name.clone());
        if let Some(value) = &header.value {
            set(BY_HEADER_VALUE, value.clone());
        }
        if let Some(pattern) = &header.pattern {
            set(BY_HEADER_PATTERN, pattern.clone());
        }
    }
    if let Some(cookie) = &entry.cookie {
        set(BY_COOKIE, cookie.name.clone());
        if let Some(value) = &cookie.value {
            set(BY_COOKIE_VALUE, value.clone());
        }
    }
    set(WEIGHT, entry.weight.unwrap_or(0).to_string());
}

/// How a request gets into a lane, or to the baseline: read off an Ingress.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// The host of the first rule; none where the rule takes every host.
    pub host: Option<String>,
    /// A header that lets the request in.
    pub header: Option<(String, String)>,
    /// Why no single request can be sure to get in.
    pub unsure: Option<String>,
}

/// Reads the way in off a live or planned Ingress.
pub fn way(ingress: &Value) -> Way {
    let annotations = texts(ingress, "/metadata/annotations");
    let get = |key: &str| annotations.get(key).cloned();
    let host = ingress.pointer("/spec/rules/0/host").and_then(Value::as_str).map(str::to_owned);
    let mut way = Way { host, ..Way::default() };
    match (get(BY_HEADER), get(BY_HEADER_VALUE), get(BY_COOKIE)) {
        (Some(name), Some(value), _) => way.header = Some((name, value)),
        (Some(name), None, _) => {
            let pattern = get(BY_HEADER_PATTERN).unwrap_or_default();
            way.unsure = Some(format!("the route asks for a header `{name}` that matches `{pattern}`"));
        }
        (None, _, Some(cookie)) => {
            let value = get(BY_COOKIE_VALUE).unwrap_or_else(|| "always".into());
            way.header = Some(("cookie".into(), format!("{cookie}={value}")));
        }
        (None, _, None) => {
            let weight = get(WEIGHT).unwrap_or_default();
            way.unsure = Some(format!("the route lets in {weight} % of all requests"));
        }
    }
    way
}

/// The route in words: `x-user-id: 100 on example.com`.
pub fn words(ingress: &Value) -> String {
    let way = way(ingress);
    let host = way.host.map(|host| format!(" on {host}")).unwrap_or_default();
    match (way.header, way.unsure) {
        (Some((name, value)), _) => format!("{name}: {value}{host}"),
        (None, Some(unsure)) => format!("{unsure}{host}"),
        (None, None) => host,
    }
}
