//! The cluster's file: read at the start, written shortly after changes and at the end.
//!
//! A write goes to a second file, is flushed to disk and renamed, so a killed process leaves the old or the new state,
//! never half of one. A file that does not read is an error with its place, never a panic and never overwritten.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::store::{Key, State};
use crate::{kinds, object};

const FORMAT: u32 = 1;
/// How long a change waits for others to be written with it: less where somebody waits for the answer.
const SETTLE: Duration = Duration::from_millis(50);
const SETTLE_DURABLE: Duration = Duration::from_millis(2);

#[derive(Debug, Serialize, Deserialize)]
struct Snapshot {
    format: u32,
    revision: u64,
    addresses: u32,
    images: BTreeMap<String, String>,
    #[serde(serialize_with = "write_objects", deserialize_with = "read_objects")]
    objects: Vec<Arc<Value>>,
}

fn write_objects<S: Serializer>(objects: &[Arc<Value>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(objects.iter().map(AsRef::<Value>::as_ref))
}

fn read_objects<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Arc<Value>>, D::Error> {
    Ok(Vec::<Value>::deserialize(deserializer)?.into_iter().map(Arc::new).collect())
}

/// Fills the state from the file; a file that does not exist leaves it empty.
pub(crate) fn load(path: &Path, state: &mut State) -> Result<(), Error> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
    };
    let broken = |why: String| Error::Broken { path: path.to_owned(), why };
    let snapshot: Snapshot = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    if snapshot.format != FORMAT {
        return Err(broken(format!("format {}, and this program writes format {FORMAT}", snapshot.format)));
    }
    let mut objects = BTreeMap::new();
    for object in snapshot.objects {
        let (version, name) = (object::text(&object, "/apiVersion"), object::text(&object, "/kind"));
        let kind =
            kinds::by_kind(version, name).ok_or_else(|| broken(format!("unknown type {version} {name}")))?;
        objects.insert(Key::of(kind.resource, &object), object);
    }
    state.images = snapshot.images;
    state.addresses = snapshot.addresses;
    // Names and uids must not repeat those of the run before.
    state.random = crate::delays::Random::new(state.random.next() ^ snapshot.revision);
    state.restore(objects, snapshot.revision);
    Ok(())
}

/// Writes the file after changes, until the cluster stops.
pub(crate) async fn run(cluster: Cluster, path: PathBuf, durable: bool) {
    let settle = if durable { SETTLE_DURABLE } else { SETTLE };
    let mut changes = cluster.changes();
    let mut written = 0;
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
        let snapshot = cluster.with(|state| snapshot(state));
        if snapshot.revision != written {
            let revision = snapshot.revision;
            written = revision;
            let path = path.clone();
            let done = tokio::task::spawn_blocking(move || write(&path, &snapshot)).await;
            if let Ok(Err(error)) = done {
                tracing::warn!(%error, "the rehearsal's file could not be written");
                written = 0;
            }
            // Also after a failure: a full disk must not stop the cluster.
            cluster.set_saved(revision);
        }
        if cluster.is_stopped() {
            return;
        }
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

fn write(path: &Path, snapshot: &Snapshot) -> std::io::Result<()> {
    let text = serde_json::to_vec(snapshot)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    let mut file = File::create(&fresh)?;
    file.write_all(&text)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
