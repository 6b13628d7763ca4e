//! Stories of whole runs: a workflow in, what happened out. Time is paused; nothing sleeps.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::bundle::WORKFLOW_FILE;
use crate::claim::{self, Claim};
use crate::clock::TestClock;
use crate::document::Finding;
use crate::graph::Graphs;
use crate::id::Digest;
use crate::journal::MemoryJournal;
use crate::run::{ROLLBACK, Trigger};
use crate::task::{Plan, Site, Task};

mod control;
mod ledger;
mod model;

/// While set, tasks that are told to block do so.
static BLOCKS: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(true);

/// A task that does what its spec says, and keeps a diary.
#[derive(Default)]
struct Probe {
    diary: Arc<Mutex<Vec<String>>>,
    plans: AtomicUsize,
}

impl Probe {
    fn note(&self, text: String) {
        self.diary.lock().expect("a diary").push(text);
    }
}

#[async_trait]
impl Task for Probe {
    fn type_name(&self) -> &'static str {
        "probe"
    }

    fn summary(&self) -> &'static str {
        "does what a test says"
    }

    fn schema(&self) -> Value {
        json!({ "type": "object", "properties": {
            "does": { "type": "string" }, "lane": { "type": "string" }, "service": { "type": "string" }, "value": true, "token": { "type": "string" },
            "undoes": { "type": "string" }, "protected": { "type": "string" },
        }, "additionalProperties": false })
    }

    fn check(&self, _spec: &Value, _site: &Site<'_>) -> Vec<Finding> {
        Vec::new()
    }

    fn claims(&self, spec: &Value) -> Vec<Claim> {
        let lane = spec["lane"].as_str().map(|tag| Claim::lane("e", tag, claim::Mode::Write));
        let service = spec["service"].as_str().map(|name| Claim::service("e", name));
        lane.into_iter().chain(service).collect()
    }

    fn sealed_keys(&self) -> &'static [&'static str] {
        &["lane"]
    }

    fn outputs(&self) -> &'static [&'static str] {
        &["value"]
    }

    fn takes_secret(&self, pointer: &str) -> bool {
        pointer == "/token"
    }

    async fn plan(&self, cx: &TaskContext) -> Result<Plan, TaskError> {
        let number = self.plans.fetch_add(1, Ordering::SeqCst);
        self.note(format!("{} plan", cx.task));
        let protected = cx.spec["protected"].as_str().map(str::to_owned);
        Ok(Plan { body: json!({ "number": number, "spec": cx.spec }), protected, ..Plan::default() })
    }

    async fn undo(&self, cx: &TaskContext, plan: &Plan) -> Result<Outputs, TaskError> {
        self.note(format!(
            "{} undo plan {}{}",
            cx.task,
            plan.body["number"],
            if cx.force { " by force" } else { "" }
        ));
        match cx.spec["undoes"].as_str().unwrap_or("succeed") {
            "succeed" => Ok(Outputs::default()),
            "take" => {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(60)) => Ok(Outputs::default()),
                    () = cx.cancel.cancelled() => Err(TaskError::transient("stopped before the next object")),
                }
            }
            _ => Err(TaskError::permanent("told not to undo")),
        }
    }

    async fn run(&self, cx: &TaskContext, plan: &Plan) -> Result<Outputs, TaskError> {
        self.note(format!("{} {} plan {}", cx.task, cx.attempt, plan.body["number"]));
        let does = cx.spec["does"].as_str().unwrap_or("succeed");
        match does.split_once(' ').map_or((does, ""), |(verb, rest)| (verb, rest)) {
            ("succeed", _) => {}
            ("fail", _) => return Err(TaskError::permanent("told to fail")),
            ("trip", times) if cx.attempt.0 <= times.parse().unwrap_or(1) => {
                return Err(TaskError::transient("tripped"));
            }
            ("trip", _) => {}
            ("panic", _) => panic!("told to panic"),
            ("flood", _) => {
                let values =
                    Map::from_iter([("value".to_owned(), Value::from("x".repeat(50 * 1024 * 1024)))]);
                return Ok(Outputs { values, report: Vec::new() });
            }
            ("block", _) => {
                cx.phase("blocking").await?;
                while BLOCKS.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
            }
            ("hold", times) if cx.attempt.0 <= times.parse().unwrap_or(1) => {
                return Err(TaskError::hold("what is there is not what was planned for"));
            }
            ("hold", _) => {}
            ("take", seconds) => {
                let span = Duration::from_secs(seconds.parse().unwrap_or(1));
                cx.phase("taking its time").await?;
                tokio::select! {
                    () = tokio::time::sleep(span) => {}
                    () = cx.cancel.cancelled() => {
                        self.note(format!("{} stopped", cx.task));
                        return Err(TaskError::transient("stopped at a safe point"));
                    }
                }
            }
            ("ignore", _) => std::future::pending().await,
            ("rollback", seconds) => {
                cx.cancel.cancelled().await;
                cx.checkpoint(ROLLBACK).await?;
                tokio::time::sleep(Duration::from_secs(seconds.parse().unwrap_or(1))).await;
                self.note(format!("{} rolled back", cx.task));
                return Err(TaskError::transient("stopped and rolled back"));
            }
            ("reveal", _) => {
                let token = cx.reveal(cx.spec["token"].as_str().unwrap_or(""))?;
                self.note(format!("token has {} characters", token.len()));
            }
            other => panic!("unknown: {other:?}"),
        }
        let mut values = Map::new();
        values.insert("value".into(), cx.spec["value"].clone());
        Ok(Outputs { values, report: Vec::new() })
    }
}

