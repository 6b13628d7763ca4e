//! A Kubernetes in memory, for rehearsing releases: an API server, its controllers, a lane-aware gateway and stand-in
//! services that answer real HTTP. It knows nothing of the engine that rehearses on it.
//!
//! ```text
//! kube::Client ── Api ── store <── controllers (deployments, pods, endpoints, garbage)
//!                          │ watch
//! user ── HTTP ── Gateway ─┴─ StandIns (A ── B ── C, each a real listener on loopback)
//! ```
//!
//! To read it: `kinds` (what is served), `store`, `api` with its verbs, `apply` and `fields` (who owns which field),
//! `controllers`, then the traffic: `network`, `standin`, `gateway`. `Rehearsal` puts all of it together.

mod admission;
mod api;
mod apply;
mod clock;
mod cluster;
mod controllers;
mod defaults;
mod delays;
mod error;
mod fields;
mod follow;
mod gateway;
mod kinds;
mod network;
mod object;
mod patch;
mod persist;
mod pods;
mod query;
mod rehearsal;
mod schema;
mod selector;
mod serve;
mod standin;
mod status;
mod store;
mod validation;
mod wire;

pub use admission::{AGENT_CONTAINER, give_agent};
pub use api::{Api, Body};
pub use cluster::{Cluster, LoggedRequest, Options};
pub use delays::{Delays, Span};
pub use error::Error;
pub use gateway::{Gateway, GatewayKind, GatewayOptions};
pub use network::Network;
pub use rehearsal::{Rehearsal, RehearsalOptions};
pub use serve::{kubeconfig, serve};
pub use standin::{StandIns, stand_in};

#[cfg(test)]
mod tests;
