//! `http`: a request through the gateway, or to a host that the operator lists, and what is expected of its answer.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use graylane_engine::clock::{DURATION_PATTERN, parse_duration};
use graylane_engine::document::{Finding, step};
use graylane_engine::task::{TaskContext, TaskError};
use http_body_util::Full;
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::json_path::{self, JsonWith};
use super::reach::{Answer, HttpClient, fetch, forbidden, literal};
use super::samples::{LatencyBounds, Sample};
use crate::environment::Checks;
use crate::lane::labels::TAG_HEADER;
use crate::lane::route::Way;
use crate::rollout::times;
use crate::spec::check_duration;

const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_TIMEOUT: Duration = Duration::from_secs(120);
/// How much of a body is kept as a sample.
const KEPT_BODY: usize = 300;

/// Asks the gateway, or a host that the environment lists.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HttpWith {
    /// The path at the gateway, with what follows on a `?`.
    #[serde(default)]
    #[schemars(regex(pattern = "^/"), extend("x-expected" = "a path begins with `/`"))]
    pub path: Option<String>,
    /// In the place of `path`: a whole address, whose host the environment lists in `checks.hosts`.
    #[serde(default)]
    #[schemars(regex(pattern = "^https?://[^/@]+(/.*)?$"), extend("x-expected" = "an address is `http://HOST/PATH` or `https://HOST/PATH`"))]
    pub url: Option<String>,
    /// As whom: `lane` takes host and header from the lane's own route, `baseline` neither.
    #[serde(rename = "as", default)]
    pub as_whom: AsWhom,
    /// The method.
    #[serde(default)]
    pub method: Method,
    /// More headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The body, as a text.
    #[serde(default)]
    pub body: Option<String>,
    /// The body, as JSON; its content type is set.
    #[serde(default)]
    pub json: Option<Value>,
    /// How long one answer may take; 10s where nothing is said.
    #[serde(default)]
    #[schemars(regex(pattern = DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub timeout: Option<String>,
    /// How many requests are under way at once; one where nothing is said.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100))]
    pub concurrency: Option<u32>,
    /// What the answer must be like.
    #[serde(default)]
    pub expect: ExpectWith,
}

/// As whom the gateway is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum AsWhom {
    /// A user whom the route lets in.
    Lane,
    /// Everybody else.
    #[default]
    Baseline,
}

/// The method of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Method {
    /// Reads.
    #[default]
    Get,
    /// Reads only the head.
    Head,
    /// Asks what may be done.
    Options,
    /// Sends.
    Post,
    /// Puts.
    Put,
    /// Changes.
    Patch,
    /// Removes.
    Delete,
}

impl Method {
    fn name(self) -> http::Method {
        match self {
            Method::Get => http::Method::GET,
            Method::Head => http::Method::HEAD,
            Method::Options => http::Method::OPTIONS,
            Method::Post => http::Method::POST,
            Method::Put => http::Method::PUT,
            Method::Patch => http::Method::PATCH,
            Method::Delete => http::Method::DELETE,
        }
    }
}

/// What an answer must be like.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectWith {
    /// The status; 200 where nothing is said.
    #[serde(default)]
    #[schemars(range(min = 100, max = 599))]
    pub status: Option<u16>,
    /// A regular expression that the body must match somewhere.
    #[serde(default)]
    pub body_matches: Option<String>,
    /// A regular expression that the body must not match.
    #[serde(default)]
    pub body_excludes: Option<String>,
    /// What JSONPaths must find in the body.
    #[serde(default)]
    pub json: Vec<JsonWith>,
    /// How long the answers of all samples may take.
    #[serde(default)]
    pub latency: Option<LatencyWith>,
}

