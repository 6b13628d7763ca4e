//! One request through the gateway, and what is expected of its answer.
//!
//! Asks the environment's gateway and nobody else, follows no redirect, and reads a bounded body.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use graylane_engine::document::{Finding, step};
use graylane_engine::task::{TaskContext, TaskError};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::lane::labels::TAG_HEADER;
use crate::lane::route::Way;

const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_BODY: usize = 1024 * 1024;
/// How much of a body is kept as a sample.
const KEPT_BODY: usize = 300;

/// Asks the gateway.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HttpWith {
    /// The path, with what follows on a `?`.
    #[schemars(regex(pattern = "^/"), extend("x-expected" = "a path begins with `/`"))]
    pub path: String,
    /// As whom: `lane` takes host and header from the lane's own route, `baseline` neither.
    #[serde(rename = "as", default)]
    pub as_whom: AsWhom,
    /// The method.
    #[serde(default)]
    pub method: Method,
    /// More headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
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
}

/// A request, ready to be sent; secrets in its headers are still marks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Request {
    url: String,
    method: Method,
    host: Option<String>,
    headers: BTreeMap<String, String>,
}

/// What is expected, ready to be compared.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Expectation {
    status: u16,
    matches: Option<String>,
    excludes: Option<String>,
}

/// What no schema can say.
pub(super) fn check(http: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    for key in ["body_matches", "body_excludes"] {
        let pattern = http.pointer(&format!("/expect/{key}")).and_then(Value::as_str);
        if let Some(pattern) = pattern.filter(|pattern| !pattern.contains("${{"))
            && let Err(error) = Regex::new(pattern)
        {
            let why = error.to_string();
            let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            findings.push(Finding::at(format!("/expect/{key}"), "not a regular expression").label(why));
        }
    }
    for name in http.get("headers").and_then(Value::as_object).into_iter().flat_map(serde_json::Map::keys) {
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            let at = step("/headers", name);
            findings.push(Finding::at(at, format!("`{name}` is not the name of a header")).on_key());
        }
        if name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(TAG_HEADER) {
            let at = step("/headers", name);
            let finding = Finding::at(at, format!("`{name}` cannot be set here")).on_key();
            findings.push(finding.label("`as` says as whom the gateway is asked"));
        }
    }
    findings
}

impl HttpWith {
    /// The request, by the way in.
    pub(super) fn request(
        &self,
        route: Option<&Way>,
        baseline: Option<&str>,
        gateway: &str,
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
        Ok(Request {
            url: format!("{}{}", gateway.trim_end_matches('/'), self.path),
            method: self.method,
            host,
            headers,
        })
    }

    pub(super) fn expectation(&self) -> Expectation {
        Expectation {
            status: self.expect.status.unwrap_or(200),
            matches: self.expect.body_matches.clone(),
            excludes: self.expect.body_excludes.clone(),
        }
    }
}

impl Request {
    /// The request in words; values of headers that were given are left out.
    pub(super) fn words(&self) -> String {
        let names: Vec<&str> = self.headers.keys().map(String::as_str).collect();
        let host = self.host.as_deref().map(|host| format!(" for {host}")).unwrap_or_default();
        let with = if names.is_empty() { String::new() } else { format!(" with {}", names.join(", ")) };
        let method = if self.method == Method::Head { "HEAD" } else { "GET" };
        format!("{method} {}{host}{with}", self.url)
    }
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client that opens a connection a request: a check shall meet what a new user meets.
pub(super) fn client() -> HttpClient {
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())
        .map(|builder| builder.https_or_http().enable_http1().build());
    let connector =
        connector.unwrap_or_else(|error| panic!("the compiled-in TLS settings are not valid: {error}"));
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)
}

