//! Settings: a file, the environment's variables, flags; what holds in the end, and where it came from.
//!
//! ```text
//! flag > GRAYLANE_* variable > file > compiled in
//! ```
//! As written (`file.rs`) everything is optional; as resolved nothing is. Unknown keys and unknown variables are refused
//! with their place. A secret's value is never here, only where it is read from.

mod file;
mod origin;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use graylane_engine::clock::parse_duration;
use graylane_engine::document::{Document, Finding, Problem, file_problem};
use graylane_engine::scheduler::Actor;
use graylane_engine::schema::Checker;
use graylane_engine::task::SecretSource;
use serde_json::Value;

use crate::contexts::Remote;

pub(crate) use self::file::{Anonymous, LogFormat, SecretAt, SettingsFile};
pub(crate) use self::origin::Origin;
use self::origin::{KEYS, Layers, unknown_variables};
pub(crate) use self::sources::{GitAt, Source, SourceAt, public_url};

/// Every setting with its default, compiled in.
pub(crate) const DEFAULT: &str = include_str!("../config/graylane.yaml");

/// Where the daemon listens where nothing is said: this machine alone.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7420);
/// How long attempts may go on when the daemon stops; below the 90 s that systemd waits.
const DRAIN: Duration = Duration::from_secs(30);

/// What holds.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The settings file; none where what is compiled in holds.
    pub file: Option<PathBuf>,
    /// The daemon that commands speak to; none for the data folder.
    pub remote: Option<Remote>,
    /// The folder of the store.
    pub data: PathBuf,
    /// The folder of environment files.
    pub environments: PathBuf,
    /// Where workflows come from.
    pub sources: Vec<Source>,
    /// What expressions see as `vars`.
    pub vars: BTreeMap<String, Value>,
    /// Where secrets are read from.
    pub secrets: BTreeMap<String, SecretAt>,
    /// People by role.
    pub roles: BTreeMap<String, Vec<String>>,
    /// Where the daemon's API listens besides its socket.
    pub listen: SocketAddr,
    /// What it shows there; plain HTTP without it.
    pub tls: Option<Tls>,
    /// Whether it may listen beyond this machine without TLS or tokens.
    pub allow_insecure: bool,
    /// What people may do who show no token.
    pub anonymous: Anonymous,
    /// How long attempts may go on when the daemon stops.
    pub drain: Duration,
    /// How long finished runs are kept.
    pub retention: Retention,
    /// Which messages are logged, where somebody says so.
    pub log_filter: Option<String>,
    /// How they look.
    pub log_format: LogFormat,
    /// Where the key that signs audit heads is, if there is one.
    pub audit_key: PathBuf,
    /// Who is told that a run has ended.
    pub notify: Vec<String>,
    /// Where each of them came from, by its name as the file writes it.
    pub origins: BTreeMap<String, Origin>,
}

/// The PEM files of the daemon's API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tls {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// How long finished runs are kept; for ever as far as nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Runs that ended longer ago are removed.
    pub age: Option<Duration>,
    /// At most so many are kept.
    pub runs: Option<u64>,
}

/// What flags and variables say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    flags: BTreeMap<&'static str, String>,
    variables: BTreeMap<String, String>,
}

impl Given {
    /// What this process was started with; flags are added.
    pub(crate) fn of_process() -> Given {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        };
        let ours = |(name, _): &(String, String)| name.starts_with("GRAYLANE_");
        Given {
            flags: BTreeMap::new(),
            variables: std::env::vars_os().filter_map(text).filter(ours).collect(),
        }
    }

    /// The same, with a flag where it was given: `--config`, or one that stands for a setting.
    pub(crate) fn flag(mut self, name: &'static str, value: Option<impl ToString>) -> Given {
        self.flags.extend(value.map(|value| (name, value.to_string())));
        self
    }

    /// The same, with a variable.
    #[cfg(test)]
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Given {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The settings file that is named, or the usual one where it exists.
    fn file(&self) -> Option<PathBuf> {
        let variable = self.variables.get("GRAYLANE_CONFIG").filter(|text| !text.is_empty());
        let named = self.flags.get("--config").or(variable).map(PathBuf::from);
        let usual = PathBuf::from("config/graylane.yaml");
        named.or_else(|| usual.exists().then_some(usual))
    }
}

