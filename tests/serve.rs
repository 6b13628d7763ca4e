//! The daemon as a team leaves it running: started, stopped, killed, and started wrongly.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::daemon::{QUICK, WAITS};
use crate::support::{Home, until};

#[test]
fn without_a_configuration_it_says_what_it_uses_and_carries_out_a_release() {
    let home = Home::new();
    fs::remove_dir_all(home.path("config")).expect("removed");
    let mut daemon = home.serve(&[]);
    for said in [
        "API           http://127.0.0.1:",
        "socket ",
        "no configuration: the embedded one",
        "workflows",
        "not needed here",
    ] {
        assert!(daemon.said.contains(said), "{said}: {}", daemon.said);
    }
    // The command speaks to the daemon, which carries the run out.
    let listed = daemon.ask("GET", "/api/v1/runs", None, None);
    assert_eq!((listed.status, listed.json()["runs"].as_array().map(Vec::len)), (200, Some(0)));
    let made = daemon.ask(
        "POST",
        "/api/v1/tokens",
        None,
        Some(&serde_json::json!({ "name": "me", "role": "admin" })),
    );
    assert_eq!(made.status, 401, "who may operate without a token cannot make one: {made:?}");
    let token = home.token("me", "admin", &[]);
    let ran = home
        .command(&["--server", &format!("http://{}", daemon.address), "run", "workflows/release.yaml"])
        .env("GRAYLANE_TOKEN", &token)
        .output()
        .expect("started");
    assert_eq!(ran.status.code(), Some(0), "{}", String::from_utf8_lossy(&ran.stderr));
    let runs = daemon.get("/api/v1/runs", &token).json();
    assert_eq!((&runs["runs"][0]["status"], &runs["runs"][0]["actor"]), (&"succeeded".into(), &"me".into()));
    daemon.signal("TERM");
    assert_eq!(daemon.ended().0, 0);
}

/// A release is under way, and its deploy takes seconds.
fn under_way(home: &Home, daemon: &crate::support::daemon::Daemon, token: &str) -> String {
    let file = fs::read_to_string(home.path("workflows/release.yaml")).expect("readable");
    let run = daemon.submit(token, &file);
    until("the deploy has a plan", || {
        let view = daemon.get(&format!("/api/v1/runs/{run}"), token).json();
        view["tasks"].as_array().is_some_and(|tasks| {
            tasks.iter().any(|task| task["name"] == "deploy" && task["plan"].is_string())
        })
    });
    run
}

#[test]
fn told_to_end_it_lets_what_runs_come_to_an_end_and_starts_nothing_more() {
    let home = Home::new();
    let token = home.token("ann", "admin", &[]);
    let slow = |command: &mut Command| {
        command.env("GRAYLANE_REHEARSAL_DELAYS", "realistic");
    };
    let mut daemon = home.serve_with(&["--drain", "60s"], slow);
    let run = under_way(&home, &daemon, &token);
    daemon.signal("TERM");
    let (code, said) = daemon.ended();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("nothing new starts"), "{said}");
    assert!(!said.contains("is cut off"), "the deploy came to its end: {said}");
    let shown = home.graylane(&["runs", "show", &run, "-o", "json"]).expect(0).json();
    let task = |name: &str| {
        let tasks = shown["tasks"].as_array().expect("tasks");
        tasks.iter().find(|task| task["name"] == name).expect("there").clone()
    };
    assert_eq!(task("deploy")["status"], "succeeded");
    assert_eq!(task("verify")["status"], "pending", "no attempt began after the signal");
    // The next one goes on by itself.
    let daemon = home.serve(&[]);
    assert!(
        daemon.said.contains("1 unfinished, which go on") || daemon.said.contains("tokens"),
        "{}",
        daemon.said
    );
    daemon.until(&token, &run, "succeeded");
}

#[test]
fn after_the_deadline_and_at_a_second_signal_what_runs_is_cut_off_and_resumed_by_the_next_one() {
    let home = Home::new();
    let token = home.token("ann", "admin", &[]);
    let slow = |command: &mut Command| {
        command.env("GRAYLANE_REHEARSAL_DELAYS", "realistic");
    };
    let mut daemon = home.serve_with(&["--drain", "10ms"], slow);
    let run = under_way(&home, &daemon, &token);
    daemon.signal("INT");
    let (code, said) = daemon.ended();
    assert!(code == 0 && said.contains("the time is up"), "{code}: {said}");
    let mut daemon = home.serve_with(&["--drain", "1h"], slow);
    daemon.signal("TERM");
    until("it drains", || daemon.stderr().contains("nothing new starts"));
    daemon.signal("TERM");
    let (code, said) = daemon.ended();
    assert!(code == 0 && said.contains("ended at once"), "{code}: {said}");
    let mut daemon = home.serve(&[]);
    // Killed like this, it leaves nothing tidy behind.
    daemon.signal("KILL");
    assert_eq!(daemon.ended().0, -1);
    let daemon = home.serve(&[]);
    daemon.until(&token, &run, "succeeded");
}

