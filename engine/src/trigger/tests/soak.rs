//! A year of schedules under a clock that is moved, with restarts: every slot of the year has exactly one outcome.
//!
//! The judge walks the calendar minute by minute and knows neither the `cron` crate nor how we search for slots.

use chrono::{Datelike as _, NaiveDateTime, TimeZone as _, Timelike as _};
use chrono_tz::Tz;

use super::*;

type Fits = fn(&NaiveDateTime) -> bool;

/// A schedule of the year: name, expression, zone, which local minutes it matches, whether it covers the whole day.
const SCHEDULES: [(&str, &str, &str, Fits, bool); 6] = [
    ("night", "30 2 * * *", "Europe/Berlin", |t| t.hour() == 2 && t.minute() == 30, false),
    ("midnight", "@daily", "America/Santiago", |t| t.hour() == 0 && t.minute() == 0, false),
    (
        "quarter",
        "15 */6 * * *",
        "Australia/Lord_Howe",
        |t| t.hour().is_multiple_of(6) && t.minute() == 15,
        false,
    ),
    (
        "either",
        "0 9 1,15 * mon",
        "Asia/Kathmandu",
        |t| {
            (t.day() == 1 || t.day() == 15 || t.weekday().num_days_from_monday() == 0)
                && t.hour() == 9
                && t.minute() == 0
        },
        false,
    ),
    ("hours", "10 * * * *", "Europe/Berlin", |t| t.minute() == 10, true),
    (
        "leap",
        "0 12 29 2 *",
        "UTC",
        |t| t.month() == 2 && t.day() == 29 && t.hour() == 12 && t.minute() == 0,
        false,
    ),
];

/// The slots of a schedule from one moment up to another, by walking over every minute.
fn walk(zone: Tz, fits: Fits, interval_like: bool, from: Timestamp, until: Timestamp) -> BTreeSet<Timestamp> {
    let minute = |at: u64| {
        let seconds = i64::try_from(at * 60).expect("small");
        zone.timestamp_opt(seconds, 0).single().expect("an instant").naive_local()
    };
    let mut slots = BTreeSet::new();
    let mut latest = minute(from.millis() / 60_000);
    for at in from.millis() / 60_000 + 1..=until.millis() / 60_000 {
        let (before, now) = (minute(at - 1), minute(at));
        let mut is_slot = fits(&now);
        if !interval_like {
            // A local minute that was there before is not a slot again.
            is_slot = is_slot && now > latest;
            // What the clock jumped over is a slot at the first minute after it.
            let mut skipped = before + chrono::TimeDelta::minutes(1);
            while skipped < now {
                is_slot |= fits(&skipped);
                skipped += chrono::TimeDelta::minutes(1);
            }
        }
        latest = latest.max(now);
        if is_slot {
            slots.insert(Timestamp::from_millis(at * 60_000));
        }
    }
    slots
}

