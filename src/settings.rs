//! Settings: a file, the environment's variables, flags; and what holds in the end.
//!
//! As written everything is optional; as resolved nothing is. Unknown keys are refused with their place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use graylane_engine::document::{Document, Finding, Problem, file_problem};
use graylane_engine::scheduler::Actor;
use graylane_engine::schema::Checker;
use graylane_engine::task::SecretSource;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// Every setting with its default, compiled in.
pub(crate) const DEFAULT: &str = include_str!("../config/graylane.yaml");

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
    /// Values that expressions see as `vars`.
    #[serde(default)]
    pub vars: BTreeMap<String, Value>,
    /// Where `secrets` are read from, by name; never their values.
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretAt>,
    /// Who has which role, for approvals: people by role.
    #[serde(default)]
    pub roles: BTreeMap<String, Vec<String>>,
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
    /// Which messages, as in `info` or `warn,graylane_tasks=debug`.
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

/// What holds.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The folder of the store.
    pub data: PathBuf,
    /// The folder of environment files.
    pub environments: PathBuf,
    /// What expressions see as `vars`.
    pub vars: BTreeMap<String, Value>,
    /// Where secrets are read from.
    pub secrets: BTreeMap<String, SecretAt>,
    /// People by role.
    pub roles: BTreeMap<String, Vec<String>>,
    /// Which messages are logged.
    pub log_filter: String,
    /// How they look.
    pub log_format: LogFormat,
    /// Where the key that signs audit heads is, if there is one.
    pub audit_key: PathBuf,
    /// Who is told that a run has ended.
    pub notify: Vec<String>,
}

/// What flags and variables say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    /// `--config`, `GRAYLANE_CONFIG`.
    pub config: Option<PathBuf>,
    /// `--data`, `GRAYLANE_DATA`.
    pub data: Option<PathBuf>,
    /// `--environments`, `GRAYLANE_ENVIRONMENTS`.
    pub environments: Option<PathBuf>,
}

impl Settings {
    /// Flag over variable over file over what is compiled in. Without a file named, `config/graylane.yaml` of the current
    /// folder is taken where it exists.
    ///
    /// # Errors
    /// Every problem of the file.
    pub(crate) fn resolve(given: &Given) -> Result<Settings, Vec<Problem>> {
        let usual = PathBuf::from("config/graylane.yaml");
        let path = given.config.clone().or_else(|| usual.exists().then_some(usual));
        let (file, folder) = match &path {
            Some(path) => {
                let shown = path.display().to_string();
                let bytes = std::fs::read(path)
                    .map_err(|error| vec![file_problem(&shown, format!("cannot be read: {error}"))])?;
                (parse(&shown, &bytes)?, path.parent().unwrap_or(Path::new(".")).to_owned())
            }
            None => (parse("the compiled-in settings", DEFAULT.as_bytes())?, PathBuf::from("config")),
        };
        let near = |written: &String| folder.join(written);
        let secrets = file.secrets.into_iter().map(|(name, at)| {
            let at =
                SecretAt { file: at.file.map(|written| folder.join(written).display().to_string()), ..at };
            (name, at)
        });
        Ok(Settings {
            data: given.data.clone().or_else(|| file.data.as_ref().map(near)).unwrap_or_else(state_folder),
            environments: given
                .environments
                .clone()
                .or_else(|| file.environments.as_ref().map(near))
                .unwrap_or_else(|| folder.join("environments")),
            vars: file.vars,
            secrets: secrets.collect(),
            roles: file.roles,
            log_filter: file.log.filter.unwrap_or_else(|| "warn,graylane::run=off".into()),
            log_format: file.log.format.unwrap_or(LogFormat::Compact),
            audit_key: file.audit.key.as_ref().map(near).unwrap_or_else(|| config_folder().join("audit.key")),
            notify: file.notify.into_iter().map(|to| to.url).collect(),
        })
    }

    /// Somebody who answers, with their roles. Nobody has proved who they are on the socket: its owner may say any name.
    pub(crate) fn actor(&self, name: String) -> Actor {
        let mine = self.roles.iter().filter(|(_, people)| people.contains(&name));
        let roles = mine.map(|(role, _)| role.clone()).collect();
        Actor { name, roles, authenticated: false }
    }

    /// The names of secrets.
    pub(crate) fn secret_names(&self) -> BTreeSet<String> {
        self.secrets.keys().cloned().collect()
    }

    /// Where the rehearsal cluster keeps its objects: beside the store, never in it, as a cluster keeps its own.
    pub(crate) fn rehearsal_folder(&self) -> PathBuf {
        let mut name = self.data.file_name().unwrap_or_default().to_os_string();
        name.push("-rehearsal");
        self.data.with_file_name(name)
    }
}

fn parse(name: &str, bytes: &[u8]) -> Result<SettingsFile, Vec<Problem>> {
    let document = Document::parse(name, bytes)?;
    if document.value().is_null() {
        return Ok(SettingsFile::default());
    }
    let checker = Checker::new(graylane_engine::schema::of::<SettingsFile>());
    let mut findings = checker.check(document.value(), "the settings", Some((&document, "")));
    for (name, at) in document.value().get("secrets").and_then(Value::as_object).into_iter().flatten() {
        if let Some(at) = at.as_object()
            && at.contains_key("env") == at.contains_key("file")
        {
            let finding =
                Finding::at(format!("/secrets/{name}"), format!("secret `{name}` has no one place"));
            findings.push(finding.on_key().label("name `env` or `file`, one of the two"));
        }
    }
    if !findings.is_empty() {
        return Err(findings.into_iter().map(|finding| document.problem(finding)).collect());
    }
    serde_json::from_value(document.value().clone())
        .map_err(|error| vec![file_problem(name, error.to_string())])
}

/// `$XDG_STATE_HOME/graylane`, else `~/.local/state/graylane` (XDG Base Directory Specification).
fn state_folder() -> PathBuf {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| std::env::home_dir().map(|home| home.join(".local/state")));
    state.unwrap_or_else(std::env::temp_dir).join("graylane")
}

/// `$XDG_CONFIG_HOME/graylane`, else `~/.config/graylane` (XDG Base Directory Specification).
fn config_folder() -> PathBuf {
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let config = config.or_else(|| std::env::home_dir().map(|home| home.join(".config")));
    config.unwrap_or_else(std::env::temp_dir).join("graylane")
}

impl SecretSource for Settings {
    fn read(&self, name: &str) -> Result<String, String> {
        let at = self.secrets.get(name).ok_or("the settings do not name it any more")?;
        match (&at.env, &at.file) {
            (Some(variable), None) => {
                std::env::var(variable).map_err(|_| format!("the variable {variable} is not set"))
            }
            (None, Some(file)) => std::fs::read_to_string(file)
                .map(|text| text.trim_end_matches('\n').to_owned())
                .map_err(|error| format!("{file}: {error}")),
            _ => Err("the settings must name `env` or `file` for it".into()),
        }
    }
}