impl Settings {
    /// Flag over variable over file over what is compiled in. Without a file named, `config/graylane.yaml` of the current
    /// folder is taken where it exists.
    ///
    /// # Errors
    /// Every problem of file, variables and flags.
    pub(crate) fn resolve(given: &Given) -> Result<Settings, Vec<Problem>> {
        let path = given.file();
        let (document, folder) = match &path {
            Some(path) => {
                let shown = path.display().to_string();
                let bytes = std::fs::read(path)
                    .map_err(|error| vec![file_problem(&shown, format!("cannot be read: {error}"))])?;
                let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
                (check(&shown, &bytes)?, folder)
            }
            None => (check("the compiled-in settings", DEFAULT.as_bytes())?, PathBuf::from("config")),
        };
        let used = path.clone();
        let mut layers = Layers::of(document.value().clone(), path.map(|path| (path, document)));
        let mut problems = layers.lay(&given.variables, &given.flags);
        let file: SettingsFile = match serde_json::from_value(layers.value.clone()) {
            Ok(file) => file,
            Err(_) if !problems.is_empty() => return Err(problems),
            // Of what is one word only two are a choice; the file itself was checked.
            Err(_) => {
                let of =
                    |pointer: &str| layers.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                let known = ["", "none", "viewer", "operator"].contains(&of("/anonymous"));
                return Err(vec![if known {
                    layers.wrong("/log/format", "is unknown", "`compact`, `pretty` or `json`")
                } else {
                    layers.wrong("/anonymous", "is not `none`, `viewer` or `operator`", "one of the three")
                }]);
            }
        };
        let secret_variables: BTreeSet<&String> =
            file.secrets.values().filter_map(|at| at.env.as_ref()).collect();
        let named = |name: &str| secret_variables.iter().any(|known| *known == name);
        problems.extend(unknown_variables(&given.variables, &named));

        let near = |written: &str| folder.join(written);
        // The file's paths are relative to it, those of variables and flags to the current folder.
        let path_of = |pointer: &str, written: &Option<String>| {
            let written = written.as_ref()?;
            Some(if layers.is_of_file(pointer) { near(written) } else { PathBuf::from(written) })
        };
        let duration = |pointer: &str, written: &Option<String>, problems: &mut Vec<Problem>| {
            let parsed = written.as_ref().map(|text| parse_duration(text));
            parsed.transpose().unwrap_or_else(|wrong| {
                problems.push(layers.wrong(
                    pointer,
                    &format!("is wrong: {wrong}"),
                    "a duration, as in `30s`",
                ));
                None
            })
        };
        let listen = match file.listen.as_ref().map(|text| text.parse()) {
            None => LISTEN,
            Some(Ok(address)) => address,
            Some(Err(_)) => {
                let label = "an address and a port, as in `127.0.0.1:7420` or `[::1]:7420`";
                problems.push(layers.wrong("/listen", "is no address", label));
                LISTEN
            }
        };
        let tls =
            match (path_of("/tls/certificate", &file.tls.certificate), path_of("/tls/key", &file.tls.key)) {
                (Some(certificate), Some(key)) => Some(Tls { certificate, key }),
                (None, None) => None,
                (Some(_), None) => {
                    problems.push(layers.wrong(
                        "/tls/certificate",
                        "needs `tls.key`",
                        "without it nothing can be served",
                    ));
                    None
                }
                (None, Some(_)) => {
                    problems.push(layers.wrong(
                        "/tls/key",
                        "needs `tls.certificate`",
                        "without it nothing can be served",
                    ));
                    None
                }
            };
        if let Some(filter) = &file.log.filter
            && let Err(error) = tracing_subscriber::EnvFilter::try_new(filter)
        {
            let label = format!("as in `info` or `warn,graylane_tasks=debug`: {error}");
            problems.push(layers.wrong("/log/filter", "cannot be read", &label));
        }
        let drain = duration("/drain", &file.drain, &mut problems).unwrap_or(DRAIN);
        let retention = Retention {
            age: duration("/retention/age", &file.retention.age, &mut problems),
            runs: file.retention.runs,
        };
        if retention.runs == Some(0) {
            problems.push(layers.wrong("/retention/runs", "must be at least 1", "leave it out to keep all"));
        }
        let sources = sources::resolve(&file, &folder, &layers, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let secrets = file.secrets.iter().map(|(name, at)| {
            let file = at.file.as_ref().map(|written| near(written).display().to_string());
            (name.clone(), SecretAt { file, env: at.env.clone() })
        });
        Ok(Settings {
            file: used,
            remote: None,
            data: path_of("/data", &file.data).unwrap_or_else(state_folder),
            environments: path_of("/environments", &file.environments)
                .unwrap_or_else(|| near("environments")),
            sources,
            secrets: secrets.collect(),
            listen,
            tls,
            allow_insecure: file.allow_insecure.unwrap_or(false),
            anonymous: file.anonymous.unwrap_or(Anonymous::None),
            drain,
            retention,
            log_format: file.log.format.unwrap_or(LogFormat::Compact),
            audit_key: path_of("/audit/key", &file.audit.key)
                .unwrap_or_else(|| config_folder().join("audit.key")),
            notify: file.notify.iter().map(|to| to.url.clone()).collect(),
            origins: origins(&file, &layers),
            vars: file.vars,
            roles: file.roles,
            log_filter: file.log.filter,
        })
    }

    /// Which messages are logged: commands tell warnings, the daemon also what it does.
    pub(crate) fn log_filter(&self, daemon: bool) -> &str {
        let usual = if daemon { "warn,graylane=info" } else { "warn,graylane::run=off" };
        self.log_filter.as_deref().unwrap_or(usual)
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

    /// Whether the data folder is missing or empty: then nothing was ever stored there.
    pub(crate) fn holds_nothing(&self) -> bool {
        match std::fs::read_dir(&self.data) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }

    /// Where the rehearsal cluster keeps its objects: beside the store, never in it, as a cluster keeps its own.
    pub(crate) fn rehearsal_folder(&self) -> PathBuf {
        self.beside("rehearsal")
    }

    /// A folder beside the store, which holds nothing but itself.
    pub(crate) fn beside(&self, what: &str) -> PathBuf {
        let mut name = self.data.file_name().unwrap_or_default().to_os_string();
        name.push(format!("-{what}"));
        self.data.with_file_name(name)
    }
}

/// Where every setting came from, by its name.
fn origins(file: &SettingsFile, layers: &Layers) -> BTreeMap<String, Origin> {
    let mut origins: BTreeMap<String, Origin> = KEYS
        .iter()
        .map(|key| (key.pointer.trim_start_matches('/').replace('/', "."), layers.origin(key.pointer)))
        .collect();
    let mut add = |name: String, pointer: String| origins.insert(name, layers.origin(&pointer));
    for at in 0..file.sources.as_ref().map_or(1, Vec::len) {
        add(format!("sources[{at}]"), format!("/sources/{at}"));
    }
    for at in 0..file.notify.len() {
        add(format!("notify[{at}]"), format!("/notify/{at}"));
    }
    let maps: [(&str, Vec<&String>); 3] = [
        ("vars", file.vars.keys().collect()),
        ("secrets", file.secrets.keys().collect()),
        ("roles", file.roles.keys().collect()),
    ];
    for (map, names) in maps {
        for name in names {
            add(format!("{map}.{name}"), graylane_engine::document::step(&format!("/{map}"), name));
        }
    }
    origins
}

/// Reads the file, and everything that is wrong with it as it is written.
fn check(name: &str, bytes: &[u8]) -> Result<Document, Vec<Problem>> {
    let document = Document::parse(name, bytes)?;
    if document.value().is_null() {
        return Ok(document);
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
    Ok(document)
}

/// `$XDG_STATE_HOME/graylane`, else `~/.local/state/graylane` (XDG Base Directory Specification).
fn state_folder() -> PathBuf {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| std::env::home_dir().map(|home| home.join(".local/state")));
    state.unwrap_or_else(std::env::temp_dir).join("graylane")
}

/// `$XDG_CONFIG_HOME/graylane`, else `~/.config/graylane` (XDG Base Directory Specification).
pub(crate) fn config_folder() -> PathBuf {
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

#[cfg(test)]
mod tests;
