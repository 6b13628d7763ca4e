//! The life of one container, as a kubelet would report it: stages with a moment when they end.
//!
//! ```text
//! Waiting ─> Pulling ─> Starting ─> Running ─> Stopped ─> BackOff ─┐
//!    │          └─> PullError <─> PullBackOff         └── restart ─┴─> Running
//!    └─> ConfigError (a ConfigMap, Secret or key is missing)
//! ```
//! What a container does is read from its image's tag (`missing`, `crash`, `exitN`, `slowN`, `neverready`) and from
//! `fakenode/...` annotations, the same convention as the project's simulated node for real API servers.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Memory;
use super::events::{Weight, emit};
use super::image::{self, Image, NoImage};
use super::script::{self, Script};
use crate::kinds;
use crate::object::{self, int, list, text};
use crate::store::State;

#[derive(Debug)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) init: bool,
    pub(super) ready: bool,
    stage: Stage,
    restarts: i64,
    backoff: Duration,
    last: Option<Value>,
    /// Whether its image could not be pulled so far: it waits for that in its tries too.
    refused: bool,
    image: Option<Image>,
    started_at: String,
    /// Lines of its log that come later in this run.
    says: Vec<(Instant, String)>,
}

#[derive(Debug)]
enum Stage {
    Waiting,
    Pulling(Instant),
    PullError {
        until: Instant,
        message: String,
    },
    PullBackOff {
        until: Instant,
        reference: String,
    },
    InvalidName(String),
    ConfigError(String),
    Starting(Instant),
    Running {
        ready_at: Option<Instant>,
        exit: Option<(Instant, i64)>,
    },
    /// Running when an earlier process ended; what it would have done next is planned anew.
    Resumed,
    Stopped {
        until: Instant,
        terminated: Value,
    },
    BackOff {
        until: Instant,
        message: String,
    },
    Done(Value),
}

impl Container {
    /// A container of a pod, fresh or as the pod's status left it.
    pub(super) fn new(pod: &Value, spec: &Value, init: bool, memory: &Memory) -> Self {
        let name = text(spec, "/name").to_owned();
        let group = if init { "/status/initContainerStatuses" } else { "/status/containerStatuses" };
        let status = list(pod, group).iter().find(|status| status["name"] == *name);
        let mut container = Self {
            name,
            init,
            ready: false,
            stage: Stage::Waiting,
            restarts: 0,
            backoff: memory.delays.backoff,
            last: None,
            refused: false,
            image: None,
            started_at: String::new(),
            says: Vec::new(),
        };
        let Some(status) = status else { return container };
        container.restarts = int(status, "/restartCount").unwrap_or_default();
        container.last = status.get("lastState").filter(|last| last.get("terminated").is_some()).cloned();
        let id = text(status, "/imageID");
        if let Some(terminated) = status.pointer("/state/terminated") {
            container.ready = init && terminated["exitCode"] == 0;
            container.image = known_image(id);
            container.stage = Stage::Stopped { until: memory.now, terminated: terminated.clone() };
        } else if let Some(running) = status.pointer("/state/running") {
            container.ready = status["ready"] == true;
            container.image = known_image(id);
            container.started_at = text(running, "/startedAt").to_owned();
            container.stage = Stage::Resumed;
        } else if text(status, "/state/waiting/reason") == "CrashLoopBackOff" {
            container.image = known_image(id);
            let message = text(status, "/state/waiting/message").to_owned();
            container.stage = Stage::BackOff { until: memory.now + container.backoff, message };
        }
        container
    }

    pub(super) fn exit_code(&self) -> Option<i64> {
        match &self.stage {
            Stage::Done(terminated) => int(terminated, "/exitCode"),
            _ => None,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running { .. } | Stage::Resumed)
    }

    pub(super) fn has_run(&self) -> bool {
        self.restarts > 0
            || matches!(
                self.stage,
                Stage::Running { .. }
                    | Stage::Resumed
                    | Stage::Stopped { .. }
                    | Stage::BackOff { .. }
                    | Stage::Done(_)
            )
    }

    /// Goes on as far as the present moment allows.
    pub(super) fn advance(&mut self, state: &mut State, memory: &mut Memory, pod: &Value, spec: &Value) {
        while let Some(next) = self.next(state, memory, pod, spec) {
            self.stage = next;
        }
    }

