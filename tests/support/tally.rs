//! What was told on which cluster, over all tests of this process: one line, which grows until the last test has ended.
//!
//! The same line is kept in a file of the target's folder for tests, so that whoever ran them can show it at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::say;

/// The name of the file, below `CARGO_TARGET_TMPDIR`.
const FILE: &str = "kubernetes-summary.txt";

/// How many of each kind on the rehearsal and on a real API server, and what differed between them.
#[derive(Default)]
struct Counts {
    told: BTreeMap<&'static str, (usize, usize)>,
    differences: usize,
}

static COUNTS: Mutex<Option<Counts>> = Mutex::new(None);

/// Counts so many of a kind, in the plural: on the rehearsal, and on a real API server.
pub(crate) fn told(what: &'static str, rehearsed: usize, real: usize) {
    count(|counts| {
        let sum = counts.told.entry(what).or_default();
        *sum = (sum.0 + rehearsed, sum.1 + real);
    });
}

/// Counts where the two differed.
pub(crate) fn differed(places: usize) {
    count(|counts| counts.differences += places);
}

fn count(add: impl FnOnce(&mut Counts)) {
    // A test that failed while it counted has said so itself.
    let mut counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let counts = counts.get_or_insert_default();
    add(counts);
    let line = counts.line();
    // Nobody needs the file for the tests themselves.
    let _ = std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join(FILE), format!("{line}\n"));
    say(&format!("so far: {line}"));
}

impl Counts {
    fn line(&self) -> String {
        let mut line = String::from("on the rehearsal and on a real API server: ");
        for (what, (rehearsed, real)) in &self.told {
            let _ = write!(line, "{what} {rehearsed} and {real}, ");
        }
        let _ = write!(line, "differences {}", self.differences);
        if std::env::var_os("GRAYLANE_TEST_KUBECONFIG").is_none() {
            line.push_str(" (no real API server: GRAYLANE_TEST_KUBECONFIG is not set)");
        }
        line
    }
}
