//! Where workflows come from: the sources of the settings, watched, judged and published as one catalogue.
//!
//! ```text
//! folder (each second) -.
//! git (each interval)  -+-> found -> judge -> deeds (on disk first) -> Catalogue --watch--> triggers, API, metrics
//! operator's files     -'                       ^
//! standing (what was taken before) -------------'  after a restart: the last good revision is still there
//! ```
//! What was taken is in the ledger, and its bytes, with those of the files that it names, are in the store under their digest; nothing else
//! remembers it. So a restart beside a broken file, or beside a remote that is away, loses nothing. Environments and services are the
//! operator's: they come from the settings' folder, never from a source.

pub(crate) mod files;
mod folder;
mod git;
mod judge;
mod operator;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use graylane_engine::bundle::{self, Bundle, WORKFLOW_FILE};
use graylane_engine::clock::{Clock, Timestamp};
use graylane_engine::graph::{Checked, Known as Names, check};
use graylane_engine::id::{SourceName, WorkflowName, WorkflowUid};
use graylane_engine::journal::Journal;
use graylane_engine::ledger::{Deed, Standing};
use graylane_engine::run::Sourced;
use graylane_engine::scheduler::Engine;
use graylane_engine::task::{Registry, Site};
use graylane_engine::trigger::{Catalogue, Good, Known, Source as Shown};
use graylane_tasks::attached;
use graylane_tasks::secret::DigestKey;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::files::{Found, Trouble};
use self::folder::Folder;
use self::git::Git;
use self::judge::{Fresh, Taken, Verdict, judge};
use self::operator::Operator;
use crate::settings::{GitAt, Settings, SourceAt};

/// After a write that failed, what is known is judged again this often.
const AGAIN: Duration = Duration::from_secs(5);

/// What a watcher tells of its source.
enum Look {
    /// It is as it was.
    Same,
    /// These are its files.
    Found(Found),
    /// It cannot be seen.
    Trouble(Trouble),
}

/// What is known of one source.
struct State {
    name: SourceName,
    place: String,
    read_at: Option<Timestamp>,
    trouble: Option<Trouble>,
    found: Option<Found>,
    taken: BTreeMap<WorkflowName, Taken>,
    verdict: Verdict,
}

/// Reads, judges and publishes.
struct Reader {
    states: Vec<State>,
    operator: Operator,
    registry: Arc<Registry>,
    names: Names,
    vars: BTreeMap<String, serde_json::Value>,
    clock: Arc<dyn Clock>,
}

/// What the daemon's reader works with.
pub(crate) struct Daemon {
    pub(crate) engine: Engine,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) key: DigestKey,
}

/// Restores what was taken before, and watches until it is told to stop. The catalogue holds what was taken when this
/// returns, and what the sources hold now as soon as they have been read.
pub(crate) async fn start(
    settings: &Settings,
    daemon: Daemon,
    publish: watch::Sender<Arc<Catalogue>>,
    stop: CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let Daemon { engine, journal, registry, clock, key } = daemon;
    let mut reader = Reader::new(settings, registry, clock, key);
    reader.restore(&engine.standing(), &*journal);
    publish.send_replace(Arc::new(reader.catalogue()));
    let (sender, looks) = mpsc::channel(64);
    for (at, source) in settings.sources.iter().enumerate() {
        watch_source(at, &source.at, &objects(&settings.data, &source.name), sender.clone(), stop.clone());
    }
    tokio::spawn(keep(reader, engine, journal, looks, publish, stop))
}

/// Where a repository's objects are kept.
fn objects(data: &Path, source: &str) -> PathBuf {
    data.join("sources").join(format!("{source}.git"))
}

/// Reads every source once, without a store: what the settings' sources hold now.
pub(crate) async fn survey(settings: &Settings, registry: Arc<Registry>, clock: Arc<dyn Clock>) -> Catalogue {
    let mut reader = Reader::new(settings, registry, clock, crate::cli::no_key());
    // Objects of a repository are kept for the next time; a daemon that fetches at the same time is not disturbed.
    for at in 0..settings.sources.len() {
        let source = &settings.sources[at];
        let look = match &source.at {
            SourceAt::Folder(path) => Folder::new(path.clone()).look().map_or(Look::Same, Look::of),
            SourceAt::Git(git) => {
                let kept = settings.data.join("sources").join(format!("{}.survey.git", source.name));
                match Git::new(git.clone(), kept).look().await {
                    Ok(found) => found.map_or(Look::Same, Look::Found),
                    Err(trouble) => Look::Trouble(trouble),
                }
            }
        };
        reader.take(at, look);
        reader.judge(at);
        reader.keep_good(at);
    }
    reader.catalogue()
}

