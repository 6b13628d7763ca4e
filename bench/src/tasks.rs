//! No-op tasks end to end, every step durable: wide, many at once, a chain, and one large graph.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use graylane_engine::bundle::{Bundle, WORKFLOW_FILE};
use graylane_engine::graph::{Known, check};
use graylane_engine::id::RunId;
use graylane_engine::journal::DiskJournal;
use graylane_engine::run::{Event, Outcome, Trigger};
use graylane_engine::scheduler::{Engine, Submission, Update};
use graylane_engine::task::Site;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::alone::batches;
use crate::measure::{memory, percentile, raw_appends};
use crate::store::{engine, opened, registry};

/// The parts, in their order.
pub(crate) const PARTS: &[&str] =
    &["wide", "diamonds", "chain", "large-chain", "large-wide", "submit", "api"];

/// The tasks of the large graphs.
const MANY: usize = 10_000;

/// About the bytes of a record of theirs.
pub(crate) const RECORD: usize = 250;

/// How often the shorter parts are measured; the median is told.
const TIMES: usize = 5;

/// Carries out one part.
pub(crate) async fn run(part: &str, folder: &Path, runs: u64) -> Result<Value, String> {
    let data = folder.join(format!("tasks-{part}"));
    std::fs::create_dir_all(&data).map_err(|error| error.to_string())?;
    match part {
        "wide" => rate(&data, &wide(500), 1, 502).await,
        "diamonds" => rate(&data, &diamond(), 200, 5).await,
        "chain" => chain(&data).await,
        "large-chain" => large(&data, &in_a_row(MANY)).await,
        "large-wide" => large(&data, &wide(MANY - 2)).await,
        "api" => crate::api::run(&data),
        "submit" => submit(&data).await,
        "load" => crate::load::run(&data, runs).await,
        _ => Err(format!("there is no part {part}")),
    }
}

fn workflow(tasks: impl IntoIterator<Item = (String, Vec<String>)>) -> String {
    let mut yaml = String::from("name: bench\ntasks:\n");
    for (name, needs) in tasks {
        // Writing into a String cannot fail.
        let _ = writeln!(yaml, "  {name}:\n    type: noop\n    needs: [{}]", needs.join(", "));
    }
    yaml
}

fn wide(many: usize) -> String {
    let middle: Vec<String> = (0..many).map(|number| format!("m{number}")).collect();
    let first = std::iter::once(("first".to_owned(), Vec::new()));
    let last = std::iter::once(("last".to_owned(), middle.clone()));
    workflow(first.chain(middle.into_iter().map(|name| (name, vec!["first".to_owned()]))).chain(last))
}

fn diamond() -> String {
    let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    workflow([
        ("a".into(), vec![]),
        ("b".into(), of(&["a"])),
        ("c".into(), of(&["a"])),
        ("d".into(), of(&["a"])),
        ("e".into(), of(&["b", "c", "d"])),
    ])
}

fn in_a_row(many: usize) -> String {
    workflow((0..many).map(|number| {
        (format!("t{number}"), number.checked_sub(1).map(|before| format!("t{before}")).into_iter().collect())
    }))
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
        actor: "bench".into(),
        trigger: Trigger::Manual,
        source: None,
        key: None,
        vars: std::collections::BTreeMap::new(),
        secrets: std::collections::BTreeSet::new(),
    }
}

async fn open(data: &Path) -> Result<Engine, String> {
    let journal: Arc<DiskJournal> = Arc::new(opened(data)?);
    engine(journal, Arc::new(Notify::new())).await
}