struct TestSecrets;

impl SecretSource for TestSecrets {
    fn read(&self, name: &str) -> Result<String, String> {
        if name == "token" { Ok("s3cr3t-value".into()) } else { Err("not set".into()) }
    }
}

struct World {
    engine: Engine,
    parts: Parts,
    journal: Arc<MemoryJournal>,
    diary: Arc<Mutex<Vec<String>>>,
}

impl World {
    async fn new() -> World {
        World::over(Arc::new(MemoryJournal::default())).await
    }

    /// An engine over a journal: a second one over the same is a restart.
    async fn over(journal: Arc<MemoryJournal>) -> World {
        World::later(journal, Duration::ZERO).await
    }

    /// The same, started so long after the first.
    async fn later(journal: Arc<MemoryJournal>, after: Duration) -> World {
        World::start(journal, after, Mode::Work).await
    }

    /// One whose attempts have threads of their own.
    async fn on(threads: tokio::runtime::Handle) -> World {
        World::with(Arc::new(MemoryJournal::default()), Duration::ZERO, Mode::Work, Some(threads)).await
    }

    async fn start(journal: Arc<MemoryJournal>, after: Duration, mode: Mode) -> World {
        World::with(journal, after, mode, None).await
    }

    async fn with(
        journal: Arc<MemoryJournal>,
        after: Duration,
        mode: Mode,
        threads: Option<tokio::runtime::Handle>,
    ) -> World {
        let probe = Probe::default();
        let diary = Arc::clone(&probe.diary);
        let parts = World::parts(journal.clone(), probe, after, threads);
        let engine = Engine::start(parts.clone(), mode).await.expect("started");
        World { engine, parts, journal, diary }
    }

    /// What an engine over any journal is made of.
    fn parts(
        journal: Arc<dyn Journal>,
        probe: Probe,
        after: Duration,
        threads: Option<tokio::runtime::Handle>,
    ) -> Parts {
        let mut registry = Registry::default();
        registry.add(probe);
        registry.add(crate::approval::Approval);
        Parts {
            journal,
            registry: Arc::new(registry),
            clock: Arc::new(TestClock::new(7).later(after)),
            secrets: Arc::new(TestSecrets),
            logs: Logs::none(),
            graphs: Graphs::default(),
            threads,
        }
    }

    fn submission(yaml: &str) -> Submission {
        let mut bundle = Bundle::default();
        bundle.add(WORKFLOW_FILE, yaml);
        Submission {
            bundle,
            inputs: Map::new(),
            only: Vec::new(),
            skip: Vec::new(),
            from: None,
            actor: "ann".into(),
            trigger: Trigger::Manual,
            source: None,
            key: None,
            vars: BTreeMap::new(),
            secrets: BTreeSet::from(["token".to_owned()]),
        }
    }

