//! What was verified in a lane, and whether production is about to get exactly that.
//!
//! The mark is an annotation of the gray Deployment, so that another run, and another Graylane, can read it: the hash of
//! the template that was verified, and the digests that its pods ran. It counts only while the template is that one.

use std::collections::{BTreeMap, BTreeSet};

use graylane_engine::id::Digest;
use graylane_engine::task::{TaskContext, TaskError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::inventory::is_ours;
use crate::lane::labels::{ANNOTATION_MANIFEST_HASH, ANNOTATION_VERIFIED, SERVICE_NAME, VERSION};
use crate::manifest::{ObjectRef, images, name, namespace, sorted, texts, uid};
use crate::rollout::{Seen, by_digest};

/// A gray copy as it stands on the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct GrayCopy {
    /// The lane.
    pub tag: String,
    /// The service.
    pub service: String,
    /// The Deployment.
    pub at: ObjectRef,
    uid: String,
    ours: bool,
    /// The hash of its template.
    pub template: String,
    /// Its images by container, as they are written.
    written: BTreeMap<String, String>,
    /// Its images by container as pods run them: by digest where the cluster tells one; more than one where they differ.
    running: BTreeMap<String, BTreeSet<String>>,
    /// The hash of the baseline that it was made from.
    baseline: Option<String>,
    /// What was verified of it last.
    pub mark: Option<Mark>,
}

/// What was verified.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// The hash of the template.
    pub template: String,
    /// The images by container, by digest where the cluster told one.
    pub images: BTreeMap<String, String>,
    /// The run that verified it.
    pub run: String,
    /// Its task.
    pub task: String,
    /// When.
    pub at: String,
}

/// Every gray copy that a selector of lane labels selects.
///
/// # Errors
/// What the API server said.
pub async fn copies(cluster: &Cluster, selector: &str) -> Result<Vec<GrayCopy>, TaskError> {
    let deployments = cluster.list("apps/v1", "Deployment", selector).await?;
    if deployments.is_empty() {
        return Ok(Vec::new());
    }
    let by_uid = |objects: Vec<Value>| -> BTreeMap<String, Value> {
        objects.into_iter().map(|object| (uid(&object).unwrap_or_default().to_owned(), object)).collect()
    };
    let mut seen = Seen {
        deployment: None,
        replica_sets: by_uid(cluster.list("apps/v1", "ReplicaSet", selector).await?),
        pods: by_uid(cluster.list("v1", "Pod", selector).await?),
        events: BTreeMap::new(),
    };
    let copies = deployments.into_iter().map(|deployment| {
        seen.deployment = Some(deployment.clone());
        copy(&deployment, running(&seen))
    });
    Ok(copies.collect())
}

fn copy(deployment: &Value, running: BTreeMap<String, BTreeSet<String>>) -> GrayCopy {
    let labels = texts(deployment, "/metadata/labels");
    let mut annotations = texts(deployment, "/metadata/annotations");
    let template = deployment.pointer("/spec/template").unwrap_or(&Value::Null);
    GrayCopy {
        tag: labels.get(VERSION).cloned().unwrap_or_default(),
        service: labels.get(SERVICE_NAME).cloned().unwrap_or_default(),
        at: ObjectRef {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            name: name(deployment).to_owned(),
            namespace: namespace(deployment).map(str::to_owned),
        },
        uid: uid(deployment).unwrap_or_default().to_owned(),
        ours: is_ours(deployment),
        template: Digest::of(sorted(template).to_string().as_bytes()).short().to_owned(),
        written: images(deployment),
        running,
        baseline: annotations.remove(ANNOTATION_MANIFEST_HASH),
        mark: annotations.remove(ANNOTATION_VERIFIED).and_then(|text| serde_json::from_str(&text).ok()),
    }
}

/// The images of the newest template's pods by container, init containers too.
fn running(seen: &Seen) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for pod in seen.new_pods() {
        for (specs, statuses) in [
            ("/spec/containers", "/status/containerStatuses"),
            ("/spec/initContainers", "/status/initContainerStatuses"),
        ] {
            let list = |pointer: &str| pod.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
            for status in list(statuses) {
                let Some(container) = status["name"].as_str() else { continue };
                let written =
                    list(specs).find(|spec| spec["name"] == container).and_then(|s| s["image"].as_str());
                let image =
                    by_digest(written.unwrap_or_default(), status["imageID"].as_str().unwrap_or_default());
                found.entry(container.to_owned()).or_default().insert(image);
            }
        }
    }
    found
}

