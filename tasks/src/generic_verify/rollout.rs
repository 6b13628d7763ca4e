//! `rollout`: every Deployment of the lane is up, stays up for a while, and none of its containers restarts.

use std::collections::BTreeMap;
use std::time::Duration;

use graylane_engine::clock::DURATION_PATTERN;
use graylane_engine::task::TaskError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::samples::Sample;
use crate::cluster::Cluster;
use crate::lane::labels::selector;
use crate::manifest::name;
use crate::rollout::{Expect, Patience, Seen, Signals, Verdict, judge, times};

/// Looks whether every Deployment of the lane is up.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RolloutWith {
    /// How long it must stay so; one look where nothing is said. It looks every second, or every `interval`.
    #[serde(default, rename = "for")]
    #[schemars(regex(pattern = DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub span: Option<String>,
}

/// What earlier looks saw.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// How often each container had restarted when its pod was first seen.
    restarts: BTreeMap<String, i64>,
}

/// How the lane is to be looked at.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Planned {
    /// How long it must stay up, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_ms: Option<u64>,
}

/// Whether every Deployment of the lane is up; with what it says where one is not.
pub(super) async fn look(cluster: &Cluster, tag: &str, watched: &mut Watched) -> Result<Sample, TaskError> {
    let deployments = cluster.list("apps/v1", "Deployment", &selector(tag)).await?;
    let mut up = BTreeMap::new();
    for deployment in &deployments {
        let generation = deployment.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        let seen = Seen { deployment: Some(deployment.clone()), ..Seen::default() };
        let expect = Expect { generation, agent: false, pods: false, patience: Patience::default() };
        match judge(&seen, expect, &mut Signals::default(), Instant::now()) {
            Verdict::Done => up.insert(name(deployment).to_owned(), "up"),
            Verdict::Waiting(ready, wanted, note) => {
                return Ok(Sample::wrong(format!("{}: {ready} of {wanted} ready: {note}", name(deployment))));
            }
            Verdict::Failed(failure) => return Ok(Sample::wrong(failure.message)),
        };
    }
    if up.is_empty() {
        return Ok(Sample::wrong(format!("lane {tag} has no Deployment")));
    }
    let pods = cluster.list("v1", "Pod", &selector(tag)).await?;
    if let Some(words) = watched.restarted(&pods) {
        return Ok(Sample::wrong(words));
    }
    Ok(Sample::right(format!("{} up", up.into_keys().collect::<Vec<_>>().join(", "))))
}

impl Watched {
    /// The first container that has restarted since its pod was first seen, in words.
    fn restarted(&mut self, pods: &[Value]) -> Option<String> {
        let mut found = None;
        for pod in pods {
            let statuses = pod.pointer("/status/containerStatuses").and_then(Value::as_array);
            for status in statuses.into_iter().flatten() {
                let container = status["name"].as_str().unwrap_or_default();
                let count = status["restartCount"].as_i64().unwrap_or(0);
                let key = format!("{}/{container}", crate::manifest::uid(pod).unwrap_or_default());
                let before = *self.restarts.entry(key).or_insert(count);
                if count > before {
                    let often = times(count - before);
                    let words = format!("pod {}, container {container}: restarted {often}", name(pod));
                    found.get_or_insert(words);
                }
            }
        }
        found
    }
}

/// How many looks a span means, at this pause between them.
pub(super) fn looks(span: Duration, interval: Duration) -> u32 {
    let pauses = span.as_millis().div_ceil(interval.as_millis().max(1));
    u32::try_from(pauses).unwrap_or(u32::MAX).saturating_add(1).min(100_000)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_span_is_looked_at_from_its_first_moment_to_its_last() {
        let seconds = Duration::from_secs;
        for (span, interval, expected) in [(0, 1, 1), (1, 1, 2), (60, 1, 61), (61, 10, 8), (3, 0, 3001)]
            .map(|(s, i, n)| (seconds(s), seconds(i), n))
        {
            assert_eq!(looks(span, interval), expected, "{span:?} {interval:?}");
        }
    }

    #[test]
    fn a_restart_while_it_is_watched_is_told_and_one_before_is_not() {
        let pod = |uid: &str, restarts: i64| json!({ "metadata": { "name": "a-1", "uid": uid }, "status": { "containerStatuses": [{ "name": "a", "restartCount": restarts }] } });
        let mut watched = Watched::default();
        assert_eq!(watched.restarted(&[pod("u", 2)]), None);
        assert_eq!(watched.restarted(&[pod("u", 2)]), None);
        assert_eq!(
            watched.restarted(&[pod("u", 3)]).as_deref(),
            Some("pod a-1, container a: restarted once")
        );
        assert_eq!(watched.restarted(&[pod("v", 1)]), None, "another pod");
    }
}