#[test]
fn what_it_needs_and_does_not_get_is_said_and_the_exit_code_tells_whose_it_is() {
    let home = Home::new();
    let mut daemon = home.serve(&[]);
    let taken = home.path("other").display().to_string();
    let ran = home.graylane(&["--data", &taken, "serve", "--listen", &daemon.address]).expect(3);
    assert!(ran.stderr.contains("cannot be listened at"), "{ran:?}");
    assert!(!Path::new(&taken).exists(), "nothing was opened: {ran:?}");
    for (arguments, code, says) in [
        (vec!["--listen", "0.0.0.0:0"], 2, "must not be served without TLS"),
        (vec!["--listen", "0.0.0.0:0", "--anonymous", "viewer"], 2, "without TLS and without tokens"),
        (vec!["--listen", "somewhere"], 2, "is no address"),
        (vec!["--listen", "127.0.0.1:0", "--tls-certificate", "none.pem"], 2, "needs `tls.key`"),
        (
            vec!["--listen", "127.0.0.1:0", "--tls-certificate", "none.pem", "--tls-key", "none.pem"],
            2,
            "none.pem: ",
        ),
        (vec!["--listen", "127.0.0.1:0", "--anonymous", "admin"], 2, "is not `none`, `viewer` or `operator`"),
        (vec!["--listen", "127.0.0.1:0", "--drain", "soon"], 2, "a duration"),
    ] {
        let ran = home.graylane(&[vec!["serve"], arguments.clone()].concat());
        assert_eq!(ran.code, code, "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(says), "{arguments:?}: {ran:?}");
    }
    home.write("typo.yaml", "drian: 10s\n");
    let ran = home.graylane(&["--config", &home.path("typo.yaml").display().to_string(), "serve"]).expect(2);
    assert!(ran.stderr.contains("typo.yaml:1:1") && ran.stderr.contains("drain"), "{ran:?}");
    fs::remove_dir_all(home.data()).expect("removed");
    let (code, said) = daemon.ended();
    assert!(code == 3 && said.contains("the store is lost"), "{code}: {said}");
}

#[test]
fn a_second_daemon_of_the_same_data_folder_is_refused_and_says_who_has_it() {
    let home = Home::new();
    let _daemon = home.serve(&[]);
    let ran = home.graylane(&["serve", "--listen", "127.0.0.1:0"]).expect(3);
    assert!(ran.stderr.contains("process"), "{ran:?}");
}

fn certificate(home: &Home, name: &str) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    for (kind, to) in [("pem", "server.pem"), ("key.pem", "server.key")] {
        fs::copy(from.join(format!("{name}.{kind}")), home.path(to)).expect("copied");
    }
    fs::copy(from.join("authority.pem"), home.path("authority.pem")).expect("copied");
}

#[test]
fn over_tls_a_context_speaks_to_it_and_a_new_certificate_is_shown_without_a_restart() {
    let home = Home::new();
    certificate(&home, "one");
    home.write("quick.yaml", QUICK);
    let token = home.token("ann", "admin", &[]);
    home.write("token", &format!("{token}\n"));
    let daemon = home.serve(&["--tls-certificate", "server.pem", "--tls-key", "server.key"]);
    assert!(daemon.said.contains("https://127.0.0.1:"), "{}", daemon.said);
    let server = format!("https://{}", daemon.address);
    // A stranger's authority is not trusted.
    let ran = home.graylane(&["--server", &server, "runs", "list"]).expect(3);
    assert!(ran.stderr.contains("nobody answers at https://"), "{ran:?}");
    let with = ["--server", &server, "--certificate-authority", "authority.pem", "--token-file", "token"];
    home.graylane(&[&["context", "set", "there"], &with[..]].concat()).expect(0);
    let run = home.graylane(&["--context", "there", "run", "quick.yaml"]);
    assert_eq!(run.code, 0, "{run:?}");
    // Plain HTTP is not answered there, and hurts nobody.
    assert_eq!(daemon.ask("GET", "/api/v1/health", None, None).status, 0);
    certificate(&home, "two");
    until("the new certificate is shown", || daemon.stderr().contains("a new certificate is shown"));
    home.graylane(&["--context", "there", "runs", "list"]).expect(0);
    home.write("server.key", "no key");
    until("it is told", || daemon.stderr().contains("cannot be read again"));
    home.graylane(&["--context", "there", "runs", "list"]).expect(0);
}

