//! `graylane schedule`, as it stands on the terminal.

use std::collections::{BTreeMap, BTreeSet};

use graylane_engine::clock::{Clock as _, Timestamp, WallClock};
use graylane_engine::id::{Digest, RunId, Seq};
use graylane_engine::journal::{DiskJournal, Journal as _, Row, Together};
use graylane_engine::run::{Event, Record, Slot, Trigger};
use graylane_engine::schedule::{ScheduleKey, TZDATA};

use serde_json::Value;

use crate::support::daemon::Daemon;
use crate::support::{Home, until};

#[test]
fn next_shows_local_time_and_utc_and_marks_changes_of_the_clock() {
    let home = Home::new();
    let next = |cron: &str, zone: &str, from: &str, count: &str| {
        home.graylane(&["schedule", "next", cron, "--timezone", zone, "--from", from, "-n", count])
    };
    let words = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    let spring = next("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", "3").expect(0);
    assert_eq!(
        words(&spring.stdout),
        [
            "LOCAL UTC",
            "Sat 2026-03-28 02:30:00 +01:00 2026-03-28T01:30:00Z",
            "Sun 2026-03-29 03:00:00 +02:00 2026-03-29T01:00:00Z the clock goes forward, +01:00 to +02:00, at 2026-03-29T01:00:00Z, at this slot",
            "Mon 2026-03-30 02:30:00 +02:00 2026-03-30T00:30:00Z",
        ]
    );
    let either = next("0 9 13 * fri", "UTC", "2026-01-01T00:00:00Z", "3").expect(0);
    assert!(either.stderr.contains("either one is enough"), "{}", either.stderr);
    let json = home
        .graylane(&[
            "-o",
            "json",
            "schedule",
            "next",
            "@hourly",
            "--timezone",
            "Asia/Kathmandu",
            "--from",
            "2026-01-01T00:00:00Z",
            "-n",
            "1",
        ])
        .expect(0)
        .json();
    assert_eq!(json["slots"][0]["local"], "2026-01-01T06:00:00+05:45");
    assert_eq!(json["slots"][0]["utc"], "2026-01-01T00:15:00Z");
    assert_eq!((&json["follows_the_clock"], &json["tzdata"]), (&true.into(), &TZDATA.into()));
    for (cron, zone, from, expected) in [
        ("0 0 31 2 *", "UTC", "2026-01-01T00:00:00Z", "never occurs"),
        ("0 0 0 * * *", "UTC", "2026-01-01T00:00:00Z", "no seconds"),
        ("0 0 * * *", "Europe/Berlim", "2026-01-01T00:00:00Z", "did you mean `Europe/Berlin`?"),
        ("0 0 * * *", "UTC", "yesterday", "is not a time"),
    ] {
        let refused = next(cron, zone, from, "1").expect(2);
        assert!(refused.stderr.contains(expected), "{cron} {zone} {from}: {}", refused.stderr);
    }
    assert!(home.graylane(&["--version"]).expect(0).stdout.contains(&format!("time zones {TZDATA}")));
}

