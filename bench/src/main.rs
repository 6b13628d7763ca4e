//! Measurements of the engine against its goals: `cargo xtask bench`.
//!
//! Each part runs in a process of its own, so that its memory is its own, and prints what it measured as one JSON
//! object. The parent makes the page. Nothing here is part of the product.

mod alone;
mod api;
mod machine;
mod measure;
mod report;
mod store;
mod tasks;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde_json::Value;

const USAGE: &str = "\
graylane-bench [--runs N] [--folder FOLDER] [--write FILE]

  --runs N         finished runs in the long measures (1000000)
  --folder FOLDER  where stores are made and removed again (target/bench)
  --write FILE     the page to write (docs/BENCHMARKS.md); `-` prints it
";

/// What is asked for.
struct Asked {
    part: Option<String>,
    runs: u64,
    folder: PathBuf,
    write: String,
}

fn main() -> ExitCode {
    let asked = match read(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err(why) => {
            say(&format!("{why}\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    let done = match &asked.part {
        Some(part) => {
            store::run(part, &asked.folder, asked.runs).map(|measured| say_out(&measured.to_string()))
        }
        None => all(&asked),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&format!("bench: {why}"));
            ExitCode::FAILURE
        }
    }
}

fn read(mut arguments: impl Iterator<Item = String>) -> Result<Asked, String> {
    let mut asked = Asked {
        part: None,
        runs: 1_000_000,
        folder: PathBuf::from("target/bench"),
        write: "docs/BENCHMARKS.md".into(),
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--part" => asked.part = Some(value()?),
            "--runs" => asked.runs = value()?.parse().map_err(|error| format!("--runs: {error}"))?,
            "--folder" => asked.folder = value()?.into(),
            "--write" => asked.write = value()?,
            _ => return Err(format!("{argument} is not known")),
        }
    }
    Ok(asked)
}

fn all(asked: &Asked) -> Result<(), String> {
    let folder = asked.folder.join("stores");
    clear(&folder)?;
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let mut measured = serde_json::Map::new();
    for part in tasks::PARTS.iter().chain(store::PARTS) {
        say(&format!("bench: {part}"));
        measured.insert((*part).to_owned(), child(part, &folder, asked.runs)?);
    }
    let page = report::page(&Value::Object(measured), asked.runs, &folder);
    clear(&folder)?;
    if asked.write == "-" {
        say_out(&page);
        return Ok(());
    }
    std::fs::write(&asked.write, page).map_err(|error| format!("{}: {error}", asked.write))
}

fn clear(folder: &Path) -> Result<(), String> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// One part, in a process of its own.
fn child(part: &str, folder: &Path, runs: u64) -> Result<Value, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .args(["--part", part, "--runs", &runs.to_string(), "--folder"])
        .arg(folder)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("{part} failed"));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("{part}: {error}"))
}

fn say(text: &str) {
    // Whoever closed the stream does not want to know.
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn say_out(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
