//! Lease objects (coordination.k8s.io): read, made, replaced where nobody else did, and removed. Who may hold one is
//! decided in `lease.rs`.

use graylane_engine::task::TaskError;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};

use super::{Cluster, FIELD_MANAGER, Failed};

impl Cluster {
    fn leases(&self, namespace: &str) -> Api<Lease> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// A lease, or none.
    ///
    /// # Errors
    /// What the API server said.
    pub(crate) async fn lease(&self, namespace: &str, name: &str) -> Result<Option<Lease>, TaskError> {
        let api = self.leases(namespace);
        self.call(&format!("Lease {namespace}/{name}"), || api.get_opt(name)).await
    }

    /// Makes a lease; none where it is there already.
    ///
    /// # Errors
    /// What the API server said.
    pub(crate) async fn create_lease(&self, lease: &Lease) -> Result<Option<Lease>, TaskError> {
        let (namespace, name) = place(lease);
        let (api, params) = (self.leases(namespace), params());
        taken(self.raw_call(&format!("Lease {namespace}/{name}"), || api.create(&params, lease)).await)
    }

    /// Replaces a lease where it is still the version that was read; none where it is not, or is gone.
    ///
    /// # Errors
    /// What the API server said.
    pub(crate) async fn replace_lease(&self, lease: &Lease) -> Result<Option<Lease>, TaskError> {
        let (namespace, name) = place(lease);
        let (api, params) = (self.leases(namespace), params());
        taken(self.raw_call(&format!("Lease {namespace}/{name}"), || api.replace(name, &params, lease)).await)
    }

    /// Removes a lease where it is still the version that was read.
    ///
    /// # Errors
    /// What the API server said.
    pub(crate) async fn delete_lease(&self, lease: &Lease) -> Result<(), TaskError> {
        let (namespace, name) = place(lease);
        let metadata = lease.metadata.clone();
        let version = Preconditions { uid: metadata.uid, resource_version: metadata.resource_version };
        let (api, params) = (
            self.leases(namespace),
            DeleteParams { preconditions: Some(version), ..DeleteParams::default() },
        );
        match self.raw_call(&format!("Lease {namespace}/{name}"), || api.delete(name, &params)).await {
            Ok(_) => Ok(()),
            // Gone, or somebody else's by now.
            Err(Failed::Api(status, _)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(failed) => Err(failed.error()),
        }
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() }
}

fn place(lease: &Lease) -> (&str, &str) {
    (
        lease.metadata.namespace.as_deref().unwrap_or_default(),
        lease.metadata.name.as_deref().unwrap_or_default(),
    )
}

fn taken(answer: Result<Lease, Failed>) -> Result<Option<Lease>, TaskError> {
    match answer {
        Ok(lease) => Ok(Some(lease)),
        Err(Failed::Api(status, _))
            if matches!(status.code, 404 | 409) && !status.message.starts_with("namespaces ") =>
        {
            Ok(None)
        }
        Err(failed) => Err(failed.error()),
    }
}
