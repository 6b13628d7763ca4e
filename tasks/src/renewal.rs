//! Lets a lane live longer than it was meant to: the annotation that says when its time is up is written anew, while the
//! lane's lease is held.

use std::sync::Arc;

use graylane_engine::claim::{Claim, Mode};
use graylane_engine::clock::{Clock, Timestamp, parse_duration};
use graylane_engine::schema::{list, nearest};
use graylane_engine::task::TaskError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cluster::{Cluster, full_name};
use crate::environment::Site;
use crate::inventory::{Standing, expires, is_ours, lanes_of};
use crate::lane::check_tag;
use crate::lane::labels::{ANNOTATION_EXPIRES, selector};
use crate::lease::Leases;
use crate::manifest::{ObjectRef, uid};

/// A lane that lives longer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Renewed {
    /// The lane.
    pub tag: String,
    /// When its time was up before; none where it had no end.
    pub was: Option<String>,
    /// When its time is up now.
    pub expires: String,
    /// The Deployments that say so.
    pub objects: Vec<String>,
}

/// Renews a lane, from now on. `record` is called before anything is written, with when the lane's time is up then.
///
/// # Errors
/// A refusal: lanes that never expire, no such lane, a lane of another tool, a length that is none, somebody else who writes
/// the lane; or what the API server, or `record`, said.
pub async fn renew<E, F, R>(
    leases: &Leases,
    clock: &Arc<dyn Clock>,
    site: &Site,
    (tag, length): (&str, &str),
    record: R,
) -> Result<Renewed, E>
where
    E: From<TaskError>,
    F: Future<Output = Result<(), E>>,
    R: FnOnce(Timestamp) -> F,
{
    let cluster = &leases.connect(site).await?;
    // What is refused in any case takes no lease.
    prepare(cluster, site, tag, length, clock.now()).await?;
    let lane = [Claim::lane(&site.environment.name, tag, Mode::Write)];
    // On the heap: it is handed on by value.
    let renewing = Box::pin(async {
        // As it is when nobody else writes it.
        let renewal = prepare(cluster, site, tag, length, clock.now()).await?;
        record(renewal.until).await?;
        Ok(renewal.carry_out(cluster).await?)
    });
    leases.deed(("graylane lanes renew", clock), (cluster, site), &lane, renewing, |_| false).await
}

/// A renewal that may be carried out.
#[derive(Debug)]
pub struct Renewal {
    until: Timestamp,
    tag: String,
    was: Option<String>,
    /// The Deployments, by uid.
    deployments: Vec<(ObjectRef, String)>,
}

/// Looks whether a lane may be renewed, from now on; by reads only.
///
/// # Errors
/// A refusal, as of [`renew`].
pub async fn prepare(
    cluster: &Cluster,
    site: &Site,
    tag: &str,
    length: &str,
    now: Timestamp,
) -> Result<Renewal, TaskError> {
    let environment = &site.environment.name;
    let length = parse_duration(length).ok().filter(|length| !length.is_zero()).ok_or_else(|| {
        TaskError::permanent(format!("`{length}` is no time to live")).hint("write it as in `8h` or `3d`")
    })?;
    if site.environment.ttl.is_none() {
        return Err(TaskError::permanent(format!("refused: lanes of environment `{environment}` never expire"))
            .hint("write `ttl` in its file: without it nothing is taken down for its age, and there is nothing to renew"));
    }
    let deployments = match check_tag(tag) {
        Ok(()) => cluster.list("apps/v1", "Deployment", &selector(tag)).await?,
        // No lane has such a tag, and no selector takes it.
        Err(_) => Vec::new(),
    };
    if deployments.is_empty() {
        return Err(nothing_to_renew(cluster, site, tag, now).await?);
    }
    if let Some(foreign) = deployments.iter().find(|object| !is_ours(object)) {
        let shown = full_name(&cluster.namespace, foreign);
        return Err(TaskError::permanent(format!("refused: {shown} was made by another tool"))
            .hint("take the lane over with a deploy that says `adopt: true`"));
    }
    let was = expires(&deployments).map(|at| at.to_string());
    let deployments = deployments.iter();
    let deployments = deployments.filter_map(|object| Some((ObjectRef::of(object), uid(object)?.to_owned())));
    Ok(Renewal { until: now.plus(length), tag: tag.to_owned(), was, deployments: deployments.collect() })
}

/// Why there is no Deployment that could be renewed.
async fn nothing_to_renew(
    cluster: &Cluster,
    site: &Site,
    tag: &str,
    now: Timestamp,
) -> Result<TaskError, TaskError> {
    let lanes = lanes_of(&Standing::look(cluster).await?, site, now);
    let known: Vec<String> = lanes.into_iter().map(|lane| lane.tag).collect();
    if known.iter().any(|known| known == tag) {
        return Ok(TaskError::permanent(format!("refused: lane `{tag}` has no Deployment any more"))
            .hint("mse-gray-offline takes what is left of it down"));
    }
    Ok(TaskError::permanent(no_such_lane(tag, &site.environment.name, &known)))
}

impl Renewal {
    /// Writes when the lane's time is up.
    async fn carry_out(self, cluster: &Cluster) -> Result<Renewed, TaskError> {
        let expires = self.until.to_string();
        // As RFC 6901 writes the slash.
        let path = format!("/metadata/annotations/{}", ANNOTATION_EXPIRES.replace('/', "~1"));
        let mut objects = Vec::new();
        for (at, uid) in &self.deployments {
            let patch = json!([
                { "op": "test", "path": "/metadata/uid", "value": uid },
                { "op": "add", "path": path, "value": expires },
            ]);
            cluster.patch(at, &patch).await?;
            objects.push(at.to_string());
        }
        Ok(Renewed { tag: self.tag, was: self.was, expires, objects })
    }
}

/// That there is no such lane, with the nearest tag.
pub fn no_such_lane(tag: &str, environment: &str, known: &[String]) -> String {
    match (known, nearest(tag, known.iter().map(String::as_str))) {
        ([], _) => format!("{environment} has no lane `{tag}`, and no other one"),
        (_, Some(near)) => format!("{environment} has no lane `{tag}`; did you mean `{near}`?"),
        (known, None) => format!("{environment} has no lane `{tag}`: it has {}", list(known)),
    }
}
