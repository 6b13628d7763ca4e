//! What is counted of a run, and a small reader of the text that knows nothing of the writer.

use graylane_engine::id::{Attempt, Digest, Seq};
use graylane_engine::run::Trigger;
use graylane_engine::task::{Outputs, TaskError};

use super::*;

/// Reads the text as a scraper does: samples by name and labels, families by type. Panics where the format is not kept.
pub(crate) fn read(text: &str) -> (BTreeMap<String, f64>, BTreeMap<String, String>) {
    let (mut samples, mut kinds) = (BTreeMap::new(), BTreeMap::new());
    let is_name = |name: &str| {
        !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a name and a kind");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} is there twice");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let name = series.split('{').next().expect("a name");
        assert!(is_name(name), "{line}");
        let family =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(kinds.contains_key(family) || kinds.contains_key(name), "{name} has no type");
        let value: f64 = value.parse().expect("a number");
        assert!(samples.insert(series.to_owned(), value).is_none(), "{series} is there twice");
    }
    (samples, kinds)
}

fn at(second: u64) -> Timestamp {
    Timestamp::from_millis(second * 1_000)
}

fn story(metrics: &Metrics, run: RunId, workflow: &str, events: Vec<Event>) {
    let submitted = Event::RunSubmitted {
        workflow: workflow.parse().expect("a name"),
        revision: Digest::of(b"file"),
        bundle: Digest::of(b"bundle"),
        inputs: BTreeMap::new(),
        vars: BTreeMap::new(),
        secrets: Default::default(),
        trigger: Trigger::Manual,
        actor: "ann".into(),
        left_out: Default::default(),
        origin: None,
        kept: BTreeMap::new(),
        environments: Default::default(),
        tags: Default::default(),
        source: None,
        key: None,
    };
    for (seq, event) in (1_u64..).zip(std::iter::once(submitted).chain(events)) {
        metrics.record(&Record { run, seq: Seq(seq), at: at(seq * 10), event });
    }
}

fn plain(catalogue: &Catalogue) -> Plain<'_> {
    Plain {
        now: at(0),
        unfinished: &[],
        store: Statistics::default(),
        broken: false,
        catalogue,
        slots: None,
        paused: 0,
        frozen: 0,
    }
}

#[test]
fn runs_tasks_and_attempts_are_counted_by_what_became_of_them() {
    let metrics = Metrics::default();
    let task: TaskName = "deploy".parse().expect("a name");
    let first = Attempt::FIRST;
    let started = |attempt| Event::AttemptStarted { task: task.clone(), attempt, deadline: at(1_000) };
    let failed = Event::AttemptFailed {
        task: task.clone(),
        attempt: first,
        error: TaskError::transient("no"),
        retry_at: Some(at(35)),
    };
    let done =
        Event::AttemptSucceeded { task: task.clone(), attempt: first.next(), outputs: Outputs::default() };
    let ended = Event::RunFinished { outcome: Outcome::Succeeded, reason: None, undone_by: None };
    story(
        &metrics,
        RunId::new(1, 1),
        "release",
        vec![Event::RunAdmitted, started(first), failed, started(first.next()), done, ended],
    );
    metrics.append(Duration::from_millis(3), true);
    metrics.append(Duration::from_millis(30), false);
    metrics.call("/api/v1/runs/{run}", "GET", 200, Duration::from_millis(2));

    let (samples, kinds) = read(&metrics.render(&plain(&Catalogue::default())));
    for (series, expected) in [
        (r#"graylane_runs_submitted_total{workflow="release",trigger="manual"}"#, 1.0),
        (r#"graylane_runs_finished_total{workflow="release",outcome="succeeded"}"#, 1.0),
        (r#"graylane_run_duration_seconds_sum{workflow="release",outcome="succeeded"}"#, 60.0),
        (r#"graylane_run_duration_seconds_bucket{workflow="release",outcome="succeeded",le="30"}"#, 0.0),
        (r#"graylane_run_duration_seconds_bucket{workflow="release",outcome="succeeded",le="60"}"#, 1.0),
        (r#"graylane_run_duration_seconds_bucket{workflow="release",outcome="succeeded",le="+Inf"}"#, 1.0),
        (r#"graylane_tasks_finished_total{workflow="release",outcome="succeeded"}"#, 1.0),
        (r#"graylane_attempt_duration_seconds_count{workflow="release",outcome="failed"}"#, 1.0),
        (r#"graylane_attempts_retried_total{workflow="release"}"#, 1.0),
        ("graylane_journal_append_seconds_count", 2.0),
        ("graylane_journal_append_failures_total", 1.0),
        (r#"graylane_api_request_seconds_count{route="/api/v1/runs/{run}",method="GET",status="200"}"#, 1.0),
        (r#"graylane_runs{state="running"}"#, 0.0),
        ("graylane_updates_missed_total", 0.0),
    ] {
        assert_eq!(samples.get(series), Some(&expected), "{series}");
    }
    assert_eq!(kinds["graylane_run_duration_seconds"], "histogram");
    assert!(metrics.with(|counts| counts.open.is_empty()), "a run that ended is forgotten");
}

#[test]
fn thousands_of_workflows_do_not_become_thousands_of_series() {
    let metrics = Metrics::default();
    for number in 0..5_000 {
        let ended = Event::RunFinished { outcome: Outcome::Failed, reason: None, undone_by: None };
        story(&metrics, RunId::new(number, 1), &format!("w{number}"), vec![ended]);
    }
    let (samples, _) = read(&metrics.render(&plain(&Catalogue::default())));
    let finished = samples.iter().filter(|(series, _)| series.starts_with("graylane_runs_finished_total"));
    assert_eq!(finished.clone().count(), 201);
    assert_eq!(finished.map(|(_, value)| value).sum::<f64>(), 5_000.0, "none is lost");
    assert!(samples.len() < 4_000, "{}", samples.len());
}

#[test]
fn what_was_missed_is_said_and_nothing_is_kept_of_runs_that_are_gone() {
    let metrics = Metrics::default();
    story(&metrics, RunId::new(1, 1), "release", vec![]);
    story(&metrics, RunId::new(2, 1), "release", vec![]);
    metrics.reconcile(&[]);
    assert!(metrics.with(|counts| counts.open.is_empty()));
}
