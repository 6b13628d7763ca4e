//! Objects, one counter of revisions, and a bounded history for watches.
//!
//! The store knows no API and no controllers. Every change goes through `put` and `remove`, which count, remember
//! and wake; so a watcher sees each change once and in order, and the persister knows when to write. They also keep who is
//! whose, so that nobody goes through everything to find the pods of one owner.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::delays::Random;
use crate::object;

/// Where an object lives. `namespace` is empty for what has none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) resource: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(resource: &'static str, namespace: &str, name: &str) -> Self {
        Self { resource, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The key under which the object itself says that it lives.
    pub(crate) fn of(resource: &'static str, object: &Value) -> Self {
        Self::new(resource, object::namespace(object), object::name(object))
    }
}

/// One change: `old` is absent for a new object, `new` for one that is gone.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) key: Key,
    pub(crate) old: Option<Arc<Value>>,
    /// For a removed object its last state, with the revision of the removal.
    pub(crate) new: Arc<Value>,
    pub(crate) removed: bool,
}

/// What containers wrote: the present run and the one before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    pub(crate) current: Vec<String>,
    pub(crate) previous: Vec<String>,
}

/// Everything a cluster knows.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) objects: BTreeMap<Key, Arc<Value>>,
    pub(crate) revision: u64,
    /// Image references by their digest, so that a reference by digest finds its tag again.
    pub(crate) images: BTreeMap<String, String>,
    pub(crate) addresses: u32,
    pub(crate) logs: HashMap<(String, String), Log>,
    pub(crate) random: Random,
    pub(crate) clock: Clock,
    /// Whether the agent's webhook answers.
    pub(crate) agent: bool,
    /// Why no pod may be created, where a test wants that.
    pub(crate) deny_pods: Option<String>,
    /// What a mutating webhook merges into Deployments, where a test wants one.
    pub(crate) webhook: Option<Value>,
    kin: Kin,
    history: VecDeque<Change>,
    history_limit: usize,
    compacted: u64,
    wake: watch::Sender<u64>,
}

/// Who is whose, read off `ownerReferences`.
#[derive(Debug, Default)]
struct Kin {
    /// Where an object is, by uid.
    places: HashMap<String, Key>,
    /// The objects that name an owner, by the owner's uid.
    dependents: HashMap<String, BTreeSet<Key>>,
    /// The objects that no controller owns.
    free: BTreeSet<Key>,
}

impl Kin {
    fn add(&mut self, key: &Key, object: &Value) {
        self.places.insert(object::uid(object).to_owned(), key.clone());
        for uid in object::owner_uids(object) {
            self.dependents.entry(uid.to_owned()).or_default().insert(key.clone());
        }
        if object::controller_uid(object).is_none() {
            self.free.insert(key.clone());
        }
    }

    fn remove(&mut self, key: &Key, object: &Value) {
        self.places.remove(object::uid(object));
        for uid in object::owner_uids(object) {
            if let Some(keys) = self.dependents.get_mut(uid) {
                keys.remove(key);
                if keys.is_empty() {
                    self.dependents.remove(uid);
                }
            }
        }
        self.free.remove(key);
    }
}

/// The keys of a resource in a namespace; "" takes every namespace.
pub(crate) fn of<'k>(
    keys: &'k BTreeSet<Key>,
    resource: &'static str,
    namespace: &str,
) -> impl Iterator<Item = &'k Key> {
    let wanted = namespace.to_owned();
    let first = Key::new(resource, namespace, "");
    keys.range(first..)
        .take_while(move |key| key.resource == resource && (wanted.is_empty() || key.namespace == wanted))
}

impl State {
    pub(crate) fn new(seed: u64, history_limit: usize, wake: watch::Sender<u64>) -> Self {
        Self {
            objects: BTreeMap::new(),
            revision: 0,
            images: BTreeMap::new(),
            addresses: 0,
            logs: HashMap::new(),
            random: Random::new(seed),
            clock: Clock::start(),
            agent: true,
            deny_pods: None,
            webhook: None,
            kin: Kin::default(),
            history: VecDeque::new(),
            history_limit,
            compacted: 0,
            wake,
        }
    }

