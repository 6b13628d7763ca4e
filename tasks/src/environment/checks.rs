//! What the operator says of checks: whom they may ask, what they may run, and whether production waits for them.
//!
//! A workflow names none of this by itself: who may write one is not who decides what it reaches.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What checks may reach and run besides the gateway and the cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Checks {
    /// Hosts that http checks may ask by `url`: `HOST`, for the usual ports, or `HOST:PORT`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Programs that command checks may run, each by its whole path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
    /// What the images of job checks must begin with; any image where nothing is listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
}

impl Checks {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Checks::default()
    }

    /// Whether http checks may ask this host: without a port where it is the scheme's usual one.
    pub fn allows_host(&self, host: &str, port: Option<u16>) -> bool {
        let written = match port {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        self.hosts.iter().any(|listed| listed.eq_ignore_ascii_case(&written))
    }

    /// Whether job checks may use this image.
    pub fn allows_image(&self, image: &str) -> bool {
        self.images.is_empty() || self.images.iter().any(|start| image.starts_with(start))
    }
}

/// Where prometheus checks ask. Credentials are names of the settings' secrets, never values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prometheus {
    /// The address, with the path before `/api/v1` where there is one.
    #[schemars(regex(pattern = "^https?://[^/@?#]+(/[^?#]*)?$"), extend("x-expected" = "an address is `http://HOST:PORT` or `https://HOST:PORT/PATH`"))]
    pub address: String,
    /// The secret that holds a bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer: Option<String>,
    /// A name and the secret that holds its password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<Basic>,
    /// More headers, such as `X-Scope-OrgID` for a tenant. Not secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// Basic authentication.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Basic {
    /// The name.
    pub user: String,
    /// The secret that holds the password.
    pub password: String,
}

/// Whether prod-deploy takes only images that were verified in a lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verified {
    /// What was not verified is told.
    #[default]
    Told,
    /// What was not verified is refused, and a tag becomes the digest that was verified.
    Required,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_listed_as_it_is_asked() {
        let checks = Checks {
            hosts: vec!["www.example.com".into(), "api.example.com:8443".into()],
            images: vec!["registry.example.com/qa/".into()],
            ..Checks::default()
        };
        for (host, port, allowed) in [
            ("www.example.com", None, true),
            ("WWW.example.com", None, true),
            ("www.example.com", Some(8443), false),
            ("api.example.com", Some(8443), true),
            ("api.example.com", None, false),
            ("www.example.com.evil.test", None, false),
            ("evil.test", None, false),
        ] {
            assert_eq!(checks.allows_host(host, port), allowed, "{host} {port:?}");
        }
        assert!(checks.allows_image("registry.example.com/qa/smoke:1"));
        assert!(!checks.allows_image("evil.test/registry.example.com/qa/smoke:1"));
        assert!(Checks::default().allows_image("anything"));
    }
}
