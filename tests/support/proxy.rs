//! A proxy before an API server, on loopback, that does to requests what real API servers and what stands before them do.
//!
//! ```text
//! graylane --HTTP--> the proxy: one fault --HTTP or TLS, with the kubeconfig's credentials--> an API server
//! ```

use std::convert::Infallible;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::client;

type Failure = Box<dyn Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, Failure>;

/// What is done to a request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// It is answered so, and never reaches the API server.
    Answer { code: u16, reason: &'static str, message: String, retry_after: Option<u32>, plain: bool },
    /// The connection ends before it was carried out.
    ResetBefore,
    /// It is carried out, and the connection ends before the answer.
    ResetAfter,
    /// From then on every connection ends at once, for so long.
    Away(Duration),
    /// A watch ends after its first event.
    WatchEnds,
    /// A watch says that it fell behind (410).
    WatchGone,
    /// A webhook adds an annotation to every pod template.
    Mutates,
}

/// Which requests it is done to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct On {
    pub(crate) mutating: bool,
    /// Where something is mutated: also what is only tried.
    pub(crate) dry: bool,
    pub(crate) watch: bool,
    /// Of one resource alone.
    pub(crate) resource: Option<&'static str>,
    /// By one method alone.
    pub(crate) method: Option<&'static str>,
}

/// A fault, where it happens and how often.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    pub(crate) fault: Fault,
    pub(crate) on: On,
    /// How many such requests go well before it.
    pub(crate) from: usize,
    pub(crate) times: usize,
}

/// The proxy; it ends with the runtime of its test.
pub(crate) struct Proxy {
    stage: Arc<Stage>,
    pub(crate) kubeconfig: PathBuf,
}

struct Stage {
    upstream: kube::Client,
    trouble: Option<Trouble>,
    lifted: AtomicBool,
    matched: AtomicUsize,
    injected: AtomicUsize,
    away_since: Mutex<Option<Instant>>,
    requests: AtomicUsize,
}

impl Proxy {
    /// A proxy before the API server of a kubeconfig; its own is written to `file`.
    pub(crate) async fn before(kubeconfig: &Path, file: &Path, trouble: Option<Trouble>) -> Proxy {
        let stage = Arc::new(Stage {
            upstream: client(kubeconfig).await,
            trouble,
            lifted: AtomicBool::new(false),
            matched: AtomicUsize::new(0),
            injected: AtomicUsize::new(0),
            away_since: Mutex::default(),
            requests: AtomicUsize::new(0),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let serving = Arc::clone(&stage);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stage = Arc::clone(&serving);
                let serve = hyper::service::service_fn(move |request| Arc::clone(&stage).pass(request));
                tokio::spawn(async move {
                    // Connections are cut off here on purpose.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), serve)
                        .await;
                });
            }
        });
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{ name: c, cluster: {{ server: \"http://{address}\" }} }}]\nusers: [{{ name: u, user: {{}} }}]\ncontexts: [{{ name: x, context: {{ cluster: c, user: u }} }}]\ncurrent-context: x\n"
        );
        std::fs::write(file, text).expect("written");
        Proxy { stage, kubeconfig: file.to_owned() }
    }

    /// From now on everything goes well.
    pub(crate) fn lift(&self) {
        self.stage.lifted.store(true, Ordering::SeqCst);
    }

    /// How often the fault happened.
    pub(crate) fn injected(&self) -> usize {
        self.stage.injected.load(Ordering::SeqCst)
    }

    /// How many requests came.
    pub(crate) fn requests(&self) -> usize {
        self.stage.requests.load(Ordering::SeqCst)
    }
}

/// A request, as far as faults go by it.
struct Asked {
    method: Method,
    path: String,
    query: String,
}

impl Asked {
    fn resource(&self) -> &str {
        let parts: Vec<&str> = self.path.split('/').collect();
        let at = parts.iter().position(|part| *part == "namespaces").map_or(0, |at| at + 2);
        parts.get(at).copied().unwrap_or_default()
    }

