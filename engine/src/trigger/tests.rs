//! Stories of schedules: a catalogue and a clock in, what became of every slot out. Time is paused; nothing waits.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::watch;

use super::*;
use crate::bundle::WORKFLOW_FILE;
use crate::claim::{self, Claim};
use crate::clock::{Clock, TestClock};
use crate::document::Finding;
use crate::graph::{Graphs, Known as Names, check};
use crate::journal::hooked::{Hook, Hooked};
use crate::journal::{self, Journal, Query, Together};
use crate::ledger::Deed;
use crate::logs::Logs;
use crate::run::{RunSummary, Sourced};
use crate::scheduler::{Actor, Engine, Mode, Parts, Submission};
use crate::task::{Outputs, Plan, Registry, SecretSource, Site, Task, TaskContext, TaskError};

mod soak;

/// Takes as long as it is told, on a lane; holds where it is told.
struct Work;

#[async_trait]
impl Task for Work {
    fn type_name(&self) -> &'static str {
        "work"
    }

    fn summary(&self) -> &'static str {
        "takes some time"
    }

    fn schema(&self) -> Value {
        json!({ "type": "object", "properties": { "seconds": { "type": "integer" }, "holds": { "type": "boolean" }, "stubborn": { "type": "boolean" } }, "additionalProperties": false })
    }

    fn check(&self, _spec: &Value, _site: &Site<'_>) -> Vec<Finding> {
        Vec::new()
    }

    fn claims(&self, _spec: &Value) -> Vec<Claim> {
        vec![Claim::lane("production", "gray", claim::Mode::Write)]
    }

    fn sealed_keys(&self) -> &'static [&'static str] {
        &[]
    }

    fn outputs(&self) -> &'static [&'static str] {
        &[]
    }

    async fn plan(&self, _cx: &TaskContext) -> Result<Plan, TaskError> {
        Ok(Plan::default())
    }

    async fn run(&self, cx: &TaskContext, _plan: &Plan) -> Result<Outputs, TaskError> {
        if cx.spec["holds"] == json!(true) {
            return Err(TaskError::hold("somebody should look"));
        }
        let seconds = cx.spec["seconds"].as_u64().unwrap_or(0);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(seconds)) => Ok(Outputs::default()),
            () = cx.cancel.cancelled(), if cx.spec["stubborn"] != json!(true) => Err(TaskError::transient("stopped")),
        }
    }

    async fn undo(&self, _cx: &TaskContext, _plan: &Plan) -> Result<Outputs, TaskError> {
        Ok(Outputs::default())
    }
}

/// A clock that somebody sets, in both directions.
#[derive(Debug)]
struct Set {
    clock: TestClock,
    millis: AtomicI64,
}

impl Clock for Set {
    fn now(&self) -> Timestamp {
        let by = self.millis.load(Ordering::SeqCst);
        Timestamp::from_millis(self.clock.now().millis().saturating_add_signed(by))
    }

    fn random(&self) -> u64 {
        self.clock.random()
    }
}

/// Lets so many writes through and then no more, as where the power fails.
#[derive(Default)]
struct Failing(AtomicU64);

impl Hook for Failing {
    fn admit(&self, _together: &Together) -> Result<(), journal::Error> {
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| journal::Error::Broken("the power is off".into()))
    }

    fn reopen(&self) -> Result<(), journal::Error> {
        Err(journal::Error::Broken("the power is off".into()))
    }
}

struct NoSecrets;

impl SecretSource for NoSecrets {
    fn read(&self, _name: &str) -> Result<String, String> {
        Err("there are none".into())
    }
}

/// What outlives a restart.
struct World {
    journal: Arc<Hooked<Failing>>,
    clock: Arc<Set>,
    publish: watch::Sender<Arc<Catalogue>>,
    options: Options,
    on: Option<(Engine, Driver)>,
}

fn registry() -> Arc<Registry> {
    let mut registry = Registry::default();
    registry.add(Work);
    registry.add(crate::approval::Approval);
    Arc::new(registry)
}

fn at(text: &str) -> Timestamp {
    let text = if text.len() == 16 { format!("{text}:00Z") } else { format!("{text}Z") };
    text.parse().expect("a time")
}

fn uid() -> WorkflowUid {
    "team/release".parse().expect("a workflow")
}

