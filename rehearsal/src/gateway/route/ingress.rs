//! Routes from Ingresses of one class: bases, the canaries that pair with them, and who is sent where.
//!
//! A canary Ingress pairs with a base of the same host, path and path type, and is ignored without one. What a kind reads differently
//! is asked of its `Rules`.

use http::HeaderMap;
use regex::Regex;
use serde_json::Value;

use super::{Destination, HeaderControl, PathType, Port, Question, age, host_rank, path_rank};
use crate::object::{self, int, list, text};

/// What kinds of gateway read differently.
pub(super) trait Rules: Sync + std::fmt::Debug {
    /// Before which keys canary annotations are read, in this order.
    fn prefixes(&self) -> &'static [&'static str];

    /// Before which key headers are controlled; none where they cannot be.
    fn control_prefix(&self) -> Option<&'static str>;

    /// Who goes to a canary, by its annotations; `None` where they say nothing that can be read.
    fn rule(&self, read: &dyn Fn(&str) -> Option<String>) -> Option<Rule>;

    /// Whether a canary is attached to every place of its primary Service, and alone there.
    fn by_upstream(&self) -> bool {
        false
    }
}

/// Who goes to a canary.
#[derive(Debug, Default)]
pub(super) struct Rule {
    pub(super) header: Option<HeaderMatch>,
    pub(super) cookie: Option<CookieMatch>,
    pub(super) weight: u64,
    pub(super) total: u64,
    /// Whether a request that header or cookie do not decide is weighted all the same.
    pub(super) weighted_always: bool,
}

#[derive(Debug)]
pub(super) struct HeaderMatch {
    pub(super) name: String,
    pub(super) value: Values,
}

#[derive(Debug)]
pub(super) struct CookieMatch {
    pub(super) name: String,
    pub(super) value: Values,
}

/// Which values let a request in.
#[derive(Debug)]
pub(super) enum Values {
    Is(String),
    Matches(Regex),
    /// `always` lets in, `never` keeps out whatever else is said.
    AlwaysOrNever,
}

/// What a rule says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    In,
    Out,
    Next,
}

impl Values {
    fn judge(&self, value: &str) -> Verdict {
        let lets = match self {
            Values::Is(wanted) => value == wanted,
            Values::Matches(pattern) => pattern.is_match(value),
            Values::AlwaysOrNever if value == "never" => return Verdict::Out,
            Values::AlwaysOrNever => value == "always",
        };
        if lets { Verdict::In } else { Verdict::Next }
    }

    fn judge_all<'v>(&self, values: impl Iterator<Item = &'v str>) -> Verdict {
        let verdicts = values.map(|value| self.judge(value)).filter(|verdict| *verdict != Verdict::Next);
        verdicts.into_iter().next().unwrap_or(Verdict::Next)
    }
}

impl Rule {
    fn by_header(&self, headers: &HeaderMap) -> Verdict {
        let Some(rule) = &self.header else { return Verdict::Next };
        let values = headers.get_all(rule.name.as_str()).iter().filter_map(|value| value.to_str().ok());
        rule.value.judge_all(values)
    }

    fn by_cookie(&self, headers: &HeaderMap) -> Verdict {
        let Some(rule) = &self.cookie else { return Verdict::Next };
        let lines = headers.get_all(http::header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        rule.value.judge_all(pairs.filter(|(key, _)| *key == rule.name).map(|(_, value)| value))
    }

    fn is_weighted(&self) -> bool {
        self.weight > 0 && (self.weighted_always || (self.header.is_none() && self.cookie.is_none()))
    }
}

/// The routes of one class.
#[derive(Debug)]
pub(super) struct Routes {
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

/// One path of one Ingress, before pairing.
struct Entry<'a> {
    ingress: &'a Value,
    host: String,
    path: String,
    path_type: PathType,
    to: Destination,
}

impl Routes {
    pub(super) fn build(ingresses: &[&Value], class: &str, rules: &'static dyn Rules) -> Self {
        let mut served: Vec<&Value> =
            ingresses.iter().copied().filter(|ingress| class_of(ingress) == class).collect();
        served.sort_by_key(|ingress| age(ingress));
        let read = |ingress: &Value, key: &str| canary(rules, ingress, key);
        let (canaries, bases): (Vec<&Value>, Vec<&Value>) =
            served.into_iter().partition(|ingress| read(ingress, "canary").as_deref() == Some("true"));
        let mut routes: Vec<Route> = Vec::new();
        for entry in bases.into_iter().flat_map(|ingress| entries(rules, ingress)) {
            let same = |route: &Route| {
                (&route.host, &route.path, route.path_type) == (&entry.host, &entry.path, entry.path_type)
            };
            // Of two that say the same place the older one counts.
            if !routes.iter().any(same) {
                let Entry { host, path, path_type, to, .. } = entry;
                routes.push(Route { host, path, path_type, base: to, canaries: Vec::new() });
            }
        }
        for entry in canaries.into_iter().flat_map(|ingress| entries(rules, ingress)) {
            let paired = routes.iter().position(|route| {
                (&route.host, &route.path, route.path_type) == (&entry.host, &entry.path, entry.path_type)
            });
            let Some(paired) = paired else { continue };
            let upstream = |to: &Destination| (to.namespace.clone(), to.service.clone(), to.port.clone());
            let primary = upstream(&routes[paired].base);
            if !rules.by_upstream() {
                if let Some(rule) = rules.rule(&|key| read(entry.ingress, key)) {
                    routes[paired].canaries.push(Canary { rule, to: entry.to });
                }
                continue;
            }
            // A Service that is somebody's primary is no canary's, and nobody is his own canary.
            let taken = routes.iter().any(|route| upstream(&route.base) == upstream(&entry.to));
            if taken {
                continue;
            }
            for route in routes.iter_mut().filter(|route| upstream(&route.base) == primary) {
                if route.canaries.is_empty()
                    && let Some(rule) = rules.rule(&|key| read(entry.ingress, key))
                {
                    route.canaries.push(Canary { rule, to: entry.to.clone() });
                }
            }
        }
        Self { routes }
    }

