//! The controllers: functions over the store, driven by one loop that wakes on changes and on the next due moment.
//!
//! ```text
//! change or timer ──> what that touches ──> autoscalers ──> workloads (Deployment, ReplicaSet, Job) ──> pods ──> endpoints ──> garbage
//!        ^────────────────────────────────────── until quiet ──────────────────────────────────────'
//! ```
//! What they remember between passes is only timing; everything else is read from the objects, so a restart goes on
//! from what the file holds.

mod autoscaler;
mod deployment;
mod endpoints;
mod events;
mod garbage;
mod image;
mod job;
mod life;
mod pod;
pub(crate) mod quota;
mod replicaset;
mod script;
mod touched;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::api::write::How;
use crate::apply::Writer;
use crate::cluster::Cluster;
use crate::delays::Delays;
use crate::store::{Key, State};
use touched::Touched;

/// The one node of the cluster.
pub(crate) const NODE: &str = "rehearsal-node-1";
pub(crate) const NODE_ADDRESS: &str = "192.168.100.11";

/// How often everything is looked at, whatever changed: old events go then.
const RESYNC: Duration = Duration::from_secs(5);

/// What controllers remember between passes.
#[derive(Debug)]
pub(crate) struct Memory {
    delays: Delays,
    pods: pod::Lives,
    endpoints: endpoints::Pending,
    workloads: replicaset::Failures,
    now: Instant,
    /// The newest revision that a pass has looked at.
    seen: u64,
    /// When everything is looked at again.
    resync: Instant,
    /// When an object is looked at again although nothing changes.
    due: HashMap<Key, Instant>,
    /// The object that is looked at.
    about: Option<Key>,
}

impl Memory {
    /// The touched objects of a resource that are there.
    fn each(&self, state: &State, touched: &Touched, resource: &'static str) -> Vec<Arc<Value>> {
        touched.of(resource).filter_map(|key| state.get(key)).cloned().collect()
    }

    /// From here on another look is asked for at this object; an earlier wish for one is fulfilled by this one.
    fn about(&mut self, object: &Value, resource: &'static str) {
        let key = Key::of(resource, object);
        self.due.remove(&key);
        self.about = Some(key);
    }

    /// Asks for another look at a moment.
    fn wake_at(&mut self, moment: Instant) {
        let Some(key) = self.about.clone() else { return };
        let due = self.due.entry(key).or_insert(moment);
        *due = moment.min(*due);
    }

    fn wake_in(&mut self, delay: Duration) {
        self.wake_at(self.now + delay);
    }

    /// Those whose moment has come.
    fn take_due(&mut self) -> BTreeSet<Key> {
        let now = self.now;
        let due: BTreeSet<Key> =
            self.due.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        self.due.retain(|_, at| *at > now);
        due
    }
}

/// Drives the controllers until the cluster stops.
pub(crate) async fn run(cluster: Cluster) {
    let mut changes = cluster.changes();
    let now = Instant::now();
    let mut memory = Memory {
        delays: cluster.delays(),
        pods: pod::Lives::default(),
        endpoints: endpoints::Pending::default(),
        workloads: replicaset::Failures::default(),
        now,
        seen: 0,
        resync: now,
        due: HashMap::new(),
        about: None,
    };
    loop {
        changes.borrow_and_update();
        memory.now = Instant::now();
        cluster.with(|state| pass(state, &mut memory));
        let due = memory.due.values().copied().fold(memory.resync, Instant::min);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(due) => {}
            () = cluster.stopped() => return,
        }
    }
}

/// One pass over what changed or is due. Its own changes wake the loop again, so it ends when a pass changes nothing.
fn pass(state: &mut State, memory: &mut Memory) {
    let due = memory.take_due();
    // Woken for nothing that can be seen: something outside of the objects was turned.
    let poked = due.is_empty() && state.revision == memory.seen;
    let all = poked || memory.now >= memory.resync;
    if all {
        memory.resync = memory.now + RESYNC;
    }
    let touched = Touched::since(state, memory.seen, due, all);
    memory.seen = state.revision;
    autoscaler::reconcile(state, memory, &touched);
    deployment::reconcile(state, memory, &touched);
    job::reconcile(state, memory, &touched);
    replicaset::reconcile(state, memory, &touched);
    pod::reconcile(state, memory, &touched);
    endpoints::reconcile(state, memory, &touched);
    garbage::reconcile(state, &touched);
    quota::reconcile(state, &touched);
}

/// How controllers write: under their own name, never dry.
fn how(state: &State) -> How {
    let time = state.clock.stamp();
    let writer =
        Writer { manager: "kube-controller-manager".to_owned(), subresource: None, force: false, time };
    How { writer, dry_run: false }
}

/// A condition as a status holds it; its transition time moves only with its status.
fn condition(old: &[Value], name: &str, is: bool, reason: &str, message: &str, now: &str) -> Value {
    let status = if is { "True" } else { "False" };
    let before = old.iter().find(|condition| condition["type"] == name);
    let since =
        before.filter(|before| before["status"] == status).map(|before| before["lastTransitionTime"].clone());
    let mut condition = serde_json::json!({
        "type": name, "status": status, "lastTransitionTime": since.unwrap_or_else(|| now.into()),
    });
    if !reason.is_empty() {
        condition["reason"] = reason.into();
    }
    if !message.is_empty() {
        condition["message"] = message.into();
    }
    condition
}
