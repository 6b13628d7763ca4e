//! What CI runs, as commands that anyone can run: `cargo xtask ci`, `long`, `node`, `bench`, `deny`.
//!
//! It only calls cargo, one call after the other, and stops at the first that fails.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const USAGE: &str = "\
cargo xtask COMMAND

  ci      format, clippy, the tests, a story on a real node, the documents, licences: what CI runs
  long    the crash matrix, faults of an API server, the reference model, a gigabyte of logs, kills and power cuts, all of them; reports go to
          docs/reports
  node    the story on a real node alone; GRAYLANE_TEST_REALNODE names what brings one up
  bench   measurements against the goals, written to docs/BENCHMARKS.md; half an hour.
          `bench --only load` measures the API under load alone, in a minute, and prints it
  deny    licences, sources and advisories of everything that is built in (cargo-deny)
";

fn main() -> ExitCode {
    let command = std::env::args().nth(1).unwrap_or_default();
    let done = match command.as_str() {
        "ci" => ci(),
        "long" => long(),
        "node" => node(),
        "bench" => bench(),
        "deny" => deny(),
        _ => {
            say(USAGE);
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            say(&format!("xtask: {what} failed"));
            ExitCode::FAILURE
        }
    }
}

type Done = Result<(), String>;

fn ci() -> Done {
    cargo("format", &["fmt", "--all", "--check"], &[])?;
    cargo("clippy", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"], &[])?;
    cargo("the tests", &["test", "--workspace", "--locked"], &[])?;
    node()?;
    summary();
    cargo(
        "the documents",
        &["doc", "--workspace", "--no-deps", "--locked"],
        &[("RUSTDOCFLAGS", "-D warnings")],
    )?;
    torture("dev", &["--kills", "3", "--cuts", "1", "--write", "-"])?;
    deny()
}

/// The story on pods that really run, by itself: whatever else runs would take its probes' time. The program that brings up such a
/// cluster is named by GRAYLANE_TEST_REALNODE; what its pods run is built here, as one static program for the C library of this host.
fn node() -> Done {
    if std::env::var_os("GRAYLANE_TEST_REALNODE").is_none() {
        say("a real node: not here: GRAYLANE_TEST_REALNODE is not set");
        return Ok(());
    }
    let version = Command::new("rustc").arg("-vV").output().map_err(|error| error.to_string())?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let Some(host) = version.lines().find_map(|line| line.strip_prefix("host: ")) else {
        return Err("rustc -vV".to_owned());
    };
    // With a target of its own the flags are for the program alone, not for what builds it.
    let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", host.replace('-', "_").to_uppercase());
    let build = ["build", "--quiet", "--locked", "--package", "graylane-stand-in", "--target", host];
    cargo("the stand-in", &build, &[(&flags, "-C target-feature=+crt-static")])?;
    let program = target().join(host).join("debug/graylane-stand-in");
    let program = std::path::absolute(program).map_err(|error| error.to_string())?.display().to_string();
    let story = ["test", "--workspace", "--locked", "--test", "stories", "node::", "--", "--nocapture"];
    cargo("pods that really run", &story, &[("GRAYLANE_TEST_STAND_IN", program.as_str())])
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from)
}

/// What the stories about clusters have told, where they were run: the last line of it was lost among those of the tests.
fn summary() {
    if let Ok(line) = std::fs::read_to_string(target().join("tmp/kubernetes-summary.txt")) {
        say(&format!("xtask: told {}", line.trim_end()));
    }
}