/// The files of a revision as the store has it.
fn unsealed(bytes: Vec<u8>, bundled: bool) -> Result<Bundle, String> {
    if bundled {
        return Bundle::from_bytes(&bytes);
    }
    let mut sealed = Bundle::default();
    sealed.add(WORKFLOW_FILE, bytes);
    Ok(sealed)
}

impl Look {
    fn of(looked: Result<Found, Trouble>) -> Look {
        looked.map_or_else(Look::Trouble, Look::Found)
    }
}

/// Tells what becomes of a source, until nobody listens.
fn watch_source(
    at: usize,
    source: &SourceAt,
    objects: &Path,
    sender: mpsc::Sender<(usize, Look)>,
    stop: CancellationToken,
) {
    let watched = match source {
        SourceAt::Folder(path) => futures::future::Either::Left(watch_folder(at, path.clone(), sender)),
        SourceAt::Git(git) => {
            futures::future::Either::Right(watch_git(at, git.clone(), objects.to_owned(), sender))
        }
    };
    tokio::spawn(async move {
        tokio::select! {
            () = watched => {}
            () = stop.cancelled() => {}
        }
    });
}

async fn watch_folder(at: usize, path: PathBuf, sender: mpsc::Sender<(usize, Look)>) {
    let mut folder = Folder::new(path);
    loop {
        let looked = tokio::task::spawn_blocking(move || {
            let look = folder.look();
            (folder, look)
        });
        let Ok((back, look)) = looked.await else { return };
        folder = back;
        if let Some(look) = look
            && sender.send((at, Look::of(look))).await.is_err()
        {
            return;
        }
        tokio::time::sleep(folder::EVERY).await;
    }
}

async fn watch_git(at: usize, git: GitAt, objects: PathBuf, sender: mpsc::Sender<(usize, Look)>) {
    let interval = git.interval;
    let mut git = Git::new(git, objects);
    let mut failed = 0;
    loop {
        let look = match git.look().await {
            Ok(found) => {
                failed = 0;
                found.map_or(Look::Same, Look::Found)
            }
            Err(trouble) => {
                failed += 1;
                Look::Trouble(trouble)
            }
        };
        if sender.send((at, look)).await.is_err() {
            return;
        }
        tokio::time::sleep(git::pause(interval, failed)).await;
    }
}

/// The one place where the catalogue changes.
async fn keep(
    mut reader: Reader,
    engine: Engine,
    journal: Arc<dyn Journal>,
    mut looks: mpsc::Receiver<(usize, Look)>,
    publish: watch::Sender<Arc<Catalogue>>,
    stop: CancellationToken,
) {
    let mut unwritten: Vec<usize> = Vec::new();
    reader.forget_others(&engine).await;
    let mut operator = tokio::time::interval(folder::EVERY);
    operator.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let mut due = Vec::new();
        tokio::select! {
            () = stop.cancelled() => return,
            look = looks.recv() => match look {
                Some((at, look)) => {
                    reader.take(at, look);
                    due.push(at);
                }
                None => return,
            },
            _ = operator.tick() => if reader.operator.has_changed() {
                // What is good depends on which environments there are.
                due.extend(0..reader.states.len());
            },
            () = tokio::time::sleep(AGAIN), if !unwritten.is_empty() => due.append(&mut unwritten),
        }
        if due.is_empty() {
            continue;
        }
        for at in due {
            reader.judge(at);
            if let Err(why) = reader.write(at, &engine, &journal).await {
                tracing::warn!(source = %reader.states[at].name, why, "what changed in a source cannot be recorded, and does not hold yet");
                if !unwritten.contains(&at) {
                    unwritten.push(at);
                }
            }
        }
        publish.send_replace(Arc::new(reader.catalogue()));
    }
}

impl Reader {
    fn new(settings: &Settings, registry: Arc<Registry>, clock: Arc<dyn Clock>, key: DigestKey) -> Reader {
        let states = settings.sources.iter().filter_map(|source| {
            Some(State {
                // The settings have checked it.
                name: source.name.parse().ok()?,
                place: source.place(),
                read_at: None,
                trouble: None,
                found: None,
                taken: BTreeMap::new(),
                verdict: Verdict::default(),
            })
        });
        let names = Names { vars: settings.vars.keys().cloned().collect(), secrets: settings.secret_names() };
        Reader {
            states: states.collect(),
            operator: Operator::new(settings.environments.clone(), key),
            registry,
            names,
            vars: settings.vars.clone(),
            clock,
        }
    }

