//! What people can say to runs: hold, approval, undo, retry, rerun. Every sentence of the law of states has its story.

use super::*;
use crate::journal::{DiskJournal, Query};
use crate::run::HoldAnswer;

fn person(name: &str) -> Actor {
    Actor { name: name.into(), roles: Vec::new(), authenticated: false }
}

fn task(name: &str) -> TaskName {
    name.parse().expect("a name")
}

impl World {
    async fn say(&self, run: RunId, answer: HoldAnswer) -> PersonAnswer {
        self.engine.answer_hold(run, None, answer, person("bob"), Some("looked at it".into())).await
    }

    async fn agree(&self, run: RunId, name: &str) -> PersonAnswer {
        self.engine.approve(run, None, true, person(name), None).await
    }

    fn tells(&self, run: RunId) -> Vec<&'static str> {
        self.engine.records(run).expect("read").iter().map(|record| record.event.name()).collect()
    }
}

const HELD: &str = "name: w\ntasks:\n  a: { type: probe, on_failure: hold, with: { does: trip 1 } }\n  b: { type: probe, needs: [a] }\n";

#[tokio::test(start_paused = true)]
async fn a_held_task_goes_on_as_a_person_says() {
    for (answer, expected) in [
        (HoldAnswer::Retry, "succeeded | a: succeeded, b: succeeded"),
        (HoldAnswer::Skip, "succeeded | a: skipped (a person skipped it), b: succeeded"),
        (HoldAnswer::Fail, "failed | a: failed (tripped), b: skipped (something before it did not succeed)"),
        (HoldAnswer::Undo, "failed | a: failed (tripped), b: skipped (something before it did not succeed)"),
    ] {
        let world = World::new().await;
        let run = world.submit(HELD).await;
        let view = world.until_waiting(run).await;
        assert_eq!(told(&view), "waiting | a: waiting (tripped), b: pending");
        assert_eq!(view.tasks[0].asks.as_ref().map(|asks| asks.kind.as_str()), Some("hold"));
        assert_eq!(world.say(run, answer).await, PersonAnswer::Taken(task("a")));
        let view = world.finish(run).await;
        assert_eq!(told(&view), expected, "{answer:?}");
        assert_eq!(view.undone_by.is_some(), answer == HoldAnswer::Undo);
        assert_eq!(world.say(run, answer).await, PersonAnswer::NotWaiting, "final is final");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_nobody_answers_expires_into_failed_and_nothing_is_taken_back() {
    let world = World::new().await;
    let yaml = HELD.replace("name: w", "name: w\nundo: on-failure");
    let run = world.submit(&yaml).await;
    let held = world.until_waiting(run).await.tasks[0].asks.clone().expect("asks");
    assert_eq!(held.expires.since(held.since), Duration::from_secs(24 * 3600));
    let view = world.finish(run).await;
    assert_eq!(told(&view), "failed | a: failed (tripped), b: skipped (something before it did not succeed)");
    let details = view.tasks[0].error.as_ref().map(|error| error.details.join(" ")).unwrap_or_default();
    assert_eq!(details, "it was held for 24h00m, and nobody said how it goes on");
    assert_eq!(view.undone_by, None, "never an expired hold");
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_does_not_fit_any_more_is_held_whatever_the_file_says_and_a_retry_means_the_same_plan() {
    let world = World::new().await;
    let yaml = "name: w\ntasks:\n  a: { type: probe, retry: { attempts: 5 }, with: { does: hold 2 } }\n";
    let run = world.submit(yaml).await;
    for attempt in 1..=2 {
        world
            .until(run, |view| view.summary.status == "waiting" && view.tasks[0].attempt == Some(attempt))
            .await;
        assert_eq!(world.say(run, HoldAnswer::Retry).await, PersonAnswer::Taken(task("a")));
    }
    assert_eq!(told(&world.finish(run).await), "succeeded | a: succeeded");
    assert_eq!(world.diary(), ["a plan", "a 1 plan 0", "a 2 plan 0", "a 3 plan 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_hold_frees_production_and_keeps_the_lane() {
    let world = World::new().await;
    let yaml = |name: &str, does: &str| {
        format!(
            "name: {name}\ntasks:\n  a: {{ type: probe, on_failure: hold, with: {{ does: {does}, service: s }} }}\n  l: {{ type: probe, with: {{ lane: {name} }} }}\n"
        )
    };
    let held = world.submit(&yaml("held", "fail")).await;
    world.until_waiting(held).await;
    let fix = world.submit(&yaml("fix", "succeed")).await;
    assert_eq!(world.finish(fix).await.summary.status, "succeeded", "a hot fix is not blocked");
    let lane = world.submit("name: x\ntasks:\n  a: { type: probe, with: { lane: held } }\n").await;
    let view = world.view(lane).await;
    assert_eq!(view.reason, Some(format!("waits for run {held} (held), which holds lane e/held")));
}

#[tokio::test(start_paused = true)]
async fn the_runs_own_time_stands_still_while_only_people_can_move_it_on() {
    let world = World::new().await;
    let yaml = "name: w\ntimeout: 100s\ntasks:\n  a: { type: probe, on_failure: hold, with: { does: trip 1 } }\n  b: { type: probe, needs: [a], with: { does: take 90 } }\n";
    let run = world.submit(yaml).await;
    world.until_waiting(run).await;
    tokio::time::sleep(Duration::from_secs(5_000)).await;
    let _ = world.say(run, HoldAnswer::Retry).await;
    assert_eq!(told(&world.finish(run).await), "succeeded | a: succeeded, b: succeeded");

    // The control: what works meanwhile lets it go on.
    let yaml = "name: v\ntimeout: 100s\ntasks:\n  a: { type: probe, on_failure: hold, with: { does: fail } }\n  b: { type: probe, with: { does: take 500 } }\n";
    let run = world.submit(yaml).await;
    let view = world.finish(run).await;
    assert_eq!(view.reason.as_deref(), Some("the run took longer than its timeout"));
}

const APPROVED: &str = "name: w\ntasks:\n  a: { type: probe }\n  ok: { type: approval, needs: [a], with: WITH }\n  b: { type: probe, needs: [ok], with: { value: \"${{ tasks.a.outputs.value }}\" } }\n";

fn approved(with: &str) -> String {
    APPROVED.replace("WITH", with)
}

#[tokio::test(start_paused = true)]
async fn people_agree_to_the_plan_that_is_then_carried_out() {
    let world = World::new().await;
    let run = world.submit(&approved("{ approvals: 2, message: ship it? }")).await;
    let view = world.until_waiting(run).await;
    let asks = view.tasks[1].asks.clone().expect("asks");
    assert_eq!(
        (asks.kind.as_str(), asks.approvals, asks.message.as_deref()),
        ("approval", Some(2), Some("ship it?"))
    );
    let plan = asks.plans[&task("b")].clone();
    assert_eq!(world.diary(), ["a plan", "a 1 plan 0", "b plan"], "the plan is made before anybody is asked");
    assert_eq!(world.agree(run, "bob").await, PersonAnswer::Taken(task("ok")));
    assert_eq!(world.view(run).await.summary.status, "waiting");
    assert_eq!(world.agree(run, "bob").await, PersonAnswer::Refused("bob has agreed already".into()));
    assert_eq!(world.agree(run, "cat").await, PersonAnswer::Taken(task("ok")));
    let view = world.finish(run).await;
    assert_eq!(told(&view), "succeeded | a: succeeded, b: succeeded, ok: succeeded");
    assert_eq!(view.tasks[2].plan, Some(plan), "and no other");
    assert_eq!(world.diary()[3..], ["b 1 plan 1"]);
    let approvers = view.tasks[1].outputs.as_ref().map(|outputs| outputs.values["approvers"].clone());
    assert_eq!(approvers, Some(json!(["bob", "cat"])));
}

#[tokio::test(start_paused = true)]
async fn who_may_agree_is_a_table() {
    let sre = |name: &str| Actor { roles: vec!["sre".into()], ..person(name) };
    for (with, who, expected) in [
        ("{}", person("bob"), None),
        ("{}", person("ann"), Some("ann started the run: somebody else must agree")),
        ("{ allow_initiator: true }", person("ann"), None),
        ("{ from: [cat] }", person("bob"), Some("bob may not answer: it is up to cat")),
        ("{ from: [cat, \"role:sre\"] }", sre("bob"), None),
        (
            "{ from: [cat, \"role:sre\"] }",
            person("sre"),
            Some("sre may not answer: it is up to cat, role:sre"),
        ),
    ] {
        let world = World::new().await;
        let run = world.submit(&approved(with)).await;
        world.until_waiting(run).await;
        let answer = world.engine.approve(run, None, true, who, None).await;
        match expected {
            None => assert_eq!(answer, PersonAnswer::Taken(task("ok")), "{with}"),
            Some(words) => assert_eq!(answer, PersonAnswer::Refused(words.into()), "{with}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_protected_environment_takes_no_word_from_somebody_who_is_only_a_name() {
    let world = World::new().await;
    let yaml = approved("{}").replace("{ value:", "{ protected: production, value:");
    let run = world.submit(&yaml).await;
    world.until_waiting(run).await;
    let PersonAnswer::Refused(why) = world.agree(run, "bob").await else { panic!("taken") };
    assert!(why.starts_with("the environment `production` is protected"), "{why}");
    let proved = Actor { authenticated: true, ..person("bob") };
    assert_eq!(world.engine.approve(run, None, true, proved, None).await, PersonAnswer::Taken(task("ok")));
    assert_eq!(world.finish(run).await.summary.status, "succeeded");
    let kept = world.engine.records(run).expect("read");
    let consent = kept.iter().find_map(|record| match &record.event {
        Event::Approved { consent, .. } => Some(consent.authenticated),
        _ => None,
    });
    assert_eq!(consent, Some(true), "how sure it is that it was bob is kept");
}

#[tokio::test(start_paused = true)]
async fn a_rejection_and_an_expiry_fail_the_approval_and_what_it_guards_never_begins() {
    let world = World::new().await;
    let run = world.submit(&approved("{}")).await;
    world.until_waiting(run).await;
    // Whoever started a run may always stop it.
    let no = world.engine.approve(run, None, false, person("ann"), Some("not today".into())).await;
    assert_eq!(no, PersonAnswer::Taken(task("ok")));
    assert_eq!(
        told(&world.finish(run).await),
        "failed | a: succeeded, b: skipped (something before it did not succeed), ok: failed (rejected by ann: not today)"
    );

    let run = world.submit(&approved("{ approvals: 2, expires: 1h }")).await;
    world.until_waiting(run).await;
    let _ = world.agree(run, "bob").await;
    assert_eq!(
        told(&world.finish(run).await),
        "failed | a: succeeded, b: skipped (something before it did not succeed), ok: failed (rejected: 1 of 2 had agreed when the time was up after 1h00m)"
    );
    assert!(!world.diary().iter().any(|line| line.starts_with("b 1")), "{:?}", world.diary());
}

#[tokio::test(start_paused = true)]
async fn what_people_said_survives_restarts() {
    let journal = Arc::new(MemoryJournal::default());
    let world = World::over(journal.clone()).await;
    let run = world.submit(&approved("{ approvals: 2 }")).await;
    world.until_waiting(run).await;
    let said = world.engine.approve(run, None, true, person("bob"), Some("fine".into())).await;
    assert_eq!(said, PersonAnswer::Taken(task("ok")));
    world.engine.shutdown().await;

    let again = World::later(journal.clone(), Duration::from_secs(3600)).await;
    let asks = again.until_waiting(run).await.tasks[1].asks.clone().expect("asks");
    assert_eq!(asks.given[0].comment.as_deref(), Some("fine"));
    assert_eq!(again.agree(run, "cat").await, PersonAnswer::Taken(task("ok")));
    assert_eq!(again.finish(run).await.summary.status, "succeeded");
    assert_eq!(again.diary(), ["b 1 plan 1"], "the plan that they saw, from before the restart");

    // Its time goes on while the daemon is down.
    let world = World::later(journal.clone(), Duration::from_secs(7200)).await;
    let run = world.submit(&approved("{ expires: 1h }")).await;
    world.until_waiting(run).await;
    world.engine.shutdown().await;
    let again = World::later(journal, Duration::from_secs(3 * 7200)).await;
    assert_eq!(again.finish(run).await.summary.status, "failed");
}

#[tokio::test(start_paused = true)]
async fn whoever_only_answers_sets_nothing_in_motion() {
    let journal = Arc::new(MemoryJournal::default());
    let world = World::over(journal.clone()).await;
    let run = world.submit(&approved("{}")).await;
    world.until_waiting(run).await;
    world.engine.shutdown().await;

    let world = World::start(journal.clone(), Duration::ZERO, Mode::Answer).await;
    assert_eq!(world.agree(run, "bob").await, PersonAnswer::Taken(task("ok")));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(told(&world.view(run).await), "running | a: succeeded, b: pending, ok: succeeded");
    assert_eq!(world.diary(), Vec::<String>::new());
    world.engine.shutdown().await;
    assert_eq!(World::over(journal).await.finish(run).await.summary.status, "succeeded");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_ends_a_run_in_every_state() {
    let held = "  a: { type: probe, on_failure: hold, with: { does: fail } }\n";
    for (yaml, until, expected) in [
        (held, "waiting", "cancelled | a: cancelled (told to fail)"),
        ("  ok: { type: approval }\n", "waiting", "cancelled | ok: cancelled"),
        (
            "  a: { type: probe, with: { does: take 900 } }\n",
            "running",
            "cancelled | a: cancelled (stopped at a safe point)",
        ),
        (
            "  a: { type: probe, retry: { attempts: 2, backoff: 1h }, with: { does: trip 1 } }\n",
            "running",
            "cancelled | a: cancelled (tripped)",
        ),
        (
            "  a: { type: probe, with: { lane: taken } }\n",
            "queued",
            "cancelled | a: skipped (the run was ending)",
        ),
    ] {
        for now in [false, true] {
            if now && yaml.contains("take 900") {
                continue;
            }
            let world = World::new().await;
            world
                .submit("name: other\ntasks:\n  a: { type: probe, with: { does: take 9000, lane: taken } }\n")
                .await;
            let run = world.submit(&format!("name: w\ntasks:\n{yaml}")).await;
            world
                .until(run, |view| {
                    view.summary.status == until
                        && (!yaml.contains("trip") || view.tasks[0].status == "retrying")
                })
                .await;
            assert_eq!(world.engine.cancel(run, "bob".into(), None, now).await, CancelAnswer::Cancelling);
            assert_eq!(told(&world.finish(run).await), expected, "{yaml}");
            assert_eq!(world.say(run, HoldAnswer::Retry).await, PersonAnswer::NotWaiting);
            assert_eq!(world.agree(run, "bob").await, PersonAnswer::NotWaiting);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_while_a_run_ends() {
    let world = World::new().await;
    let yaml = "name: w\ntasks:\n  a: { type: probe, with: { does: take 900 } }\n  clean: { type: probe, needs: [a], on_failure: hold, when: \"${{ cancelled() }}\", with: { does: fail } }\n";
    let run = world.submit(yaml).await;
    world.until(run, |view| view.tasks[0].phase.is_some()).await;
    let _ = world.engine.cancel(run, "bob".into(), None, false).await;
    assert_eq!(
        told(&world.finish(run).await),
        "cancelled | a: cancelled (stopped at a safe point), clean: failed (told to fail)"
    );
}

const UNDONE: &str = "name: w\nundo: on-failure\ntasks:\n  a: { type: probe, with: { value: 1 } }\n  b: { type: probe, needs: [a], with: { value: \"${{ tasks.a.outputs.value }}\" } }\n  c: { type: probe, needs: [b], with: { does: fail } }\n  d: { type: probe, needs: [c] }\n";

#[tokio::test(start_paused = true)]
async fn a_failed_run_is_taken_back_in_the_reverse_order_by_a_run_of_its_own() {
    let world = World::new().await;
    let run = world.submit(UNDONE).await;
    let undo = world.undone(run).await.expect("undone");
    assert_eq!(
        told(&undo),
        "succeeded | a: succeeded, b: succeeded, c: succeeded, d: skipped (not selected)",
        "what never started is left alone"
    );
    assert_eq!(
        world.diary()[6..],
        ["c undo plan 2", "b undo plan 1", "a undo plan 0"],
        "with the plans that they had carried out"
    );
    assert_eq!(undo.origin, Some(crate::run::Origin::Undo { of: run, force: false }));
    let (last, first) =
        (world.engine.records(run).expect("read"), world.engine.records(undo.summary.id).expect("read"));
    assert_eq!(
        last.last().map(|record| record.at),
        first.first().map(|record| record.at),
        "begun in the same write that ends the failed one"
    );
    assert_eq!(world.tells(undo.summary.id)[..2], ["run-submitted", "run-admitted"]);
}

#[tokio::test(start_paused = true)]
async fn when_a_run_is_taken_back_is_a_table() {
    // (how it ends, cancel: None | Some(now), whether it is taken back)
    for (tasks, cancel, expected) in [
        ("  a: { type: probe }\n  b: { type: probe, needs: [a], with: { does: fail } }\n", None, true),
        ("  a: { type: probe }\n  b: { type: probe, needs: [a] }\n", None, false),
        (
            "  a: { type: probe }\n  b: { type: probe, needs: [a], on_failure: continue, with: { does: fail } }\n",
            None,
            false,
        ),
        (
            "  a: { type: probe }\n  b: { type: probe, needs: [a], with: { does: take 900 } }\n",
            Some(false),
            true,
        ),
        (
            "  a: { type: probe }\n  b: { type: probe, needs: [a], with: { does: take 900 } }\n",
            Some(true),
            false,
        ),
        ("  a: { type: probe }\n  ok: { type: approval, needs: [a], with: { expires: 1m } }\n", None, true),
    ] {
        let world = World::new().await;
        let run = world.submit(&format!("name: w\nundo: on-failure\ntasks:\n{tasks}")).await;
        if let Some(now) = cancel {
            world.until(run, |view| view.tasks[1].phase.is_some()).await;
            let _ = world.engine.cancel(run, "bob".into(), None, now).await;
        }
        assert_eq!(world.finish(run).await.undone_by.is_some(), expected, "{tasks} {cancel:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_undo_inherits_the_claims_of_the_run_and_nobody_comes_between() {
    let world = World::new().await;
    let yaml = |name: &str| {
        format!(
            "name: {name}\nundo: on-failure\ntasks:\n  a: {{ type: probe, with: {{ lane: gray, undoes: take }} }}\n  b: {{ type: probe, needs: [a], with: {{ does: fail }} }}\n"
        )
    };
    let first = world.submit(&yaml("one")).await;
    let second = world.submit("name: two\ntasks:\n  a: { type: probe, with: { lane: gray } }\n").await;
    let undo = world.finish(first).await.undone_by.expect("undone");
    let view = world.view(second).await;
    assert_eq!(view.reason, Some(format!("waits for run {undo} (one), which holds lane e/gray")));
    let ended = world.finish(undo).await.summary.ended_at.expect("ended");
    assert!(world.finish(second).await.admitted_at.expect("admitted") >= ended);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_taken_back_holds_up_nothing_and_is_no_success() {
    let world = World::new().await;
    let yaml = "name: w\nundo: on-failure\ntasks:\n  a: { type: probe }\n  b: { type: probe, needs: [a], with: { undoes: fail } }\n  c: { type: probe, needs: [b], with: { does: fail } }\n";
    let run = world.submit(yaml).await;
    let undo = world.undone(run).await.expect("undone");
    assert_eq!(told(&undo), "failed | a: succeeded, b: failed (told not to undo), c: succeeded");
    assert_eq!(undo.undone_by, None, "an undo is not undone");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_stops_an_undo_at_the_next_object() {
    let world = World::new().await;
    let yaml = "name: w\nundo: on-failure\ntasks:\n  a: { type: probe }\n  b: { type: probe, needs: [a], with: { undoes: take, does: fail } }\n";
    let run = world.submit(yaml).await;
    let undo = world.finish(run).await.undone_by.expect("undone");
    world.until(undo, |view| view.tasks.iter().any(|task| task.status == "running")).await;
    let _ = world.engine.cancel(undo, "bob".into(), None, false).await;
    assert_eq!(
        told(&world.finish(undo).await),
        "cancelled | a: skipped (the run was ending), b: cancelled (stopped before the next object)"
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_can_be_taken_back_days_later_and_once() {
    let journal = Arc::new(MemoryJournal::default());
    let world = World::over(journal.clone()).await;
    let run = world
        .submit("name: w\ntasks:\n  a: { type: probe, with: { value: 7 } }\n  b: { type: probe, needs: [a], with: { value: \"${{ tasks.a.outputs.value }}\" } }\n")
        .await;
    world.finish(run).await;
    world.engine.shutdown().await;
    let world = World::later(journal, Duration::from_secs(3 * 24 * 3600)).await;
    let undo =
        world.engine.follow_up(run, FollowUp::Undo { force: true }, "bob".into(), None).await.expect("begun");
    assert_eq!(told(&world.finish(undo).await), "succeeded | a: succeeded, b: succeeded");
    assert_eq!(world.diary(), ["b undo plan 1 by force", "a undo plan 0 by force"]);
    let again = world.engine.follow_up(undo, FollowUp::Undo { force: false }, "bob".into(), None).await;
    assert!(again.expect_err("refused").to_string().contains("is an undo itself"));
}

#[tokio::test(start_paused = true)]
async fn an_undo_is_entered_again_after_a_crash() {
    let journal = Arc::new(MemoryJournal::default());
    let world = World::over(journal.clone()).await;
    let yaml = "name: w\nundo: on-failure\ntasks:\n  a: { type: probe }\n  b: { type: probe, needs: [a], with: { undoes: take, does: fail } }\n";
    let run = world.submit(yaml).await;
    let undo = world.finish(run).await.undone_by.expect("undone");
    world.until(undo, |view| view.tasks.iter().any(|task| task.status == "running")).await;
    world.engine.shutdown().await;
    let world = World::over(journal).await;
    assert_eq!(told(&world.finish(undo).await), "succeeded | a: succeeded, b: succeeded");
    assert_eq!(world.diary(), ["b undo plan 1", "a undo plan 0"]);
}

const RETRIED: &str = "name: w\ntasks:\n  a: { type: probe, with: { value: 3 } }\n  b: { type: probe, needs: [a], with: { does: DOES, value: \"${{ tasks.a.outputs.value }}\" } }\n  c: { type: probe, needs: [b], with: { value: \"${{ tasks.b.outputs.value }}\" } }\n  d: { type: probe }\n";

#[tokio::test(start_paused = true)]
async fn a_retry_keeps_what_succeeded_and_goes_on_with_the_same_plan() {
    let world = World::new().await;
    let run = world.submit(&RETRIED.replace("DOES", "fail")).await;
    world.finish(run).await;
    let before = world.diary().len();
    let retry =
        world.engine.follow_up(run, FollowUp::Retry { from: None }, "bob".into(), None).await.expect("begun");
    let view = world.finish(retry).await;
    let kept: Vec<&str> = view.tasks.iter().filter(|task| task.kept).map(|task| task.name.as_str()).collect();
    assert_eq!(kept, ["a", "d"]);
    let first = world.diary().iter().find(|line| line.starts_with("b 1")).cloned().expect("ran");
    assert_eq!(world.diary()[before..], [first], "and what it planned over stays known");
    assert_eq!(view.origin, Some(crate::run::Origin::Retry { of: run }));

    let done = world.submit(&RETRIED.replace("DOES", "succeed")).await;
    world.finish(done).await;
    let before = world.diary().len();
    let nothing = world.engine.follow_up(done, FollowUp::Retry { from: None }, "bob".into(), None).await;
    assert!(nothing.expect_err("refused").to_string().contains("every task of run"));
    let from = FollowUp::Retry { from: Some(task("b")) };
    let retry = world.engine.follow_up(done, from, "bob".into(), None).await.expect("begun");
    assert_eq!(world.finish(retry).await.summary.status, "succeeded");
    let mut again: Vec<String> = world.diary()[before..].iter().map(|line| line[..1].to_owned()).collect();
    again.dedup();
    assert_eq!(again, ["b", "c"], "the task and all that comes after it");
    let unknown = FollowUp::Retry { from: Some(task("x")) };
    assert!(world.engine.follow_up(done, unknown, "bob".into(), None).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_taken_back_is_not_retried_but_rerun() {
    let world = World::new().await;
    let run = world.submit(UNDONE).await;
    world.undone(run).await;
    let refused = world.engine.follow_up(run, FollowUp::Retry { from: None }, "bob".into(), None).await;
    assert!(refused.expect_err("refused").to_string().contains("was taken back by run"));
    let before = world.diary().len();
    let rerun = world.engine.follow_up(run, FollowUp::Rerun, "bob".into(), None).await.expect("begun");
    let view = world.finish(rerun).await;
    assert_eq!(view.inputs, world.view(run).await.inputs);
    assert_eq!(view.bundle, world.view(run).await.bundle);
    assert_eq!(world.diary()[before..before + 2], ["a plan", "a 1 plan 3"], "all of it, planned anew");
}

#[tokio::test(start_paused = true)]
async fn a_running_run_is_not_followed_on() {
    let world = World::new().await;
    let run = world.submit("name: w\ntasks:\n  a: { type: probe, with: { does: take 60 } }\n").await;
    for how in [FollowUp::Undo { force: false }, FollowUp::Retry { from: None }, FollowUp::Rerun] {
        let refused = world.engine.follow_up(run, how, "bob".into(), None).await.expect_err("refused");
        assert!(refused.to_string().contains("is not over yet"), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn outputs_of_tasks_that_are_left_out_come_from_another_run() {
    let world = World::new().await;
    let yaml = RETRIED.replace("DOES", "succeed");
    let run = world.submit(&yaml).await;
    world.finish(run).await;
    let mut submission = World::submission(&yaml);
    submission.only = vec!["c".into()];
    assert!(world.engine.submit(submission.clone()).await.is_err(), "c reads what b puts out");
    submission.from = Some(run);
    let only = world.engine.submit(submission.clone()).await.expect("submitted");
    let view = world.finish(only).await;
    assert_eq!(view.tasks[2].outputs.as_ref().map(|outputs| outputs.values["value"].clone()), Some(json!(3)));
    submission.from = Some(RunId::new(1, 1));
    let unknown = world.engine.submit(submission).await.expect_err("refused").to_string();
    assert!(unknown.contains("there is no run"), "{unknown}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_names_its_task_where_several_wait() {
    let world = World::new().await;
    let yaml = "name: w\ntasks:\n  a: { type: probe, on_failure: hold, with: { does: fail } }\n  b: { type: probe, on_failure: hold, with: { does: fail } }\n";
    let run = world.submit(yaml).await;
    world.until_waiting(run).await;
    assert_eq!(world.say(run, HoldAnswer::Skip).await, PersonAnswer::Several(vec![task("a"), task("b")]));
    for name in ["b", "a"] {
        let answer =
            world.engine.answer_hold(run, Some(task(name)), HoldAnswer::Skip, person("bob"), None).await;
        assert_eq!(answer, PersonAnswer::Taken(task(name)));
    }
    assert_eq!(world.finish(run).await.summary.status, "succeeded");
}

#[tokio::test(start_paused = true)]
async fn a_rolled_back_task_that_a_person_retries_goes_forward_again() {
    let world = World::new().await;
    let yaml =
        "name: w\ntasks:\n  a: { type: probe, on_failure: hold, timeout: 10s, with: { does: rollback 5 } }\n";
    let run = world.submit(yaml).await;
    world.until_waiting(run).await;
    let _ = world.say(run, HoldAnswer::Retry).await;
    world.until(run, |view| view.tasks[0].attempt == Some(2)).await;
    let records = world.engine.records(run).expect("read");
    let graph = Arc::clone(&handle::load(&world.parts, run).expect("read").expect("known").0.graph);
    let run = Run::fold(graph, &records).expect("folded");
    assert!(!run.task(&task("a")).expect("there").checkpoints.contains(ROLLBACK));
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_for_the_journal_is_told_and_not_kept() {
    let world = World::new().await;
    let run = world.submit("name: w\ntasks:\n  a: { type: probe, with: { does: flood x } }\n").await;
    let view = world.finish(run).await;
    let error = view.tasks[0].error.clone().expect("failed");
    assert!(error.message.starts_with("the task put out 52428"), "{}", error.message);
    let kept = world.engine.records(run).expect("read");
    let bytes: usize = kept.iter().map(|record| serde_json::to_string(record).expect("json").len()).sum();
    assert!(bytes < 10_000, "{bytes}");

    let mut submission =
        World::submission("name: w\ninputs: { x: { type: string } }\ntasks:\n  a: { type: probe }\n");
    submission.inputs.insert("x".into(), "x".repeat(300_000).into());
    let refused = world.engine.submit(submission).await.expect_err("refused").to_string();
    assert!(refused.starts_with("the inputs are 300"), "{refused}");

    let run = world.submit(HELD).await;
    world.until_waiting(run).await;
    let long = Some("long ".repeat(1_000_000));
    let _ = world.engine.answer_hold(run, None, HoldAnswer::Skip, person("bob"), long).await;
    world.finish(run).await;
    let kept = serde_json::to_string(&world.engine.records(run).expect("read")).expect("json");
    assert!(kept.len() < 20_000 && kept.contains("more bytes are left out"), "{}", kept.len());
}

/// The same on disk, with threads and fsyncs: all of it is there after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_runs_at_once_are_all_on_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = Arc::new(DiskJournal::open(folder.path()).expect("opened"));
    let parts = World::parts(journal.clone(), Probe::default(), Duration::ZERO, None);
    let engine = Engine::start(parts, Mode::Work).await.expect("started");
    let yaml = "name: w\nconcurrency: { policy: allow }\ntasks:\n  a: { type: probe }\n  b: { type: probe, needs: [a], with: { lane: LANE } }\n";
    let mut updates = engine.watch();
    // Some wait for each other, and most do not.
    let submission =
        |number: usize| World::submission(&yaml.replace("LANE", &format!("lane-{}", number % 250)));
    let submitted = futures_of((0..1_000).map(|number| engine.submit(submission(number)))).await;
    let runs: BTreeSet<RunId> = submitted.into_iter().map(|run| run.expect("submitted")).collect();
    assert_eq!(runs.len(), 1_000);
    let mut ended = BTreeSet::new();
    while ended.len() < runs.len() {
        if let Update::Record(record) = updates.recv().await.expect("told")
            && matches!(record.event, Event::RunFinished { .. })
        {
            ended.insert(record.run);
        }
    }
    engine.shutdown().await;
    drop((engine, journal));
    let journal = DiskJournal::open(folder.path()).expect("opened again");
    let query = Query { status: Some("succeeded".into()), limit: 2_000, ..Query::default() };
    let listed: BTreeSet<RunId> =
        journal.list(&query).expect("listed").runs.iter().map(|run| run.id).collect();
    assert_eq!(listed, runs);
    assert_eq!(crate::proof::verify(&journal, &[]).expect("readable").problems, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_runs_at_once_all_end_and_none_is_lost() {
    let world = World::new().await;
    let yaml = "name: w\nconcurrency: { policy: allow }\ntasks:\n  a: { type: probe, with: { does: take 5 } }\n  b: { type: probe, needs: [a], with: { service: a } }\n";
    let submitted = (0..1_000).map(|_| world.engine.submit(World::submission(yaml)));
    let runs = futures_of(submitted).await;
    for run in runs {
        assert_eq!(world.finish(run.expect("submitted")).await.summary.status, "succeeded");
    }
}

/// All at once.
/// Whoever opens the store again right after a shutdown finds it free.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_shutdown_the_journal_is_nobodys() {
    for round in 0..200 {
        let journal = Arc::new(MemoryJournal::default());
        let parts = World::parts(journal.clone(), Probe::default(), Duration::ZERO, None);
        let engine = Engine::start(parts, Mode::Work).await.expect("started");
        let mut updates = engine.watch();
        let submission = World::submission("name: w\ntasks:\n  a: { type: probe }\n");
        engine.submit(submission).await.expect("submitted");
        let is_over = |update| match update {
            Update::Record(record) => matches!(record.event, Event::RunFinished { .. }),
            _ => false,
        };
        while !is_over(updates.recv().await.expect("told")) {}
        engine.shutdown().await;
        drop(engine);
        assert_eq!(Arc::strong_count(&journal), 1, "round {round}");
    }
}

async fn futures_of<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in all.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(cx)
            {
                *done = Some(output);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

/// Real threads: what blocks must not stop anybody else, is told, and nobody waits for it.
#[test]
fn a_task_that_blocks_its_thread_for_a_minute_is_told_and_stops_nobody_else() {
    let loops = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    loops.block_on(async {
        let world = World::on(threads.handle().clone()).await;
        // Time that is paused runs on where nobody works here; while this waits it does not.
        let (release, held) = std::sync::mpsc::channel::<()>();
        let holds = tokio::task::spawn_blocking(move || held.recv());
        let blocked = world.submit("name: w\ntasks:\n  a: { type: probe, with: { does: block x } }\n").await;
        world.until(blocked, |view| view.tasks[0].phase.is_some()).await;
        let other = world.submit("name: v\ntasks:\n  a: { type: probe }\n").await;
        assert_eq!(world.finish(other).await.summary.status, "succeeded");
        assert_eq!(world.view(blocked).await.summary.status, "running", "it blocks still");

        let mut updates = world.engine.watch();
        for _ in 0..30 {
            tokio::time::advance(Duration::from_secs(2)).await;
            world.view(blocked).await;
        }
        let view = world.view(blocked).await;
        let words = view.tasks[0].reason.clone().expect("told");
        assert!(words.starts_with("it has blocked its thread for 5"), "{words}");
        assert!(view.next.iter().any(|next| next.what.contains("a is under way: blocking; it has blocked")));
        let mut told = Vec::new();
        while let Ok(update) = updates.try_recv() {
            if let Update::Log { run, line } = update {
                told.push((run, line.line));
            }
        }
        let words = "it has blocked its thread for more than 5 s: until it lets go it hears neither a cancel nor its timeout";
        assert_eq!(told, [(blocked, words.to_owned())], "once");
        let third = world.submit("name: v\ntasks:\n  a: { type: probe }\n").await;
        assert_eq!(world.finish(third).await.summary.status, "succeeded", "after a minute too");
        let _ = world.engine.cancel(blocked, "bob".into(), None, true).await;
        assert_eq!(world.finish(blocked).await.summary.status, "cancelled", "nobody waits for it");
        BLOCKS.store(false, Ordering::SeqCst);
        drop(release);
        // It ends because nobody can send any more.
        let _ = holds.await;
    });
    threads.shutdown_background();
}

#[tokio::test(start_paused = true)]
async fn an_answer_after_the_expiry_is_not_taken_even_where_nobody_has_noticed_it() {
    for (yaml, agrees) in [(approved("{ expires: 1h }"), true), (HELD.to_owned(), false)] {
        let journal = Arc::new(MemoryJournal::default());
        let world = World::over(journal.clone()).await;
        let run = world.submit(&yaml).await;
        world.until_waiting(run).await;
        world.engine.shutdown().await;
        let world = World::start(journal, Duration::from_secs(4 * 24 * 3600), Mode::Answer).await;
        let answer =
            if agrees { world.agree(run, "bob").await } else { world.say(run, HoldAnswer::Skip).await };
        assert_eq!(answer, PersonAnswer::NotWaiting);
        assert_eq!(world.finish(run).await.summary.status, "failed");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_does_not_end_what_was_cut_off() {
    let journal = Arc::new(MemoryJournal::default());
    let world = World::over(journal.clone()).await;
    let yaml = "name: w\ntimeout: 1m\ntasks:\n  ok: { type: approval }\n  b: { type: probe, timeout: 30s, with: { does: take 20 } }\n";
    let run = world.submit(yaml).await;
    world
        .until(run, |view| view.tasks.iter().any(|task| task.asks.is_some()) && view.tasks[1].phase.is_some())
        .await;
    world.engine.shutdown().await;
    let world = World::start(journal.clone(), Duration::from_secs(7_200), Mode::Answer).await;
    assert_eq!(world.agree(run, "bob").await, PersonAnswer::Taken(task("ok")));
    assert_eq!(told(&world.view(run).await), "running | b: running, ok: succeeded");
    world.engine.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_nobody_is_asked_any_more() {
    let world = World::new().await;
    let yaml = "name: w\ntasks:\n  ok: { type: approval }\n  b: { type: probe, needs: [ok] }\n  slow: { type: probe, with: { does: take 5 } }\n  bad: { type: probe, needs: [slow], with: { does: fail } }\n";
    let run = world.submit(yaml).await;
    assert_eq!(
        told(&world.finish(run).await),
        "failed | b: skipped (the run was ending), bad: failed (told to fail), ok: cancelled, slow: succeeded"
    );
    let took = world.view(run).await;
    assert!(took.summary.ended_at.expect("ended").since(took.summary.submitted_at) < Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn a_retry_keeps_nothing_of_a_run_that_somebody_took_back_later() {
    let world = World::new().await;
    let run = world.submit(&RETRIED.replace("DOES", "fail")).await;
    world.finish(run).await;
    let undo = world
        .engine
        .follow_up(run, FollowUp::Undo { force: false }, "bob".into(), None)
        .await
        .expect("begun");
    world.finish(undo).await;
    let refused = world.engine.follow_up(run, FollowUp::Retry { from: None }, "bob".into(), None).await;
    let why = refused.expect_err("refused").to_string();
    assert!(why.contains(&format!("was taken back by run {undo}")), "{why}");
}

#[tokio::test(start_paused = true)]
async fn nothing_pushes_an_undo_aside() {
    for policy in ["", "concurrency: { policy: replace }\n"] {
        let world = World::new().await;
        let yaml = |does: &str| {
            format!(
                "name: w\n{policy}tasks:\n  a: {{ type: probe, with: {{ lane: gray, undoes: take, does: {does} }} }}\n"
            )
        };
        let first = world.submit(&yaml("succeed")).await;
        world.finish(first).await;
        let undo = world
            .engine
            .follow_up(first, FollowUp::Undo { force: false }, "bob".into(), None)
            .await
            .expect("begun");
        let newer = world.submit(&yaml("succeed")).await;
        let undone = world.finish(undo).await;
        assert_eq!(undone.summary.status, "succeeded", "{policy}");
        assert!(world.finish(newer).await.admitted_at >= undone.summary.ended_at);
    }
}

#[tokio::test(start_paused = true)]
async fn two_approvals_of_one_task_are_of_one_plan() {
    let world = World::new().await;
    let yaml = "name: w\ntasks:\n  one: { type: approval }\n  two: { type: approval }\n  b: { type: probe, needs: [one, two] }\n";
    let run = world.submit(yaml).await;
    world.until(run, |view| view.tasks.iter().filter(|task| task.asks.is_some()).count() == 2).await;
    let view = world.view(run).await;
    let plan = view.tasks.iter().find(|of| of.name == task("b")).expect("there").plan.clone();
    for of in view.tasks.iter().filter(|of| of.asks.is_some()) {
        let asks = of.asks.as_ref().expect("asks");
        assert_eq!(asks.plans.get(&task("b")).cloned(), plan, "{}", of.name);
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_an_expression_did_not_give_are_not_everybody() {
    let world = World::new().await;
    let yaml = "name: w\ninputs: { who: { type: string } }\ntasks:\n  ok: { type: approval, with: { from: [\"${{ inputs.who }}\"] } }\n";
    let run = world.submit(yaml).await;
    assert_eq!(told(&world.finish(run).await), "failed | ok: failed (`with.from` must be a list of names)");
}

#[tokio::test(start_paused = true)]
async fn what_an_approval_guards_is_checked_before_anything_runs() {
    let world = World::new().await;
    for (tasks, words) in [
        (
            "  ok: { type: approval, with: { guards: [promot] } }\n  promote: { type: probe, needs: [ok] }\n",
            "there is no task `promot`",
        ),
        (
            "  ok: { type: approval, with: { guards: [b] } }\n  b: { type: probe }\n",
            "task `b` does not wait for this approval",
        ),
        (
            "  v: { type: probe }\n  ok: { type: approval }\n  b: { type: probe, needs: [ok, v] }\n",
            "people agree to the plan of `b` before `v` has ended",
        ),
        (
            "  a: { type: probe, with: { lane: \"${{ run.actor }}\" } }\n",
            "`lane` cannot depend on the run itself",
        ),
    ] {
        match world.engine.submit(World::submission(&format!("name: w\ntasks:\n{tasks}"))).await {
            Err(SubmitError::Invalid(problems)) => assert_eq!(problems[0].message, words),
            other => panic!("{words}: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_undo_takes_back_also_where_a_failure_counts_as_passed() {
    let world = World::new().await;
    let yaml = "name: w\ntasks:\n  a: { type: probe, on_failure: continue, with: { does: hold 1 } }\n  b: { type: probe, needs: [a] }\n";
    let run = world.submit(yaml).await;
    world.until_waiting(run).await;
    let _ = world.say(run, HoldAnswer::Undo).await;
    let view = world.finish(run).await;
    assert_eq!(view.summary.status, "failed");
    assert!(view.undone_by.is_some());
    assert!(!world.diary().iter().any(|line| line.starts_with("b 1")), "{:?}", world.diary());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_for_people_does_not_stop_new_ones_from_beginning() {
    let journal = Arc::new(MemoryJournal::default());
    let world = World::over(journal.clone()).await;
    let run = world.submit(&approved("{}")).await;
    world.until_waiting(run).await;
    world.engine.shutdown().await;
    let world = World::start(journal, Duration::from_secs(10), Mode::Begin).await;
    let fix = world.submit("name: fix\ntasks:\n  a: { type: probe }\n").await;
    assert_eq!(world.finish(fix).await.summary.status, "succeeded");
    assert_eq!(world.view(run).await.summary.status, "waiting");
}

#[tokio::test(start_paused = true)]
async fn after_downtime_an_attempt_past_its_deadline_is_entered_once_more_for_a_minute() {
    for (seconds, expected) in [
        (50, "succeeded | a: succeeded"),
        (70, "failed | a: failed (timed out after 2h01m: stopped at a safe point)"),
    ] {
        let journal = Arc::new(MemoryJournal::default());
        let world = World::over(journal.clone()).await;
        let yaml = format!(
            "name: w\ntasks:\n  a: {{ type: probe, timeout: 30s, with: {{ does: take {seconds} }} }}\n"
        );
        let run = world.submit(&yaml).await;
        world.until(run, |view| view.tasks[0].phase.is_some()).await;
        world.engine.shutdown().await;
        let world = World::later(journal, Duration::from_secs(7_200)).await;
        assert_eq!(told(&world.finish(run).await), expected, "what is done counts");
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_kept_as_ignored_and_changes_nothing() {
    let world = World::new().await;
    let run = world.submit("name: w\ntasks:\n  a: { type: probe, with: { does: take 900 } }\n").await;
    world.until(run, |view| view.tasks[0].phase.is_some()).await;
    world.engine.shutdown().await;
    let (sender, _inbox) = mpsc::channel(8);
    let shared = Arc::new(Shared {
        updates: broadcast::channel(8).0,
        broken: tokio::sync::watch::channel(None).0,
        broken_since: tokio::sync::watch::channel(None).0,
        retaining: tokio::sync::Mutex::default(),
        standing: tokio::sync::watch::channel(Arc::default()).0,
    });
    let mut scheduler = handle::scheduler(&world.parts, &shared, &sender, Mode::Work).expect("folded");
    let mut answers = async |attempt: u32| {
        let mut turn = Turn::default();
        let result = Ok(Outputs::default());
        let input = Input::AttemptEnded { run, task: task("a"), attempt: Attempt(attempt), result };
        assert!(scheduler.take(input, &mut turn).is_none());
        scheduler.settle(&mut turn);
        assert!(scheduler.finish(turn).await);
    };
    answers(7).await;
    assert_eq!(world.tells(run).last(), Some(&"answer-ignored"));
    assert_eq!(world.view(run).await.tasks[0].status, "running");
    // The control: the same answer of the attempt that counts.
    answers(1).await;
    assert_eq!(world.view(run).await.summary.status, "succeeded");
}
