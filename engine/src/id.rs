//! Ids and names: parsed once at the edge, never a bare `String` inside.
//!
//! A name that exists as a value of these types is valid; nothing here looks at files or clocks.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A name or id that is not well formed; the text says what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidName(pub String);

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(std::sync::Arc<str>);

        impl $type {
            /// The name as it was written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if is_name(text) {
                    Ok($type(text.into()))
                } else {
                    Err(InvalidName(format!(
                        "`{text}` is not a {} name: use up to 63 letters, digits, `-` and `_`, and begin with a letter",
                        $what
                    )))
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of a workflow; unique over all files of a source.
    WorkflowName,
    "workflow"
);
name!(
    /// The name of a task inside its workflow.
    TaskName,
    "task"
);

name!(
    /// The name of a source of workflows, as the operator's settings have it.
    SourceName,
    "source"
);

/// A workflow of a source: what pauses, schedules and slots are kept under. Written as `source/workflow`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct WorkflowUid {
    /// Where its file comes from.
    pub source: SourceName,
    /// Its name.
    pub name: WorkflowName,
}

impl fmt::Display for WorkflowUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.source, self.name)
    }
}

impl FromStr for WorkflowUid {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (source, name) = text.split_once('/').ok_or_else(|| {
            InvalidName(format!("`{text}` names no workflow of a source: write it as SOURCE/WORKFLOW"))
        })?;
        Ok(WorkflowUid { source: source.parse()?, name: name.parse()? })
    }
}

impl TryFrom<String> for WorkflowUid {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<WorkflowUid> for String {
    fn from(uid: WorkflowUid) -> String {
        uid.to_string()
    }
}

/// The pattern of every name, for schemas.
pub const NAME_PATTERN: &str = "^[A-Za-z][A-Za-z0-9_-]{0,62}$";

/// Tells whether a text may stand as a workflow's, task's or input's name.
pub fn is_name(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic())
        && text.len() <= 63
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// The id of a run: a ULID, so that ids sort by the time of their submission.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct RunId(#[schemars(with = "String")] ulid::Ulid);

impl RunId {
    /// No run: an entry of the audit log under this id names a deed of the ledger. No run was submitted in 1970.
    pub const LEDGER: RunId = RunId(ulid::Ulid::nil());

    /// Makes an id from a moment (milliseconds since 1970) and 80 random bits, both from the clock's door.
    pub fn new(millis: u64, random: u128) -> Self {
        RunId(ulid::Ulid::from_parts(millis, random))
    }

    /// The 16 bytes of the id, in sorting order.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_bytes()
    }

    /// The id of these 16 bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        RunId(ulid::Ulid::from_bytes(bytes))
    }
}

impl FromStr for RunId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        ulid::Ulid::from_string(text)
            .map(RunId)
            .map_err(|_| InvalidName(format!("`{text}` is not a run id: a run id has 26 letters and digits")))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_string())
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One try at a task in a run, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Attempt(pub u32);

impl Attempt {
    /// The first attempt.
    pub const FIRST: Attempt = Attempt(1);

    /// The attempt after this one.
    pub fn next(self) -> Attempt {
        Attempt(self.0.saturating_add(1))
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of a record among its run's records, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Seq(pub u64);

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A SHA-256 digest, written as 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(hex(&Sha256::digest(bytes)))
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits: enough for people to tell two apart.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl FromStr for Digest {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            Ok(Digest(text.to_owned()))
        } else {
            Err(InvalidName(format!("`{text}` is not a SHA-256 digest: 64 hexadecimal digits were expected")))
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_a_label_and_a_file_can_carry() {
        for good in ["a", "release", "mse-gray-workflow", "A_1"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "1a", "-a", "a b", "a.b", "灰度", &"a".repeat(64)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn run_ids_sort_by_time_and_survive_a_round_trip() {
        let early = RunId::new(1_000, 9);
        let late = RunId::new(1_001, 1);
        assert!(early < late);
        assert_eq!(early.to_string().parse(), Ok(early));
        assert_eq!(RunId::from_bytes(late.to_bytes()), late);
    }
}
