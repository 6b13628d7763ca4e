//! Heads of the audit log, signed and kept outside the data folder: what a rewritten or shortened history is found by.
//!
//! ```text
//! <key>            32 bytes as hexadecimal digits: the Ed25519 key, its owner's alone
//! <key>.NAME.head  the last head that was signed for the data folder whose path has this digest
//! ```
//! A head is signed when a run ends, goes to the log and to who is to be notified, and never over a history that does
//! not hold the head before it. Nothing here changes the journal.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use graylane_engine::audit::{Head, from_hex};
use graylane_engine::id::{Digest, RunId, hex};
use graylane_engine::journal::Journal;
use graylane_engine::run::{Event, Outcome};
use graylane_engine::scheduler::{Engine, Update};
use ring::rand::SecureRandom as _;
use ring::signature::{self, Ed25519KeyPair, KeyPair as _};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::notify::{Notice, Notifier, SlotNotice, Told};

/// The target of the line with the head that a run's end leaves in the log.
const AUDIT_LOG: &str = "graylane::audit";
/// How long heads are gathered before the last one is kept: an fsync for many.
const KEEP_EVERY: Duration = Duration::from_millis(500);

/// A key that signs heads.
pub(crate) struct AuditKey {
    pair: Ed25519KeyPair,
    path: PathBuf,
}

/// A head with its signature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Signed {
    pub(crate) head: String,
    /// Of `graylane-audit-head`, a newline, and the head; hexadecimal digits.
    pub(crate) signature: String,
    /// The public key, hexadecimal digits.
    pub(crate) public_key: String,
}

impl AuditKey {
    /// The key in this file; none where there is no file.
    ///
    /// # Errors
    /// A file that cannot be read, or holds no key.
    pub(crate) fn open(path: &Path) -> Result<Option<AuditKey>, String> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let wrong = || format!("{} is not an audit key: 64 hexadecimal digits were expected", path.display());
        let seed = from_hex(text.trim()).filter(|seed| seed.len() == 32).ok_or_else(wrong)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| wrong())?;
        Ok(Some(AuditKey { pair, path: path.to_owned() }))
    }

    /// Makes a key; one that is there is never replaced.
    ///
    /// # Errors
    /// What the system said.
    pub(crate) fn create(path: &Path) -> Result<AuditKey, String> {
        let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut seed = [0; 32];
        ring::rand::SystemRandom::new()
            .fill(&mut seed)
            .map_err(|_| "the system gives no random bytes".to_owned())?;
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(wrong)?;
        }
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(wrong)?;
        file.write_all(format!("{}\n", hex(&seed)).as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(wrong)?;
        AuditKey::open(path)?.ok_or_else(|| "the key was removed at once".into())
    }

    pub(crate) fn public_key(&self) -> String {
        hex(self.pair.public_key().as_ref())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn sign(&self, head: Head) -> Signed {
        let head = head.to_string();
        let signature = hex(self.pair.sign(message(&head).as_bytes()).as_ref());
        Signed { head, signature, public_key: self.public_key() }
    }

    fn anchor_path(&self, data: &Path) -> PathBuf {
        let whole = fs::canonicalize(data).unwrap_or_else(|_| data.to_owned());
        let digest = Digest::of(whole.as_os_str().as_encoded_bytes());
        let mut name = self.path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}.head", digest.short()));
        self.path.with_file_name(name)
    }

    /// The last head that was signed for a data folder, its signature checked.
    ///
    /// # Errors
    /// A file that is unreadable, or whose signature is not this key's.
    pub(crate) fn anchor(&self, data: &Path) -> Result<Option<Head>, String> {
        let path = self.anchor_path(data);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let wrong = |why: &str| format!("{}: {why}", path.display());
        let signed: Signed = serde_json::from_str(&text).map_err(|_| wrong("it is not a signed head"))?;
        let signature = from_hex(&signed.signature).unwrap_or_default();
        signature::UnparsedPublicKey::new(&signature::ED25519, self.pair.public_key().as_ref())
            .verify(message(&signed.head).as_bytes(), &signature)
            .map_err(|_| wrong("its signature is not of this key"))?;
        signed.head.parse().map(Some).map_err(|_| wrong("it is not a head"))
    }

    fn keep(&self, data: &Path, signed: &Signed) -> std::io::Result<()> {
        let path = self.anchor_path(data);
        let draft = path.with_extension("draft");
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&serde_json::to_vec(signed).unwrap_or_default())?;
        file.sync_all()?;
        fs::rename(&draft, &path)
    }
}

