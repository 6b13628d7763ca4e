//! Takes a gray deploy back: what it created goes as offline does, what it changed goes back to what it found.
//!
//! It touches nothing that another run has written since, unless it is told to.

use graylane_engine::clock::parse_duration;
use graylane_engine::task::{Outputs, TaskError};
use serde_json::Value;

use super::Deploy;
use super::update::{by_uid, selector_changes};
use crate::inventory::{LANE_KINDS, is_ours};
use crate::lane::labels::ANNOTATION_RUN;
use crate::lane::rank;
use crate::lane::route::is_route;
use crate::manifest::{ObjectRef, kind, texts, uid};
use crate::mse_gray_offline::{self, DRAIN, Doomed, Offline};

/// The checkpoint after which objects are brought back.
const RESTORES: &str = "undo restores";

/// What is to be done, as the cluster is now.
#[derive(Default)]
struct Work {
    /// Created by the deploy, and still there.
    created: Vec<Doomed>,
    /// As it was before, of what is not so any more.
    changed: Vec<Value>,
    /// Deployments that an earlier attempt has brought back, as they are.
    restored: Vec<Value>,
    /// Written by somebody else since.
    foreign: Vec<String>,
}

impl Work {
    fn left(&self) -> Vec<String> {
        let created = self.created.iter().map(|doomed| format!("{} is still there", doomed.at));
        let changed = self.changed.iter().map(|object| format!("{} is not as it was", ObjectRef::of(object)));
        created.chain(changed).collect()
    }
}

pub(super) async fn take_back(deploy: &Deploy<'_>) -> Result<Outputs, TaskError> {
    match go(deploy).await {
        Ok(report) => Ok(Outputs { report, ..Outputs::default() }),
        Err(error) => {
            // Whoever stops it, or the cluster, leaves the rest: it is listed.
            let left = match look(deploy).await {
                Ok(work) => work.left(),
                Err(why) => {
                    let shows = format!("`graylane lanes {}` shows it", deploy.body.environment);
                    vec![format!("what is left could not be seen ({why}); {shows}")]
                }
            };
            Err(error.details(left))
        }
    }
}

async fn go(deploy: &Deploy<'_>) -> Result<Vec<String>, TaskError> {
    let work = look(deploy).await?;
    if let Some((first, rest)) = work.foreign.split_first()
        && !deploy.cx.force
    {
        return Err(TaskError::permanent(format!("refused: {first}"))
            .details(rest.to_vec())
            .hint(format!("`graylane undo {} --force` takes it back all the same", deploy.cx.taken_back())));
    }
    let mut report: Vec<String> =
        work.foreign.iter().map(|words| format!("{words}, and is taken back")).collect();
    let tag = &deploy.body.tag;
    if !work.created.is_empty() {
        let drain = parse_duration(DRAIN).map_err(TaskError::permanent)?;
        let mut objects = work.created;
        objects.sort_by_key(|doomed| LANE_KINDS.iter().position(|(_, kind)| *kind == doomed.at.kind));
        let count = objects.len();
        let body = mse_gray_offline::Body {
            environment: deploy.body.environment.clone(),
            tag: tag.clone(),
            drain_ms: u64::try_from(drain.as_millis()).unwrap_or(u64::MAX),
            objects,
            expired: Vec::new(),
        };
        let offline = Offline::new(deploy.cx, deploy.cluster, &body);
        // The route may be gone since an attempt before this one, and requests that it let in still under way.
        if !deploy.body.new_routes.is_empty() && !deploy.cx.passed("drained") {
            offline.drain_unless_route().await?;
        }
        offline.run().await?;
        report.push(format!("lane {tag}: {count} objects that the run had created are gone"));
    }
    // What an attempt before this one brought back is not up because it was written.
    for deployment in &work.restored {
        deploy.follow(deployment).await?;
    }
    if !work.changed.is_empty() {
        deploy.cx.phase("bringing back what the lane was").await?;
        deploy.cx.checkpoint(RESTORES).await?;
        let mut changed = work.changed;
        changed.sort_by_key(rank);
        close_routes(deploy, &changed).await?;
        for object in &changed {
            let at = ObjectRef::of(object);
            // A file with other values by now; what the API server says of a Secret is an error as of any object.
            if kind(object) == "Secret" && deploy.with_values(object).is_err() {
                report.push(format!("{at} is not brought back: the values of Secrets are not kept"));
                continue;
            }
            // A selector cannot be changed back: what was made anew is made anew again, with the route closed.
            if let Some(live) = deploy.cluster.get(&at).await?
                && selector_changes(&live, object)
                && let Some(old) = by_uid(&live)
            {
                deploy.remove_for_good(&old).await?;
            }
            match deploy.apply(object).await {
                Ok(applied) if kind(&applied) == "Deployment" => {
                    deploy.follow(&applied).await?;
                }
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        report.push(format!("lane {tag}: {} objects are as they were before the run", changed.len()));
    }
    if report.is_empty() {
        report.push(format!("lane {tag}: nothing was there to take back"));
    }
    Ok(report)
}

/// Closes the lane's routes where a Deployment behind them must be made anew; they are among what is brought back.
async fn close_routes(deploy: &Deploy<'_>, changed: &[Value]) -> Result<(), TaskError> {
    let mut anew = false;
    for object in changed {
        let live = deploy.cluster.get(&ObjectRef::of(object)).await?;
        anew |= live.is_some_and(|live| selector_changes(&live, object));
    }
    if !anew {
        return Ok(());
    }
    for route in changed.iter().filter(|object| is_route(object)) {
        if let Some(live) = deploy.cluster.get(&ObjectRef::of(route)).await?
            && let Some(live) = by_uid(&live)
        {
            let _ = deploy.remove(&live).await?;
        }
    }
    deploy.drain().await
}

async fn look(deploy: &Deploy<'_>) -> Result<Work, TaskError> {
    let mut work = Work::default();
    let run = |object: &Value| texts(object, "/metadata/annotations").remove(ANNOTATION_RUN);
    let before = |at: &ObjectRef| deploy.body.before.iter().find(|object| ObjectRef::of(object) == *at);
    for planned in &deploy.body.objects {
        let at = ObjectRef::of(planned);
        let live = deploy.cluster.get(&at).await?;
        let was = before(&at);
        let Some(live) = live else {
            work.changed.extend(was.cloned());
            continue;
        };
        if !is_ours(&live) {
            continue;
        }
        if was.is_some_and(|was| run(was) == run(&live)) {
            // As it was already.
            if kind(&live) == "Deployment" && deploy.cx.passed(RESTORES) {
                work.restored.push(live);
            }
            continue;
        }
        if run(&live) != run(planned) {
            let by = run(&live).unwrap_or_default();
            work.foreign.push(format!("{at} was written by run {by} since"));
        }
        match was {
            Some(was) => work.changed.push(was.clone()),
            None => work.created.push(Doomed { at, uid: uid(&live).unwrap_or_default().to_owned() }),
        }
    }
    for removed in &deploy.body.removed {
        if deploy.cluster.get(&removed.at).await?.is_none() {
            work.changed.extend(before(&removed.at).cloned());
        }
    }
    Ok(work)
}
