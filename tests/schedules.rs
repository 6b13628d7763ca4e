//! `graylane schedule`, as it stands on the terminal.

use std::collections::{BTreeMap, BTreeSet};

use graylane_engine::clock::Timestamp;
use graylane_engine::id::{Digest, RunId, Seq};
use graylane_engine::journal::{DiskJournal, Journal as _, Row, Together};
use graylane_engine::run::{Event, Record, Slot, Trigger};
use graylane_engine::schedule::{ScheduleKey, TZDATA};

use crate::support::Home;

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
    let skipped = home.graylane(&["schedule", "history", "--outcome", "skipped"]).expect(0).stdout;
    assert!(skipped.contains("(3)") && !skipped.contains(&run.to_string()), "{skipped}");
    let other = home.graylane(&["-o", "json", "schedule", "history", "hotfix"]).expect(0).json();
    assert_eq!(other, serde_json::json!([]));
    home.graylane(&["store", "check"]).expect(0);
}
