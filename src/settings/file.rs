//! The settings file as people write it: everything is optional, nothing is resolved, unknown keys are refused.

use std::collections::BTreeMap;

use graylane_engine::clock::DURATION_PATTERN;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// The settings file.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Graylane settings", extend("$comment" = "printed by `graylane schema settings`"))]
pub(crate) struct SettingsFile {
    /// The folder of the store; the user's state folder where none is named. Relative to this file.
    #[serde(default)]
    pub data: Option<String>,
    /// The folder of environment files. Relative to this file's folder.
    #[serde(default)]
    pub environments: Option<String>,
    /// Where workflows come from; the folder `workflows` of the current folder where nothing is said.
    #[serde(default)]
    pub sources: Option<Vec<SourceFile>>,
    /// Values that expressions see as `vars`.
    #[serde(default)]
    pub vars: BTreeMap<String, Value>,
    /// Where `secrets` are read from, by name; never their values.
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretAt>,
    /// Who has which role, for approvals: people by role.
    #[serde(default)]
    pub roles: BTreeMap<String, Vec<String>>,
    /// Where the daemon's API listens besides its socket: HOST:PORT with an address as HOST, `127.0.0.1:7420` where nothing is said.
    #[serde(default)]
    pub listen: Option<String>,
    /// The certificate and the key that the daemon's API shows; plain HTTP where none is named.
    #[serde(default)]
    pub tls: TlsFile,
    /// Whether the daemon may listen beyond this machine without TLS or without tokens.
    #[serde(default)]
    pub allow_insecure: Option<bool>,
    /// What people may do who show no token, beyond asking whether the daemon is well: nothing where nothing is said.
    #[serde(default)]
    pub anonymous: Option<Anonymous>,
    /// How long attempts may go on when the daemon is told to stop; what is not at a safe point then is resumed later.
    #[serde(default)]
    #[schemars(regex(pattern = DURATION_PATTERN), extend("x-expected" = "a duration is written as in `30s` or `2m`"))]
    pub drain: Option<String>,
    /// How long finished runs are kept; for ever where nothing is said.
    #[serde(default)]
    pub retention: RetentionFile,
    /// What Graylane says of itself.
    #[serde(default)]
    pub log: LogFile,
    /// How the history can be proved.
    #[serde(default)]
    pub audit: AuditFile,
    /// Who is told that a run has ended.
    #[serde(default)]
    pub notify: Vec<NotifyFile>,
}

/// Where workflows come from: a folder, or with `url` a Git repository.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceFile {
    /// What runs, lists and `allow.sources` call it; the last part of the folder or the URL where nothing is said.
    #[serde(default)]
    #[schemars(regex(pattern = "^[A-Za-z][A-Za-z0-9_-]{0,62}$"), extend("x-expected" = "a name has letters, digits, `-` and `_`, and begins with a letter"))]
    pub name: Option<String>,
    /// The folder of workflow files: relative to this file, or inside the repository (`workflows` where nothing is said).
    #[serde(default)]
    pub folder: Option<String>,
    /// A Git repository, by https, ssh, git or file. Credentials come from Git's own helpers, never from here.
    #[serde(default)]
    pub url: Option<String>,
    /// The branch; `main` where nothing is said.
    #[serde(default)]
    pub branch: Option<String>,
    /// How often the repository is asked for news.
    #[serde(default)]
    #[schemars(regex(pattern = DURATION_PATTERN), extend("x-expected" = "a duration is written as in `30s` or `2m`"))]
    pub interval: Option<String>,
    /// How long the repository may take to answer.
    #[serde(default)]
    #[schemars(regex(pattern = DURATION_PATTERN), extend("x-expected" = "a duration is written as in `30s` or `2m`"))]
    pub timeout: Option<String>,
}

/// What people may do who show no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Anonymous {
    /// Nothing.
    None,
    /// Look.
    Viewer,
    /// Look, and start, cancel and answer runs.
    Operator,
}

/// The certificate and the key of the daemon's API, in PEM files.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsFile {
    /// The certificate and those that stand between it and the root. Relative to this file.
    #[serde(default)]
    pub certificate: Option<String>,
    /// Its private key. Relative to this file.
    #[serde(default)]
    pub key: Option<String>,
}

/// How long finished runs are kept.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetentionFile {
    /// Runs that ended longer ago are removed.
    #[serde(default)]
    #[schemars(regex(pattern = DURATION_PATTERN), extend("x-expected" = "a duration is written as in `90d`"))]
    pub age: Option<String>,
    /// At most so many finished runs are kept; the oldest are removed.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub runs: Option<u64>,
}

/// How the history can be proved.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditFile {
    /// The key that signs heads of the audit log, outside the data folder; `graylane audit key` makes one. Relative to
    /// this file; `graylane/audit.key` in the user's configuration folder where nothing is said.
    #[serde(default)]
    pub key: Option<String>,
}

/// An address that is told.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NotifyFile {
    /// Takes a POST of JSON: run, outcome, audit head, signature.
    #[schemars(regex(pattern = "^https?://"))]
    pub url: String,
}

/// Where a secret is read from, each time it is used: one of the two.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretAt {
    /// A variable of the process's environment.
    #[serde(default)]
    pub env: Option<String>,
    /// A file, relative to the settings file; a newline at its end is left out.
    #[serde(default)]
    pub file: Option<String>,
}

/// What Graylane says of itself.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogFile {
    /// Which messages, as in `info` or `warn,graylane_tasks=debug`. Where nothing is said, commands tell warnings; the
    /// daemon also tells what it does, and each run that ends.
    #[serde(default)]
    pub filter: Option<String>,
    /// How they look.
    #[serde(default)]
    pub format: Option<LogFormat>,
}

/// How log messages look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// One line each.
    Compact,
    /// Several lines each.
    Pretty,
    /// One JSON object each.
    Json,
}