    fn next(&mut self, state: &mut State, memory: &mut Memory, pod: &Value, spec: &Value) -> Option<Stage> {
        let now = memory.now;
        let reference = text(spec, "/image").to_owned();
        let due = |memory: &mut Memory, until: Instant| {
            let over = now >= until;
            if !over {
                memory.wake_at(until);
            }
            over
        };
        match &self.stage {
            Stage::Waiting => Some(self.begin_pull(state, memory, pod, spec, &reference)),
            Stage::Pulling(until) => {
                due(memory, *until).then(|| self.end_pull(state, memory, pod, &reference))
            }
            Stage::PullError { until, .. } => due(memory, *until).then(|| {
                emit(state, pod, Weight::Normal, "BackOff", &format!("Back-off pulling image {reference:?}"));
                emit(state, pod, Weight::Warning, "Failed", "Error: ImagePullBackOff");
                Stage::PullBackOff { until: now + self.grown_backoff(memory), reference }
            }),
            Stage::PullBackOff { until, reference: tried } => {
                (*tried != reference || due(memory, *until)).then_some(Stage::Waiting)
            }
            Stage::InvalidName(_) => None,
            Stage::ConfigError(before) => match missing_configuration(state, pod, spec) {
                Some(why) => (why != *before).then_some(Stage::ConfigError(why)),
                None => Some(Stage::Starting(now + state.random.within(memory.delays.start))),
            },
            Stage::Starting(until) => {
                if !due(memory, *until) {
                    return None;
                }
                if let Some(why) = missing_configuration(state, pod, spec) {
                    emit(state, pod, Weight::Warning, "Failed", &format!("Error: {why}"));
                    return Some(Stage::ConfigError(why));
                }
                Some(self.start(state, memory, pod, spec))
            }
            Stage::Resumed => {
                self.image = image::pull(state, &reference).ok().or(self.image.take());
                let tag = self.image.as_ref().map(|image| image.tag.clone()).unwrap_or_default();
                let played = script::of(spec);
                let exit = self.exit_plan(state, memory, pod, &tag, played.as_ref());
                let exit = exit.map(|(after, code)| (now + after, code));
                let ready_at = (!self.ready && !self.never_ready(pod, &tag)).then_some(now);
                Some(Stage::Running { ready_at, exit })
            }
            Stage::Running { ready_at, exit } => {
                let (ready_at, exit) = (*ready_at, *exit);
                while let Some((_, line)) = self.says.first().filter(|(at, _)| due(memory, *at)) {
                    add_log(state, pod, &self.name, line);
                    self.says.remove(0);
                }
                if !self.ready && ready_at.is_some_and(|at| due(memory, at)) {
                    self.ready = true;
                }
                let (at, code) = exit?;
                due(memory, at).then(|| self.stop(state, memory, pod, code))
            }
            Stage::Stopped { until, terminated } => {
                let code = int(terminated, "/exitCode").unwrap_or_default();
                let policy = text(pod, "/spec/restartPolicy");
                if self.init && code == 0 || policy == "Never" || policy == "OnFailure" && code == 0 {
                    return Some(Stage::Done(terminated.clone()));
                }
                if !due(memory, *until) {
                    return None;
                }
                let terminated = terminated.clone();
                self.last = Some(json!({ "terminated": terminated }));
                if self.restarts == 0 {
                    self.restarts = 1;
                    return Some(self.start(state, memory, pod, spec));
                }
                emit(
                    state,
                    pod,
                    Weight::Warning,
                    "BackOff",
                    &format!(
                        "Back-off restarting failed container {} in pod {}",
                        self.name,
                        object::name(pod)
                    ),
                );
                let wait = self.grown_backoff(memory);
                let message = format!(
                    "back-off {}s restarting failed container={} pod={}_{}({})",
                    wait.as_secs_f32(),
                    self.name,
                    object::name(pod),
                    object::namespace(pod),
                    object::uid(pod)
                );
                Some(Stage::BackOff { until: now + wait, message })
            }
            Stage::BackOff { until, .. } => due(memory, *until).then(|| {
                self.restarts += 1;
                self.start(state, memory, pod, spec)
            }),
            Stage::Done(_) => None,
        }
    }

