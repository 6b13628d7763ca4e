//! An environment: the operator's file, and the manifests of its services.
//!
//! Files are gathered into a bundle once, with the data of Secrets replaced; everything later reads the
//! bundle. Nothing here talks to a cluster.

mod checks;
mod summary;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use graylane_engine::bundle::Bundle;
use graylane_engine::clock::Timestamp;
use graylane_engine::document::{Document, Finding, Problem, file_problem, step};
use graylane_engine::id::{SourceName, WorkflowName, is_name};
use graylane_engine::schema::{Checker, list, nearest, value_words};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::checks::{Basic, Checks, Prometheus, Verified};
pub use self::summary::{Summary, summaries};
use crate::manifest::{self, kind, map_at};
use crate::rollout::{Patience, RolloutFile};
use crate::secret::{DigestKey, redact};

/// An environment file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Graylane environment", extend("$comment" = "printed by `graylane schema environment`"))]
pub struct Environment {
    /// The environment's name: what `environment` in a workflow file means.
    #[schemars(regex(pattern = "^[A-Za-z][A-Za-z0-9_-]{0,62}$"), extend("x-expected" = "a name has letters, digits, `-` and `_`, and begins with a letter"))]
    pub name: String,
    /// The cluster: `rehearsal`, `in-cluster`, or a kubeconfig.
    pub cluster: ClusterAt,
    /// The namespace of its services and lanes.
    #[schemars(regex(pattern = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"), extend("x-expected" = "a namespace has up to 63 small letters, digits and `-`"))]
    pub namespace: String,
    /// What lets requests in.
    pub gateway: Gateway,
    /// Alibaba Cloud MSE.
    #[serde(default)]
    pub mse: Mse,
    /// The folder of the services' manifests, one file a service, relative to this file.
    pub services: String,
    /// What is special about single services.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub service_options: BTreeMap<String, ServiceOptions>,
    /// Times in which nothing is deployed here: what would be is held. Verifying and taking back go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<Freeze>,
    /// How long rollouts wait for what may pass.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rollout: RolloutFile,
    /// Whether an approval here counts only from somebody who has proved who they are.
    #[serde(default)]
    pub protected: bool,
    /// Who may use the environment, and what it may be used for.
    pub allow: Allow,
    /// The services in the order in which they call each other, where it is one line: what `graylane lanes show` draws.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
    /// How long a lane lives after its last deploy or renewal. Where it is written, `mse-gray-offline` with
    /// `expired: true` takes older ones down; where not, none is ever taken down for its age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = graylane_engine::clock::DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub ttl: Option<String>,
    /// The most lanes at once: a deploy of one more is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_lanes: Option<u32>,
    /// Field managers whose fields prod-deploy takes over without being told.
    #[serde(default = "default_take_over")]
    pub take_over: Vec<String>,
    /// What checks may reach and run besides the gateway and the cluster.
    #[serde(default, skip_serializing_if = "Checks::is_empty")]
    pub checks: Checks,
    /// Where prometheus checks ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<Prometheus>,
    /// Whether prod-deploy takes only images that were verified in a lane.
    #[serde(default)]
    pub verified: Verified,
}

/// A time in which nothing is deployed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Freeze {
    /// When it begins, in RFC 3339.
    #[schemars(regex(pattern = MOMENT), extend("x-expected" = "a time is written as in `2026-12-24T18:00:00+08:00`"))]
    pub from: String,
    /// When it ends, in RFC 3339.
    #[schemars(regex(pattern = MOMENT), extend("x-expected" = "a time is written as in `2026-12-24T18:00:00+08:00`"))]
    pub until: String,
    /// Why, for those whom it stops.
    pub reason: String,
}

const MOMENT: &str = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2})$";

impl Environment {
    /// The freeze of this moment.
    ///
    /// # Errors
    /// A time that there is not, as a sentence.
    pub fn frozen(&self, now: Timestamp) -> Result<Option<&Freeze>, String> {
        for freeze in &self.freeze {
            let (from, until): (Timestamp, Timestamp) = (freeze.from.parse()?, freeze.until.parse()?);
            if from <= now && now < until {
                return Ok(Some(freeze));
            }
        }
        Ok(None)
    }
}

