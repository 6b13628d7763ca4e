//! Jobs: pods until one succeeds, or the back-off limit is reached, or the deadline passes.
//!
//! Only what a check needs: completions in parallel, retries, deadline, time to live. No indexed completion.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::events::{Weight, emit};
use super::replicaset::{POD_LIMIT, create_pod, is_active, owned};
use super::touched::Touched;
use super::{Memory, condition};
use crate::api::delete;
use crate::object::{self, int, list, text};
use crate::store::{Key, State};
use crate::{clock, kinds};

pub(super) fn reconcile(state: &mut State, memory: &mut Memory, touched: &Touched) {
    for job in memory.each(state, touched, kinds::JOBS) {
        memory.about(&job, kinds::JOBS);
        if object::is_dying(&job) {
            continue;
        }
        match finished_at(&job) {
            Some(at) => expire(state, memory, &job, at),
            None => drive(state, memory, &job),
        }
    }
}

fn finished_at(job: &Value) -> Option<chrono::DateTime<chrono::Utc>> {
    let over =
        |one: &&Value| (one["type"] == "Complete" || one["type"] == "Failed") && one["status"] == "True";
    let condition = list(job, "/status/conditions").iter().find(over)?;
    clock::parse(text(condition, "/lastTransitionTime"))
}

fn expire(state: &mut State, memory: &mut Memory, job: &Arc<Value>, at: chrono::DateTime<chrono::Utc>) {
    let Some(ttl) = int(job, "/spec/ttlSecondsAfterFinished") else { return };
    let left = (clock::later(at, ttl) - state.clock.now()).num_milliseconds();
    if left > 0 {
        memory.wake_in(Duration::from_millis(left as u64 + 1));
    } else if let Some(kind) = kinds::by_resource(kinds::JOBS) {
        delete::in_background(state, kind, job);
    }
}

fn drive(state: &mut State, memory: &mut Memory, job: &Arc<Value>) {
    let pods = owned(state, kinds::PODS, object::uid(job));
    let ended = |phase: &str| pods.iter().filter(|pod| text(pod, "/status/phase") == phase).count() as i64;
    let active: Vec<&Arc<Value>> = pods.iter().filter(|pod| is_active(pod)).collect();
    let (succeeded, mut failed) = (ended("Succeeded"), ended("Failed"));
    if job["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure" {
        let restarts = |pod: &Arc<Value>| -> i64 {
            list(pod, "/status/containerStatuses")
                .iter()
                .filter_map(|status| int(status, "/restartCount"))
                .sum()
        };
        failed += pods.iter().map(restarts).sum::<i64>();
    }
    let completions = int(job, "/spec/completions").unwrap_or(1);
    let started = text(job, "/status/startTime").to_owned();
    let started = if started.is_empty() { state.clock.stamp() } else { started };
    let end = verdict(state, memory, job, succeeded >= completions, failed, &started);
    let mut created = 0;
    if let Some((_, _, _, _)) = &end {
        if let Some(kind) = kinds::by_resource(kinds::PODS) {
            active.iter().for_each(|pod| delete::in_background(state, kind, pod));
        }
    } else if job["spec"]["suspend"] != true {
        let room =
            int(job, "/spec/parallelism").unwrap_or(1).min(completions - succeeded) - active.len() as i64;
        for _ in 0..room.clamp(0, POD_LIMIT) {
            match create_pod(state, job, &job["spec"]["template"]) {
                Ok(name) => {
                    created += 1;
                    emit(state, job, Weight::Normal, "SuccessfulCreate", &format!("Created pod: {name}"));
                }
                Err(why) => {
                    emit(state, job, Weight::Warning, "FailedCreate", &format!("Error creating: {why}"));
                    memory.wake_in(memory.delays.backoff);
                    break;
                }
            }
        }
    }
    let running = if end.is_some() { 0 } else { active.len() as i64 + created };
    report(state, job, &started, [("active", running), ("succeeded", succeeded), ("failed", failed)], end);
}

type Verdict<'a> = (&'a str, &'a str, &'a str, bool);

/// Whether the job is over: the condition, its reason, its sentence, and whether it succeeded.
fn verdict<'a>(
    state: &State,
    memory: &mut Memory,
    job: &Value,
    done: bool,
    failed: i64,
    started: &str,
) -> Option<Verdict<'a>> {
    if done {
        return Some(("Complete", "CompletionsReached", "Reached expected number of succeeded pods", true));
    }
    if failed > int(job, "/spec/backoffLimit").unwrap_or(6) {
        return Some((
            "Failed",
            "BackoffLimitExceeded",
            "Job has reached the specified backoff limit",
            false,
        ));
    }
    let deadline = int(job, "/spec/activeDeadlineSeconds")?;
    let left = (clock::later(clock::parse(started)?, deadline) - state.clock.now()).num_milliseconds();
    if left <= 0 {
        return Some(("Failed", "DeadlineExceeded", "Job was active longer than specified deadline", false));
    }
    memory.wake_in(Duration::from_millis(left as u64 + 1));
    None
}

fn report(
    state: &mut State,
    job: &Arc<Value>,
    started: &str,
    counts: [(&str, i64); 3],
    end: Option<Verdict<'_>>,
) {
    let now = state.clock.stamp();
    let mut status = json!({ "startTime": started });
    for (field, count) in counts {
        if count > 0 {
            status[field] = count.into();
        }
    }
    if let Some((name, reason, message, succeeded)) = end {
        let old = list(job, "/status/conditions");
        status["conditions"] = json!([condition(old, name, true, reason, message, &now)]);
        if succeeded {
            status["completionTime"] = now.into();
            emit(state, job, Weight::Normal, "Completed", "Job completed");
        } else {
            emit(state, job, Weight::Warning, reason, message);
        }
    }
    let key = Key::of(kinds::JOBS, job);
    let Some(live) = state.get(&key).cloned() else { return };
    if live.get("status") != Some(&status) {
        let mut reported = (*live).clone();
        reported["status"] = status;
        state.put(key, reported);
    }
}
