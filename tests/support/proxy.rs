//! A proxy before an API server, on loopback, that does to requests what real API servers and what stands before them do.
//! It writes down what a test must know and nobody tells: how long whoever was turned away stayed away, and how Deployments
//! stood at the moment of each write. It judges nothing.
//!
//! ```text
//! graylane --HTTP--> the proxy: one fault --HTTP or TLS, with the kubeconfig's credentials--> an API server
//! ```

use std::convert::Infallible;
use std::error::Error;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use tokio::sync::watch;
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
    /// From then on every connection ends at once, for so long, and so does every open watch.
    Away(Duration),
    /// The same, from when a watch or a list has told something that has these words in it.
    AwayOnceTold(&'static str, Duration),
    /// A watch ends after its first event.
    WatchEnds,
    /// A watch says that it fell behind (410).
    WatchGone,
    /// None of the proxy's: the API server calls a webhook of its own.
    Webhook,
}

/// Which requests it is done to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct On {
    /// What changes something; dry runs do not.
    pub(crate) mutating: bool,
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

/// Somebody was turned away (429, 5xx), and asked the same again.
#[derive(Debug, Clone)]
pub(crate) struct Again {
    pub(crate) asked: String,
    /// How many seconds to stay away it was told.
    pub(crate) told: Option<u32>,
    /// How long it stayed away; none where it never came again.
    pub(crate) after: Option<Duration>,
}

/// A write on its way, and the Deployments of its namespace at that moment.
#[derive(Debug, Clone)]
pub(crate) struct Witnessed {
    /// As `PATCH deployments/spring-cloud-a`.
    pub(crate) write: String,
    pub(crate) deployments: Vec<Value>,
}

/// The proxy; it ends with the runtime of its test.
pub(crate) struct Proxy {
    stage: Arc<Stage>,
    pub(crate) kubeconfig: PathBuf,
}

struct Stage {
    upstream: kube::Client,
    trouble: Mutex<Option<Trouble>>,
    matched: AtomicUsize,
    injected: AtomicUsize,
    away_since: Mutex<Option<Instant>>,
    /// Cuts open watches off, whenever it changes.
    cut: watch::Sender<()>,
    requests: AtomicUsize,
    writes: AtomicUsize,
    /// Who was turned away, by what was asked, and when.
    turned_away: Mutex<Vec<(u64, Instant, Again)>>,
    /// Whether what is up at each write is looked at.
    witnesses: bool,
    witnessed: Mutex<Vec<Witnessed>>,
}

impl Proxy {
    /// A proxy before the API server of a kubeconfig, and no trouble yet; its own kubeconfig is written to `file`.
    pub(crate) async fn before(kubeconfig: &Path, file: &Path) -> Proxy {
        Proxy::start(kubeconfig, file, true).await
    }

    /// The same, which only counts: what is up at each write is not looked at.
    pub(crate) async fn counting(kubeconfig: &Path, file: &Path) -> Proxy {
        Proxy::start(kubeconfig, file, false).await
    }