/// Why an environment of a bundle is frozen at this moment, in words; `None` where it is not, or is not known.
pub fn frozen(bundle: &Bundle, name: &str, now: Timestamp) -> Option<String> {
    let site = Site::load(bundle, name).ok()?;
    let freeze = site.environment.frozen(now).ok()??;
    Some(format!("until {}: {}", freeze.until, freeze.reason))
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn default_take_over() -> Vec<String> {
    vec!["kubectl-client-side-apply".into(), "before-first-apply".into()]
}

/// Where a cluster is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterAt {
    /// The cluster that Graylane carries.
    Rehearsal,
    /// The cluster that Graylane runs in.
    InCluster,
    /// The cluster of a kubeconfig file.
    #[serde(untagged)]
    Kubeconfig(Kubeconfig),
}

/// A kubeconfig file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kubeconfig {
    /// The file, relative to the environment's file.
    pub kubeconfig: String,
    /// The context; the file's current one where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// What lets requests in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// How routes are written.
    pub kind: GatewayKind,
    /// Where http checks find it.
    #[schemars(regex(pattern = "^https?://[^/]+/?$"), extend("x-expected" = "an address is `http://HOST:PORT` or `https://HOST:PORT`"))]
    pub address: String,
    /// The class of its Ingresses; by default `mse`, `higress` or `nginx`, as the kind has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_class: Option<String>,
}

impl Gateway {
    /// The class of Ingress that it reads.
    pub fn class(&self) -> &str {
        self.ingress_class.as_deref().unwrap_or_else(|| self.kind.default_class())
    }
}

/// How routes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayKind {
    /// The MSE cloud-native gateway: Ingress annotations.
    Mse,
    /// Open-source Higress: Ingress annotations, some of its own.
    Higress,
    /// ingress-nginx: one canary per host and path, and no header that it sets.
    IngressNginx,
    /// Any gateway of the Gateway API: an HTTPRoute beside the baseline's.
    GatewayApi,
}

/// Alibaba Cloud MSE.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mse {
    /// Whether pods must carry the MSE agent: a gray pod without it would be met by everybody.
    pub enabled: bool,
}

/// What is special about a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceOptions {
    /// Whether lanes may hold a copy of it.
    #[serde(default = "yes")]
    pub gray: bool,
    /// The namespace that it lives in, where that is not the environment's. Its gray copies live beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"), extend("x-expected" = "a namespace has up to 63 small letters, digits and `-`"))]
    pub namespace: Option<String>,
}

fn yes() -> bool {
    true
}

/// Who may use an environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// The workflows that may name it.
    pub workflows: Vec<String>,
    /// The sources that their files must come from. Where it is written, a file that a person brings is refused; else
    /// every source is allowed, and every file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<String>>,
}

/// What a bundle remembers of where its files came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Origin {
    /// The environment's folder, absolute: paths in the file are relative to it.
    folder: PathBuf,
    /// The manifest file of each service, absolute.
    services: BTreeMap<String, PathBuf>,
}

impl Environment {
    /// How long its rollouts wait for what may pass.
    pub fn patience(&self) -> Patience {
        Patience::of(&self.rollout)
    }

    /// Whether lanes may hold a copy of a service.
    pub fn allows_gray(&self, service: &str) -> bool {
        self.service_options.get(service).is_none_or(|options| options.gray)
    }

    /// The namespace of a service, where it is another one than the environment's.
    pub fn namespace_of(&self, service: &str) -> Option<&str> {
        let named = self.service_options.get(service)?.namespace.as_deref()?;
        (named != self.namespace).then_some(named)
    }
}

/// An environment as a run sees it: the file, and its services' objects with redacted Secrets.
#[derive(Debug, Clone)]
pub struct Site {
    /// The operator's file.
    pub environment: Environment,
    /// The objects of each service.
    pub services: BTreeMap<String, Vec<Value>>,
    origin: Origin,
}

