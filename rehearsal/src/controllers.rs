//! The controllers: functions over the store, driven by one loop that wakes on changes and on the next due moment.
//!
//! ```text
//! change or timer ──> workloads (Deployment, ReplicaSet, Job) ──> pods ──> endpoints ──> garbage ──> again until quiet
//! ```
//! What they remember between passes is only timing; everything else is read from the objects, so a restart goes on
//! from what the file holds.

mod deployment;
mod endpoints;
mod events;
mod garbage;
mod image;
mod job;
mod life;
mod pod;
mod replicaset;
mod script;

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::api::write::How;
use crate::apply::Writer;
use crate::cluster::Cluster;
use crate::delays::Delays;
use crate::store::State;

/// The one node of the cluster.
pub(crate) const NODE: &str = "rehearsal-node-1";
pub(crate) const NODE_ADDRESS: &str = "192.168.100.11";

/// What controllers remember between passes.
#[derive(Debug)]
pub(crate) struct Memory {
    delays: Delays,
    pods: pod::Lives,
    endpoints: endpoints::Pending,
    workloads: replicaset::Failures,
    now: Instant,
    due: Option<Instant>,
}

impl Memory {
    /// Asks for another pass at a moment.
    fn wake_at(&mut self, moment: Instant) {
        self.due = Some(self.due.map_or(moment, |due| due.min(moment)));
    }

    fn wake_in(&mut self, delay: Duration) {
        self.wake_at(self.now + delay);
    }
}

/// Drives the controllers until the cluster stops.
pub(crate) async fn run(cluster: Cluster) {
    let mut changes = cluster.changes();
    let mut memory = Memory {
        delays: cluster.delays(),
        pods: pod::Lives::default(),
        endpoints: endpoints::Pending::default(),
        workloads: replicaset::Failures::default(),
        now: Instant::now(),
        due: None,
    };
    loop {
        changes.borrow_and_update();
        memory.now = Instant::now();
        memory.due = None;
        cluster.with(|state| pass(state, &mut memory));
        let due = memory.due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(due) => {}
            () = cluster.stopped() => return,
        }
    }
}

/// One pass over everything. Its own changes wake the loop again, so it ends when a pass changes nothing.
fn pass(state: &mut State, memory: &mut Memory) {
    deployment::reconcile(state, memory);
    job::reconcile(state, memory);
    replicaset::reconcile(state, memory);
    pod::reconcile(state, memory);
    endpoints::reconcile(state, memory);
    garbage::reconcile(state);
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