impl GrayCopy {
    /// The one image of each container that its pods run, of those that its template names.
    ///
    /// # Errors
    /// A sentence: its pods run different ones.
    pub fn images(&self) -> Result<BTreeMap<String, String>, String> {
        let mut one = BTreeMap::new();
        for (container, written) in &self.written {
            let running: Vec<&String> = self.running.get(container).into_iter().flatten().collect();
            match running.as_slice() {
                [] => {}
                [image] => {
                    one.insert(container.clone(), (*image).clone());
                }
                [first, second, ..] => {
                    return Err(format!(
                        "{}: its pods run different images of container `{container}` ({}, {}): `{written}` was pushed again",
                        self.at,
                        short(first),
                        short(second)
                    ));
                }
            }
        }
        Ok(one)
    }

    /// Writes that it was verified, with these images; a copy that another tool made is left alone.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn write_mark(
        &self,
        cx: &TaskContext,
        cluster: &Cluster,
        images: BTreeMap<String, String>,
    ) -> Result<(), TaskError> {
        if !self.ours {
            return Ok(());
        }
        let mark = Mark {
            template: self.template.clone(),
            images,
            run: cx.run.to_string(),
            task: cx.task.to_string(),
            at: cx.clock.now().to_string(),
        };
        let text = serde_json::to_string(&mark).map_err(|error| TaskError::permanent(error.to_string()))?;
        cx.log(format!("{} is marked as verified", self.at));
        self.patch(cluster, &json!({ "op": "add", "path": pointer(), "value": text })).await
    }

    /// Takes an older mark away: what is verified now decides.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn clear_mark(&self, cx: &TaskContext, cluster: &Cluster) -> Result<(), TaskError> {
        if self.mark.is_none() || !self.ours {
            return Ok(());
        }
        cx.log(format!("{}: its mark is taken away until it is verified again", self.at));
        self.patch(cluster, &json!({ "op": "remove", "path": pointer() })).await
    }

    async fn patch(&self, cluster: &Cluster, change: &Value) -> Result<(), TaskError> {
        let patch = json!([{ "op": "test", "path": "/metadata/uid", "value": self.uid }, change]);
        cluster.patch(&self.at, &patch).await.map(|_| ())
    }
}

fn pointer() -> String {
    format!("/metadata/annotations/{}", ANNOTATION_VERIFIED.replace('/', "~1"))
}

/// What is known of an image that production is about to get.
#[derive(Debug, Clone, PartialEq)]
pub enum Judged {
    /// It was verified: by this digest, in this lane.
    Verified {
        /// The image by digest.
        image: String,
        /// The lane.
        tag: String,
    },
    /// It was not, and why.
    Not(String),
}

/// Whether an image of a service's container was verified in a lane that is still up; `baseline` is the hash of the
/// manifest that production gets.
pub fn judge(service: &str, container: &str, image: &str, baseline: &str, copies: &[GrayCopy]) -> Judged {
    let mut why = None;
    for copy in copies.iter().filter(|copy| copy.service == service) {
        let mark = copy.mark.as_ref();
        let verified = mark.and_then(|mark| mark.images.get(container));
        let runs = copy.running.get(container).into_iter().flatten();
        let meant = copy.written.get(container).map(String::as_str) == Some(image)
            || (digest(image).is_some() && runs.chain(verified).any(|known| digest(known) == digest(image)));
        if !meant {
            continue;
        }
        let tag = &copy.tag;
        let not = match (mark, verified) {
            (None, _) => format!("lane `{tag}` runs it, and was not verified"),
            (Some(mark), _) if mark.template != copy.template => {
                format!("lane `{tag}` was changed since it was verified")
            }
            (Some(_), None) => format!("lane `{tag}` was verified before its pods told which image they run"),
            (Some(_), Some(verified)) if digest(verified).is_none() => {
                format!("the cluster tells no digest of what lane `{tag}` runs")
            }
            (Some(_), Some(verified)) if digest(image).is_some() && digest(image) != digest(verified) => {
                format!("lane `{tag}` runs it, and {} was verified", short(verified))
            }
            (Some(_), Some(verified)) => {
                let other = copy.running.get(container).into_iter().flatten();
                let other = other.into_iter().find(|running| digest(running) != digest(verified));
                match other {
                    Some(other) => format!(
                        "it was pushed again since lane `{tag}` was verified: its pods run {}, and {} was verified",
                        short(other),
                        short(verified)
                    ),
                    None if copy.baseline.as_deref() != Some(baseline) => {
                        format!("the manifest is not the one that lane `{tag}` was made from")
                    }
                    None => return Judged::Verified { image: verified.clone(), tag: tag.clone() },
                }
            }
        };
        why.get_or_insert(not);
    }
    Judged::Not(why.unwrap_or_else(|| "no lane that is up runs it".into()))
}

