//! The cluster's file, and the log of changes beside it: read at the start, written shortly after changes and at the end.
//!
//! ```text
//! objects.json       every object of one moment     a second file, flushed to disk and renamed: the old or the new, never half
//! objects.json.log   what changed since, a line a write
//! ```
//! A write costs what changed, not what is there; a log that has outgrown the file is folded into it. A line counts once it is
//! whole, and nobody was answered before that. A file that does not read is an error with its place, never a panic and never
//! overwritten.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::kinds;
use crate::store::{Key, State};

const FORMAT: u32 = 1;
/// How long a change waits for others to be written with it: less where somebody waits for the answer.
const SETTLE: Duration = Duration::from_millis(50);
const SETTLE_DURABLE: Duration = Duration::from_millis(2);
/// A log is never folded before it has so many bytes.
const SMALL_LOG: usize = 1 << 20;

/// Everything of one moment.
#[derive(Debug, Serialize, Deserialize)]
struct Snapshot {
    format: u32,
    revision: u64,
    addresses: u32,
    images: BTreeMap<String, String>,
    #[serde(serialize_with = "write_objects", deserialize_with = "read_objects")]
    objects: Vec<Arc<Value>>,
}

/// What changed from one revision to another: a line of the log.
#[derive(Debug, Serialize, Deserialize)]
struct Step {
    revision: u64,
    addresses: u32,
    /// All of them, where there are more than before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    images: Option<BTreeMap<String, String>>,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "write_objects",
        deserialize_with = "read_objects"
    )]
    put: Vec<Arc<Value>>,
    /// Resource, namespace and name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gone: Vec<(String, String, String)>,
}

fn write_objects<S: Serializer>(objects: &[Arc<Value>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(objects.iter().map(AsRef::<Value>::as_ref))
}

fn read_objects<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Arc<Value>>, D::Error> {
    Ok(Vec::<Value>::deserialize(deserializer)?.into_iter().map(Arc::new).collect())
}

/// The file beside `path` that begins like it.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

fn log_of(path: &Path) -> PathBuf {
    beside(path, ".log")
}

/// Fills the state from the file and its log; a file that does not exist leaves it empty, whatever the log says.
pub(crate) fn load(path: &Path, state: &mut State) -> Result<(), Error> {
    let Some(text) = read(path)? else { return Ok(()) };
    let broken = |why: String| Error::Broken { path: path.to_owned(), why };
    let mut snapshot: Snapshot = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    if snapshot.format != FORMAT {
        return Err(broken(format!("format {}, and this program writes format {FORMAT}", snapshot.format)));
    }
    let mut objects = BTreeMap::new();
    put_all(&mut objects, std::mem::take(&mut snapshot.objects)).map_err(broken)?;
    let log = log_of(path);
    let text = read(&log)?.unwrap_or_default();
    let broken = |why: String| Error::Broken { path: log.clone(), why };
    // What stands after the last line break was never acknowledged.
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    for line in text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let step: Step = serde_json::from_slice(line).map_err(|error| broken(error.to_string()))?;
        // The file is newer where the process ended after it was folded.
        if step.revision <= snapshot.revision {
            continue;
        }
        for (resource, namespace, name) in &step.gone {
            let kind =
                kinds::by_resource(resource).ok_or_else(|| broken(format!("unknown resource {resource}")))?;
            objects.remove(&Key::new(kind.resource, namespace, name));
        }
        put_all(&mut objects, step.put).map_err(broken)?;
        snapshot.images = step.images.unwrap_or(snapshot.images);
        snapshot.addresses = step.addresses;
        snapshot.revision = step.revision;
    }
    state.images = snapshot.images;
    state.addresses = snapshot.addresses;
    // Names and uids must not repeat those of the run before.
    state.random = crate::delays::Random::new(state.random.next() ^ snapshot.revision);
    state.restore(objects, snapshot.revision);
    Ok(())
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

fn put_all(objects: &mut BTreeMap<Key, Arc<Value>>, more: Vec<Arc<Value>>) -> Result<(), String> {
    for object in more {
        let (version, name) =
            (crate::object::text(&object, "/apiVersion"), crate::object::text(&object, "/kind"));
        let kind = kinds::by_kind(version, name).ok_or_else(|| format!("unknown type {version} {name}"))?;
        objects.insert(Key::of(kind.resource, &object), object);
    }
    Ok(())
}

/// Writes after changes, until the cluster stops.
pub(crate) async fn run(cluster: Cluster, path: PathBuf, durable: bool) {
    let settle = if durable { SETTLE_DURABLE } else { SETTLE };
    let mut changes = cluster.changes();
    let mut disk = Disk { path, written: 0, images: 0, file: 0, log: None, logged: 0 };
    // What was there before this task began to listen is a change too.
    changes.mark_changed();
    loop {
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(settle) => {}
                    () = cluster.stopped() => {}
                }
            }
            () = cluster.stopped() => {}
        }
        changes.borrow_and_update();
        let stopping = cluster.is_stopped();
        let (revision, save) = cluster.with(|state| (state.revision, disk.due(state, stopping)));
        if let Some(save) = save {
            let done = tokio::task::spawn_blocking(move || {
                let done = disk.save(&save);
                (disk, done)
            })
            .await;
            let Ok((back, done)) = done else { return };
            disk = back;
            if let Err(error) = done {
                tracing::warn!(%error, "the rehearsal's file could not be written");
                // Whatever half a line is in the log: the next write is the whole file again.
                disk.written = 0;
            }
            // Also after a failure: a full disk must not stop the cluster.
            cluster.set_saved(revision);
        }
        if stopping {
            return;
        }
    }
}

