//! The API as programs see it: its document, and what it says.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::Home;
use crate::support::daemon::{Daemon, QUICK, WAITS, submission};

/// The document as the program writes it.
fn document(home: &Home) -> Value {
    home.graylane(&["schema", "api"]).expect(0).json()
}

#[test]
fn the_document_in_the_repository_is_the_one_that_is_served() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let kept: Value = serde_json::from_slice(&fs::read(file).expect("readable")).expect("JSON");
    let made = document(&Home::new());
    assert!(kept == made, "run `graylane schema api > docs/openapi.json`");
}

#[test]
fn every_reference_of_the_document_points_at_something() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(to)) = map.get("$ref") {
                    found.push(to.clone());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document(&Home::new());
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50, "the document has schemas");
    for to in found {
        let pointer = to.strip_prefix('#').unwrap_or_else(|| panic!("{to} leaves the document"));
        assert!(document.pointer(pointer).is_some(), "{to} points at nothing");
    }
}

/// A daemon, and an admin's token.
fn daemon(home: &Home) -> (Daemon, String) {
    let token = home.token("boss", "admin", &[]);
    (home.serve(&[]), token)
}

#[test]
fn every_refusal_is_a_problem_with_its_code_those_of_the_framework_too() {
    let home = Home::new();
    let (daemon, token) = daemon(&home);
    let bearer = format!("Bearer {token}");
    let json = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let plain = [("authorization", bearer.as_str()), ("content-type", "text/plain")];
    let large = format!("{{\"reason\":\"{}\"}}", "x".repeat(10_000_000));
    let run = daemon.submit(&token, WAITS);
    let cancel = format!("/api/v1/runs/{run}/cancel");
    let send = |method: &str, path: &str, headers: &[(&str, &str)], body: &str| {
        daemon.send(method, path, headers, body.as_bytes())
    };
    for (reply, status, code) in [
        (send("GET", "/nothing", &json, ""), 404, "not-found"),
        (send("GET", "/api/v1/runs/zzz", &json, ""), 404, "not-found"),
        (send("GET", "/api/v1/runs/latest/nothing", &json, ""), 404, "not-found"),
        (send("DELETE", "/api/v1/runs", &json, ""), 405, "wrong-method"),
        (send("POST", &cancel, &json, "{"), 400, "bad-request"),
        (send("POST", &cancel, &json, "{\"now\":\"soon\"}"), 400, "bad-request"),
        (send("POST", &cancel, &plain, "{}"), 415, "wrong-type"),
        (send("POST", &cancel, &json, &large), 413, "too-large"),
        (send("GET", "/api/v1/runs?limit=many", &json, ""), 400, "bad-request"),
        (send("GET", "/api/v1/runs?limit=0", &json, ""), 400, "bad-request"),
        (send("GET", "/api/v1/runs?colour=red", &json, ""), 400, "bad-request"),
        (send("GET", "/api/v1/runs?cursor=x", &json, ""), 400, "bad-cursor"),
        (send("GET", "/api/v1/plans/0", &json, ""), 400, "bad-request"),
        (send("GET", &format!("/api/v1/runs?token={token}"), &[], ""), 400, "token-in-address"),
        (send("GET", &format!("/api/v1/runs/{token}"), &json, ""), 400, "token-in-address"),
        (send("GET", "/api/v1/runs", &[("authorization", "Basic eDp5")], ""), 401, "unauthenticated"),
        (send("GET", "/api/v1/runs", &[], ""), 401, "unauthenticated"),
        (send("GET", "/api/v1/events", &[json[0], ("last-event-id", "x")], ""), 400, "bad-request"),
        (send("POST", "/api/v1/workflows/workflows/nothing/runs", &json, "{}"), 404, "not-found"),
        (
            send("POST", &format!("/api/v1/runs/{run}/answer"), &json, "{\"answer\":\"skip\"}"),
            409,
            "not-waiting",
        ),
    ] {
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{reply:?}");
        assert!(!reply.body.contains(&token), "{reply:?}");
    }
    assert_eq!(daemon.get(&format!("/api/v1/runs/{run}"), &token).json()["status"], "waiting");
    let refused = daemon.ask("GET", "/api/v1/runs", None, None);
    assert!(refused.header("www-authenticate").is_some_and(|how| how.starts_with("Bearer")), "{refused:?}");
    for _ in 0..10 {
        daemon.get("/api/v1/me", "glt_none_wrong");
    }
    let limited = daemon.get("/api/v1/me", "glt_none_wrong");
    assert_eq!(limited.code(), "too-many-requests");
    assert!(limited.header("retry-after").is_some(), "{limited:?}");
    assert_eq!(daemon.get("/api/v1/me", &token).status, 200, "who was right from there before is let in");
}

