//! Routes from Ingresses, by MSE's rules; pure functions of objects and requests.
//!
//! A canary Ingress pairs with a base of the same host, path and path type, and is ignored without one. Header canaries
//! are asked first (the older before the younger), then cookies, then weights; a canary with a header or a cookie has no
//! weight. Both `nginx.` and `mse.` name canary annotations; header control is MSE's alone.

use http::HeaderMap;
use regex::Regex;
use serde_json::Value;

use crate::object::{self, int, list, text};

/// How a path is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PathType {
    Exact,
    Prefix,
    Implementation,
}

/// A place to send a request to, with what is to be done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) namespace: String,
    pub(super) ingress: String,
    pub(super) service: String,
    pub(super) port: Port,
    pub(super) request: HeaderControl,
    pub(super) response: HeaderControl,
}

/// A Service's port, as an Ingress names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Port {
    Number(i64),
    Name(String),
}

/// What happens to headers: removed, then set, then added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HeaderControl {
    pub(super) remove: Vec<String>,
    pub(super) update: Vec<(String, String)>,
    pub(super) add: Vec<(String, String)>,
}

/// All routes of a gateway.
#[derive(Debug, Default)]
pub(super) struct Table {
    routes: Vec<Route>,
}

#[derive(Debug)]
struct Route {
    host: String,
    path: String,
    path_type: PathType,
    base: Destination,
    canaries: Vec<Canary>,
}

#[derive(Debug)]
struct Canary {
    rule: Rule,
    to: Destination,
}

/// Who goes to a canary.
#[derive(Debug)]
struct Rule {
    header: Option<HeaderMatch>,
    cookie: Option<(String, String)>,
    weight: u64,
    total: u64,
}

#[derive(Debug)]
struct HeaderMatch {
    name: String,
    value: HeaderValueMatch,
}

#[derive(Debug)]
enum HeaderValueMatch {
    Is(String),
    Matches(Regex),
}

/// One path of one Ingress, before pairing.
struct Entry<'a> {
    ingress: &'a Value,
    host: String,
    path: String,
    path_type: PathType,
    to: Destination,
}

impl Table {
    /// Builds the routes from the Ingresses of the classes.
    pub(super) fn build<'a>(ingresses: impl Iterator<Item = &'a Value>, classes: &[String]) -> Self {
        let mut served: Vec<&Value> =
            ingresses.filter(|ingress| classes.contains(&class_of(ingress))).collect();
        served.sort_by_key(|ingress| {
            let since = text(ingress, "/metadata/creationTimestamp");
            (since, object::namespace(ingress), object::name(ingress))
        });
        let (canaries, bases): (Vec<&Value>, Vec<&Value>) =
            served.into_iter().partition(|ingress| canary(ingress, "canary") == Some("true"));
        let mut routes: Vec<Route> = Vec::new();
        for entry in bases.into_iter().flat_map(entries) {
            let same = |route: &Route| {
                (&route.host, &route.path, route.path_type) == (&entry.host, &entry.path, entry.path_type)
            };
            // Of two that say the same place the older one counts.
            if !routes.iter().any(same) {
                let Entry { host, path, path_type, to, .. } = entry;
                routes.push(Route { host, path, path_type, base: to, canaries: Vec::new() });
            }
        }
        for entry in canaries.into_iter().flat_map(entries) {
            let same = |route: &&mut Route| {
                (&route.host, &route.path, route.path_type) == (&entry.host, &entry.path, entry.path_type)
            };
            if let (Some(route), Some(rule)) = (routes.iter_mut().find(same), rule(entry.ingress)) {
                route.canaries.push(Canary { rule, to: entry.to });
            }
        }
        Self { routes }
    }

    /// The destinations of a request, the first that has endpoints to be taken; `None` where nothing routes it.
    /// `draw` gives a number below its argument.
    pub(super) fn choose(
        &self,
        host: &str,
        path: &str,
        headers: &HeaderMap,
        mut draw: impl FnMut(u64) -> u64,
    ) -> Option<Vec<&Destination>> {
        let without_port = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
        let host = without_port.map_or(host, |(host, _)| host);
        let host = host.to_ascii_lowercase();
        let route = self
            .routes
            .iter()
            .filter_map(|route| Some((host_rank(&route.host, &host)?, path_rank(route, path)?, route)))
            .max_by_key(|(host, path, _)| (*host, *path))
            .map(|(_, _, route)| route)?;
        let mut chosen = Vec::new();
        chosen.extend(route.canary(headers, &mut draw).map(|canary| &canary.to));
        chosen.push(&route.base);
        Some(chosen)
    }
}

impl Route {
    fn canary(&self, headers: &HeaderMap, draw: &mut impl FnMut(u64) -> u64) -> Option<&Canary> {
        let by_header =
            self.canaries.iter().find(|one| one.rule.header.as_ref().is_some_and(|rule| rule.holds(headers)));
        let by_cookie = || self.canaries.iter().find(|one| one.rule.cookie_holds(headers));
        by_header.or_else(by_cookie).or_else(|| self.by_weight(draw))
    }

    fn by_weight(&self, draw: &mut impl FnMut(u64) -> u64) -> Option<&Canary> {
        let weighted =
            |one: &&Canary| one.rule.header.is_none() && one.rule.cookie.is_none() && one.rule.weight > 0;
        let sum: u64 = self.canaries.iter().filter(weighted).map(|one| one.rule.weight).sum();
        let total = self.canaries.iter().filter(weighted).map(|one| one.rule.total).max()?.max(sum);
        let mut left = draw(total);
        for one in self.canaries.iter().filter(weighted) {
            if left < one.rule.weight {
                return Some(one);
            }
            left -= one.rule.weight;
        }
        None
    }
}

