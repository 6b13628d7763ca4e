//! Routes from Ingresses and HTTPRoutes, by the rules of each kind of gateway; pure functions of objects and requests.
//!
//! ```text
//! Ingress of class mse ──────> route/mse.rs            HTTPRoute ──> route/gateway_api.rs
//! Ingress of class higress ──> route/higress.rs
//! Ingress of class nginx ────> route/ingress_nginx.rs
//! ```
//! One gateway plays all of them at once: the class of an Ingress says by whose rules it is read. What the three have in common is in
//! `route/ingress.rs`.

mod gateway_api;
mod higress;
mod ingress;
mod ingress_nginx;
mod mse;

use http::HeaderMap;
use serde_json::Value;

use crate::object::text;

/// Whose rules an Ingress is read by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayKind {
    /// The MSE cloud-native gateway.
    Mse,
    /// Open-source Higress.
    Higress,
    /// ingress-nginx.
    IngressNginx,
}

/// How a path is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PathType {
    Exact,
    Prefix,
    Implementation,
}

/// A place to send a request to, with what is to be done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) namespace: String,
    pub(super) ingress: String,
    pub(super) service: String,
    pub(super) port: Port,
    pub(super) request: HeaderControl,
    pub(super) response: HeaderControl,
    /// Whether a Service that is not there is an error of the route, and no pod is ready elsewhere.
    pub(super) strict: bool,
}

/// A Service's port, as an Ingress names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Port {
    Number(i64),
    Name(String),
}

/// What happens to headers: removed, then set, then added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HeaderControl {
    pub(super) remove: Vec<String>,
    pub(super) update: Vec<(String, String)>,
    pub(super) add: Vec<(String, String)>,
}

/// All routes of a gateway.
#[derive(Debug, Default)]
pub(super) struct Table {
    ingresses: Vec<ingress::Routes>,
    http: gateway_api::Routes,
}

/// What a request is told apart by.
pub(super) struct Question<'q> {
    pub(super) host: &'q str,
    pub(super) path: &'q str,
    pub(super) query: &'q str,
    pub(super) method: &'q str,
    pub(super) headers: &'q HeaderMap,
}

impl Table {
    /// Builds the routes from Ingresses, by class, and from HTTPRoutes.
    pub(super) fn build<'a>(
        ingresses: impl Iterator<Item = &'a Value>,
        http_routes: impl Iterator<Item = &'a Value>,
        classes: &[(String, GatewayKind)],
    ) -> Self {
        let ingresses: Vec<&Value> = ingresses.collect();
        let of = |(class, kind): &(String, GatewayKind)| {
            let rules: &'static dyn ingress::Rules = match kind {
                GatewayKind::Mse => &mse::Mse,
                GatewayKind::Higress => &higress::Higress,
                GatewayKind::IngressNginx => &ingress_nginx::IngressNginx,
            };
            ingress::Routes::build(&ingresses, class, rules)
        };
        Self { ingresses: classes.iter().map(of).collect(), http: gateway_api::Routes::build(http_routes) }
    }

    /// The destinations of a request, the first that has endpoints to be taken; `None` where nothing routes it.
    /// `draw` gives a number below its argument.
    pub(super) fn choose(
        &self,
        question: &Question<'_>,
        mut draw: impl FnMut(u64) -> u64,
    ) -> Option<Vec<&Destination>> {
        let host = question.host;
        let without_port = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
        let host = without_port.map_or(host, |(host, _)| host).to_ascii_lowercase();
        let question = Question { host: &host, ..*question };
        let by_ingress = self.ingresses.iter().find_map(|routes| routes.choose(&question, &mut draw));
        by_ingress.or_else(|| self.http.choose(&question, &mut draw))
    }
}

/// How well a rule's host fits: exactly, by wildcard, or because it names none.
fn host_rank(rule: &str, host: &str) -> Option<usize> {
    if rule.is_empty() {
        return Some(0);
    }
    if rule == host {
        return Some(2);
    }
    let suffix = rule.strip_prefix('*')?;
    let front = host.strip_suffix(suffix)?;
    (!front.is_empty() && !front.contains('.')).then_some(1)
}

/// How well a path fits: exact ones first, then the longest prefix by whole elements.
fn path_rank(path_type: PathType, wanted: &str, path: &str) -> Option<(bool, usize)> {
    if path_type == PathType::Exact {
        return (wanted == path).then_some((true, wanted.len()));
    }
    let prefix = wanted.trim_end_matches('/');
    let rest = path.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some((false, prefix.len()))
}

/// The order in which equals are asked: the older before the younger.
fn age(object: &Value) -> (String, String, String) {
    let said = |pointer: &str| text(object, pointer).to_owned();
    (said("/metadata/creationTimestamp"), said("/metadata/namespace"), said("/metadata/name"))
}

#[cfg(test)]
mod tests;
