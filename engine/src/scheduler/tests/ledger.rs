//! Deeds and wishes with a name: told through the engine, and after restarts.

use super::*;
use crate::journal::DiskJournal;
use crate::ledger::Deed;
use crate::run::Key;

const ONE: &str = "name: w\ntasks:\n  a: { type: probe }\n";
const SLOW: &str = "name: w\ntasks:\n  a: { type: probe, with: { does: take 900 } }\n";

fn paused(by: &str) -> Deed {
    let workflow = "team/release".parse().expect("a workflow");
    Deed::WorkflowPaused { workflow, by: by.into(), reason: None }
}

fn wish(yaml: &str, name: &str, request: &str) -> Submission {
    let (name, request) = (Digest::of(name.as_bytes()), Digest::of(request.as_bytes()));
    Submission { key: Some(Key { name, request }), ..World::submission(yaml) }
}

#[tokio::test(start_paused = true)]
async fn a_deed_is_on_disk_when_it_is_answered_and_holds_after_a_restart() {
    let journal = Arc::new(MemoryJournal::default());
    let world = World::over(journal.clone()).await;
    let mut changes = world.engine.standing_changes();
    let mut updates = world.engine.watch();
    assert_eq!(world.engine.deed(paused("ann")).await.expect("done"), Seq(1));
    assert_eq!(journal.deeds().expect("read").len(), 1);
    assert!(changes.has_changed().expect("alive") && changes.borrow_and_update().paused.len() == 1);
    assert!(matches!(updates.recv().await, Ok(Update::Deed(deed)) if deed.deed == paused("ann")));
    let refused = world.engine.deed(paused("bob")).await.expect_err("paused already");
    assert!(refused.to_string().contains("is paused already: by ann"), "{refused}");
    assert_eq!(world.engine.deeds().expect("read").len(), 1, "a refusal leaves no trace");
    world.engine.shutdown().await;
    let world = World::later(journal.clone(), Duration::from_secs(60)).await;
    assert_eq!(world.engine.standing().paused.len(), 1);
    journal.fail_writes();
    let workflow = "team/other".parse().expect("a workflow");
    let deed = Deed::WorkflowPaused { workflow, by: "ann".into(), reason: None };
    assert!(matches!(world.engine.deed(deed).await, Err(DeedError::Journal(_))));
    assert_eq!(world.engine.standing().paused.len(), 1, "what is not on disk does not hold");
}

#[tokio::test(start_paused = true)]
async fn a_wish_with_a_name_is_granted_once() {
    let journal = Arc::new(MemoryJournal::default());
    let world = World::over(journal.clone()).await;
    let (one, two) = tokio::join!(
        world.engine.submit(wish(SLOW, "k", "body")),
        world.engine.submit(wish(SLOW, "k", "body"))
    );
    let run = one.expect("submitted");
    assert_eq!(two.expect("the same"), run, "also where both come at once");
    let other = world.engine.submit(wish(SLOW, "k", "another body")).await;
    assert!(matches!(other, Err(SubmitError::KeyTaken(taken)) if taken == run), "{other:?}");
    assert_ne!(world.engine.submit(wish(ONE, "l", "body")).await.expect("another name"), run);
    world.engine.shutdown().await;
    let world = World::later(journal.clone(), Duration::from_secs(60)).await;
    assert_eq!(world.engine.submit(wish(SLOW, "k", "body")).await.expect("the same"), run, "after a restart");
    world.finish(run).await;
    assert_eq!(world.engine.submit(wish(SLOW, "k", "body")).await.expect("the same"), run, "after its end");
    // The control: without a name every wish is another run.
    assert_ne!(world.submit(ONE).await, world.submit(ONE).await);
}

#[tokio::test]
async fn a_wish_that_was_granted_long_ago_is_found_in_a_segment() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits = crate::journal::Limits { seal: 3, merge: 3, rotate: 400 };
    let open = || Arc::new(DiskJournal::open_with(folder.path(), limits).expect("opened"));
    let world = World::new().await;
    let start = async |journal: Arc<DiskJournal>| {
        let parts = Parts { journal, ..world.parts.clone() };
        Engine::start(parts, Mode::Work).await.expect("started")
    };
    let journal = open();
    let engine = start(journal.clone()).await;
    let mut runs = Vec::new();
    for number in 0..12 {
        let mut updates = engine.watch();
        let run = engine.submit(wish(ONE, &format!("k{number}"), "body")).await.expect("submitted");
        runs.push(run);
        loop {
            let Ok(Update::Record(record)) = updates.recv().await else { continue };
            if record.run == run && matches!(record.event, Event::RunFinished { .. }) {
                break;
            }
        }
    }
    engine.shutdown().await;
    drop((engine, journal));
    let journal = open();
    assert!(journal.statistics().sealed > 3);
    let engine = start(journal).await;
    for (number, run) in runs.into_iter().enumerate() {
        let again = engine.submit(wish(ONE, &format!("k{number}"), "body")).await.expect("granted");
        assert_eq!(again, run);
    }
}
