//! What a stand-in says: the demo's bodies, the next hop's behind its own, and the chain of images in a header.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;

use super::Registry;
use super::instance::{Instance, Role};
use crate::query::Query;
use crate::wire::{self, NoAnswer, Question};

/// The header that names every hop as `app=image@pod`.
const CHAIN: &str = "x-rehearsal-chain";
/// The header that carries the lane; it goes on unchanged, also through a pod that is on no lane.
const TAG: &str = "x-mse-tag";
/// Headers that go on to the next hop.
const CARRIED: &[&str] = &[TAG, "baggage", "x-user-id", "traceparent"];

pub(super) struct Answering {
    pub(super) registry: Arc<Registry>,
    pub(super) me: Arc<Instance>,
    pub(super) config: String,
}

/// What one hop, with all behind it, came to.
struct Said {
    status: StatusCode,
    body: String,
    chain: Vec<String>,
}

impl Answering {
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let path = request.uri().path();
        let said = match (self.me.role, path) {
            (_, "/healthz" | "/actuator/health" | "/readiness") => self.say("ok".to_owned()),
            (Role::Other, _) => self.say(format!("{}\n", self.me.app)),
            (Role::A, "/a") => self.then(self.own(), Role::B, "/b", request.headers()).await,
            (Role::A, "/aByFeign") => self.then(self.own(), Role::B, "/bByFeign", request.headers()).await,
            (Role::A, "/a2bc") => self.both(request.headers()).await,
            (Role::B, "/b") => self.then(self.own(), Role::C, "/c", request.headers()).await,
            (Role::B, "/bByFeign") | (Role::C, "/c-zone") => self.say(self.own()),
            (Role::C, "/c") if query.is_true("throwException") => {
                self.fail("java.lang.RuntimeException: thrown on demand")
            }
            (Role::C, "/c" | "/spring_boot") => self.say(self.own()),
            (_, "/flow") => {
                tokio::time::sleep(Duration::from_millis(5)).await;
                self.say(self.own())
            }
            (_, "/isolate") => {
                tokio::time::sleep(Duration::from_millis(500)).await;
                self.say(self.own())
            }
            _ => Said { status: StatusCode::NOT_FOUND, ..self.say(format!("404 page not found: {path}")) },
        };
        let mut response = Response::new(Full::new(Bytes::from(said.body)));
        *response.status_mut() = said.status;
        if let Ok(chain) = HeaderValue::from_str(&said.chain.join(", ")) {
            response.headers_mut().insert(CHAIN, chain);
        }
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain;charset=UTF-8"));
        response
    }

    /// `Agray[10.0.0.9][config=base]`, `B[10.0.0.2]`, `Cgray[10.0.0.11]`.
    fn own(&self) -> String {
        let own = format!("{}{}[{}]", self.me.role.letter(), self.me.tag, self.me.ip);
        if self.me.role == Role::A { format!("{own}[config={}]", self.config) } else { own }
    }

    fn hop(&self) -> String {
        format!("{}={}@{}", self.me.app, self.registry.image(&self.me), self.me.pod)
    }

    fn say(&self, body: String) -> Said {
        Said { status: StatusCode::OK, body, chain: vec![self.hop()] }
    }

    fn fail(&self, why: &str) -> Said {
        let body = format!("{{\"status\":500,\"error\":\"Internal Server Error\",\"message\":{why:?}}}");
        Said { status: StatusCode::INTERNAL_SERVER_ERROR, body, chain: vec![self.hop()] }
    }

    /// Says its own part and then what the next service says.
    async fn then(&self, own: String, role: Role, path: &str, headers: &HeaderMap) -> Said {
        let mut chain = vec![self.hop()];
        match self.call(role, path, headers).await {
            Ok(response) => {
                let rest = response.headers().get(CHAIN).and_then(|value| value.to_str().ok());
                chain.extend(rest.map(str::to_owned));
                let body = String::from_utf8_lossy(response.body()).into_owned();
                let status = response.status();
                if status.is_success() {
                    Said { status, body: format!("{own} -> {body}"), chain }
                } else {
                    Said { chain, ..self.fail(&format!("{own} -> {} : {body}", status.as_u16())) }
                }
            }
            Err(why) => Said { chain, ..self.fail(&why) },
        }
    }

    async fn both(&self, headers: &HeaderMap) -> Said {
        let direct = self.then(self.own(), Role::C, "/c", headers).await;
        let through = self.then(self.own(), Role::B, "/b", headers).await;
        let status = if direct.status.is_success() { through.status } else { direct.status };
        let mut chain = direct.chain;
        chain.extend(through.chain);
        Said { status, body: format!("{}\n{}", direct.body, through.body), chain }
    }

    /// Calls an instance of a service; one that refuses is followed by one other try.
    async fn call(&self, role: Role, path: &str, headers: &HeaderMap) -> Result<Response<Bytes>, String> {
        let tag = headers.get(TAG).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let candidates = self.registry.candidates(&self.me, role, tag);
        let Some(port) = candidates.first().and_then(|one| one.ports.first().copied()) else {
            return Err(format!("No instances available for sc-{}", role.letter()));
        };
        let mut carried = HeaderMap::new();
        for name in CARRIED {
            if let Some(value) = headers.get(*name) {
                carried.insert(*name, value.clone());
            }
        }
        carried.insert(http::header::HOST, HeaderValue::from_static("service"));
        let question =
            Question { method: Method::GET, path: path.to_owned(), headers: carried, body: Bytes::new() };
        let mut said = String::new();
        // With one instance left, the second try goes to the same one, which may have come back.
        for one in candidates.iter().cycle().take(2) {
            match wire::ask(&self.registry.network, &one.ip, port, &question).await {
                Ok(response) => return Ok(response),
                Err(NoAnswer::Refused(error)) => {
                    said = format!("I/O error on GET request for {path}: {error}")
                }
                Err(broken) => return Err(format!("I/O error on GET request for {path}: {broken}")),
            }
        }
        Err(said)
    }
}