fn long() -> Done {
    let matrix = ["test", "--release", "--locked", "--package", "graylane", "--test", "stories", "matrix::"];
    let folder = std::env::current_dir().map_err(|error| error.to_string())?;
    let report = folder.join("docs/reports/crash-matrix.md").display().to_string();
    let all = [("GRAYLANE_MATRIX", "all"), ("GRAYLANE_MATRIX_REPORT", report.as_str())];
    cargo("the crash matrix", &[&matrix[..], &["--", "--nocapture"]].concat(), &all)?;
    let faults =
        ["test", "--release", "--locked", "--package", "graylane", "--test", "stories", "faults::under"];
    let report = folder.join("docs/reports/faults.md").display().to_string();
    let all = [("GRAYLANE_TEST_FAULTS", "all"), ("GRAYLANE_TEST_FAULTS_REPORT", report.as_str())];
    cargo("faults of an API server", &[&faults[..], &["--", "--nocapture"]].concat(), &all)?;
    let model = ["test", "--release", "--locked", "--package", "graylane-engine", "scheduler::tests::model"];
    cargo("the reference model", &model, &[("GRAYLANE_MODEL_CASES", "5000")])?;
    let logs = ["test", "--release", "--locked", "--package", "graylane-engine", "logs::"];
    cargo("a gigabyte of logs", &logs, &[("GRAYLANE_LOG_MEGABYTES", "1024")])?;
    let soak = ["test", "--release", "--locked", "--package", "graylane-engine", "trigger::tests::soak"];
    for seed in ["1", "2", "3", "4", "5"] {
        cargo("a year of schedules", &soak, &[("GRAYLANE_SOAK_SEED", seed)])?;
    }
    let busy = ["test", "--release", "--locked", "--package", "graylane", "--test", "stories", "busy::"];
    let report = folder.join("docs/reports/busy.md").display().to_string();
    let all = [("GRAYLANE_TEST_BUSY", "all"), ("GRAYLANE_TEST_BUSY_REPORT", report.as_str())];
    cargo("a busy namespace", &[&busy[..], &["--", "--nocapture"]].concat(), &all)?;
    let reaction = folder.join("docs/reports/reaction.md").display().to_string();
    let rollouts =
        ["test", "--release", "--locked", "--package", "graylane", "--test", "stories", "reaction_to"];
    let variables = [("GRAYLANE_TEST_REACTION_REPORT", reaction.as_str())];
    cargo("the reaction to a pod's status", &[&rollouts[..], &["--", "--nocapture"]].concat(), &variables)?;
    node()?;
    torture("release", &["--kills", "100", "--cuts", "20", "--write", "docs/reports/durability.md"])
}

/// Kills and power cuts; where loop devices cannot be had, the report says so.
fn torture(profile: &str, arguments: &[&str]) -> Done {
    let call = ["run", "--quiet", "--locked", "--package", "graylane-bench", "--bin", "graylane-torture"];
    let call = [&call[..], &["--profile", profile, "--"], arguments].concat();
    cargo("kills and power cuts", &call, &[])
}

/// Every measure, in a release build. Arguments after `bench` are the program's: `--help` names them.
fn bench() -> Done {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    cargo("the program", &["build", "--release", "--quiet", "--locked", "--package", "graylane"], &[])?;
    let mut call = vec!["run", "--release", "--quiet", "--locked", "--package", "graylane-bench", "--"];
    call.extend(arguments.iter().map(String::as_str));
    cargo("measurements", &call, &[])
}

/// Licences and sources must be right; advisories too, where their database can be had.
fn deny() -> Done {
    if !quietly(&["deny", "--version"]) {
        say(
            "deny: cargo-deny is not installed (`cargo install --locked cargo-deny`): licences were not checked",
        );
        return Ok(());
    }
    cargo("licences and sources", &["deny", "--locked", "check", "licenses", "bans", "sources"], &[])?;
    if quietly(&["deny", "--locked", "fetch", "db"]) {
        cargo("advisories", &["deny", "--locked", "check", "advisories"], &[])
    } else {
        say("deny: the advisory database cannot be reached: advisories were not checked");
        Ok(())
    }
}

fn cargo(what: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Done {
    say(&format!("xtask: {what}: cargo {}", arguments.join(" ")));
    let status = Command::new(env!("CARGO")).args(arguments).envs(variables.iter().copied()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(what.to_owned()),
        Err(error) => Err(format!("{what} ({error})")),
    }
}

/// Whether a call succeeds; what it prints is nobody's business.
fn quietly(arguments: &[&str]) -> bool {
    Command::new(env!("CARGO")).args(arguments).output().is_ok_and(|output| output.status.success())
}

fn say(text: &str) {
    // Whoever closed the stream does not want to know.
    let _ = writeln!(std::io::stderr(), "{text}");
}
