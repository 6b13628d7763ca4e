//! Where each setting came from: a flag over a variable over the file over what is compiled in.
//!
//! Layers lie on each other as plain values, before anything is resolved; so a wrong value is told where it stands.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use graylane_engine::document::{Document, Finding, Problem, Severity, file_problem};
use graylane_engine::schema::nearest;
use serde_json::{Map, Value};

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Compiled in.
    Default,
    /// The settings file, and the line.
    File(PathBuf, usize),
    /// A variable of the environment.
    Variable(String),
    /// A flag of the command.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Variable(name) => f.write_str(name),
            Origin::Flag(name) => f.write_str(name),
        }
    }
}

/// A setting that is one word, and so can stand in a variable and in a flag.
pub(super) struct Key {
    /// As a JSON pointer.
    pub(super) pointer: &'static str,
    variable: &'static str,
    flag: Option<&'static str>,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Truth,
    Number,
}

const fn key(pointer: &'static str, variable: &'static str, flag: Option<&'static str>, kind: Kind) -> Key {
    Key { pointer, variable, flag, kind }
}

/// Every setting that is one word.
pub(super) const KEYS: [Key; 13] = [
    key("/data", "GRAYLANE_DATA", Some("--data"), Kind::Text),
    key("/environments", "GRAYLANE_ENVIRONMENTS", Some("--environments"), Kind::Text),
    key("/listen", "GRAYLANE_LISTEN", Some("--listen"), Kind::Text),
    key("/tls/certificate", "GRAYLANE_TLS_CERTIFICATE", Some("--tls-certificate"), Kind::Text),
    key("/tls/key", "GRAYLANE_TLS_KEY", Some("--tls-key"), Kind::Text),
    key("/allow_insecure", "GRAYLANE_ALLOW_INSECURE", Some("--allow-insecure"), Kind::Truth),
    key("/anonymous", "GRAYLANE_ANONYMOUS", Some("--anonymous"), Kind::Text),
    key("/drain", "GRAYLANE_DRAIN", Some("--drain"), Kind::Text),
    key("/retention/age", "GRAYLANE_RETENTION_AGE", None, Kind::Text),
    key("/retention/runs", "GRAYLANE_RETENTION_RUNS", None, Kind::Number),
    key("/log/filter", "GRAYLANE_LOG", None, Kind::Text),
    key("/log/format", "GRAYLANE_LOG_FORMAT", None, Kind::Text),
    key("/audit/key", "GRAYLANE_AUDIT_KEY", None, Kind::Text),
];

/// Variables that are not settings: where the settings are, and whom the client speaks to.
const OTHERS: [&str; 4] = ["GRAYLANE_CONFIG", "GRAYLANE_SERVER", "GRAYLANE_CONTEXT", "GRAYLANE_TOKEN"];

/// What the rehearsal and the tests are told.
const APART: [&str; 4] = ["GRAYLANE_REHEARSAL_", "GRAYLANE_TEST_", "GRAYLANE_MATRIX", "GRAYLANE_MODEL_"];

/// The layers below each other, as plain values.
pub(super) struct Layers {
    /// The file with variables and flags laid over it.
    pub(super) value: Value,
    document: Option<(PathBuf, Document)>,
    over: BTreeMap<&'static str, (Origin, String)>,
}

impl Layers {
    /// Begins with the file, checked already, and where it is; none for what is compiled in.
    pub(super) fn of(value: Value, document: Option<(PathBuf, Document)>) -> Layers {
        let value = if value.is_null() { Value::Object(Map::new()) } else { value };
        Layers { value, document, over: BTreeMap::new() }
    }