/// Submits so many runs at once and waits until all have ended; how many succeeded.
async fn all(engine: &Engine, yaml: &str, runs: usize) -> Result<usize, String> {
    let mut updates = engine.watch();
    let submitted = (0..runs).map(|_| {
        let (engine, submission) = (engine.clone(), submission(yaml));
        tokio::spawn(async move { engine.submit(submission).await })
    });
    let submitted: Vec<_> = submitted.collect();
    let mut succeeded = 0;
    let mut ended = 0;
    while ended < runs {
        match updates.recv().await {
            Ok(Update::Record(record)) => {
                if let Event::RunFinished { outcome, .. } = record.event {
                    ended += 1;
                    succeeded += usize::from(outcome == Outcome::Succeeded);
                }
            }
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    for run in submitted {
        run.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    }
    Ok(succeeded)
}

async fn rate(data: &Path, yaml: &str, runs: usize, tasks: usize) -> Result<Value, String> {
    let engine = open(data).await?;
    let mut rates = Vec::new();
    for _ in 0..=TIMES {
        let begin = Instant::now();
        let succeeded = all(&engine, yaml, runs).await?;
        if succeeded != runs {
            return Err(format!("{} of {runs} runs were lost", runs - succeeded));
        }
        rates.push((runs * tasks) as f64 / begin.elapsed().as_secs_f64());
    }
    // The first one warms up.
    rates.remove(0);
    rates.sort_by(f64::total_cmp);
    engine.shutdown().await;
    Ok(json!({ "rate": rates[rates.len() / 2], "slowest": rates[0], "lost": 0 }))
}

/// The steps of a chain: from the end of one task to the end of the next.
async fn chain(data: &Path) -> Result<Value, String> {
    let engine = open(data).await?;
    let yaml = in_a_row(100);
    let (mut steps, mut raws, mut alones) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=TIMES * 2 {
        // Beside each other in time: the machine is not the same a minute later.
        let (_, raw) = raw_appends(data, 300, Duration::from_millis(500))?;
        // The end of one task and the beginning of the next.
        alones.push(batches(data, 2, RECORD, Duration::from_millis(500))?.p50);
        let begin = Instant::now();
        all(&engine, &yaml, 1).await?;
        if round > 0 {
            steps.push(begin.elapsed().as_secs_f64() * 1_000.0 / 100.0);
            raws.push(raw);
        }
    }
    steps.sort_by(f64::total_cmp);
    raws.sort_by(f64::total_cmp);
    alones.sort_by(f64::total_cmp);
    engine.shutdown().await;
    let (step, raw, alone) = (steps[steps.len() / 2], raws[raws.len() / 2], alones[alones.len() / 2]);
    Ok(json!({ "step_ms": step, "raw_ms": raw, "ratio": step / raw, "alone": alone / raw }))
}

async fn large(data: &Path, yaml: &str) -> Result<Value, String> {
    let registry = registry(Arc::new(Notify::new()));
    let mut times = Vec::new();
    for _ in 0..3 {
        let begin = Instant::now();
        let files = Bundle::default();
        let site = Site { workflow: None, files: &files };
        let checked = check("bench.yaml", yaml.as_bytes(), &registry, &Known::default(), site);
        times.push(begin.elapsed());
        if checked.graph.is_none() {
            return Err("the graph is not valid".into());
        }
    }
    let validate = percentile(&mut times, 50.0) / 1_000.0;
    let engine = open(data).await?;
    let begin = Instant::now();
    let mut updates = engine.watch();
    let id: RunId = engine.submit(submission(yaml)).await.map_err(|error| error.to_string())?;
    loop {
        match updates.recv().await {
            Ok(Update::Record(record)) if record.run == id => {
                if let Event::RunFinished { outcome, .. } = record.event {
                    if outcome != Outcome::Succeeded {
                        return Err("the large run did not succeed".into());
                    }
                    break;
                }
            }
            Ok(_) => {}
            // More records than the channel holds: its end is still to come.
            Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    let whole = begin.elapsed().as_secs_f64();
    engine.shutdown().await;
    Ok(json!({ "validate_s": validate, "run_s": whole, "memory_mb": memory().1 }))
}

/// From the call of submit to the first task under way, in process.
async fn submit(data: &Path) -> Result<Value, String> {
    let first = Arc::new(Notify::new());
    let engine = engine(Arc::new(opened(data)?), Arc::clone(&first)).await?;
    let yaml = in_a_row(1);
    let mut updates = engine.watch();
    let (_, raw) = raw_appends(data, 300, Duration::from_secs(2))?;
    // The submit, its admission and the beginning of its task.
    let alone = batches(data, 3, RECORD, Duration::from_secs(2))?.p99;
    let mut times = Vec::new();
    for round in 0..1_000 {
        let begin = Instant::now();
        let started = first.notified();
        let submitted = engine.submit(submission(&yaml));
        let (submitted, ()) = tokio::join!(submitted, started);
        submitted.map_err(|error| error.to_string())?;
        if round >= 100 {
            times.push(begin.elapsed());
        }
        // One at a time: the end of the run before must not stand in the way.
        while !matches!(updates.recv().await, Ok(Update::Record(record)) if matches!(record.event, Event::RunFinished { .. }))
        {
        }
    }
    engine.shutdown().await;
    let (p50, p99) = (percentile(&mut times, 50.0), percentile(&mut times, 99.0));
    Ok(json!({ "p50": p50, "p99": p99, "raw_ms": raw, "ratio": p99 / raw, "alone": alone / raw }))
}