    /// Takes over what a file held; watches cannot go back before it.
    pub(crate) fn restore(&mut self, objects: BTreeMap<Key, Arc<Value>>, revision: u64) {
        self.kin = Kin::default();
        for (key, object) in &objects {
            self.kin.add(key, object);
        }
        self.objects = objects;
        self.revision = revision;
        self.compacted = revision;
        self.history.clear();
        self.wake.send_replace(revision);
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    pub(crate) fn find(&self, resource: &'static str, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.objects.get(&Key::new(resource, namespace, name))
    }

    /// The objects of a resource, of one namespace or of all, by name.
    pub(crate) fn list(
        &self,
        resource: &'static str,
        namespace: &str,
    ) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        let wanted = namespace.to_owned();
        self.objects.range(Key::new(resource, namespace, "")..).take_while(move |(key, _)| {
            key.resource == resource && (wanted.is_empty() || key.namespace == wanted)
        })
    }

    /// A copy of such a list, for those who change the store while they go through it.
    pub(crate) fn all(&self, resource: &'static str, namespace: &str) -> Vec<Arc<Value>> {
        self.list(resource, namespace).map(|(_, object)| object.clone()).collect()
    }

    /// Where the object of a uid is.
    pub(crate) fn place(&self, uid: &str) -> Option<&Key> {
        self.kin.places.get(uid)
    }

    /// The objects that name an owner.
    pub(crate) fn dependents(&self, uid: &str) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        let keys = self.kin.dependents.get(uid).into_iter().flatten();
        keys.filter_map(|key| Some((key, self.objects.get(key)?)))
    }

    /// The objects of a resource in a namespace that no controller owns.
    pub(crate) fn free(&self, resource: &'static str, namespace: &str) -> Vec<Arc<Value>> {
        of(&self.kin.free, resource, namespace).filter_map(|key| self.objects.get(key)).cloned().collect()
    }

    pub(crate) fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        object::set(&mut object, &["metadata", "resourceVersion"], self.revision.to_string());
        let new = Arc::new(object);
        let old = self.objects.insert(key.clone(), new.clone());
        if let Some(old) = &old {
            self.kin.remove(&key, old);
        }
        self.kin.add(&key, &new);
        self.remember(Change { revision: self.revision, key, old, new: new.clone(), removed: false });
        new
    }

    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let old = self.objects.remove(key)?;
        self.kin.remove(key, &old);
        self.revision += 1;
        let mut last = (*old).clone();
        object::set(&mut last, &["metadata", "resourceVersion"], self.revision.to_string());
        let new = Arc::new(last);
        self.remember(Change {
            revision: self.revision,
            key: key.clone(),
            old: Some(old),
            new: new.clone(),
            removed: true,
        });
        Some(new)
    }

    fn remember(&mut self, change: Change) {
        self.history.push_back(change);
        while self.history.len() > self.history_limit {
            if let Some(dropped) = self.history.pop_front() {
                self.compacted = dropped.revision;
            }
        }
        self.wake.send_replace(self.revision);
    }

    /// The changes after a revision, or the oldest revision that can still be asked for.
    pub(crate) fn changes_since(&self, revision: u64) -> Result<impl Iterator<Item = &Change>, u64> {
        if revision < self.compacted {
            return Err(self.compacted);
        }
        let from = self.history.partition_point(|change| change.revision <= revision);
        Ok(self.history.range(from..))
    }

    /// Forgets the history, as etcd's compaction does: watches from before get 410.
    pub(crate) fn compact(&mut self) {
        self.history.clear();
        self.compacted = self.revision;
    }

    /// The next address of 10.244.0.0/16.
    pub(crate) fn pod_address(&mut self) -> String {
        self.addresses = self.addresses.wrapping_add(1);
        let host = self.addresses % 65_000 + 9;
        format!("10.244.{}.{}", host >> 8, host & 255)
    }
}
