//! The API server: an HTTP request in, an answer out, as a tower service that `kube::Client` takes for its transport.
//!
//! ```text
//! request ── path ──> target (kind, namespace, name, subresource) ── verb ──> read | write | watch | discovery
//! ```
//! Everything but a watch is answered under one short lock and never waits. No answer is a panic, whatever the request
//! says; what is not understood gets the `Status` that Kubernetes would give.

pub(crate) mod delete;
pub(crate) mod discovery;
pub(crate) mod read;
mod table;
pub(crate) mod watch;
pub(crate) mod write;

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use serde_json::Value;

use crate::cluster::{Cluster, LoggedRequest};
use crate::kinds::{self, Kind};
use crate::object;
use crate::query::{Query, decode};
use crate::status::Failure;
use crate::store::Key;

/// The body of every answer: whole for objects, a stream of lines for watches.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// A cluster's API as a tower service; cheap to clone.
#[derive(Debug, Clone)]
pub struct Api {
    cluster: Cluster,
}

impl Api {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }

    /// Answers one request.
    pub async fn answer<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body + Send,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        let writes = !matches!(parts.method, Method::GET | Method::HEAD);
        let answer = match Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => self.dispatch(&Call::new(&parts, body.to_bytes())),
            Err(_) => Err(Failure::too_large()),
        };
        if writes && answer.is_ok() {
            self.cluster.saved().await;
        }
        answer.unwrap_or_else(|failure| failure_response(&failure))
    }

    fn dispatch(&self, call: &Call) -> Result<Response<Body>, Failure> {
        if self.cluster.is_out() {
            return Err(Failure::unavailable());
        }
        if let Some(answer) = discovery::answer(call, &self.cluster) {
            return answer;
        }
        let Some(target) = Target::parse(&call.path) else {
            // Who may not do it is not told whether the kind is served.
            let parts = path_parts(&call.path);
            if let (Some(asked), &Method::GET) = (Asked::read(&parts), &call.method) {
                let verb = if asked.name.is_empty() { "list" } else { "get" };
                self.cluster.authorize(verb, &asked, &call.user)?;
            }
            return Err(Failure::no_such_path());
        };
        let verb = target.verb(call)?;
        self.cluster.count_request(verb, &target.resource_with_subresource());
        let answer = self.authorize(verb, &target, call).and_then(|()| self.carry_out(verb, &target, call));
        if !matches!(verb, "get" | "list" | "watch") {
            self.log(call, &answer);
        }
        answer.map(|done| done.response)
    }

    /// Whether RBAC lets it happen: an apply of what is not there yet makes it, and needs the right to.
    fn authorize(&self, verb: &str, target: &Target, call: &Call) -> Result<(), Failure> {
        self.cluster.authorize(verb, &target.asked(), &call.user)?;
        if verb == "patch" && call.is_apply() && target.subresource.is_empty() {
            let key = Key::new(target.kind.resource, &target.namespace, &target.name);
            if self.cluster.with(|state| state.get(&key).is_none()) {
                self.cluster.authorize("create", &target.asked(), &call.user)?;
            }
        }
        Ok(())
    }

    fn carry_out(&self, verb: &str, target: &Target, call: &Call) -> Result<Done, Failure> {
        match verb {
            "watch" => watch::watch(&self.cluster, target, call).map(Done::plain),
            "get" | "list" => read::read(&self.cluster, target, call).map(Done::plain),
            _ => write::write(&self.cluster, verb, target, call),
        }
    }

    fn log(&self, call: &Call, answer: &Result<Done, Failure>) {
        let (code, uid) = match answer {
            Ok(done) => (done.response.status(), done.uid.clone()),
            Err(failure) => (failure.code, None),
        };
        self.cluster.log_request(LoggedRequest {
            method: call.method.to_string(),
            path: call.path.clone(),
            query: call.raw_query.clone(),
            user_agent: call.header(header::USER_AGENT).to_owned(),
            manager: call.manager(),
            dry_run: call.query.get("dryRun").is_some(),
            code: code.as_u16(),
            uid,
        });
    }
}

impl<B> tower::Service<Request<B>> for Api
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let api = self.clone();
        Box::pin(async move { Ok(api.answer(request).await) })
    }
}

/// A request with its body read.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) raw_query: String,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) user: String,
    pub(crate) body: Bytes,
}

impl Call {
    fn new(parts: &http::request::Parts, body: Bytes) -> Self {
        let raw_query = parts.uri.query().unwrap_or_default().to_owned();
        Self {
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
            query: Query::parse(&raw_query),
            raw_query,
            headers: parts.headers.clone(),
            user: "rehearsal".to_owned(),
            body,
        }
    }

