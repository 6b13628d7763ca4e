//! The engine against a small reference model: random workflows, random people, crashes and clocks that jump.
//!
//! The model is a judge. It follows the journal record by record and knows the law of states in its simplest form: no
//! frontier, no tally, no shared code with the fold. A record that the law does not allow is a counter-example, printed
//! with the workflows, what was done to them, and every record up to it.

use std::fmt::Write as _;
use std::sync::atomic::AtomicI64;

use super::*;
use crate::journal::Together;
use crate::journal::hooked::{Hook, Hooked};
use crate::run::{Consent, HoldAnswer, Origin, Skipped};

/// Keeps the order over all runs.
#[derive(Default)]
struct Tape(Mutex<Vec<Record>>);

impl Hook for Tape {
    fn written(&self, together: &Together) {
        self.0.lock().expect("a tape").extend(together.records.iter().cloned());
    }
}

/// A clock that somebody sets, in both directions.
#[derive(Debug)]
struct Jumping {
    clock: TestClock,
    seconds: AtomicI64,
}

impl Clock for Jumping {
    fn now(&self) -> Timestamp {
        let by = self.seconds.load(Ordering::SeqCst);
        let now = self.clock.now().millis();
        Timestamp::from_millis(now.saturating_add_signed(by * 1_000))
    }

    fn random(&self) -> u64 {
        self.clock.random()
    }
}

#[derive(Debug, Clone)]
struct TaskSpec {
    needs: Vec<usize>,
    does: &'static str,
    on_failure: &'static str,
    when: Option<&'static str>,
    retry: u32,
    lane: Option<&'static str>,
    service: Option<&'static str>,
}

impl TaskSpec {
    fn approval(&self) -> bool {
        self.does == "approval"
    }

    /// The service that it claims; an approval claims nothing.
    fn claims(&self) -> Option<&'static str> {
        self.service.filter(|_| !self.approval())
    }

    fn cleans_up(&self) -> bool {
        self.when.is_some_and(|when| when != "false")
    }
}

#[derive(Debug, Clone)]
struct Workflow {
    undo: bool,
    tasks: Vec<TaskSpec>,
}

impl Workflow {
    fn yaml(&self, number: usize) -> String {
        let mut yaml =
            format!("name: w{number}\n{}tasks:\n", if self.undo { "undo: on-failure\n" } else { "" });
        for (at, task) in self.tasks.iter().enumerate() {
            let needs: Vec<String> = task.needs.iter().map(|need| format!("t{need}")).collect();
            let mut with = String::new();
            if !task.approval() {
                let _ = write!(with, " does: \"{}\"", task.does);
                for (key, value) in [("lane", task.lane), ("service", task.service)] {
                    if let Some(value) = value {
                        let _ = write!(with, ", {key}: {value}");
                    }
                }
            }
            let when = task.when.map(|when| format!(", when: \"${{{{ {when} }}}}\"")).unwrap_or_default();
            let _ = writeln!(
                yaml,
                "  t{at}: {{ type: {}, timeout: 10s, needs: [{}], on_failure: {}, retry: {{ attempts: {} }}{when}, with: {{{with} }} }}",
                if task.approval() { "approval" } else { "probe" },
                needs.join(", "),
                task.on_failure,
                task.retry,
            );
        }
        yaml
    }

    fn before(&self, task: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut stack = self.tasks[task].needs.clone();
        while let Some(need) = stack.pop() {
            if found.insert(need) {
                stack.extend(&self.tasks[need].needs);
            }
        }
        found
    }
}

/// What is done to the runs, one after the other.
#[derive(Debug, Clone)]
enum Deed {
    Submit(usize),
    Cancel(prop::sample::Index, bool),
    Hold(prop::sample::Index, HoldAnswer),
    Consent(prop::sample::Index, bool),
    /// The daemon dies and comes back.
    Crash,
    /// Somebody sets the clock, by so many seconds.
    Jump(i64),
}

