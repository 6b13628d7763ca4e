//! Measurements of the engine against its goals: `cargo xtask bench`.
//!
//! Each part runs in a process of its own, so that its memory is its own, and prints what it measured as one JSON
//! object. The parent makes the page. Nothing here is part of the product.

mod alone;
mod api;
mod load;
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
graylane-bench [--only load|tasks] [--runs N] [--folder FOLDER] [--write FILE]

  --only SECTION   one section alone, in a minute: the API under load, or tasks that do nothing; it is printed
  --runs N         finished runs in the long measures (1000000); the load has 500 at most
  --folder FOLDER  where stores are made and removed again (target/bench)
  --write FILE     the page to write (docs/BENCHMARKS.md); `-` prints it. With --only, the section of the page
                   that is written anew
";

/// The part that has a section of its own.
const LOAD: &str = "load";
const TASKS: &str = "tasks";

/// What is asked for.
struct Asked {
    part: Option<String>,
    only: Option<String>,
    runs: u64,
    folder: PathBuf,
    write: Option<String>,
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
        None if asked.only.is_some() => section(&asked),
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
    let mut asked =
        Asked { part: None, only: None, runs: 1_000_000, folder: PathBuf::from("target/bench"), write: None };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--part" => asked.part = Some(value()?),
            "--only" => match value()?.as_str() {
                known @ (LOAD | TASKS) => asked.only = Some(known.to_owned()),
                other => {
                    return Err(format!(
                        "--only: `{LOAD}` and `{TASKS}` have a section of their own, not `{other}`"
                    ));
                }
            },
            "--runs" => asked.runs = value()?.parse().map_err(|error| format!("--runs: {error}"))?,
            "--folder" => asked.folder = value()?.into(),
            "--write" => asked.write = Some(value()?),
            _ => return Err(format!("{argument} is not known")),
        }
    }
    Ok(asked)
}

fn all(asked: &Asked) -> Result<(), String> {
    let folder = fresh(asked)?;
    let mut measured = serde_json::Map::new();
    for part in tasks::PARTS.iter().chain(store::PARTS).chain(&[LOAD]) {
        say(&format!("bench: {part}"));
        measured.insert((*part).to_owned(), child(part, &folder, asked.runs)?);
    }
    let page = report::page(&Value::Object(measured), asked.runs, &folder);
    clear(&folder)?;
    write(asked.write.as_deref().unwrap_or("docs/BENCHMARKS.md"), &page)
}

/// One section alone, or a page in which it is written anew.
fn section(asked: &Asked) -> Result<(), String> {
    let folder = fresh(asked)?;
    let parts = if asked.only.as_deref() == Some(TASKS) { tasks::PARTS } else { &[LOAD] };
    let mut measured = serde_json::Map::new();
    for part in parts {
        say(&format!("bench: {part}"));
        measured.insert((*part).to_owned(), child(part, &folder, asked.runs)?);
    }
    let section = match measured.get(LOAD) {
        Some(load) => report::load(load),
        None => report::tasks(&Value::Object(measured)),
    };
    clear(&folder)?;
    match asked.write.as_deref() {
        None | Some("-") => write("-", &section),
        Some(file) => {
            let page = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
            write(file, &report::replaced(&page, &section))
        }
    }
}

fn write(file: &str, text: &str) -> Result<(), String> {
    if file == "-" {
        say_out(text);
        return Ok(());
    }
    std::fs::write(file, text).map_err(|error| format!("{file}: {error}"))
}

/// An empty folder for stores.
fn fresh(asked: &Asked) -> Result<PathBuf, String> {
    let folder = asked.folder.join("stores");
    clear(&folder)?;
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    Ok(folder)
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