/// All slots that lines tell, each with its outcome; two outcomes of one slot are an error.
fn expand(lines: &[SlotLine], known: &BTreeSet<Timestamp>) -> BTreeMap<Timestamp, String> {
    let mut outcomes = BTreeMap::new();
    for line in lines {
        let slots: Vec<Timestamp> = known.range(line.from..=line.to).copied().collect();
        assert_eq!(slots.len() as u64, line.count, "the calendar has other slots: {line:?}");
        for slot in slots {
            let before = outcomes.insert(slot, line.outcome.clone());
            assert_eq!(before, None, "two outcomes of {slot}: {line:?}");
        }
    }
    outcomes
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

#[tokio::test(start_paused = true)]
async fn a_year_of_schedules_loses_doubles_and_leaves_unexplained_nothing() {
    let seed = std::env::var("GRAYLANE_SOAK_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(11);
    let mut random = Random(seed);
    let files: Vec<String> = SCHEDULES
        .iter()
        .enumerate()
        .map(|(number, (name, cron, zone, _, _))| {
            let more = ["", ", missed: latest", ", missed: all, max_catchup: 3", ", jitter: 3m"][number % 4];
            format!(
                "name: {name}\ntriggers: [{{ name: s, cron: \"{cron}\", timezone: {zone}{more} }}]\ntasks:\n  a: {{ type: work, timeout: 9h, with: {{ seconds: {} }} }}\n",
                [60, 900, 30_000][number % 3]
            )
        })
        .collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let begin = at("2028-01-01T00:00:30");
    let end = at("2029-01-01T00:00:30");
    let mut world = World::new("2028-01-01T00:00:30", &files);
    // Slots are decided at their moment; between them it looks less often than it does in use.
    world.options.tick = Duration::from_secs(6 * 3600);
    world.start().await;
    let (mut restarts, mut steps) = (0, 0);
    while world.clock.now() < end {
        let hours = 6 + random.below(200);
        tokio::time::sleep(Duration::from_secs(hours * 3600 + random.below(3_600))).await;
        match random.below(4) {
            // Down for some hours, or days.
            0 => {
                restarts += 1;
                world.stop().await;
                let down = i64::try_from(random.below(60 * 3_600_000)).expect("small");
                world.clock.millis.fetch_add(down, Ordering::SeqCst);
                world.start().await;
            }
            // Killed, and there again at once.
            1 => {
                restarts += 1;
                world.stop().await;
                world.start().await;
            }
            // Set, forward or back, by up to two hours; and mended again a while later.
            2 => {
                steps += 1;
                let by = i64::try_from(random.below(4 * 3_600_000)).expect("small") - 2 * 3_600_000;
                world.clock.millis.fetch_add(by, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(random.below(7_200))).await;
                world.clock.millis.fetch_sub(by, Ordering::SeqCst);
            }
            _ => {
                let name = SCHEDULES[random.below(6) as usize].0;
                let workflow: WorkflowUid = format!("team/{name}").parse().expect("a workflow");
                let by = "ann".to_owned();
                world
                    .deed(Deed::WorkflowPaused { workflow: workflow.clone(), by: by.clone(), reason: None })
                    .await;
                tokio::time::sleep(Duration::from_secs(random.below(40 * 3_600))).await;
                world.deed(Deed::WorkflowUnpaused { workflow, by, reason: None }).await;
            }
        }
    }
    // What is late or under way comes to its end, and nothing new is due.
    let finish = world.clock.now();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let until = world.clock.now();
    world.accounts();
    let mut totals: BTreeMap<String, usize> = BTreeMap::new();
    for (name, _, zone, fits, interval_like) in SCHEDULES {
        let zone: Tz = zone.parse().expect("a zone");
        let known = walk(zone, fits, interval_like, begin, until);
        let query =
            SlotQuery { schedule: Some(format!("team/{name}")), limit: usize::MAX, ..SlotQuery::default() };
        let lines = slots(&*world.journal, &query).expect("read");
        let outcomes = expand(&lines, &known);
        for slot in &known {
            // Jitter may keep the very last one.
            let due = slot.plus(Duration::from_secs(180)) <= finish;
            assert!(outcomes.contains_key(slot) || !due, "the slot {slot} of {name} is lost");
        }
        let runs = world.runs();
        let fired: Vec<&RunSummary> = runs.iter().filter(|run| run.workflow.as_str() == name).collect();
        let slots_of_runs: BTreeSet<&String> = fired.iter().flat_map(|run| &run.unique).collect();
        assert_eq!(slots_of_runs.len(), fired.len(), "every run of {name} is of a slot of its own");
        for outcome in outcomes.into_values() {
            *totals.entry(outcome).or_default() += 1;
        }
    }
    let all: usize = totals.values().sum();
    assert!(
        all > 10_000 && restarts > 5 && steps > 5,
        "{all} slots, {restarts} restarts, {steps} steps: {totals:?}"
    );
    for outcome in ["fired", "caught_up", "skipped(missed)", "skipped(paused)", "skipped(overlap)"] {
        assert!(totals.get(outcome).is_some_and(|count| *count > 0), "none is {outcome}: {totals:?}");
    }
}
