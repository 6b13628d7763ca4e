//! The route of a lane: which requests enter it, written for the gateway.
//!
//! What every kind of gateway shares is here: the entry as a workflow writes it, and the way in as it is read off a route. What a
//! kind can express, how it is written and what it does to its neighbours is in a file a kind below `lane/route/`.
//! Nothing here asks a cluster: what else is routed is handed in.

mod gateway_api;
mod higress;
mod ingress;
mod ingress_nginx;
mod mse;

use std::collections::BTreeMap;

use graylane_engine::document::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use super::Judgement;
use super::labels::TAG_HEADER;
use crate::environment::GatewayKind;
use crate::manifest::kind;

/// Which requests enter a lane, and where. One of `header`, `cookie` and `weight` says which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The service whose Ingress (on gateway-api: whose HTTPRoute) lets them in.
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

/// What a kind of gateway knows of routes.
pub trait Rules: Sync {
    /// The kind of object that is a route.
    fn object(&self) -> &'static str {
        "Ingress"
    }

    /// Why the kind cannot express an entry, as sentences.
    fn check(&self, entry: &Entry, tag: &str) -> Vec<String>;

    /// Turns a copied object into the lane's route: who enters, and the header that carries the tag on.
    ///
    /// # Errors
    /// Why there cannot be such a route, as sentences.
    fn write(&self, route: &mut Value, entry: &Entry, tag: &str) -> Result<(), Vec<String>>;

    /// Judges a route beside what else is routed.
    fn judge(&self, asked: &Asked<'_>, judgement: &mut Judgement);
}

/// A route that is to be judged.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The lane's route.
    pub route: &'a Value,
    /// Who enters.
    pub entry: &'a Entry,
    /// The lane.
    pub tag: &'a str,
    /// How many services the lane will have.
    pub services: usize,
    /// Every other route of the namespace, as it lives.
    pub others: &'a [&'a Value],
}

impl GatewayKind {
    /// Its rules.
    pub fn rules(self) -> &'static dyn Rules {
        match self {
            GatewayKind::Mse => &mse::Mse,
            GatewayKind::Higress => &higress::Higress,
            GatewayKind::IngressNginx => &ingress_nginx::IngressNginx,
            GatewayKind::GatewayApi => &gateway_api::GatewayApi,
        }
    }

    /// The class of Ingress that such a gateway reads by default.
    pub fn default_class(self) -> &'static str {
        match self {
            GatewayKind::Mse => "mse",
            GatewayKind::Higress => "higress",
            GatewayKind::IngressNginx => "nginx",
            GatewayKind::GatewayApi => "",
        }
    }

    /// As it is written in an environment file.
    pub fn words(self) -> &'static str {
        match self {
            GatewayKind::Mse => "mse",
            GatewayKind::Higress => "higress",
            GatewayKind::IngressNginx => "ingress-nginx",
            GatewayKind::GatewayApi => "gateway-api",
        }
    }
}

/// The kinds of objects that are routes.
pub fn is_route(object: &Value) -> bool {
    matches!(kind(object), "Ingress" | "HTTPRoute")
}

/// What is wrong with an `entry`, expressions left aside; for a kind of gateway, where it is known.
pub fn check(entry: &Value, gateway: Option<GatewayKind>, tag: Option<&str>) -> Vec<Finding> {
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
            && let Err(why) = is_pattern(pattern)
        {
            findings.push(Finding::at("/header/pattern", "not a regular expression").label(why));
        }
        if header
            .get("name")
            .and_then(Value::as_str)
            .is_some_and(|name| name.eq_ignore_ascii_case(TAG_HEADER))
            && gateway != Some(GatewayKind::IngressNginx)
        {
            findings.push(
                Finding::at("/header/name", format!("`{TAG_HEADER}` cannot decide who enters a lane"))
                    .label("it carries the tag from hop to hop"),
            );
        }
    }
    // The rest needs whole values.
    let plain = !entry.to_string().contains("${{");
    if findings.is_empty()
        && plain
        && let Ok(entry) = serde_json::from_value::<Entry>(entry.clone())
    {
        let tag = tag.filter(|tag| !tag.contains("${{"));
        let mut wrong = texts_are_sendable(&entry);
        if let (Some(gateway), Some(tag)) = (gateway, tag) {
            wrong.extend(gateway.rules().check(&entry, tag));
        }
        findings.extend(wrong.into_iter().map(|why| {
            let (message, label) = why.split_once(": ").map_or((why.as_str(), ""), |(m, l)| (m, l));
            Finding::at("", message).on_key().label(label)
        }));
    }
    findings
}