/// A workflow with one schedule, `more` of it, and what its task does.
fn yaml(cron: &str, more: &str, task: &str) -> String {
    format!(
        "name: release\ntriggers:\n  - {{ name: s, cron: \"{cron}\"{more} }}\ntasks:\n  a: {{ type: work, timeout: 3h, with: {{ {task} }} }}\n"
    )
}

/// A catalogue of one source with these workflows.
fn catalogue(files: &[&str]) -> Arc<Catalogue> {
    let mut catalogue = Catalogue::default();
    let source =
        Source { place: "workflows".into(), read_at: Some(at("2026-01-01T00:00")), ..Source::default() };
    catalogue.sources.insert("team".parse().expect("a source"), source);
    for yaml in files {
        let mut bundle = Bundle::default();
        bundle.add(WORKFLOW_FILE, *yaml);
        let checked = check(
            WORKFLOW_FILE,
            yaml.as_bytes(),
            &registry(),
            &Names::default(),
            Site { workflow: None, files: &bundle },
        );
        let graph = checked.graph.unwrap_or_else(|| panic!("{yaml}: {:?}", checked.problems));
        let uid = WorkflowUid { source: "team".parse().expect("a source"), name: graph.name.clone() };
        let good = Good {
            revision: graph.revision.clone(),
            sourced: Sourced {
                name: "team".parse().expect("a source"),
                path: "release.yaml".into(),
                commit: None,
            },
            since: at("2026-01-01T00:00"),
            graph: Arc::new(graph),
            bundle: Arc::new(bundle),
        };
        let known = Known { path: "release.yaml".into(), good: Some(good), problems: Vec::new() };
        catalogue.workflows.insert(uid, known);
    }
    Arc::new(catalogue)
}

impl World {
    /// At this moment, nothing on yet.
    fn new(now: &str, files: &[&str]) -> World {
        World::on(u64::MAX, now, files)
    }

    /// The same, over a journal that takes so many writes.
    fn on(writes: u64, now: &str, files: &[&str]) -> World {
        let clock = TestClock::new(7);
        let by = i64::try_from(at(now).millis()).expect("small")
            - i64::try_from(clock.now().millis()).expect("small");
        World {
            journal: Arc::new(Hooked::new(Failing(AtomicU64::new(writes)))),
            clock: Arc::new(Set { clock, millis: AtomicI64::new(by) }),
            publish: watch::channel(catalogue(files)).0,
            options: Options::default(),
            on: None,
        }
    }

    async fn start(&mut self) {
        let parts = Parts {
            journal: self.journal.clone(),
            registry: registry(),
            clock: self.clock.clone(),
            secrets: Arc::new(NoSecrets),
            logs: Logs::none(),
            graphs: Graphs::default(),
            threads: None,
        };
        let engine = Engine::start(parts, Mode::Work).await.expect("started");
        let driver = Driver::start(engine.clone(), self.publish.subscribe(), self.options.clone());
        self.on = Some((engine, driver));
    }

    async fn stop(&mut self) {
        if let Some((engine, driver)) = self.on.take() {
            driver.stop().await;
            engine.shutdown().await;
        }
    }

    fn engine(&self) -> &Engine {
        &self.on.as_ref().expect("on").0
    }

    /// Time goes on, with everything that happens in it.
    async fn until(&self, moment: &str) {
        tokio::time::sleep(at(moment).since(self.clock.now())).await;
        // What is due at this very moment is done too.
        tokio::time::sleep(Duration::from_millis(400)).await;
    }

    /// The clock is set, and nothing happens in between.
    fn set(&self, moment: &str) {
        let now = i64::try_from(self.clock.now().millis()).expect("small");
        let to = i64::try_from(at(moment).millis()).expect("small");
        self.clock.millis.fetch_add(to - now, Ordering::SeqCst);
    }

    fn publish(&self, files: &[&str]) {
        self.publish.send_replace(catalogue(files));
    }

    async fn deed(&self, deed: Deed) {
        self.engine().deed(deed).await.expect("done");
    }

    fn lines(&self) -> Vec<SlotLine> {
        slots(&*self.journal, &SlotQuery { limit: 100_000, ..SlotQuery::default() }).expect("read")
    }

    /// What became of slots, oldest first: `hour:minute outcome`, or `first..last count outcome`.
    fn told(&self) -> String {
        let mut lines = self.lines();
        lines.reverse();
        let short = |at: Timestamp| at.to_string()[11..16].to_owned();
        let told = lines.iter().map(|line| {
            if line.from == line.to {
                format!("{} {}", short(line.from), line.outcome)
            } else {
                format!("{}..{} {} {}", short(line.from), short(line.to), line.count, line.outcome)
            }
        });
        told.collect::<Vec<_>>().join(", ")
    }

