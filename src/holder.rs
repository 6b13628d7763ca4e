//! The process that holds the store: journal, tasks, engine and the API on its socket, opened and closed in this order.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use graylane_engine::clock::WallClock;
use graylane_engine::graph::Graphs;
use graylane_engine::id::Digest;
use graylane_engine::journal::{DiskJournal, OpenError};
use graylane_engine::logs::Logs;
use graylane_engine::scheduler::{Engine, Mode, Parts, StartError};
use graylane_engine::task::Registry;
use graylane_engine::trigger::Catalogue;
use graylane_tasks::Leases;
use graylane_tasks::cluster::Clusters;
use graylane_tasks::secret::DigestKey;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api;
use crate::metrics::{Metrics, Timed};
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
    /// The API, for other listeners.
    pub(crate) router: axum::Router,
    pub(crate) socket: PathBuf,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
    notary: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
    journal: Arc<DiskJournal>,
    /// What the API works with.
    pub(crate) state: api::State,
    /// Where what sources hold is published.
    pub(crate) catalogue: watch::Sender<Arc<Catalogue>>,
    _threads: Threads,
    _room: Option<Room>,
}

/// The key of a data folder's digests, which is made where there is none.
pub(crate) fn digest_key(settings: &Settings) -> Result<DigestKey, String> {
    let path = key_path(settings);
    let lost = key_is_lost(settings);
    let key = DigestKey::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    if lost {
        tell_lost_key(settings, "a new one was made");
    }
    Ok(key)
}

/// The same for those who only look: where there is none they take one that is kept nowhere, the same in the whole process.
pub(crate) fn key_to_look(settings: &Settings) -> Result<DigestKey, String> {
    static PASSING: OnceLock<DigestKey> = OnceLock::new();
    if key_path(settings).exists() {
        return digest_key(settings);
    }
    if let Some(key) = PASSING.get() {
        return Ok(key.clone());
    }
    if key_is_lost(settings) {
        tell_lost_key(settings, "the next run makes a new one");
    }
    let key = DigestKey::random().map_err(|error| error.to_string())?;
    Ok(PASSING.get_or_init(|| key).clone())
}

fn key_path(settings: &Settings) -> PathBuf {
    settings.data.join("digest.key")
}

/// A store without its key: it was removed, or the store was restored from a backup, which holds no key.
fn key_is_lost(settings: &Settings) -> bool {
    settings.data.join("format").exists() && !key_path(settings).exists()
}

fn tell_lost_key(settings: &Settings, next: &str) {
    tracing::warn!(
        "the key of Secrets' digests, {}, was missing: {next}. Plans made with the old one do not write Secrets any more, and every Secret counts as changed once; copy the old file back if you have it",
        key_path(settings).display()
    );
}

/// A folder for the store of somebody who looks where there is none: nothing is made in a data folder that does not exist.
struct Room(PathBuf);

impl Room {
    fn new() -> std::io::Result<Room> {
        static ROOMS: AtomicU32 = AtomicU32::new(0);
        let name = format!("graylane-{}-{}", std::process::id(), ROOMS.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Room(path))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // What is left of it is in the folder for what is temporary.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The task types over the clusters that settings and rehearsal name.
fn tasks(stage: &Stage, key: &DigestKey) -> (Registry, Arc<Clusters>, Leases) {
    let clusters = Clusters::new(stage.clone());
    let mut registry = Registry::default();
    let leases = graylane_tasks::register(&mut registry, &clusters, key);
    (registry, clusters, leases)
}

impl Holder {
    /// Opens the store and starts what stands on it.
    pub(crate) async fn open(settings: &Settings, mode: Mode, tell: Tell) -> Result<Holder, HoldError> {
        let stage = Stage::new(settings.rehearsal_folder(), tell.clone());
        let empty = mode == Mode::Look && settings.holds_nothing();
        let room = empty.then(Room::new).transpose();
        let room = room.map_err(|error| HoldError::Surroundings(format!("no temporary folder: {error}")))?;
        let mut settings = settings.clone();
        if let Some(Room(path)) = &room {
            tell(format!("there is no store in {}", settings.data.display()));
            settings.data.clone_from(path);
        }
        let settings = &settings;
        // Before there is a store beside it: a folder that is new has lost no key.
        let passing = room.as_ref().map(|_| key_to_look(settings)).transpose();
        let passing = passing.map_err(HoldError::Surroundings)?;
        let data = settings.data.clone();
        let opened = tokio::task::spawn_blocking(move || DiskJournal::open(&data)).await;
        let journal = Arc::new(opened.map_err(|error| HoldError::Surroundings(error.to_string()))??);
        let key = match passing {
            Some(key) => Ok(key),
            None if mode == Mode::Look => key_to_look(settings),
            None => digest_key(settings),
        };
        let key = key.map_err(HoldError::Surroundings)?;
        let threads = Threads::new()
            .map_err(|error| HoldError::Surroundings(format!("no threads for tasks: {error}")))?;
        let (registry, clusters, leases) = tasks(&stage, &key);
        let metrics = Arc::new(Metrics::default());
        let (publish, catalogue) = watch::channel(Arc::new(Catalogue::default()));
        let parts = Parts {
            journal: Arc::new(Timed::new(journal.clone(), metrics.clone())),
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
        let audit_key = AuditKey::open(&settings.audit_key).map_err(HoldError::Surroundings)?.map(Arc::new);
        let notary = working.then(|| {
            let stop = CancellationToken::new();
            let notifier = Notifier::start(&settings.notify);
            let watch = notary::watch(
                engine.clone(),
                journal.clone(),
                audit_key,
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
            leases,
            settings: Arc::new(settings.clone()),
            digests: key,
            working: matches!(mode, Mode::Work | Mode::Begin),
            door: Arc::default(),
            catalogue,
            metrics,
            draining: CancellationToken::new(),
        };
        let router = api::router(state.clone());
        if working {
            // Whatever it is at when the store is closed goes on with the next holder.
            tokio::spawn(state.keeper().watch(stop.clone()));
        }
        let server = tokio::spawn(api::server::serve(listener, router.clone(), stop.clone()));
        Ok(Holder {
            engine,
            stage,
            router,
            socket,
            stop,
            server,
            notary,
            journal,
            state,
            catalogue: publish,
            _threads: threads,
            _room: room,
        })
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