#[test]
fn a_list_goes_on_where_it_ended_and_a_cursor_of_another_list_is_refused() {
    let home = Home::new();
    let (daemon, token) = daemon(&home);
    let mut runs: Vec<String> = (0..7).map(|_| daemon.submit(&token, QUICK)).collect();
    runs.reverse();
    let (mut seen, mut path) = (Vec::new(), "/api/v1/runs?limit=3&workflow=release".to_owned());
    let first = path.clone();
    loop {
        let page = daemon.get(&path, &token).json();
        seen.extend(
            page["runs"]
                .as_array()
                .expect("runs")
                .iter()
                .map(|run| run["id"].as_str().expect("an id").to_owned()),
        );
        let Some(next) = page["next"].as_str() else { break };
        path = format!("{first}&cursor={next}");
    }
    assert_eq!(seen, runs);
    let cursor = path.split("cursor=").nth(1).expect("a cursor");
    let other = daemon.get(&format!("/api/v1/runs?workflow=other&cursor={cursor}"), &token);
    assert_eq!(other.code(), "bad-cursor");
    // What has not changed is not sent again.
    let reply = daemon.get(&first, &token);
    let tag = reply.header("etag").expect("a tag").to_owned();
    let bearer = format!("Bearer {token}");
    let again =
        |tag: &str| daemon.send("GET", &first, &[("authorization", &bearer), ("if-none-match", tag)], b"");
    assert_eq!((again(&tag).status, again(&tag).body.as_str()), (304, ""));
    daemon.submit(&token, QUICK);
    assert_eq!(again(&tag).status, 200);
}

#[test]
fn the_same_key_gives_the_same_run_after_a_kill_too() {
    let home = Home::new();
    let (mut daemon, token) = daemon(&home);
    let other = home.token("other", "admin", &[]);
    let send = |daemon: &Daemon, token: &str, key: &str, workflow: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("idempotency-key", key),
        ];
        daemon.send("POST", "/api/v1/runs", &headers, submission(workflow).to_string().as_bytes())
    };
    let first = send(&daemon, &token, "k1", QUICK).json();
    assert_eq!(send(&daemon, &token, "k1", QUICK).json(), first);
    assert_eq!(send(&daemon, &token, "k1", WAITS).code(), "key-taken");
    assert_ne!(send(&daemon, &token, "k2", QUICK).json(), first);
    assert_ne!(send(&daemon, &other, "k1", QUICK).json(), first, "another caller's key is another key");
    daemon.signal("KILL");
    daemon.ended();
    let daemon = home.serve(&[]);
    assert_eq!(send(&daemon, &token, "k1", QUICK).json(), first);
    assert_eq!(daemon.get("/api/v1/runs", &token).json()["runs"].as_array().map(Vec::len), Some(3));
}

/// What doubles something where it is asked for twice: the same key gives the same run, whatever has become of things since.
#[test]
fn undo_retry_rerun_and_a_run_by_name_are_begun_once_under_their_key_after_a_kill_too() {
    let home = Home::new();
    home.write("workflows/quick.yaml", &QUICK.replace("name: release", "name: quick"));
    let (mut daemon, token) = daemon(&home);
    let file = |name: &str| fs::read_to_string(home.path(name)).expect("readable");
    let lane = daemon.submit(&token, &file("workflows/mse-gray-workflow.yaml"));
    daemon.until(&token, &lane, "succeeded");
    // It fails at once: there is something to try again.
    let failing = "name: release\ninputs: { tag: { type: string, default: Gray } }\ntasks:\n  down: { type: mse-gray-offline, with: { environment: production, tag: \"${{ inputs.tag }}\" } }\n";
    let failed = daemon.submit(&token, failing);
    daemon.until(&token, &failed, "failed");
    let bearer = format!("Bearer {token}");
    let send = |daemon: &Daemon, path: &str, key: &str, body: &Value| {
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("idempotency-key", key),
        ];
        daemon.send("POST", path, &headers, body.to_string().as_bytes())
    };
    let follow_up = |run: &str| format!("/api/v1/runs/{run}/follow-up");
    let by_name = "/api/v1/workflows/workflows/quick/runs".to_owned();
    // `latest` is another run the second time, and what was taken back cannot be taken back again.
    let wishes = [
        ("rerun", follow_up("latest"), json!({ "how": "rerun" }), json!({ "how": "retry" })),
        ("retry", follow_up(&failed), json!({ "how": "retry" }), json!({ "how": "retry", "from": "down" })),
        ("undo", follow_up(&lane), json!({ "how": "undo" }), json!({ "how": "undo", "force": true })),
        ("named", by_name, json!({}), json!({ "only": ["ask"] })),
    ];
    let begun: Vec<Value> = wishes
        .iter()
        .map(|(key, path, body, other)| {
            let reply = send(&daemon, path, key, body);
            assert_eq!(reply.status, 200, "{key}: {reply:?}");
            assert_eq!(send(&daemon, path, key, body).json(), reply.json(), "{key}");
            assert_eq!(send(&daemon, path, key, other).code(), "key-taken", "{key}");
            reply.json()
        })
        .collect();
    let undo = begun[2]["id"].as_str().expect("an id").to_owned();
    daemon.until(&token, &undo, "succeeded");
    let again = json!({ "how": "undo" });
    // The control: without the key it is refused, or another run.
    assert_eq!(daemon.post(&follow_up(&lane), &token, &again).code(), "refused");
    daemon.signal("KILL");
    daemon.ended();
    fs::remove_file(home.path("workflows/quick.yaml")).expect("removed");
    let daemon = home.serve(&[]);
    for ((key, path, body, other), before) in wishes.iter().zip(&begun) {
        assert_eq!(send(&daemon, path, key, body).json(), *before, "{key}");
        assert_eq!(send(&daemon, path, key, other).code(), "key-taken", "{key}");
    }
    assert_eq!(daemon.get("/api/v1/runs", &token).json()["runs"].as_array().map(Vec::len), Some(6));
}