impl Site {
    /// Reads an environment out of a bundle.
    ///
    /// # Errors
    /// A sentence; with the nearest name where the environment is not known.
    pub fn load(bundle: &Bundle, name: &str) -> Result<Site, String> {
        let file: Value = read(bundle, &format!("environments/{name}.json"))?.ok_or_else(|| {
            let known = names(bundle);
            let near = nearest(name, known.iter().map(String::as_str));
            match near {
                Some(near) => format!("there is no environment `{name}`; did you mean `{near}`?"),
                None => format!("there is no environment `{name}`: there is {}", list(&known)),
            }
        })?;
        let environment =
            serde_json::from_value(file).map_err(|error| format!("environment `{name}`: {error}"))?;
        let origin = read(bundle, &format!("environments/{name}.origin.json"))?
            .ok_or_else(|| format!("environment `{name}`: the bundle does not say where it came from"))?;
        let prefix = format!("services/{name}/");
        let mut services = BTreeMap::new();
        for (path, bytes) in bundle.below(&prefix) {
            let service = path.trim_start_matches(&prefix).trim_end_matches(".json");
            let mut objects: Vec<Value> =
                serde_json::from_slice(bytes).map_err(|error| format!("service `{service}`: {error}"))?;
            settle(&mut objects, service, &environment);
            services.insert(service.to_owned(), objects);
        }
        Ok(Site { environment, services, origin })
    }

    /// The namespaces besides the environment's own in which its services live.
    pub fn other_namespaces(&self) -> Vec<String> {
        let named = self.services.keys().filter_map(|service| self.environment.namespace_of(service));
        named.collect::<BTreeSet<_>>().into_iter().map(str::to_owned).collect()
    }

    /// Whether a workflow's file may come from there; none where a person brought it.
    ///
    /// # Errors
    /// The refusal, with what to do.
    pub fn admit_source(&self, source: Option<&SourceName>) -> Result<(), String> {
        let Some(allowed) = &self.environment.allow.sources else { return Ok(()) };
        let name = &self.environment.name;
        match source {
            Some(source) if allowed.iter().any(|allowed| allowed == source.as_str()) => Ok(()),
            Some(source) => {
                Err(format!("environment `{name}` does not allow workflows of the source `{source}`"))
            }
            None => Err(format!(
                "environment `{name}` allows workflows of its sources alone, not files that somebody brings"
            )),
        }
    }

    /// Whether a workflow may use the environment.
    ///
    /// # Errors
    /// The refusal, with what to do.
    pub fn admit(&self, workflow: &WorkflowName) -> Result<(), String> {
        let allowed = &self.environment.allow.workflows;
        if allowed.iter().any(|name| name == workflow.as_str()) {
            return Ok(());
        }
        Err(format!("environment `{}` does not allow the workflow `{workflow}`", self.environment.name))
    }

    /// The objects of a service.
    ///
    /// # Errors
    /// A sentence with the nearest name.
    pub fn service(&self, name: &str) -> Result<&[Value], String> {
        self.services.get(name).map(Vec::as_slice).ok_or_else(|| {
            let environment = &self.environment.name;
            match nearest(name, self.services.keys().map(String::as_str)) {
                Some(near) => {
                    format!("environment `{environment}` has no service `{name}`; did you mean `{near}`?")
                }
                None => format!(
                    "environment `{environment}` has no service `{name}`: it has {}",
                    list(self.services.keys())
                ),
            }
        })
    }

    /// The file that a service's objects came from, where Secrets are read again.
    pub fn source(&self, service: &str) -> Option<&Path> {
        self.origin.services.get(service).map(PathBuf::as_path)
    }

    /// A path of the environment's file, absolute.
    pub fn path(&self, written: &str) -> PathBuf {
        let written = match written.strip_prefix("~/") {
            Some(rest) => std::env::home_dir().map_or_else(|| PathBuf::from(written), |home| home.join(rest)),
            None => PathBuf::from(written),
        };
        if written.is_absolute() { written } else { self.origin.folder.join(written) }
    }
}

