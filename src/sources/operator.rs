//! The operator's files, gathered anew when one of them changes: environments, and the manifests that they name.
//!
//! An environment file that is broken is not there until it is mended: with an older one, a freeze that was just written into it
//! would not hold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use graylane_engine::bundle::Bundle;
use graylane_engine::document::Problem;
use graylane_tasks::environment::{Gathered, gather};
use graylane_tasks::secret::DigestKey;
use serde_json::Value;

type Stamps = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

/// The operator's files as they are now.
pub(crate) struct Operator {
    folder: PathBuf,
    key: DigestKey,
    gathered: Gathered,
    taken: Stamps,
    before: Stamps,
}

impl Operator {
    pub(crate) fn new(folder: PathBuf, key: DigestKey) -> Operator {
        let mut operator = Operator {
            folder,
            key,
            gathered: Gathered::default(),
            taken: Stamps::new(),
            before: Stamps::new(),
        };
        operator.gather();
        operator
    }

    /// Looks once, and gathers again where something has changed and two looks in a row agree.
    pub(crate) fn has_changed(&mut self) -> bool {
        let now = self.stamps();
        let settled = std::mem::replace(&mut self.before, now.clone()) == now;
        let changed = settled && now != self.taken;
        if changed {
            self.gather();
        }
        changed
    }

    /// The files that are right; Secrets hold digests.
    pub(crate) fn bundle(&self) -> &Bundle {
        &self.gathered.bundle
    }

    /// What is wrong with the others.
    pub(crate) fn problems(&self) -> &[Problem] {
        &self.gathered.problems
    }

    fn gather(&mut self) {
        let before = std::mem::take(&mut self.gathered).problems;
        self.gathered = gather(&self.folder, &self.key);
        self.taken = self.stamps();
        for problem in self.gathered.problems.iter().filter(|problem| !before.contains(problem)) {
            tracing::warn!(%problem, "a problem in the operator's files");
        }
    }

    fn stamps(&self) -> Stamps {
        let mut stamps = Stamps::new();
        stamp(&self.folder, &mut stamps);
        for (path, bytes) in self.gathered.bundle.below("environments/") {
            let Ok(file) = serde_json::from_slice::<Value>(bytes) else { continue };
            if path.ends_with(".origin.json") {
                // The folder itself, so that a new file is seen; and each file, wherever it is.
                for service in file["services"].as_object().into_iter().flatten() {
                    if let Some(folder) = service.1.as_str().and_then(|file| Path::new(file).parent()) {
                        stamp(folder, &mut stamps);
                    }
                }
            } else if let Some(services) = file["services"].as_str() {
                stamp(&self.folder.join(services), &mut stamps);
            }
        }
        stamps
    }
}

fn stamp(folder: &Path, stamps: &mut Stamps) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if let Ok(metadata) = std::fs::metadata(entry.path())
            && metadata.is_file()
        {
            stamps.insert(entry.path(), (metadata.modified().ok(), metadata.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_environment_is_gathered_again_and_a_broken_one_is_not_there() {
        let home = tempfile::tempdir().expect("made");
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (environments, services) = (home.path().join("environments"), home.path().join("services"));
        std::fs::create_dir(&environments).expect("made");
        std::fs::create_dir(&services).expect("made");
        for file in ["environments/production.yaml", "services/spring-a.yaml", "services/nacos.yaml"] {
            std::fs::copy(here.join("config").join(file), home.path().join(file)).expect("copied");
        }
        let mut operator = Operator::new(environments.clone(), DigestKey::new([0; 32]));
        assert!(operator.bundle().get("services/production/spring-a.json").is_some());
        assert!(!operator.has_changed() && !operator.has_changed());

        std::fs::copy(here.join("config/services/spring-b.yaml"), services.join("spring-b.yaml"))
            .expect("copied");
        assert!(!operator.has_changed(), "it may still be written to");
        assert!(operator.has_changed());
        assert!(operator.bundle().get("services/production/spring-b.json").is_some());

        std::fs::write(environments.join("production.yaml"), "name: production\n").expect("written");
        operator.has_changed();
        assert!(operator.has_changed());
        assert!(operator.bundle().get("environments/production.json").is_none());
        assert!(!operator.problems().is_empty());
    }
}