fn message(head: &str) -> String {
    format!("graylane-audit-head\n{head}")
}

/// Whether the history still holds the head that was signed last.
///
/// # Errors
/// A sentence for the operator.
pub(crate) fn holds(journal: &dyn Journal, anchor: Head) -> Result<(), String> {
    match journal.head_at(anchor.position) {
        Ok(Some(head)) if head == anchor => Ok(()),
        Ok(Some(_)) => {
            Err(format!("the history up to audit entry {} is not the one that was signed", anchor.position))
        }
        Ok(None) => Err(format!(
            "the audit log ends at entry {}, and entry {} was signed: its tail is missing",
            journal.head().position,
            anchor.position
        )),
        Err(error) => Err(error.to_string()),
    }
}

/// Watches runs end, until it is told to stop; what ended before that is still signed.
pub(crate) async fn watch(
    engine: Engine,
    journal: Arc<dyn Journal>,
    key: Option<Arc<AuditKey>>,
    data: PathBuf,
    notifier: Notifier,
    stop: CancellationToken,
) {
    let mut updates = engine.watch();
    drop(engine);
    let mut key = key;
    if let Some(present) = &key {
        let anchor =
            present.anchor(&data).and_then(|anchor| anchor.map_or(Ok(()), |anchor| holds(&*journal, anchor)));
        if let Err(why) = anchor {
            tracing::error!(target: AUDIT_LOG, why, "nothing is signed any more: look with `graylane audit verify`");
            key = None;
        }
    }
    let mut workflows: BTreeMap<RunId, String> = BTreeMap::new();
    let mut unkept: Option<Signed> = None;
    let mut keep = tokio::time::interval(KEEP_EVERY);
    keep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stopping = false;
    loop {
        let update = tokio::select! {
            biased;
            update = updates.recv() => update,
            _ = keep.tick(), if unkept.is_some() => {
                keep_last(key.as_ref(), &data, &mut unkept).await;
                continue;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                continue;
            }
            () = std::future::ready(()), if stopping => break,
        };
        match update {
            Ok(Update::Record(record)) => match &record.event {
                Event::RunSubmitted { workflow, .. } => {
                    workflows.insert(record.run, workflow.to_string());
                }
                Event::RunFinished { outcome, .. } => {
                    let workflow = workflows.remove(&record.run);
                    let head = journal.head();
                    let signed = key.as_ref().map(|key| key.sign(head));
                    tell(record.run, *outcome, head, signed.as_ref());
                    notifier.send(Told::Run(Notice::of(
                        record.run,
                        workflow,
                        *outcome,
                        record.at,
                        head,
                        signed.as_ref(),
                    )));
                    unkept = signed.or(unkept);
                }
                _ => {}
            },
            Ok(Update::Slot(news)) => {
                if let Some(notice) = SlotNotice::of(&news) {
                    notifier.send(Told::Slot(notice));
                }
            }
            Ok(_) => {}
            // Ends that were missed are covered by the head of the next one.
            Err(RecvError::Lagged(_)) => unkept = key.as_ref().map(|key| key.sign(journal.head())),
            Err(RecvError::Closed) => break,
        }
    }
    keep_last(key.as_ref(), &data, &mut unkept).await;
    notifier.close().await;
}

fn tell(run: RunId, outcome: Outcome, head: Head, signed: Option<&Signed>) {
    let signature = signed.map_or("", |signed| signed.signature.as_str());
    tracing::info!(target: AUDIT_LOG, %run, outcome = outcome.word(), %head, signature, "audit head");
}

async fn keep_last(key: Option<&Arc<AuditKey>>, data: &Path, unkept: &mut Option<Signed>) {
    let (Some(key), Some(signed)) = (key.cloned(), unkept.take()) else { return };
    let data = data.to_owned();
    let kept = tokio::task::spawn_blocking(move || key.keep(&data, &signed)).await;
    if let Ok(Err(error)) = kept {
        tracing::error!(target: AUDIT_LOG, %error, "the signed head could not be kept");
    }
}
