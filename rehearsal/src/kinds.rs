//! The resource types that the rehearsal serves: one table, from which discovery, routing and storage read.
//!
//! Nothing else in this crate lists kinds for the API's sake. Controllers name the few they drive by the constants here.

/// One resource type, as discovery publishes it.
#[derive(Debug)]
pub(crate) struct Kind {
    /// `plural` or `plural.group`: what errors print and what storage keys begin with.
    pub(crate) resource: &'static str,
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) short: &'static [&'static str],
    pub(crate) namespaced: bool,
    pub(crate) subresources: &'static [&'static str],
    /// Name of the type in the schema.
    pub(crate) schema: &'static str,
}

impl Kind {
    /// `v1` or `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `Pod` or `Deployment.apps`, the form that validation errors begin with.
    pub(crate) fn qualified_kind(&self) -> String {
        if self.group.is_empty() { self.kind.to_owned() } else { format!("{}.{}", self.kind, self.group) }
    }

    pub(crate) fn has(&self, subresource: &str) -> bool {
        self.subresources.contains(&subresource)
    }
}

pub(crate) const NAMESPACES: &str = "namespaces";
pub(crate) const PODS: &str = "pods";
pub(crate) const SERVICES: &str = "services";
pub(crate) const ENDPOINTS: &str = "endpoints";
pub(crate) const CONFIG_MAPS: &str = "configmaps";
pub(crate) const SECRETS: &str = "secrets";
pub(crate) const SERVICE_ACCOUNTS: &str = "serviceaccounts";
pub(crate) const EVENTS: &str = "events";
pub(crate) const NODES: &str = "nodes";
pub(crate) const RESOURCE_QUOTAS: &str = "resourcequotas";
pub(crate) const DEPLOYMENTS: &str = "deployments.apps";
pub(crate) const REPLICA_SETS: &str = "replicasets.apps";
pub(crate) const STATEFUL_SETS: &str = "statefulsets.apps";
pub(crate) const AUTOSCALERS: &str = "horizontalpodautoscalers.autoscaling";
pub(crate) const JOBS: &str = "jobs.batch";
pub(crate) const INGRESSES: &str = "ingresses.networking.k8s.io";
pub(crate) const INGRESS_CLASSES: &str = "ingressclasses.networking.k8s.io";
pub(crate) const HTTP_ROUTES: &str = "httproutes.gateway.networking.k8s.io";
pub(crate) const ENDPOINT_SLICES: &str = "endpointslices.discovery.k8s.io";

const STATUS: &[&str] = &["status"];
const SCALED: &[&str] = &["status", "scale"];
const NONE: &[&str] = &[];

/// Writes one row of the table.
macro_rules! kind {
    ($resource:expr, $group:literal / $version:literal, $kind:literal, $plural:literal, $short:expr, $namespaced:expr, $sub:expr, $schema:literal) => {
        Kind {
            resource: $resource,
            group: $group,
            version: $version,
            kind: $kind,
            plural: $plural,
            short: $short,
            namespaced: $namespaced,
            subresources: $sub,
            schema: $schema,
        }
    };
}