/// Sends one request: `Ok` is a right answer, `Err` a wrong one, both as what is kept of them.
pub(super) async fn sample(
    cx: &TaskContext,
    client: &HttpClient,
    request: &Request,
    expect: &Expectation,
) -> Result<Result<String, String>, TaskError> {
    let method = if request.method == Method::Head { http::Method::HEAD } else { http::Method::GET };
    let mut builder = http::Request::builder().method(method).uri(&request.url);
    if let Some(host) = &request.host {
        builder = builder.header(http::header::HOST, host);
    }
    let mut secrets = Vec::new();
    for (name, value) in &request.headers {
        builder = builder.header(name, cx.reveal(value)?);
        secrets.extend(cx.secrets_in(value)?);
    }
    // The builder's own words could repeat a header's value.
    let built = builder.body(Full::new(Bytes::new())).map_err(|_| {
        TaskError::permanent(format!(
            "`{}` cannot be sent: a header or the path is not valid",
            request.words()
        ))
    })?;
    let answered = tokio::time::timeout(TIMEOUT, async {
        let response =
            client.request(built).await.map_err(|error| format!("no answer: {}", innermost(&error)))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|error| format!("{status}, and a body that breaks off: {error}"))?.to_bytes();
        Ok::<(u16, String), String>((status, String::from_utf8_lossy(&body).into_owned()))
    })
    .await;
    let (status, body) = match answered {
        Ok(Ok(answer)) => answer,
        Ok(Err(words)) => return Ok(Err(words)),
        Err(_) => return Ok(Err(format!("no answer within {} s", TIMEOUT.as_secs()))),
    };
    Ok(compare(status, &body, expect, &secrets))
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut at = error;
    while let Some(inner) = at.source() {
        at = inner;
    }
    at.to_string()
}

fn compare(status: u16, body: &str, expect: &Expectation, secrets: &[String]) -> Result<String, String> {
    // A service may echo what it was sent: a secret is taken out before the answer is cut, which could halve it.
    let known = secrets.iter().filter(|secret| !secret.is_empty());
    let kept = known.fold(body.to_owned(), |text, secret| text.replace(secret.as_str(), "[secret]"));
    let shown: String = kept.trim().chars().take(KEPT_BODY).collect();
    if status != expect.status {
        return Err(format!("{status}, {} was expected: {shown}", expect.status));
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
        return Err(shown);
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_right_when_everything_about_it_is() {
        let expect = |status, matches: Option<&str>, excludes: Option<&str>| Expectation {
            status,
            matches: matches.map(str::to_owned),
            excludes: excludes.map(str::to_owned),
        };
        for (status, body, expectation, right) in [
            (200, "Agray[1] -> B[2]", expect(200, Some(r"^Agray\["), None), true),
            (200, "A[1] -> B[2]", expect(200, Some(r"^Agray\["), None), false),
            (200, "A[1]", expect(200, None, Some("gray")), true),
            (200, "Agray[1]", expect(200, None, Some("gray")), false),
            (502, "", expect(200, None, None), false),
            (200, "x", expect(200, Some("("), None), false),
        ] {
            assert_eq!(compare(status, body, &expectation, &[]).is_ok(), right, "{status} {body}");
        }
        let echoed = compare(401, "bad token abc123", &expect(200, None, None), &["abc123".to_owned()]);
        assert_eq!(echoed, Err("401, 200 was expected: bad token [secret]".into()));
    }

    #[test]
    fn the_way_in_is_the_lanes_own() {
        let with: HttpWith =
            serde_json::from_value(serde_json::json!({ "path": "/a", "as": "lane" })).expect("valid");
        let way = Way {
            host: Some("example.com".into()),
            header: Some(("x-user-id".into(), "100".into())),
            unsure: None,
        };
        let request = with.request(Some(&way), None, "http://127.0.0.1:1/", "gray").expect("a request");
        assert_eq!(request.words(), "GET http://127.0.0.1:1/a for example.com with x-user-id");
        assert!(with.request(None, None, "http://h", "gray").is_err());
        let unsure = Way { unsure: Some("the route lets in 10 % of all requests".into()), ..Way::default() };
        let why = with.request(Some(&unsure), None, "http://h", "gray").expect_err("refused");
        assert_eq!(
            why,
            "no single request is sure to enter the lane: the route lets in 10 % of all requests"
        );
    }
}