fn workflows() -> impl Strategy<Value = Vec<Workflow>> {
    let does = prop_oneof![
        5 => Just("succeed x"), 2 => Just("fail x"), 1 => Just("trip 1"), 2 => Just("take 20"), 2 => Just("take 5"),
        1 => Just("ignore x"), 1 => Just("panic x"), 1 => Just("hold 1"), 2 => Just("approval"), 1 => Just("rollback 5"),
    ];
    let on_failure = prop_oneof![5 => Just("stop"), 1 => Just("continue"), 2 => Just("hold")];
    let when = prop_oneof![6 => Just(None), 1 => Just(Some("always()")), 1 => Just(Some("failure()")), 1 => Just(Some("false"))];
    let lane = prop_oneof![4 => Just(None), 1 => Just(Some("gray")), 1 => Just(Some("blue"))];
    let service = prop_oneof![3 => Just(None), 1 => Just(Some("a")), 1 => Just(Some("b"))];
    let task = (
        does,
        on_failure,
        when,
        1_u32..3,
        lane,
        service,
        prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    );
    let workflow = (any::<bool>(), prop::collection::vec(task, 1..7)).prop_map(|(undo, tasks)| {
        let tasks = tasks.into_iter().enumerate().map(
            |(at, (does, on_failure, when, retry, lane, service, before))| {
                let mut needs: Vec<usize> =
                    if at == 0 { Vec::new() } else { before.iter().map(|i| i.index(at)).collect() };
                needs.sort_unstable();
                needs.dedup();
                TaskSpec { needs, does, on_failure, when, retry, lane, service }
            },
        );
        Workflow { undo, tasks: tasks.collect() }
    });
    prop::collection::vec(workflow, 1..4)
}

fn deeds() -> impl Strategy<Value = Vec<(u64, Deed)>> {
    let answer = prop_oneof![
        2 => Just(HoldAnswer::Retry), 1 => Just(HoldAnswer::Skip), 1 => Just(HoldAnswer::Fail), 1 => Just(HoldAnswer::Undo),
    ];
    let deed = prop_oneof![
        4 => (0_usize..3).prop_map(Deed::Submit),
        2 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(run, now)| Deed::Cancel(run, now)),
        3 => (any::<prop::sample::Index>(), answer).prop_map(|(run, answer)| Deed::Hold(run, answer)),
        3 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(run, yes)| Deed::Consent(run, yes)),
        2 => Just(Deed::Crash),
        1 => prop_oneof![Just(-7_200_i64), Just(7_200), Just(90_000), Just(-90_000)].prop_map(Deed::Jump),
    ];
    prop::collection::vec((0_u64..15, deed), 1..12)
}

/// Where a task is, as the model sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mark {
    Pending,
    Running,
    Retrying,
    Held,
    Asking,
    Succeeded,
    Failed,
    Cancelled,
    SkippedWell,
    SkippedBadly,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Queued,
    Running,
    Cancelling { now: bool, timed_out: bool },
    Over,
}

struct Seen<'w> {
    of: &'w Workflow,
    undo_of: Option<RunId>,
    phase: Phase,
    admitted: bool,
    marks: Vec<Mark>,
    attempts: Vec<u32>,
    planned: Vec<bool>,
    begun: Vec<bool>,
    given: Vec<u32>,
    hold_expired: bool,
    undo_asked: bool,
}

