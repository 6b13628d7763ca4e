//! Gateway API: the most specific match wins, and there is no fallback (HTTPRoute v1).
//!
//! A Service that is not there answers 500, one without ready pods 503. Which Gateway a route names is not looked at: there is one.

use std::cmp::Reverse;

use regex::Regex;
use serde_json::Value;

use super::{Destination, HeaderControl, Port, Question, age, host_rank};
use crate::object::{self, int, list, text};

/// The rules of all HTTPRoutes.
#[derive(Debug, Default)]
pub(super) struct Routes {
    matches: Vec<Match>,
}

/// One match of one rule, with where it leads.
#[derive(Debug)]
struct Match {
    hosts: Vec<String>,
    path: Path,
    method: Option<String>,
    headers: Vec<Condition>,
    query: Vec<Condition>,
    /// Weight by destination.
    to: Vec<(u64, Destination)>,
}

#[derive(Debug)]
enum Path {
    Exact(String),
    Prefix(String),
    Pattern(Regex),
}

#[derive(Debug)]
struct Condition {
    name: String,
    value: Wanted,
}

#[derive(Debug)]
enum Wanted {
    Is(String),
    Matches(Regex),
    /// A pattern that is none.
    Nothing,
}

impl Wanted {
    fn of(condition: &Value) -> Wanted {
        let value = text(condition, "/value");
        match text(condition, "/type") {
            "RegularExpression" => whole(value).map_or(Wanted::Nothing, Wanted::Matches),
            _ => Wanted::Is(value.to_owned()),
        }
    }

    fn holds(&self, value: &str) -> bool {
        match self {
            Wanted::Is(wanted) => value == wanted,
            Wanted::Matches(pattern) => pattern.is_match(value),
            Wanted::Nothing => false,
        }
    }
}

/// Patterns are compared with the whole value, as Envoy does it.
fn whole(pattern: &str) -> Option<Regex> {
    Regex::new(&format!("^(?:{pattern})$")).ok()
}

/// How specific a match is, in the order of the specification; then the older route, then the earlier rule.
type Rank = (usize, (u8, usize), bool, usize, usize, Reverse<usize>);

impl Routes {
    pub(super) fn build<'a>(routes: impl Iterator<Item = &'a Value>) -> Self {
        let mut routes: Vec<&Value> = routes.collect();
        routes.sort_by_key(|route| age(route));
        Self { matches: routes.into_iter().flat_map(matches_of).collect() }
    }

    pub(super) fn choose(
        &self,
        question: &Question<'_>,
        draw: &mut impl FnMut(u64) -> u64,
    ) -> Option<Vec<&Destination>> {
        let ranked =
            self.matches.iter().enumerate().filter_map(|(at, one)| Some((one.rank(question, at)?, one)));
        let (_, best) = ranked.max_by_key(|(rank, _)| *rank)?;
        let sum: u64 = best.to.iter().map(|(weight, _)| *weight).sum();
        if sum == 0 {
            return None;
        }
        let mut left = draw(sum);
        for (weight, to) in &best.to {
            if left < *weight {
                return Some(vec![to]);
            }
            left -= weight;
        }
        None
    }
}

impl Match {
    fn rank(&self, question: &Question<'_>, at: usize) -> Option<Rank> {
        let host = if self.hosts.is_empty() {
            Some(0)
        } else {
            self.hosts.iter().filter_map(|host| host_rank(host, question.host)).max()
        }?;
        let path = match &self.path {
            Path::Exact(path) => (path == question.path).then_some((2, path.len())),
            Path::Prefix(path) => {
                let prefix = path.trim_end_matches('/');
                let rest = question.path.strip_prefix(prefix)?;
                (rest.is_empty() || rest.starts_with('/')).then_some((1, prefix.len()))
            }
            Path::Pattern(pattern) => pattern.is_match(question.path).then_some((0, 0)),
        }?;
        if self.method.as_ref().is_some_and(|method| method != question.method) {
            return None;
        }
        let header = |one: &Condition| {
            let values = question.headers.get_all(one.name.as_str()).iter();
            values.filter_map(|value| value.to_str().ok()).any(|value| one.value.holds(value))
        };
        let query = |one: &Condition| {
            let pairs = question.query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(name, _)| *name == one.name).any(|(_, value)| one.value.holds(value))
        };
        let holds = self.headers.iter().all(header) && self.query.iter().all(query);
        holds.then_some((
            host,
            path,
            self.method.is_some(),
            self.headers.len(),
            self.query.len(),
            Reverse(at),
        ))
    }
}

fn matches_of(route: &Value) -> Vec<Match> {
    let hosts: Vec<String> = list(route, "/spec/hostnames")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_ascii_lowercase)
        .collect();
    let everything = [serde_json::json!({})];
    let mut found = Vec::new();
    for rule in list(route, "/spec/rules") {
        let given = list(rule, "/matches");
        for one in if given.is_empty() { &everything[..] } else { given } {
            let value = text(one, "/path/value");
            let value = if value.is_empty() { "/" } else { value };
            let path = match text(one, "/path/type") {
                "Exact" => Path::Exact(value.to_owned()),
                "RegularExpression" => match whole(value) {
                    Some(pattern) => Path::Pattern(pattern),
                    None => continue,
                },
                _ => Path::Prefix(value.to_owned()),
            };
            let conditions = |pointer: &str, lower: bool| {
                list(one, pointer)
                    .iter()
                    .map(|condition| {
                        let name = text(condition, "/name");
                        let name = if lower { name.to_ascii_lowercase() } else { name.to_owned() };
                        Condition { name, value: Wanted::of(condition) }
                    })
                    .collect()
            };
            found.push(Match {
                hosts: hosts.clone(),
                path,
                method: Some(text(one, "/method").to_owned()).filter(|method| !method.is_empty()),
                headers: conditions("/headers", true),
                query: conditions("/queryParams", false),
                to: list(rule, "/backendRefs")
                    .iter()
                    .map(|backend| destination(route, rule, backend))
                    .collect(),
            });
        }
    }
    found
}

fn destination(route: &Value, rule: &Value, backend: &Value) -> (u64, Destination) {
    let own = text(backend, "/namespace");
    let weight = int(backend, "/weight").and_then(|weight| u64::try_from(weight).ok()).unwrap_or(1);
    let mut to = Destination {
        namespace: if own.is_empty() { object::namespace(route) } else { own }.to_owned(),
        ingress: object::name(route).to_owned(),
        service: text(backend, "/name").to_owned(),
        port: Port::Number(int(backend, "/port").unwrap_or_default()),
        request: HeaderControl::default(),
        response: HeaderControl::default(),
        strict: true,
    };
    for filter in list(rule, "/filters").iter().chain(list(backend, "/filters")) {
        match text(filter, "/type") {
            "RequestHeaderModifier" => add(&mut to.request, &filter["requestHeaderModifier"]),
            "ResponseHeaderModifier" => add(&mut to.response, &filter["responseHeaderModifier"]),
            _ => {}
        }
    }
    (weight, to)
}

fn add(control: &mut HeaderControl, modifier: &Value) {
    let pairs = |key: &str| {
        list(modifier, key)
            .iter()
            .map(|pair| (text(pair, "/name").to_owned(), text(pair, "/value").to_owned()))
            .collect::<Vec<_>>()
    };
    control.update.extend(pairs("/set"));
    control.add.extend(pairs("/add"));
    control.remove.extend(list(modifier, "/remove").iter().filter_map(Value::as_str).map(str::to_owned));
}
