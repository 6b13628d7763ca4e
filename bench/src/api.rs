//! From a request on the socket to the first task under way: the program itself, in a process of its own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use graylane_engine::bundle::{Bundle, WORKFLOW_FILE};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::alone::batches;
use crate::measure::{percentile, raw_appends};
use crate::tasks::RECORD;

/// What keeps the program there: a check that is never satisfied, at the rehearsal's gateway.
const HOLDS: &str = "name: mse-gray-workflow\ntasks:\n  stay:\n    type: generic-verify\n    timeout: 1h\n    with: { environment: production, tag: none, checks: [{ name: stay, samples: 100000, interval: 1s, http: { path: /, as: baseline } }] }\n";
/// What is submitted: its one task is under way as soon as people are asked.
const ASKS: &str = "name: bench\ntasks:\n  ok: { type: approval }\n";
const TIMES: usize = 600;

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // Only measured: nothing of it is kept.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures through the program that stands beside this one.
pub(crate) fn run(data: &Path) -> Result<Value, String> {
    let wrong = |error: std::io::Error| error.to_string();
    let program = std::env::current_exe().map_err(wrong)?.with_file_name("graylane");
    if !program.exists() {
        return Err("the program is not built: cargo build --release".into());
    }
    let workflow = data.join("stay.yaml");
    std::fs::write(&workflow, HOLDS).map_err(wrong)?;
    let store = data.join("store");
    let child = Command::new(program)
        .arg("run")
        .arg(&workflow)
        .env("GRAYLANE_DATA", &store)
        .env("GRAYLANE_REHEARSAL_DELAYS", "fast")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(wrong)?;
    let _program = Program(child);
    let socket = store.join("api.sock");
    let begin = Instant::now();
    while UnixStream::connect(&socket).is_err() {
        if begin.elapsed() > Duration::from_secs(30) {
            return Err("the program does not answer".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut bundle = Bundle::default();
    bundle.add(WORKFLOW_FILE, ASKS);
    let bundle: Value = serde_json::from_slice(&bundle.to_bytes()).map_err(|error| error.to_string())?;
    let body = json!({ "bundle": bundle, "inputs": {}, "actor": "bench" }).to_string();
    let (_, raw) = raw_appends(data, 300, Duration::from_secs(2))?;
    let alone = batches(data, 3, RECORD, Duration::from_secs(2))?.p99;
    let (mut times, mut floor) = (Vec::new(), Vec::new());
    for round in 0..TIMES + 50 {
        let begin = Instant::now();
        ask(&socket, "GET", "/healthz", "").map_err(wrong)?;
        ask(&socket, "GET", "/healthz", "").map_err(wrong)?;
        if round >= 50 {
            floor.push(begin.elapsed());
        }
        let begin = Instant::now();
        let answer = ask(&socket, "POST", "/api/v1/runs", &body).map_err(wrong)?;
        let id =
            answer.split('"').find(|text| text.len() == 26).ok_or(format!("no run: {answer}"))?.to_owned();
        started(&socket, &id).map_err(wrong)?;
        if round >= 50 {
            times.push(begin.elapsed());
        }
        ask(&socket, "POST", &format!("/api/v1/runs/{id}/cancel"), "{\"actor\":\"bench\"}").map_err(wrong)?;
    }
    let (p50, p99) = (percentile(&mut times, 50.0), percentile(&mut times, 99.0));
    let floor = [percentile(&mut floor, 50.0), percentile(&mut floor, 99.0)];
    Ok(
        json!({ "p50": p50, "p99": p99, "floor_p50": floor[0], "floor_p99": floor[1], "raw_ms": raw, "ratio": p99 / raw, "alone": alone / raw }),
    )
}

fn send(socket: &Path, method: &str, path: &str, body: &str) -> std::io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: graylane\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice())?;
    Ok(stream)
}

fn ask(socket: &Path, method: &str, path: &str, body: &str) -> std::io::Result<String> {
    let mut answer = String::new();
    send(socket, method, path, body)?.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Returns when the stream of the run tells that its task is under way.
fn started(socket: &Path, id: &str) -> std::io::Result<()> {
    let stream = send(socket, "GET", &format!("/api/v1/runs/{id}/follow"), "")?;
    for line in BufReader::new(stream).lines() {
        if line?.contains("\"attempt-started\"") {
            return Ok(());
        }
    }
    Err(std::io::Error::other("the stream ended before the task began"))
}