    fn is(&self, on: &On) -> bool {
        let mutates = matches!(self.method.as_str(), "POST" | "PUT" | "PATCH" | "DELETE")
            && !self.path.contains("reviews");
        let watches = self.query.contains("watch=");
        (!on.mutating || mutates && (on.dry || !self.query.contains("dryRun")))
            && (!on.watch || watches)
            && on.resource.is_none_or(|wanted| wanted == self.resource())
            && on.method.is_none_or(|wanted| wanted == self.method.as_str())
    }
}

fn reset() -> Failure {
    "the connection is cut off".into()
}

impl Stage {
    async fn pass(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let (head, body) = request.into_parts();
        let asked = Asked {
            method: head.method.clone(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
        };
        let mut body = body.collect().await?.to_bytes();
        let fault = self.due(&asked);
        match &fault {
            Some(Fault::Answer { code, reason, message, retry_after, plain }) => {
                return Ok(answer(*code, reason, message, *retry_after, *plain));
            }
            Some(Fault::ResetBefore | Fault::Away(_)) => return Err(reset()),
            Some(Fault::WatchGone) => return Ok(fell_behind()),
            Some(Fault::Mutates) => body = mutated(&body),
            Some(Fault::ResetAfter | Fault::WatchEnds) | None => {}
        }
        // In a task of its own: what was sent is carried out, whoever still waits for it.
        let upstream = self.upstream.clone();
        let carried_out = tokio::spawn(async move {
            let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
            let mut request = Request::builder().method(head.method).uri(path);
            for name in [CONTENT_TYPE, hyper::header::ACCEPT, hyper::header::USER_AGENT] {
                if let (Some(value), Some(headers)) = (head.headers.get(&name), request.headers_mut()) {
                    headers.insert(name, value.clone());
                }
            }
            upstream.send(request.body(kube::client::Body::from(body.to_vec()))?).await.map_err(Failure::from)
        });
        let (mut parts, body) = carried_out.await??.into_parts();
        for name in
            [hyper::header::TRANSFER_ENCODING, hyper::header::CONTENT_LENGTH, hyper::header::CONNECTION]
        {
            parts.headers.remove(name);
        }
        match fault {
            Some(Fault::ResetAfter) => {
                body.collect().await?;
                Err(reset())
            }
            Some(Fault::WatchEnds) => {
                let mut body = body;
                let first = body.frame().await.transpose()?.and_then(|frame| frame.into_data().ok());
                Ok(Response::from_parts(parts, whole(first.unwrap_or_default())))
            }
            _ => Ok(Response::from_parts(parts, body.map_err(Failure::from).boxed_unsync())),
        }
    }

    /// The fault that happens to this request.
    fn due(&self, asked: &Asked) -> Option<Fault> {
        let trouble = self.trouble.as_ref().filter(|_| !self.lifted.load(Ordering::SeqCst))?;
        if let Fault::Away(lasts) = &trouble.fault {
            let mut since = self.away_since.lock().expect("not poisoned");
            let matched =
                asked.is(&trouble.on) && self.matched.fetch_add(1, Ordering::SeqCst) >= trouble.from;
            if since.is_none() && matched {
                *since = Some(Instant::now());
            }
            let away = since.is_some_and(|since| since.elapsed() < *lasts);
            self.injected.fetch_add(usize::from(away), Ordering::SeqCst);
            return away.then(|| trouble.fault.clone());
        }
        if !asked.is(&trouble.on) || self.matched.fetch_add(1, Ordering::SeqCst) < trouble.from {
            return None;
        }
        let before = self.injected.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |injected| {
            (injected < trouble.times).then_some(injected + 1)
        });
        before.is_ok().then(|| trouble.fault.clone())
    }
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn answer(code: u16, reason: &str, message: &str, retry_after: Option<u32>, plain: bool) -> Response<Body> {
    let mut details = json!({});
    if let Some(seconds) = retry_after.filter(|_| !plain) {
        details = json!({ "retryAfterSeconds": seconds });
    }
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "reason": reason, "message": message, "code": code, "details": details,
    });
    // Filters in front of an API server answer in a sentence, and say when to come again in a header alone.
    let text = if plain { message.to_owned() } else { status.to_string() };
    let mut response = Response::new(whole(Bytes::from(text)));
    *response.status_mut() = StatusCode::from_u16(code).expect("a status");
    let kind = if plain { "text/plain" } else { "application/json" };
    headers(response.headers_mut(), kind, retry_after);
    response
}

fn headers(headers: &mut HeaderMap, kind: &'static str, retry_after: Option<u32>) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(seconds) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
}

fn fell_behind() -> Response<Body> {
    let event = json!({ "type": "ERROR", "object": {
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410,
        "message": "too old resource version: 1 (2)",
    } });
    let mut response = Response::new(whole(Bytes::from(format!("{event}\n"))));
    headers(response.headers_mut(), "application/json", None);
    response
}

/// What a webhook makes of a Deployment.
fn mutated(body: &Bytes) -> Bytes {
    let Ok(mut object) = serde_json::from_slice::<Value>(body) else { return body.clone() };
    if object.pointer("/spec/template/metadata").is_none() {
        return body.clone();
    }
    object["spec"]["template"]["metadata"]["annotations"]["policy.example.com/seen"] = "yes".into();
    Bytes::from(object.to_string())
}
