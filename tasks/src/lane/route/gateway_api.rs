//! Gateway API: a gray HTTPRoute beside the baseline's, which wins because it asks for one header more.
//!
//! There is no canary and no fallback: a gray route without ready pods answers 503, and shares of requests are weights in the
//! baseline's own route, which a lane does not touch. (Gateway API v1, HTTPRoute: precedence of matches.)

use serde_json::{Map, Value, json};

use super::{Asked, Entry, Judgement, Rules, Way, escaped, unescaped, whose};
use crate::lane::gray_name;
use crate::lane::labels::TAG_HEADER;
use crate::manifest::{ObjectRef, kind};

pub(super) struct GatewayApi;

impl Rules for GatewayApi {
    fn object(&self) -> &'static str {
        "HTTPRoute"
    }

    fn check(&self, entry: &Entry, _tag: &str) -> Vec<String> {
        if entry.weight.is_some() {
            return vec![
                "a gateway-api gateway shares requests out by weights in the baseline's own HTTPRoute: a lane leaves that alone; use `header` or `cookie`"
                    .into(),
            ];
        }
        Vec::new()
    }

    fn write(&self, route: &mut Value, entry: &Entry, tag: &str) -> Result<(), Vec<String>> {
        let at = ObjectRef::of(route);
        let asked = header_match(entry);
        let suffix = gray_name("", tag);
        let mut wrong = Vec::new();
        let mut gray = 0;
        let spec = crate::manifest::map_at(route, &["spec"]);
        let rules = match spec.entry("rules").or_insert_with(|| json!([])) {
            Value::Array(rules) => rules,
            _ => return Err(vec![format!("{at}: `spec.rules` is no list")]),
        };
        for rule in rules.iter_mut() {
            let Some(rule) = rule.as_object_mut() else { continue };
            gray += backends(rule).filter(|name| name.ends_with(&suffix)).count();
            match rule.entry("matches").or_insert_with(|| json!([])) {
                Value::Array(matches) => {
                    if matches.is_empty() {
                        matches.push(json!({ "path": { "type": "PathPrefix", "value": "/" } }));
                    }
                    for one in matches.iter_mut().filter_map(Value::as_object_mut) {
                        if let Value::Array(headers) = one.entry("headers").or_insert_with(|| json!([])) {
                            let name = asked["name"].as_str().unwrap_or_default();
                            let taken = headers
                                .iter()
                                .any(|h| h["name"].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name)));
                            if taken {
                                wrong.push(format!(
                                    "{at} asks for the header `{name}` itself, and a route may ask once: let requests in by another header"
                                ));
                            }
                            headers.push(asked.clone());
                        }
                    }
                }
                _ => wrong.push(format!("{at}: `matches` of a rule is no list")),
            }
            set_tag(rule, tag);
        }
        if gray == 0 {
            wrong.push(format!(
                "{at} leads to no Service that the lane has a copy of, so nobody would meet the lane"
            ));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    fn judge(&self, asked: &Asked<'_>, judgement: &mut Judgement) {
        let origin = crate::manifest::texts(asked.route, "/metadata/annotations")
            .remove(crate::lane::labels::ANNOTATION_ORIGIN)
            .unwrap_or_default();
        let others = || asked.others.iter().filter(|other| kind(other) == "HTTPRoute");
        if !others().any(|other| crate::manifest::name(other) == origin) {
            judgement.wrong.push(format!(
                "HTTPRoute {origin}, the baseline of the route, is not on the cluster: production was not brought up to its manifest"
            ));
        }
        for other in others() {
            if claims_same(asked.route, other) {
                judgement.wrong.push(format!(
                    "{} lets the same requests in: of two equal matches the gateway takes the older route, and this lane would never be met",
                    whose(other)
                ));
            }
        }
        let name = ObjectRef::of(asked.route);
        judgement.notes.push(format!(
            "{name} has no fallback: while no gray pod is ready, those who enter the lane get 503"
        ));
        if asked.entry.cookie.is_some() || asked.entry.header.as_ref().is_some_and(|h| h.pattern.is_some()) {
            judgement.notes.push(format!(
                "{name} compares by a regular expression, which a gateway-api gateway may lack: see that it reports `RegularExpression` as supported"
            ));
        }
    }
}