/// Everything that a plan can say of an entry before anything is rendered: what an expression put in is checked here.
pub fn check_resolved(entry: &Entry, gateway: GatewayKind, tag: &str) -> Vec<String> {
    let value = serde_json::to_value(entry).unwrap_or_default();
    let sentence = |finding: Finding| {
        let label = finding.label.as_str();
        if label.is_empty() { finding.message.clone() } else { format!("{}: {label}", finding.message) }
    };
    check(&value, Some(gateway), Some(tag)).into_iter().map(sentence).collect()
}

/// Whether a text is a regular expression that every gateway may read.
fn is_pattern(pattern: &str) -> Result<(), String> {
    regex::Regex::new(pattern).map(drop).map_err(|error| {
        let why = error.to_string();
        why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })
}

/// Names and values that can stand in a request, and in an annotation without being cut.
fn texts_are_sendable(entry: &Entry) -> Vec<String> {
    let mut wrong = Vec::new();
    let names = [entry.header.as_ref().map(|h| &h.name), entry.cookie.as_ref().map(|c| &c.name)];
    for name in names.into_iter().flatten() {
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            wrong.push(format!("`{name}` cannot be sent as a name: use letters, digits, `-` and `_`"));
        }
    }
    let cookie = entry.cookie.as_ref().and_then(|cookie| cookie.value.as_ref());
    for value in [entry.header.as_ref().and_then(|h| h.value.as_ref()), cookie].into_iter().flatten() {
        let sendable = !value.is_empty() && value.chars().all(|c| c == ' ' || c.is_ascii_graphic());
        if !sendable || value.trim() != value {
            wrong.push(format!(
                "`{}` cannot be told apart by a gateway: use printable ASCII, without spaces at the ends",
                value.escape_debug()
            ));
        }
    }
    if let Some(value) = cookie
        && value.contains([';', ',', '"', '\\', ' '])
    {
        wrong.push(format!(
            "`{value}` cannot be the value of a cookie: leave out `;`, `,`, `\"`, `\\` and spaces"
        ));
    }
    wrong
}

/// How a request gets into a lane, or to the baseline: read off a route.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// The host of the first rule; none where the rule takes every host.
    pub host: Option<String>,
    /// A header that lets the request in.
    pub header: Option<(String, String)>,
    /// Why no single request can be sure to get in.
    pub unsure: Option<String>,
}

/// Reads the way in off a live or planned route of any kind.
pub fn way(route: &Value) -> Way {
    if kind(route) == "HTTPRoute" { gateway_api::way(route) } else { ingress::way(route) }
}

/// Whether two routes take the same requests, without a rule that tells them apart.
pub fn claims_same(one: &Value, other: &Value) -> bool {
    match kind(one) {
        "HTTPRoute" => gateway_api::claims_same(one, other),
        _ => ingress::claims_same(one, other),
    }
}

/// The route in words: `x-user-id: 100 on example.com`.
pub fn words(route: &Value) -> String {
    let way = way(route);
    let host = way.host.map(|host| format!(" on {host}")).unwrap_or_default();
    match (way.header, way.unsure) {
        (Some((name, value)), _) => format!("{name}: {value}{host}"),
        (None, Some(unsure)) => format!("{unsure}{host}"),
        (None, None) => host,
    }
}

/// What a lane by weight cannot promise, whatever the gateway.
fn weighted(entry: &Entry, judgement: &mut Judgement) {
    if let Some(weight) = entry.weight {
        judgement.notes.push(format!(
            "{weight} % of all requests enter, each drawn anew: a user may meet both versions, and the whole chain is not promised"
        ));
    }
}

/// Escapes what a regular expression would read as more than itself (RE2 and PCRE alike).
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// The text behind [`escaped`].
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

/// The tag of the lane that an object belongs to, for messages: `lane blue`, else the object itself.
fn whose(object: &Value) -> String {
    use super::labels::{GRAY_TYPE, TYPE, VERSION};
    let labels: BTreeMap<String, String> = crate::manifest::texts(object, "/metadata/labels");
    let gray = labels.get(TYPE).is_some_and(|kind| kind == GRAY_TYPE);
    match labels.get(VERSION).filter(|_| gray) {
        Some(tag) => format!("lane `{tag}` ({})", crate::manifest::ObjectRef::of(object)),
        None => crate::manifest::ObjectRef::of(object).to_string(),
    }
}

#[cfg(test)]
mod tests;
