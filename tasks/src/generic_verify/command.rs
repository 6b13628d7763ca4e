//! `command`: a program of the operator's list, as an argument list, with an empty environment.
//!
//! No shell, no expression among the arguments, nothing on standard input. Its process group ends with the check.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use graylane_engine::clock::{DURATION_PATTERN, show_duration};
use graylane_engine::document::Finding;
use graylane_engine::task::{TaskContext, TaskError};
use rustix::process::{Pid, Signal, kill_process_group};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

use super::program::{self, Ends, Given, tail};
use super::samples::Sample;
use crate::environment::Checks;

const DEADLINE: Duration = Duration::from_secs(60);
/// How much of what it prints is kept; the rest is read and dropped, so that it is not held up.
const KEPT: usize = 64 * 1024;
const KEPT_LINES: usize = 500;

/// Runs a program that the environment lists.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CommandWith {
    /// The program, by its whole path, and its arguments. No shell reads them.
    #[schemars(extend("minItems" = 1))]
    pub run: Vec<String>,
    /// Its environment: nothing but this.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// How long it may take; 1m where nothing is said.
    #[serde(default)]
    #[schemars(regex(pattern = DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub deadline: Option<String>,
    /// The exit codes that are right; 0 where nothing is said.
    #[serde(default)]
    #[schemars(extend("minItems" = 1))]
    pub exit_codes: Option<Vec<u8>>,
}

/// A command, ready to be run; secrets in its environment are still marks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Planned {
    run: Vec<String>,
    env: BTreeMap<String, String>,
    #[serde(flatten)]
    ends: Ends,
}

/// What no schema can say.
pub(super) fn check(command: &Value, listed: Option<&Checks>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(finding) = super::written_out(command, "", "a command") {
        return vec![finding];
    }
    if let Some(run) = command.get("run") {
        findings.extend(super::written_out(run, "/run", "a command"));
        for (index, argument) in run.as_array().into_iter().flatten().enumerate() {
            findings.extend(super::written_out(argument, &format!("/run/{index}"), "a command"));
        }
        if let (Some(program), Some(checks)) = (run.pointer("/0").and_then(Value::as_str), listed)
            && !program.contains("${{")
            && let Err((why, hint)) = listed_program(program, checks)
        {
            findings.push(Finding::at("/run/0", why).hint(hint));
        }
    }
    findings.extend(program::check(command));
    findings
}

/// Whether a program may be run, with what to do where it may not.
fn listed_program(program: &str, checks: &Checks) -> Result<(), (String, String)> {
    if !Path::new(program).is_absolute() {
        return Err((format!("`{program}` is not a whole path"), "write `/usr/local/bin/NAME`".into()));
    }
    if checks.commands.iter().any(|listed| listed == program) {
        return Ok(());
    }
    let why = if checks.commands.is_empty() {
        "the environment lists no program for command checks".to_owned()
    } else {
        format!("the environment does not let checks run `{program}`")
    };
    Err((why, format!("the operator adds `{program}` to `checks.commands`")))
}

impl CommandWith {
    pub(super) fn plan(&self, checks: &Checks) -> Result<Planned, String> {
        let program = self.run.first().ok_or("a command names a program")?;
        listed_program(program, checks).map_err(|(why, hint)| format!("{why}: {hint}"))?;
        let given = Given {
            env: &self.env,
            deadline: self.deadline.as_deref(),
            exit_codes: self.exit_codes.as_deref(),
        };
        Ok(Planned { run: self.run.clone(), env: self.env.clone(), ends: given.ends(DEADLINE)? })
    }
}

impl Planned {
    /// In words; values of variables are left out.
    pub(super) fn words(&self) -> String {
        self.run.join(" ")
    }
}

/// A process group that ends when this is dropped: with the check, with a cancel, and where the attempt is aborted.
struct Group {
    child: Child,
    leader: Option<Pid>,
}