/// Every resource type, in the order of discovery.
#[rustfmt::skip]
pub(crate) static TABLE: &[Kind] = &[
    kind!(NAMESPACES, ""/"v1", "Namespace", "namespaces", &["ns"], false, &["status", "finalize"], "core.v1.Namespace"),
    kind!(PODS, ""/"v1", "Pod", "pods", &["po"], true, &["status", "log"], "core.v1.Pod"),
    kind!(SERVICES, ""/"v1", "Service", "services", &["svc"], true, STATUS, "core.v1.Service"),
    kind!(ENDPOINTS, ""/"v1", "Endpoints", "endpoints", &["ep"], true, NONE, "core.v1.Endpoints"),
    kind!(CONFIG_MAPS, ""/"v1", "ConfigMap", "configmaps", &["cm"], true, NONE, "core.v1.ConfigMap"),
    kind!(SECRETS, ""/"v1", "Secret", "secrets", NONE, true, NONE, "core.v1.Secret"),
    kind!(SERVICE_ACCOUNTS, ""/"v1", "ServiceAccount", "serviceaccounts", &["sa"], true, NONE, "core.v1.ServiceAccount"),
    kind!(EVENTS, ""/"v1", "Event", "events", &["ev"], true, NONE, "core.v1.Event"),
    kind!(NODES, ""/"v1", "Node", "nodes", &["no"], false, STATUS, "core.v1.Node"),
    kind!("persistentvolumeclaims", ""/"v1", "PersistentVolumeClaim", "persistentvolumeclaims", &["pvc"], true, STATUS, "core.v1.PersistentVolumeClaim"),
    kind!(RESOURCE_QUOTAS, ""/"v1", "ResourceQuota", "resourcequotas", &["quota"], true, STATUS, "core.v1.ResourceQuota"),
    kind!(DEPLOYMENTS, "apps"/"v1", "Deployment", "deployments", &["deploy"], true, SCALED, "apps.v1.Deployment"),
    kind!(REPLICA_SETS, "apps"/"v1", "ReplicaSet", "replicasets", &["rs"], true, SCALED, "apps.v1.ReplicaSet"),
    kind!(STATEFUL_SETS, "apps"/"v1", "StatefulSet", "statefulsets", &["sts"], true, SCALED, "apps.v1.StatefulSet"),
    kind!("daemonsets.apps", "apps"/"v1", "DaemonSet", "daemonsets", &["ds"], true, STATUS, "apps.v1.DaemonSet"),
    kind!(JOBS, "batch"/"v1", "Job", "jobs", NONE, true, STATUS, "batch.v1.Job"),
    kind!(INGRESSES, "networking.k8s.io"/"v1", "Ingress", "ingresses", &["ing"], true, STATUS, "networking.v1.Ingress"),
    kind!(INGRESS_CLASSES, "networking.k8s.io"/"v1", "IngressClass", "ingressclasses", NONE, false, NONE, "networking.v1.IngressClass"),
    kind!(HTTP_ROUTES, "gateway.networking.k8s.io"/"v1", "HTTPRoute", "httproutes", NONE, true, STATUS, "gateway.v1.HTTPRoute"),
    kind!("networkpolicies.networking.k8s.io", "networking.k8s.io"/"v1", "NetworkPolicy", "networkpolicies", &["netpol"], true, NONE, "networking.v1.NetworkPolicy"),
    kind!(ENDPOINT_SLICES, "discovery.k8s.io"/"v1", "EndpointSlice", "endpointslices", NONE, true, NONE, "discovery.v1.EndpointSlice"),
    kind!("poddisruptionbudgets.policy", "policy"/"v1", "PodDisruptionBudget", "poddisruptionbudgets", &["pdb"], true, STATUS, "policy.v1.PodDisruptionBudget"),
    kind!(AUTOSCALERS, "autoscaling"/"v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", &["hpa"], true, STATUS, "autoscaling.v2.HorizontalPodAutoscaler"),
    kind!("leases.coordination.k8s.io", "coordination.k8s.io"/"v1", "Lease", "leases", NONE, true, NONE, "coordination.v1.Lease"),
    kind!("roles.rbac.authorization.k8s.io", "rbac.authorization.k8s.io"/"v1", "Role", "roles", NONE, true, NONE, "rbac.v1.Role"),
    kind!("rolebindings.rbac.authorization.k8s.io", "rbac.authorization.k8s.io"/"v1", "RoleBinding", "rolebindings", NONE, true, NONE, "rbac.v1.RoleBinding"),
    kind!("clusterroles.rbac.authorization.k8s.io", "rbac.authorization.k8s.io"/"v1", "ClusterRole", "clusterroles", NONE, false, NONE, "rbac.v1.ClusterRole"),
    kind!("clusterrolebindings.rbac.authorization.k8s.io", "rbac.authorization.k8s.io"/"v1", "ClusterRoleBinding", "clusterrolebindings", NONE, false, NONE, "rbac.v1.ClusterRoleBinding"),
];

/// The type behind a group, version and plural, as a request's path names it.
pub(crate) fn by_path(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    TABLE.iter().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}

/// The type behind a resource name such as `deployments.apps`.
pub(crate) fn by_resource(resource: &str) -> Option<&'static Kind> {
    TABLE.iter().find(|kind| kind.resource == resource)
}

/// The type behind an `apiVersion` and a `kind`, as manifests name it.
pub(crate) fn by_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    TABLE.iter().find(|row| row.kind == kind && row.api_version() == api_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_says_the_same_thing_in_all_its_names() {
        for row in TABLE {
            let expected = if row.group.is_empty() {
                row.plural.to_owned()
            } else {
                format!("{}.{}", row.plural, row.group)
            };
            assert_eq!(row.resource, expected);
            assert!(crate::schema::fields(row.schema).is_some(), "no schema for {}", row.schema);
        }
    }
}
