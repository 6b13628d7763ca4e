//! The same lane again: what a deploy finds under the lane's names, and what becomes of it.
//!
//! Judges plain objects against what stands on the cluster, and writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use graylane_engine::clock::{Timestamp, parse_duration};
use graylane_engine::id::RunId;
use graylane_engine::task::TaskError;
use serde_json::Value;

use super::Removed;
use crate::cluster::{Cluster, full_name};
use crate::environment::Site;
use crate::inventory::{
    LaneService, NOTHING, Standing, edits, is_gray, is_ours, lanes_of, live_hash, service_of, tag_of,
};
use crate::lane::labels::{
    ANNOTATION_BASELINE_HASH, ANNOTATION_CREATED, ANNOTATION_EXPIRES, ANNOTATION_OBJECTS, ANNOTATION_RUN,
};
use crate::lane::route::is_route;
use crate::manifest::{ObjectRef, kind, map_at, namespace, texts, uid};

/// What a deploy knows of the lane that it writes.
pub(super) struct Update<'u> {
    pub(super) site: &'u Site,
    pub(super) standing: &'u Standing,
    pub(super) tag: &'u str,
    /// Whether objects of a lane that another tool made may be taken over.
    pub(super) adopt: bool,
    pub(super) run: RunId,
    pub(super) now: Timestamp,
}

/// Refuses a lane more than there may be.
pub(super) fn room(site: &Site, standing: &Standing, tag: &str, now: Timestamp) -> Result<(), TaskError> {
    let Some(most) = site.environment.max_lanes else { return Ok(()) };
    let lanes = lanes_of(standing, site, now);
    if lanes.iter().any(|lane| lane.tag == tag) || lanes.len() < most as usize {
        return Ok(());
    }
    let environment = &site.environment.name;
    let told = lanes.iter().map(|lane| {
        let since = lane.since.as_deref().unwrap_or("an unknown time");
        let end = lane.expires.as_ref().map(|end| format!(", expires {end}")).unwrap_or_default();
        format!("lane {}: since {since}{end}", lane.tag)
    });
    let count = lanes.len();
    Err(TaskError::permanent(format!(
        "refused: {environment} has {count} lane{} already, and `max_lanes` is {most}",
        if count == 1 { "" } else { "s" }
    ))
    .details(told)
    .hint("take one of them down with mse-gray-offline, or raise `max_lanes` in the environment's file"))
}

/// The way into each environment that says how many lanes there may be. Of two new lanes that were planned at the same
/// moment, the second one waits here until the first one stands, and is counted with it.
#[derive(Debug, Default)]
pub(super) struct Doors(Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>);

/// Held until the lane's first object stands.
pub(super) type Door = Option<tokio::sync::OwnedMutexGuard<()>>;

impl Doors {
    /// Lets a lane in, or refuses it: before its first write. A lane that stands already goes in and out.
    pub(super) async fn enter(
        &self,
        site: &Site,
        cluster: &Cluster,
        tag: &str,
        now: Timestamp,
    ) -> Result<Door, TaskError> {
        if site.environment.max_lanes.is_none() {
            return Ok(None);
        }
        let door = {
            let mut doors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(doors.entry(site.environment.name.clone()).or_default())
        };
        let held = door.lock_owned().await;
        room(site, &Standing::look(cluster).await?, tag, now)?;
        Ok(Some(held))
    }
}