    pub(super) fn choose(
        &self,
        question: &Question<'_>,
        draw: &mut impl FnMut(u64) -> u64,
    ) -> Option<Vec<&Destination>> {
        let fits = |route: &Route| {
            Some((
                host_rank(&route.host, question.host)?,
                path_rank(route.path_type, &route.path, question.path)?,
            ))
        };
        let route = self
            .routes
            .iter()
            .filter_map(|route| Some((fits(route)?, route)))
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, route)| route)?;
        let mut chosen = Vec::new();
        chosen.extend(route.canary(question.headers, draw).map(|canary| &canary.to));
        chosen.push(&route.base);
        Some(chosen)
    }
}

impl Route {
    fn canary(&self, headers: &HeaderMap, draw: &mut impl FnMut(u64) -> u64) -> Option<&Canary> {
        for by in [Rule::by_header, Rule::by_cookie] {
            for one in &self.canaries {
                match by(&one.rule, headers) {
                    Verdict::In => return Some(one),
                    // Only kinds with one canary a place know `never`.
                    Verdict::Out => return None,
                    Verdict::Next => {}
                }
            }
        }
        self.by_weight(draw)
    }

    fn by_weight(&self, draw: &mut impl FnMut(u64) -> u64) -> Option<&Canary> {
        let weighted = || self.canaries.iter().filter(|one| one.rule.is_weighted());
        let sum: u64 = weighted().map(|one| one.rule.weight).sum();
        let total = weighted().map(|one| one.rule.total).max()?.max(sum);
        let mut left = draw(total);
        for one in weighted() {
            if left < one.rule.weight {
                return Some(one);
            }
            left -= one.rule.weight;
        }
        None
    }
}

fn class_of(ingress: &Value) -> String {
    let class = text(ingress, "/spec/ingressClassName");
    let old = || object::annotation(ingress, "kubernetes.io/ingress.class").unwrap_or_default();
    if class.is_empty() { old().to_owned() } else { class.to_owned() }
}

/// A canary annotation under a prefix that the kind reads.
fn canary(rules: &dyn Rules, ingress: &Value, key: &str) -> Option<String> {
    rules
        .prefixes()
        .iter()
        .find_map(|prefix| object::annotation(ingress, &format!("{prefix}/{key}")))
        .map(|text| text.trim().to_owned())
}

/// A whole number that an annotation gives.
pub(super) fn number(text: Option<String>, otherwise: u64) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(otherwise).min(1_000_000)
}

fn entries<'a>(rules: &dyn Rules, ingress: &'a Value) -> Vec<Entry<'a>> {
    let mut found = Vec::new();
    let mut add = |host: &str, path: &str, path_type: PathType, backend: &Value| {
        if let Some(to) = destination(rules, ingress, backend) {
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

fn destination(rules: &dyn Rules, ingress: &Value, backend: &Value) -> Option<Destination> {
    let service = &backend["service"];
    let port = match int(service, "/port/number") {
        Some(number) => Port::Number(number),
        None => Port::Name(text(service, "/port/name").to_owned()),
    };
    let name = text(service, "/name");
    let controlled =
        |key: &str| rules.control_prefix().map(|prefix| control(ingress, prefix, key)).unwrap_or_default();
    (!name.is_empty()).then(|| Destination {
        namespace: object::namespace(ingress).to_owned(),
        ingress: object::name(ingress).to_owned(),
        service: name.to_owned(),
        port,
        request: controlled("request-header-control"),
        response: controlled("response-header-control"),
        strict: false,
    })
}

/// One change a line, name and value parted by the first space; quotes around either are cut.
pub(super) fn control(ingress: &Value, prefix: &str, key: &str) -> HeaderControl {
    let said =
        |what: &str| object::annotation(ingress, &format!("{prefix}/{key}-{what}")).unwrap_or_default();
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
