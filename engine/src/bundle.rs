//! A bundle: everything a run was submitted with, content-addressed.
//!
//! Files by name: the workflow, environments, service manifests. Made once at submit; a run reads
//! nothing else later. It holds no secret: manifests enter with the data of Secrets replaced by keyed digests.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::id::Digest;

/// The name of the workflow file inside every bundle.
pub const WORKFLOW_FILE: &str = "workflow.yaml";
/// The folder of the files that the workflow names beside itself, inside every bundle.
pub const ATTACHED: &str = "attached/";

/// What makes a revision of a workflow: the file as it is, and where it names others, a bundle of it and them. The
/// digest of these bytes is the revision's.
pub fn revision(workflow: &[u8], files: &Bundle) -> Vec<u8> {
    let mut whole = Bundle::default();
    for (name, bytes) in files.below(ATTACHED) {
        whole.add(name, bytes);
    }
    if whole.files.is_empty() {
        return workflow.to_vec();
    }
    whole.add(WORKFLOW_FILE, workflow);
    whole.to_bytes()
}

/// Files by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bundle {
    files: BTreeMap<String, Vec<u8>>,
}

impl Bundle {
    /// Adds a file; one of the same name is replaced.
    pub fn add(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.files.insert(name.into(), bytes.into());
    }

    /// Adds every file of another bundle.
    pub fn extend(&mut self, other: Bundle) {
        self.files.extend(other.files);
    }

    /// The bytes of a file.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    /// The names of all files below a folder (`environments/`), in order.
    pub fn below<'b>(&'b self, folder: &'b str) -> impl Iterator<Item = (&'b str, &'b [u8])> {
        self.files
            .range(folder.to_owned()..)
            .take_while(move |(name, _)| name.starts_with(folder))
            .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// The whole as bytes, the same for the same files.
    pub fn to_bytes(&self) -> Vec<u8> {
        let stored = Stored {
            version: 1,
            files: self
                .files
                .iter()
                .map(|(name, bytes)| (name.clone(), BASE64_STANDARD.encode(bytes)))
                .collect(),
        };
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// Reads what [`Bundle::to_bytes`] wrote.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Bundle, String> {
        let stored: Stored =
            serde_json::from_slice(bytes).map_err(|error| format!("not a bundle: {error}"))?;
        if stored.version != 1 {
            return Err(format!("a bundle of version {}, which this version does not know", stored.version));
        }
        let mut bundle = Bundle::default();
        for (name, text) in stored.files {
            let bytes =
                BASE64_STANDARD.decode(text).map_err(|error| format!("not a bundle: `{name}`: {error}"))?;
            bundle.files.insert(name, bytes);
        }
        Ok(bundle)
    }

    /// The digest of the whole.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    files: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_give_the_same_digest_and_come_back() {
        let mut one = Bundle::default();
        one.add("b/2.yaml", "two");
        one.add("a.yaml", "one");
        let mut two = Bundle::default();
        two.add("a.yaml", "one");
        two.add("b/2.yaml", "two");
        assert_eq!(one.digest(), two.digest());
        assert_eq!(Bundle::from_bytes(&one.to_bytes()), Ok(two));
        assert_eq!(one.below("b/").map(|(name, _)| name).collect::<Vec<_>>(), ["b/2.yaml"]);
        assert!(Bundle::from_bytes(b"{}").is_err());
    }

    #[test]
    fn a_revision_is_the_file_and_the_files_that_it_names_and_nothing_of_the_operators() {
        let mut files = Bundle::default();
        files.add("environments/production.json", "{}");
        assert_eq!(revision(b"name: w", &files), b"name: w", "its digest is what sha256sum says");
        files.add("attached/more.yaml.json", "1");
        let one = revision(b"name: w", &files);
        let read = Bundle::from_bytes(&one).expect("a bundle");
        assert_eq!(read.get(WORKFLOW_FILE), Some(&b"name: w"[..]));
        assert_eq!(read.below("").count(), 2, "without the environment");
        files.add("attached/more.yaml.json", "2");
        assert_ne!(revision(b"name: w", &files), one);
        assert_ne!(revision(b"name: v", &files), revision(b"name: w", &files));
    }
}