    async fn start(kubeconfig: &Path, file: &Path, witnesses: bool) -> Proxy {
        let stage = Arc::new(Stage {
            upstream: client(kubeconfig).await,
            trouble: Mutex::default(),
            matched: AtomicUsize::new(0),
            injected: AtomicUsize::new(0),
            away_since: Mutex::default(),
            cut: watch::Sender::new(()),
            requests: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
            turned_away: Mutex::default(),
            witnesses,
            witnessed: Mutex::default(),
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

    /// From now on this happens, and what is counted and written down is of what comes now.
    pub(crate) fn begin(&self, trouble: Trouble) {
        let stage = &self.stage;
        for count in [&stage.matched, &stage.injected, &stage.requests, &stage.writes] {
            count.store(0, Ordering::SeqCst);
        }
        stage.witnessed.lock().expect("not poisoned").clear();
        stage.turned_away.lock().expect("not poisoned").clear();
        *stage.trouble.lock().expect("not poisoned") = Some(trouble);
    }

    /// From now on everything goes well.
    pub(crate) fn lift(&self) {
        *self.stage.trouble.lock().expect("not poisoned") = None;
    }

    /// How often the fault happened.
    pub(crate) fn injected(&self) -> usize {
        self.stage.injected.load(Ordering::SeqCst)
    }

    /// How many requests came.
    pub(crate) fn requests(&self) -> usize {
        self.stage.requests.load(Ordering::SeqCst)
    }

    /// How many of them wrote something.
    pub(crate) fn writes(&self) -> usize {
        self.stage.writes.load(Ordering::SeqCst)
    }

    /// Who was turned away, and how long each stayed away.
    pub(crate) fn turned_away(&self) -> Vec<Again> {
        let all = self.stage.turned_away.lock().expect("not poisoned");
        all.iter().map(|(_, _, again)| again.clone()).collect()
    }

    /// Every write to Deployments and routes, and every delete, with what was up at its moment.
    pub(crate) fn witnessed(&self) -> Vec<Witnessed> {
        self.stage.witnessed.lock().expect("not poisoned").clone()
    }
}

/// A request, as far as faults go by it.
struct Asked {
    method: Method,
    path: String,
    query: String,
}

impl Asked {
    /// Namespace, resource and name, as far as there are any.
    fn place(&self) -> [&str; 3] {
        let mut parts = self.path.split('/').skip_while(|part| *part != "namespaces").skip(1);
        std::array::from_fn(|_| parts.next().unwrap_or_default())
    }

    fn resource(&self) -> &str {
        self.place()[1]
    }

    fn mutates(&self) -> bool {
        matches!(self.method.as_str(), "POST" | "PUT" | "PATCH" | "DELETE")
            && !self.path.contains("reviews")
            && !self.query.contains("dryRun")
    }

    fn watches(&self) -> bool {
        self.query.contains("watch=")
    }

    /// What is asked, whoever asks it from whenever on.
    fn digest(&self, body: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        let moving = |part: &&str| !["resourceVersion", "continue"].iter().any(|key| part.starts_with(key));
        let query: Vec<&str> = self.query.split('&').filter(moving).collect();
        (self.method.as_str(), self.path.as_str(), query, body).hash(&mut hasher);
        hasher.finish()
    }

    fn is(&self, on: &On) -> bool {
        (!on.mutating || self.mutates())
            && (!on.watch || self.watches())
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
        self.writes.fetch_add(usize::from(asked.mutates()), Ordering::SeqCst);
        let body = body.collect().await?.to_bytes();
        let digest = asked.digest(&body);
        self.came_again(digest);
        let fault = self.due(&asked);
        match &fault {
            Some(Fault::Answer { code, reason, message, retry_after, plain }) => {
                if matches!(code, 429 | 500..) {
                    let words = format!("{} {}?{}", asked.method, asked.path, asked.query);
                    let again = Again { asked: words, told: *retry_after, after: None };
                    let mut all = self.turned_away.lock().expect("not poisoned");
                    all.push((digest, Instant::now(), again));
                }
                return Ok(answer(*code, reason, message, *retry_after, *plain));
            }
            Some(Fault::ResetBefore | Fault::Away(_) | Fault::AwayOnceTold(..)) => return Err(reset()),
            Some(Fault::WatchGone) => return Ok(fell_behind()),
            Some(Fault::ResetAfter | Fault::WatchEnds | Fault::Webhook) | None => {}
        }
        self.witness(&asked).await?;
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
            _ if asked.watches() => Ok(Response::from_parts(parts, self.told(body))),
            None if asked.method == Method::GET && !asked.query.contains("follow=") => {
                let bytes = body.collect().await?.to_bytes();
                self.hears(&bytes);
                Ok(Response::from_parts(parts, whole(bytes)))
            }
            _ => Ok(Response::from_parts(parts, body.map_err(Failure::from).boxed_unsync())),
        }
    }

    fn came_again(&self, digest: u64) {
        let mut all = self.turned_away.lock().expect("not poisoned");
        let open = all.iter_mut().find(|(of, _, again)| *of == digest && again.after.is_none());
        if let Some((_, since, again)) = open {
            again.after = Some(since.elapsed());
        }
    }

    async fn witness(&self, asked: &Asked) -> Result<(), Failure> {
        let [namespace, resource, name] = asked.place();
        let looked_at = asked.method == Method::DELETE || matches!(resource, "deployments" | "ingresses");
        if !self.witnesses || !asked.mutates() || !looked_at {
            return Ok(());
        }
        let api = Api::<Deployment>::namespaced(self.upstream.clone(), namespace);
        let found = api.list(&ListParams::default()).await?;
        let deployments = found.items.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
        let write = format!("{} {resource}/{name}", asked.method);
        self.witnessed.lock().expect("not poisoned").push(Witnessed { write, deployments });
        Ok(())
    }

    /// What a watch tells, until it is cut off.
    fn told(self: &Arc<Self>, body: kube::client::Body) -> Body {
        let stage = Arc::clone(self);
        let open = Some((body, self.cut.subscribe()));
        let frames = futures::stream::unfold(open, move |open| {
            let stage = Arc::clone(&stage);
            async move {
                let (mut body, mut cut) = open?;
                let frame = tokio::select! {
                    // Nobody answers any more.
                    _ = cut.changed() => return Some((Err(reset()), None)),
                    frame = body.frame() => frame?,
                };
                if let Some(bytes) = frame.as_ref().ok().and_then(|frame| frame.data_ref()) {
                    stage.hears(bytes);
                }
                Some((frame.map_err(Failure::from), Some((body, cut))))
            }
        });
        StreamBody::new(frames).boxed_unsync()
    }

    /// Something is told: from then on nobody may answer any more.
    fn hears(&self, bytes: &[u8]) {
        let trouble = self.trouble.lock().expect("not poisoned").clone();
        if let Some(Trouble { fault: Fault::AwayOnceTold(words, _), .. }) = trouble
            && bytes.windows(words.len()).any(|found| found == words.as_bytes())
        {
            self.begin_away();
        }
    }

    fn begin_away(&self) {
        let mut since = self.away_since.lock().expect("not poisoned");
        if since.is_none() {
            *since = Some(Instant::now());
            self.cut.send_replace(());
        }
    }

    /// The fault that happens to this request.
    fn due(&self, asked: &Asked) -> Option<Fault> {
        let trouble = self.trouble.lock().expect("not poisoned").clone()?;
        if let Fault::Away(lasts) | Fault::AwayOnceTold(_, lasts) = &trouble.fault {
            let by_request = matches!(trouble.fault, Fault::Away(_)) && asked.is(&trouble.on);
            if by_request && self.matched.fetch_add(1, Ordering::SeqCst) >= trouble.from {
                self.begin_away();
            }
            let since = *self.away_since.lock().expect("not poisoned");
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
