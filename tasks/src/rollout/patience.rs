//! How long what may pass is waited for before a rollout counts as failed: the environment's `rollout`.
//!
//! The defaults are those of the table of signals in docs/operations.md. Nothing here looks at an object.

use std::time::Duration;

use graylane_engine::clock::parse_duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `rollout` in an environment file: how patient rollouts are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutFile {
    /// An image that cannot be pulled, from the first back-off; 5 s where the registry says that it is not there (30 s).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = graylane_engine::clock::DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub image: Option<String>,
    /// A ConfigMap, a Secret or a key of one that is missing (15 s).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = graylane_engine::clock::DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub config: Option<String>,
    /// A container that cannot be made or started (30 s).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = graylane_engine::clock::DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub container: Option<String>,
    /// A container that crashes again and again (60 s).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = graylane_engine::clock::DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub crash: Option<String>,
    /// After how many restarts it counts as crashing, however short that took (3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub restarts: Option<u32>,
    /// A pod that finds no node, is held by a gate, or whose volumes cannot be mounted (2 m); an autoscaler may need longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = graylane_engine::clock::DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub schedule: Option<String>,
    /// Pods that may not be created: a quota, a webhook that refuses (10 s).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = graylane_engine::clock::DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub create: Option<String>,
}

/// What holds: see [`RolloutFile`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patience {
    pub(super) image: Duration,
    pub(super) config: Duration,
    pub(super) container: Duration,
    pub(super) crash: Duration,
    pub(super) restarts: i64,
    pub(super) schedule: Duration,
    pub(super) create: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience::of(&RolloutFile::default())
    }
}

impl Patience {
    /// What a file says, and the defaults for the rest. The schema has checked the durations.
    pub fn of(file: &RolloutFile) -> Patience {
        let or = |written: &Option<String>, seconds: u64| {
            let written = written.as_deref().and_then(|text| parse_duration(text).ok());
            written.unwrap_or(Duration::from_secs(seconds))
        };
        Patience {
            image: or(&file.image, 30),
            config: or(&file.config, 15),
            container: or(&file.container, 30),
            crash: or(&file.crash, 60),
            restarts: file.restarts.map_or(3, i64::from),
            schedule: or(&file.schedule, 120),
            create: or(&file.create, 10),
        }
    }
}
