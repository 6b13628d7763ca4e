//! What must stand on a cluster after a story, said without Graylane: after a success all of it, after a failure what its
//! words do not name. A judge gives sentences of what is wrong; none means that all is right.

use std::collections::BTreeSet;

use serde_json::Value;

use super::cases::Story;
use super::ground::{Ground, Snapshot, is_gray, is_marked, is_rolled_out};
use crate::support::compare::diff;
use crate::support::proxy::Witnessed;
use crate::support::stage::DEPLOYMENTS;

/// What stood there before the fault.
pub(super) struct Before {
    pub(super) baseline: Snapshot,
    /// The lane, right before the story.
    pub(super) lane: Snapshot,
    /// The lane that an undo goes back to.
    pub(super) first_lane: Snapshot,
}

/// A snapshot, lane and rest apart.
pub(super) fn parted(all: Snapshot) -> (Snapshot, Snapshot) {
    all.into_iter().partition(|(_, object)| is_gray(object))
}

/// Nothing.
pub(super) fn none() -> Snapshot {
    Snapshot::new()
}

/// Production as the release leaves it: two images are others, a notes what its Secret was, and that is all.
pub(super) fn promoted(baseline: &Snapshot, found: &Snapshot) -> Snapshot {
    let mut expected = baseline.clone();
    for name in ["spring-cloud-a", "spring-cloud-c"] {
        set_image(&mut expected, name, &format!("{name}:0.2"));
    }
    let hash = |all: &Snapshot| {
        let metadata = &all.get("Deployment spring-cloud-a")?["spec"]["template"]["metadata"];
        metadata["annotations"]["graylane.dev/config-hash"].as_str().map(str::to_owned)
    };
    if let Some(hash) = hash(found)
        && let Some(object) = expected.get_mut("Deployment spring-cloud-a")
    {
        object["spec"]["template"]["metadata"]["annotations"]["graylane.dev/config-hash"] = hash.into();
    }
    expected
}

fn set_image(all: &mut Snapshot, name: &str, image: &str) {
    let deployment = all.get_mut(&format!("Deployment {name}")).expect("there");
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
}

/// The lane as its update leaves it: a and c have other images, b is what it was, the route is gone.
fn updated(lane: &Snapshot) -> Snapshot {
    let mut expected = lane.clone();
    for letter in ["a", "c"] {
        set_image(
            &mut expected,
            &format!("spring-cloud-{letter}-mse-gray"),
            &format!("spring-cloud-{letter}:0.3"),
        );
    }
    expected.remove("Ingress spring-cloud-a-mse-gray").expect("a route");
    expected
}

/// A lane without Graylane's own notes: which run, when, over which baseline.
fn without_notes(lane: &Snapshot) -> Snapshot {
    let mut lane = lane.clone();
    for object in lane.values_mut() {
        if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
            annotations.retain(|key, _| !key.starts_with("graylane.dev/"));
        }
    }
    lane
}

/// Where two snapshots differ, a line a place.
pub(super) fn differences(what: &str, found: &Snapshot, expected: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    for name in found.keys().chain(expected.keys()).collect::<BTreeSet<_>>() {
        let mut of = Vec::new();
        let side = |all: &Snapshot| all.get(name).cloned().unwrap_or_default();
        diff(&side(found), &side(expected), "", &mut of);
        // `diff` calls its sides after the clusters that it compares elsewhere.
        let words = |line: String| line.replace("rehearsal", "found").replace("real", "expected");
        lines.extend(of.into_iter().map(|line| format!("{what}: {name}{}", words(line))));
    }
    lines
}

/// What is not as it must be after a success.
pub(super) async fn after_success(ground: &Ground, story: Story, before: &Before) -> Vec<String> {
    let (lane, rest) = parted(ground.snapshot().await);
    let (expected_rest, expected_lane) = match story {
        Story::Release | Story::Promotion => (promoted(&before.baseline, &rest), Snapshot::new()),
        Story::Update => (before.baseline.clone(), without_notes(&updated(&before.lane))),
        Story::Undo => (before.baseline.clone(), before.first_lane.clone()),
    };
    let lane = if story == Story::Update { without_notes(&lane) } else { lane };
    let mut wrong = differences("production", &rest, &expected_rest);
    wrong.extend(differences("lane", &lane, &expected_lane));
    wrong.extend(ground.not_rolled_out().await.into_iter().map(|name| format!("{name} is not rolled out")));
    wrong
}

