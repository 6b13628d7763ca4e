//! Routes that are Ingresses with canary annotations: what MSE, Higress and ingress-nginx have in common.
//!
//! Annotations and their precedence: Alibaba Cloud, "Annotations supported by MSE Ingress"; Higress and ingress-nginx, their own pages
//! on canary. What only one of them does is in its file.

use serde_json::Value;

use super::{Asked, Entry, Judgement, Way, unescaped, whose};
use crate::manifest::{map_at, texts};

pub(super) const CANARY: &str = "nginx.ingress.kubernetes.io/canary";
pub(super) const BY_HEADER: &str = "nginx.ingress.kubernetes.io/canary-by-header";
pub(super) const BY_HEADER_VALUE: &str = "nginx.ingress.kubernetes.io/canary-by-header-value";
pub(super) const BY_HEADER_PATTERN: &str = "nginx.ingress.kubernetes.io/canary-by-header-pattern";
pub(super) const BY_COOKIE: &str = "nginx.ingress.kubernetes.io/canary-by-cookie";
pub(super) const BY_COOKIE_VALUE: &str = "mse.ingress.kubernetes.io/canary-by-cookie-value";
pub(super) const WEIGHT: &str = "nginx.ingress.kubernetes.io/canary-weight";
/// MSE's own header control; open-source Higress reads [`HIGRESS_SET_HEADER`] only.
pub(super) const MSE_SET_HEADER: &str = "mse.ingress.kubernetes.io/request-header-control-update";
pub(super) const HIGRESS_SET_HEADER: &str = "higress.io/request-header-control-update";

/// Annotations that put other pods, or other Services, in the place of an Ingress's backend: on a copy they would lead back to
/// the baseline.
const ELSEWHERE: [&str; 3] = ["destination", "service-subset", "subset-labels"];

