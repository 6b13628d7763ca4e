//! ResourceQuotas over pods: how many there are, and that no more than the limit are made. Other resources are not counted.

use serde_json::{Value, json};

use super::touched::Touched;
use crate::kinds;
use crate::object;
use crate::store::{Key, State};

/// The two names under which a quota limits pods.
const PODS: [&str; 2] = ["pods", "count/pods"];

/// Writes what is used of each quota.
pub(super) fn reconcile(state: &mut State, touched: &Touched) {
    let pods = touched.of(kinds::PODS).next().is_some()
        || touched.removed().any(|object| object::text(object, "/kind") == "Pod");
    if !pods && touched.of(kinds::RESOURCE_QUOTAS).next().is_none() {
        return;
    }
    for quota in state.all(kinds::RESOURCE_QUOTAS, "") {
        let used = used(state, object::namespace(&quota));
        let limits = limits(&quota);
        let named = |value: &dyn Fn(i64) -> i64| -> serde_json::Map<String, Value> {
            let one = |(name, hard): &(&str, i64)| ((*name).to_owned(), value(*hard).to_string().into());
            limits.iter().map(one).collect()
        };
        let status = json!({ "hard": named(&|hard| hard), "used": named(&|_| used) });
        if quota.get("status") != Some(&status) {
            let mut reported = (*quota).clone();
            reported["status"] = status;
            state.put(Key::of(kinds::RESOURCE_QUOTAS, &quota), reported);
        }
    }
}

/// Why a namespace takes no further pod, in the API server's words.
pub(crate) fn exceeded(state: &State, namespace: &str) -> Option<String> {
    state.list(kinds::RESOURCE_QUOTAS, namespace).find_map(|(_, quota)| {
        let (name, limit) =
            limits(quota).into_iter().find(|(_, limit)| used(state, namespace) + 1 > *limit)?;
        let used = used(state, namespace);
        Some(format!(
            "exceeded quota: {}, requested: {name}=1, used: {name}={used}, limited: {name}={limit}",
            object::name(quota)
        ))
    })
}

fn limits(quota: &Value) -> Vec<(&'static str, i64)> {
    let hard = |name: &'static str| match &quota["spec"]["hard"][name] {
        Value::String(text) => text.parse().ok().map(|limit| (name, limit)),
        other => other.as_i64().map(|limit| (name, limit)),
    };
    PODS.into_iter().filter_map(hard).collect()
}

/// Pods that count: those that have not ended.
fn used(state: &State, namespace: &str) -> i64 {
    let ended = |pod: &Value| matches!(object::text(pod, "/status/phase"), "Succeeded" | "Failed");
    let counted = state.list(kinds::PODS, namespace).filter(|(_, pod)| !ended(pod)).count();
    i64::try_from(counted).unwrap_or(i64::MAX)
}
