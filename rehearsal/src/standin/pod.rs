//! A stand-in that is the process of a pod on a real node: it finds itself and the others through the API, as an application
//! finds them in its registry, and listens on the pod's own address. It never writes.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::Answering;
use super::instance::Instance;
use super::{Registry, pods_of, serve};
use crate::follow::follow;
use crate::network::Network;

/// Answers as the pod of that name until stopped; then requests under way are finished. The client's account must be allowed
/// to get, list and watch pods of the namespace, and to get its ConfigMaps.
///
/// # Errors
/// A port of the pod's role cannot be had.
pub async fn stand_in(
    client: kube::Client,
    namespace: String,
    pod: String,
    stop: CancellationToken,
) -> io::Result<()> {
    let registry = Arc::new(Registry::new(client.clone(), Network::of_a_node()));
    let (found, mut me) = watch::channel(None);
    let following = pods_of(client, Some(namespace), stop.clone());
    let known = registry.clone();
    let follower = tokio::spawn(follow(following, move |pods| {
        let instances: Vec<Arc<Instance>> = pods.values().map(|pod| Arc::new(Instance::of(pod))).collect();
        known.learn(&instances);
        // Its address is in every answer, and the node tells it a moment after the process began.
        let this = instances.into_iter().find(|one| one.pod == pod && !one.ip.is_empty());
        if let Some(this) = this {
            found.send_if_modified(|known| known.is_none() && known.replace(this).is_none());
        }
    }));
    let one = tokio::select! {
        found = me.wait_for(Option::is_some) => found.ok().and_then(|one| one.clone()),
        () = stop.cancelled() => None,
    };
    if let Some(one) = one {
        let config = registry.config(&one).await;
        let service = Arc::new(Answering { registry, me: one.clone(), config });
        let listeners = TaskTracker::new();
        for port in &one.ports {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).await?;
            let (service, stop) = (service.clone(), stop.clone());
            listeners.spawn(async move { serve(listener, service, &stop, || ()).await });
        }
        stop.cancelled().await;
        listeners.close();
        listeners.wait().await;
    }
    follower.abort();
    Ok(())
}
