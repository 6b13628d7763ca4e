//! What pods say and what is said of them: logs and events. Nothing is decided by them alone, so none of it can fail.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams, LogParams};
use serde_json::Value;

use super::{CALL_TIMEOUT, Cluster};

/// What a kubelet answers, with 200, for a run whose container it has removed (`GetKubeletContainerLogs` in its sources).
const NO_LOG: &str = "unable to retrieve container logs for ";

impl Cluster {
    /// The last lines of a container's log; of its last run before this one where `previous` is set. Of the other one where it
    /// has no lines, because a node may have cleared a run away meanwhile. Empty where there are none.
    pub async fn log_tail(&self, pod: &str, container: &str, previous: bool) -> Vec<String> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        for previous in [previous, !previous] {
            let params = LogParams {
                container: Some(container.to_owned()),
                previous,
                tail_lines: Some(5),
                ..LogParams::default()
            };
            match tokio::time::timeout(Duration::from_secs(5), api.logs(pod, &params)).await {
                Ok(Ok(text)) if text.starts_with(NO_LOG) => {}
                Ok(Ok(text)) if text.is_empty() => {}
                Ok(Ok(text)) => return text.lines().map(str::to_owned).collect(),
                // A log that cannot be had is no reason to hide why the container failed.
                Ok(Err(_)) | Err(_) => {}
            }
        }
        Vec::new()
    }

    /// The lines of a container's log that came since the last call with this place. None where it has none yet.
    pub async fn log_since(&self, pod: &str, container: &str, place: &mut LogPlace) -> Vec<String> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let second = place.at.map(|at| at.as_second());
        let params = LogParams {
            container: Some(container.to_owned()),
            timestamps: true,
            limit_bytes: Some(1024 * 1024),
            // Servers count whole seconds: what is known already of the last one is left out below.
            since_time: second.and_then(|second| Timestamp::from_second(second).ok()),
            ..LogParams::default()
        };
        match tokio::time::timeout(CALL_TIMEOUT, api.logs(pod, &params)).await {
            Ok(Ok(text)) => place.new_lines(&text),
            // It is asked again, and a check does not fail for its log.
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }

    /// What was said of an object lately. Empty where this identity may not read events: they explain, they decide nothing.
    pub async fn events_of(&self, uid: &str) -> Vec<Value> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = ListParams::default().fields(&format!("involvedObject.uid={uid}")).limit(100);
        match tokio::time::timeout(Duration::from_secs(5), api.list(&params)).await {
            Ok(Ok(found)) => {
                found.items.iter().filter_map(|event| serde_json::to_value(event).ok()).collect()
            }
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }
}

/// How far a log was read.
#[derive(Debug, Clone, Default)]
pub struct LogPlace {
    at: Option<Timestamp>,
    /// How many lines of that very moment are known.
    known: usize,
}

impl LogPlace {
    /// The lines of a log with times that are not known yet; the place moves behind them.
    fn new_lines(&mut self, text: &str) -> Vec<String> {
        let mut new = Vec::new();
        let (mut same, before) = (0, self.clone());
        for line in text.lines() {
            let (stamp, words) = line.split_once(' ').unwrap_or((line, ""));
            let Ok(at) = stamp.parse::<Timestamp>() else { continue };
            match before.at {
                Some(last) if at < last => continue,
                Some(last) if at == last => {
                    same += 1;
                    if same <= before.known {
                        continue;
                    }
                }
                Some(_) | None => {}
            }
            if self.at == Some(at) {
                self.known += 1;
            } else {
                (self.at, self.known) = (Some(at), 1);
            }
            new.push(words.to_owned());
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_log_is_taken_once_also_where_many_have_one_time() {
        let all = [
            "2026-01-01T00:00:01.5Z one",
            "2026-01-01T00:00:01.500000001Z two",
            "2026-01-01T00:00:01.500000001Z two",
            "2026-01-01T00:00:02Z",
            "2026-01-01T00:00:02Z three",
        ];
        let expected = ["one", "two", "two", "", "three"];
        // However the reads are cut, and although each begins again at a whole second.
        for first in 0..=all.len() {
            for second in first..=all.len() {
                let mut place = LogPlace::default();
                let mut taken = Vec::new();
                for end in [first, second, all.len(), all.len()] {
                    taken.extend(place.new_lines(&all[..end].join("\n")));
                }
                assert_eq!(taken, expected, "{first} {second}");
            }
        }
    }
}
