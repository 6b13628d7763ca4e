//! Claims: what a task needs for itself, and which claims exclude each other.
//!
//! Who holds what is never stored; it follows from the states of the active runs.

use std::fmt;

/// A claim on a lane or a production service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// What is claimed, as `lane production/gray` or `service production/spring-a`.
    pub resource: String,
    /// Whether others may read meanwhile.
    pub mode: Mode,
    /// How long it is held.
    pub held: Held,
}

/// Stands for every tag: no tag is written so.
const EVERY: &str = "*";

/// Whether a claim excludes readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Any number at once.
    Read,
    /// One alone.
    Write,
}

/// How long a claim is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Held {
    /// From admission until the run is final.
    Run,
    /// While the task runs, its rollback included.
    Task,
}

impl Claim {
    /// The claim on a lane, held for the whole run.
    pub fn lane(environment: &str, tag: &str, mode: Mode) -> Claim {
        Claim { resource: format!("lane {environment}/{tag}"), mode, held: Held::Run }
    }

    /// The claim on every lane of an environment, held while the task runs: it waits until no run holds one, and while it
    /// is held no run that needs one is admitted. For tasks that cannot say beforehand which lanes they need.
    pub fn lanes(environment: &str, mode: Mode) -> Claim {
        Claim { resource: format!("lane {environment}/{EVERY}"), mode, held: Held::Task }
    }

    /// The claim on a production service, held while the task runs.
    pub fn service(environment: &str, service: &str) -> Claim {
        Claim { resource: format!("service {environment}/{service}"), mode: Mode::Write, held: Held::Task }
    }

    /// The environment in which it is.
    pub fn environment(&self) -> Option<&str> {
        let (_, place) = self.resource.split_once(' ')?;
        place.split_once('/').map(|(environment, _)| environment)
    }

    /// The lane's tag, where a lane is claimed.
    pub fn tag(&self) -> Option<&str> {
        let tag = self.resource.strip_prefix("lane ")?.split_once('/').map(|(_, tag)| tag)?;
        (tag != EVERY).then_some(tag)
    }

    /// The environment all of whose lanes are claimed.
    pub fn every_lane_of(&self) -> Option<&str> {
        self.resource.strip_prefix("lane ")?.strip_suffix(EVERY)?.strip_suffix('/')
    }

    fn covers(&self, other: &Claim) -> bool {
        self.resource == other.resource
            || self.every_lane_of().is_some_and(|environment| {
                other.resource.starts_with("lane ") && other.environment() == Some(environment)
            })
    }

    /// Whether the two cannot be held at once by two runs.
    pub fn excludes(&self, other: &Claim) -> bool {
        (self.covers(other) || other.covers(self)) && (self.mode == Mode::Write || other.mode == Mode::Write)
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let read = Claim::lane("production", "gray", Mode::Read);
        let write = Claim::lane("production", "gray", Mode::Write);
        let other = Claim::lane("production", "blue", Mode::Write);
        assert!(!read.excludes(&read));
        assert!(read.excludes(&write) && write.excludes(&read) && write.excludes(&write));
        assert!(!write.excludes(&other));
        let every = Claim::lanes("production", Mode::Write);
        assert!(every.excludes(&read) && other.excludes(&every) && every.excludes(&every));
        assert!(!every.excludes(&Claim::lane("staging", "gray", Mode::Write)));
        assert!(!every.excludes(&Claim::service("production", "spring-a")));
        assert_eq!((every.environment(), every.tag()), (Some("production"), None));
        let service = Claim::service("production", "spring-a");
        assert_eq!((write.environment(), write.tag()), (Some("production"), Some("gray")));
        assert_eq!((service.environment(), service.tag()), (Some("production"), None));
    }
}