    /// What the ledger says was good last.
    fn restore(&mut self, standing: &Standing, journal: &dyn Journal) {
        for (workflow, revision) in &standing.revisions {
            let Some(at) = self.states.iter().position(|state| state.name == workflow.source) else {
                continue;
            };
            let read = journal.get(&revision.revision).map_err(|error| error.to_string());
            let sealed = match read.and_then(|bytes| unsealed(bytes, revision.bundled)) {
                Ok(sealed) => sealed,
                Err(error) => {
                    tracing::error!(%workflow, error, "the last good revision cannot be read");
                    continue;
                }
            };
            let bytes = sealed.get(WORKFLOW_FILE).unwrap_or_default();
            // It was good when it was taken; whether its environments are still there is another question, and is asked
            // when it runs.
            let mut checked = self.check(&revision.path, bytes, &sealed);
            if checked.graph.is_none() {
                let site = Site { workflow: None, files: &sealed };
                checked = check(&revision.path, bytes, &self.registry, &self.names, site);
            }
            let Some(graph) = checked.graph else {
                tracing::warn!(%workflow, "the last good revision is not valid for this version");
                continue;
            };
            let taken = Taken {
                path: revision.path.clone(),
                revision: revision.revision.clone(),
                commit: revision.commit.clone(),
                since: revision.since,
                sealed: Arc::new(sealed),
                graph: Arc::new(graph),
            };
            self.states[at].taken.insert(workflow.name.clone(), taken);
        }
    }

    /// Workflows of sources that the settings do not name any more are gone.
    async fn forget_others(&self, engine: &Engine) {
        for workflow in engine.standing().revisions.keys() {
            if self.states.iter().all(|state| state.name != workflow.source) {
                let reason = format!("the settings name no source `{}`", workflow.source);
                self.tell_gone(engine, workflow.clone(), reason).await;
            }
        }
    }

    async fn tell_gone(&self, engine: &Engine, workflow: WorkflowUid, reason: String) -> bool {
        let deed = Deed::WorkflowGone { workflow: workflow.clone(), reason: reason.clone() };
        match engine.deed(deed).await {
            Ok(_) => {
                tracing::warn!(%workflow, reason, "a workflow is gone: its schedules stop");
                true
            }
            Err(error) => {
                tracing::warn!(%workflow, %error, "that a workflow is gone cannot be recorded");
                false
            }
        }
    }

    fn check(&self, path: &str, bytes: &[u8], sealed: &Bundle) -> Checked {
        let mut files = Cow::Borrowed(self.operator.bundle());
        if !attached::names(sealed).is_empty() {
            files.to_mut().extend(sealed.clone());
        }
        let site = Site { workflow: None, files: &files };
        check(path, bytes, &self.registry, &self.names, site)
    }

    fn take(&mut self, at: usize, look: Look) {
        let now = self.clock.now();
        let state = &mut self.states[at];
        match look {
            Look::Same => {
                state.trouble = None;
                state.read_at = Some(now);
            }
            Look::Found(found) => {
                if let Some(note) = &found.note {
                    tracing::warn!(source = %state.name, note, "a source changed its past");
                }
                state.trouble = None;
                state.read_at = Some(now);
                state.found = Some(found);
            }
            Look::Trouble(trouble) => {
                if state.trouble.as_ref() != Some(&trouble) {
                    let hint = trouble.hint.as_deref().unwrap_or_default();
                    tracing::warn!(source = %state.name, %trouble, hint, "a source cannot be read; what was good stays");
                }
                state.trouble = Some(trouble);
            }
        }
    }

    fn judge(&mut self, at: usize) {
        let Some(found) = &self.states[at].found else { return };
        let check = |path: &str, bytes: &[u8], sealed: &Bundle| self.check(path, bytes, sealed);
        let verdict = judge(found, &self.states[at].taken, check);
        let state = &mut self.states[at];
        for problem in verdict.nameless.iter().chain(verdict.problems.values().flatten()) {
            let known = state.verdict.nameless.iter().chain(state.verdict.problems.values().flatten());
            if known.clone().all(|known| known != problem) {
                tracing::warn!(source = %state.name, %problem, "a problem in a workflow file");
            }
        }
        state.verdict = verdict;
    }

    /// The good revisions that are not the ones that were taken.
    fn fresh(&self, at: usize) -> Vec<(WorkflowName, Fresh)> {
        let state = &self.states[at];
        let rewritten = state.found.as_ref().is_some_and(|found| found.note.is_some());
        let commit = state.found.as_ref().and_then(|found| found.commit.clone());
        let known = |name: &WorkflowName, fresh: &Fresh| {
            state.taken.get(name).is_some_and(|taken| {
                let same = taken.revision == fresh.graph.revision && taken.path == fresh.path;
                // The commit that it came from is in nobody's history any more.
                same && (!rewritten || taken.commit == commit)
            })
        };
        let fresh = state.verdict.good.iter().filter(|(name, fresh)| !known(name, fresh));
        fresh.map(|(name, fresh)| (name.clone(), fresh.clone())).collect()
    }