#[test]
fn contexts_are_kept_where_only_their_owner_reads_them_and_never_show_a_token() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    let token = home.token("ann", "viewer", &[]);
    let daemon = home.serve(&[]);
    let server = format!("http://{}", daemon.address);
    let run = |arguments: &[&str]| {
        let output = home.command(arguments).env_remove("GRAYLANE_DATA").output().expect("started");
        (
            output.status.code(),
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
        )
    };
    home.write("token", &token);
    assert_eq!(run(&["context", "set", "here", "--server", &server, "--token-file", "token"]).0, Some(0));
    let (code, said) =
        run(&["context", "set", "far", "--server", "http://graylane.example.com", "--token-file", "token"]);
    assert!(code == Some(2) && said.contains("over plain HTTP"), "{said}");
    for wrong in ["ftp://x", "http://u:p@x", "https://x/deep", "x"] {
        let (code, said) = run(&["context", "set", "wrong", "--server", wrong]);
        assert!(code == Some(2) && said.contains("is no address of a server"), "{wrong}: {said}");
    }
    assert_eq!(run(&["context", "use", "here"]).0, Some(0));
    let (code, said) = run(&["runs", "list"]);
    assert!(code == Some(0) && said.contains("no run yet"), "{said}");
    let (code, said) = run(&["runs", "list", "--context", "nowhere"]);
    assert!(code == Some(2) && said.contains("there are: here"), "{said}");
    for shown in
        [run(&["context", "list"]), run(&["context", "show"]), run(&["context", "show", "-o", "json"])]
    {
        assert!(shown.0 == Some(0) && shown.1.contains(&server) && !shown.1.contains(&token), "{}", shown.1);
    }
    let file = home.path("no-config/graylane/contexts.json");
    let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set");
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    mode(0o644);
    let (code, said) = run(&["runs", "list"]);
    assert!(code == Some(2) && said.contains("chmod 600"), "{said}");
    mode(0o600);
    assert_eq!(run(&["context", "use", "local"]).0, Some(0));
    assert_eq!(run(&["context", "delete", "here"]).0, Some(0));
}

#[test]
fn a_revoked_token_and_a_killed_daemon_leave_the_ledger_as_it_was() {
    let home = Home::new();
    let token = home.token("ann", "admin", &[]);
    let other = home.token("bob", "viewer", &["--expires", "1d"]);
    let mut daemon = home.serve(&[]);
    assert_eq!(daemon.get("/api/v1/me", &other).json()["name"], "bob");
    let list = daemon.get("/api/v1/tokens", &token);
    let id =
        list.json().as_array().expect("a list").iter().find(|one| one["name"] == "bob").expect("bob")["id"]
            .clone();
    let id = id.as_str().expect("an id");
    assert!(!list.body.contains(&other) && !list.body.contains("hash"), "{list:?}");
    home.graylane(&["token", "revoke", id, "--reason", "gone"]).expect(0);
    assert_eq!(daemon.get("/api/v1/me", &other).code(), "unauthenticated");
    daemon.signal("KILL");
    daemon.ended();
    let daemon = home.serve(&[]);
    assert_eq!(daemon.get("/api/v1/me", &other).status, 401);
    assert_eq!(daemon.get("/api/v1/me", &token).status, 200);
    let audit = home.graylane(&["audit", "list"]).expect(0).stdout;
    for words in ["created token", "revoked token", "gone"] {
        assert!(audit.contains(words), "{audit}");
    }
    for path in crate::support::files_below(&home.data()) {
        let bytes = fs::read(&path).unwrap_or_default();
        let secret = token.as_bytes();
        assert!(
            !bytes.windows(secret.len()).any(|window| window == secret),
            "{} holds a token",
            path.display()
        );
    }
}

