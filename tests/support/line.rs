//! A line to a cluster that a test can cut: what one Graylane meets while everybody else still reaches the API server.

use std::sync::Arc;

use graylane_engine::task::{Registry, Task};
use graylane_tasks::cluster::Clusters;
use hyper::{Request, Response};
use kube::client::Body;

use super::desk::{Desk, NAMESPACE, key};

/// What is asked, as a test tells requests apart.
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) dry_run: bool,
    pub(crate) watches: bool,
}

impl Asked {
    /// Whether an object is written; dry runs and leases left out.
    pub(crate) fn writes(&self) -> bool {
        !self.dry_run && self.method != "GET" && !self.is_of_lease() && !self.path.contains("/authorization")
    }

    pub(crate) fn is_of_lease(&self) -> bool {
        self.path.contains("/leases")
    }
}

/// A task type over the desk's cluster by a line of its own: requests for which `is_cut` holds get 503.
pub(crate) fn over_a_line(
    desk: &Desk,
    kind: &str,
    is_cut: impl Fn(&Asked) -> bool + Send + Sync + 'static,
) -> Arc<dyn Task> {
    let upstream = desk.cluster.client();
    let is_cut = Arc::new(is_cut);
    let line = tower::service_fn(move |request: Request<Body>| {
        let (upstream, is_cut) = (upstream.clone(), Arc::clone(&is_cut));
        async move {
            let uri = request.uri();
            let query = uri.query().unwrap_or_default();
            let asked = Asked {
                method: request.method().to_string(),
                path: uri.path().to_owned(),
                dry_run: query.contains("dryRun"),
                watches: query.contains("watch=true"),
            };
            if is_cut(&asked) {
                let answer = Response::builder().status(503).body(Body::empty()).expect("an answer");
                return Ok::<_, kube::Error>(answer);
            }
            upstream.send(request).await
        }
    });
    let clusters = Clusters::new(kube::Client::new(line, NAMESPACE));
    let mut registry = Registry::default();
    graylane_tasks::register(&mut registry, &clusters, &key());
    Arc::clone(registry.get(kind).expect("a type"))
}