    fn begin_pull(
        &self,
        state: &mut State,
        memory: &mut Memory,
        pod: &Value,
        spec: &Value,
        reference: &str,
    ) -> Stage {
        let always = spec["imagePullPolicy"] == "Always";
        if memory.pods.has_pulled(reference) && !always {
            let message = format!("Container image {reference:?} already present on machine");
            emit(state, pod, Weight::Normal, "Pulled", &message);
            return Stage::Pulling(memory.now);
        }
        emit(state, pod, Weight::Normal, "Pulling", &format!("Pulling image {reference:?}"));
        let extra = annotated_seconds(pod, "pull-seconds", &self.name).unwrap_or_default();
        // A node that has the layers only asks the registry whether the tag moved.
        let span = memory.delays.pull;
        let pull = state.random.within(span);
        Stage::Pulling(memory.now + extra + if memory.pods.has_pulled(reference) { pull / 4 } else { pull })
    }

    fn end_pull(&mut self, state: &mut State, memory: &mut Memory, pod: &Value, reference: &str) -> Stage {
        match image::pull(state, reference) {
            Ok(found) => {
                if !memory.pods.has_pulled(reference) {
                    emit(
                        state,
                        pod,
                        Weight::Normal,
                        "Pulled",
                        &format!("Successfully pulled image {reference:?}"),
                    );
                }
                memory.pods.pulled(reference);
                self.image = Some(found);
                self.refused = false;
                self.backoff = memory.delays.backoff;
                Stage::Starting(
                    memory.now
                        + state.random.within(if self.init {
                            memory.delays.init
                        } else {
                            memory.delays.start
                        }),
                )
            }
            Err(NoImage::InvalidName(why)) => {
                emit(state, pod, Weight::Warning, "InspectFailed", &why);
                Stage::InvalidName(why)
            }
            Err(NoImage::NotFound(why)) => {
                self.refused = true;
                let message = format!("rpc error: code = NotFound desc = {why}");
                let said = format!("Failed to pull image {reference:?}: {message}");
                emit(state, pod, Weight::Warning, "Failed", &said);
                emit(state, pod, Weight::Warning, "Failed", "Error: ErrImagePull");
                Stage::PullError {
                    until: memory.now + memory.delays.backoff.min(Duration::from_secs(1)),
                    message,
                }
            }
        }
    }

    fn start(&mut self, state: &mut State, memory: &mut Memory, pod: &Value, spec: &Value) -> Stage {
        let now = memory.now;
        self.started_at = state.clock.stamp();
        self.ready = false;
        emit(state, pod, Weight::Normal, "Created", &format!("Created container: {}", self.name));
        emit(state, pod, Weight::Normal, "Started", &format!("Started container {}", self.name));
        let said = annotation(pod, "log", &self.name).map(str::to_owned);
        let line = said.unwrap_or_else(|| format!("{} started, run {}", self.name, self.restarts + 1));
        begin_log(state, pod, &self.name, &line);
        let played = script::of(spec);
        let later = played.iter().flat_map(|script| &script.lines);
        self.says = later.map(|(after, line)| (now + *after, line.clone())).collect();
        // Looked up at every start, because a restarted process knows only the digest.
        self.image = image::pull(state, text(spec, "/image")).ok().or(self.image.take());
        let tag = self.image.as_ref().map(|image| image.tag.clone()).unwrap_or_default();
        let exit = self.exit_plan(state, memory, pod, &tag, played.as_ref());
        let exit = exit.map(|(after, code)| (now + after, code));
        let never = self.never_ready(pod, &tag);
        let probe =
            int(spec, "/readinessProbe/initialDelaySeconds").unwrap_or_default().clamp(0, 3600) as f64;
        let slow = number_after(&tag, "slow").map(|seconds| Duration::from_secs(seconds as u64));
        let slow = annotated_seconds(pod, "start-seconds", &self.name).or(slow);
        let delay = state.random.within(memory.delays.ready)
            + slow.unwrap_or_default()
            + Duration::from_secs_f64(probe * memory.delays.probes);
        if never && !self.init || slow.is_some() {
            let why = "Readiness probe failed: the service does not answer yet";
            emit(state, pod, Weight::Warning, "Unhealthy", why);
        }
        Stage::Running { ready_at: (!never).then_some(now + delay), exit }
    }

    fn never_ready(&self, pod: &Value, tag: &str) -> bool {
        self.init || annotation(pod, "never-ready", &self.name) == Some("true") || tag.contains("neverready")
    }

