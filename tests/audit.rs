//! Proof of the history, as an operator asks for it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use serde_json::Value;

use crate::support::{Home, Ran};

const QUICK: &str = "name: quick\ninputs:\n  tag: { type: string, default: Gray }\ntasks:\n  down:\n    type: mse-gray-offline\n    with: { environment: production, tag: \"${{ inputs.tag }}\" }\n";

/// A home with a workflow that fails at once, on its plan: a run costs nothing.
fn home() -> Home {
    let home = Home::new();
    home.write("workflows/quick.yaml", QUICK);
    home.edit("config/environments/production.yaml", "prod-workflow]", "prod-workflow, quick]");
    home
}

fn graylane(home: &Home, arguments: &[&str]) -> Ran {
    let output =
        home.command(arguments).env("XDG_CONFIG_HOME", home.path("config-home")).output().expect("ran");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn without_a_key_it_is_consistent_and_with_one_unchanged() {
    let home = home();
    graylane(&home, &["run", "workflows/quick.yaml"]).expect(1);
    let verified = graylane(&home, &["audit", "verify"]).expect(0);
    assert!(verified.stdout.starts_with("consistent: 2 entries, 1 runs"), "{}", verified.stdout);
    assert!(verified.stderr.contains("graylane audit key"), "{}", verified.stderr);
    let listed = graylane(&home, &["audit", "list"]).expect(0).stdout;
    assert!(listed.contains("submitted quick (manual)") && listed.contains("ann"), "{listed}");

    let key = graylane(&home, &["audit", "key"]).expect(0).stdout;
    assert_eq!(graylane(&home, &["audit", "key"]).expect(0).stdout, key, "a key is never replaced");
    graylane(&home, &["run", "workflows/quick.yaml"]).expect(1);
    let verified = graylane(&home, &["audit", "verify", "-o", "json"]).expect(0).json();
    assert_eq!((&verified["verdict"], &verified["entries"]), (&"unchanged".into(), &4.into()));
    let head = graylane(&home, &["audit", "head", "-o", "json"]).expect(0).json();
    assert_eq!(head["public_key"], key.trim());
    let exported = graylane(&home, &["audit", "export"]).expect(0).stdout;
    let lines: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 4);
    assert_eq!((&lines[3]["event"], &lines[3]["position"]), (&"run-finished".into(), &4.into()));

    // Another history under the same path: each fits together, and neither is the one that was signed.
    for (runs, words) in [(1, "tail was cut off"), (2, "it was rewritten"), (3, "it was rewritten")] {
        fs::remove_dir_all(home.data()).expect("removed");
        for _ in 0..runs {
            home.graylane(&["run", "workflows/quick.yaml"]).expect(1);
        }
        let changed = graylane(&home, &["audit", "verify"]).expect(1);
        assert!(
            changed.stdout.contains(words) && changed.stdout.contains("changed:"),
            "{runs}: {}",
            changed.stdout
        );
        let alone = home.graylane(&["audit", "verify"]).expect(0);
        assert!(alone.stdout.starts_with("consistent:"), "{}", alone.stdout);
        let told =
            home.graylane(&["audit", "verify", "--head", head["head"].as_str().expect("a head")]).expect(1);
        assert!(told.stdout.contains(words), "{runs}: {}", told.stdout);
    }
    let surprised = graylane(&home, &["run", "workflows/quick.yaml"]);
    assert!(surprised.stderr.contains("nothing is signed any more"), "{}", surprised.stderr);
    graylane(&home, &["audit", "verify"]).expect(1);
    home.graylane(&["audit", "verify", "--head", "nonsense"]).expect(2);
}

#[test]
fn a_finished_run_is_told_with_its_head_and_signature() {
    let home = home();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let settings = format!("environments: environments\nnotify: [{{ url: \"http://{address}/ended\" }}]\n");
    home.write("config/graylane.yaml", &settings);
    // The first try is refused, as by a server that restarts.
    let told = std::thread::spawn(move || {
        let mut bodies = Vec::new();
        for answer in ["503 Service Unavailable", "204 No Content"] {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut text = String::new();
            let mut part = [0; 4096];
            while !text.contains("}") {
                let read = stream.read(&mut part).expect("readable");
                text.push_str(&String::from_utf8_lossy(&part[..read]));
            }
            write!(stream, "HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .expect("written");
            bodies.push(text.split("\r\n\r\n").nth(1).expect("a body").to_owned());
        }
        bodies
    });
    let key = graylane(&home, &["audit", "key"]).expect(0).stdout;
    graylane(&home, &["run", "workflows/quick.yaml"]).expect(1);
    let bodies = told.join().expect("no panic");
    assert_eq!(bodies[0], bodies[1]);
    let body: Value = serde_json::from_str(&bodies[1]).expect("JSON");
    assert_eq!((&body["workflow"], &body["outcome"]), (&"quick".into(), &"failed".into()));
    assert_eq!(body["public_key"], key.trim());
    let head = body["head"].as_str().expect("a head");
    let verified = home.graylane(&["audit", "verify", "--head", head]).expect(0);
    assert!(verified.stdout.starts_with("unchanged:"), "{}", verified.stdout);
    let key = fs::read_to_string(home.path("config-home/graylane/audit.key")).expect("there");
    let inside = crate::support::files_below(&home.data());
    let leaked = inside
        .iter()
        .any(|path| fs::read(path).unwrap_or_default().windows(64).any(|part| part == key.trim().as_bytes()));
    assert!(!leaked, "the key is nowhere in the data folder");
}
