//! Watches: the history from a revision on, then every change as it comes, one JSON line each.
//!
//! A selector sees an object appear when it begins to match and vanish when it ceases to. A revision that history has
//! lost ends the stream with an ERROR event that carries the 410. Dropping the body ends everything here.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{Response, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::table::Table;
use super::{Body, Call, Target};
use crate::cluster::Cluster;
use crate::kinds::Kind;
use crate::object;
use crate::selector::Selector;
use crate::status::Failure;
use crate::store::Change;

const BOOKMARK_EVERY: Duration = Duration::from_secs(30);
const LONGEST: u64 = 600;

struct Watcher {
    cluster: Cluster,
    changes: tokio::sync::watch::Receiver<u64>,
    kind: &'static Kind,
    table: Option<Table>,
    namespace: String,
    selector: Selector,
    revision: u64,
    ready: VecDeque<Value>,
    bookmarks: bool,
    next_bookmark: Instant,
    until: Instant,
    over: bool,
}

pub(crate) fn watch(cluster: &Cluster, target: &Target, call: &Call) -> Result<Response<Body>, Failure> {
    let selector = Selector::of(target.kind, &call.query)?;
    let now = Instant::now();
    let seconds =
        call.query.number("timeoutSeconds").filter(|seconds| *seconds > 0).unwrap_or(LONGEST).min(LONGEST);
    let mut watcher = Watcher {
        cluster: cluster.clone(),
        changes: cluster.changes(),
        kind: target.kind,
        table: Table::asked(call, target.kind),
        namespace: target.namespace.clone(),
        selector,
        revision: 0,
        ready: VecDeque::new(),
        bookmarks: call.query.is_true("allowWatchBookmarks"),
        next_bookmark: now + BOOKMARK_EVERY,
        until: now + Duration::from_secs(seconds),
        over: false,
    };
    let initial = call.query.get("sendInitialEvents").is_some_and(|said| said == "true");
    match call.query.get("resourceVersion").filter(|said| *said != "0") {
        Some(said) if !initial => {
            let invalid = || Failure::bad_request(format!("Invalid resourceVersion: {said:?}"));
            watcher.revision = said.parse().map_err(|_| invalid())?;
        }
        _ => watcher.begin_with_all(initial),
    }
    let lines = stream::unfold(watcher, |mut watcher| async move {
        let event = watcher.next().await?;
        let event = watcher.shown(event);
        let line = Bytes::from(format!("{event}\n"));
        Some((Ok::<_, Infallible>(Frame::data(line)), watcher))
    });
    let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(response)
}

impl Watcher {
    /// A watch without a revision begins with what is there.
    fn begin_with_all(&mut self, mark_the_end: bool) {
        let cluster = self.cluster.clone();
        cluster.with(|state| {
            self.revision = state.revision;
            for (_, object) in state.list(self.kind.resource, &self.namespace) {
                if self.selector.matches(object) {
                    self.ready.push_back(json!({ "type": "ADDED", "object": **object }));
                }
            }
        });
        if mark_the_end {
            let mut bookmark = self.bookmark();
            object::set(
                &mut bookmark,
                &["object", "metadata", "annotations", "k8s.io/initial-events-end"],
                "true",
            );
            self.ready.push_back(bookmark);
        }
    }

    /// An event in the form that was asked for; an error is a `Status` in every form.
    fn shown(&self, mut event: Value) -> Value {
        let Some(table) = self.table.filter(|_| event["type"] != "ERROR") else { return event };
        let now = self.cluster.with(|state| state.clock.now());
        let object = event["object"].take();
        event["object"] =
            if event["type"] == "BOOKMARK" { table.mark(&object, now) } else { table.of_one(&object, now) };
        event
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over || self.cluster.is_stopped() {
                return None;
            }
            self.changes.borrow_and_update();
            self.collect();
            if !self.ready.is_empty() {
                continue;
            }
            let now = Instant::now();
            if now >= self.until {
                self.over = true;
                return self.bookmarks.then(|| self.bookmark());
            }
            if self.bookmarks && now >= self.next_bookmark {
                self.next_bookmark = now + BOOKMARK_EVERY;
                return Some(self.bookmark());
            }
            let wake = if self.bookmarks { self.until.min(self.next_bookmark) } else { self.until };
            tokio::select! {
                changed = self.changes.changed() => if changed.is_err() { return None },
                () = tokio::time::sleep_until(wake) => {}
                () = self.cluster.stopped() => return None,
            }
        }
    }

    /// Takes over what changed since the last look.
    fn collect(&mut self) {
        let cluster = self.cluster.clone();
        cluster.with(|state| match state.changes_since(self.revision) {
            Err(oldest) => {
                let status = Failure::expired(self.revision, oldest).to_status();
                self.ready.push_back(json!({ "type": "ERROR", "object": status }));
                self.over = true;
            }
            Ok(changes) => {
                for change in changes {
                    self.revision = change.revision;
                    let here = self.namespace.is_empty() || change.key.namespace == self.namespace;
                    if change.key.resource == self.kind.resource && here {
                        self.ready.extend(event(change, &self.selector));
                    }
                }
                self.revision = self.revision.max(state.revision);
            }
        });
    }

    fn bookmark(&self) -> Value {
        let mut object = json!({
            "kind": self.kind.kind, "apiVersion": self.kind.api_version(),
            "metadata": { "resourceVersion": self.revision.to_string(), "creationTimestamp": null },
        });
        if crate::schema::fields(self.kind.schema).is_some_and(|fields| fields.contains_key("spec")) {
            object["spec"] = json!({});
        }
        json!({ "type": "BOOKMARK", "object": object })
    }
}

/// What a selector sees of a change.
fn event(change: &Change, selector: &Selector) -> Option<Value> {
    let before = change.old.as_ref().is_some_and(|old| selector.matches(old));
    let after = !change.removed && selector.matches(&change.new);
    let kind = match (before, after) {
        (false, true) => "ADDED",
        (true, true) => "MODIFIED",
        (true, false) => "DELETED",
        (false, false) => return None,
    };
    Some(json!({ "type": kind, "object": *change.new }))
}