/// How long answers may take, by the share of them that must not take longer.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LatencyWith {
    /// Half of them.
    #[serde(default)]
    #[schemars(regex(pattern = DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub p50: Option<String>,
    /// 95 of a hundred.
    #[serde(default)]
    #[schemars(regex(pattern = DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub p95: Option<String>,
    /// 99 of a hundred.
    #[serde(default)]
    #[schemars(regex(pattern = DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub p99: Option<String>,
}

/// A request, ready to be sent; secrets in its headers are still marks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Request {
    url: String,
    method: Method,
    host: Option<String>,
    headers: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(default = "ten_seconds")]
    timeout_ms: u64,
    #[serde(default = "one")]
    pub(super) concurrency: u32,
}

fn ten_seconds() -> u64 {
    10_000
}

fn one() -> u32 {
    1
}

/// What is expected, ready to be compared.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Expectation {
    status: u16,
    matches: Option<String>,
    excludes: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    json: Vec<JsonWith>,
    #[serde(default)]
    pub(super) latency: LatencyBounds,
}

/// What no schema can say; `listed` and `gateway` are the environment's, where it is known.
pub(super) fn check(http: &Value, listed: Option<(&Checks, &str)>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(map) = http.as_object() else { return findings };
    match (map.contains_key("path"), map.contains_key("url")) {
        (true, false) | (false, true) => {}
        (false, false) => findings
            .push(Finding::at("", "`http` does not say where it asks").on_key().label("add `path` or `url`")),
        (true, true) => findings.push(
            Finding::at("/url", "`http` asks in two places").on_key().label("keep one of `path` and `url`"),
        ),
    }
    if map.contains_key("body") && map.contains_key("json") {
        let finding = Finding::at("/json", "`http` has two bodies").on_key();
        findings.push(finding.label("keep one of `body` and `json`"));
    }
    let bodiless = |method: &str| matches!(method, "GET" | "HEAD" | "OPTIONS");
    let method = map.get("method").map_or(Some("GET"), Value::as_str);
    if let Some(method) = method.filter(|method| bodiless(method)) {
        for key in ["body", "json"].into_iter().filter(|key| map.contains_key(*key)) {
            let finding = Finding::at(format!("/{key}"), format!("a {method} request has no body")).on_key();
            findings.push(finding.label("name a `method`, such as `POST`"));
        }
    }
    if let (Some(url), Some((checks, gateway))) = (map.get("url").and_then(Value::as_str), listed)
        && !url.contains("${{")
        && let Err(why) = may_ask(url, checks, gateway)
    {
        findings.push(Finding::at("/url", why.0).hint(why.1));
    }
    for key in ["body_matches", "body_excludes"] {
        pattern(http, &format!("/expect/{key}"), &mut findings);
    }
    let paths = http.pointer("/expect/json").and_then(Value::as_array).into_iter().flatten();
    for (index, json) in paths.enumerate() {
        let at = format!("/expect/json/{index}");
        pattern(http, &format!("{at}/matches"), &mut findings);
        if let Some(path) = json.get("path").and_then(Value::as_str).filter(|path| !path.contains("${{"))
            && let Some(why) = json_path::refusal(path)
        {
            findings.push(Finding::at(format!("{at}/path"), "not a JSONPath").label(why));
        }
        let asks = ["equals", "matches", "min", "max", "exists", "count"];
        if json.as_object().is_some_and(|map| !asks.iter().any(|key| map.contains_key(*key))) {
            let finding = Finding::at(format!("{at}/path"), "nothing is asked of what the path finds");
            findings
                .push(finding.label("add one of `equals`, `matches`, `min`, `max`, `exists` and `count`"));
        }
    }
    check_duration(map.get("timeout"), "/timeout", &mut findings);
    for key in ["p50", "p95", "p99"] {
        let at = format!("/expect/latency/{key}");
        check_duration(http.pointer(&at), &at, &mut findings);
    }
    for name in map.get("headers").and_then(Value::as_object).into_iter().flat_map(serde_json::Map::keys) {
        let at = step("/headers", name);
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            findings.push(Finding::at(&at, format!("`{name}` is not the name of a header")).on_key());
        }
        if name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(TAG_HEADER) {
            let finding = Finding::at(&at, format!("`{name}` cannot be set here")).on_key();
            findings.push(finding.label("`as` says as whom the gateway is asked"));
        }
    }
    findings
}