/// Objects of a service that lives in a namespace of its own say so; what a manifest says itself is judged later.
fn settle(objects: &mut [Value], service: &str, environment: &Environment) {
    const EVERYWHERE: [&str; 4] = ["Namespace", "ClusterRole", "ClusterRoleBinding", "PersistentVolume"];
    let Some(namespace) = environment.namespace_of(service) else { return };
    for object in objects.iter_mut().filter(|object| !EVERYWHERE.contains(&kind(object))) {
        map_at(object, &["metadata"]).entry("namespace").or_insert_with(|| namespace.into());
    }
}

/// The names of the environments in a bundle.
pub fn names(bundle: &Bundle) -> Vec<String> {
    let files = bundle.below("environments/").map(|(path, _)| path.trim_start_matches("environments/"));
    files
        .filter(|file| !file.ends_with(".origin.json"))
        .map(|file| file.trim_end_matches(".json").to_owned())
        .collect()
}

fn read<T: serde::de::DeserializeOwned>(bundle: &Bundle, path: &str) -> Result<Option<T>, String> {
    bundle
        .get(path)
        .map(|bytes| serde_json::from_slice(bytes).map_err(|error| format!("{path}: {error}")))
        .transpose()
}

/// What was gathered, and what was wrong with it.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The files that are right; Secrets hold digests.
    pub bundle: Bundle,
    /// The files that are not: a broken one never takes a good one down.
    pub problems: Vec<Problem>,
}

/// Reads every environment file of a folder, and the manifests that they name. A folder that is missing holds none.
pub fn gather(folder: &Path, key: &DigestKey) -> Gathered {
    let mut gathered = Gathered::default();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for path in yaml_files(folder, &mut gathered.problems) {
        match environment_file(&path) {
            Ok((environment, document)) => {
                let shown = path.display().to_string();
                if let Some(other) = names.insert(environment.name.clone(), shown.clone()) {
                    let message = format!("two environments are called `{}`", environment.name);
                    let mut problem = file_problem(&shown, message);
                    problem.hints.push(format!("the other one is in {other}"));
                    gathered.problems.push(problem);
                    continue;
                }
                add_environment(&path, &environment, &document, key, &mut gathered);
            }
            Err(problems) => gathered.problems.extend(problems),
        }
    }
    gathered
}

/// Reads one environment file, alone.
///
/// # Errors
/// Every problem with its place.
fn environment_file(path: &Path) -> Result<(Environment, Document), Vec<Problem>> {
    let shown = path.display().to_string();
    let bytes =
        fs::read(path).map_err(|error| vec![file_problem(&shown, format!("cannot be read: {error}"))])?;
    let (document, duplicates) = Document::parse_to_check(&shown, &bytes)?;
    let checker = Checker::new(graylane_engine::schema::of::<Environment>());
    let mut findings = checker.check(document.value(), "the environment", Some((&document, "")));
    if let Some(cluster) = document.value().get("cluster") {
        // A choice between words and a map reads badly from a schema.
        findings.retain(|finding| !finding.pointer.starts_with("/cluster"));
        findings.extend(check_cluster(cluster, &document));
    }
    let mut problems = duplicates;
    problems.extend(findings.into_iter().map(|finding| document.problem(finding)));
    if !problems.is_empty() {
        problems.sort_by_key(|problem| problem.place.as_ref().map_or(0, |place| place.bytes.start));
        return Err(problems);
    }
    match serde_json::from_value(document.value().clone()) {
        Ok(environment) => Ok((environment, document)),
        Err(error) => Err(vec![file_problem(&shown, error.to_string())]),
    }
}

fn check_cluster(cluster: &Value, document: &Document) -> Vec<Finding> {
    const EXPECTED: &str = "`rehearsal`, `in-cluster` or `{ kubeconfig: FILE, context: NAME }`";
    let known = ["rehearsal", "in-cluster"];
    match cluster {
        Value::String(text) if known.contains(&text.as_str()) => Vec::new(),
        Value::String(text) => {
            let finding = Finding::at("/cluster", format!("`cluster` cannot be `{text}`"));
            vec![match nearest(text, known) {
                Some(near) => finding.label(format!("did you mean `{near}`?")),
                None => finding.label(EXPECTED),
            }]
        }
        Value::Object(_) => {
            let checker = Checker::new(graylane_engine::schema::of::<Kubeconfig>());
            let found = checker.check(cluster, "`cluster`", Some((document, "/cluster")));
            found.into_iter().map(|finding| finding.below("/cluster")).collect()
        }
        other => {
            let message = format!("`cluster` must be a text or a map, not {}", value_words(other));
            vec![Finding::at("/cluster", message).label(EXPECTED)]
        }
    }
}

