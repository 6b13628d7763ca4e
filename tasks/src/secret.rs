//! Kubernetes Secrets without their values: keyed digests in plans and bundles, the values only at the write.
//!
//! The data of a Secret is replaced before a manifest enters a bundle. At the write it is read again from
//! its source, and must still have the digest that was planned. Nothing here stores or prints a value.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use graylane_engine::id::{Digest, hex};
use serde_json::{Map, Value};

use crate::manifest::{self, kind, name};

const MARK: &str = "digest:";

/// The key of the digests; whoever has it can test a guess, so it is kept like a password.
#[derive(Clone)]
pub struct DigestKey([u8; 32]);

impl std::fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DigestKey(..)")
    }
}

impl DigestKey {
    /// A key of these bytes.
    pub fn new(bytes: [u8; 32]) -> DigestKey {
        DigestKey(bytes)
    }

    /// A key that nobody has.
    ///
    /// # Errors
    /// What the system said.
    pub fn random() -> std::io::Result<DigestKey> {
        let mut bytes = [0; 32];
        std::io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
        Ok(DigestKey(bytes))
    }

    /// Reads the key of a data folder; makes one, readable by its owner alone, where there is none.
    ///
    /// # Errors
    /// What the system said, or a file that holds no key.
    pub fn open(path: &Path) -> std::io::Result<DigestKey> {
        match fs::read(path) {
            Ok(bytes) => {
                let bytes: [u8; 32] = bytes.try_into().map_err(|_| {
                    std::io::Error::other(format!("{} is not a key: 32 bytes were expected", path.display()))
                })?;
                return Ok(DigestKey(bytes));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let DigestKey(bytes) = DigestKey::random()?;
        if let Some(parent) = path.parent() {
            // It may be the first to make the data folder, which is its owner's alone.
            fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let draft = path.with_extension(format!("{}.draft", std::process::id()));
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        // Whoever came first wins: a link does not replace.
        let linked = fs::hard_link(&draft, path);
        fs::remove_file(&draft)?;
        match linked {
            Ok(()) => Ok(DigestKey(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => DigestKey::open(path),
            Err(error) => Err(error),
        }
    }

    /// A name for whoever has this key, the same for as long as it has it. It tells nothing of the key.
    pub fn holder(&self) -> String {
        let digest = self.digest(b"the name of whoever has this key");
        format!("graylane-{}", digest.trim_start_matches(MARK).get(..12).unwrap_or_default())
    }

    /// HMAC-SHA-256 (RFC 2104).
    fn digest(&self, value: &[u8]) -> String {
        use hmac::{KeyInit as _, Mac as _};
        // A key shorter than SHA-256's block is filled up with zeros, as the RFC asks.
        let mut block = [0; 64];
        block[..32].copy_from_slice(&self.0);
        let mut mac = hmac::Hmac::<sha2::Sha256>::new(&block.into());
        mac.update(value);
        format!("{MARK}{}", hex(&mac.finalize().into_bytes()))
    }
}

/// Replaces the data of a Secret by digests; other objects stay as they are. `stringData` becomes `data`, as the server does it.
pub fn redact(object: &Value, key: &DigestKey) -> Value {
    if kind(object) != "Secret" {
        return object.clone();
    }
    let mut redacted = object.clone();
    let digests: Map<String, Value> =
        values(object).into_iter().map(|(name, value)| (name, key.digest(&value).into())).collect();
    if let Some(map) = redacted.as_object_mut() {
        map.remove("stringData");
        map.remove("data");
        map.insert("data".into(), Value::Object(digests));
    }
    // kubectl keeps a whole copy of what it applied in this annotation, values included.
    if let Some(annotations) = redacted.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    redacted
}

/// Whether a Secret holds digests only, as [`redact`] left them.
pub fn is_digested(secret: &Value) -> bool {
    let data = secret.get("data").and_then(Value::as_object);
    let digest = |value: &Value| value.as_str().is_some_and(|text| text.starts_with(MARK));
    secret.get("stringData").is_none() && data.into_iter().flatten().all(|(_, value)| digest(value))
}

/// Puts values back into a redacted Secret, from the manifest that it was redacted from.
///
/// # Errors
/// A sentence: the source is gone, or holds other values than were planned.
pub fn restore(object: &Value, origin: &str, source: &Path, key: &DigestKey) -> Result<Value, String> {
    if kind(object) != "Secret" {
        return Ok(object.clone());
    }
    let shown = source.display();
    let text = fs::read_to_string(source)
        .map_err(|error| format!("Secret {origin}: {shown} cannot be read again: {error}"))?;
    let objects = manifest::parse(&shown.to_string(), &text).map_err(|_| {
        format!("Secret {origin}: {shown} cannot be read again: it is not valid YAML any more")
    })?;
    let found = objects.iter().find(|candidate| kind(candidate) == "Secret" && name(candidate) == origin);
    let found = found.ok_or_else(|| format!("Secret {origin} is not in {shown} any more"))?;
    let mut restored = object.clone();
    let planned = manifest::texts(object, "/data");
    let values = values(found);
    let unchanged = planned.len() == values.len()
        && values.iter().all(|(name, value)| planned.get(name) == Some(&key.digest(value)));
    if !unchanged {
        return Err(format!(
            "Secret {origin} in {shown} was changed since the run was submitted: start a new run"
        ));
    }
    let data: Map<String, Value> =
        values.into_iter().map(|(name, value)| (name, BASE64_STANDARD.encode(value).into())).collect();
    restored["data"] = Value::Object(data);
    Ok(restored)
}

/// A fingerprint of what an object carries, for the hash that rolls pods when their configuration changes.
pub fn fingerprint(object: &Value) -> String {
    let content: BTreeMap<&str, &Value> = ["data", "binaryData", "stringData"]
        .into_iter()
        .filter_map(|key| Some((key, object.get(key)?)))
        .collect();
    let text = serde_json::to_vec(
        &content.into_iter().map(|(k, v)| (k, manifest::sorted(v))).collect::<BTreeMap<_, _>>(),
    );
    Digest::of(&text.unwrap_or_default()).as_str().to_owned()
}

fn values(secret: &Value) -> BTreeMap<String, Vec<u8>> {
    let mut values = BTreeMap::new();
    for (name, text) in manifest::texts(secret, "/data") {
        // What is no base64 is refused by the server; its digest is that of the text.
        let bytes = BASE64_STANDARD.decode(text.trim()).unwrap_or_else(|_| text.into_bytes());
        values.insert(name, bytes);
    }
    for (name, text) in manifest::texts(secret, "/stringData") {
        values.insert(name, text.into_bytes());
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_replaced_and_come_back_only_unchanged() {
        let folder = tempfile::tempdir().expect("a folder");
        let source = folder.path().join("a.yaml");
        let manifest = "apiVersion: v1\nkind: Secret\nmetadata: { name: s }\nstringData: { password: hunter2 }\ndata: { other: aGk= }\n";
        fs::write(&source, manifest).expect("written");
        let key = DigestKey::new([7; 32]);
        let object = &manifest::parse("a.yaml", manifest).expect("valid")[0];
        let redacted = redact(object, &key);
        let text = redacted.to_string();
        assert!(
            !text.contains("hunter2") && !text.contains("aHVudGVyMg") && !text.contains("aGk="),
            "{text}"
        );
        let restored = restore(&redacted, "s", &source, &key).expect("restored");
        assert_eq!(restored["data"], json!({ "other": "aGk=", "password": "aHVudGVyMg==" }));

        fs::write(&source, manifest.replace("hunter2", "hunter3")).expect("written");
        let error = restore(&redacted, "s", &source, &key).expect_err("changed");
        assert!(error.contains("was changed since") && !error.contains("hunter"), "{error}");
    }

    #[test]
    fn the_digest_is_hmac_sha_256() {
        // RFC 4231, test case 2 has a short key: `Jefe` padded with zeros is the same key.
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        assert_eq!(
            DigestKey::new(key).digest(b"what do ya want for nothing?"),
            "digest:5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn a_key_is_made_once_and_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sub/digest.key");
        let made = DigestKey::open(&path).expect("made");
        assert_eq!(DigestKey::open(&path).expect("found").0, made.0);
        fs::write(&path, b"short").expect("written");
        assert!(DigestKey::open(&path).is_err());
    }
}