    async fn submit(&self, yaml: &str) -> RunId {
        self.engine.submit(World::submission(yaml)).await.expect("submitted")
    }

    async fn finish(&self, run: RunId) -> RunView {
        let mut updates = self.engine.watch();
        loop {
            let view = self.engine.view(run).await.expect("readable").expect("known");
            if view.outcome.is_some() {
                return view;
            }
            // Anything that happens is a reason to look again.
            let _ = tokio::time::timeout(Duration::from_secs(3600), updates.recv()).await;
        }
    }

    async fn until(&self, run: RunId, seen: impl Fn(&RunView) -> bool) {
        let mut updates = self.engine.watch();
        loop {
            let view = self.view(run).await;
            if seen(&view) {
                return;
            }
            assert!(view.outcome.is_none(), "it ended before: {}", told(&view));
            let _ = tokio::time::timeout(Duration::from_secs(3600), updates.recv()).await;
        }
    }

    async fn view(&self, run: RunId) -> RunView {
        self.engine.view(run).await.expect("readable").expect("known")
    }

    /// Until only people can move the run on.
    async fn until_waiting(&self, run: RunId) -> RunView {
        self.until(run, |view| view.summary.status == "waiting").await;
        self.view(run).await
    }

    /// The run that takes this one back, at its end.
    async fn undone(&self, run: RunId) -> Option<RunView> {
        let undo = self.finish(run).await.undone_by?;
        Some(self.finish(undo).await)
    }

    fn diary(&self) -> Vec<String> {
        self.diary.lock().expect("a diary").clone()
    }
}

/// `task: status` for every task, and the outcome, in one line.
fn told(view: &RunView) -> String {
    let mut tasks: Vec<String> = view
        .tasks
        .iter()
        .map(|task| match (&task.reason, &task.error) {
            (Some(reason), _) => format!("{}: {} ({reason})", task.name, task.status),
            (_, Some(error)) => format!("{}: {} ({error})", task.name, task.status),
            _ => format!("{}: {}", task.name, task.status),
        })
        .collect();
    tasks.sort();
    format!("{} | {}", view.summary.status, tasks.join(", "))
}

async fn story(yaml: &str) -> (String, Vec<String>) {
    let world = World::new().await;
    let run = world.submit(yaml).await;
    let view = world.finish(run).await;
    (told(&view), world.diary())
}