/// Reads events until one holds this text; gives all of them, as (id, name, data).
fn events(
    daemon: &Daemon,
    path: &str,
    token: &str,
    last: Option<&str>,
    until: &str,
) -> Vec<(String, String, String)> {
    use std::io::{BufRead as _, BufReader, Write as _};
    let mut stream = daemon.connect();
    let last = last.map(|last| format!("last-event-id: {last}\r\n")).unwrap_or_default();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{last}\r\n")
        .expect("sent");
    let mut found = Vec::new();
    let (mut id, mut name) = (String::new(), String::new());
    for line in BufReader::new(stream).lines() {
        let line = line.expect("in time");
        if let Some(text) = line.strip_prefix("id: ") {
            id = text.to_owned();
        } else if let Some(text) = line.strip_prefix("event: ") {
            name = text.to_owned();
        } else if let Some(text) = line.strip_prefix("data: ") {
            found.push((std::mem::take(&mut id), std::mem::take(&mut name), text.to_owned()));
            if text.contains(until) {
                return found;
            }
        }
    }
    panic!("{until} never came: {found:?}");
}

#[test]
fn who_comes_back_with_the_last_event_misses_nothing_however_far_behind() {
    let home = Home::new();
    let (daemon, token) = daemon(&home);
    let run = daemon.submit(&token, QUICK);
    daemon.until(&token, &run, "succeeded");
    let path = format!("/api/v1/runs/{run}/events");
    let all = events(&daemon, &path, &token, None, "\"outcome\":\"succeeded\",\"inputs\"");
    let ids: Vec<&str> = all.iter().map(|(id, _, _)| id.as_str()).collect();
    assert_eq!((ids[..2].to_vec(), all.last().map(|last| last.1.as_str())), (vec!["1", "2"], Some("ended")));
    let rest = events(&daemon, &path, &token, Some("2"), "\"outcome\":\"succeeded\",\"inputs\"");
    assert_eq!(rest, all[2..]);
    // More than one page of the log, and more than a follower's channel is asked to hold at a time.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..75).for_each(|_| drop(daemon.submit(&token, QUICK))));
        }
    });
    let last = daemon.submit(&token, WAITS);
    let behind = events(&daemon, "/api/v1/events", &token, Some("0"), &last);
    let numbered: Vec<u64> = behind
        .iter()
        .filter(|(_, name, _)| name == "audit")
        .map(|(id, _, _)| id.parse().expect("a number"))
        .collect();
    assert!(numbered.len() > 500, "{}", numbered.len());
    assert_eq!(numbered, (1..=numbered.len() as u64).collect::<Vec<_>>(), "each once, in its order");
}

#[test]
fn a_client_that_sends_its_request_slowly_is_sent_away_and_keeps_nobody_waiting() {
    use std::io::{Read as _, Write as _};
    let home = Home::new();
    let (daemon, token) = daemon(&home);
    let mut slow: Vec<_> = (0..20).map(|_| daemon.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /api/v1/runs HTTP/1.1\r\nx-slow: ").expect("sent");
    }
    assert_eq!(daemon.get("/api/v1/runs", &token).status, 200);
    for stream in &mut slow {
        let mut rest = Vec::new();
        // It ends, with or without a word: that is all that is asked.
        let _ = stream.read_to_end(&mut rest);
    }
}