#[tokio::test]
async fn list_and_history_tell_how_schedules_stand() {
    let home = Home::new();
    let empty = home.graylane(&["schedule", "list"]).expect(0);
    assert!(empty.stderr.contains("no schedule"), "{}", empty.stderr);
    let at = |text: &str| -> Timestamp { format!("2026-05-10T{text}:00Z").parse().expect("a time") };
    let key = ScheduleKey::parse("team/release/nightly").expect("a schedule");
    let run = RunId::new(at("12:00").millis(), 5);
    let slot = Slot {
        source: "team".parse().expect("a name"),
        schedule: "nightly".into(),
        nominal: at("12:00"),
        actual: at("12:00"),
        catchup: false,
        tzdata: TZDATA.into(),
    };
    {
        let journal = DiskJournal::open(&home.path("data")).expect("opened");
        let event = Event::RunSubmitted {
            workflow: "release".parse().expect("a name"),
            revision: Digest::of(b"revision"),
            bundle: journal.put(b"bundle").expect("kept"),
            inputs: BTreeMap::new(),
            vars: BTreeMap::new(),
            secrets: BTreeSet::new(),
            trigger: Trigger::Schedule(Box::new(slot)),
            source: None,
            actor: "graylane".into(),
            left_out: BTreeSet::new(),
            origin: None,
            kept: BTreeMap::new(),
            environments: BTreeSet::new(),
            tags: BTreeSet::new(),
            key: None,
        };
        let records = vec![
            Record { run, seq: Seq(1), at: at("12:00"), event },
            Record { run, seq: Seq(2), at: at("12:00"), event: Event::RunAdmitted },
        ];
        let state = format!(
            r#"{{"version":1,"rev":3,"hash":"x","cron":"0 * * * *","timezone":"UTC","since":0,"decided":{},"counts":{{"fired":1}},"last":{{"nominal":{},"outcome":"fired","run":"{run}"}},"tzdata":"{TZDATA}"}}"#,
            at("12:00").millis(),
            at("12:00").millis()
        );
        let range = format!(
            r#"{{"from":{},"to":{},"count":3,"skip":"overlap","why":"run x is active"}}"#,
            at("09:00").millis(),
            at("11:00").millis()
        );
        let rows = vec![
            Row { key: key.row(), value: Some(state.into_bytes()) },
            Row { key: key.skip_row(at("09:00")), value: Some(range.into_bytes()) },
        ];
        journal.write(Together { records, rows, ..Together::default() }).await.expect("written");
    }
    let list = home.graylane(&["schedule", "list"]).expect(0).stdout;
    for words in ["team/release/nightly", "0 * * * *", "2026-05-10T13:00:00Z", &format!("fired, run {run}")] {
        assert!(list.contains(words), "{words}: {list}");
    }
    let lines = home.graylane(&["-o", "json", "schedule", "history", "release"]).expect(0).json();
    assert_eq!(lines[0]["outcome"], "fired");
    assert_eq!(lines[0]["run"], run.to_string());
    assert_eq!((&lines[1]["outcome"], &lines[1]["count"]), (&"skipped(overlap)".into(), &3.into()));
    assert_eq!(lines[1]["from"], "2026-05-10T09:00:00.000Z", "moments are RFC 3339, as everywhere");
    let skipped = home.graylane(&["schedule", "history", "--outcome", "skipped"]).expect(0).stdout;
    assert!(skipped.contains("(3)") && !skipped.contains(&run.to_string()), "{skipped}");
    let other = home.graylane(&["-o", "json", "schedule", "history", "hotfix"]).expect(0).json();
    assert_eq!(other, serde_json::json!([]));
    home.graylane(&["store", "check"]).expect(0);
}

const MINUTE: u64 = 60_000;

/// A workflow that is due each minute and touches no cluster.
fn minutely(name: &str, more: &str) -> String {
    format!(
        "name: {name}\ntriggers:\n  - {{ name: minutely, cron: \"* * * * *\"{more} }}\ntasks:\n  ask: {{ type: approval, when: \"${{{{ false }}}}\" }}\n"
    )
}

/// What became of a slot of a workflow, as the daemon tells it.
fn became(daemon: &Daemon, token: &str, workflow: &str, slot: Timestamp) -> Option<Value> {
    let lines = daemon.get(&format!("/api/v1/slots?schedule={workflow}"), token).json();
    lines.as_array().expect("a list").iter().find(|line| line["from"] == slot.to_string()).cloned()
}