fn pattern(http: &Value, at: &str, findings: &mut Vec<Finding>) {
    let pattern = http.pointer(at).and_then(Value::as_str);
    if let Some(pattern) = pattern.filter(|pattern| !pattern.contains("${{"))
        && let Err(error) = Regex::new(pattern)
    {
        let why = error.to_string();
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        findings.push(Finding::at(at, "not a regular expression").label(why));
    }
}

/// Whether an address may be asked: the gateway's, or one that the operator lists. With what to do where it may not.
fn may_ask(url: &str, checks: &Checks, gateway: &str) -> Result<(), (String, String)> {
    let wrong = |why: &str| (format!("`{url}` {why}"), "write `https://HOST/PATH`".to_owned());
    let uri: http::Uri = url.parse().map_err(|_| wrong("is not an address"))?;
    let host = uri.host().ok_or_else(|| wrong("names no host"))?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(wrong("holds a name or a password: send it in a header, as a secret"));
    }
    if let Some(why) = literal(host).and_then(forbidden) {
        return Err((
            format!("`{host}` is {why}, and is never asked"),
            "ask the service itself, by a name that `checks.hosts` lists".into(),
        ));
    }
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let port = uri.port_u16().filter(|port| *port != usual);
    let same_gateway = gateway.parse::<http::Uri>().is_ok_and(|own| {
        own.host() == Some(host)
            && own.scheme_str() == uri.scheme_str()
            && own.port_u16().filter(|port| *port != usual) == port
    });
    if same_gateway || checks.allows_host(host, port) {
        return Ok(());
    }
    let written = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    Err((
        format!("the environment does not let checks ask `{written}`"),
        format!("ask the gateway by `path`, or let the operator add `{written}` to `checks.hosts`"),
    ))
}

impl HttpWith {
    /// The request, by the way in.
    pub(super) fn request(
        &self,
        route: Option<&Way>,
        baseline: Option<&str>,
        gateway: &str,
        checks: &Checks,
        tag: &str,
    ) -> Result<Request, String> {
        let mut headers = self.headers.clone();
        let host = match self.as_whom {
            // Where the lane has a route, everybody else is asked at the same door.
            AsWhom::Baseline => {
                route.and_then(|way| way.host.clone()).or_else(|| baseline.map(str::to_owned))
            }
            AsWhom::Lane => {
                let way = route.ok_or_else(|| format!("lane `{tag}` has no route: nobody can enter it"))?;
                let (name, value) = way.header.clone().ok_or_else(|| {
                    let why = way.unsure.clone().unwrap_or_default();
                    format!("no single request is sure to enter the lane: {why}")
                })?;
                headers.insert(name, value);
                way.host.clone()
            }
        };
        let (url, host) = match (&self.path, &self.url) {
            (Some(path), None) => (format!("{}{path}", gateway.trim_end_matches('/')), host),
            (None, Some(url)) => {
                may_ask(url, checks, gateway).map_err(|(why, hint)| format!("{why}: {hint}"))?;
                (url.clone(), None)
            }
            _ => return Err("one of `path` and `url` is wanted".into()),
        };
        let body = match (&self.body, &self.json) {
            (Some(body), None) => Some(body.clone()),
            (None, Some(json)) => {
                let named = |name: &String| name.eq_ignore_ascii_case("content-type");
                if !headers.keys().any(named) {
                    headers.insert("content-type".into(), "application/json".into());
                }
                Some(json.to_string())
            }
            (None, None) => None,
            (Some(_), Some(_)) => return Err("one of `body` and `json` is wanted".into()),
        };
        let timeout = self.timeout.as_deref().map(parse_duration).transpose()?.unwrap_or(TIMEOUT);
        Ok(Request {
            url,
            method: self.method,
            host,
            headers,
            body,
            timeout_ms: millis(timeout.min(MAX_TIMEOUT)),
            concurrency: self.concurrency.unwrap_or(1),
        })
    }