impl Seen<'_> {
    fn is_final(&self, task: usize) -> bool {
        !matches!(
            self.marks[task],
            Mark::Pending | Mark::Running | Mark::Retrying | Mark::Held | Mark::Asking
        )
    }

    fn goes_on(&self, task: usize) -> bool {
        self.undo_of.is_some() || self.of.tasks[task].on_failure == "continue"
    }

    fn passed(&self, task: usize) -> bool {
        matches!(self.marks[task], Mark::Succeeded | Mark::SkippedWell)
            || (self.marks[task] == Mark::Failed && self.goes_on(task))
    }

    fn stops(&self, task: usize) -> bool {
        self.marks[task] == Mark::Failed && !self.goes_on(task)
    }

    /// Everything that must be over before: to an undo, everything that came after.
    fn before(&self, task: usize) -> BTreeSet<usize> {
        if self.undo_of.is_some() {
            let all = 0..self.marks.len();
            return all.filter(|other| self.of.before(*other).contains(&task)).collect();
        }
        self.of.before(task)
    }

    fn may_begin(&self, task: usize) -> Result<(), String> {
        let spec = &self.of.tasks[task];
        match self.phase {
            Phase::Running => {}
            Phase::Cancelling { now: false, .. } if spec.cleans_up() && self.undo_of.is_none() => {}
            phase => return Err(format!("nothing begins in {phase:?}")),
        }
        let before = self.before(task);
        if let Some(need) = before.iter().find(|need| !self.is_final(**need)) {
            return Err(format!("t{need}, which it needs, is not final"));
        }
        if self.undo_of.is_some() {
            return Ok(());
        }
        if (self.undo_asked || (0..self.marks.len()).any(|other| self.stops(other))) && !spec.cleans_up() {
            return Err("a task had failed, and this one is no clean-up".into());
        }
        let holds = match spec.when {
            None => before.iter().all(|other| self.passed(*other)),
            Some("always()") => true,
            Some("failure()") => before.iter().any(|other| self.stops(*other)),
            Some(_) => false,
        };
        if holds { Ok(()) } else { Err("its condition does not hold".into()) }
    }

    fn ends(&self) -> (Outcome, bool) {
        let failed = (0..self.marks.len()).any(|task| self.stops(task))
            || self.undo_asked
            || (self.undo_of.is_some() && self.marks.contains(&Mark::Failed));
        let outcome = match self.phase {
            Phase::Cancelling { timed_out: false, .. } => Outcome::Cancelled,
            Phase::Cancelling { timed_out: true, .. } => Outcome::Failed,
            _ if failed => Outcome::Failed,
            _ => Outcome::Succeeded,
        };
        let at_once = matches!(self.phase, Phase::Cancelling { now: true, timed_out: false });
        let something = (0..self.marks.len()).any(|task| self.begun[task] && self.planned[task]);
        let undo = outcome != Outcome::Succeeded
            && (self.of.undo || self.undo_asked)
            && !at_once
            && !self.hold_expired
            && self.undo_of.is_none()
            && something;
        (outcome, undo)
    }

    fn lanes(&self) -> BTreeSet<&'static str> {
        let all = 0..self.marks.len();
        let of = all.filter(|task| self.undo_of.is_none() || self.begun[*task]);
        of.filter(|task| !self.of.tasks[*task].approval())
            .filter_map(|task| self.of.tasks[task].lane)
            .collect()
    }
}

struct Judge<'w> {
    workflows: &'w [Workflow],
    runs: BTreeMap<RunId, Seen<'w>>,
}

impl<'w> Judge<'w> {
    fn follow(&mut self, record: &Record) -> Result<(), String> {
        if let Event::RunSubmitted { workflow, origin, left_out, .. } = &record.event {
            return self.submitted(record.run, workflow.as_str(), origin.as_ref(), left_out);
        }
        if let Event::RunAdmitted = record.event {
            let lanes = self.runs[&record.run].lanes();
            let other = self.runs.iter().find(|(id, other)| {
                **id != record.run
                    && other.admitted
                    && other.phase != Phase::Over
                    && !other.lanes().is_disjoint(&lanes)
            });
            if let Some((id, _)) = other {
                return Err(format!("run {id} holds one of its lanes"));
            }
        }
        if let Event::AttemptStarted { task, .. } = &record.event {
            let task = number(task);
            let service = self.runs[&record.run].of.tasks[task].claims();
            let other = self.runs.iter().find(|(id, other)| {
                let holds = |(at, mark): (usize, &Mark)| {
                    *mark == Mark::Running && other.of.tasks[at].claims() == service
                };
                **id != record.run && service.is_some() && other.marks.iter().enumerate().any(holds)
            });
            if let Some((id, _)) = other {
                return Err(format!("run {id} holds its service"));
            }
        }
        let run = self.runs.get_mut(&record.run).ok_or("a record of a run that never began")?;
        if run.phase == Phase::Over {
            return Err("final is final".into());
        }
        run.follow(&record.event)
    }

