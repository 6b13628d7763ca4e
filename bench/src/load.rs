//! The API under load: many clients list and stream over real HTTP while runs go through the program, a process of its own.
//!
//! ```text
//! 200 clients:  a stream of everything (server-sent events), and a connection that lists and shows, once a second
//! each run:     submitted when it is due, followed on a stream of its own, approved, seen to its end
//! ```
//! No call may fail, and no stream may lose or double an event: whatever does ends the measurement. Times count from
//! when a call was due, so that a server that stands still is not spared the calls that it kept waiting.

mod http;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use graylane_engine::clock::{Clock as _, Timestamp, WallClock};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::http::{Connection, Events, Sent, To};
use crate::measure::{memory_of, percentile, processor_seconds_of, raw_appends};

const CLIENTS: u32 = 200;
/// How many runs go through at most, and how many of them a second.
const RUNS: u64 = 500;
const A_SECOND: u32 = 20;
/// How often each client lists.
const EVERY: Duration = Duration::from_secs(1);
/// How long anything may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A run of this waits for a person, and a task after that is left out.
const WORKFLOW: &str = "name: load\ntasks:\n  ask: { type: approval, with: { expires: 1h } }\n  after: { type: approval, needs: [ask], when: \"${{ false }}\" }\n";
/// What the last event of every stream says: a deed that is done when all runs are over.
const LAST: &str = "workflow-paused";

/// Measures with so many runs, and no more than [`RUNS`].
pub(crate) async fn run(data: &Path, runs: u64) -> Result<Value, String> {
    let runs = runs.min(RUNS);
    let data = std::fs::canonicalize(data).map_err(|error| error.to_string())?;
    let (_, raw) = raw_appends(&data, 300, Duration::from_secs(1))?;
    let load_average = load_average();
    let program = Program::start(&data)?;
    let measured = through(&program, runs).await;
    let mut measured = measured.map_err(|why| format!("{why}\n{}", program.last_words()))?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for (key, value) in [
        ("runs", json!(runs)),
        ("clients", json!(CLIENTS)),
        ("a_second", json!(A_SECOND)),
        ("raw_ms", json!(raw)),
        ("load_average", json!(load_average)),
        ("cores", json!(cores)),
    ] {
        measured[key] = value;
    }
    Ok(measured)
}

async fn through(program: &Program, runs: u64) -> Result<Value, String> {
    let to = |name: &str, role: &str| {
        let token = program.token(name, role)?;
        Ok::<_, String>(To { address: program.address.as_str().into(), token: token.into() })
    };
    let (viewer, operator) = (to("watcher", "viewer")?, to("starter", "operator")?);
    let approver = to("agreer", "approver")?;
    taken(&viewer).await?;
    let before = head(&viewer).await?;

    let mut streams = Vec::new();
    for _ in 0..CLIENTS {
        streams.push(Connection::open(&viewer).await?.stream("/api/v1/events").await?);
    }
    let mut watchers = JoinSet::new();
    for events in streams {
        watchers.spawn(watch(events, before));
    }
    let stop = CancellationToken::new();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(lists(number, viewer.clone(), stop.clone()));
    }
    let process = program.child.id().to_string();
    let used = (processor_seconds_of(&process), processor_seconds_of("self"));
    let begin = Instant::now();
    let mut going = JoinSet::new();
    for number in 0..runs {
        let due = begin + Duration::from_secs(1) * u32::try_from(number).unwrap_or(u32::MAX) / A_SECOND;
        going.spawn(one_run(due, operator.clone(), approver.clone()));
    }
    let ran = all(going).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let cores = (
        (processor_seconds_of(&process) - used.0) / seconds,
        (processor_seconds_of("self") - used.1) / seconds,
    );
    stop.cancel();
    let called = all(clients).await?;
    Connection::open(&operator).await?.ask("POST", "/api/v1/workflows/workflows/load/pause", "{}").await?;
    let after = head(&viewer).await?;
    let watched = all(watchers).await?;

    let records: u64 = ran.iter().map(|ran| ran.records).sum();
    if let Some(wrong) = watched.iter().find(|watched| watched.last != after) {
        return Err(format!("a stream ended at entry {}, and the log at {after}", wrong.last));
    }
    let missed: u64 = watched.iter().map(|watched| watched.missed).sum();
    let mut of_all: Vec<Duration> = watched.into_iter().flat_map(|watched| watched.times).collect();
    let (mut listed, mut shown) = (Vec::new(), Vec::new());
    for (lists, shows) in called {
        listed.extend(lists);
        shown.extend(shows);
    }
    let (mut submitted, mut approved, mut of_run) = (Vec::new(), Vec::new(), Vec::new());
    for ran in ran {
        submitted.push(ran.submitted);
        approved.push(ran.approved);
        of_run.extend(ran.times);
    }
    Ok(json!({
        "list": told(&mut listed),
        "show": told(&mut shown),
        "submit": told(&mut submitted),
        "approve": told(&mut approved),
        "of_run": told(&mut of_run),
        "of_all": told(&mut of_all),
        "events": after - before,
        "records": records,
        "hints_missed": missed,
        "seconds": seconds,
        "program_cores": cores.0,
        "client_cores": cores.1,
        "memory_mb": memory_of(&process).1,
    }))
}

