//! Autoscalers of what is about to be deployed: one of them and a deploy must not both set the number of pods.
//!
//! A deploy that gives no number leaves the autoscaler's, and says so; one that gives a number is refused, whatever the
//! server would say to it: older ones do not record who scales.

use graylane_engine::task::TaskError;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::lane::Judgement;
use crate::manifest::{ObjectRef, kind, name, namespace};

/// The manager of an autoscaler's writes; a task that takes its fields by force may give a number.
const SCALES: &str = "kube-controller-manager";

/// The autoscalers of an environment's namespaces.
pub(super) struct Scalers {
    found: Vec<Value>,
    /// Whether this identity may list them.
    seen: bool,
}

impl Scalers {
    /// Looks at what is there; what a manifest brings along counts as it will be.
    ///
    /// # Errors
    /// What the API server said.
    pub(super) async fn look<'p>(
        cluster: &Cluster,
        planned: impl Iterator<Item = &'p Value>,
    ) -> Result<Scalers, TaskError> {
        const KIND: &str = "HorizontalPodAutoscaler";
        // Older servers do not know v2.
        let found = cluster.list_any_version(KIND, &["autoscaling/v2", "autoscaling/v1"], false).await?;
        let mut scalers = Scalers { seen: found.is_some(), found: found.unwrap_or_default() };
        for object in planned.filter(|object| kind(object) == KIND) {
            let same = |other: &Value| name(other) == name(object) && namespace(other) == namespace(object);
            scalers.found.retain(|other| !same(other));
            scalers.found.push(object.clone());
        }
        Ok(scalers)
    }

    /// Judges one Deployment: `written` is the manifest's, and `given` the number that the task gives.
    pub(super) fn judge(
        &self,
        written: &Value,
        live: Option<&Value>,
        given: Option<u32>,
        force: &[String],
    ) -> Judgement {
        let mut found = Judgement::default();
        let at = ObjectRef::of(written);
        if !self.seen && given.is_some() {
            found.notes.push(format!(
                "this identity may not list HorizontalPodAutoscalers: whether one scales {at} could not be looked at"
            ));
        }
        for scaler in self.found.iter().filter(|scaler| scales(scaler, written)) {
            let number = |pointer: &str| scaler.pointer(pointer).and_then(Value::as_i64);
            let (least, most) = (number("/spec/minReplicas").unwrap_or(1), number("/spec/maxReplicas"));
            let bounds = format!("between {least} and {}", most.unwrap_or(least));
            let scaler = ObjectRef::of(scaler);
            let replicas = |object: &Value| object.pointer("/spec/replicas").and_then(Value::as_i64);
            match (given, live.map(|live| replicas(live).unwrap_or(1))) {
                (Some(given), _) if force.iter().any(|manager| manager == SCALES) => found.notes.push(format!(
                    "{scaler} scales {at} {bounds}: {given} is written once, by force, and it goes on from there"
                )),
                (Some(_), _) => found.wrong.push(format!(
                    "{scaler} scales {at} {bounds}: it and this deploy would each set the number of pods; leave `replicas` out, or change the bounds of the autoscaler"
                )),
                // As it is found off, it stays off.
                (None, Some(0)) => found.notes.push(format!("{at} stays at 0 pods: {scaler} leaves it there too")),
                (None, Some(now)) => {
                    let other = replicas(written).filter(|written| *written != now);
                    let other = other.map(|other| format!("; the manifest's {other} counts for a new one alone"));
                    found.notes.push(format!(
                        "{scaler} scales {at} {bounds}: its number of pods stays at {now}{}",
                        other.unwrap_or_default()
                    ));
                }
                (None, None) => found.notes.push(format!("{scaler} will scale {at} {bounds}")),
            }
        }
        found
    }
}

fn scales(scaler: &Value, deployment: &Value) -> bool {
    let target = &scaler["spec"]["scaleTargetRef"];
    target["kind"] == "Deployment"
        && target["name"] == name(deployment)
        && namespace(scaler) == namespace(deployment)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scaler(kind: &str, target: &str) -> Value {
        json!({ "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": "h" },
            "spec": { "scaleTargetRef": { "kind": kind, "name": target }, "minReplicas": 3, "maxReplicas": 5 } })
    }

    fn web(replicas: Option<u32>) -> Value {
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" }, "spec": { "replicas": replicas } })
    }

    #[test]
    fn an_autoscaler_keeps_its_number_and_whoever_gives_another_is_refused() {
        let fight = "HorizontalPodAutoscaler h scales Deployment web between 3 and 5: it and this deploy would each set the number of pods; leave `replicas` out, or change the bounds of the autoscaler";
        let kept =
            "HorizontalPodAutoscaler h scales Deployment web between 3 and 5: its number of pods stays at 4";
        let other = format!("{kept}; the manifest's 2 counts for a new one alone");
        let once = "HorizontalPodAutoscaler h scales Deployment web between 3 and 5: 7 is written once, by force, and it goes on from there";
        let new = "HorizontalPodAutoscaler h will scale Deployment web between 3 and 5";
        let off = "Deployment web stays at 0 pods: HorizontalPodAutoscaler h leaves it there too";
        // The target, the manifest's number, the live one, the task's, by force -> what is wrong, what is told.
        let table = [
            ("web", None, Some(4), None, false, "", kept),
            ("web", Some(4), Some(4), None, false, "", kept),
            ("web", Some(2), Some(4), None, false, "", other.as_str()),
            ("web", Some(2), None, None, false, "", new),
            ("web", None, Some(0), None, false, "", off),
            ("web", None, Some(4), Some(2), false, fight, ""),
            ("web", None, None, Some(4), false, fight, ""),
            ("web", None, Some(4), Some(7), true, "", once),
            ("other", Some(2), Some(4), Some(7), false, "", ""),
        ];
        for (target, written, live, given, force, wrong, told) in table {
            let scalers = Scalers { found: vec![scaler("Deployment", target)], seen: true };
            let live = live.map(|live| web(Some(live)));
            let force = if force { vec![SCALES.to_owned()] } else { Vec::new() };
            let found = scalers.judge(&web(written), live.as_ref(), given, &force);
            assert_eq!((found.wrong.join("|"), found.notes.join("|")), (wrong.to_owned(), told.to_owned()));
        }
        let found = Scalers { found: vec![scaler("StatefulSet", "web")], seen: true };
        let found = found.judge(&web(None), None, Some(7), &[]);
        assert!(found.wrong.is_empty() && found.notes.is_empty(), "a namesake of another kind is nobody's");
        let blind = Scalers { found: Vec::new(), seen: false }.judge(&web(None), None, Some(7), &[]);
        assert!(blind.notes[0].contains("could not be looked at"), "{:?}", blind.notes);
    }
}