    fn submitted(
        &mut self,
        id: RunId,
        workflow: &str,
        origin: Option<&Origin>,
        left_out: &BTreeSet<TaskName>,
    ) -> Result<(), String> {
        let of = &self.workflows[workflow[1..].parse::<usize>().map_err(|error| error.to_string())?];
        let many = of.tasks.len();
        let undo_of = match origin {
            Some(Origin::Undo { of, .. }) => Some(*of),
            _ => None,
        };
        let mut seen = Seen {
            of,
            undo_of,
            phase: Phase::Queued,
            admitted: false,
            marks: vec![Mark::Pending; many],
            attempts: vec![0; many],
            planned: vec![false; many],
            begun: vec![false; many],
            given: vec![0; many],
            hold_expired: false,
            undo_asked: false,
        };
        if let Some(old) = undo_of {
            let old = self.runs.get(&old).ok_or("it undoes a run that is not known")?;
            for task in 0..many {
                let covers = old.begun[task] && old.planned[task];
                seen.begun[task] = covers;
                if covers == left_out.contains(&name(task)) {
                    return Err(format!(
                        "an undo covers what has begun and was planned: t{task} is {covers}"
                    ));
                }
            }
        }
        for task in left_out {
            seen.marks[number(task)] = Mark::SkippedWell;
        }
        self.runs.insert(id, seen);
        Ok(())
    }
}

impl Seen<'_> {
    fn follow(&mut self, event: &Event) -> Result<(), String> {
        let ending = matches!(self.phase, Phase::Cancelling { .. });
        match event {
            Event::RunAdmitted if self.phase == Phase::Queued => {
                self.phase = Phase::Running;
                self.admitted = true;
            }
            Event::CancelRequested { now, .. } => {
                self.phase = Phase::Cancelling { now: *now, timed_out: false };
            }
            Event::RunTimedOut if self.phase == Phase::Running => {
                self.phase = Phase::Cancelling { now: false, timed_out: true };
            }
            Event::RunFinished { outcome, undone_by, .. } => {
                if let Some(task) = (0..self.marks.len()).find(|task| !self.is_final(*task)) {
                    return Err(format!("t{task} is not final"));
                }
                let expected = self.ends();
                let ended = (*outcome, undone_by.is_some());
                if ended != expected {
                    return Err(format!(
                        "it ends with {expected:?} (outcome, whether it is taken back), not {ended:?}"
                    ));
                }
                self.phase = Phase::Over;
            }
            Event::AttemptStarted { task, attempt, .. } => {
                let task = number(task);
                match self.marks[task] {
                    Mark::Pending => self.may_begin(task)?,
                    Mark::Retrying => {}
                    mark => return Err(format!("an attempt in {mark:?}")),
                }
                self.attempts[task] += 1;
                if attempt.0 != self.attempts[task] {
                    return Err(format!("attempt {} after {}", attempt.0, self.attempts[task] - 1));
                }
                self.marks[task] = Mark::Running;
                self.begun[task] = true;
            }
            Event::AttemptResumed { task, attempt, .. } => {
                let task = number(task);
                self.expect(task, &[Mark::Running])?;
                if attempt.0 != self.attempts[task] {
                    return Err("another attempt is entered again".into());
                }
            }
            Event::PlanMade { task, .. } => {
                let task = number(task);
                self.expect(task, &[Mark::Running, Mark::Pending])?;
                if std::mem::replace(&mut self.planned[task], true) && self.undo_of.is_none() {
                    return Err("a plan is made once".into());
                }
            }
            Event::PhaseEntered { task, .. } | Event::CheckpointPassed { task, .. } => {
                self.expect(number(task), &[Mark::Running])?;
            }
            Event::AttemptSucceeded { task, .. } => self.step(task, &[Mark::Running], Mark::Succeeded)?,
            Event::AttemptFailed { task, retry_at, .. } => {
                let at = number(task);
                let tries = if self.undo_of.is_some() { 3 } else { self.of.tasks[at].retry };
                if retry_at.is_some() && self.attempts[at] >= tries.max(1) {
                    return Err(format!("another attempt after {} of {tries}", self.attempts[at]));
                }
                let next = if retry_at.is_some() { Mark::Retrying } else { Mark::Failed };
                self.step(task, &[Mark::Running], next)?;
            }
            Event::TaskHeld { task, .. } => {
                if ending || self.undo_of.is_some() {
                    return Err("nobody is asked now".into());
                }
                self.step(task, &[Mark::Running], Mark::Held)?;
            }
            Event::HoldAnswered { task, answer, .. } => {
                let next = match answer {
                    HoldAnswer::Retry => Mark::Retrying,
                    HoldAnswer::Skip => Mark::SkippedWell,
                    HoldAnswer::Fail | HoldAnswer::Undo => Mark::Failed,
                };
                self.undo_asked |= *answer == HoldAnswer::Undo;
                // What a person allows is one attempt more than the file does.
                self.step(task, &[Mark::Held], next)?;
            }
            Event::ApprovalAsked { task, .. } => self.step(task, &[Mark::Running], Mark::Asking)?,
            Event::Approved { task, consent: Consent { actor, .. } } => {
                if actor == "ann" {
                    return Err("who started the run agrees to it".into());
                }
                self.given[number(task)] += 1;
                self.step(task, &[Mark::Asking], Mark::Succeeded)?;
            }
            Event::Rejected { task, .. } => self.step(task, &[Mark::Asking], Mark::Failed)?,
            Event::WaitExpired { task } => {
                self.hold_expired |= self.marks[number(task)] == Mark::Held;
                self.step(task, &[Mark::Held, Mark::Asking], Mark::Failed)?;
            }
            Event::TaskCancelled { task, .. } => {
                let failed = self.undo_asked || (0..self.marks.len()).any(|task| self.stops(task));
                let moot = failed && self.marks[number(task)] == Mark::Asking;
                if !ending && !moot {
                    return Err("the run does not end".into());
                }
                self.step(task, &[Mark::Running, Mark::Retrying, Mark::Held, Mark::Asking], Mark::Cancelled)?;
            }
            Event::TaskSkipped { task, reason } => {
                let at = number(task);
                let before = self.of.before(at);
                let failed = self.undo_asked || (0..self.marks.len()).any(|task| self.stops(task));
                let fits = match reason {
                    Skipped::When => self.of.tasks[at].when.is_some_and(|when| when != "always()"),
                    Skipped::Upstream => before.iter().any(|before| !self.passed(*before)),
                    Skipped::Ending => ending || failed,
                    Skipped::NotSelected | Skipped::Answered => false,
                };
                if !fits {
                    return Err(format!("skipped for a reason that is none: {reason:?}"));
                }
                let well = *reason == Skipped::When;
                self.step(task, &[Mark::Pending], if well { Mark::SkippedWell } else { Mark::SkippedBadly })?;
            }
            Event::TaskFailed { task, .. } => self.step(task, &[Mark::Pending], Mark::Failed)?,
            Event::AnswerIgnored { .. } => {}
            other => return Err(format!("{} in {:?}", other.name(), self.phase)),
        }
        Ok(())
    }

    fn expect(&self, task: usize, marks: &[Mark]) -> Result<(), String> {
        let mark = self.marks[task];
        if marks.contains(&mark) { Ok(()) } else { Err(format!("t{task} is {mark:?}")) }
    }

    fn step(&mut self, task: &TaskName, from: &[Mark], to: Mark) -> Result<(), String> {
        let task = number(task);
        self.expect(task, from)?;
        self.marks[task] = to;
        Ok(())
    }
}

