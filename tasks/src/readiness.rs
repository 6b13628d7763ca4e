//! Whether an environment is ready for gray releases: what an administrator looks at by hand, and more.
//!
//! Every finding says what to do, and whether `fix` does it. A fix writes what is safe at any time: the namespace's label,
//! the version label in the selector of a Service whose pods all carry it, and the annotation that keeps a client's own
//! mark out. It restarts nothing and removes nothing, and holds the leases of the production services that it concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use graylane_engine::claim::Claim;
use graylane_engine::clock::Clock;
use graylane_engine::task::{ErrorKind, TaskError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::adoption::is_labelled;
use crate::cluster::{Cluster, full_name};
use crate::environment::{GatewayKind, Site, deployment};
use crate::inventory::{Standing, is_gray};
use crate::lane::labels::{ORIGINAL, TAG_HEADER, VERSION};
use crate::lane::leak::{Pods, leaks};
use crate::lease::Leases;
use crate::manifest::{ObjectRef, name, namespace, selects, texts, uid};
use crate::rights::{Extra, Weight, missing};
use crate::rollout::has_agent;

/// The label with which a namespace takes part in MSE (Alibaba Cloud MSE, ack-onepilot).
const ENROLLED: (&str, &str) = ("mse-enable", "enabled");
/// The label with which a workload opts out of it.
const OPT_OUT: &str = "msePilotAutoEnable";

/// How ready an environment is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Readiness {
    /// The environment.
    pub environment: String,
    /// What was looked at, and what was found.
    pub findings: Vec<Finding>,
}

impl Readiness {
    /// Whether gray releases can work as the environment is now.
    pub fn is_ready(&self) -> bool {
        !self.findings.iter().any(|finding| finding.level == Level::Problem)
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// What was looked at, as `namespace-label`.
    pub check: String,
    /// What it means.
    pub level: Level,
    /// In a sentence that names the object.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whether `fix` does it.
    #[serde(default)]
    pub fixable: bool,
    /// Whether it was done now.
    #[serde(default)]
    pub fixed: bool,
}

/// What a finding means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Fine,
    /// Works, with a risk that is named.
    Warning,
    /// Gray releases are refused, or go wrong.
    Problem,
}

/// Looks at an environment.
///
/// # Errors
/// What the API server said where nothing can be looked at at all.
pub async fn check(cluster: &Cluster, site: &Site) -> Result<Readiness, TaskError> {
    Ok(look(cluster, site, false).await?.0)
}

/// Looks at an environment, and mends what can be. `record` is called before anything is written, with what is mended.
///
/// # Errors
/// As [`check`]; somebody else who writes a production service that is concerned; or what `record` said.
pub async fn fix<E, F, R>(
    leases: &Leases,
    clock: &Arc<dyn Clock>,
    site: &Site,
    record: R,
) -> Result<Readiness, E>
where
    E: From<TaskError>,
    F: Future<Output = Result<(), E>>,
    R: FnOnce(String) -> F,
{
    let cluster = &leases.connect(site).await?;
    let (found, concerns) = look(cluster, site, false).await?;
    let wrong: Vec<&str> = found
        .findings
        .iter()
        .filter(|finding| finding.fixable)
        .map(|finding| finding.message.as_str())
        .collect();
    if wrong.is_empty() {
        return Ok(found);
    }
    let what = format!("mended: {}", wrong.join("; "));
    let environment = &site.environment.name;
    let production: Vec<Claim> =
        concerns.iter().map(|service| Claim::service(environment, service)).collect();
    // On the heap: it is handed on by value.
    let mending = Box::pin(async {
        record(what).await?;
        Ok(look(cluster, site, true).await?.0)
    });
    leases
        .deed(("graylane environment check --fix", clock), (cluster, site), &production, mending, |_| false)
        .await
}

