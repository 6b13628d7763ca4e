//! The whole rehearsal in one piece: cluster, gateway and stand-ins, started, filled, waited for and stopped together.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::{Cluster, Options};
use crate::delays::Delays;
use crate::error::Error;
use crate::gateway::{Gateway, GatewayKind, GatewayOptions, every_kind};
use crate::network::Network;
use crate::object::{self, int};
use crate::standin::StandIns;
use crate::{kinds, serve};

/// What a rehearsal is started with.
#[derive(Debug, Clone)]
pub struct RehearsalOptions {
    /// Where the cluster is kept; `None` keeps it in memory only.
    pub file: Option<PathBuf>,
    /// Whether a write is answered only when the file holds it, as `Options::durable`.
    pub durable: bool,
    /// Where all randomness begins.
    pub seed: u64,
    /// How long things take.
    pub delays: Delays,
    /// Where the gateway listens; port 0 takes a free one.
    pub gateway_listen: SocketAddr,
    /// The ingress classes that the gateway serves, and by whose rules it reads each.
    pub ingress_classes: Vec<(String, GatewayKind)>,
    /// Whether the gateway sends a refused GET to another endpoint once.
    pub retry_connect: bool,
    /// Whether the agent's webhook answers.
    pub agent: bool,
    /// Where the API is served over HTTP besides; `None` serves it in process only.
    pub api_listen: Option<SocketAddr>,
}

impl Default for RehearsalOptions {
    fn default() -> Self {
        Self {
            file: None,
            durable: true,
            seed: 1,
            delays: Delays::realistic(),
            gateway_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ingress_classes: every_kind(),
            retry_connect: false,
            agent: true,
            api_listen: None,
        }
    }
}

/// A running rehearsal.
#[derive(Debug)]
pub struct Rehearsal {
    cluster: Cluster,
    network: Network,
    gateway: Gateway,
    stand_ins: StandIns,
    api: Option<(SocketAddr, CancellationToken, TaskTracker)>,
}

impl Rehearsal {
    /// Starts everything on the present tokio runtime. An address that is taken is `Error::Listen`, and nothing runs then.
    pub async fn start(options: RehearsalOptions) -> Result<Self, Error> {
        let api_listener = match options.api_listen {
            Some(address) => {
                let listener = TcpListener::bind(address).await;
                Some(listener.map_err(|source| Error::Listen { address, source })?)
            }
            None => None,
        };
        let cluster = Cluster::start(Options {
            seed: options.seed,
            delays: options.delays,
            file: options.file,
            durable: options.durable,
            agent: options.agent,
            ..Options::default()
        })?;
        let network = Network::new();
        let gateway_options = GatewayOptions {
            classes: options.ingress_classes,
            delays: options.delays,
            seed: options.seed,
            namespace: None,
            retry_connect: options.retry_connect,
        };
        let started =
            Gateway::start(cluster.client(), network.clone(), options.gateway_listen, gateway_options).await;
        let gateway = match started {
            Ok(gateway) => gateway,
            Err(error) => {
                cluster.shutdown().await;
                return Err(error);
            }
        };
        let stand_ins = StandIns::start(cluster.client(), network.clone(), Vec::new());
        let api = match api_listener {
            Some(listener) => {
                let address = listener
                    .local_addr()
                    .map_err(|source| Error::Listen { address: gateway.addr(), source })?;
                let stop = CancellationToken::new();
                let tasks = TaskTracker::new();
                tasks.spawn(serve::serve(listener, cluster.api(), stop.clone()));
                tasks.close();
                Some((address, stop, tasks))
            }
            None => None,
        };
        Ok(Self { cluster, network, gateway, stand_ins, api })
    }

    /// A client of the cluster's API, in process.
    pub fn client(&self) -> kube::Client {
        self.cluster.client()
    }

    /// The cluster, for what a client cannot ask or do.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The pods' network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Where the gateway listens.
    pub fn gateway_addr(&self) -> SocketAddr {
        self.gateway.addr()
    }

    /// Where the API is served, if it is.
    pub fn api_addr(&self) -> Option<SocketAddr> {
        self.api.as_ref().map(|(address, _, _)| *address)
    }

    /// Creates a namespace with its labels and applies the manifests to it, unless the namespace exists already.
    /// Returns whether it did.
    pub async fn seed(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        manifests: Vec<Value>,
        field_manager: &str,
    ) -> Result<bool, Error> {
        if self.cluster.object(kinds::NAMESPACES, "", namespace).is_some() {
            return Ok(false);
        }
        let home = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace, "labels": labels },
        });
        self.apply(namespace, home, field_manager).await?;
        for manifest in manifests {
            self.apply(namespace, manifest, field_manager).await?;
        }
        Ok(true)
    }

    async fn apply(&self, namespace: &str, mut manifest: Value, field_manager: &str) -> Result<(), Error> {
        object::strip_nulls(&mut manifest);
        let (version, kind) = (object::text(&manifest, "/apiVersion"), object::text(&manifest, "/kind"));
        let name = object::name(&manifest).to_owned();
        let unknown = || Error::Manifest(format!("{version} {kind} {name:?}"));
        let served = kinds::by_kind(version, kind).filter(|_| !name.is_empty()).ok_or_else(unknown)?;
        let resource = ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk(served.group, served.version, served.kind),
            served.plural,
        );
        let api: Api<DynamicObject> = if served.namespaced {
            Api::namespaced_with(self.client(), namespace, &resource)
        } else {
            Api::all_with(self.client(), &resource)
        };
        let parameters = PatchParams::apply(field_manager).force();
        let applied = api.patch(&name, &parameters, &Patch::Apply(&manifest)).await;
        applied.map(drop).map_err(|error| {
            let why = match &error {
                kube::Error::Api(status) => status.message.clone(),
                other => other.to_string(),
            };
            Error::Refused { object: format!("{kind} {name}"), why }
        })
    }

    /// Waits until every Deployment of the namespace is rolled out and available.
    pub async fn wait_ready(&self, namespace: &str, deadline: Duration) -> Result<(), Error> {
        let until = Instant::now() + deadline;
        let mut changes = self.cluster.changes();
        loop {
            changes.borrow_and_update();
            let waiting: Vec<String> = self
                .cluster
                .objects(kinds::DEPLOYMENTS, namespace)
                .iter()
                .filter(|deployment| !is_rolled_out(deployment))
                .map(|deployment| object::name(deployment).to_owned())
                .collect();
            if waiting.is_empty() {
                return Ok(());
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return Err(Error::NotReady(waiting.join(", "))) },
                () = tokio::time::sleep_until(until) => return Err(Error::NotReady(waiting.join(", "))),
            }
        }
    }

    /// Stops traffic first, then the API, then the cluster, whose file is written a last time.
    pub async fn shutdown(&self) {
        self.gateway.shutdown().await;
        self.stand_ins.shutdown().await;
        if let Some((_, stop, tasks)) = &self.api {
            stop.cancel();
            tasks.wait().await;
        }
        self.cluster.shutdown().await;
    }
}

/// kubectl's tests of a finished rollout.
fn is_rolled_out(deployment: &Value) -> bool {
    let wanted = int(deployment, "/spec/replicas").unwrap_or(1);
    let count = |field: &str| int(deployment, &format!("/status/{field}")).unwrap_or_default();
    count("observedGeneration") >= int(deployment, "/metadata/generation").unwrap_or_default()
        && count("updatedReplicas") >= wanted
        && count("replicas") <= count("updatedReplicas")
        && count("availableReplicas") >= wanted
}
