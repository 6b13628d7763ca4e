//! Followers that are far behind: each event once and in its order, with bounded memory, and nobody else waits.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use graylane_engine::clock::Timestamp;
use graylane_engine::id::{Attempt, Digest, RunId, Seq};
use graylane_engine::journal::{DiskJournal, Journal as _, Query, Together};
use graylane_engine::ledger::{Deed, DeedRecord};
use graylane_engine::run::{Event, Outcome, Record, Trigger};
use tokio::time::Instant;

use crate::history::quick;
use crate::support::Home;
use crate::support::daemon::{Daemon, QUICK};

/// How many events there are before anybody follows.
const EVENTS: u64 = 100_000;
/// How many of them are of runs: one as it is submitted, one as it ends.
const OF_RUNS: u64 = 12_000;
/// How many are written at a time.
const BATCHES: u64 = 40;

fn submitted(bundle: &Digest) -> Event {
    Event::RunSubmitted {
        workflow: "release".parse().expect("a name"),
        revision: Digest::of(b"revision"),
        bundle: bundle.clone(),
        inputs: Default::default(),
        vars: Default::default(),
        secrets: Default::default(),
        trigger: Trigger::Manual,
        actor: "ann".into(),
        left_out: BTreeSet::new(),
        origin: None,
        kept: Default::default(),
        environments: BTreeSet::new(),
        tags: BTreeSet::new(),
        source: None,
        key: None,
    }
}

/// Years of use, written fast: runs that have ended, and deeds.
async fn fill(home: &Home) {
    let journal = DiskJournal::open(&home.data()).expect("opened");
    let bundle = journal.put(b"bundle").expect("kept");
    let at = |number: u64| Timestamp::from_millis(1_700_000_000_000 + number);
    let (runs, deeds) = (OF_RUNS / 2 / BATCHES, (EVENTS - OF_RUNS) / BATCHES);
    for batch in 0..BATCHES {
        let records = (batch * runs..(batch + 1) * runs).flat_map(|number| {
            let run = RunId::new(at(number).millis(), u128::from(number));
            let record = |seq: u64, event: Event| Record { run, seq: Seq(seq), at: at(number), event };
            let ended = Event::RunFinished { outcome: Outcome::Succeeded, reason: None, undone_by: None };
            [record(1, submitted(&bundle)), record(2, Event::RunAdmitted), record(3, ended)]
        });
        let deeds = (batch * deeds..(batch + 1) * deeds).map(|number| {
            let (environment, tag) = ("production".to_owned(), "gray".to_owned());
            let deed = Deed::LaneRenewed { environment, tag, until: at(number), by: "ann".into() };
            DeedRecord { seq: Seq(number + 1), at: at(number), deed }
        });
        let together = Together { records: records.collect(), deeds: deeds.collect(), ..Together::default() };
        journal.write(together).await.expect("written");
    }
    assert_eq!(journal.head().position, EVENTS);
}

/// What a process holds in memory, in bytes.
fn memory(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("told");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
}

/// A stream that is read event by event.
struct Follower {
    lines: std::io::Lines<BufReader<TcpStream>>,
}