/// Writes who enters; `value` says how the kind wants a header's exact value. What the baseline says of canaries, of headers and of
/// where requests go is not the lane's.
pub(super) fn write_canary(ingress: &mut Value, entry: &Entry, value: impl Fn(&str) -> String) {
    let annotations = map_at(ingress, &["metadata", "annotations"]);
    annotations.retain(|key, _| {
        let ours = key.contains("ingress.kubernetes.io/") || key.starts_with("higress.io/");
        let short = key.rsplit('/').next().unwrap_or_default();
        let not_the_lanes = short.starts_with("canary")
            || short.starts_with("request-header-control")
            || ELSEWHERE.contains(&short);
        !(ours && not_the_lanes)
    });
    let mut set = |key: &str, value: String| annotations.insert(key.to_owned(), value.into());
    set(CANARY, "true".into());
    if let Some(header) = &entry.header {
        set(BY_HEADER, header.name.clone());
        if let Some(exact) = &header.value {
            set(BY_HEADER_VALUE, value(exact));
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

/// One path of an Ingress.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Place {
    pub(super) host: String,
    pub(super) path: String,
    pub(super) path_type: String,
    pub(super) service: String,
    pub(super) port: String,
}

impl Place {
    /// `example.com/a`.
    pub(super) fn shown(&self) -> String {
        let host = if self.host.is_empty() { "every host, " } else { &self.host };
        format!("{host}{}", self.path)
    }

    /// Whether a gateway pairs the two: same host, path and path type.
    pub(super) fn pairs(&self, other: &Place) -> bool {
        self.host.eq_ignore_ascii_case(&other.host)
            && self.path == other.path
            && self.path_type == other.path_type
    }
}

/// Every path of an Ingress that leads to a Service.
pub(super) fn places(ingress: &Value) -> Vec<Place> {
    let mut found = Vec::new();
    let mut add = |host: &str, path: &str, path_type: &str, backend: &Value| {
        let service = backend.pointer("/service/name").and_then(Value::as_str);
        let Some(service) = service else { return };
        let port = backend.pointer("/service/port/number").or_else(|| backend.pointer("/service/port/name"));
        found.push(Place {
            host: host.to_owned(),
            path: if path.is_empty() { "/".into() } else { path.to_owned() },
            path_type: path_type.to_owned(),
            service: service.to_owned(),
            port: port
                .map(|port| port.as_str().map_or_else(|| port.to_string(), str::to_owned))
                .unwrap_or_default(),
        });
    };
    let list = |value: &Value, pointer: &str| {
        value.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    for rule in list(ingress, "/spec/rules") {
        for path in list(&rule, "/http/paths") {
            add(&text(&rule, "host"), &text(&path, "path"), &text(&path, "pathType"), &path["backend"]);
        }
    }
    if let Some(backend) = ingress.pointer("/spec/defaultBackend") {
        add("", "/", "Prefix", backend);
    }
    found
}

/// The class, as the field or the older annotation says it.
pub(super) fn class(ingress: &Value) -> String {
    let field = ingress.pointer("/spec/ingressClassName").and_then(Value::as_str).map(str::to_owned);
    field
        .or_else(|| texts(ingress, "/metadata/annotations").remove("kubernetes.io/ingress.class"))
        .unwrap_or_default()
}

/// Whether an Ingress is a canary, under any of the prefixes.
pub(super) fn is_canary(ingress: &Value) -> bool {
    annotation(ingress, "canary").as_deref() == Some("true")
}

/// A canary annotation under any of the prefixes.
pub(super) fn annotation(ingress: &Value, key: &str) -> Option<String> {
    let annotations = texts(ingress, "/metadata/annotations");
    ["nginx.ingress.kubernetes.io", "mse.ingress.kubernetes.io", "higress.io"]
        .iter()
        .find_map(|prefix| annotations.get(&format!("{prefix}/{key}")).cloned())
}

/// Other Ingresses of the same class.
pub(super) fn same_class<'a>(asked: &Asked<'a>) -> impl Iterator<Item = &'a Value> + use<'a> {
    let wanted = class(asked.route);
    asked.others.iter().copied().filter(move |other| class(other) == wanted)
}

/// A canary without a base of the same host, path and path type is left out by every gateway of this family.
pub(super) fn has_bases(asked: &Asked<'_>, judgement: &mut Judgement) {
    let bases: Vec<Place> = same_class(asked).filter(|other| !is_canary(other)).flat_map(places).collect();
    for place in places(asked.route) {
        if bases.iter().any(|base| base.pairs(&place)) {
            continue;
        }
        let near = bases.iter().find(|base| base.host == place.host && base.path == place.path);
        let why = match near {
            Some(base) => format!(
                "the one on the cluster has pathType {}, the manifest {}",
                base.path_type, place.path_type
            ),
            None => "production was not brought up to its manifest".into(),
        };
        judgement.wrong.push(format!(
            "{} has no base on the cluster for {}, so the gateway would leave it out: {why}",
            crate::manifest::ObjectRef::of(asked.route),
            place.shown()
        ));
    }
}

/// Whether two Ingresses of a class take the same host and path, and neither is a canary.
pub(super) fn claims_same(one: &Value, other: &Value) -> bool {
    let mine = places(one);
    class(one) == class(other)
        && !is_canary(one)
        && !is_canary(other)
        && places(other).iter().any(|theirs| mine.iter().any(|place| place.pairs(theirs)))
}

/// Canaries of others at a place of this route.
pub(super) fn rivals<'a>(asked: &Asked<'a>) -> Vec<(&'a Value, Place)> {
    let mine = places(asked.route);
    same_class(asked)
        .filter(|other| is_canary(other))
        .filter_map(|other| {
            let place = places(other).into_iter().find(|place| mine.iter().any(|one| one.pairs(place)))?;
            Some((other, place))
        })
        .collect()
}

/// Gateways that take many canaries: the older one of two equals wins, and weights add up.
pub(super) fn shares_places(asked: &Asked<'_>, judgement: &mut Judgement) {
    let mine = way(asked.route);
    let mut sum = asked.entry.weight.unwrap_or(0);
    let mut with = Vec::new();
    for (other, place) in rivals(asked) {
        let theirs = way(other);
        if mine.header.is_some() && mine.header == theirs.header {
            judgement.wrong.push(format!(
                "{} lets the same requests in at {}: of two the gateway asks the older one, and this lane would never be met",
                whose(other),
                place.shown()
            ));
        }
        let weight: u32 = annotation(other, "canary-weight").and_then(|text| text.parse().ok()).unwrap_or(0);
        if asked.entry.weight.is_some() && theirs.header.is_none() && weight > 0 {
            sum += weight;
            with.push(format!("{} with {weight} %", whose(other)));
        }
    }
    if sum > 100 && !with.is_empty() {
        judgement
            .wrong
            .push(format!("weights add up to {sum} %: {} enters at the same place", with.join(", ")));
    }
}

/// The entry's Ingress must lead to the copy; `left` says what becomes of paths that lead elsewhere.
pub(super) fn leads_to_lane(ingress: &Value, tag: &str) -> Result<(), Vec<String>> {
    let suffix = super::super::gray_name("", tag);
    if places(ingress).iter().any(|place| place.service.ends_with(&suffix)) {
        return Ok(());
    }
    Err(vec![format!(
        "{} leads to no Service that the lane has a copy of, so nobody would meet the lane",
        crate::manifest::ObjectRef::of(ingress)
    )])
}

/// Reads the way in off an Ingress of any kind; which kind shows in who sets the tag header.
pub(super) fn way(ingress: &Value) -> Way {
    let annotations = texts(ingress, "/metadata/annotations");
    let get = |key: &str| annotation(ingress, key);
    let host = ingress.pointer("/spec/rules/0/host").and_then(Value::as_str).map(str::to_owned);
    let mut way = Way { host, ..Way::default() };
    let higress = annotations.contains_key(HIGRESS_SET_HEADER);
    match (get("canary-by-header"), get("canary-by-header-value"), get("canary-by-cookie")) {
        (Some(name), Some(value), _) => {
            way.header = Some((name, if higress { unescaped(&value) } else { value }));
        }
        (Some(name), None, _) => {
            let pattern = get("canary-by-header-pattern").unwrap_or_default();
            way.unsure = Some(format!("the route asks for a header `{name}` that matches `{pattern}`"));
        }
        (None, _, Some(cookie)) => {
            let value = get("canary-by-cookie-value").unwrap_or_else(|| "always".into());
            way.header = Some(("cookie".into(), format!("{cookie}={value}")));
        }
        (None, _, None) => {
            let weight = get("canary-weight").unwrap_or_default();
            way.unsure = Some(format!("the route lets in {weight} % of all requests"));
        }
    }
    way
}