fn number(task: &TaskName) -> usize {
    task.as_str()[1..].parse().expect("a number")
}

fn name(task: usize) -> TaskName {
    format!("t{task}").parse().expect("a name")
}

/// An engine over the tape.
async fn engine(tape: &Arc<Hooked<Tape>>, clock: &Arc<Jumping>) -> Engine {
    let mut registry = Registry::default();
    registry.add(Probe::default());
    registry.add(crate::approval::Approval);
    let parts = Parts {
        journal: tape.clone(),
        registry: Arc::new(registry),
        clock: clock.clone(),
        secrets: Arc::new(TestSecrets),
        logs: Logs::none(),
        graphs: Graphs::default(),
        threads: None,
    };
    Engine::start(parts, Mode::Work).await.expect("started")
}

async fn live(workflows: &[Workflow], deeds: &[(u64, Deed)]) -> Vec<Record> {
    let tape = Arc::new(Hooked::<Tape>::default());
    let clock = Arc::new(Jumping { clock: TestClock::new(7), seconds: AtomicI64::new(0) });
    let mut engine_now = engine(&tape, &clock).await;
    let mut runs: Vec<RunId> = Vec::new();
    let bob = || Actor { name: "bob".into(), roles: Vec::new(), authenticated: false };
    for (pause, deed) in deeds {
        tokio::time::sleep(Duration::from_secs(*pause)).await;
        let pick = |index: &prop::sample::Index| (!runs.is_empty()).then(|| *index.get(&runs));
        match deed {
            Deed::Submit(number) => {
                let number = number % workflows.len();
                if let Ok(run) = engine_now.submit(World::submission(&workflows[number].yaml(number))).await {
                    runs.push(run);
                }
            }
            Deed::Cancel(run, now) => {
                if let Some(run) = pick(run) {
                    let _ = engine_now.cancel(run, "bob".into(), None, *now).await;
                }
            }
            Deed::Hold(run, answer) => {
                if let Some(run) = pick(run) {
                    let _ = engine_now.answer_hold(run, None, *answer, bob(), None).await;
                }
            }
            Deed::Consent(run, agrees) => {
                if let Some(run) = pick(run) {
                    let _ = engine_now.approve(run, None, *agrees, bob(), None).await;
                }
            }
            Deed::Crash => {
                engine_now.shutdown().await;
                engine_now = engine(&tape, &clock).await;
            }
            Deed::Jump(by) => {
                clock.seconds.fetch_add(*by, Ordering::SeqCst);
            }
        }
    }
    // Nobody says anything any more: everything ends by itself, at the latest when holds and approvals expire.
    for _ in 0..200 {
        if tape.unfinished().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(3_600)).await;
    }
    let left = tape.unfinished();
    let records = tape.hook.0.lock().expect("a tape").clone();
    assert!(left.is_empty(), "{}\nnever ends: {left:?}", told_as(workflows, deeds, &records));
    engine_now.shutdown().await;
    records
}

