//! Which story is told under which fault, by seed: fourteen faults, four stories, and where in a story the fault strikes.
//!
//! Numbers alone: nothing here asks a cluster.

use std::time::Duration;

use crate::support::proxy::{Fault, On, Trouble};

/// What is done while the fault is there. All but the first have a lane already, deployed without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Story {
    /// deploy, verify, promote, offline.
    Release,
    /// The lane again, in place: two of its three services get other images, and its route goes.
    Update,
    /// That update is taken back.
    Undo,
    /// promote, offline.
    Promotion,
}

impl Story {
    /// Over as many seeds as there are faults times stories, each fault meets each story.
    fn of(seed: usize) -> Story {
        [Story::Release, Story::Update, Story::Undo, Story::Promotion][(seed + seed / KINDS) % 4]
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Story::Release => "release",
            Story::Update => "update in place",
            Story::Undo => "undo of an update",
            Story::Promotion => "promotion",
        }
    }

    /// How many of its writes and of all its requests can be let pass before the fault, so that it still strikes.
    fn room(self) -> (usize, usize) {
        match self {
            Story::Release => (24, 72),
            Story::Update => (6, 36),
            Story::Undo => (6, 20),
            Story::Promotion => (16, 40),
        }
    }

    /// What it writes by PATCH, and how often at least.
    fn patched(self) -> &'static [(&'static str, usize)] {
        match self {
            Story::Release => &[("deployments", 4), ("services", 2), ("secrets", 2), ("ingresses", 2)],
            Story::Update | Story::Undo => &[("deployments", 2), ("services", 1), ("secrets", 1)],
            Story::Promotion => &[("deployments", 2), ("services", 1), ("secrets", 1), ("ingresses", 1)],
        }
    }
}

/// What must become of a story under a fault.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expect {
    /// It passes, and so must the story.
    Succeeds,
    /// It stays: the story fails, and these words say why.
    Named(Vec<String>),
}

/// One story under one fault.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) story: Story,
    pub(super) name: &'static str,
    pub(super) trouble: Trouble,
    pub(super) expect: Expect,
    /// Whether nobody may see anything by then, so that nothing can be told of what is left.
    pub(super) blind: bool,
}

/// A sequence of numbers from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }
}

pub(super) const KINDS: usize = 14;
/// The seed of a release under a webhook that changes Deployments.
pub(super) const WEBHOOK: usize = 94;
const FOREVER: usize = usize::MAX;
const WRITES: On = On { mutating: true, watch: false, resource: None, method: None };
const ANY: On = On { mutating: false, watch: false, resource: None, method: None };
const WATCHES: On = On { mutating: false, watch: true, resource: None, method: None };

pub(super) fn case(seed: usize, namespace: &str) -> Case {
    let mut dice = Dice(seed as u64 + 1);
    // The first numbers of neighbours resemble each other.
    for _ in 0..4 {
        dice.roll(2);
    }
    let story = Story::of(seed);
    let (writes, requests) = story.room();
    let (early, soon, often) = (dice.roll(writes), dice.roll(requests), 1 + dice.roll(3));
    let (written, times) = dice.one(story.patched());
    let group = match written {
        "deployments" => "apps",
        "ingresses" => "networking.k8s.io",
        _ => "",
    };
    let refusal =
        |code, reason, message| Fault::Answer { code, reason, message, retry_after: None, plain: false };
    let passes = |name, fault, on, from, times| Case {
        story,
        name,
        trouble: Trouble { fault, on, from, times },
        expect: Expect::Succeeds,
        blind: false,
    };
    let of_one = On { resource: Some(written), method: Some("PATCH"), ..WRITES };
    let from = dice.roll(times.min(2));
    let stays = |name, fault, words: Vec<String>| Case {
        story,
        name,
        trouble: Trouble { fault, on: of_one, from, times: FOREVER },
        expect: Expect::Named(words),
        blind: false,
    };
    match seed % KINDS {
        0 => {
            let words = "Operation cannot be fulfilled: the object has been modified; please apply your changes to the latest version and try again";
            passes("a conflict", refusal(409, "Conflict", words.into()), WRITES, early, often)
        }
        1 => {
            let message = "Too many requests, please try again later.".into();
            let retry_after = Some(1);
            let fault = Fault::Answer { code: 429, reason: "", message, retry_after, plain: true };
            passes("too many requests", fault, ANY, soon, often)
        }
        2 => {
            let code = dice.one(&[500, 502, 503, 504]);
            let message = "etcdserver: request timed out".into();
            let retry_after = dice.one(&[None, Some(1)]);
            let fault = Fault::Answer { code, reason: "InternalError", message, retry_after, plain: false };
            passes("an internal error", fault, ANY, soon, often)
        }
        3 => passes("a connection that ends before the request", Fault::ResetBefore, ANY, soon, often),
        4 => passes("a connection that ends before the answer", Fault::ResetAfter, WRITES, early, often),
        5 => passes("watches that end", Fault::WatchEnds, WATCHES, dice.roll(2), 2 + often),
        6 => passes("watches that fell behind", Fault::WatchGone, WATCHES, dice.roll(2), often),
        7 => {
            let away = Duration::from_millis(1000 + 500 * dice.roll(5) as u64);
            passes("an API server that is away", Fault::Away(away), WRITES, early, FOREVER)
        }
        8 => {
            let words = vec![
                "Unauthorized (401)".into(),
                "hint: the credentials of the cluster are not accepted: renew them".into(),
            ];
            let fault = refusal(401, "Unauthorized", "Unauthorized".into());
            let case = stays("credentials that have expired", fault.clone(), words);
            let trouble = Trouble { fault, on: ANY, from: soon, times: FOREVER };
            Case { blind: true, trouble, ..case }
        }
        9 => {
            let words =
                format!("admission webhook \"policy.example.com\" denied the request: no {written} today");
            let fault = refusal(400, "BadRequest", words.clone());
            stays("a webhook that denies", fault, vec![words, "hint: a policy of the cluster".into()])
        }
        10 => passes("a webhook that changes Deployments", Fault::Webhook, WRITES, 0, FOREVER),
        11 => {
            let words = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            let fault = refusal(403, "Forbidden", format!("{written} is forbidden: {words}"));
            let hint = "hint: the namespace is being deleted".into();
            stays("a namespace that is being deleted", fault, vec![words, hint])
        }
        12 => {
            let words = format!(
                "exceeded quota: few, requested: count/{written}=1, used: count/{written}=4, limited: count/{written}=4"
            );
            let fault = refusal(403, "Forbidden", format!("{written} is forbidden: {words}"));
            stays("a quota that is used up", fault, vec![words, "hint: raise the quota".into()])
        }
        _ => {
            let words = format!(
                "User \"graylane\" cannot patch resource \"{written}\" in API group \"{group}\" in the namespace \"{namespace}\""
            );
            let fault = refusal(403, "Forbidden", format!("{written} is forbidden: {words}"));
            let rule = format!("{{ apiGroups: [\"{group}\"], resources: [\"{written}\"], verbs: [patch] }}");
            stays("a right that was taken away", fault, vec![words, rule])
        }
    }
}

#[test]
fn the_seeds_of_the_long_run_have_each_fault_in_each_story() {
    let met: std::collections::BTreeSet<(&str, &str)> =
        (0..100).map(|seed| case(seed, "n")).map(|case| (case.name, case.story.name())).collect();
    assert_eq!(met.len(), KINDS * 4);
    let webhook = case(WEBHOOK, "n");
    assert_eq!((webhook.name, webhook.story), ("a webhook that changes Deployments", Story::Release));
}