fn told(times: &mut [Duration]) -> Value {
    let (p50, p99, most) = (percentile(times, 50.0), percentile(times, 99.0), percentile(times, 100.0));
    json!({ "calls": times.len(), "p50": p50, "p99": p99, "most": most })
}

/// What all of them gave; the first that fails ends all.
async fn all<T: 'static>(mut tasks: JoinSet<Result<T, String>>) -> Result<Vec<T>, String> {
    let mut done = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        done.push(ended.map_err(|error| error.to_string())??);
    }
    Ok(done)
}

/// The program's daemon, with a folder of its own.
struct Program {
    child: Child,
    address: String,
    home: PathBuf,
    /// Open for as long as it may say something.
    stdout: BufReader<ChildStdout>,
}

impl Drop for Program {
    fn drop(&mut self) {
        // Only measured: nothing of it is kept.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn start(data: &Path) -> Result<Program, String> {
        let wrong = |error: std::io::Error| error.to_string();
        let home = data.to_owned();
        std::fs::create_dir_all(home.join("workflows")).map_err(wrong)?;
        std::fs::write(home.join("workflows/load.yaml"), WORKFLOW).map_err(wrong)?;
        let stderr = File::create(home.join("stderr")).map_err(wrong)?;
        let mut command = command(&home)?;
        command.args(["serve", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().map_err(wrong)?;
        let stdout = child.stdout.take().ok_or("it has no standard output")?;
        let mut program = Program { child, address: String::new(), home, stdout: BufReader::new(stdout) };
        loop {
            let mut line = String::new();
            if program.stdout.read_line(&mut line).map_err(wrong)? == 0 {
                return Err(format!("the daemon ended early\n{}", program.last_words()));
            }
            if let Some(rest) = line.strip_prefix("API ") {
                program.address = rest.trim().split("://").nth(1).unwrap_or_default().to_owned();
            }
            if line.starts_with("tokens ") {
                return Ok(program);
            }
        }
    }

    fn token(&self, name: &str, role: &str) -> Result<String, String> {
        let mut command = command(&self.home)?;
        let output = command.args(["token", "create", name, "--role", role]).output();
        let output = output.map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The end of what it said, for whoever looks for the reason of a failure.
    fn last_words(&self) -> String {
        let said = std::fs::read_to_string(self.home.join("stderr")).unwrap_or_default();
        let lines: Vec<&str> = said.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

fn command(home: &Path) -> Result<Command, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?.with_file_name("graylane");
    if !program.exists() {
        return Err("the program is not built: cargo build --release".into());
    }
    let mut command = Command::new(program);
    command
        .current_dir(home)
        .env("GRAYLANE_DATA", home.join("data"))
        .env("XDG_CONFIG_HOME", home.join("no-config"))
        .env("GRAYLANE_REHEARSAL_DELAYS", "fast")
        .env_remove("GRAYLANE_LOG")
        .stdin(Stdio::null());
    Ok(command)
}

/// Waits until the daemon has taken the workflow from its folder.
async fn taken(viewer: &To) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        let mut connection = Connection::open(viewer).await?;
        let (status, body) = connection.call("GET", "/api/v1/workflows/workflows/load", "").await?;
        if status == 200 && body.contains("\"revision\"") {
            return Ok(());
        }
        if begin.elapsed() > PATIENCE {
            return Err(format!("the workflow was never taken: {status} {body}"));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// The position at which the audit log ends.
async fn head(viewer: &To) -> Result<u64, String> {
    let head = Connection::open(viewer).await?.ask("GET", "/api/v1/audit/head", "").await?;
    let position = head.trim_matches('"').split(':').next().and_then(|position| position.parse().ok());
    position.ok_or(format!("no head: {head}"))
}

/// What a stream of everything brought.
struct Watched {
    /// The last entry of the audit log.
    last: u64,
    /// Records that it passed over: between entries they are told in passing, without an id, to whoever can follow.
    missed: u64,
    /// From each entry's moment to its arrival.
    times: Vec<Duration>,
}

/// Follows everything to the last deed: each entry once, and none left out.
async fn watch(mut events: Events, before: u64) -> Result<Watched, String> {
    let clock = WallClock::default();
    let mut watched = Watched { last: before, missed: 0, times: Vec::new() };
    let mut reached: HashMap<String, u64> = HashMap::new();
    loop {
        let sent = next(&mut events).await?.ok_or("a stream of everything ended")?;
        if sent.name == "record" {
            let (run, seq) = (sent.text("run")?.to_owned(), sent.number("seq")?);
            let last = reached.entry(run).or_insert(0);
            if seq <= *last {
                return Err(format!("a stream told record {seq} after {last}: {}", sent.data));
            }
            watched.missed += seq - *last - 1;
            *last = seq;
            continue;
        }
        let id = sent.id.ok_or(format!("an entry without its id: {}", sent.data))?;
        if id != watched.last + 1 {
            return Err(format!("a stream told entry {id} after {}", watched.last));
        }
        watched.last = id;
        let at: Timestamp = sent.text("at")?.parse()?;
        watched.times.push(clock.now().since(at));
        if sent.text("event")? == LAST {
            return Ok(watched);
        }
    }
}

async fn next(events: &mut Events) -> Result<Option<Sent>, String> {
    timeout(PATIENCE, events.next()).await.map_err(|_| "a stream fell silent")?
}

/// Lists, and shows one of what was listed, once a second; how long each took.
async fn lists(
    number: u32,
    viewer: To,
    stop: CancellationToken,
) -> Result<(Vec<Duration>, Vec<Duration>), String> {
    let mut connection = Connection::open(&viewer).await?;
    let (mut lists, mut shows) = (Vec::new(), Vec::new());
    // Not all in the same moment: they are as many people.
    let mut ticks = interval_at(Instant::now() + EVERY * number / CLIENTS, EVERY);
    loop {
        let due = tokio::select! {
            due = ticks.tick() => due,
            () = stop.cancelled() => return Ok((lists, shows)),
        };
        let filter = if lists.len().is_multiple_of(2) { "" } else { "&workflow=load&status=succeeded" };
        let page = connection.ask("GET", &format!("/api/v1/runs?limit=50{filter}"), "").await?;
        lists.push(due.elapsed());
        let ids: Vec<&str> = page.split("\"id\":\"").skip(1).filter_map(|rest| rest.get(..26)).collect();
        if !ids.is_empty() {
            let begin = Instant::now();
            let path = format!("/api/v1/runs/{}", ids[number as usize % ids.len()]);
            connection.ask("GET", &path, "").await?;
            shows.push(begin.elapsed());
        }
    }
}

/// What became of a run.
struct Ran {
    submitted: Duration,
    approved: Duration,
    records: u64,
    /// From each record's moment to its arrival at the run's own stream.
    times: Vec<Duration>,
}

/// One run, from its submission to the end of its stream.
async fn one_run(due: Instant, operator: To, approver: To) -> Result<Ran, String> {
    sleep_until(due).await;
    let clock = WallClock::default();
    let path = "/api/v1/workflows/workflows/load/runs";
    let answer = Connection::open(&operator).await?.ask("POST", path, "{}").await?;
    let submitted = due.elapsed();
    let id = answer.split('"').find(|text| text.len() == 26).ok_or(format!("no run: {answer}"))?;
    let path = format!("/api/v1/runs/{id}/events");
    let mut events = Connection::open(&operator).await?.stream(&path).await?;
    let opened = clock.now();
    let mut ran = Ran { submitted, approved: Duration::ZERO, records: 0, times: Vec::new() };
    let mut succeeded = false;
    while let Some(sent) = next(&mut events).await? {
        if sent.name != "record" {
            continue;
        }
        if sent.id != Some(ran.records + 1) {
            return Err(format!("run {id}: record {:?} after {}", sent.id, ran.records));
        }
        ran.records += 1;
        let at = Timestamp::from_millis(sent.number("at")?);
        if at >= opened {
            ran.times.push(clock.now().since(at));
        }
        match sent.text("event")? {
            "approval-asked" => {
                let begin = Instant::now();
                let path = format!("/api/v1/runs/{id}/approval");
                Connection::open(&approver).await?.ask("POST", &path, "{\"agrees\":true}").await?;
                ran.approved = begin.elapsed();
            }
            "run-finished" => succeeded = sent.text("outcome")? == "succeeded",
            _ => {}
        }
    }
    if succeeded { Ok(ran) } else { Err(format!("run {id} did not succeed")) }
}

/// How many processes wanted a processor in the last minute: what else the machine was doing.
fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0.0)
}