/// Services that the environment's file names, and that have no manifest: an option that holds for nobody protects nobody.
fn unknown_services(environment: &Environment, files: &[PathBuf]) -> Vec<Finding> {
    let known: BTreeSet<&str> = files.iter().filter_map(|file| file.file_stem()?.to_str()).collect();
    let options = environment.service_options.keys().map(|name| (step("/service_options", name), name));
    let chain = environment.chain.iter().enumerate().map(|(index, name)| (format!("/chain/{index}"), name));
    let unknown = options.chain(chain).filter(|(_, name)| !known.contains(name.as_str()));
    unknown
        .map(|(at, name)| {
            let message = format!("environment `{}` has no service `{name}`", environment.name);
            let finding = Finding::at(&at, message).label(match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there is no {name}.yaml among its manifests"),
            });
            if at.starts_with("/chain") { finding } else { finding.on_key() }
        })
        .collect()
}

fn add_environment(
    path: &Path,
    environment: &Environment,
    document: &Document,
    key: &DigestKey,
    gathered: &mut Gathered,
) {
    let folder = path.parent().unwrap_or(Path::new("."));
    let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let services = folder.join(&environment.services);
    let name = &environment.name;
    if !services.is_dir() {
        let shown = path.display().to_string();
        let mut problem =
            file_problem(&shown, format!("`services` names {}, which is no folder", environment.services));
        problem.hints.push(format!("the path is relative to {}", folder.display()));
        gathered.problems.push(problem);
    }
    let mut origin = Origin { folder: folder.clone(), services: BTreeMap::new() };
    let files = yaml_files(&services, &mut gathered.problems);
    if services.is_dir() {
        let unknown = unknown_services(environment, &files);
        if !unknown.is_empty() {
            gathered.problems.extend(unknown.into_iter().map(|finding| document.problem(finding)));
            return;
        }
    }
    for file in files {
        let Some(service) = file.file_stem().and_then(|stem| stem.to_str()) else { continue };
        let shown = file.display().to_string();
        if !is_name(service) {
            gathered
                .problems
                .push(file_problem(&shown, format!("`{service}` cannot be the name of a service")));
            continue;
        }
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) => {
                gathered.problems.push(file_problem(&shown, format!("cannot be read: {error}")));
                continue;
            }
        };
        match manifest::parse(&shown, &text) {
            Ok(objects) => {
                let redacted: Vec<Value> = objects.iter().map(|object| redact(object, key)).collect();
                let bytes = serde_json::to_vec(&redacted).unwrap_or_default();
                gathered.bundle.add(format!("services/{name}/{service}.json"), bytes);
                origin.services.insert(service.to_owned(), file);
            }
            Err(problems) => gathered.problems.extend(problems),
        }
    }
    let bytes = |value: serde_json::Result<Vec<u8>>| value.unwrap_or_default();
    gathered.bundle.add(format!("environments/{name}.json"), bytes(serde_json::to_vec(environment)));
    gathered.bundle.add(format!("environments/{name}.origin.json"), bytes(serde_json::to_vec(&origin)));
}

fn yaml_files(folder: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            problems.push(file_problem(&folder.display().to_string(), format!("cannot be read: {error}")));
            return Vec::new();
        }
    };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml"))
        .collect();
    files.sort();
    files
}

/// The one Deployment of a service.
///
/// # Errors
/// A sentence: there is none, or more than one.
pub fn deployment<'o>(service: &str, objects: &'o [Value]) -> Result<&'o Value, String> {
    let mut found = objects.iter().filter(|object| kind(object) == "Deployment");
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(format!("service `{service}` has no Deployment: its manifest needs exactly one")),
        (Some(_), Some(_)) => {
            let count = objects.iter().filter(|object| kind(object) == "Deployment").count();
            Err(format!("service `{service}` has {count} Deployments: its manifest needs exactly one"))
        }
    }
}
