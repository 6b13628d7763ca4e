//! The API, the same on the socket and on TCP: one table of routes (`routes.rs`) gives router, roles and document.
//!
//! ```text
//! connection -> server.rs -> gate.rs (who calls, may they, how long) -> a handler -> error.rs, where it says no
//! ```
//! A handler parses, makes one call, maps the answer. Nothing here decides what a run does.

mod audit;
mod bundles;
pub(crate) mod caller;
mod cursor;
mod diff;
mod door;
mod environment;
pub(crate) mod error;
mod events;
mod extract;
mod freezes;
mod gate;
mod lanes;
mod observe;
pub(crate) mod openapi;
mod route;
pub(crate) mod routes;
mod runs;
mod schedules;
pub(crate) mod server;
mod site;
mod status;
mod store;
mod stream;
mod system;
mod tokens;
pub(crate) mod wire;
pub(crate) mod workflows;

use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use graylane_engine::journal::DiskJournal;
use graylane_engine::scheduler::{Engine, Parts};
use graylane_engine::trigger::Catalogue;
use graylane_tasks::Leases;
use graylane_tasks::cluster::Clusters;
use graylane_tasks::secret::DigestKey;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::door::Door;
use self::error::{ApiError, Code};
use crate::metrics::Metrics;
use crate::retention::Keeper;
use crate::settings::Settings;

/// What handlers work with.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) engine: Engine,
    pub(crate) parts: Parts,
    pub(crate) journal: Arc<DiskJournal>,
    pub(crate) clusters: Arc<Clusters>,
    /// The leases of the tasks, for what is written outside of runs.
    pub(crate) leases: Leases,
    pub(crate) settings: Arc<Settings>,
    /// The key of the data folder's digests.
    pub(crate) digests: DigestKey,
    pub(crate) working: bool,
    /// What sources hold; empty where none are read.
    pub(crate) catalogue: watch::Receiver<Arc<Catalogue>>,
    pub(crate) metrics: Arc<Metrics>,
    /// Cancelled when the end has begun.
    pub(crate) draining: CancellationToken,
    pub(crate) door: Arc<Door>,
}

impl State {
    /// What retention works with.
    pub(crate) fn keeper(&self) -> Keeper {
        Keeper {
            engine: self.engine.clone(),
            clusters: Arc::clone(&self.clusters),
            settings: Arc::clone(&self.settings),
            digests: self.digests.clone(),
        }
    }
}

/// The router of the table, behind the gate.
pub(crate) fn router(state: State) -> axum::Router {
    let mut router = axum::Router::new();
    for route in routes::table() {
        let handler = gate::before(route.handler.clone(), &state, &route);
        let handler = observe::measured(handler, &state, &route);
        router = router.route(route.path, handler);
    }
    router.fallback(no_such_address).method_not_allowed_fallback(wrong_method).with_state(state)
}

async fn no_such_address(request: Request) -> Response {
    let path = request.uri().path();
    ApiError::not_found(format!("there is nothing at {path}"))
        .hint("/api/v1/openapi.json describes what there is")
        .into_response()
}

async fn wrong_method(request: Request) -> Response {
    let words = format!("{} does not take {}", request.uri().path(), request.method());
    ApiError::new(Code::WrongMethod, words).into_response()
}
