//! The gateway: real HTTP on loopback, routed by the cluster's Ingresses and HTTPRoutes as each kind of gateway does.
//!
//! ```text
//! request ── Host, path ──> base route ── header, cookie, weight ──> its canaries ──> endpoints ──> pod
//! ```
//! It follows the API as any client would, a little behind: routes by up to seconds, endpoints by less. That a change is
//! stored does not mean that it is routed, and whoever releases through it has to know.

mod proxy;
mod route;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::delays::{Delays, Random, Span};
use crate::error::Error;
use crate::follow::{Following, follow};
use crate::network::Network;
use proxy::{Proxy, View};
pub use route::GatewayKind;

/// How a gateway behaves.
#[derive(Debug, Clone)]
pub struct GatewayOptions {
    /// The ingress classes that it serves, and by whose rules it reads each. HTTPRoutes are served besides.
    pub classes: Vec<(String, GatewayKind)>,
    /// How far it follows behind the API.
    pub delays: Delays,
    /// Where its randomness begins.
    pub seed: u64,
    /// The one namespace whose routes it serves; `None` serves all.
    pub namespace: Option<String>,
    /// Whether a GET whose connection is refused goes to another endpoint once. MSE does this by default; without it a
    /// drain that comes too late shows.
    pub retry_connect: bool,
}

impl Default for GatewayOptions {
    fn default() -> Self {
        Self {
            classes: every_kind(),
            delays: Delays::realistic(),
            seed: 1,
            namespace: None,
            retry_connect: false,
        }
    }
}

/// Every kind, under the class that it has by default.
pub(crate) fn every_kind() -> Vec<(String, GatewayKind)> {
    let kinds =
        [("mse", GatewayKind::Mse), ("higress", GatewayKind::Higress), ("nginx", GatewayKind::IngressNginx)];
    kinds.map(|(class, kind)| (class.to_owned(), kind)).into()
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Gateway {
    /// Listens and follows; port 0 takes a free one.
    pub async fn start(
        client: kube::Client,
        network: Network,
        listen: SocketAddr,
        options: GatewayOptions,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let view: Arc<Mutex<View>> = Arc::default();
        let mut random = Random::new(options.seed ^ 0x6761_7465);
        let mut following = |group, version, kind, lag| Following {
            client: client.clone(),
            namespace: options.namespace.clone(),
            group,
            version,
            kind,
            lag,
            random: Random::new(random.next()),
            stop: stop.clone(),
        };
        let ingresses = following("networking.k8s.io", "v1", "Ingress", options.delays.gateway_routes);
        let http_routes =
            following("gateway.networking.k8s.io", "v1", "HTTPRoute", options.delays.gateway_routes);
        let services = following("", "v1", "Service", Span::millis(0, 0));
        let endpoints = following("", "v1", "Endpoints", options.delays.gateway_endpoints);
        let change = |view: &Arc<Mutex<View>>| view.clone();
        let (of_services, of_endpoints) = (change(&view), change(&view));
        let (of_ingresses, of_http_routes) = (change(&view), change(&view));
        let classes = Arc::new(options.classes.clone());
        let same = Arc::clone(&classes);
        tasks.spawn(follow(ingresses, move |objects| {
            with(&of_ingresses, |view| {
                view.ingresses = objects.clone();
                view.build(&classes);
            });
        }));
        tasks.spawn(follow(http_routes, move |objects| {
            with(&of_http_routes, |view| {
                view.http_routes = objects.clone();
                view.build(&same);
            });
        }));
        tasks.spawn(follow(services, move |objects| {
            with(&of_services, |view| view.services = objects.clone())
        }));
        tasks.spawn(follow(endpoints, move |objects| {
            with(&of_endpoints, |view| view.endpoints = objects.clone())
        }));
        let proxy = Proxy::new(view, network, options.retry_connect, Random::new(options.seed));
        tasks.spawn(proxy::serve(listener, Arc::new(proxy), stop.clone()));
        Ok(Self { address, stop, tasks })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening and waits for the requests under way.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn with<T>(view: &Mutex<View>, step: impl FnOnce(&mut View) -> T) -> T {
    step(&mut view.lock().unwrap_or_else(PoisonError::into_inner))
}