impl HeaderMatch {
    fn holds(&self, headers: &HeaderMap) -> bool {
        headers.get_all(self.name.as_str()).iter().filter_map(|value| value.to_str().ok()).any(|value| {
            match &self.value {
                HeaderValueMatch::Is(wanted) => value == wanted,
                HeaderValueMatch::Matches(pattern) => pattern.is_match(value),
            }
        })
    }
}

impl Rule {
    fn cookie_holds(&self, headers: &HeaderMap) -> bool {
        let Some((name, wanted)) = &self.cookie else { return false };
        let lines = headers.get_all(http::header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        lines
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .any(|(key, value)| key == name && value == wanted)
    }
}

fn class_of(ingress: &Value) -> String {
    let class = text(ingress, "/spec/ingressClassName");
    let old = || object::annotation(ingress, "kubernetes.io/ingress.class").unwrap_or_default();
    if class.is_empty() { old().to_owned() } else { class.to_owned() }
}

/// A canary annotation under either prefix.
fn canary<'a>(ingress: &'a Value, key: &str) -> Option<&'a str> {
    ["nginx.ingress.kubernetes.io", "mse.ingress.kubernetes.io"]
        .iter()
        .find_map(|prefix| object::annotation(ingress, &format!("{prefix}/{key}")))
        .map(str::trim)
}

fn rule(ingress: &Value) -> Option<Rule> {
    let header = match canary(ingress, "canary-by-header") {
        None => None,
        Some(name) => {
            let value = match (
                canary(ingress, "canary-by-header-value"),
                canary(ingress, "canary-by-header-pattern"),
            ) {
                (Some(value), _) => HeaderValueMatch::Is(value.to_owned()),
                // A pattern that is none matches nobody; the canary has a header, so it gets no weight either.
                (None, Some(pattern)) => HeaderValueMatch::Matches(Regex::new(pattern).ok()?),
                (None, None) => HeaderValueMatch::Is("always".to_owned()),
            };
            Some(HeaderMatch { name: name.to_ascii_lowercase(), value })
        }
    };
    let cookie = canary(ingress, "canary-by-cookie").map(|name| {
        (name.to_owned(), canary(ingress, "canary-by-cookie-value").unwrap_or("always").to_owned())
    });
    let number = |key: &str, otherwise: u64| {
        canary(ingress, key).and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    };
    let total = number("canary-weight-total", 100).max(1);
    Some(Rule { header, cookie, weight: number("canary-weight", 0).min(1_000_000), total })
}

fn entries(ingress: &Value) -> Vec<Entry<'_>> {
    let mut found = Vec::new();
    let mut add = |host: &str, path: &str, path_type: PathType, backend: &Value| {
        if let Some(to) = destination(ingress, backend) {
            let (host, path) = (host.to_ascii_lowercase(), path.to_owned());
            found.push(Entry { ingress, host, path, path_type, to });
        }
    };
    for rule in list(ingress, "/spec/rules") {
        for path in list(rule, "/http/paths") {
            let kind = match text(path, "/pathType") {
                "Exact" => PathType::Exact,
                "Prefix" => PathType::Prefix,
                _ => PathType::Implementation,
            };
            let said = text(path, "/path");
            let said = if said.is_empty() { "/" } else { said };
            add(text(rule, "/host"), said, kind, &path["backend"]);
        }
    }
    if ingress["spec"]["defaultBackend"].is_object() {
        add("", "/", PathType::Prefix, &ingress["spec"]["defaultBackend"]);
    }
    found
}

fn destination(ingress: &Value, backend: &Value) -> Option<Destination> {
    let service = &backend["service"];
    let port = match int(service, "/port/number") {
        Some(number) => Port::Number(number),
        None => Port::Name(text(service, "/port/name").to_owned()),
    };
    let name = text(service, "/name");
    (!name.is_empty()).then(|| Destination {
        namespace: object::namespace(ingress).to_owned(),
        ingress: object::name(ingress).to_owned(),
        service: name.to_owned(),
        port,
        request: control(ingress, "request-header-control"),
        response: control(ingress, "response-header-control"),
    })
}

fn control(ingress: &Value, key: &str) -> HeaderControl {
    let said = |what: &str| {
        object::annotation(ingress, &format!("mse.ingress.kubernetes.io/{key}-{what}")).unwrap_or_default()
    };
    let pairs = |text: &str| {
        let pair = |line: &str| {
            let (name, value) = line.trim().split_once(char::is_whitespace)?;
            Some((name.trim_matches('"').to_owned(), value.trim().trim_matches('"').to_owned()))
        };
        text.lines().filter_map(pair).collect()
    };
    HeaderControl {
        remove: said("remove")
            .split([',', '\n'])
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
        update: pairs(said("update")),
        add: pairs(said("add")),
    }
}

/// How well a rule's host fits: exactly, by wildcard, or because it names none.
fn host_rank(rule: &str, host: &str) -> Option<usize> {
    if rule.is_empty() {
        return Some(0);
    }
    if rule == host {
        return Some(2);
    }
    let suffix = rule.strip_prefix('*')?;
    let front = host.strip_suffix(suffix)?;
    (!front.is_empty() && !front.contains('.')).then_some(1)
}

/// How well a path fits: exact ones first, then the longest prefix by whole elements.
fn path_rank(route: &Route, path: &str) -> Option<(bool, usize)> {
    if route.path_type == PathType::Exact {
        return (route.path == path).then_some((true, route.path.len()));
    }
    let prefix = route.path.trim_end_matches('/');
    let rest = path.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some((false, prefix.len()))
}

#[cfg(test)]
mod tests;