#[tokio::test(start_paused = true)]
async fn tasks_run_after_what_they_need_and_read_its_outputs() {
    let (told, diary) = story(
        "name: w\ntasks:\n  b: { type: probe, needs: [a], with: { value: \"${{ tasks.a.outputs.value + 1 }}\" } }\n  a: { type: probe, with: { value: 41 } }\n",
    )
    .await;
    assert_eq!(told, "succeeded | a: succeeded, b: succeeded");
    assert_eq!(diary, ["a plan", "a 1 plan 0", "b plan", "b 1 plan 1"]);
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_failure_is_a_table() {
    for (tasks, expected) in [
        (
            "  a: { type: probe, with: { does: fail } }\n  b: { type: probe, needs: [a] }\n",
            "failed | a: failed (told to fail), b: skipped (something before it did not succeed)",
        ),
        (
            "  a: { type: probe, on_failure: continue, with: { does: fail } }\n  b: { type: probe, needs: [a] }\n",
            "succeeded | a: failed (told to fail), b: succeeded",
        ),
        (
            "  a: { type: probe, with: { does: fail } }\n  b: { type: probe, needs: [a], when: \"${{ failure() }}\" }\n  c: { type: probe, needs: [a], when: \"${{ always() }}\" }\n",
            "failed | a: failed (told to fail), b: succeeded, c: succeeded",
        ),
        (
            "  a: { type: probe }\n  b: { type: probe, needs: [a], when: \"${{ false }}\" }\n  c: { type: probe, needs: [b] }\n",
            "succeeded | a: succeeded, b: skipped (its `when` did not hold), c: succeeded",
        ),
        (
            "  a: { type: probe, with: { does: panic } }\n",
            "failed | a: failed (the task panicked: told to panic)",
        ),
        (
            "  a: { type: probe, with: { value: \"${{ 1 / 0 }}\" } }\n",
            "failed | a: failed (`with.value` cannot be evaluated: division by zero)",
        ),
        (
            "  a: { type: probe, with: { value: {} } }\n  b: { type: probe, needs: [a], when: \"${{ tasks.a.outputs.value.x }}\" }\n",
            "failed | a: succeeded, b: failed (`when` cannot be evaluated: there is no `x`)",
        ),
        (
            "  a: { type: probe, with: { does: fail } }\n  slow: { type: probe, with: { does: take 60 } }\n  after: { type: probe, needs: [slow] }\n",
            "failed | a: failed (told to fail), after: skipped (the run was ending), slow: succeeded",
        ),
    ] {
        assert_eq!(story(&format!("name: w\ntasks:\n{tasks}")).await.0, expected, "{tasks}");
    }
}

#[tokio::test(start_paused = true)]
async fn transient_errors_are_tried_again_with_the_same_plan() {
    let (told, diary) =
        story("name: w\ntasks:\n  a: { type: probe, retry: { attempts: 3 }, with: { does: trip 2 } }\n")
            .await;
    assert_eq!(told, "succeeded | a: succeeded");
    assert_eq!(diary, ["a plan", "a 1 plan 0", "a 2 plan 0", "a 3 plan 0"]);

    let (told, diary) =
        story("name: w\ntasks:\n  a: { type: probe, retry: { attempts: 2 }, with: { does: trip 2 } }\n")
            .await;
    assert_eq!(told, "failed | a: failed (tripped)");
    assert_eq!(diary.len(), 3);

    let (told, diary) =
        story("name: w\ntasks:\n  a: { type: probe, retry: { attempts: 5 }, with: { does: fail } }\n").await;
    assert_eq!(told, "failed | a: failed (told to fail)");
    assert_eq!(diary.len(), 2, "a permanent error is not tried again");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_too_slow_is_stopped_and_one_that_does_not_listen_is_abandoned() {
    let (told, diary) =
        story("name: w\ntasks:\n  a: { type: probe, timeout: 10s, with: { does: take 60 } }\n").await;
    assert_eq!(told, "failed | a: failed (timed out after 10s: stopped at a safe point)");
    assert_eq!(diary.last().map(String::as_str), Some("a stopped"));

    let (told, _) =
        story("name: w\ntasks:\n  a: { type: probe, timeout: 10s, with: { does: ignore } }\n").await;
    assert_eq!(told, "failed | a: failed (timed out after 10s: the attempt did not stop and was abandoned)");

    let (told, _) =
        story("name: w\ntimeout: 5s\ntasks:\n  a: { type: probe, with: { does: take 60 } }\n").await;
    assert_eq!(told, "failed | a: cancelled (stopped at a safe point)");
}

#[tokio::test(start_paused = true)]
async fn cancel_ends_a_run_and_clean_up_still_runs() {
    let world = World::new().await;
    let yaml = "name: w\ntasks:\n  a: { type: probe, with: { does: take 600 } }\n  b: { type: probe, needs: [a] }\n  clean: { type: probe, needs: [a], when: \"${{ cancelled() }}\" }\n";
    let run = world.submit(yaml).await;
    world.until(run, |view| view.tasks.iter().any(|task| task.phase.is_some())).await;
    assert_eq!(
        world.engine.cancel(run, "bob".into(), Some("wrong tag".into()), false).await,
        CancelAnswer::Cancelling
    );
    let view = world.finish(run).await;
    assert_eq!(
        told(&view),
        "cancelled | a: cancelled (stopped at a safe point), b: skipped (the run was ending), clean: succeeded"
    );
    assert_eq!(view.reason.as_deref(), Some("cancelled by bob: wrong tag"));
    assert_eq!(world.engine.cancel(run, "bob".into(), None, false).await, CancelAnswer::NotActive);
}

#[tokio::test(start_paused = true)]
async fn cancel_now_waits_for_nobody_and_a_rollback_may_take_its_time() {
    for (now, does, expected) in [
        (
            true,
            "ignore x",
            "cancelled | a: cancelled (the attempt did not stop and was abandoned), clean: skipped (the run was ending)",
        ),
        (
            false,
            "ignore x",
            "cancelled | a: cancelled (the attempt did not stop and was abandoned), clean: succeeded",
        ),
        (false, "rollback 300", "cancelled | a: cancelled (stopped and rolled back), clean: succeeded"),
    ] {
        let world = World::new().await;
        let yaml = format!(
            "name: w\ntasks:\n  a: {{ type: probe, timeout: 1h, with: {{ does: {does} }} }}\n  clean: {{ type: probe, needs: [a], when: \"${{{{ always() }}}}\" }}\n"
        );
        let run = world.submit(&yaml).await;
        world.until(run, |view| view.tasks[0].plan.is_some()).await;
        let _ = world.engine.cancel(run, "bob".into(), None, now).await;
        assert_eq!(told(&world.finish(run).await), expected, "{does}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_holds_one_run_and_the_next_one_says_for_whom_it_waits() {
    let world = World::new().await;
    let yaml = |name: &str, tag: &str| {
        format!("name: {name}\ntasks:\n  a: {{ type: probe, with: {{ does: take 60, lane: {tag} }} }}\n")
    };
    let first = world.submit(&yaml("one", "gray")).await;
    let second = world.submit(&yaml("two", "gray")).await;
    let other = world.submit(&yaml("three", "blue")).await;
    let view = world.engine.view(second).await.expect("readable").expect("known");
    assert_eq!(view.summary.status, "queued");
    assert_eq!(view.reason, Some(format!("waits for run {first} (one), which holds lane e/gray")));
    assert_eq!(world.engine.view(other).await.expect("readable").expect("known").summary.status, "running");
    assert_eq!(world.finish(second).await.summary.status, "succeeded");
    assert_eq!(world.diary().iter().filter(|line| line.ends_with("plan 2")).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn production_is_claimed_for_the_task_only() {
    let world = World::new().await;
    let yaml = |name: &str, first: u32| {
        format!(
            "name: {name}\ntasks:\n  wait: {{ type: probe, with: {{ does: take {first} }} }}\n  write: {{ type: probe, needs: [wait], with: {{ does: take 60, service: a }} }}\n"
        )
    };
    let slow = world.submit(&yaml("slow", 100)).await;
    let fix = world.submit(&yaml("fix", 1)).await;
    assert_eq!(told(&world.finish(fix).await), "succeeded | wait: succeeded, write: succeeded");
    assert_eq!(world.engine.view(slow).await.expect("readable").expect("known").summary.status, "running");

    let late = world.submit(&yaml("late", 50)).await;
    world.until(late, |view| view.tasks[1].reason.is_some()).await;
    let reason = world.engine.view(late).await.expect("readable").expect("known").tasks[1].reason.clone();
    assert_eq!(reason, Some(format!("waits for run {slow} (slow), which holds service e/a")));
    assert_eq!(world.finish(late).await.summary.status, "succeeded");
}

#[tokio::test(start_paused = true)]
async fn policies_say_what_a_second_run_does() {
    let yaml = |policy: &str| {
        format!(
            "name: w\nconcurrency: {{ policy: {policy} }}\ntasks:\n  a: {{ type: probe, with: {{ does: take 60 }} }}\n"
        )
    };
    for (policy, expected) in [
        ("queue", ["succeeded", "succeeded", "succeeded"]),
        ("latest", ["succeeded", "cancelled", "succeeded"]),
        ("replace", ["cancelled", "cancelled", "succeeded"]),
        ("allow", ["succeeded", "succeeded", "succeeded"]),
        ("reject", ["succeeded", "refused", "refused"]),
    ] {
        let world = World::new().await;
        let mut ended = Vec::new();
        let mut runs = Vec::new();
        for _ in 0..3 {
            runs.push(world.engine.submit(World::submission(&yaml(policy))).await);
        }
        for run in runs {
            ended.push(match run {
                Ok(run) => world.finish(run).await.summary.status,
                Err(SubmitError::Busy(_)) => "refused".into(),
                Err(error) => panic!("{error}"),
            });
        }
        assert_eq!(ended, expected, "{policy}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_and_skip_leave_tasks_out_and_refuse_what_would_read_them() {
    let yaml = "name: w\ntasks:\n  a: { type: probe }\n  b: { type: probe, needs: [a] }\n  c: { type: probe, needs: [b], with: { value: \"${{ tasks.b.outputs.value }}\" } }\n";
    let world = World::new().await;
    let submit = |only: &[&str], skip: &[&str]| {
        let mut submission = World::submission(yaml);
        submission.only = only.iter().map(|s| (*s).to_owned()).collect();
        submission.skip = skip.iter().map(|s| (*s).to_owned()).collect();
        world.engine.submit(submission)
    };
    let run = submit(&["b"], &[]).await.expect("submitted");
    assert_eq!(
        told(&world.finish(run).await),
        "succeeded | a: skipped (not selected), b: succeeded, c: skipped (not selected)"
    );
    // What is left out in the middle lets nothing overtake.
    let slow = "name: v\ntasks:\n  a: { type: probe, with: { does: take 60 } }\n  b: { type: probe, needs: [a] }\n  c: { type: probe, needs: [b] }\n";
    let mut submission = World::submission(slow);
    submission.skip = vec!["b".into()];
    let run = world.engine.submit(submission).await.expect("submitted");
    let view = world.finish(run).await;
    assert_eq!(told(&view), "succeeded | a: succeeded, b: skipped (not selected), c: succeeded");
    assert!(view.tasks[2].started_at >= view.tasks[0].ended_at, "{view:?}");
    for (only, skip, words) in [
        (vec!["c"], vec![], "task `c` reads the outputs of `b`, which is left out"),
        (vec!["x"], vec![], "the workflow has no task `x`"),
        (vec![], vec!["a", "b", "c"], "no task is left"),
    ] {
        let error = submit(&only, &skip).await.expect_err("refused").to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_enters_the_attempt_again_with_its_plan() {
    let journal = Arc::new(MemoryJournal::default());
    let world = World::over(journal.clone()).await;
    let run = world.submit("name: w\ntasks:\n  a: { type: probe, with: { does: take 60 } }\n  b: { type: probe, needs: [a] }\n").await;
    world.until(run, |view| view.tasks[0].phase.is_some()).await;
    world.engine.shutdown().await;
    let again = World::over(journal.clone()).await;
    let view = again.finish(run).await;
    assert_eq!(told(&view), "succeeded | a: succeeded, b: succeeded");
    assert_eq!(again.diary(), ["a 1 plan 0", "b plan", "b 1 plan 0"], "the plan of `a` is not made again");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_acknowledged_and_nothing_starts_when_the_journal_cannot_be_written() {
    let world = World::new().await;
    let run = world.submit("name: w\ntasks:\n  a: { type: probe, with: { does: take 60 } }\n  b: { type: probe, needs: [a] }\n").await;
    world.until(run, |view| view.tasks[0].phase.is_some()).await;
    world.journal.fail_writes();
    let refused = world.engine.submit(World::submission("name: v\ntasks:\n  a: { type: probe }\n")).await;
    assert!(matches!(refused, Err(SubmitError::Journal(_))), "{refused:?}");
    assert!(matches!(world.engine.until_broken().await, journal::Error::Broken(_)));
    assert!(!world.diary().iter().any(|line| line.starts_with("b ")));
    assert!(world.engine.records(run).expect("reads stay alive").len() > 3);

    tokio::time::sleep(Duration::from_secs(200)).await;
    let view = world.engine.view(run).await.expect("reads stay alive").expect("known");
    assert_eq!((view.summary.status.as_str(), view.tasks[0].status.as_str()), ("running", "running"));
    let cancel = world.engine.cancel(run, "ann".into(), None, false).await;
    assert!(matches!(cancel, CancelAnswer::Broken(_)), "{cancel:?}");
    assert!(!world.diary().iter().any(|line| line.starts_with("b ")));

    world.journal.mend();
    let view = world.finish(run).await;
    assert_eq!(told(&view), "succeeded | a: succeeded, b: succeeded");
    assert_eq!(
        world.diary(),
        ["a plan", "a 1 plan 0", "a 1 plan 0", "b plan", "b 1 plan 1"],
        "the attempt is entered again with its plan, as after a restart"
    );
    let later = world.submit("name: v\ntasks:\n  a: { type: probe }\n").await;
    assert_eq!(world.finish(later).await.summary.status, "succeeded", "every handle goes on");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_cannot_write_stops_when_it_is_told_to() {
    let world = World::new().await;
    world.submit("name: w\ntasks:\n  a: { type: probe, with: { does: take 60 } }\n").await;
    world.journal.fail_writes();
    world.engine.until_broken().await;
    world.engine.shutdown().await;
    let refused = world.engine.submit(World::submission("name: v\ntasks:\n  a: { type: probe }\n")).await;
    assert!(matches!(refused, Err(SubmitError::Journal(_) | SubmitError::Stopping)), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_revealed_to_its_task_and_kept_nowhere() {
    let world = World::new().await;
    let run = world.submit("name: w\ntasks:\n  a: { type: probe, with: { does: reveal x, token: \"${{ secrets.token }}\" } }\n").await;
    assert_eq!(world.finish(run).await.summary.status, "succeeded");
    assert!(world.diary().contains(&"token has 12 characters".to_owned()));
    let mut stored = String::new();
    stored.push_str(&format!("{:?}", world.journal.read(run).expect("read")));
    let plan: &Digest = &world.engine.view(run).await.expect("readable").expect("known").tasks[0]
        .plan
        .clone()
        .expect("a plan");
    stored.push_str(&format!("{:?}", world.engine.plan(plan).expect("stored")));
    assert!(stored.contains("⟦secret token⟧") && !stored.contains("s3cr3t"), "{stored}");
}

#[tokio::test(start_paused = true)]
async fn a_waiting_run_starts_the_moment_the_other_ends() {
    let world = World::new().await;
    let yaml = |name: &str| {
        format!("name: {name}\ntasks:\n  a: {{ type: probe, with: {{ does: take 60, lane: gray }} }}\n")
    };
    let first = world.submit(&yaml("one")).await;
    let second = world.submit(&yaml("two")).await;
    // Nobody looks meanwhile: looking would wake the loop.
    tokio::time::sleep(Duration::from_secs(200)).await;
    let ended = world.finish(first).await.summary.ended_at.expect("ended");
    let admitted = world.finish(second).await.admitted_at.expect("admitted");
    assert!(admitted.since(ended) < Duration::from_secs(1), "{ended} {admitted}");
}

#[tokio::test(start_paused = true)]
async fn clean_up_is_tried_again_on_a_cancelled_run_and_a_lost_retry_says_why_it_failed() {
    let world = World::new().await;
    let yaml = "name: w\ntasks:\n  a: { type: probe, with: { does: take 600 } }\n  slow: { type: probe, retry: { attempts: 2, backoff: 1h }, with: { does: trip 1 } }\n  clean: { type: probe, needs: [a], when: \"${{ always() }}\", retry: { attempts: 3 }, with: { does: trip 2 } }\n";
    let run = world.submit(yaml).await;
    world.until(run, |view| view.tasks.iter().any(|task| task.status == "retrying")).await;
    let _ = world.engine.cancel(run, "bob".into(), None, false).await;
    assert_eq!(
        told(&world.finish(run).await),
        "cancelled | a: cancelled (stopped at a safe point), clean: succeeded, slow: cancelled (tripped)"
    );
}

#[tokio::test(start_paused = true)]
async fn a_rollback_is_not_lost_to_a_stop_that_took_longer_than_its_time() {
    let journal = Arc::new(MemoryJournal::default());
    let world = World::over(journal.clone()).await;
    let run = world
        .submit("name: w\ntasks:\n  a: { type: probe, timeout: 1h, with: { does: rollback 5 } }\n")
        .await;
    world.until(run, |view| view.tasks[0].plan.is_some()).await;
    let _ = world.engine.cancel(run, "bob".into(), None, false).await;
    world.engine.shutdown().await;
    let again = World::later(journal, Duration::from_secs(7200)).await;
    assert_eq!(told(&again.finish(run).await), "cancelled | a: cancelled (stopped and rolled back)");
    assert!(again.diary().contains(&"a rolled back".to_owned()), "{:?}", again.diary());
}

/// A random graph: task `i` may only need tasks before it, so it is a DAG; each does something random.
fn graphs() -> impl Strategy<Value = (String, Vec<Vec<usize>>)> {
    let does = prop_oneof![
        4 => Just("succeed x"), 1 => Just("fail x"), 1 => Just("trip 1"), 1 => Just("take 20"), 1 => Just("ignore x"), 1 => Just("panic x"),
    ];
    let extra = prop_oneof![
        5 => Just(""), 1 => Just(", on_failure: continue"), 1 => Just(", when: \"${{ always() }}\""),
        1 => Just(", when: \"${{ failure() }}\""), 1 => Just(", when: \"${{ false }}\""), 1 => Just(", retry: { attempts: 2 }"),
    ];
    prop::collection::vec((does, extra, prop::collection::vec(any::<prop::sample::Index>(), 0..3)), 1..9).prop_map(|tasks| {
        let mut yaml = String::from("name: w\ntasks:\n");
        let mut needs = Vec::new();
        for (at, (does, extra, before)) in tasks.into_iter().enumerate() {
            let mut before: Vec<usize> = if at == 0 { Vec::new() } else { before.iter().map(|i| i.index(at)).collect() };
            before.sort_unstable();
            before.dedup();
            let names: Vec<String> = before.iter().map(|i| format!("t{i}")).collect();
            yaml.push_str(&format!(
                "  t{at}: {{ type: probe, timeout: 10s, needs: [{}]{extra}, with: {{ does: \"{does}\" }} }}\n",
                names.join(", ")
            ));
            needs.push(before);
        }
        (yaml, needs)
    })
}

/// Starts are after the ends of needs; nothing follows on the end of the run; folding again gives the same run.
fn assert_lawful(records: &[Record], needs: &[Vec<usize>]) {
    let mut ended = vec![false; needs.len()];
    let number = |task: &TaskName| task.as_str()[1..].parse::<usize>().expect("a number");
    for (at, record) in records.iter().enumerate() {
        match &record.event {
            Event::AttemptStarted { task, .. } => {
                for need in &needs[number(task)] {
                    assert!(ended[*need], "{task} started before t{need} had ended");
                }
            }
            Event::AttemptSucceeded { task, .. }
            | Event::TaskSkipped { task, .. }
            | Event::TaskFailed { task, .. }
            | Event::TaskCancelled { task, .. }
            | Event::AttemptFailed { task, retry_at: None, .. } => ended[number(task)] = true,
            Event::RunFinished { .. } => assert_eq!(at + 1, records.len(), "a record follows on the end"),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_graphs_obey_the_law_and_always_end((yaml, needs) in graphs(), cancel_at in prop::option::of(0_u64..40), cut_at in prop::option::of(1_usize..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let journal = Arc::new(MemoryJournal::default());
            let mut world = World::over(journal.clone()).await;
            let run = world.submit(&yaml).await;
            if let Some(cut) = cut_at {
                // The daemon dies as soon as so many records are on disk, and comes back.
                while world.engine.records(run).expect("read").len() < cut
                    && world.engine.view(run).await.expect("readable").expect("known").outcome.is_none() {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                world.engine.shutdown().await;
                world = World::over(journal.clone()).await;
            }
            if let Some(seconds) = cancel_at {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                let _ = world.engine.cancel(run, "bob".into(), None, seconds % 2 == 0).await;
            }
            let view = world.finish(run).await;
            let records = world.engine.records(run).expect("read");
            assert_lawful(&records, &needs);
            let replayed = World::over(journal.clone()).await.engine.view(run).await.expect("readable").expect("known");
            assert_eq!(told(&replayed), told(&view));
        });
    }
}