/// A counter-example as people read it.
fn told_as(workflows: &[Workflow], deeds: &[(u64, Deed)], records: &[Record]) -> String {
    let mut told = String::new();
    for (number, workflow) in workflows.iter().enumerate() {
        let _ = writeln!(told, "{}", workflow.yaml(number));
    }
    for (pause, deed) in deeds {
        let _ = writeln!(told, "after {pause}s: {deed:?}");
    }
    for record in records {
        let task = record.event.task().map(ToString::to_string).unwrap_or_default();
        let short: String = record.run.to_string().chars().skip(20).collect();
        let _ = writeln!(told, "{} {short} {} {task}", record.at, record.event.name());
    }
    told
}

fn cases() -> u32 {
    std::env::var("GRAYLANE_MODEL_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_people_crashes_and_clocks_do_every_record_is_lawful_and_every_run_ends(workflows in workflows(), deeds in deeds()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
        let records = runtime.block_on(live(&workflows, &deeds));
        let mut judge = Judge { workflows: &workflows, runs: BTreeMap::new() };
        for (at, record) in records.iter().enumerate() {
            if let Err(why) = judge.follow(record) {
                panic!("{}\nnot lawful: {why}", told_as(&workflows, &deeds, &records[..=at]));
            }
        }
    }
}

/// The control: a judge that lets everything pass would be of no use.
#[test]
fn control_the_judge_sees_a_task_that_begins_too_early() {
    let task = |needs: Vec<usize>| TaskSpec {
        needs,
        does: "succeed x",
        on_failure: "stop",
        when: None,
        retry: 1,
        lane: None,
        service: None,
    };
    let workflows = [Workflow { undo: false, tasks: vec![task(vec![]), task(vec![0])] }];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let mut records = runtime.block_on(live(&workflows, &[(0, Deed::Submit(0))]));
    let started = |task: usize| move |record: &Record| matches!(&record.event, Event::AttemptStarted { task: of, .. } if *of == name(task));
    let first = records.iter().position(started(0)).expect("started");
    let second = records.iter().position(started(1)).expect("started");
    let early = records.remove(second);
    records.insert(first + 1, early);
    let mut judge = Judge { workflows: &workflows, runs: BTreeMap::new() };
    let wrong = records.iter().find_map(|record| judge.follow(record).err());
    assert_eq!(wrong.as_deref(), Some("t0, which it needs, is not final"));
}
