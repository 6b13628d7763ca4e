//! Carrying requests: from the route to an endpoint and back, a connection each.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::route::{Destination, GatewayKind, HeaderControl, Port, Question as Asked, Table};
use crate::delays::Random;
use crate::follow::Objects;
use crate::network::Network;
use crate::object::{int, list, text};
use crate::wire::{self, NoAnswer, Question};

const ROUTE: HeaderName = HeaderName::from_static("x-rehearsal-route");
const BODY_LIMIT: usize = 16 * 1024 * 1024;
/// Headers between two neighbours only.
const HOP: &[&str] =
    &["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// What the gateway knows at the moment.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) routes: Arc<Table>,
    pub(super) ingresses: Objects,
    pub(super) http_routes: Objects,
    pub(super) services: Objects,
    pub(super) endpoints: Objects,
}

impl View {
    /// Routes anew, after an Ingress or an HTTPRoute has changed.
    pub(super) fn build(&mut self, classes: &[(String, GatewayKind)]) {
        let (ingresses, http_routes) = (self.ingresses.values(), self.http_routes.values());
        let table = Table::build(ingresses.map(AsRef::as_ref), http_routes.map(AsRef::as_ref), classes);
        self.routes = Arc::new(table);
    }
}

pub(super) struct Proxy {
    view: Arc<Mutex<View>>,
    network: Network,
    retry_connect: bool,
    random: Mutex<Random>,
    turns: Mutex<HashMap<String, usize>>,
}

type Answer = Response<Full<Bytes>>;

impl Proxy {
    pub(super) fn new(view: Arc<Mutex<View>>, network: Network, retry_connect: bool, random: Random) -> Self {
        Self { view, network, retry_connect, random: Mutex::new(random), turns: Mutex::default() }
    }

    async fn carry(&self, request: Request<Incoming>, from: SocketAddr) -> Answer {
        let (parts, body) = request.into_parts();
        let host = parts.uri.host().map(str::to_owned).or_else(|| {
            parts.headers.get(header::HOST).and_then(|value| value.to_str().ok()).map(str::to_owned)
        });
        let host = host.unwrap_or_default();
        let asked = Asked {
            host: &host,
            path: parts.uri.path(),
            query: parts.uri.query().unwrap_or_default(),
            method: parts.method.as_str(),
            headers: &parts.headers,
        };
        let Some((to, endpoints)) = self.route(&asked) else {
            return plain(StatusCode::NOT_FOUND, "no route for this host and path");
        };
        if endpoints.is_empty() {
            let there = lock(&self.view).services.contains_key(&(to.namespace.clone(), to.service.clone()));
            let answer = match to.strict && !there {
                true => plain(StatusCode::INTERNAL_SERVER_ERROR, "the route names no Service"),
                false => plain(StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream"),
            };
            return marked(answer, &to);
        }
        let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
            return marked(plain(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"), &to);
        };
        let mut headers = parts.headers.clone();
        HOP.iter().for_each(|name| {
            headers.remove(*name);
        });
        if let Ok(value) = HeaderValue::from_str(&from.ip().to_string()) {
            headers.append("x-forwarded-for", value);
        }
        control(&mut headers, &to.request);
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let question = Question { method: parts.method, path, headers, body: body.to_bytes() };
        marked(self.ask(&question, &endpoints, &to).await, &to)
    }

    /// The destination of a request with its endpoints, beginning with the one whose turn it is.
    fn route(&self, asked: &Asked<'_>) -> Option<(Destination, Vec<(String, u16)>)> {
        let view = lock(&self.view);
        let chosen = view.routes.choose(asked, |bound| lock(&self.random).below(bound))?;
        let with_endpoints: Vec<_> = chosen.into_iter().map(|to| (to, endpoints(&view, to))).collect();
        // A canary without endpoints falls back to its base; a base without endpoints is what it is.
        let found = with_endpoints.iter().find(|(_, endpoints)| !endpoints.is_empty());
        let (to, mut endpoints) = found.or_else(|| with_endpoints.last()).cloned()?;
        if !endpoints.is_empty() {
            let mut turns = lock(&self.turns);
            let turn = turns.entry(format!("{}/{}", to.namespace, to.service)).or_default();
            *turn = turn.wrapping_add(1);
            let first = *turn % endpoints.len();
            endpoints.rotate_left(first);
        }
        Some((to.clone(), endpoints))
    }

    async fn ask(&self, question: &Question, endpoints: &[(String, u16)], to: &Destination) -> Answer {
        let tries = if self.retry_connect && question.method == Method::GET { 2 } else { 1 };
        let mut failure = plain(StatusCode::BAD_GATEWAY, "no upstream");
        for (ip, port) in endpoints.iter().cycle().take(tries) {
            match wire::ask(&self.network, ip, *port, question).await {
                Ok(response) => {
                    let (mut parts, body) = response.into_parts();
                    HOP.iter().for_each(|name| {
                        parts.headers.remove(*name);
                    });
                    control(&mut parts.headers, &to.response);
                    return Response::from_parts(parts, Full::new(body));
                }
                Err(NoAnswer::Refused(error)) => {
                    failure = plain(StatusCode::BAD_GATEWAY, &format!("upstream connect error: {error}"));
                }
                Err(broken) => return plain(StatusCode::BAD_GATEWAY, &format!("upstream error: {broken}")),
            }
        }
        failure
    }
}

/// The ready addresses and the port behind a destination.
fn endpoints(view: &View, to: &Destination) -> Vec<(String, u16)> {
    let key = (to.namespace.clone(), to.service.clone());
    let (Some(service), Some(endpoints)) = (view.services.get(&key), view.endpoints.get(&key)) else {
        return Vec::new();
    };
    let wanted = list(service, "/spec/ports").iter().find(|port| match &to.port {
        Port::Number(number) => int(port, "/port") == Some(*number),
        Port::Name(name) => text(port, "/name") == name,
    });
    let Some(wanted) = wanted else { return Vec::new() };
    let mut found = Vec::new();
    for subset in list(endpoints, "/subsets") {
        let same = |port: &&serde_json::Value| text(port, "/name") == text(wanted, "/name");
        let port = list(subset, "/ports").iter().find(same).and_then(|port| int(port, "/port"));
        let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else { continue };
        found
            .extend(list(subset, "/addresses").iter().map(|address| (text(address, "/ip").to_owned(), port)));
    }
    found
}

fn control(headers: &mut HeaderMap, rules: &HeaderControl) {
    for name in &rules.remove {
        headers.remove(name.as_str());
    }
    let parsed = |(name, value): &(String, String)| {
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
    };
    for (name, value) in rules.update.iter().filter_map(parsed) {
        headers.insert(name, value);
    }
    for (name, value) in rules.add.iter().filter_map(parsed) {
        headers.append(name, value);
    }
}

fn marked(mut answer: Answer, to: &Destination) -> Answer {
    if let Ok(value) = HeaderValue::from_str(&format!("{}/{}", to.namespace, to.ingress)) {
        answer.headers_mut().insert(ROUTE, value);
    }
    answer
}

fn plain(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *answer.status_mut() = status;
    answer
}

/// Accepts connections until stopped.
pub(super) async fn serve(listener: TcpListener, proxy: Arc<Proxy>, stop: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let (stream, from) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(_) => continue,
            },
        };
        let (proxy, stop) = (proxy.clone(), stop.clone());
        connections.spawn(async move {
            let handler = service_fn(|request| {
                let proxy = proxy.clone();
                async move { Ok::<_, std::convert::Infallible>(proxy.carry(request, from).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), handler);
            tokio::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::trace!(%error, "a connection to the gateway ended");
            }
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