    /// Lays what variables and flags say over the file.
    pub(super) fn lay(
        &mut self,
        variables: &BTreeMap<String, String>,
        flags: &BTreeMap<&'static str, String>,
    ) -> Vec<Problem> {
        let mut problems = Vec::new();
        for key in &KEYS {
            let variable = variables.get(key.variable).filter(|text| !text.is_empty());
            let flag = key.flag.and_then(|flag| Some((flag, flags.get(flag)?)));
            let (origin, text) = match (flag, variable) {
                (Some((flag, text)), _) => (Origin::Flag(flag), text),
                (None, Some(text)) => (Origin::Variable(key.variable.to_owned()), text),
                (None, None) => continue,
            };
            self.over.insert(key.pointer, (origin, text.clone()));
            match typed(key.kind, text) {
                Ok(value) => put(&mut self.value, key.pointer, value),
                Err(expected) => {
                    problems.push(self.wrong(key.pointer, &format!("cannot be `{text}`"), expected));
                }
            }
        }
        problems
    }

    /// Where the value at this pointer came from.
    pub(super) fn origin(&self, pointer: &str) -> Origin {
        if let Some((origin, _)) = self.over.get(pointer) {
            return origin.clone();
        }
        match &self.document {
            Some((path, document)) if document.value().pointer(pointer).is_some() => {
                let place = document.problem(Finding::at(pointer, "")).place;
                Origin::File(path.clone(), place.map_or(1, |place| place.line))
            }
            Some(_) | None => Origin::Default,
        }
    }

    /// Whether the value came from the file or from what is compiled in: then its paths are relative to that.
    pub(super) fn is_of_file(&self, pointer: &str) -> bool {
        !self.over.contains_key(pointer)
    }

    /// A problem of the value at this pointer, told where it stands.
    pub(super) fn wrong(&self, pointer: &str, message: &str, label: &str) -> Problem {
        let name = pointer.trim_start_matches('/').replace('/', ".");
        let finding = Finding::at(pointer, format!("`{name}` {message}")).label(label);
        match (self.over.get(pointer), &self.document) {
            (Some((origin, _)), _) => Problem {
                severity: Severity::Error,
                file: match origin {
                    Origin::Variable(name) => format!("the variable {name}"),
                    Origin::Flag(_) | Origin::File(..) | Origin::Default => origin.to_string(),
                },
                place: None,
                message: finding.message,
                label: finding.label,
                hints: finding.hints,
            },
            (None, Some((_, document))) => document.problem(finding),
            (None, None) => file_problem("the compiled-in settings", finding.message),
        }
    }
}

fn typed(kind: Kind, text: &str) -> Result<Value, &'static str> {
    match kind {
        Kind::Text => Ok(text.into()),
        Kind::Truth => match text {
            "true" => Ok(true.into()),
            "false" => Ok(false.into()),
            _ => Err("`true` or `false`"),
        },
        Kind::Number => text.parse::<u64>().map(Value::from).map_err(|_| "a whole number"),
    }
}

/// Sets a value one or two keys deep.
fn put(whole: &mut Value, pointer: &str, value: Value) {
    let mut at = whole;
    for key in pointer.split('/').skip(1) {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[key];
    }
    *at = value;
}

/// The variables that begin with `GRAYLANE_` and mean nothing: a typo would otherwise be a setting that silently does not hold.
pub(super) fn unknown_variables<'v>(
    variables: &'v BTreeMap<String, String>,
    named_elsewhere: &dyn Fn(&str) -> bool,
) -> Vec<Problem> {
    let known: Vec<&str> = KEYS.iter().map(|key| key.variable).chain(OTHERS).collect();
    let meant = |name: &'v str, value: &str| {
        known.contains(&name)
            || APART.iter().any(|prefix| name.starts_with(prefix))
            || named_elsewhere(name)
            || is_service_link(name, value)
    };
    let unknown =
        variables.iter().filter(|(name, value)| name.starts_with("GRAYLANE_") && !meant(name, value));
    unknown
        .map(|(name, _)| {
            let message = format!("there is no setting for the variable `{name}`");
            let mut problem = file_problem("the environment's variables", message);
            match nearest(name, known.iter().copied()) {
                Some(near) => problem.hints.push(format!("did you mean `{near}`?")),
                None => problem.hints.push("`graylane settings` lists what can be set; unset it".into()),
            }
            problem
        })
        .collect()
}

/// What Kubernetes sets for a Service that is called `graylane` or `graylane-...`: its address, for containers of the
/// same namespace.
fn is_service_link(name: &str, value: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && value.contains("://"))
        || name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
}