/// The digest of an image, where it has one.
pub fn digest(image: &str) -> Option<&str> {
    image.split_once("@sha256:").map(|(_, digest)| digest)
}

/// An image for people: a digest is cut to what tells two apart.
pub fn short(image: &str) -> String {
    match image.split_once("@sha256:") {
        Some((repository, digest)) if digest.len() > 12 => format!("{repository}@sha256:{}", &digest[..12]),
        _ => image.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(letter: char) -> String {
        format!("c@sha256:{}", letter.to_string().repeat(64))
    }

    fn copy(running: &[String], mark: Option<(&str, String)>) -> GrayCopy {
        GrayCopy {
            tag: "gray".into(),
            service: "spring-c".into(),
            at: ObjectRef {
                api_version: "apps/v1".into(),
                kind: "Deployment".into(),
                name: "c-mse-gray".into(),
                namespace: None,
            },
            uid: "u".into(),
            ours: true,
            template: "t1".into(),
            written: [("c".into(), "c:v2".into())].into(),
            running: [("c".into(), running.iter().cloned().collect())].into(),
            baseline: Some("b1".into()),
            mark: mark.map(|(template, image)| Mark {
                template: template.into(),
                images: [("c".into(), image)].into(),
                run: "r".into(),
                task: "verify".into(),
                at: "now".into(),
            }),
        }
    }

    #[test]
    fn only_what_a_lane_that_is_up_was_verified_with_counts() {
        let (a, b) = (by('a'), by('b'));
        let verified = || copy(&[by('a')], Some(("t1", by('a'))));
        let short_a = short(&a);
        for (image, copies, baseline, expected) in [
            (a.as_str(), vec![verified()], "b1", "verified".to_owned()),
            ("c:v2", vec![verified()], "b1", "verified".into()),
            // Another repository with the same bytes.
            (&format!("mirror/{a}"), vec![verified()], "b1", "verified".into()),
            ("c:v3", vec![verified()], "b1", "no lane that is up runs it".into()),
            ("c:v2", vec![], "b1", "no lane that is up runs it".into()),
            ("c:v2", vec![copy(&[by('a')], None)], "b1", "lane `gray` runs it, and was not verified".into()),
            (
                "c:v2",
                vec![copy(&[by('a')], Some(("t0", by('a'))))],
                "b1",
                "lane `gray` was changed since it was verified".into(),
            ),
            (
                "c:v2",
                vec![copy(&[by('b')], Some(("t1", by('a'))))],
                "b1",
                format!(
                    "it was pushed again since lane `gray` was verified: its pods run {}, and {short_a} was verified",
                    short(&b)
                ),
            ),
            (
                &b,
                vec![copy(&[by('b')], Some(("t1", by('a'))))],
                "b1",
                format!("lane `gray` runs it, and {short_a} was verified"),
            ),
            (
                "c:v2",
                vec![verified()],
                "b2",
                "the manifest is not the one that lane `gray` was made from".into(),
            ),
            (
                "c:v2",
                vec![copy(&["c:v2".into()], Some(("t1", "c:v2".into())))],
                "b1",
                "the cluster tells no digest of what lane `gray` runs".into(),
            ),
            // One lane that was verified is enough.
            ("c:v2", vec![copy(&[by('a')], None), verified()], "b1", "verified".into()),
        ] {
            let judged = match judge("spring-c", "c", image, baseline, &copies) {
                Judged::Verified { image, tag } => {
                    assert_eq!((image.as_str(), tag.as_str()), (a.as_str(), "gray"));
                    "verified".to_owned()
                }
                Judged::Not(why) => why,
            };
            assert_eq!(judged, expected, "{image}");
        }
        assert!(
            matches!(judge("spring-a", "c", "c:v2", "b1", &[verified()]), Judged::Not(_)),
            "another service"
        );
    }

    #[test]
    fn pods_that_run_different_images_of_one_tag_are_told() {
        let both = copy(&[by('a'), by('b')], None).images().expect_err("told");
        assert!(both.starts_with("Deployment c-mse-gray: its pods run different images of container `c` (c@sha256:aaaaaaaaaaaa, c@sha256:bbbbbbbbbbbb): `c:v2` was pushed again"), "{both}");
        assert_eq!(copy(&[by('a')], None).images(), Ok([("c".to_owned(), by('a'))].into()));
        assert_eq!(copy(&[], None).images(), Ok(BTreeMap::new()));
    }
}