/// Nothing goes on before what it needs is up. Only what went before the write that is looked at can have been waited for, so
/// this is seen however soon the pods come.
pub(super) fn waited(story: Story, witnessed: &[Witnessed]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut met = BTreeSet::new();
    for Witnessed { write, deployments } in witnessed {
        let up = |wanted: &dyn Fn(&Value) -> bool| {
            let mut found = deployments.iter().filter(|object| wanted(object)).peekable();
            found.peek().is_some() && found.all(is_rolled_out)
        };
        let is_new = |name: &'static str| {
            move |object: &Value| {
                let image = &object["spec"]["template"]["spec"]["containers"][0]["image"];
                object["metadata"]["name"] == name && *image == format!("{name}:0.2")
            }
        };
        let rule = if write == "PATCH ingresses/spring-cloud-a-mse-gray" {
            Some(("the route opens when the lane is up", up(&is_gray)))
        } else if write == "PATCH deployments/spring-cloud-a" {
            Some(("a follows when c is up", up(&is_new("spring-cloud-c"))))
        } else if write.starts_with("DELETE") && write.contains("-mse-gray") && story != Story::Update {
            let both = up(&is_new("spring-cloud-a")) && up(&is_new("spring-cloud-c"));
            Some(("the lane goes when production is up", both))
        } else {
            None
        };
        if let Some((words, holds)) = rule {
            met.insert(words);
            if !holds {
                wrong.push(format!("{words}, and at {write} it was not"));
            }
        }
    }
    let expected = match story {
        Story::Release => 3,
        Story::Promotion => 2,
        Story::Undo => 1,
        Story::Update => 0,
    };
    if met.len() != expected {
        wrong.push(format!("of what a {} waits for only {met:?} was met", story.name()));
    }
    wrong
}

/// What a webhook did is nobody's, and is on everything that was written while it was there.
pub(super) async fn webhook(ground: &Ground, story: Story) -> (usize, Vec<String>) {
    let names: &[&str] = match story {
        Story::Release | Story::Promotion => &["spring-cloud-a", "spring-cloud-c"],
        Story::Update | Story::Undo => &["spring-cloud-a-mse-gray", "spring-cloud-c-mse-gray"],
    };
    let (mut met, mut wrong) = (0, Vec::new());
    for object in ground.raw(DEPLOYMENTS, "").await {
        let name = object["metadata"]["name"].as_str().expect("a name");
        if !names.contains(&name) {
            continue;
        }
        met += usize::from(is_marked(&object));
        for entry in object["metadata"]["managedFields"].as_array().into_iter().flatten() {
            if entry["fieldsV1"].to_string().contains("f:policy.example.com/seen") {
                wrong.push(format!("{} owns what the webhook wrote into {name}", entry["manager"]));
            }
        }
    }
    if met != names.len() {
        wrong.push(format!("the webhook changed {met} of {names:?}"));
    }
    (met, wrong)
}

/// What a task said that it leaves, where it said it.
pub(super) fn told_left(said: &str) -> Option<BTreeSet<String>> {
    let list = |text: &str| text.split(", ").map(|one| one.trim().to_owned()).collect::<BTreeSet<_>>();
    for line in said.lines().map(str::trim) {
        if let Some((_, rest)) = line.split_once("left to look at: ") {
            let (objects, _) = rest.split_once(" in ").expect("it says where");
            return Some(list(objects));
        }
        if let Some((_, rest)) = line.split_once("still there: ") {
            return Some(list(rest));
        }
        if line.contains("nothing of lane `gray` is left") {
            return Some(BTreeSet::new());
        }
    }
    None
}

/// The objects that lines name before some words.
fn named_before(said: &str, words: &str) -> BTreeSet<String> {
    said.lines()
        .filter_map(|line| line.split_once(words))
        .map(|(object, _)| object.trim().to_owned())
        .collect()
}

