//! Lets a lane live longer than it was meant to: the annotation that says when its time is up is written anew.

use graylane_engine::clock::{Timestamp, parse_duration};
use graylane_engine::schema::{list, nearest};
use graylane_engine::task::TaskError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cluster::{Cluster, full_name};
use crate::environment::Site;
use crate::inventory::{Standing, is_ours, lanes_of};
use crate::lane::labels::ANNOTATION_EXPIRES;
use crate::manifest::{ObjectRef, kind, uid};

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

/// A renewal that may be carried out.
#[derive(Debug)]
pub struct Renewal {
    /// When the lane's time is up then.
    pub until: Timestamp,
    tag: String,
    was: Option<String>,
    /// The Deployments, by uid.
    deployments: Vec<(ObjectRef, String)>,
}

/// Looks whether a lane may be renewed, from now on.
///
/// # Errors
/// A refusal: lanes that never expire, no such lane, a lane of another tool, a length that is none.
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
    let standing = Standing::look(cluster).await?;
    let lanes = lanes_of(&standing, site, now);
    let Some(lane) = lanes.iter().find(|lane| lane.tag == tag) else {
        let known: Vec<String> = lanes.into_iter().map(|lane| lane.tag).collect();
        return Err(TaskError::permanent(no_such_lane(tag, environment, &known)));
    };
    let objects = standing.lane(tag);
    let deployments: Vec<_> = objects.iter().filter(|object| kind(object) == "Deployment").collect();
    if let Some(foreign) = deployments.iter().find(|object| !is_ours(object)) {
        let shown = full_name(&cluster.namespace, foreign);
        return Err(TaskError::permanent(format!("refused: {shown} was made by another tool"))
            .hint("take the lane over with a deploy that says `adopt: true`"));
    }
    if deployments.is_empty() {
        return Err(TaskError::permanent(format!("refused: lane `{tag}` has no Deployment any more"))
            .hint("mse-gray-offline takes what is left of it down"));
    }
    let deployments = deployments.into_iter();
    let deployments = deployments.filter_map(|object| Some((ObjectRef::of(object), uid(object)?.to_owned())));
    Ok(Renewal {
        until: now.plus(length),
        tag: tag.to_owned(),
        was: lane.expires.clone(),
        deployments: deployments.collect(),
    })
}

impl Renewal {
    /// Writes when the lane's time is up.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn carry_out(self, cluster: &Cluster) -> Result<Renewed, TaskError> {
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
