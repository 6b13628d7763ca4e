//! The process that holds the store: journal, tasks, engine and the API on its socket, opened and closed in this order.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use graylane_engine::clock::WallClock;
use graylane_engine::graph::Graphs;
use graylane_engine::id::Digest;
use graylane_engine::journal::{DiskJournal, OpenError};
use graylane_engine::logs::Logs;
use graylane_engine::scheduler::{Engine, Mode, Parts, StartError};
use graylane_engine::task::Registry;
use graylane_tasks::cluster::Clusters;
use graylane_tasks::secret::DigestKey;
use tokio_util::sync::CancellationToken;

use crate::api;
use crate::notary::{self, AuditKey};
use crate::notify::Notifier;
use crate::rehearse::{Stage, Tell};
use crate::settings::Settings;

/// Why a store cannot be held.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HoldError {
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{0}")]
    Surroundings(String),
}

/// How many tasks may block their threads before others stand still. API and scheduler have threads of their own.
const ATTEMPT_THREADS: usize = 8;

/// Where attempts run. One that blocks is not waited for.
struct Threads(Option<tokio::runtime::Runtime>);

impl Threads {
    fn new() -> std::io::Result<Threads> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(ATTEMPT_THREADS).thread_name("attempt").enable_all();
        Ok(Threads(Some(builder.build()?)))
    }

    fn handle(&self) -> Option<tokio::runtime::Handle> {
        self.0.as_ref().map(|runtime| runtime.handle().clone())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Everything that runs while the store is held.
pub(crate) struct Holder {
    pub(crate) engine: Engine,
    pub(crate) stage: Stage,
    socket: PathBuf,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
    notary: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
    journal: Arc<DiskJournal>,
    _threads: Threads,
}

/// The key of a data folder's digests.
pub(crate) fn digest_key(settings: &Settings) -> Result<DigestKey, String> {
    let path = settings.data.join("digest.key");
    DigestKey::open(&path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The task types over the clusters that settings and rehearsal name.
fn tasks(settings: &Settings, key: &DigestKey, tell: Tell) -> (Registry, Arc<Clusters>, Stage) {
    let stage = Stage::new(settings.rehearsal_folder(), tell);
    let clusters = Clusters::new(stage.clone());
    let mut registry = Registry::default();
    graylane_tasks::register(&mut registry, &clusters, key);
    (registry, clusters, stage)
}

impl Holder {
    /// Opens the store and starts what stands on it.
    pub(crate) async fn open(settings: &Settings, mode: Mode, tell: Tell) -> Result<Holder, HoldError> {
        let data = settings.data.clone();
        let opened = tokio::task::spawn_blocking(move || DiskJournal::open(&data)).await;
        let journal = Arc::new(opened.map_err(|error| HoldError::Surroundings(error.to_string()))??);
        let key = digest_key(settings).map_err(HoldError::Surroundings)?;
        let threads = Threads::new()
            .map_err(|error| HoldError::Surroundings(format!("no threads for tasks: {error}")))?;
        let (registry, clusters, stage) = tasks(settings, &key, tell);
        let parts = Parts {
            journal: journal.clone(),
            registry: Arc::new(registry),
            clock: Arc::new(WallClock::default()),
            secrets: Arc::new(settings.clone()),
            logs: Logs::in_folder(&settings.data),
            graphs: Graphs::default(),
            threads: threads.handle(),
        };
        let engine = Engine::start(parts.clone(), mode).await?;
        let socket = socket_path(&settings.data);
        let listener = api::server::listen(&socket).map_err(|error| {
            HoldError::Surroundings(format!("the socket {} cannot be opened: {error}", socket.display()))
        })?;
        let stop = CancellationToken::new();
        let working = mode != Mode::Look;
        let key = AuditKey::open(&settings.audit_key).map_err(HoldError::Surroundings)?.map(Arc::new);
        let notary = working.then(|| {
            let stop = CancellationToken::new();
            let notifier = Notifier::start(&settings.notify);
            let watch = notary::watch(
                engine.clone(),
                journal.clone(),
                key,
                settings.data.clone(),
                notifier,
                stop.clone(),
            );
            (stop, tokio::spawn(watch))
        });
        let state = api::State {
            engine: engine.clone(),
            parts,
            journal: journal.clone(),
            clusters,
            settings: Arc::new(settings.clone()),
            working: matches!(mode, Mode::Work | Mode::Begin),
        };
        let server = tokio::spawn(api::server::serve(listener, api::router(state), stop.clone()));
        Ok(Holder { engine, stage, socket, stop, server, notary, journal, _threads: threads })
    }

    /// Closes in the reverse order. Unfinished runs go on with the next holder.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        // It ends by itself when it is told to.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), self.server).await;
        self.engine.shutdown().await;
        if let Some((stop, notary)) = self.notary {
            stop.cancel();
            // It has its own patience, and panics are told by the runtime.
            let _ = notary.await;
        }
        self.stage.close().await;
        // Gone already where the folder was removed under us.
        let _ = std::fs::remove_file(&self.socket);
        drop(self.engine);
        drop(self.journal);
    }
}

/// The socket of a data folder: in it, or where the path is too long for a socket, in the folder for temporary files.
pub(crate) fn socket_path(data: &Path) -> PathBuf {
    let usual = data.join("api.sock");
    // The limit of sockaddr_un is 108 bytes (unix(7)).
    if usual.as_os_str().len() < 100 {
        return usual;
    }
    let whole = std::fs::canonicalize(data).unwrap_or_else(|_| data.to_owned());
    let digest = Digest::of(whole.as_os_str().as_encoded_bytes());
    std::env::temp_dir().join(format!("graylane-{}.sock", digest.short()))
}
