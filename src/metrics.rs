//! Metrics: counted from the engine's updates since this process began, and read off plain data when somebody asks.
//!
//! Nothing here is a second truth: what the store knows is asked of the store, and a counter that begins anew with the
//! process is what Prometheus expects of one. Values of labels are bounded (`text.rs`).

mod journal;
mod text;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use graylane_engine::clock::Timestamp;
use graylane_engine::id::{RunId, TaskName};
use graylane_engine::journal::Statistics;
use graylane_engine::run::{Event, Outcome, Record, RunSummary};
use graylane_engine::scheduler::{Engine, Update};
use graylane_engine::trigger::{Catalogue, Figures};
use tokio::sync::broadcast::error::RecvError;

pub(crate) use self::journal::Timed;
use self::text::{Counter, Family, Gauge, Histogram, LONG, SHORT, Text};

/// What is counted.
#[derive(Debug)]
pub(crate) struct Metrics(Mutex<Counts>);

#[derive(Debug)]
struct Counts {
    submitted: Family<Counter>,
    finished: Family<Counter>,
    run_seconds: Family<Histogram>,
    tasks: Family<Counter>,
    attempt_seconds: Family<Histogram>,
    retries: Family<Counter>,
    asked: Family<Counter>,
    missed: Family<Counter>,
    append_seconds: Family<Histogram>,
    append_failures: Family<Counter>,
    api_seconds: Family<Histogram>,
    lanes: Family<Gauge>,
    disk: Family<Gauge>,
    /// Runs that are not final, as far as their beginning was seen: for how long they took.
    open: HashMap<RunId, Open>,
}

#[derive(Debug)]
struct Open {
    workflow: String,
    submitted: Timestamp,
    attempts: HashMap<TaskName, Timestamp>,
}

/// What is not counted, but there when somebody asks.
pub(crate) struct Plain<'p> {
    pub(crate) now: Timestamp,
    pub(crate) unfinished: &'p [RunSummary],
    pub(crate) store: Statistics,
    /// Whether nothing can be written.
    pub(crate) broken: bool,
    pub(crate) catalogue: &'p Catalogue,
    /// Schedules and their slots; none where they cannot be read.
    pub(crate) slots: Option<Figures>,
    pub(crate) paused: usize,
    pub(crate) frozen: usize,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let counts = Counts {
            submitted: Family::new(
                "graylane_runs_submitted_total",
                "Runs that were taken.",
                &["workflow", "trigger"],
            ),
            finished: Family::new(
                "graylane_runs_finished_total",
                "Runs that ended.",
                &["workflow", "outcome"],
            ),
            run_seconds: Family::new(
                "graylane_run_duration_seconds",
                "From submission to end.",
                &["workflow", "outcome"],
            ),
            tasks: Family::new(
                "graylane_tasks_finished_total",
                "Tasks that ended; skipped ones too.",
                &["workflow", "outcome"],
            ),
            attempt_seconds: Family::new(
                "graylane_attempt_duration_seconds",
                "One attempt at a task.",
                &["workflow", "outcome"],
            ),
            retries: Family::new(
                "graylane_attempts_retried_total",
                "Attempts that failed and are tried again.",
                &["workflow"],
            ),
            asked: Family::new(
                "graylane_people_asked_total",
                "How often people were asked: holds and approvals.",
                &["workflow", "for"],
            ),
            missed: Family::new(
                "graylane_updates_missed_total",
                "Updates that came too fast to be counted; the numbers above lack them.",
                &[],
            ),
            append_seconds: Family::new(
                "graylane_journal_append_seconds",
                "Writing to the journal, with its fsync.",
                &[],
            ),
            append_failures: Family::new(
                "graylane_journal_append_failures_total",
                "Writes that failed.",
                &[],
            ),
            api_seconds: Family::new(
                "graylane_api_request_seconds",
                "Calls of the API, up to the beginning of the answer.",
                &["route", "method", "status"],
            ),
            lanes: Family::new("graylane_lanes", "Lanes on the cluster of an environment.", &["environment"]),
            disk: Family::new("graylane_disk_bytes", "Bytes in the data folder.", &["part"]),
            open: HashMap::new(),
        };
        let metrics = Metrics(Mutex::new(counts));
        metrics.with(|counts| {
            // Families without a label are there from the start: a rate over what is absent is no rate.
            counts.missed.with(&[]);
            counts.append_failures.with(&[]);
            counts.append_seconds.with(&[]);
        });
        metrics
    }
}