/// Looks; and mends with `fix`. Also gives the services that what can be mended concerns.
async fn look(cluster: &Cluster, site: &Site, fix: bool) -> Result<(Readiness, BTreeSet<String>), TaskError> {
    let mut looked = Look { cluster, site, fix, findings: Vec::new(), concerns: BTreeSet::new() };
    let environment = site.environment.name.clone();
    looked.rights().await?;
    let there = looked.namespaces().await?;
    let lacks = looked.findings.iter().any(|finding| finding.level == Level::Problem);
    match looked.objects(there).await {
        // What is lacking stands there already: that nothing more can be seen follows from it.
        Err(error) if lacks && error.kind == ErrorKind::Permanent => {
            let hint = error.hint.clone().unwrap_or_else(|| "mend what stands above first".into());
            looked.problem("objects", format!("the rest could not be looked at: {error}"), hint);
        }
        looked => looked?,
    }
    looked.gateway().await;
    Ok((Readiness { environment, findings: looked.findings }, looked.concerns))
}

struct Look<'l> {
    cluster: &'l Cluster,
    site: &'l Site,
    fix: bool,
    findings: Vec<Finding>,
    /// The services that what can be mended concerns.
    concerns: BTreeSet<String>,
}

impl Look<'_> {
    fn add(&mut self, check: &str, level: Level, message: String, hint: Option<String>) -> &mut Finding {
        self.findings.push(Finding {
            check: check.to_owned(),
            level,
            message,
            hint,
            fixable: false,
            fixed: false,
        });
        let last = self.findings.len() - 1;
        &mut self.findings[last]
    }

    fn fine(&mut self, check: &str, message: impl Into<String>) {
        self.add(check, Level::Fine, message.into(), None);
    }

    fn warning(&mut self, check: &str, message: impl Into<String>, hint: impl Into<String>) -> &mut Finding {
        self.add(check, Level::Warning, message.into(), Some(hint.into()))
    }

    fn problem(&mut self, check: &str, message: impl Into<String>, hint: impl Into<String>) -> &mut Finding {
        self.add(check, Level::Problem, message.into(), Some(hint.into()))
    }

    /// A finding that `fix` mends: mended now, or only told.
    fn mendable(&mut self, finding: Finding, done: Result<(), TaskError>) {
        let mut finding = Finding { fixable: true, ..finding };
        if self.fix {
            match done {
                Ok(()) => {
                    finding.fixed = true;
                    finding.level = Level::Fine;
                }
                Err(error) => {
                    let hint = error.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
                    finding.hint = Some(format!("it could not be mended: {error}{hint}"));
                }
            }
        }
        self.findings.push(finding);
    }

    /// Notes the services whose objects something that can be mended concerns: where none is named, all.
    fn concern(&mut self, services: impl IntoIterator<Item = String>) {
        let mut services = services.into_iter().peekable();
        if services.peek().is_none() {
            self.concerns.extend(self.site.services.keys().cloned());
        }
        self.concerns.extend(services);
    }

    /// The services that live in a namespace.
    fn services_in(&self, namespace: &str) -> Vec<String> {
        let environment = &self.site.environment;
        let home = |service: &str| environment.namespace_of(service).unwrap_or(&environment.namespace);
        self.site.services.keys().filter(|service| home(service) == namespace).cloned().collect()
    }

    /// Everything that is read off the objects of the namespaces.
    async fn objects(&mut self, there: bool) -> Result<(), TaskError> {
        if !there {
            return Ok(());
        }
        let standing = Standing::look(self.cluster).await?;
        self.services(&standing);
        self.selectors(&standing).await?;
        self.leaks_now(&standing);
        self.tag_header(&standing).await?;
        self.agents(&standing).await
    }

    /// Whether this identity may do all that tasks do (`rights.rs`); what only some use is a warning.
    async fn rights(&mut self) -> Result<(), TaskError> {
        let environment = self.site.environment.name.clone();
        let lacking = missing(self.cluster, self.site, &Extra::ALL).await?;
        if lacking.is_empty() {
            self.fine("rights", "this identity may do what the tasks need");
        }
        for lacks in lacking {
            let level = match lacks.rule.weight {
                Weight::Must => Level::Problem,
                Weight::Around | Weight::Explains | Weight::Part => Level::Warning,
            };
            self.add("rights", level, lacks.words(), Some(lacks.hint(&environment)));
        }
        Ok(())
    }

    /// Whether every namespace is there, and enrolled.
    async fn namespaces(&mut self) -> Result<bool, TaskError> {
        let mut all = true;
        let cluster = self.cluster;
        for namespace in cluster.namespaces() {
            let labels = match cluster.namespace_labels(namespace).await {
                Ok(Some(labels)) => labels,
                Ok(None) => {
                    all = false;
                    let hint = "create it, or correct `namespace` in the environment's file";
                    self.problem(
                        "namespace",
                        format!("there is no namespace {namespace} on the cluster"),
                        hint,
                    );
                    continue;
                }
                Err(error) => {
                    let hint =
                        "let it `get` namespaces, or look yourself: `kubectl get namespace --show-labels`";
                    self.warning(
                        "namespace",
                        format!("this identity may not look at namespaces: {error}"),
                        hint,
                    );
                    continue;
                }
            };
            if !self.site.environment.mse.enabled {
                self.fine("namespace", format!("namespace {namespace} is there"));
                continue;
            }
            let (key, value) = ENROLLED;
            if labels.get(key).is_some_and(|label| label == value) {
                self.fine("namespace-label", format!("namespace {namespace} carries `{key}={value}`"));
                continue;
            }
            // Whatever starts there next is another pod than it would have been.
            self.concern(self.services_in(namespace));
            let done = if self.fix { cluster.label_namespace(namespace, key, value).await } else { Ok(()) };
            let finding = Finding {
                check: "namespace-label".into(),
                level: Level::Problem,
                message: format!(
                    "namespace {namespace} lacks the label `{key}={value}`: its pods get no MSE agent"
                ),
                hint: Some(format!(
                    "kubectl label namespace {namespace} {key}={value}; pods that exist are restarted afterwards"
                )),
                fixable: true,
                fixed: false,
            };
            self.mendable(finding, done);
        }
        Ok(all)
    }

    /// The services that may be gray, with their Deployments: the manifest's and the live one.
    fn services(&mut self, standing: &Standing) {
        let site = self.site;
        for (service, objects) in &site.services {
            if !site.environment.allows_gray(service) {
                self.fine("version-label", format!("service `{service}` takes no part in lanes"));
                continue;
            }
            let manifest = match deployment(service, objects) {
                Ok(manifest) => manifest,
                Err(why) => {
                    let hint = format!(
                        "say `service_options: {{ {service}: {{ gray: false }} }}` in the environment's file, or mend the manifest"
                    );
                    self.problem("version-label", why, hint);
                    continue;
                }
            };
            let label = format!("{VERSION}: {ORIGINAL}");
            let file = site.source(service).map(|path| path.display().to_string()).unwrap_or_default();
            let written = is_labelled(manifest);
            if !written {
                self.problem(
                    "version-label",
                    format!("service `{service}`: its manifest has no `{label}` in the Deployment's selector and template"),
                    format!("add it to both in {file}, then `graylane environment adopt {service} -e {}`", site.environment.name),
                );
            }
            let at = ObjectRef::of(manifest);
            match standing.get(&at) {
                None => {
                    let hint = "deploy it to production first: a lane needs a baseline to fall back to";
                    self.problem(
                        "baseline",
                        format!("service `{service}`: {at} is not on the cluster"),
                        hint,
                    );
                }
                Some(live) if is_labelled(live) => {
                    if written {
                        self.fine("version-label", format!("service `{service}` carries `{label}`"));
                    }
                }
                Some(_) if written => {
                    self.problem(
                        "version-label",
                        format!("service `{service}`: the live {at} has no `{label}` in its selector and template"),
                        format!("`graylane environment adopt {service} -e {}` brings it there without a failed request", site.environment.name),
                    );
                }
                Some(_) => {}
            }
            let opted = texts(manifest, "/spec/template/metadata/labels");
            if site.environment.mse.enabled && opted.get(OPT_OUT).is_some_and(|value| value == "off") {
                self.problem(
                    "agent",
                    format!("service `{service}` opts out of MSE: its template carries `{OPT_OUT}: off`"),
                    "take the label out, or keep the service out of lanes with `gray: false`",
                );
            }
        }
    }

    /// Services of the cluster that select baseline pods without naming the version: a lane's pods would be selected too.
    async fn selectors(&mut self, standing: &Standing) -> Result<(), TaskError> {
        let site = self.site;
        let gray: Vec<(&String, &Value)> = site
            .services
            .iter()
            .filter(|(service, _)| site.environment.allows_gray(service))
            .filter_map(|(service, objects)| {
                Some((service, standing.get(&ObjectRef::of(deployment(service, objects).ok()?))?))
            })
            .collect();
        let mut wrong = 0;
        for service in standing.of("Service").filter(|service| !is_gray(service)) {
            let selector = texts(service, "/spec/selector");
            let selected = |object: &&Value| {
                namespace(object) == namespace(service)
                    && selects(&selector, &texts(object, "/spec/template/metadata/labels"))
            };
            let met: Vec<(&String, &Value)> =
                gray.iter().copied().filter(|(_, object)| selected(object)).collect();
            let Some((_, meets)) = met.first().copied() else { continue };
            if selector.contains_key(VERSION) {
                continue;
            }
            wrong += 1;
            let shown = full_name(&self.cluster.namespace, service);
            let message = format!(
                "{shown} selects the pods of {} without `{VERSION}`: it would send normal requests to a lane's pods too",
                ObjectRef::of(meets)
            );
            let lacks = standing
                .of("Deployment")
                .filter(selected)
                .find(|object| !is_gray(object) && !is_labelled(object));
            if let Some(lacks) = lacks {
                let hint = format!(
                    "first bring {} to the label, with `graylane environment adopt`",
                    ObjectRef::of(lacks)
                );
                self.problem("service-selector", message, hint);
                continue;
            }
            self.concern(met.iter().map(|(service, _)| (*service).clone()));
            let done = if self.fix {
                let patch = json!([
                    { "op": "test", "path": "/metadata/uid", "value": uid(service) },
                    { "op": "add", "path": format!("/spec/selector/{VERSION}"), "value": ORIGINAL },
                ]);
                self.cluster.patch(&ObjectRef::of(service), &patch).await.map(drop)
            } else {
                Ok(())
            };
            let finding = Finding {
                check: "service-selector".into(),
                level: Level::Problem,
                message,
                hint: Some(format!("add `{VERSION}: {ORIGINAL}` to its selector, and to its manifest")),
                fixable: true,
                fixed: false,
            };
            self.mendable(finding, done);
        }
        if wrong == 0 {
            self.fine("service-selector", "every Service that selects a baseline names its version");
        }
        Ok(())
    }

    /// What leaks at this moment.
    fn leaks_now(&mut self, standing: &Standing) {
        let pods: Vec<Pods> = standing.of("Deployment").map(Pods::of).collect();
        let found = leaks(standing.of("Service"), &pods);
        for leak in &found {
            self.problem("leak", format!("{leak}: another version's"), leak.hint.clone());
        }
        if found.is_empty() {
            self.fine("leak", "no Service selects pods of another version");
        }
    }

    /// A baseline route that lets a client's own mark through: whoever knows a tag enters its lane.
    async fn tag_header(&mut self, standing: &Standing) -> Result<(), TaskError> {
        let key = match self.site.environment.gateway.kind {
            GatewayKind::Mse => "mse.ingress.kubernetes.io/request-header-control-remove",
            GatewayKind::Higress => "higress.io/request-header-control-remove",
            GatewayKind::IngressNginx => {
                let words = format!(
                    "ingress-nginx takes no header away: a client's own `{TAG_HEADER}` reaches the services"
                );
                let hint =
                    "take it away in front of the gateway, or with the controller's `proxy-set-headers`";
                self.warning("tag-header", words, hint);
                return Ok(());
            }
            GatewayKind::GatewayApi => {
                self.header_filters(standing);
                return Ok(());
            }
        };
        let class = self.site.environment.gateway.class().to_owned();
        let mine = |ingress: &&Value| {
            ingress.pointer("/spec/ingressClassName").and_then(Value::as_str) == Some(class.as_str())
        };
        let routes: Vec<&Value> =
            standing.of("Ingress").filter(|ingress| !is_gray(ingress)).filter(mine).collect();
        if routes.is_empty() {
            self.warning(
                "tag-header",
                format!("no Ingress of class {class} is there: no service can be a lane's entry"),
                "give the entry's Ingress that class, or correct `ingress_class` in the environment's file",
            );
        }
        for ingress in routes {
            let shown = full_name(&self.cluster.namespace, ingress);
            let annotations = texts(ingress, "/metadata/annotations");
            let removed = annotations.get(key).cloned().unwrap_or_default();
            if removed.split([',', ' ', '\n']).any(|header| header.trim().eq_ignore_ascii_case(TAG_HEADER)) {
                self.fine("tag-header", format!("{shown} takes a client's own `{TAG_HEADER}` away"));
                continue;
            }
            let value =
                if removed.is_empty() { TAG_HEADER.to_owned() } else { format!("{removed},{TAG_HEADER}") };
            let at = ObjectRef::of(ingress);
            let site = self.site;
            let carries = |objects: &[Value]| objects.iter().any(|object| ObjectRef::of(object) == at);
            let owners = site.services.iter().filter(|(_, objects)| carries(objects));
            self.concern(owners.map(|(service, _)| service.clone()));
            let done = if self.fix { self.annotate(ingress, key, &value).await } else { Ok(()) };
            let finding = Finding {
                check: "tag-header".into(),
                level: Level::Warning,
                message: lets_through(&shown),
                hint: Some(format!("annotate it `{key}: {value}`, and its manifest too")),
                fixable: true,
                fixed: false,
            };
            self.mendable(finding, done);
        }
        Ok(())
    }

    /// The same where routes are HTTPRoutes: every rule has a filter that takes the header away.
    fn header_filters(&mut self, standing: &Standing) {
        let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
        let takes = |rule: &Value| {
            let filters = list(rule, "filters").into_iter();
            filters
                .flat_map(|filter| list(&filter["requestHeaderModifier"], "remove"))
                .any(|header| header.as_str().is_some_and(|header| header.eq_ignore_ascii_case(TAG_HEADER)))
        };
        let routes: Vec<&Value> = standing.of("HTTPRoute").filter(|route| !is_gray(route)).collect();
        if routes.is_empty() {
            let hint = "give the entry's service an HTTPRoute in its manifest";
            self.warning("tag-header", "no HTTPRoute is there: no service can be a lane's entry", hint);
        }
        for route in routes {
            let shown = full_name(&self.cluster.namespace, route);
            if list(&route["spec"], "rules").iter().all(takes) {
                self.fine("tag-header", format!("{shown} takes a client's own `{TAG_HEADER}` away"));
                continue;
            }
            let hint = format!(
                "give every rule, here and in its manifest, the filter `{{ type: RequestHeaderModifier, requestHeaderModifier: {{ remove: [{TAG_HEADER}] }} }}`"
            );
            self.warning("tag-header", lets_through(&shown), hint);
        }
    }

    async fn annotate(&self, object: &Value, key: &str, value: &str) -> Result<(), TaskError> {
        let mut patch = vec![json!({ "op": "test", "path": "/metadata/uid", "value": uid(object) })];
        if object.pointer("/metadata/annotations").is_none() {
            patch.push(json!({ "op": "add", "path": "/metadata/annotations", "value": {} }));
        }
        let path = format!("/metadata/annotations/{}", key.replace('/', "~1"));
        patch.push(json!({ "op": "add", "path": path, "value": value }));
        self.cluster.patch(&ObjectRef::of(object), &Value::Array(patch)).await.map(drop)
    }

    /// Whether the baselines' pods carry the agent: only pods show it.
    async fn agents(&mut self, standing: &Standing) -> Result<(), TaskError> {
        if !self.site.environment.mse.enabled {
            return Ok(());
        }
        let pods = self.cluster.list("v1", "Pod", "").await?;
        let site = self.site;
        for (service, objects) in &site.services {
            let Ok(manifest) = deployment(service, objects) else { continue };
            let Some(live) = standing.get(&ObjectRef::of(manifest)) else { continue };
            if !site.environment.allows_gray(service) {
                continue;
            }
            let selector = texts(live, "/spec/selector/matchLabels");
            let mine: Vec<&Value> = pods
                .iter()
                .filter(|pod| namespace(pod) == namespace(live) && !is_gray(pod))
                .filter(|pod| selects(&selector, &texts(pod, "/metadata/labels")))
                .filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none())
                .collect();
            let without: Vec<&str> = mine.iter().filter(|pod| !has_agent(pod)).map(|pod| name(pod)).collect();
            let shown = full_name(&self.cluster.namespace, live);
            match (mine.len(), without.first()) {
                (0, _) => {
                    let hint = "start it: whether its pods get the MSE agent shows on pods alone";
                    self.warning("agent", format!("service `{service}`: {shown} has no pods"), hint);
                }
                (_, None) => {
                    self.fine("agent", format!("the pods of service `{service}` carry the MSE agent"))
                }
                (all, Some(first)) => {
                    let (home, deployment) = (namespace(live).unwrap_or(&self.cluster.namespace), name(live));
                    let hint = format!(
                        "once the namespace is labelled and ack-onepilot runs, make the pods anew: kubectl -n {home} rollout restart deployment {deployment}"
                    );
                    let message = format!(
                        "{} of {all} pods of service `{service}` carry no MSE agent (pod {first}): they call whoever the registry names, gray or not",
                        without.len()
                    );
                    self.problem("agent", message, hint);
                }
            }
        }
        Ok(())
    }

    /// Whether the gateway answers at all; what it answers does not matter.
    async fn gateway(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(3);
        let address = self.cluster.gateway.trim_end_matches('/').to_owned();
        let (rest, port) = match address.strip_prefix("https://") {
            Some(rest) => (rest, 443),
            None => (address.trim_start_matches("http://"), 80),
        };
        let ends_in_port = rest.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let target = if ends_in_port { rest.to_owned() } else { format!("{rest}:{port}") };
        let why = match tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(&target)).await {
            Ok(Ok(_)) => {
                self.fine("gateway", format!("the gateway takes connections at {address}"));
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        self.problem(
            "gateway",
            format!("the gateway cannot be reached at {address}: {why}"),
            "correct `gateway.address` in the environment's file: http checks go there",
        );
    }
}

fn lets_through(shown: &str) -> String {
    format!(
        "{shown} lets a client's own `{TAG_HEADER}` through: whoever knows a tag meets its lane, whatever the route says"
    )
}

/// Findings by level, for a line at the end.
pub fn counts(findings: &[Finding]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for finding in findings {
        let word = match finding.level {
            Level::Fine => "fine",
            Level::Warning => "warnings",
            Level::Problem => "problems",
        };
        *counts.entry(word).or_default() += 1;
    }
    counts
}
