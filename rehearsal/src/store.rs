//! Objects, one counter of revisions, and a bounded history for watches.
//!
//! The store knows no API and no controllers. Every change goes through `put` and `remove`, which count, remember
//! and wake; so a watcher sees each change once and in order, and the persister knows when to write.

use std::collections::{BTreeMap, HashMap, VecDeque};
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
    history: VecDeque<Change>,
    history_limit: usize,
    compacted: u64,
    wake: watch::Sender<u64>,
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
            history: VecDeque::new(),
            history_limit,
            compacted: 0,
            wake,
        }
    }

    /// Takes over what a file held; watches cannot go back before it.
    pub(crate) fn restore(&mut self, objects: BTreeMap<Key, Arc<Value>>, revision: u64) {
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

    pub(crate) fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        object::set(&mut object, &["metadata", "resourceVersion"], self.revision.to_string());
        let new = Arc::new(object);
        let old = self.objects.insert(key.clone(), new.clone());
        self.remember(Change { revision: self.revision, key, old, new: new.clone(), removed: false });
        new
    }

    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let old = self.objects.remove(key)?;
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