    /// When this run ends and with which code; `None` for one that stays.
    fn exit_plan(
        &self,
        state: &mut State,
        memory: &Memory,
        pod: &Value,
        tag: &str,
        played: Option<&Script>,
    ) -> Option<(Duration, i64)> {
        let span = if self.init { memory.delays.init } else { memory.delays.run };
        let run =
            annotated_seconds(pod, "run-seconds", &self.name).unwrap_or_else(|| state.random.within(span));
        if self.init {
            let code = annotation(pod, "init-exit-code", &self.name).and_then(|code| code.parse().ok());
            return Some((run, code.or_else(|| fault_code(tag)).unwrap_or(0)));
        }
        let times: Option<i64> =
            annotation(pod, "crash-times", &self.name).and_then(|times| times.parse().ok());
        if let Some(times) = times {
            return (self.restarts < times).then_some((run, 1));
        }
        let code = annotation(pod, "exit-code", &self.name).and_then(|code| code.parse().ok());
        if let Some(code) = code.or_else(|| fault_code(tag)) {
            return Some((run, code));
        }
        if let Some(script) = played {
            return Some((script.ends + run, script.code));
        }
        let forever = annotation(pod, "run-seconds", &self.name) == Some("forever");
        (pod["spec"]["restartPolicy"] != "Always" && !forever).then_some((run, 0))
    }

    fn stop(&mut self, state: &mut State, memory: &Memory, pod: &Value, code: i64) -> Stage {
        add_log(state, pod, &self.name, &format!("{} ends with exit code {code}", self.name));
        self.ready = self.init && code == 0;
        let terminated = self.terminated(state, pod, code);
        Stage::Stopped {
            until: memory.now + memory.delays.backoff.min(Duration::from_millis(200)),
            terminated,
        }
    }

    fn terminated(&self, state: &State, pod: &Value, code: i64) -> Value {
        let reason = match code {
            0 => "Completed",
            137 => "OOMKilled",
            _ => "Error",
        };
        json!({
            "exitCode": code, "reason": reason, "startedAt": self.started_at, "finishedAt": state.clock.stamp(),
            "containerID": self.id(pod),
        })
    }

    fn grown_backoff(&mut self, memory: &Memory) -> Duration {
        let wait = self.backoff;
        self.backoff = (self.backoff * 2).min(memory.delays.backoff_limit);
        wait
    }

    fn id(&self, pod: &Value) -> String {
        format!("containerd://{}-{}-{}", object::uid(pod), self.name, self.restarts)
    }

    /// The entry of `containerStatuses`.
    pub(super) fn status(&self, pod: &Value, spec: &Value, initialized: bool) -> Value {
        let waiting = |reason: &str, message: &str| {
            if message.is_empty() {
                json!({ "waiting": { "reason": reason } })
            } else {
                json!({ "waiting": { "reason": reason, "message": message } })
            }
        };
        let reference = text(spec, "/image");
        let backs_off = || waiting("ImagePullBackOff", &format!("Back-off pulling image {reference:?}"));
        let (at_work, state) = match &self.stage {
            Stage::Waiting | Stage::Pulling(_) if self.refused => (false, backs_off()),
            Stage::Waiting if !initialized && !self.init => (false, waiting("PodInitializing", "")),
            Stage::Waiting if self.init => (false, waiting("PodInitializing", "")),
            Stage::Waiting | Stage::Pulling(_) | Stage::Starting(_) => {
                (false, waiting("ContainerCreating", ""))
            }
            Stage::PullError { message, .. } => (false, waiting("ErrImagePull", message)),
            Stage::PullBackOff { .. } => (false, backs_off()),
            Stage::InvalidName(message) => (false, waiting("InvalidImageName", message)),
            Stage::ConfigError(message) => (false, waiting("CreateContainerConfigError", message)),
            Stage::Running { .. } | Stage::Resumed => {
                (true, json!({ "running": { "startedAt": self.started_at } }))
            }
            Stage::Stopped { terminated, .. } | Stage::Done(terminated) => {
                (false, json!({ "terminated": terminated }))
            }
            Stage::BackOff { message, .. } => (false, waiting("CrashLoopBackOff", message)),
        };
        let mut status = json!({
            "name": self.name, "image": reference, "ready": self.ready, "started": at_work,
            "restartCount": self.restarts, "state": state, "lastState": self.last.clone().unwrap_or_else(|| json!({})),
            "imageID": self.image.as_ref().map(|image| image.id.as_str()).unwrap_or_default(),
        });
        if self.has_run() {
            status["containerID"] = self.id(pod).into();
        }
        status
    }
}