    pub(super) fn expectation(&self) -> Result<Expectation, String> {
        let bound =
            |written: Option<&String>| written.map(|text| parse_duration(text).map(millis)).transpose();
        let latency = self.expect.latency.clone().unwrap_or_default();
        Ok(Expectation {
            status: self.expect.status.unwrap_or(200),
            matches: self.expect.body_matches.clone(),
            excludes: self.expect.body_excludes.clone(),
            json: self.expect.json.clone(),
            latency: LatencyBounds {
                p50_ms: bound(latency.p50.as_ref())?,
                p95_ms: bound(latency.p95.as_ref())?,
                p99_ms: bound(latency.p99.as_ref())?,
            },
        })
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Request {
    /// The request in words; values of headers that were given are left out.
    pub(super) fn words(&self) -> String {
        let names: Vec<&str> = self.headers.keys().map(String::as_str).collect();
        let host = self.host.as_deref().map(|host| format!(" for {host}")).unwrap_or_default();
        let with = if names.is_empty() { String::new() } else { format!(" with {}", names.join(", ")) };
        format!("{} {}{host}{with}", self.method.name(), self.url)
    }

    /// What to know of a request that may change something.
    pub(super) fn changes(&self, name: &str, samples: u32) -> Option<String> {
        let reads = matches!(self.method, Method::Get | Method::Head | Method::Options);
        (!reads).then(|| {
            let times = times(samples.into());
            format!("check `{name}` sends {} {times}: what it changes is not taken back", self.method.name())
        })
    }
}

/// Sends one request.
pub(super) async fn look(
    cx: &TaskContext,
    client: &HttpClient,
    request: &Request,
    expect: &Expectation,
) -> Result<Sample, TaskError> {
    let mut builder = http::Request::builder().method(request.method.name()).uri(&request.url);
    if let Some(host) = &request.host {
        builder = builder.header(http::header::HOST, host);
    }
    let mut secrets = Vec::new();
    for (name, value) in &request.headers {
        builder = builder.header(name, cx.reveal(value)?);
        secrets.extend(cx.secrets_in(value)?);
    }
    let body = Bytes::from(request.body.clone().unwrap_or_default());
    // The builder's own words could repeat a header's value.
    let built = builder.body(Full::new(body)).map_err(|_| {
        TaskError::permanent(format!(
            "`{}` cannot be sent: a header or the path is not valid",
            request.words()
        ))
    })?;
    let begun = Instant::now();
    let answered = fetch(client, built, Duration::from_millis(request.timeout_ms)).await;
    let took = begun.elapsed();
    let compared = answered.and_then(|answer| compare(&answer, expect, &secrets));
    Ok(match compared {
        Ok(shown) => Sample::right(shown).took(took),
        Err(shown) => Sample::wrong(shown).took(took),
    })
}

fn compare(answer: &Answer, expect: &Expectation, secrets: &[String]) -> Result<String, String> {
    // A service may echo what it was sent: a secret is taken out before the answer is cut, which could halve it.
    let shown = |text: &str| -> String {
        let known = secrets.iter().filter(|secret| !secret.is_empty());
        let kept = known.fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "[secret]"));
        kept.trim().chars().take(KEPT_BODY).collect()
    };
    let (status, body) = (answer.status, answer.body.as_str());
    if status != expect.status {
        return Err(match &answer.location {
            Some(to) => {
                shown(&format!("{status}, {} was expected: to {to}, which is not followed", expect.status))
            }
            None => format!("{status}, {} was expected: {}", expect.status, shown(body)),
        });
    }
    // Patterns were checked with the file; one that came in by an expression may still be none.
    let compiled = |pattern: &Option<String>| pattern.as_deref().map(Regex::new).transpose();
    let (matches, excludes) = match (compiled(&expect.matches), compiled(&expect.excludes)) {
        (Ok(matches), Ok(excludes)) => (matches, excludes),
        (Err(error), _) | (_, Err(error)) => {
            return Err(format!("the expectation is not a regular expression: {error}"));
        }
    };
    if matches.is_some_and(|pattern| !pattern.is_match(body))
        || excludes.is_some_and(|pattern| pattern.is_match(body))
    {
        return Err(shown(body));
    }
    if !expect.json.is_empty() {
        let parsed: Value = serde_json::from_str(body)
            .map_err(|_| format!("{status}, and a body that is not JSON: {}", shown(body)))?;
        if let Some(why) = expect.json.iter().find_map(|expect| expect.complaint(&parsed)) {
            return Err(shown(&format!("{status}, and {why}")));
        }
    }
    Ok(shown(body))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn expect(value: Value) -> Expectation {
        let with: HttpWith = serde_json::from_value(json!({ "path": "/", "expect": value })).expect("valid");
        with.expectation().expect("valid")
    }

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, location: None, body: body.to_owned() }
    }

    #[test]
    fn an_answer_is_right_when_everything_about_it_is() {
        for (status, body, expectation, right) in [
            (200, "Agray[1] -> B[2]", json!({ "body_matches": r"^Agray\[" }), true),
            (200, "A[1] -> B[2]", json!({ "body_matches": r"^Agray\[" }), false),
            (200, "A[1]", json!({ "body_excludes": "gray" }), true),
            (200, "Agray[1]", json!({ "body_excludes": "gray" }), false),
            (502, "", json!({}), false),
            (201, "", json!({ "status": 201 }), true),
            (200, "x", json!({ "body_matches": "(" }), false),
            (200, r#"{"status":"UP"}"#, json!({ "json": [{ "path": "$.status", "equals": "UP" }] }), true),
            (200, r#"{"status":"DOWN"}"#, json!({ "json": [{ "path": "$.status", "equals": "UP" }] }), false),
            (200, "UP", json!({ "json": [{ "path": "$.status", "equals": "UP" }] }), false),
        ] {
            let said = compare(&answer(status, body), &expect(expectation.clone()), &[]);
            assert_eq!(said.is_ok(), right, "{status} {body} {expectation}: {said:?}");
        }
    }

    #[test]
    fn a_wrong_answer_says_what_was_expected_and_no_secret() {
        let secrets = ["abc123".to_owned()];
        let elsewhere =
            Answer { status: 302, location: Some("http://evil.test/?t=abc123".into()), body: String::new() };
        for (answer, expectation, words) in [
            (answer(401, "bad token abc123"), json!({}), "401, 200 was expected: bad token [secret]"),
            (
                elsewhere,
                json!({}),
                "302, 200 was expected: to http://evil.test/?t=[secret], which is not followed",
            ),
            (
                answer(200, "<html>"),
                json!({ "json": [{ "path": "$.a", "exists": true }] }),
                "200, and a body that is not JSON: <html>",
            ),
            (
                answer(200, r#"{"a":"abc123"}"#),
                json!({ "json": [{ "path": "$.a", "equals": 1 }] }),
                r#"200, and `$.a` is "[secret]", 1 was expected"#,
            ),
        ] {
            assert_eq!(compare(&answer, &expect(expectation), &secrets), Err(words.to_owned()));
        }
    }

    #[test]
    fn the_way_in_is_the_lanes_own() {
        let checks = Checks::default();
        let with: HttpWith = serde_json::from_value(json!({ "path": "/a", "as": "lane" })).expect("valid");
        let way = Way {
            host: Some("example.com".into()),
            header: Some(("x-user-id".into(), "100".into())),
            unsure: None,
        };
        let request =
            with.request(Some(&way), None, "http://127.0.0.1:1/", &checks, "gray").expect("a request");
        assert_eq!(request.words(), "GET http://127.0.0.1:1/a for example.com with x-user-id");
        assert!(with.request(None, None, "http://h", &checks, "gray").is_err());
        let unsure = Way { unsure: Some("the route lets in 10 % of all requests".into()), ..Way::default() };
        let why = with.request(Some(&unsure), None, "http://h", &checks, "gray").expect_err("refused");
        assert_eq!(
            why,
            "no single request is sure to enter the lane: the route lets in 10 % of all requests"
        );
    }

    #[test]
    fn only_the_gateway_and_listed_hosts_are_asked() {
        let checks = Checks {
            hosts: vec!["www.example.com".into(), "api.example.com:8443".into(), "169.254.169.254".into()],
            ..Checks::default()
        };
        let gateway = "http://gateway.example.com:8080";
        for (url, refused) in [
            ("https://www.example.com/a?b=c", None),
            ("https://www.example.com:443/a", None),
            ("http://www.example.com/a", None),
            ("https://api.example.com:8443/", None),
            ("http://gateway.example.com:8080/a", None),
            ("https://api.example.com/", Some("the environment does not let checks ask `api.example.com`")),
            (
                "https://gateway.example.com:8080/a",
                Some("the environment does not let checks ask `gateway.example.com:8080`"),
            ),
            (
                "https://www.example.com.evil.test/",
                Some("the environment does not let checks ask `www.example.com.evil.test`"),
            ),
            (
                "http://169.254.169.254/latest",
                Some("`169.254.169.254` is a link-local address, and is never asked"),
            ),
            (
                "http://[::ffff:a9fe:a9fe]/",
                Some("`[::ffff:a9fe:a9fe]` is a link-local address, and is never asked"),
            ),
            (
                "https://www.example.com@evil.test/",
                Some(
                    "`https://www.example.com@evil.test/` holds a name or a password: send it in a header, as a secret",
                ),
            ),
        ] {
            let answer = may_ask(url, &checks, gateway).err().map(|(why, _)| why);
            assert_eq!(answer.as_deref(), refused, "{url}");
        }
    }

    #[test]
    fn mistakes_are_found_in_the_file() {
        let checks = Checks::default();
        for (http, expected) in [
            (json!({}), vec![": `http` does not say where it asks (add `path` or `url`)"]),
            (
                json!({ "path": "/", "url": "http://h/" }),
                vec![
                    "/url: `http` asks in two places (keep one of `path` and `url`)",
                    "/url: the environment does not let checks ask `h` ()",
                ],
            ),
            (
                json!({ "path": "/", "body": "x" }),
                vec!["/body: a GET request has no body (name a `method`, such as `POST`)"],
            ),
            (
                json!({ "path": "/", "method": "POST", "body": "x", "json": {} }),
                vec!["/json: `http` has two bodies (keep one of `body` and `json`)"],
            ),
            (
                json!({ "path": "/", "expect": { "json": [{ "path": "$..a..b..c", "equals": 1 }, { "path": "$.a" }] } }),
                vec![
                    "/expect/json/0/path: not a JSONPath (`..` stands at most 2 times)",
                    "/expect/json/1/path: nothing is asked of what the path finds (add one of `equals`, `matches`, `min`, `max`, `exists` and `count`)",
                ],
            ),
            (json!({ "path": "/", "method": "POST", "json": { "a": 1 } }), vec![]),
        ] {
            let found: Vec<String> = check(&http, Some((&checks, "http://gateway")))
                .into_iter()
                .map(|finding| format!("{}: {} ({})", finding.pointer, finding.message, finding.label))
                .collect();
            assert_eq!(found, expected, "{http}");
        }
    }
}