/// One minute of the real clock: a daemon that is there when it begins, and one that was killed before and comes back after.
#[test]
fn a_slot_fires_through_the_daemon_and_one_that_passed_while_it_was_dead_is_decided_at_its_start() {
    let clock = WallClock::default();
    let now = || clock.now().millis();
    let (alive, dead) = (Home::new(), Home::new());
    alive.write("workflows/tick.yaml", &minutely("tick", ""));
    dead.write("workflows/late.yaml", &minutely("late", ", start_deadline: 1s, missed: latest"));
    dead.write("workflows/left.yaml", &minutely("left", ", start_deadline: 1s"));
    let (token, other) = (alive.token("boss", "admin", &[]), dead.token("boss", "admin", &[]));
    // Enough of the minute must be left for two daemons to start.
    until("a minute is young", || now() % MINUTE < 20_000);
    let slot = Timestamp::from_millis(now() / MINUTE * MINUTE + MINUTE);
    let (live, mut killed) = (alive.serve(&[]), dead.serve(&[]));
    for (daemon, token, count) in [(&live, &token, 1), (&killed, &other, 2)] {
        until("schedules are known", || {
            daemon.get("/api/v1/schedules", token).json().as_array().map(Vec::len) == Some(count)
        });
    }
    killed.signal("KILL");
    killed.ended();
    assert!(clock.now() < slot, "it was killed before the slot");

    let mut fired = None;
    until("the slot has fired", || {
        fired = became(&live, &token, "tick", slot);
        fired.is_some()
    });
    let fired = fired.expect("fired");
    assert_eq!((&fired["outcome"], &fired["schedule"]), (&"fired".into(), &"workflows/tick/minutely".into()));
    let run = fired["run"].as_str().expect("a run").to_owned();
    live.until(&token, &run, "succeeded");
    let shown = live.get(&format!("/api/v1/runs/{run}"), &token).json();
    assert_eq!((&shown["trigger"], &shown["actor"]), (&"schedule".into(), &"graylane".into()), "{shown}");
    let text = alive.graylane(&["runs", "show", &run]).expect(0).stdout;
    assert!(text.contains(&slot.to_string()), "its slot is told as a moment: {text}");
    let metrics = live.get("/metrics", &token).body;
    for line in [
        "graylane_slots_total{outcome=\"fired\"} 1\n",
        "graylane_schedules 1\n",
        "graylane_oldest_undecided_slot_seconds 0\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }

    // Nobody has decided the slots of the dead one; who looks is told, and what to do.
    until("its deadline is over", || now() > slot.millis() + 1_500);
    let status = dead.graylane(&["status", "-o", "json"]).expect(0).json();
    let undecided = &status["schedules"]["undecided"];
    assert_eq!(
        (&undecided["slot"], &undecided["command"]),
        (&slot.to_string().into(), &"graylane serve".into())
    );
    let text = dead.graylane(&["status"]).expect(0).stdout;
    assert!(text.contains("the oldest undecided slot") && text.contains("    graylane serve"), "{text}");
    let mut killed = dead.serve(&[]);
    for round in 0..2 {
        for (workflow, outcome) in [("late", "caught_up"), ("left", "skipped(missed)")] {
            until("the slot is decided", || {
                let outcome = became(&killed, &other, workflow, slot).map(|line| line["outcome"].clone());
                outcome.is_some_and(|outcome| outcome != "pending" && outcome != "queued")
            });
            let line = became(&killed, &other, workflow, slot).expect("decided");
            assert_eq!(line["outcome"], outcome, "{workflow}, round {round}: {line}");
            assert_eq!(line["run"].is_string(), workflow == "late", "{line}");
        }
        if round == 0 {
            // A second death changes nothing of what was decided.
            killed.signal("KILL");
            killed.ended();
            killed = dead.serve(&[]);
        }
    }
    let runs = killed.get("/api/v1/runs?trigger=catchup", &other).json();
    let of = |nominal: &str| {
        runs["runs"]
            .as_array()
            .expect("runs")
            .iter()
            .filter(|run| run["unique"].to_string().contains(nominal))
            .count()
    };
    assert_eq!(of(&format!("@{}", slot.millis() / 1_000)), 1, "one run, however often it came back: {runs}");
    let history = dead.graylane(&["schedule", "history", "workflows/late/minutely"]).expect(0).stdout;
    assert!(history.contains("caught_up"), "{history}");
    let left = dead.graylane(&["schedule", "history", "left", "--outcome", "missed"]).expect(0).stdout;
    assert!(left.contains("skipped(missed)"), "{left}");
}