/// An image that an earlier process pulled; its tag is looked up when it starts again.
fn known_image(id: &str) -> Option<Image> {
    (!id.is_empty()).then(|| Image { tag: String::new(), id: id.to_owned() })
}

fn fault_code(tag: &str) -> Option<i64> {
    number_after(tag, "exit").or_else(|| tag.contains("crash").then_some(1))
}

/// The number behind a word of the tag: 3 in `v2-exit3` and in `exit-3`.
fn number_after(tag: &str, word: &str) -> Option<i64> {
    let rest = &tag[tag.find(word)? + word.len()..];
    let rest = rest.strip_prefix('-').unwrap_or(rest);
    let digits: String = rest.chars().take_while(char::is_ascii_digit).take(6).collect();
    digits.parse().ok()
}

/// A `fakenode/...` annotation, for one container or for the pod.
fn annotation<'a>(pod: &'a Value, key: &str, container: &str) -> Option<&'a str> {
    object::annotation(pod, &format!("fakenode/{key}.{container}"))
        .or_else(|| object::annotation(pod, &format!("fakenode/{key}")))
}

pub(super) fn annotated_seconds(pod: &Value, key: &str, container: &str) -> Option<Duration> {
    let seconds: f64 = annotation(pod, key, container)?.parse().ok()?;
    Duration::try_from_secs_f64(seconds.min(1e6)).ok()
}

/// The ConfigMap, Secret or key that a container's environment needs and that is not there.
fn missing_configuration(state: &State, pod: &Value, spec: &Value) -> Option<String> {
    let namespace = object::namespace(pod);
    let absent = |resource: &'static str, word: &str, name: &str| {
        state.find(resource, namespace, name).is_none().then(|| format!("{word} {name:?} not found"))
    };
    for source in list(spec, "/envFrom") {
        for (field, resource, word) in
            [("configMapRef", kinds::CONFIG_MAPS, "configmap"), ("secretRef", kinds::SECRETS, "secret")]
        {
            let named = &source[field];
            if named.is_object() && named["optional"] != true {
                let why = absent(resource, word, text(named, "/name"));
                if why.is_some() {
                    return why;
                }
            }
        }
    }
    for variable in list(spec, "/env") {
        for (field, resource, word, title) in [
            ("configMapKeyRef", kinds::CONFIG_MAPS, "configmap", "ConfigMap"),
            ("secretKeyRef", kinds::SECRETS, "secret", "Secret"),
        ] {
            let named = &variable["valueFrom"][field];
            if !named.is_object() || named["optional"] == true {
                continue;
            }
            let (name, key) = (text(named, "/name"), text(named, "/key"));
            let Some(found) = state.find(resource, namespace, name) else {
                return Some(format!("{word} {name:?} not found"));
            };
            let groups = ["/data", "/binaryData"];
            if !groups
                .iter()
                .any(|group| object::map(found, group).is_some_and(|data| data.contains_key(key)))
            {
                return Some(format!("couldn't find key {key} in {title} {namespace}/{name}"));
            }
        }
    }
    None
}

fn begin_log(state: &mut State, pod: &Value, container: &str, text: &str) {
    let stamp = state.clock.precise();
    let log = state.logs.entry((object::uid(pod).to_owned(), container.to_owned())).or_default();
    log.previous = std::mem::take(&mut log.current);
    log.current = text.lines().map(|line| format!("{stamp} {line}")).collect();
}

fn add_log(state: &mut State, pod: &Value, container: &str, text: &str) {
    let stamp = state.clock.precise();
    let log = state.logs.entry((object::uid(pod).to_owned(), container.to_owned())).or_default();
    log.current.extend(text.lines().map(|line| format!("{stamp} {line}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_from_the_tag() {
        assert_eq!(fault_code("v2-crash"), Some(1));
        assert_eq!(fault_code("exit3"), Some(3));
        assert_eq!(fault_code("v2-exit-137"), Some(137));
        assert_eq!(fault_code("0.1-snapshot"), None);
        assert_eq!(number_after("slow5", "slow"), Some(5));
        assert_eq!(number_after("slow", "slow"), None);
    }
}