/// The one match more that makes a gray route more specific than its baseline.
fn header_match(entry: &Entry) -> Value {
    if let Some(header) = &entry.header {
        return match (&header.value, &header.pattern) {
            (None, Some(pattern)) => {
                // Whole values are compared by some gateways, parts by others: this means the same to both.
                json!({ "type": "RegularExpression", "name": header.name, "value": format!(".*(?:{pattern}).*") })
            }
            (value, _) => {
                json!({ "type": "Exact", "name": header.name, "value": value.clone().unwrap_or_default() })
            }
        };
    }
    let cookie = entry.cookie.clone().unwrap_or(super::Cookie { name: String::new(), value: None });
    let value = cookie.value.as_deref().unwrap_or("always");
    json!({
        "type": "RegularExpression", "name": "cookie",
        "value": format!("{COOKIE_BEFORE}{}={}{COOKIE_AFTER}", escaped(&cookie.name), escaped(value)),
    })
}

const COOKIE_BEFORE: &str = "^(?:.*;\\s*)?";
const COOKIE_AFTER: &str = "(?:\\s*;.*)?$";

/// A rule may have one filter that changes request headers: ours goes into it.
fn set_tag(rule: &mut Map<String, Value>, tag: &str) {
    let ours = json!({ "name": TAG_HEADER, "value": tag });
    let Value::Array(filters) = rule.entry("filters").or_insert_with(|| json!([])) else { return };
    let found = filters.iter_mut().find(|filter| filter["type"] == "RequestHeaderModifier");
    match found {
        Some(filter) => {
            let modifier = crate::manifest::map_at(filter, &["requestHeaderModifier"]);
            for key in ["set", "add", "remove"] {
                if let Some(Value::Array(items)) = modifier.get_mut(key) {
                    items.retain(|item| {
                        let name = item.as_str().or_else(|| item["name"].as_str()).unwrap_or_default();
                        !name.eq_ignore_ascii_case(TAG_HEADER)
                    });
                    if items.is_empty() {
                        modifier.remove(key);
                    }
                }
            }
            if let Value::Array(set) = modifier.entry("set").or_insert_with(|| json!([])) {
                set.push(ours);
            }
        }
        None => filters
            .push(json!({ "type": "RequestHeaderModifier", "requestHeaderModifier": { "set": [ours] } })),
    }
}

fn backends(rule: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let refs = rule.get("backendRefs").and_then(Value::as_array).into_iter().flatten();
    refs.filter(|backend| backend["kind"].as_str().is_none_or(|kind| kind == "Service"))
        .filter_map(|backend| backend["name"].as_str())
}

fn all_matches(route: &Value) -> Vec<Value> {
    let rules = route.pointer("/spec/rules").and_then(Value::as_array).into_iter().flatten();
    let matches = rules.flat_map(|rule| rule["matches"].as_array().into_iter().flatten());
    matches.map(crate::manifest::sorted).collect()
}

/// Whether two HTTPRoutes have the same hosts and a match in common.
pub(super) fn claims_same(one: &Value, other: &Value) -> bool {
    let mine = all_matches(one);
    one.pointer("/spec/hostnames") == other.pointer("/spec/hostnames")
        && all_matches(other).iter().any(|theirs| mine.contains(theirs))
}

/// The header matches of the first rule: the last one is the lane's.
pub(super) fn way(route: &Value) -> Way {
    let host = route.pointer("/spec/hostnames/0").and_then(Value::as_str).map(str::to_owned);
    let mut way = Way { host, ..Way::default() };
    let headers = route.pointer("/spec/rules/0/matches/0/headers").and_then(Value::as_array);
    let Some(last) = headers.and_then(|headers| headers.last()) else { return way };
    let text = |key: &str| last[key].as_str().unwrap_or_default().to_owned();
    let (name, value) = (text("name"), text("value"));
    if last["type"].as_str().unwrap_or("Exact") == "Exact" {
        way.header = Some((name, value));
        return way;
    }
    let cookie = value.strip_prefix(COOKIE_BEFORE).and_then(|rest| rest.strip_suffix(COOKIE_AFTER));
    match cookie {
        Some(pair) if name == "cookie" => way.header = Some((name, unescaped(pair))),
        _ => {
            let shown =
                value.strip_prefix(".*(?:").and_then(|rest| rest.strip_suffix(").*")).unwrap_or(&value);
            way.unsure = Some(format!("the route asks for a header `{name}` that matches `{shown}`"));
        }
    }
    way
}