/// What a failed story said, and how its tasks ended.
pub(super) struct Failed<'f> {
    pub(super) said: &'f str,
    /// By task: `succeeded`, `failed`, ...
    pub(super) status: &'f (dyn Fn(&str) -> String + Sync),
    /// What `graylane lanes` tells, once it is answered again.
    pub(super) lanes: &'f Value,
    /// Whether a task has come to write anything: a plan that did not come about leaves nothing, and says so of nothing.
    pub(super) began: &'f (dyn Fn(&str) -> bool + Sync),
    /// Whether nobody could see anything.
    pub(super) blind: bool,
}

/// What is not as it was told after a failure.
pub(super) async fn after_failure(
    ground: &Ground,
    story: Story,
    before: &Before,
    failed: Failed<'_>,
) -> Vec<String> {
    let Failed { said, status, began, lanes, blind } = failed;
    let (lane, rest) = parted(ground.snapshot().await);
    let scan: BTreeSet<String> = lane.keys().cloned().collect();
    let is = |task: &str, wanted: &str| status(task) == wanted;
    let failed = |task: &str| is(task, "failed") && began(task);
    let mut wrong = Vec::new();

    // The lane: whoever leaves one says of what.
    let unseen = blind && said.contains("could not be seen");
    if story == Story::Undo {
        let told = &named_before(said, " is not as it was") | &named_before(said, " is still there");
        let names: BTreeSet<&String> = lane.keys().chain(before.first_lane.keys()).collect();
        let differ = names.into_iter().filter(|name| lane.get(*name) != before.first_lane.get(*name));
        let found: BTreeSet<String> = differ.cloned().collect();
        if told != found && !unseen && began("deploy") {
            wrong.push(format!("told as not taken back: {told:?}; found: {found:?}"));
        }
    } else if failed("deploy") || failed("offline") {
        let told = told_left(said);
        if told.as_ref() != Some(&scan) && !unseen {
            wrong.push(format!("told as left: {told:?}; found: {scan:?}"));
        }
    } else if failed("promote") {
        let told = said.contains("still up: lane `gray`; ");
        if told == scan.is_empty() && !unseen {
            wrong.push(format!("told of a lane: {told}; found: {scan:?}"));
        }
    } else if is("verify", "failed") && !said.contains("shows whether the lane is still up") {
        wrong.push("nothing is said of the lane".into());
    }
    if !["deploy", "verify", "promote", "offline"].into_iter().any(began) {
        wrong.extend(differences("nothing began, and the lane", &lane, &before.lane));
    }
    // What could not be told is found by `graylane lanes`, which tells of services: their Deployments are compared.
    let copies = |lane: &Value| lane["services"].as_array().cloned().unwrap_or_default();
    let told: BTreeSet<String> = lanes
        .as_array()
        .into_iter()
        .flatten()
        .filter(|lane| lane["tag"] == "gray")
        .flat_map(copies)
        .filter_map(|copy| {
            Some(format!(
                "Deployment {}-mse-gray",
                copy["service"].as_str()?.replace("spring-", "spring-cloud-")
            ))
        })
        .collect();
    let found: BTreeSet<String> =
        scan.iter().filter(|name| name.starts_with("Deployment ")).cloned().collect();
    if told != found || lanes.as_array().is_none_or(|lanes| lanes.is_empty() != scan.is_empty()) {
        wrong.push(format!("`graylane lanes` tells of {told:?}; found: {scan:?}"));
    }

    // Production: as it was, as it is to be, or what is said of it.
    let expected =
        if is("promote", "succeeded") { promoted(&before.baseline, &rest) } else { before.baseline.clone() };
    let told = named_before(said, " was not rolled back");
    let differ = rest.keys().chain(expected.keys()).filter(|name| rest.get(*name) != expected.get(*name));
    let found: BTreeSet<String> = differ.cloned().collect();
    if told != found {
        wrong.push(format!("told as not rolled back: {told:?}; not as it was: {found:?}"));
        wrong.extend(differences("production", &rest, &expected));
    }
    let not_up = named_before(said, " was rolled back, but is not up");
    for name in ground.not_rolled_out().await {
        let object = format!("Deployment {name}");
        if rest.contains_key(&object) && !not_up.contains(&object) && !found.contains(&object) {
            wrong.push(format!("{object} is not rolled out, and nothing says so"));
        }
    }
    wrong
}