/// What is on disk.
#[derive(Debug)]
struct Disk {
    path: PathBuf,
    /// The revision; 0 as long as the file is not this process's own.
    written: u64,
    /// How many images are written.
    images: usize,
    /// The bytes of the file.
    file: usize,
    log: Option<File>,
    /// The bytes of the log.
    logged: usize,
}

enum Save {
    Whole(Snapshot),
    Step(Step),
}

impl Disk {
    /// What is to be written now. At the end that is one file.
    fn due(&self, state: &State, last: bool) -> Option<Save> {
        let outgrown = self.logged > SMALL_LOG.max(2 * self.file);
        if self.written == 0 || outgrown || (last && self.logged > 0) {
            return Some(Save::Whole(snapshot(state)));
        }
        if state.revision == self.written {
            return None;
        }
        // What history has forgotten already cannot be told in steps.
        let Ok(changes) = state.changes_since(self.written) else {
            return Some(Save::Whole(snapshot(state)));
        };
        let keys: BTreeSet<&Key> = changes.map(|change| &change.key).collect();
        let mut step = Step {
            revision: state.revision,
            addresses: state.addresses,
            images: (state.images.len() != self.images).then(|| state.images.clone()),
            put: Vec::new(),
            gone: Vec::new(),
        };
        for key in keys {
            match state.get(key) {
                Some(object) => step.put.push(object.clone()),
                None => step.gone.push((key.resource.into(), key.namespace.clone(), key.name.clone())),
            }
        }
        Some(Save::Step(step))
    }

    fn save(&mut self, save: &Save) -> std::io::Result<()> {
        match save {
            Save::Whole(snapshot) => self.write(snapshot),
            Save::Step(step) => self.append(step),
        }
    }

    fn write(&mut self, snapshot: &Snapshot) -> std::io::Result<()> {
        let text = serde_json::to_vec(snapshot)?;
        let fresh = beside(&self.path, ".new");
        let mut file = File::create(&fresh)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.path)?;
        sync_folder(&self.path)?;
        // Its lines are in the file by now, and mean nothing to who reads both.
        self.log = None;
        self.logged = 0;
        match std::fs::remove_file(log_of(&self.path)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.written = snapshot.revision;
        self.images = snapshot.images.len();
        self.file = text.len();
        Ok(())
    }

    fn append(&mut self, step: &Step) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(step)?;
        line.push(b'\n');
        let fresh = self.log.is_none();
        let log = match &mut self.log {
            Some(log) => log,
            none => none.insert(File::create(log_of(&self.path))?),
        };
        log.write_all(&line)?;
        log.sync_data()?;
        if fresh {
            sync_folder(&self.path)?;
        }
        self.logged += line.len();
        self.written = step.revision;
        self.images = step.images.as_ref().map_or(self.images, BTreeMap::len);
        Ok(())
    }
}

fn snapshot(state: &State) -> Snapshot {
    Snapshot {
        format: FORMAT,
        revision: state.revision,
        addresses: state.addresses,
        images: state.images.clone(),
        objects: state.objects.values().cloned().collect(),
    }
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