impl Update<'_> {
    /// Whether what stands under a name of the lane may be written over; says why not.
    pub(super) fn may_write(&self, live: &Value) -> Result<(), TaskError> {
        let shown = full_name(&self.site.environment.namespace, live);
        if !is_gray(live) || tag_of(live) != self.tag {
            return Err(TaskError::permanent(format!(
                "refused: {shown} exists and does not belong to lane `{}`",
                self.tag
            ))
            .hint("use another tag, or remove the object"));
        }
        if !is_ours(live) && !self.adopt {
            return Err(TaskError::permanent(format!(
                "refused: {shown} belongs to a lane that another tool made"
            ))
            .hint("`adopt: true` takes that lane over; else take it down with the tool that made it, or use another tag"));
        }
        Ok(())
    }

    /// What is told of a live object that the deploy writes over; none where nobody but us has written it.
    pub(super) fn mends(&self, live: &Value) -> Option<String> {
        let shown = full_name(&self.site.environment.namespace, live);
        if !is_ours(live) {
            return Some(format!("{shown} was made by another tool, and is taken over"));
        }
        let edits: Vec<String> = edits(live).iter().map(ToString::to_string).collect();
        (!edits.is_empty())
            .then(|| format!("{shown} was changed by hand ({}): that is taken back", edits.join("; ")))
    }

    /// An object with the marks of this run: they make lanes true without our store.
    pub(super) fn stamp(
        &self,
        mut object: Value,
        live: Option<&Value>,
        copies: &Copies,
    ) -> Result<Value, TaskError> {
        let created = live.and_then(|live| texts(live, "/metadata/annotations").remove(ANNOTATION_CREATED));
        let created = created.unwrap_or_else(|| self.now.to_string());
        let objects = (kind(&object) == "Deployment").then(|| copies.of(&object));
        let expires = self.expires()?;
        let annotations = map_at(&mut object, &["metadata", "annotations"]);
        annotations.insert(ANNOTATION_CREATED.into(), created.into());
        annotations.insert(ANNOTATION_RUN.into(), self.run.to_string().into());
        if let Some(objects) = objects {
            annotations.insert(ANNOTATION_OBJECTS.into(), objects.into());
        }
        if let Some(expires) = expires {
            annotations.insert(ANNOTATION_EXPIRES.into(), expires.to_string().into());
        }
        over_baseline(&mut object, self.standing);
        Ok(object)
    }

    /// When the lane ends, counted from this deploy.
    fn expires(&self) -> Result<Option<Timestamp>, TaskError> {
        let Some(ttl) = &self.site.environment.ttl else { return Ok(None) };
        let ttl: Duration = parse_duration(ttl)
            .map_err(|why| TaskError::permanent(format!("`ttl` of the environment: {why}")))?;
        Ok(Some(self.now.plus(ttl)))
    }

    /// What the lane has and the deploy does not: objects of its services go, other services stay and are named.
    pub(super) fn leftovers(&self, rendered: &[Value], told: &mut Vec<String>) -> Vec<Value> {
        let place = |object: &Value| (service_of(object), namespace(object).map(str::to_owned));
        let services: BTreeSet<_> = rendered.iter().map(place).collect();
        let names: BTreeSet<String> = rendered.iter().map(service_of).collect();
        let kept: BTreeSet<ObjectRef> = rendered.iter().map(ObjectRef::of).collect();
        let mut stays: BTreeMap<String, usize> = BTreeMap::new();
        let mut gone = Vec::new();
        for object in self.standing.lane(self.tag) {
            if kept.contains(&ObjectRef::of(&object)) {
                continue;
            }
            // A service that has moved to another namespace leaves its copy behind.
            let mine = services.contains(&place(&object)) || names.contains(&service_of(&object));
            if mine && (is_ours(&object) || self.adopt) {
                gone.push(object);
            } else if mine {
                let shown = full_name(&self.site.environment.namespace, &object);
                told.push(format!("{shown} stays in the lane: another tool made it"));
            } else {
                *stays.entry(service_of(&object)).or_default() += 1;
            }
        }
        let lanes = lanes_of(self.standing, self.site, self.now);
        let lane = lanes.into_iter().find(|lane| lane.tag == self.tag);
        for (service, count) in stays {
            let copy = lane.iter().flat_map(|lane| &lane.services).find(|copy| copy.service == service);
            let words = copy.map(LaneService::words).unwrap_or_default();
            let words = if words.is_empty() { String::new() } else { format!(" ({})", words.join("; ")) };
            let shown =
                if service.is_empty() { "what names no service".to_owned() } else { format!("`{service}`") };
            let objects = if count == 1 { "object" } else { "objects" };
            told.push(format!(
                "{shown} stays in the lane with {count} {objects}: it is not part of this deploy{words}"
            ));
        }
        gone
    }

    /// The lane's routes, where a Deployment's selector must change: it cannot be changed, so nobody may be on the way to
    /// its pods while it is made anew.
    pub(super) fn routes(&self) -> Vec<Value> {
        self.standing.lane(self.tag).into_iter().filter(is_route).collect()
    }
}

/// Writes down what the baseline is on the cluster that a copy is made over: when it moves, that is told.
pub(super) fn over_baseline(object: &mut Value, standing: &Standing) {
    let hash = standing.baseline(object).map_or_else(|| NOTHING.to_owned(), live_hash);
    map_at(object, &["metadata", "annotations"]).insert(ANNOTATION_BASELINE_HASH.into(), hash.into());
}

/// Whether a live Deployment must be made anew, because its selector is another one.
pub(super) fn selector_changes(live: &Value, planned: &Value) -> bool {
    kind(planned) == "Deployment" && live.pointer("/spec/selector") != planned.pointer("/spec/selector")
}

/// An object by uid.
pub(super) fn by_uid(object: &Value) -> Option<Removed> {
    Some(Removed { at: ObjectRef::of(object), uid: uid(object)?.to_owned() })
}

/// The objects of each copy.
pub(super) struct Copies(BTreeMap<(String, Option<String>), Vec<String>>);

impl Copies {
    pub(super) fn new(rendered: &[Value]) -> Copies {
        let mut copies: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for object in rendered {
            let place = (service_of(object), namespace(object).map(str::to_owned));
            copies.entry(place).or_default().push(ObjectRef::of(object).to_string());
        }
        Copies(copies)
    }

    fn of(&self, object: &Value) -> String {
        let place = (service_of(object), namespace(object).map(str::to_owned));
        self.0.get(&place).map(|objects| objects.join(", ")).unwrap_or_default()
    }
}