impl Metrics {
    fn with<T>(&self, work: impl FnOnce(&mut Counts) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts what happens in the engine, until it ends.
    pub(crate) async fn follow(self: Arc<Metrics>, engine: Engine) {
        let mut updates = engine.watch();
        self.reconcile(&engine.unfinished());
        loop {
            match updates.recv().await {
                Ok(Update::Record(record)) => self.record(&record),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    self.with(|counts| counts.missed.with(&[]).0 += missed);
                    self.reconcile(&engine.unfinished());
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Knows the runs that are not final, and forgets the others.
    fn reconcile(&self, unfinished: &[RunSummary]) {
        self.with(|counts| {
            counts.open.retain(|id, _| unfinished.iter().any(|run| run.id == *id));
            for run in unfinished {
                counts
                    .open
                    .entry(run.id)
                    .or_insert_with(|| Open::of(run.workflow.as_str(), run.submitted_at));
            }
        });
    }

    fn record(&self, record: &Record) {
        self.with(|counts| counts.record(record));
    }

    /// Counts a write.
    pub(crate) fn append(&self, took: Duration, written: bool) {
        self.with(|counts| {
            counts.append_seconds.with(&[]).observe(took, &SHORT);
            counts.append_failures.with(&[]).0 += u64::from(!written);
        });
    }

    /// Counts a call.
    pub(crate) fn call(&self, route: &str, method: &str, status: u16, took: Duration) {
        self.with(|counts| {
            counts.api_seconds.with(&[route, method, &status.to_string()]).observe(took, &SHORT);
        });
    }

    /// Says how many lanes an environment has; none where that cannot be seen.
    pub(crate) fn lanes(&self, environment: &str, lanes: Option<usize>) {
        self.with(|counts| match lanes {
            Some(lanes) => counts.lanes.with(&[environment]).0 = lanes as f64,
            None => counts.lanes.forget(&[environment]),
        });
    }

    /// Measures the data folder.
    pub(crate) fn measure(&self, data: &Path) {
        for part in ["store", "history", "objects", "logs", "sources"] {
            let bytes = bytes_below(&data.join(part), 0);
            self.with(|counts| counts.disk.with(&[part]).0 = bytes as f64);
        }
    }

    /// All of it, as Prometheus reads it.
    pub(crate) fn render(&self, plain: &Plain<'_>) -> String {
        let mut text = Text::default();
        self.with(|counts| counts.render(&mut text));
        plain.render(&mut text);
        text.into_string()
    }
}

impl Open {
    fn of(workflow: &str, submitted: Timestamp) -> Open {
        Open { workflow: workflow.to_owned(), submitted, attempts: HashMap::new() }
    }
}

impl Counts {
    fn record(&mut self, record: &Record) {
        if let Event::RunSubmitted { workflow, .. } = &record.event {
            self.open.insert(record.run, Open::of(workflow.as_str(), record.at));
            let trigger =
                RunSummary::begin(record).map_or_else(|| "manual".into(), |summary| summary.trigger);
            self.submitted.with(&[workflow.as_str(), &trigger]).0 += 1;
            return;
        }
        let Some(open) = self.open.get_mut(&record.run) else { return };
        let workflow = open.workflow.clone();
        let mut attempt = |task: &TaskName, outcome: &str| {
            if let Some(began) = open.attempts.remove(task) {
                let took = record.at.since(began);
                self.attempt_seconds.with(&[&workflow, outcome]).observe(took, &LONG);
            }
        };
        match &record.event {
            Event::AttemptStarted { task, .. } => {
                open.attempts.insert(task.clone(), record.at);
            }
            Event::AttemptResumed { task, .. } => {
                open.attempts.entry(task.clone()).or_insert(record.at);
            }
            Event::AttemptSucceeded { task, .. } => {
                attempt(task, "succeeded");
                self.tasks.with(&[&workflow, "succeeded"]).0 += 1;
            }
            Event::AttemptFailed { task, retry_at, .. } => {
                attempt(task, "failed");
                match retry_at {
                    Some(_) => self.retries.with(&[&workflow]).0 += 1,
                    None => self.tasks.with(&[&workflow, "failed"]).0 += 1,
                }
            }
            Event::TaskFailed { .. } => self.tasks.with(&[&workflow, "failed"]).0 += 1,
            Event::TaskCancelled { task, .. } => {
                attempt(task, "cancelled");
                self.tasks.with(&[&workflow, "cancelled"]).0 += 1;
            }
            Event::TaskSkipped { .. } => self.tasks.with(&[&workflow, "skipped"]).0 += 1,
            Event::TaskHeld { task, .. } => {
                attempt(task, "held");
                self.asked.with(&[&workflow, "hold"]).0 += 1;
            }
            Event::ApprovalAsked { task, .. } => {
                attempt(task, "asked");
                self.asked.with(&[&workflow, "approval"]).0 += 1;
            }
            Event::RunFinished { outcome, .. } => {
                let word = match outcome {
                    Outcome::Succeeded => "succeeded",
                    Outcome::Failed => "failed",
                    Outcome::Cancelled => "cancelled",
                };
                let took = record.at.since(open.submitted);
                self.finished.with(&[&workflow, word]).0 += 1;
                self.run_seconds.with(&[&workflow, word]).observe(took, &LONG);
                self.open.remove(&record.run);
            }
            _ => {}
        }
    }

    fn render(&self, text: &mut Text) {
        text.counters(&self.submitted);
        text.counters(&self.finished);
        text.histograms(&self.run_seconds, &LONG);
        text.counters(&self.tasks);
        text.histograms(&self.attempt_seconds, &LONG);
        text.counters(&self.retries);
        text.counters(&self.asked);
        text.counters(&self.missed);
        text.histograms(&self.append_seconds, &SHORT);
        text.counters(&self.append_failures);
        text.histograms(&self.api_seconds, &SHORT);
        text.gauges(&self.lanes);
        text.gauges(&self.disk);
    }
}

impl Plain<'_> {
    fn render(&self, text: &mut Text) {
        let mut gauges = |name, help, labels: &'static [&'static str], values: &[(&[&str], f64)]| {
            let mut family = Family::<Gauge>::new(name, help, labels);
            for (labels, value) in values {
                family.with(labels).0 = *value;
            }
            text.gauges(&family);
        };
        let mut by_state: BTreeMap<&str, u64> =
            [("queued", 0), ("running", 0), ("waiting", 0), ("cancelling", 0)].into();
        for run in self.unfinished {
            *by_state.entry(run.status.as_str()).or_default() += 1;
        }
        let states: Vec<([&str; 1], f64)> =
            by_state.iter().map(|(state, count)| ([*state], *count as f64)).collect();
        let states: Vec<(&[&str], f64)> =
            states.iter().map(|(state, count)| (state.as_slice(), *count)).collect();
        gauges("graylane_runs", "Runs that are not final, by state.", &["state"], &states);
        let oldest = |state: &str| {
            let waiting = self.unfinished.iter().filter(|run| run.status == state);
            waiting.map(|run| self.now.since(run.submitted_at).as_secs_f64()).fold(0.0, f64::max)
        };
        gauges(
            "graylane_oldest_run_seconds",
            "The age of the oldest run that is queued or waits for people.",
            &["state"],
            &[(&["queued"], oldest("queued")), (&["waiting"], oldest("waiting"))],
        );
        gauges("graylane_build_info", "The version.", &["version"], &[(&[env!("CARGO_PKG_VERSION")], 1.0)]);
        gauges(
            "graylane_journal_broken",
            "1 while nothing can be written.",
            &[],
            &[(&[], f64::from(self.broken))],
        );
        let store = &self.store;
        gauges(
            "graylane_store_runs",
            "Runs in the store.",
            &["kept"],
            &[
                (&["unfinished"], store.unfinished as f64),
                (&["unsealed"], store.unsealed as f64),
                (&["sealed"], store.sealed as f64),
            ],
        );
        gauges(
            "graylane_workflows_paused",
            "Workflows whose triggers start nothing.",
            &[],
            &[(&[], self.paused as f64)],
        );
        gauges(
            "graylane_environments_frozen",
            "Environments frozen by people.",
            &[],
            &[(&[], self.frozen as f64)],
        );
        self.sources(text);
        // Of what is not known nothing is said: a zero would be a lie, and what is absent can be alerted on.
        if let Some(figures) = &self.slots {
            self.schedules(figures, text);
        }
    }

    fn schedules(&self, figures: &Figures, text: &mut Text) {
        let mut slots = Family::<Counter>::new(
            "graylane_slots_total",
            "Slots of schedules that were decided, ever, by what became of them.",
            &["outcome"],
        );
        for (outcome, count) in &figures.outcomes {
            slots.with(&[*outcome]).0 = *count;
        }
        text.counters(&slots);
        let mut schedules = Family::<Gauge>::new("graylane_schedules", "Schedules that are known.", &[]);
        schedules.with(&[]).0 = figures.schedules as f64;
        let mut undecided = Family::<Gauge>::new(
            "graylane_oldest_undecided_slot_seconds",
            "For how long the oldest slot has been due without a run or a reason for none; 0 where there is none.",
            &[],
        );
        let oldest = figures.oldest_undecided.as_ref();
        undecided.with(&[]).0 = oldest.map_or(0.0, |oldest| self.now.since(oldest.due).as_secs_f64());
        text.gauges(&schedules);
        text.gauges(&undecided);
    }

    fn sources(&self, text: &mut Text) {
        let mut workflows =
            Family::<Gauge>::new("graylane_workflows", "Workflows of a source that can run.", &["source"]);
        let mut problems = Family::<Gauge>::new(
            "graylane_source_problems",
            "Problems in the files of a source.",
            &["source", "severity"],
        );
        let mut reachable =
            Family::<Gauge>::new("graylane_source_readable", "0 while a source cannot be read.", &["source"]);
        let mut read = Family::<Gauge>::new(
            "graylane_source_read_timestamp_seconds",
            "When a source was read last.",
            &["source"],
        );
        for (name, source) in &self.catalogue.sources {
            let name = name.as_str();
            let mine = || self.catalogue.workflows.iter().filter(move |(uid, _)| uid.source.as_str() == name);
            workflows.with(&[name]).0 = mine().filter(|(_, known)| known.good.is_some()).count() as f64;
            reachable.with(&[name]).0 = f64::from(source.problem.is_none());
            if let Some(at) = source.read_at {
                read.with(&[name]).0 = at.millis() as f64 / 1_000.0;
            }
            let all = source.problems.iter().chain(mine().flat_map(|(_, known)| &known.problems));
            problems.with(&[name, "error"]).0 = 0.0;
            for problem in all {
                problems.with(&[name, crate::problems::severity_word(problem.severity)]).0 += 1.0;
            }
        }
        for family in [workflows, problems, reachable, read] {
            text.gauges(&family);
        }
        let mut operator = Family::<Gauge>::new(
            "graylane_operator_problems",
            "Problems in environment and service files.",
            &[],
        );
        operator.with(&[]).0 = self.catalogue.problems.len() as f64;
        text.gauges(&operator);
    }
}

/// Bytes of the files below a folder; what cannot be read counts as none.
fn bytes_below(folder: &Path, depth: u32) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() && depth < 6 => bytes_below(&entry.path(), depth + 1),
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) | Err(_) => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests;