/// A small file system of its own; taken away when the test ends.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// None where it cannot be had: that needs root.
    fn mount(at: std::path::PathBuf, megabytes: u32) -> Option<SmallDisk> {
        fs::create_dir_all(&at).expect("made");
        let size = format!("size={megabytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "graylane-test"]).arg(&at);
        let mounted = mount.stderr(std::process::Stdio::null()).status();
        mounted.is_ok_and(|status| status.success()).then_some(SmallDisk(at))
    }

    /// Leaves no room.
    fn fill(&self) {
        use std::io::Write as _;
        let mut file = fs::File::create(self.0.join("stuffing")).expect("made");
        for piece in [vec![1; 1 << 20], vec![1; 4096]] {
            while file.write_all(&piece).is_ok() {}
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that was killed may still be closing its files.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn on_a_full_disk_nothing_new_begins_and_with_room_the_daemon_goes_on_by_itself() {
    let home = Home::new();
    let Some(disk) = SmallDisk::mount(home.data(), 48) else {
        crate::support::say("skipped: a small file system needs root");
        return;
    };
    let token = home.token("ann", "admin", &[]);
    let daemon = home.serve(&[]);
    let submit = || daemon.post("/api/v1/runs", &token, &crate::support::daemon::submission(QUICK));
    let mut runs = vec![daemon.submit(&token, QUICK)];
    disk.fill();
    // The store has a little room of its own.
    let refused = loop {
        let reply = submit();
        if reply.status != 200 {
            break reply;
        }
        runs.push(reply.json()["id"].as_str().expect("an id").to_owned());
        assert!(runs.len() < 5_000, "the disk never fills");
    };
    assert_eq!((refused.status, refused.code().as_str()), (500, "store"), "{refused:?}");
    assert!(daemon.stderr().contains("nothing new starts"), "{}", daemon.stderr());
    assert_eq!(submit().code(), "store", "and nothing is tried again with a handle that failed");
    let known = |run: &String| daemon.get(&format!("/api/v1/runs/{run}"), &token).status == 200;
    assert!(runs.iter().all(known), "what was acknowledged can be read");
    assert_eq!(daemon.get("/readyz", &token).status, 503);

    fs::remove_file(home.data().join("stuffing")).expect("removed");
    until("it writes again", || submit().status == 200);
    assert_eq!(daemon.get("/readyz", &token).status, 200);
    assert!(runs.iter().all(known), "nothing is lost");
    for run in &runs {
        daemon.until(&token, run, "succeeded");
    }
    let verified = home.graylane(&["audit", "verify"]).expect(0);
    assert!(!verified.stdout.contains("changed:"), "{verified:?}");
}

#[test]
fn systemd_is_told_when_it_is_ready_what_it_does_that_it_lives_and_that_it_ends() {
    let home = Home::new();
    let token = home.token("boss", "admin", &[]);
    let socket = UnixDatagram::bind(home.path("notify")).expect("bound");
    socket.set_read_timeout(Some(crate::support::PATIENCE)).expect("set");
    let mut daemon = home.serve_with(&[], |command| {
        command.env("NOTIFY_SOCKET", home.path("notify")).env("WATCHDOG_USEC", "400000");
    });
    let heard = || {
        let mut bytes = [0; 1024];
        let length = socket.recv(&mut bytes).expect("told in time");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let until = |words: &str| {
        let mut all = Vec::new();
        while all.last().is_none_or(|last: &String| !last.contains(words)) {
            all.push(heard());
        }
        all
    };
    let first: Vec<String> = until("READY=1");
    // A sign of life may come before; nothing else does.
    assert!(
        first.iter().all(|told| told.starts_with("READY=1\nSTATUS=") || told == "WATCHDOG=1"),
        "{first:?}"
    );
    let run = daemon.submit(&token, WAITS);
    daemon.until(&token, &run, "waiting");
    until("1 runs unfinished, 1 wait for people");
    until("WATCHDOG=1");
    until("WATCHDOG=1");
    daemon.signal("TERM");
    let last = until("STOPPING=1");
    assert!(last.last().is_some_and(|told| told.contains("EXTEND_TIMEOUT_USEC=30000000")), "{last:?}");
    assert_eq!(daemon.ended().0, 0);
}

#[test]
fn every_line_of_a_json_log_is_an_object_and_says_which_run_task_and_attempt_is_meant() {
    let home = Home::new();
    let token = home.token("boss", "admin", &[]);
    let mut daemon = home.serve_with(&["--drain", "10ms"], |command| {
        command
            .env("GRAYLANE_LOG_FORMAT", "json")
            .env("GRAYLANE_LOG", "warn,graylane=info,graylane::run=debug");
    });
    let failing = "name: release\ninputs: { tag: { type: string, default: Gray } }\ntasks:\n  down: { type: mse-gray-offline, with: { environment: production, tag: \"${{ inputs.tag }}\" } }\n";
    let [good, bad, waits] = [QUICK, failing, WAITS].map(|workflow| daemon.submit(&token, workflow));
    daemon.until(&token, &good, "succeeded");
    daemon.until(&token, &bad, "failed");
    daemon.until(&token, &waits, "waiting");
    assert_eq!(
        daemon.post(&format!("/api/v1/runs/{waits}/cancel"), &token, &serde_json::json!({})).status,
        200
    );
    daemon.until(&token, &waits, "cancelled");
    let run = daemon.submit(&token, WAITS);
    daemon.until(&token, &run, "waiting");
    daemon.signal("TERM");
    let (code, log) = daemon.ended();
    assert_eq!(code, 0, "{log}");
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert!(lines.iter().all(|line| line["timestamp"].is_string() && line["level"].is_string()), "{log}");
    // How a run ends is said once, and always in the same words.
    for (run, words, level) in
        [(&good, "run succeeded", "INFO"), (&bad, "run failed", "ERROR"), (&waits, "run cancelled", "WARN")]
    {
        let ends: Vec<&Value> = lines
            .iter()
            .filter(|line| line["target"] == "graylane::run" && line["fields"]["run"] == run.as_str())
            .collect();
        assert_eq!(ends.len(), 1, "{run}: {log}");
        assert_eq!((&ends[0]["fields"]["message"], &ends[0]["level"]), (&words.into(), &level.into()));
        assert_eq!(ends[0]["fields"]["workflow"], "release");
    }
    assert!(
        lines.iter().any(|line| line["fields"]["message"]
            .as_str()
            .is_some_and(|words| words.starts_with("stopping: "))),
        "{log}"
    );
    // What is said within an attempt says of which run, task and attempt it is.
    let within = lines.iter().find(|line| {
        line["fields"]["message"] == "an attempt begins" && line["spans"][0]["run"] == bad.as_str()
    });
    let spans = &within.unwrap_or_else(|| panic!("{log}"))["spans"];
    let names: Vec<&Value> = spans.as_array().expect("spans").iter().map(|span| &span["name"]).collect();
    assert_eq!(names, ["run", "task", "attempt"], "{spans}");
    assert_eq!(
        (&spans[0]["workflow"], &spans[1]["task"], &spans[1]["type"], &spans[2]["attempt"]),
        (&"release".into(), &"down".into(), &"mse-gray-offline".into(), &"1".into())
    );
}

#[test]
fn metrics_tell_of_the_store_the_lanes_and_the_runs() {
    let home = Home::new();
    let token = home.token("boss", "admin", &[]);
    let elsewhere = Home::new();
    let cluster = elsewhere.rehearsal("fast");
    let at = format!("cluster: {{ kubeconfig: {:?} }}", cluster.kubeconfig.display().to_string());
    home.edit("config/environments/production.yaml", "cluster: rehearsal", &at);
    home.graylane(&["run", "workflows/mse-gray-workflow.yaml", "--only", "deploy"]).expect(0);
    // The first measurement begins with the daemon.
    let daemon = home.serve(&[]);
    let waits = daemon.submit(&token, WAITS);
    daemon.until(&token, &waits, "waiting");
    let number = |series: &str| -> Option<f64> {
        let metrics = daemon.get("/metrics", &token).body;
        let line =
            metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned));
        line.and_then(|value| value.parse().ok())
    };
    for part in ["store", "objects"] {
        let series = format!("graylane_disk_bytes{{part=\"{part}\"}}");
        until("the disk was measured", || number(&series).is_some_and(|bytes| bytes > 0.0));
    }
    until("the lanes were counted", || number("graylane_lanes{environment=\"production\"}") == Some(1.0));
    for (series, expected) in [
        ("graylane_runs{state=\"waiting\"}", 1.0),
        ("graylane_store_runs{kept=\"unfinished\"}", 1.0),
        ("graylane_store_runs{kept=\"unsealed\"}", 1.0),
        ("graylane_journal_broken", 0.0),
        ("graylane_journal_append_failures_total", 0.0),
        ("graylane_schedules", 0.0),
        ("graylane_slots_total{outcome=\"fired\"}", 0.0),
    ] {
        assert_eq!(number(series), Some(expected), "{series}");
    }
    for series in [
        "graylane_journal_append_seconds_count",
        "graylane_api_request_seconds_count{route=\"/api/v1/runs\",method=\"POST\",status=\"200\"}",
        "graylane_oldest_run_seconds{state=\"waiting\"}",
    ] {
        assert!(number(series).is_some_and(|value| value > 0.0), "{series}");
    }
}