impl Follower {
    fn new(daemon: &Daemon, path: &str, token: &str, last: u64) -> Follower {
        let mut stream = daemon.connect();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nlast-event-id: {last}\r\n\r\n"
        )
        .expect("sent");
        Follower { lines: BufReader::new(stream).lines() }
    }

    /// The id of the next event that has one, and its data.
    fn next(&mut self) -> (u64, String) {
        let mut id = None;
        loop {
            let line = self.lines.next().expect("it goes on").expect("in time");
            if let Some(text) = line.strip_prefix("id: ") {
                id = text.parse().ok();
            } else if let Some(data) = line.strip_prefix("data: ")
                && let Some(id) = id.take()
            {
                return (id, data.to_owned());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_a_hundred_thousand_events_behind_gets_each_once_in_order_and_keeps_nobody_waiting() {
    let home = Home::new();
    fill(&home).await;
    let token = home.token("boss", "admin", &[]);
    let daemon = home.serve(&[]);
    let prompt = |what: &str| {
        let began = Instant::now();
        assert_eq!(daemon.get("/api/v1/runs?limit=20", &token).status, 200);
        let run = daemon.submit(&token, QUICK);
        daemon.until(&token, &run, "succeeded");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(20), "{what}: {took:?}");
    };
    prompt("before anybody follows");
    let before = memory(&daemon);
    let mut most = 0;
    let mut held = |what: &str| {
        most = memory(&daemon).saturating_sub(before).max(most);
        assert!(most < 96 << 20, "{what}: {most} bytes more than before");
    };
    // They begin to read, and stop: what is sent waits for them.
    let mut asleep: Vec<Follower> =
        (0..10).map(|_| Follower::new(&daemon, "/api/v1/events", &token, 0)).collect();
    for follower in &mut asleep {
        assert_eq!(follower.next().0, 1);
    }
    for _ in 0..5 {
        prompt("while ten followers are asleep");
        held("while ten followers are asleep");
    }
    let mut slow = Follower::new(&daemon, "/api/v1/events", &token, 0);
    let mut expected = 0;
    let head = |daemon: &Daemon| -> u64 {
        let head = daemon.get("/api/v1/audit/head", &token).json();
        head.as_str()
            .and_then(|head| head.split_once(':'))
            .and_then(|(at, _)| at.parse().ok())
            .expect("a head")
    };
    let end = head(&daemon);
    assert!(end > EVENTS, "{end}");
    while expected < end {
        let (id, data) = slow.next();
        expected += 1;
        assert_eq!(id, expected, "each once, in its order");
        if id % 20_000 == 0 {
            assert!(data.contains(&format!("\"position\":{id}")), "{data}");
            prompt("while somebody catches up");
            held("while somebody catches up");
            // The connection is lost, and they come back with what they saw last.
            slow = Follower::new(&daemon, "/api/v1/events", &token, id);
        }
    }
    // From here on they hear of what happens.
    let run = daemon.submit(&token, QUICK);
    daemon.until(&token, &run, "succeeded");
    for expected in end + 1..=head(&daemon) {
        assert_eq!(slow.next().0, expected);
    }
    held("at the end");
    // Those who slept have lost nothing.
    let mut one = asleep.remove(0);
    for expected in 2..2_000 {
        assert_eq!(one.next().0, expected);
    }
    let beyond = daemon.send(
        "GET",
        "/api/v1/events",
        &[("authorization", &format!("Bearer {token}")), ("last-event-id", "99999999")],
        b"",
    );
    assert_eq!(beyond.code(), "bad-request");
}

/// A run as long as several pages: real records of a real run, with more phases between them.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_run_is_followed_from_any_of_its_events_to_its_end() {
    const MORE: u64 = 3_000;
    let home = quick();
    home.graylane(&["run", "workflows/quick.yaml"]).expect(1);
    let long = RunId::new(1_700_000_000_000, 7);
    let length = {
        let journal = DiskJournal::open(&home.data()).expect("opened");
        let run = journal.list(&Query::default()).expect("listed").runs[0].id;
        let mut events: Vec<Event> =
            journal.read(run).expect("read").into_iter().map(|record| record.event).collect();
        let began = events.iter().position(|event| matches!(event, Event::AttemptStarted { .. }));
        let began = began.expect("an attempt") + 1;
        let phases = (0..MORE).map(|number| Event::PhaseEntered {
            task: "down".parse().expect("a name"),
            attempt: Attempt::FIRST,
            phase: format!("phase {number}"),
        });
        events.splice(began..began, phases.collect::<Vec<_>>());
        let record = |(seq, event)| Record {
            run: long,
            seq: Seq(seq),
            at: Timestamp::from_millis(1_700_000_000_000 + seq),
            event,
        };
        let records: Vec<Record> = (1..).zip(events).map(record).collect();
        let length = records.len() as u64;
        journal.append(records).await.expect("written");
        length
    };
    let token = home.token("boss", "admin", &[]);
    let daemon = home.serve(&[]);
    let path = format!("/api/v1/runs/{long}/events");
    let from = |last: &str| {
        let bearer = format!("Bearer {token}");
        daemon.send("GET", &path, &[("authorization", &bearer), ("last-event-id", last)], b"")
    };
    for last in [0, 1, 999, 1_000, 1_500, length - 1, length] {
        let reply = from(&last.to_string());
        let ids: Vec<u64> =
            reply.body.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect();
        assert_eq!(ids, (last + 1..=length).collect::<Vec<_>>(), "after {last}");
        assert_eq!(reply.body.matches("event: ended\n").count(), 1, "after {last}");
    }
    assert_eq!(from(&(length + 1).to_string()).code(), "bad-request");
    let lines = daemon.get(&format!("/api/v1/runs/{long}/follow"), &token).body.lines().count();
    assert_eq!(lines as u64, length + 1);
}
