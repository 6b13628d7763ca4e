//! Autoscalers without metrics: the number of pods is brought between `minReplicas` and `maxReplicas`, by `scale`, and stays there.
//!
//! As a real one does without a metrics server; it also says so. A target that somebody set to 0 is left alone.

use std::sync::Arc;

use serde_json::{Value, json};

use super::events::{Weight, emit};
use super::touched::Touched;
use super::{Memory, condition, how};
use crate::api::write;
use crate::kinds::{self, Kind};
use crate::object::{self, int, list, text};
use crate::store::{Key, State};

const NO_METRICS: &str = "failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from resource metrics API: the server could not find the requested resource (get pods.metrics.k8s.io)";

/// What a look at the target came to.
enum Found {
    /// It is not there, or was not to be changed: in a sentence.
    Nothing(String),
    /// It was brought to this number, because of this.
    Rescaled(i64, String),
    /// It is set to 0: nobody scales it.
    Off,
    /// It is between the bounds, and stays.
    Kept,
}

pub(super) fn reconcile(state: &mut State, memory: &mut Memory, touched: &Touched) {
    for scaler in memory.each(state, touched, kinds::AUTOSCALERS) {
        memory.about(&scaler, kinds::AUTOSCALERS);
        if !object::is_dying(&scaler) {
            scale(state, &scaler);
        }
    }
}

/// Whether an autoscaler scales an object.
pub(super) fn scales(scaler: &Value, key: &Key) -> bool {
    target(scaler).is_some_and(|(kind, name)| kind.resource == key.resource && name == key.name)
}

fn target(scaler: &Value) -> Option<(&'static Kind, &str)> {
    let wanted = &scaler["spec"]["scaleTargetRef"];
    let kind = kinds::by_kind(text(wanted, "/apiVersion"), text(wanted, "/kind"))?;
    kind.has("scale").then(|| (kind, text(wanted, "/name")))
}

fn scale(state: &mut State, scaler: &Arc<Value>) {
    let wanted = &scaler["spec"]["scaleTargetRef"];
    let live = target(scaler).and_then(|(kind, name)| {
        Some((kind, state.find(kind.resource, object::namespace(scaler), name)?.clone()))
    });
    let Some((kind, live)) = live else {
        let (kind, name) = (text(wanted, "/kind").to_lowercase(), text(wanted, "/name"));
        report(state, scaler, None, &Found::Nothing(format!("{kind}s {name:?} not found")));
        return;
    };
    let current = int(&live, "/spec/replicas").unwrap_or(1);
    let (least, most) =
        (int(scaler, "/spec/minReplicas").unwrap_or(1), int(scaler, "/spec/maxReplicas").unwrap_or(1));
    let rule = match current {
        0 if least != 0 => {
            report(state, scaler, Some(current), &Found::Off);
            return;
        }
        more if more > most => Some((most, "Current number of replicas above Spec.MaxReplicas")),
        fewer if fewer < least => Some((least, "Current number of replicas below Spec.MinReplicas")),
        _ => None,
    };
    let Some((to, why)) = rule else {
        report(state, scaler, Some(current), &Found::Kept);
        return;
    };
    let mut how = how(state);
    how.writer.subresource = Some("scale".to_owned());
    match write::scale_to(state, kind, &live, to, &how) {
        Ok(_) => report(state, scaler, Some(current), &Found::Rescaled(to, why.to_owned())),
        Err(failure) => report(state, scaler, Some(current), &Found::Nothing(failure.message)),
    }
}

/// Says in events and in the status what was done; the status is written only when it differs.
fn report(state: &mut State, scaler: &Arc<Value>, current: Option<i64>, found: &Found) {
    let now = state.clock.stamp();
    let old = list(scaler, "/status/conditions");
    let able = |reason: &str, message: &str| condition(old, "AbleToScale", true, reason, message, &now);
    let active = |reason: &str, message: &str| condition(old, "ScalingActive", false, reason, message, &now);
    let got = || able("SucceededGetScale", "the HPA controller was able to get the target's current scale");
    let mut status = scaler.get("status").filter(|status| status.is_object()).cloned().unwrap_or(json!({}));
    let conditions = match found {
        Found::Nothing(why) => {
            let said = format!("the HPA controller was unable to get the target's current scale: {why}");
            vec![condition(old, "AbleToScale", false, "FailedGetScale", &said, &now)]
        }
        Found::Rescaled(to, _) => {
            status["lastScaleTime"] = now.clone().into();
            let said = format!("the HPA controller was able to update the target scale to {to}");
            vec![able("SucceededRescale", &said)]
        }
        Found::Off => {
            let said = "scaling is disabled since the replica count of the target is zero";
            vec![got(), active("ScalingDisabled", said)]
        }
        Found::Kept => {
            let said = format!("the HPA was unable to compute the replica count: {NO_METRICS}");
            vec![got(), active("FailedGetResourceMetric", &said)]
        }
    };
    let reason = |conditions: &[Value]| conditions.last().map(|one| text(one, "/reason").to_owned());
    let news = reason(&conditions) != reason(old);
    status["conditions"] = conditions.into();
    if let Some(current) = current {
        status["currentReplicas"] = current.into();
    }
    match found {
        Found::Rescaled(to, why) => {
            status["desiredReplicas"] = (*to).into();
            let said = format!("New size: {to}; reason: {why}");
            emit(state, scaler, Weight::Normal, "SuccessfulRescale", &said);
        }
        Found::Kept if news => emit(state, scaler, Weight::Warning, "FailedGetResourceMetric", NO_METRICS),
        Found::Nothing(why) if news => emit(state, scaler, Weight::Warning, "FailedGetScale", why),
        Found::Kept | Found::Nothing(_) | Found::Off => {}
    }
    for count in ["currentReplicas", "desiredReplicas"] {
        object::set_default(&mut status, &[count], 0);
    }
    if scaler.get("status") != Some(&status) {
        let key = Key::of(kinds::AUTOSCALERS, scaler);
        let mut reported = (**scaler).clone();
        reported["status"] = status;
        state.put(key, reported);
    }
}