    /// The counts of the one schedule agree with what its slots tell.
    fn accounts(&self) {
        let mut told: BTreeMap<String, u64> = BTreeMap::new();
        for line in self.lines() {
            if !["pending", "queued"].contains(&line.outcome.as_str()) {
                *told.entry(line.outcome.clone()).or_default() += line.count;
            }
        }
        let mut counted: BTreeMap<String, u64> = BTreeMap::new();
        for line in schedules(&*self.journal).expect("read") {
            for (outcome, count) in line.counts {
                *counted.entry(outcome).or_default() += count;
            }
        }
        counted.retain(|_, count| *count > 0);
        assert_eq!(told, counted);
    }

    fn runs(&self) -> Vec<RunSummary> {
        self.journal.list(&Query { limit: 100_000, ..Query::default() }).expect("read").runs
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_fires_at_its_moment_and_its_run_knows_it() {
    let file = "name: release\ninputs:\n  who: { type: string, required: true }\ntriggers:\n  - { name: s, cron: \"0 * * * *\", timezone: Europe/Berlin, inputs: { who: night } }\ntasks:\n  a: { type: work, when: \"${{ run.trigger == 'schedule' && run.nominal == '2026-05-10T11:00:00.000Z' && run.actual >= run.nominal && inputs.who == 'night' }}\" }\n";
    let mut world = World::new("2026-05-10T10:30", &[file]);
    world.start().await;
    world.until("2026-05-10T12:10").await;
    assert_eq!(world.told(), "11:00 fired, 12:00 fired");
    let (second, first) = (&world.runs()[0], &world.runs()[1]);
    let view = world.engine().view(first.id).await.expect("read").expect("known");
    assert_eq!((view.summary.trigger.as_str(), view.summary.actor.as_str()), ("schedule", "graylane"));
    assert_eq!(view.tasks[0].status, "succeeded", "the expression saw its slot");
    let slot = view.slot.expect("a slot");
    assert_eq!(
        (slot.nominal, slot.catchup, slot.tzdata.as_str()),
        (at("2026-05-10T11:00"), false, crate::schedule::TZDATA)
    );
    let late = slot.actual.since(slot.nominal);
    assert!(late < Duration::from_millis(50), "it starts at its moment: {late:?} late");
    let other = world.engine().view(second.id).await.expect("read").expect("known");
    assert_eq!(other.tasks[0].status, "skipped", "the control: another slot is not that one");
    world.accounts();
    let line = &schedules(&*world.journal).expect("read")[0];
    assert_eq!(line.next, Some(at("2026-05-10T13:00")));
    assert_eq!((line.schedule.as_str(), line.timezone.as_str()), ("team/release/s", "Europe/Berlin"));
}

#[tokio::test(start_paused = true)]
async fn a_new_schedule_and_a_changed_one_never_fire_for_the_past() {
    let mut world = World::new("2026-05-10T11:00:02", &[&yaml("0 * * * *", "", "")]);
    world.start().await;
    world.until("2026-05-10T11:30").await;
    assert_eq!(world.told(), "", "it is new, and two seconds late is past");
    // In the very second in which the old one fires, and the new one would have fired a minute ago.
    world.until("2026-05-10T11:59:59").await;
    world.set("2026-05-10T12:00");
    world.publish(&[&yaml("59 * * * *", "", "")]);
    world.until("2026-05-10T12:10").await;
    let told = world.told();
    assert!(
        ["12:00 fired", "12:00 skipped(missed)"].contains(&told.as_str()),
        "one outcome, and no other slot: {told}"
    );
    world.until("2026-05-10T13:10").await;
    assert_eq!(world.told(), format!("{told}, 12:59 fired"));
    // The same expression in another zone is another schedule too.
    world.publish(&[&yaml("59 * * * *", ", timezone: Asia/Kathmandu", "")]);
    world.until("2026-05-10T14:10").await;
    assert_eq!(world.told(), format!("{told}, 12:59 fired, 13:14 fired"));
    // And so is one that comes back after it was gone.
    world.publish(&[]);
    world.until("2026-05-10T16:00").await;
    assert!(schedules(&*world.journal).expect("read")[0].gone.is_some());
    world.publish(&[&yaml("59 * * * *", ", timezone: Asia/Kathmandu", "")]);
    world.until("2026-05-10T16:20").await;
    assert_eq!(world.told(), format!("{told}, 12:59 fired, 13:14 fired, 16:14 fired"));
    world.accounts();
}

#[tokio::test(start_paused = true)]
async fn a_source_that_cannot_be_read_ends_no_schedule() {
    let file = yaml("0 * * * *", "", "");
    let mut world = World::new("2026-05-10T10:30", &[&file]);
    world.start().await;
    world.until("2026-05-10T10:40").await;
    let mut empty = Catalogue::clone(&catalogue(&[]));
    let source = empty.sources.values_mut().next().expect("a source");
    source.problem = Some("it is not mounted".into());
    world.publish.send_replace(Arc::new(empty));
    world.until("2026-05-10T12:30").await;
    let now = world.clock.now();
    for known in [catalogue(&[&file]), world.publish.borrow().clone()] {
        let figures = figures(&*world.journal, &known, now, |_| true).expect("read");
        let oldest = figures.oldest_undecided.expect("undecided, whether its file is known or not");
        assert_eq!((oldest.slot, oldest.due), (at("2026-05-10T11:00"), at("2026-05-10T11:00")));
        assert_eq!((figures.schedules, oldest.schedule.as_str(), oldest.why), (1, "team/release/s", None));
    }
    let others = figures(&*world.journal, &catalogue(&[&file]), now, |_| false).expect("read");
    assert_eq!((others.schedules, others.oldest_undecided), (0, None));
    world.publish(&[&file]);
    world.until("2026-05-10T13:30").await;
    assert_eq!(world.told(), "11:00..12:00 2 skipped(missed), 13:00 fired");
    world.accounts();
}

#[tokio::test(start_paused = true)]
async fn three_days_of_downtime_are_what_missed_says() {
    for (missed, expected, counts) in [
        ("skip", "11:00..10:00 72 skipped(missed), 11:00 fired", "skipped(missed) 72"),
        ("latest", "11:00..09:00 71 skipped(missed), 10:00 caught_up, 11:00 fired", "caught_up 1"),
        (
            "all, max_catchup: 3",
            "11:00..07:00 69 skipped(missed), 08:00 caught_up, 09:00 caught_up, 10:00 caught_up, 11:00 fired",
            "caught_up 3",
        ),
    ] {
        let file = yaml("0 * * * *", &format!(", missed: {missed}"), "seconds: 60");
        let mut world = World::new("2026-05-10T10:30", &[&file]);
        world.start().await;
        world.until("2026-05-10T10:40").await;
        world.stop().await;
        world.set("2026-05-13T10:30");
        world.start().await;
        world.until("2026-05-13T11:20").await;
        assert_eq!(world.told(), expected, "{missed}");
        world.accounts();
        let counted = schedules(&*world.journal).expect("read").remove(0).counts;
        let (outcome, count) = counts.rsplit_once(' ').expect("two words");
        assert_eq!(counted[outcome].to_string(), count, "{missed}");
        // Late ones go one by one, oldest first, and know both times.
        let mut late: Vec<RunSummary> =
            world.runs().into_iter().filter(|run| run.trigger == "catchup").collect();
        late.reverse();
        let mut ended = Timestamp::from_millis(0);
        let mut last = Timestamp::from_millis(0);
        for run in late {
            assert!(run.submitted_at >= ended, "one by one");
            ended = run.ended_at.expect("ended");
            let view = world.engine().view(run.id).await.expect("read").expect("known");
            let slot = view.slot.expect("a slot");
            assert!(slot.nominal > last && slot.actual > slot.nominal.plus(Duration::from_secs(1_700)));
            last = slot.nominal;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_slot_waits_for_the_run_in_its_way_as_long_as_its_window() {
    for (window, expected) in [("2h", "11:00 caught_up"), ("45m", "11:00 skipped(missed)")] {
        let file =
            yaml("0 11 * * *", &format!(", missed: latest, catchup_window: {window}"), "seconds: 2400");
        let mut world = World::new("2026-05-10T10:30", &[&file]);
        world.start().await;
        world.until("2026-05-10T10:40").await;
        world.stop().await;
        world.set("2026-05-10T11:20");
        // Somebody's run of the same workflow is first, and takes forty minutes.
        let alone = world.publish.send_replace(catalogue(&[]));
        world.start().await;
        let good = alone.workflows[&uid()].good.clone().expect("good");
        let submission = Submission {
            bundle: Bundle::clone(&good.bundle),
            inputs: serde_json::Map::new(),
            only: Vec::new(),
            skip: Vec::new(),
            from: None,
            source: None,
            actor: "ann".into(),
            trigger: crate::run::Trigger::Manual,
            vars: BTreeMap::new(),
            secrets: BTreeSet::new(),
            key: None,
        };
        // Before the driver has looked at all.
        let mut unread = Catalogue::clone(&catalogue(&[]));
        unread.sources.values_mut().for_each(|source| source.read_at = None);
        world.publish.send_replace(Arc::new(unread));
        world.engine().submit(submission).await.expect("submitted");
        world.publish.send_replace(alone);
        world.until("2026-05-10T11:30").await;
        if window == "2h" {
            assert_eq!(world.told(), "11:00 pending");
        }
        world.until("2026-05-10T13:30").await;
        assert_eq!(world.told(), expected, "{window}");
        world.accounts();
    }
}

fn pause(paused: bool) -> Deed {
    let (workflow, by, reason) = (uid(), "ann".to_owned(), None);
    if paused {
        Deed::WorkflowPaused { workflow, by, reason }
    } else {
        Deed::WorkflowUnpaused { workflow, by, reason }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_covers_its_slots_also_over_a_restart_and_nothing_is_made_up_for() {
    let mut world = World::new("2026-05-10T10:30", &[&yaml("0 * * * *", ", missed: all", "")]);
    world.start().await;
    world.until("2026-05-10T11:30").await;
    world.deed(pause(true)).await;
    world.until("2026-05-10T13:30").await;
    world.stop().await;
    world.set("2026-05-10T15:59:50");
    world.start().await;
    world.until("2026-05-10T15:59:58").await;
    world.deed(pause(false)).await;
    world.until("2026-05-10T16:30").await;
    assert_eq!(world.told(), "11:00 fired, 12:00..15:00 4 skipped(paused), 16:00 fired");
    // Unpaused a moment after a slot: it was paused, and does not fire.
    world.deed(pause(true)).await;
    world.stop().await;
    world.set("2026-05-10T17:00:01");
    world.start().await;
    world.deed(pause(false)).await;
    world.until("2026-05-10T18:30").await;
    assert_eq!(
        world.told(),
        "11:00 fired, 12:00..15:00 4 skipped(paused), 16:00 fired, 17:00 skipped(paused), 18:00 fired"
    );
    world.accounts();
}

#[tokio::test(start_paused = true)]
async fn overlap_is_judged_by_the_policy_over_runs_as_they_are() {
    // Each run takes ninety minutes, and a slot is due every hour.
    for (policy, expected) in [
        ("", "11:00 fired, 12:00 skipped(overlap), 13:00 fired, 14:00 skipped(overlap)"),
        (", policy: reject", "11:00 fired, 12:00 skipped(overlap), 13:00 fired, 14:00 skipped(overlap)"),
        (", policy: queue", "11:00 fired, 12:00 fired, 13:00 fired, 14:00 queued"),
        (", policy: latest", "11:00 fired, 12:00 fired, 13:00 fired, 14:00 queued"),
        (", policy: replace", "11:00 fired, 12:00 fired, 13:00 fired, 14:00 fired"),
    ] {
        let mut world = World::new("2026-05-10T10:30", &[&yaml("0 * * * *", policy, "seconds: 5390")]);
        world.start().await;
        world.until("2026-05-10T14:01").await;
        assert_eq!(world.told(), expected, "{policy}");
        world.accounts();
    }
    // Every twenty minutes: of those that wait, the newest stays; under `replace` each is a bounded cancel.
    for (policy, expected) in [
        ("latest", "11:00 fired, 11:20 skipped(superseded), 11:40 skipped(superseded), 12:00 queued"),
        ("replace", "11:00 fired, 11:20 fired, 11:40 fired, 12:00 fired"),
    ] {
        let policy = format!(", policy: {policy}");
        let mut world = World::new("2026-05-10T10:50", &[&yaml("*/20 * * * *", &policy, "seconds: 5390")]);
        world.start().await;
        world.until("2026-05-10T12:05").await;
        assert_eq!(world.told(), expected, "{policy}");
        world.accounts();
    }
    // A run that takes its time to stop: those that wait for its end are replaced in their turn.
    let file = yaml("* * * * *", ", policy: replace", "seconds: 5400, stubborn: true");
    let mut world = World::new("2026-05-10T10:58:30", &[&file]);
    world.start().await;
    world.until("2026-05-10T11:01:10").await;
    assert_eq!(world.told(), "10:59 fired, 11:00 fired, 11:01 queued", "a bounded cancel");
    world.accounts();
    // The policy of the file holds where the trigger names none.
    let file = "name: release\nconcurrency: { policy: queue }\ntriggers: [{ name: s, cron: \"0 * * * *\" }]\ntasks:\n  a: { type: work, timeout: 3h, with: { seconds: 5390 } }\n";
    let mut world = World::new("2026-05-10T10:30", &[file]);
    world.start().await;
    world.until("2026-05-10T12:10").await;
    assert_eq!(world.told(), "11:00 fired, 12:00 queued");
}

#[tokio::test(start_paused = true)]
async fn a_run_on_hold_is_in_the_way_until_somebody_answers_or_it_expires() {
    let file = "name: release\ntriggers: [{ name: s, cron: \"0 * * * *\" }]\ntasks:\n  a: { type: work, with: { holds: true } }\n";
    let mut world = World::new("2026-05-10T10:30", &[file]);
    world.start().await;
    world.until("2026-05-11T10:30").await;
    let told = world.told();
    assert_eq!(told, "11:00 fired, 12:00..10:00 23 skipped(overlap)", "one range, however long it waits");
    let why = world.lines()[0].why.clone().expect("a reason");
    assert!(why.contains(&world.runs()[0].id.to_string()) && why.contains("release"), "{why}");
    let held = world.runs()[0].id;
    let actor = Actor { name: "ann".into(), roles: Vec::new(), authenticated: false };
    let answer = world.engine().answer_hold(held, None, crate::run::HoldAnswer::Fail, actor, None).await;
    assert!(matches!(answer, crate::scheduler::PersonAnswer::Taken(_)), "{answer:?}");
    // And the next one expires by itself, after a day.
    world.until("2026-05-12T11:30").await;
    assert_eq!(world.told(), format!("{told}, 11:00 fired, 12:00..10:00 23 skipped(overlap), 11:00 fired"));
    world.accounts();
}

fn freeze(frozen: bool) -> Deed {
    let (environment, by) = ("production".to_owned(), "ann".to_owned());
    if frozen {
        Deed::EnvironmentFrozen {
            environment,
            by,
            reason: "sale".into(),
            until: Some(at("2026-05-10T14:30")),
        }
    } else {
        Deed::EnvironmentThawed { environment, by, reason: None }
    }
}

#[tokio::test(start_paused = true)]
async fn a_freeze_skips_slots_and_defer_starts_the_last_when_it_ends() {
    for (more, expected) in [
        ("", "11:00 fired, 12:00..14:00 3 skipped(freeze), 15:00 fired"),
        (", defer: true", "11:00 fired, 12:00..13:00 2 skipped(freeze), 14:00 caught_up, 15:00 fired"),
        (", defer: true, catchup_window: 10m", "11:00 fired, 12:00..14:00 3 skipped(freeze), 15:00 fired"),
    ] {
        // By a deed that ends by itself, and by a window of the operator's file.
        for by_deed in [true, false] {
            let mut world = World::new("2026-05-10T10:30", &[&yaml("0 * * * *", more, "")]);
            if !by_deed {
                let (from, until) = (at("2026-05-10T11:30"), at("2026-05-10T14:30"));
                world.options.frozen = Arc::new(move |_, environment, now| {
                    (environment == "production" && from <= now && now < until).then(|| "sale".to_owned())
                });
            }
            world.start().await;
            world.until("2026-05-10T11:30").await;
            if by_deed {
                world.deed(freeze(true)).await;
            }
            world.until("2026-05-10T13:30").await;
            world.stop().await;
            world.start().await;
            world.until("2026-05-10T15:10").await;
            assert_eq!(world.told(), expected, "{more}, by a deed: {by_deed}");
            let why = world.lines().into_iter().find_map(|line| line.why).expect("a reason");
            assert!(why.contains("production is frozen: sale") || why.contains("catch-up window"), "{why}");
            world.accounts();
        }
    }
    let mut world = World::new("2026-05-10T10:30", &[&yaml("0 * * * *", ", defer: true", "")]);
    world.start().await;
    world.until("2026-05-10T10:31").await;
    world.deed(freeze(true)).await;
    world.until("2026-05-10T11:20").await;
    assert_eq!(world.told(), "11:00 pending");
    let figures =
        figures(&*world.journal, &world.publish.borrow(), world.clock.now(), |_| true).expect("read");
    let oldest = figures.oldest_undecided.expect("it waits");
    assert_eq!(
        (oldest.slot, oldest.why.as_deref()),
        (at("2026-05-10T11:00"), Some("it starts when the freeze ends"))
    );
    world.deed(freeze(false)).await;
    world.until("2026-05-10T11:21").await;
    assert_eq!(world.told(), "11:00 caught_up", "a thaw is noticed at once");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_steps_back_fires_nothing_twice() {
    // Two hours back, while it runs and over a restart; four minutes back is nothing at all.
    for (restart, to) in
        [(false, "2026-05-10T12:10"), (true, "2026-05-10T12:10"), (false, "2026-05-10T14:06")]
    {
        let mut world = World::new("2026-05-10T10:30", &[&yaml("0 * * * *", "", "")]);
        world.start().await;
        world.until("2026-05-10T14:10").await;
        assert_eq!(world.told(), "11:00 fired, 12:00 fired, 13:00 fired, 14:00 fired");
        if restart {
            world.stop().await;
        }
        world.set(to);
        if restart {
            world.start().await;
        }
        world.until("2026-05-10T15:10").await;
        assert_eq!(world.told(), "11:00 fired, 12:00 fired, 13:00 fired, 14:00 fired, 15:00 fired", "{to}");
        assert_eq!(world.runs().len(), 5);
        let reset = world.engine().deeds().expect("read").len();
        assert_eq!(reset, usize::from(to != "2026-05-10T14:06"), "the alarm is a deed");
        world.accounts();
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_ahead_is_downtime_and_what_it_skipped_comes_again_when_it_is_mended() {
    let mut world = World::new("2026-05-10T10:30", &[&yaml("0 * * * *", "", "")]);
    world.start().await;
    world.until("2026-05-10T11:10").await;
    world.set("2026-05-10T14:02");
    world.until("2026-05-10T14:03").await;
    assert_eq!(world.told(), "11:00 fired, 12:00..13:00 2 skipped(missed), 14:00 fired");
    world.set("2026-05-10T11:20");
    world.until("2026-05-10T12:10").await;
    assert_eq!(
        world.told(),
        "11:00 fired, 12:00 fired, 14:00 fired",
        "what the wrong clock skipped is open again"
    );
    world.until("2026-05-10T15:10").await;
    assert_eq!(world.told(), "11:00 fired, 12:00 fired, 13:00 fired, 14:00 fired, 15:00 fired");
    assert_eq!(world.runs().len(), 5, "the run of 14:00 is the one that the wrong clock started");
    world.accounts();
    // A range that lies on both sides of the mended time is cut.
    world.stop().await;
    world.set("2026-05-10T20:30");
    world.start().await;
    world.until("2026-05-10T20:31").await;
    world.set("2026-05-10T17:30");
    world.until("2026-05-10T18:10").await;
    assert_eq!(
        world.told(),
        "11:00 fired, 12:00 fired, 13:00 fired, 14:00 fired, 15:00 fired, 16:00..17:00 2 skipped(missed), 18:00 fired"
    );
    world.accounts();
}

#[tokio::test(start_paused = true)]
async fn wherever_the_power_fails_every_slot_has_one_outcome_and_one_run() {
    let file = yaml("*/20 * * * *", ", missed: all, policy: queue", "seconds: 90");
    let mut writes = 0;
    loop {
        let mut world = World::on(writes, "2026-05-10T10:50", &[&file]);
        world.start().await;
        world.until("2026-05-10T11:45").await;
        world.stop().await;
        // Downtime belongs to the story: what is made up for is cut too.
        world.set("2026-05-10T13:02");
        world.start().await;
        world.until("2026-05-10T13:30").await;
        world.stop().await;
        let whole = world.journal.hook.0.swap(u64::MAX, Ordering::SeqCst) > 0;
        world.set("2026-05-10T13:31");
        world.start().await;
        world.until("2026-05-10T14:10").await;
        let mut slots: BTreeMap<String, String> = BTreeMap::new();
        for line in world.lines() {
            assert_eq!(line.count, 1, "cut after {writes} writes: {line:?}");
            let name = line.from.to_string()[11..16].to_owned();
            let before = slots.insert(name, line.outcome.clone());
            assert_eq!(before, None, "cut after {writes} writes: two outcomes of {}", line.from);
        }
        world.accounts();
        assert_eq!(world.runs().len(), slots.len(), "cut after {writes} writes: a run each");
        let all = ["11:00", "11:20", "11:40", "12:00", "12:20", "12:40", "13:00", "13:20", "13:40", "14:00"];
        // A schedule that is not on disk yet is new after the restart.
        let wanted = if writes == 0 { &all[8..] } else { &all[..] };
        assert_eq!(slots.keys().collect::<Vec<_>>(), wanted, "cut after {writes} writes");
        let late =
            |slots: &BTreeMap<String, String>| slots.values().filter(|word| *word == "caught_up").count();
        let fired = slots.values().filter(|word| *word == "fired").count();
        assert_eq!(fired + late(&slots), slots.len(), "cut after {writes} writes: {slots:?}");
        if whole {
            assert_eq!(late(&slots), 3, "{slots:?}");
            break;
        }
        writes += 1;
    }
    assert!(writes > 15, "the story has {writes} writes");
}

#[tokio::test(start_paused = true)]
async fn two_drivers_over_one_engine_fire_no_slot_twice() {
    let mut world = World::new("2026-05-10T10:50", &[&yaml("*/5 * * * *", "", "seconds: 30")]);
    world.start().await;
    let engine = world.engine().clone();
    let others: Vec<Driver> = (0..3)
        .map(|_| Driver::start(engine.clone(), world.publish.subscribe(), world.options.clone()))
        .collect();
    world.until("2026-05-10T11:51").await;
    assert_eq!(world.runs().len(), 12);
    assert!(world.lines().iter().all(|line| line.outcome == "fired"), "{}", world.told());
    world.accounts();
    for other in others {
        other.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_whose_run_cannot_be_made_says_why() {
    let file = "name: release\ninputs:\n  n: { type: string, default: x }\ntriggers: [{ name: s, cron: \"0 * * * *\" }]\ntasks:\n  a: { type: work, when: \"${{ vars.gone == 'x' }}\" }\n";
    let mut world = World::new("2026-05-10T10:30", &[&yaml("0 * * * *", "", "")]);
    // A bundle that this version does not read, as a file that was written by hand may give.
    let mut broken = Catalogue::clone(&world.publish.borrow());
    let mut bundle = Bundle::default();
    bundle.add(WORKFLOW_FILE, file);
    let good = broken.workflows.get_mut(&uid()).and_then(|known| known.good.as_mut()).expect("good");
    good.bundle = Arc::new(bundle);
    world.publish.send_replace(Arc::new(broken));
    world.start().await;
    world.until("2026-05-10T12:10").await;
    assert_eq!(world.told(), "11:00..12:00 2 skipped(refused)");
    let why = world.lines()[0].why.clone().expect("a reason");
    assert!(why.contains("variable `gone`"), "{why}");
    world.accounts();
}

#[tokio::test(start_paused = true)]
async fn skips_are_told_once_a_range() {
    let mut world = World::new("2026-05-10T10:30", &[&yaml("*/10 * * * *", "", "seconds: 5390")]);
    world.start().await;
    let mut updates = world.engine().watch();
    world.until("2026-05-10T13:00:30").await;
    let mut news = Vec::new();
    while let Ok(update) = updates.try_recv() {
        if let crate::scheduler::Update::Slot(slot) = update {
            news.push(slot.skipped.skip);
        }
    }
    assert_eq!(news.len(), 2, "of sixteen: {}", world.told());
    let figures =
        figures(&*world.journal, &world.publish.borrow(), world.clock.now(), |_| true).expect("read");
    assert_eq!(figures.outcomes["skipped(overlap)"], 13, "{}", world.told());
    assert_eq!((figures.outcomes["fired"], figures.oldest_undecided), (2, None));
}

#[tokio::test]
async fn a_second_process_cannot_decide_slots_of_the_same_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let _held = journal::DiskJournal::open(folder.path()).expect("opened");
    assert!(matches!(journal::DiskJournal::open(folder.path()), Err(journal::OpenError::Locked { .. })));
}