impl Group {
    fn kill(&mut self) {
        if let Some(leader) = self.leader.take() {
            // It may have ended by itself.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs it once.
pub(super) async fn look(cx: &TaskContext, name: &str, planned: &Planned) -> Result<Sample, TaskError> {
    let Some((program, arguments)) = planned.run.split_first() else {
        return Err(TaskError::permanent("a command names a program"));
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut secrets = Vec::new();
    for (name, value) in &planned.env {
        command.env(name, cx.reveal(value)?);
        secrets.extend(cx.secrets_in(value)?);
    }
    secrets.retain(|secret| !secret.is_empty());
    let child = command.spawn().map_err(|error| {
        TaskError::permanent(format!("check `{name}`: {program} cannot be started: {error}"))
            .hint("it must be there, and may be run by the user of this process")
    })?;
    let leader = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let mut group = Group { child, leader };
    let (out, err) = (group.child.stdout.take(), group.child.stderr.take());
    let deadline = planned.ends.deadline();
    let ended = tokio::select! {
        ended = tokio::time::timeout(deadline, async {
            // Whoever it started may still hold the pipes: its own end counts.
            let mut read = Box::pin(async { tokio::join!(kept(out), kept(err)) });
            tokio::select! {
                (out, err) = &mut read => (group.child.wait().await, out, err),
                status = group.child.wait() => {
                    let left = tokio::time::timeout(Duration::from_millis(500), read).await;
                    let (out, err) = left.unwrap_or_default();
                    (status, out, err)
                }
            }
        }) => ended,
        () = cx.cancel.cancelled() => {
            group.kill();
            return Err(super::stopped(name));
        }
    };
    group.kill();
    let Ok((status, out, err)) = ended else {
        return Ok(Sample::wrong(format!(
            "it did not end within {}, and was killed",
            show_duration(deadline)
        )));
    };
    let status = status.map_err(|error| TaskError::transient(format!("check `{name}`: {error}")))?;
    let hidden = |bytes: Vec<u8>| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        secrets.iter().fold(text, |text, secret| text.replace(secret.as_str(), "[secret]"))
    };
    let (out, err) = (hidden(out), hidden(err));
    let lines: Vec<&str> = out.lines().chain(err.lines()).collect();
    for line in lines.iter().take(KEPT_LINES) {
        cx.log(format!("{name}: {line}"));
    }
    if lines.len() > KEPT_LINES {
        cx.log(format!("{name}: ({} more lines are left out)", lines.len() - KEPT_LINES));
    }
    let said = tail(if err.trim().is_empty() { &out } else { &err });
    Ok(match status.code() {
        Some(code) => planned.ends.judged(code.into(), &said),
        None => Sample::wrong(format!("{status}{said}")),
    })
}

/// All that is printed, as much as is kept.
async fn kept(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut pipe) = pipe else { return kept };
    let mut piece = [0; 8192];
    while let Ok(read) = pipe.read(&mut piece).await {
        if read == 0 {
            break;
        }
        let room = KEPT.saturating_sub(kept.len()).min(read);
        kept.extend_from_slice(&piece[..room]);
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use graylane_engine::clock::WallClock;
    use graylane_engine::id::RunId;
    use serde_json::json;

    use super::*;

    fn checks() -> Checks {
        Checks { commands: vec!["/bin/sh".into()], ..Checks::default() }
    }

    #[test]
    fn only_listed_programs_run_and_no_expression_reaches_them() {
        let hint = "the operator adds `/bin/bash` to `checks.commands`";
        for (command, checks, expected) in [
            (json!({ "run": ["/bin/sh", "-c", "true"], "env": { "TAG": "${{ inputs.tag }}" } }), checks(), vec![]),
            (
                json!({ "run": ["/bin/bash"] }),
                checks(),
                vec![format!("/run/0: the environment does not let checks run `/bin/bash` () {hint}")],
            ),
            (
                json!({ "run": ["/bin/bash"] }),
                Checks::default(),
                vec![format!("/run/0: the environment lists no program for command checks () {hint}")],
            ),
            (
                json!({ "run": ["sh"] }),
                checks(),
                vec!["/run/0: `sh` is not a whole path () write `/usr/local/bin/NAME`".into()],
            ),
            (
                json!({ "run": ["/bin/sh", "-c", "echo ${{ inputs.tag }}"] }),
                checks(),
                vec![
                    "/run/2: an expression cannot stand in a command (write it out) give its value through `env`".into(),
                ],
            ),
            (
                json!({ "run": "${{ inputs.run }}" }),
                checks(),
                vec!["/run: an expression cannot stand in a command (write it out) give its value through `env`".into()],
            ),
            (
                json!({ "run": ["/bin/sh"], "env": { "A-B": "x" } }),
                checks(),
                vec!["/env/A-B: `A-B` cannot be the name of a variable () ".into()],
            ),
        ] {
            let found: Vec<String> = check(&command, Some(&checks))
                .into_iter()
                .map(|finding| {
                    format!("{}: {} ({}) {}", finding.pointer, finding.message, finding.label, finding.hints.join("; "))
                })
                .collect();
            assert_eq!(found, expected, "{command}");
        }
        // The list that a run was submitted with is asked again when it is planned.
        let with: CommandWith = serde_json::from_value(json!({ "run": ["/bin/bash"] })).expect("valid");
        assert!(with.plan(&checks()).is_err());
    }

    fn context() -> TaskContext {
        let (workflow, task) = ("w".parse().expect("a name"), "verify".parse().expect("a name"));
        let clock = Arc::new(WallClock::default());
        TaskContext::alone(RunId::new(1, 1), workflow, task, Value::Null, Arc::default(), clock)
    }

    /// A program with a helper that outlives it, and the file in which the helper's id appears.
    fn with_helper(folder: &Path, after: &str) -> (Vec<String>, PathBuf) {
        let file = folder.join("helper");
        let script = format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; {after}", file.display());
        (vec!["/bin/sh".into(), "-c".into(), script], file)
    }

    async fn helper(file: &Path) -> Pid {
        for _ in 0..5_000 {
            if let Ok(text) = std::fs::read_to_string(file) {
                return text.trim().parse().ok().and_then(Pid::from_raw).expect("an id");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("the helper never began");
    }

    /// Whether it goes on after so many looks; one that nobody has waited for is dead all the same.
    async fn lives(helper: Pid, looks: u32) -> bool {
        for _ in 0..looks {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", helper.as_raw_nonzero()));
            let state = stat.ok().and_then(|stat| stat.rsplit(") ").next()?.chars().next());
            if state.is_none_or(|state| state == 'Z') {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        true
    }

    #[tokio::test]
    async fn whatever_a_program_started_ends_with_its_check() {
        for (how, after, deadline_ms) in [
            ("it ended by itself", "exit 0", 60_000),
            ("its time was up", "wait", 300),
            ("the run was cancelled", "wait", 60_000),
            ("the attempt was aborted", "wait", 60_000),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let (run, file) = with_helper(folder.path(), after);
            let env = BTreeMap::new();
            let given = Given { env: &env, deadline: None, exit_codes: None };
            let ends = given.ends(Duration::from_millis(deadline_ms)).expect("a deadline");
            let planned = Planned { run, env, ends };
            let cx = context();
            let cancel = cx.cancel.clone();
            let check = tokio::spawn(async move { look(&cx, "smoke", &planned).await });
            let helper = helper(&file).await;
            match how {
                "the run was cancelled" => cancel.cancel(),
                "the attempt was aborted" => check.abort(),
                _ => {}
            }
            // An aborted one gives no answer.
            let _ = check.await;
            assert!(!lives(helper, 5_000).await, "{how}");
        }
    }

    /// The control: without a group that is ended, the helper goes on, and the look above would see it.
    #[tokio::test]
    async fn without_the_group_a_helper_outlives_its_check() {
        let folder = tempfile::tempdir().expect("a folder");
        let (run, file) = with_helper(folder.path(), "wait");
        let child = Command::new(&run[0]).args(&run[1..]).process_group(0).spawn().expect("started");
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).expect("an id");
        let helper = helper(&file).await;
        drop(Group { child, leader: None });
        let outlives = lives(helper, 100).await;
        kill_process_group(group, Signal::KILL).expect("ended");
        assert!(outlives);
        assert!(!lives(helper, 5_000).await, "nothing is left of the test");
    }
}