    /// Records what changed in a source, and then takes it.
    async fn write(&mut self, at: usize, engine: &Engine, journal: &Arc<dyn Journal>) -> Result<(), String> {
        for (name, fresh) in self.fresh(at) {
            let state = &self.states[at];
            let workflow = WorkflowUid { source: state.name.clone(), name: name.clone() };
            let commit = state.found.as_ref().and_then(|found| found.commit.clone());
            let (kept, sealed) = (Arc::clone(journal), Arc::clone(&fresh.sealed));
            let put = tokio::task::spawn_blocking(move || {
                kept.put(&bundle::revision(sealed.get(WORKFLOW_FILE).unwrap_or_default(), &sealed))
            });
            let put = put.await;
            let revision = put.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
            let deed = Deed::WorkflowTaken {
                workflow: workflow.clone(),
                path: fresh.path.clone(),
                revision: revision.clone(),
                commit: commit.clone(),
                attached: attached::names(&fresh.sealed),
            };
            engine.deed(deed).await.map_err(|error| error.to_string())?;
            tracing::info!(%workflow, revision = revision.short(), commit, path = fresh.path, "a revision was taken");
            self.keep(at, name, fresh, commit);
        }
        for name in self.states[at].verdict.gone.clone() {
            let state = &self.states[at];
            let workflow = WorkflowUid { source: state.name.clone(), name: name.clone() };
            let path = state.taken.get(&name).map(|taken| taken.path.clone()).unwrap_or_default();
            let reason = format!("{path} does not hold it any more");
            if !self.tell_gone(engine, workflow, reason).await {
                return Err("the journal cannot be written".into());
            }
            self.states[at].taken.remove(&name);
        }
        Ok(())
    }

    /// Takes what is good without a record: where nobody keeps one.
    fn keep_good(&mut self, at: usize) {
        let commit = self.states[at].found.as_ref().and_then(|found| found.commit.clone());
        for (name, fresh) in self.fresh(at) {
            self.keep(at, name, fresh, commit.clone());
        }
    }

    fn keep(&mut self, at: usize, name: WorkflowName, fresh: Fresh, commit: Option<String>) {
        let Fresh { path, sealed, graph } = fresh;
        let (revision, since) = (graph.revision.clone(), self.clock.now());
        self.states[at].taken.insert(name, Taken { path, revision, commit, since, sealed, graph });
    }

    /// All that is known now.
    fn catalogue(&self) -> Catalogue {
        let mut catalogue = Catalogue {
            vars: self.vars.clone(),
            secrets: self.names.secrets.clone(),
            problems: self.operator.problems().to_vec(),
            ..Catalogue::default()
        };
        for state in &self.states {
            let words = |trouble: &Trouble| match &trouble.hint {
                Some(hint) => format!("{trouble} ({hint})"),
                None => trouble.to_string(),
            };
            let found = state.found.as_ref();
            let shown = Shown {
                place: state.place.clone(),
                read_at: state.read_at,
                commit: found.and_then(|found| found.commit.clone()),
                problem: state.trouble.as_ref().map(words),
                note: found.and_then(|found| found.note.clone()),
                problems: state.verdict.nameless.clone(),
            };
            catalogue.sources.insert(state.name.clone(), shown);
            for (name, taken) in &state.taken {
                let mut bundle = self.operator.bundle().clone();
                bundle.extend(Bundle::clone(&taken.sealed));
                let sourced = Sourced {
                    name: state.name.clone(),
                    path: taken.path.clone(),
                    commit: taken.commit.clone(),
                };
                let good = Good {
                    revision: taken.revision.clone(),
                    sourced,
                    since: taken.since,
                    graph: Arc::clone(&taken.graph),
                    bundle: Arc::new(bundle),
                };
                let problems = state.verdict.problems.get(name).cloned().unwrap_or_default();
                let known = Known { path: taken.path.clone(), good: Some(good), problems };
                let uid = WorkflowUid { source: state.name.clone(), name: name.clone() };
                catalogue.workflows.insert(uid, known);
            }
            for (name, path) in &state.verdict.paths {
                let uid = WorkflowUid { source: state.name.clone(), name: name.clone() };
                let problems = state.verdict.problems.get(name).cloned().unwrap_or_default();
                catalogue.workflows.entry(uid).or_insert(Known { path: path.clone(), good: None, problems });
            }
        }
        catalogue
    }
}
