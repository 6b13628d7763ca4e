//! Stand-ins: every running pod gets a real listener that answers as the demo's services A, B and C do.
//!
//! ```text
//! pod running ──> listener, registered in the network under the pod's address and the role's port
//! pod dying ───> no longer listening (after its preStop sleep), connections refused
//! ```
//! A calls B and B calls C, over the network, by the rules of the agent: a caller that carries it keeps marked requests
//! on their lane; one without it calls any instance, which is how lanes leak. They are clients of the API and nothing more.
//! On a real node the same stand-in is the pod's own process (`pod`).

mod answer;
mod instance;
mod pod;

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::ConfigMap;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::delays::{Random, Span};
use crate::follow::{Following, Objects, follow};
use crate::network::Network;
use instance::{Config, Instance, Role};
pub use pod::stand_in;

/// The running stand-ins.
#[derive(Debug)]
pub struct StandIns {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl StandIns {
    /// Starts stand-ins for the pods of the namespaces; none named means all.
    pub fn start(client: kube::Client, network: Network, namespaces: Vec<String>) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let registry = Arc::new(Registry::new(client.clone(), network));
        let namespace = match namespaces.as_slice() {
            [one] => Some(one.clone()),
            _ => None,
        };
        let following = pods_of(client, namespace, stop.clone());
        let mut listeners =
            Listeners { registry, tasks: tasks.clone(), stop: stop.clone(), running: HashMap::new() };
        tasks.spawn(follow(following, move |pods| listeners.take_over(pods, &namespaces)));
        Self { stop, tasks }
    }

    /// Ends every listener.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Pods as they change; none named means those of all namespaces.
fn pods_of(client: kube::Client, namespace: Option<String>, stop: CancellationToken) -> Following {
    Following {
        client,
        namespace,
        group: "",
        version: "v1",
        kind: "Pod",
        lag: Span::millis(0, 0),
        random: Random::new(0),
        stop,
    }
}

/// What all stand-ins know of each other, and how they reach each other.
struct Registry {
    client: kube::Client,
    network: Network,
    instances: Mutex<Vec<Arc<Instance>>>,
    /// References with a tag by image id, learned from the pods that named one.
    images: Mutex<BTreeMap<String, String>>,
    turns: AtomicUsize,
}

impl Registry {
    fn new(client: kube::Client, network: Network) -> Self {
        Self {
            client,
            network,
            instances: Mutex::default(),
            images: Mutex::default(),
            turns: AtomicUsize::new(0),
        }
    }

    /// The pods as they are now.
    fn learn(&self, instances: &[Arc<Instance>]) {
        let mut images = lock(&self.images);
        for one in instances.iter().filter(|one| !one.image.contains('@') && !one.image_id.is_empty()) {
            images.insert(one.image_id.clone(), one.image.clone());
        }
        *lock(&self.instances) = instances.to_vec();
    }

    fn candidates(&self, caller: &Instance, role: Role, tag: &str) -> Vec<Arc<Instance>> {
        let mut found = instance::candidates(&lock(&self.instances), caller, role, tag);
        if !found.is_empty() {
            let turn = self.turns.fetch_add(1, Ordering::Relaxed) % found.len();
            found.rotate_left(turn);
        }
        found
    }

    /// The pod's image, with its tag where the pod names it by digest and the tag is known.
    fn image(&self, instance: &Instance) -> String {
        if !instance.image.contains('@') {
            return instance.image.clone();
        }
        // A pod that began to answer before its status was complete is known by its id since.
        let now = lock(&self.instances).iter().find(|one| one.uid == instance.uid).cloned();
        let id = now.map_or_else(|| instance.image_id.clone(), |now| now.image_id.clone());
        lock(&self.images).get(&id).cloned().unwrap_or_else(|| instance.image.clone())
    }

    async fn config(&self, instance: &Instance) -> String {
        let (map, key) = match &instance.config {
            Config::Literal(value) => return value.clone(),
            Config::Key { map, key } => (map, key),
        };
        let maps: kube::Api<ConfigMap> = kube::Api::namespaced(self.client.clone(), &instance.namespace);
        let found = maps.get_opt(map).await.ok().flatten();
        found
            .and_then(|found| found.data)
            .and_then(|data| data.get(key).cloned())
            .unwrap_or_else(|| "base".to_owned())
    }
}

/// The listeners that run, by uid of the pod.
struct Listeners {
    registry: Arc<Registry>,
    tasks: TaskTracker,
    stop: CancellationToken,
    running: HashMap<String, CancellationToken>,
}

impl Listeners {
    fn take_over(&mut self, pods: &Objects, namespaces: &[String]) {
        let ours = |namespace: &str| namespaces.is_empty() || namespaces.iter().any(|one| one == namespace);
        let instances: Vec<Arc<Instance>> =
            pods.values().map(|pod| Arc::new(Instance::of(pod))).filter(|one| ours(&one.namespace)).collect();
        self.registry.learn(&instances);
        for one in &instances {
            self.follow_one(one);
        }
        let there = |uid: &str| instances.iter().any(|one| one.uid == uid);
        self.running.retain(|uid, stop| {
            let keep = there(uid);
            if !keep {
                stop.cancel();
            }
            keep
        });
    }

    fn follow_one(&mut self, one: &Arc<Instance>) {
        let serves = one.running && !one.ip.is_empty();
        match (self.running.get(&one.uid), one.leaving) {
            (None, None) if serves => {
                let stop = self.stop.child_token();
                self.running.insert(one.uid.clone(), stop.clone());
                for port in &one.ports {
                    self.tasks.spawn(listen(self.registry.clone(), one.clone(), *port, stop.clone()));
                }
            }
            (Some(stop), None) if !serves => {
                stop.cancel();
                self.running.remove(&one.uid);
            }
            (Some(stop), Some(wait)) if wait.is_zero() => stop.cancel(),
            (Some(stop), Some(wait)) if !stop.is_cancelled() => {
                let stop = stop.clone();
                self.tasks.spawn(async move {
                    tokio::select! {
                        () = tokio::time::sleep(wait) => stop.cancel(),
                        () = stop.cancelled() => {}
                    }
                });
            }
            _ => {}
        }
    }
}

/// Listens for one pod on one port until stopped; requests under way are answered.
async fn listen(registry: Arc<Registry>, one: Arc<Instance>, port: u16, stop: CancellationToken) {
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, pod = one.pod, "a stand-in cannot listen");
            return;
        }
    };
    let Ok(address) = listener.local_addr() else { return };
    let config = registry.config(&one).await;
    let service = Arc::new(answer::Answering { registry: registry.clone(), me: one.clone(), config });
    registry.network.register(&one.ip, port, address);
    serve(listener, service, &stop, || registry.network.unregister(&one.ip, port, address)).await;
}

/// Answers on a listener until stopped; `gone` is called once nobody new is answered, and requests under way still are.
async fn serve(
    listener: TcpListener,
    service: Arc<answer::Answering>,
    stop: &CancellationToken,
    gone: impl FnOnce(),
) {
    let connections = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => continue,
            },
        };
        let (service, stop) = (service.clone(), stop.clone());
        connections.spawn(async move {
            let handler = service_fn(|request| {
                let service = service.clone();
                async move { Ok::<_, std::convert::Infallible>(service.answer(request).await) }
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
                tracing::trace!(%error, "a connection to a stand-in ended");
            }
        });
    }
    gone();
    drop(listener);
    connections.close();
    connections.wait().await;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