    pub(crate) fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Whether the body is to be applied server-side.
    pub(crate) fn is_apply(&self) -> bool {
        let content = self.header(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
        matches!(content, "application/apply-patch+yaml" | "application/apply-patch+json")
    }

    /// The field manager: as given, or the first word of the user agent.
    pub(crate) fn manager(&self) -> String {
        let agent = self.header(header::USER_AGENT).split('/').next().unwrap_or_default();
        let agent = if agent.is_empty() { "unknown" } else { agent };
        self.query.get("fieldManager").unwrap_or(agent).to_owned()
    }

    /// The body as JSON; YAML is read too, where a manifest may be written so.
    pub(crate) fn json(&self) -> Result<Value, Failure> {
        if let Ok(value) = serde_json::from_slice(&self.body) {
            return Ok(value);
        }
        let kind = self.header(header::CONTENT_TYPE);
        if kind.contains("protobuf") {
            return Err(Failure::unsupported_media_type("application/json, application/yaml"));
        }
        let text = std::str::from_utf8(&self.body).unwrap_or_default();
        let read = if kind.contains("yaml") { serde_yaml::from_str::<Value>(text).ok() } else { None };
        read.ok_or_else(|| Failure::bad_request("the body of the request could not be read"))
    }
}

/// What a path asks for in RBAC's words, whether it is served or not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'p> {
    pub(crate) group: &'p str,
    pub(crate) plural: &'p str,
    pub(crate) subresource: &'p str,
    pub(crate) namespace: &'p str,
    pub(crate) name: &'p str,
}

impl<'p> Asked<'p> {
    fn read(parts: &'p [String]) -> Option<Self> {
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (group, rest) = match parts.as_slice() {
            ["api", _, rest @ ..] => ("", rest),
            ["apis", group, _, rest @ ..] => (*group, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (*plural, "", ""),
            [plural, name] => (*plural, *name, ""),
            [plural, name, subresource] => (*plural, *name, *subresource),
            _ => return None,
        };
        Some(Self { group, plural, subresource, namespace, name })
    }

    /// `deployments.apps`, the form in which rules name it here.
    pub(crate) fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The same with its subresource: `pods/log`.
    pub(crate) fn whole(&self) -> String {
        if self.subresource.is_empty() {
            self.resource()
        } else {
            format!("{}/{}", self.resource(), self.subresource)
        }
    }

    /// As a Role names it, without the group.
    pub(crate) fn below(&self) -> String {
        if self.subresource.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}/{}", self.plural, self.subresource)
        }
    }
}

fn path_parts(path: &str) -> Vec<String> {
    let parts = path.split('/').skip(1).map(|part| decode(part, false));
    parts.filter(|part| !part.is_empty()).collect()
}

/// What a path names.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) kind: &'static Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
}

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let parts = path_parts(path);
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let make = |namespace: &str, plural: &str, rest: &[&str]| {
            let kind = kinds::by_path(group, version, plural)?;
            let (name, subresource) = match rest {
                [] => ("", ""),
                [name] => (*name, ""),
                [name, subresource] if kind.has(subresource) => (*name, *subresource),
                _ => return None,
            };
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            Some(Self { kind, namespace, name, subresource: subresource.to_owned() })
        };
        match rest {
            ["namespaces", namespace, plural, rest @ ..] if !matches!(*plural, "status" | "finalize") => {
                make(namespace, plural, rest).filter(|target| target.kind.namespaced)
            }
            [plural, rest @ ..] => {
                make("", plural, rest).filter(|target| !target.kind.namespaced || target.name.is_empty())
            }
            [] => None,
        }
    }

    fn verb(&self, call: &Call) -> Result<&'static str, Failure> {
        let named = !self.name.is_empty();
        let watched = call.query.is_true("watch");
        if self.kind.namespaced && self.namespace.is_empty() && call.method != Method::GET {
            return Err(Failure::method_not_allowed());
        }
        match (&call.method, named) {
            (&Method::GET, true) => Ok("get"),
            (&Method::GET, false) if watched => Ok("watch"),
            (&Method::GET, false) => Ok("list"),
            (&Method::POST, false) => Ok("create"),
            (&Method::PUT, true) => Ok("update"),
            (&Method::PATCH, true) => Ok("patch"),
            (&Method::DELETE, true) if self.subresource.is_empty() => Ok("delete"),
            (&Method::DELETE, false) => Ok("deletecollection"),
            _ => Err(Failure::method_not_allowed()),
        }
    }

    pub(crate) fn asked(&self) -> Asked<'_> {
        Asked {
            group: self.kind.group,
            plural: self.kind.plural,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
        }
    }

    pub(crate) fn resource_with_subresource(&self) -> String {
        if self.subresource.is_empty() {
            self.kind.resource.to_owned()
        } else {
            format!("{}/{}", self.kind.resource, self.subresource)
        }
    }
}

/// An answer and, for the log, the object that it is about.
pub(crate) struct Done {
    pub(crate) response: Response<Body>,
    pub(crate) uid: Option<String>,
}

impl Done {
    pub(crate) fn plain(response: Response<Body>) -> Self {
        Self { response, uid: None }
    }

    pub(crate) fn object(code: StatusCode, value: &Value) -> Self {
        let uid = Some(object::uid(value)).filter(|uid| !uid.is_empty());
        let uid = uid.or_else(|| value.pointer("/details/uid").and_then(Value::as_str)).map(str::to_owned);
        Self { response: json_response(code, value), uid }
    }
}

/// An answer of one JSON document.
pub(crate) fn json_response(code: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(whole(value.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

pub(crate) fn text_response(text: String) -> Response<Body> {
    let mut response = Response::new(whole(text));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    response
}

fn failure_response(failure: &Failure) -> Response<Body> {
    json_response(failure.code, &failure.to_status())
}

fn whole(text: String) -> Body {
    Full::new(Bytes::from(text)).boxed_unsync()
}
