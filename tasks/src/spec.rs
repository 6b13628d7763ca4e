//! What the specs of several task types have in common.

use std::collections::BTreeMap;

use graylane_engine::bundle::Bundle;
use graylane_engine::claim::{Claim, Mode};
use graylane_engine::clock::parse_duration;
use graylane_engine::document::{Finding, step};
use graylane_engine::task::{self, Plan, TaskContext, TaskError};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::environment::{Site, deployment};
use crate::lane::check_tag;
use crate::manifest::containers;

/// The resolved spec as its type.
///
/// # Errors
/// What an expression put in that does not fit.
pub fn read<T: DeserializeOwned>(cx: &TaskContext) -> Result<T, TaskError> {
    serde_json::from_value(cx.spec.clone())
        .map_err(|error| TaskError::permanent(format!("`with` does not fit: {error}")))
}

/// The environment that the spec names, where the workflow may use it.
///
/// # Errors
/// A refusal.
pub fn site(cx: &TaskContext, name: &str) -> Result<Site, TaskError> {
    let site = Site::load(&cx.bundle, name).map_err(TaskError::permanent)?;
    site.admit(&cx.workflow).map_err(|why| {
        TaskError::permanent(why)
            .hint(format!("add it to `allow.workflows` in the file of environment `{name}`"))
    })?;
    site.admit_source(cx.source.as_ref()).map_err(|why| {
        TaskError::permanent(why).hint(format!(
            "run it as it stands in a source that `allow.sources` of environment `{name}` names: `graylane run NAME`"
        ))
    })?;
    Ok(site)
}

/// Holds what would be deployed while the environment is frozen.
///
/// # Errors
/// A hold, or a freeze that cannot be read.
pub fn thawed(cx: &TaskContext, site: &Site) -> Result<(), TaskError> {
    let environment = &site.environment;
    if let Some(freeze) = cx.frozen(&environment.name) {
        let until = freeze.until.map(|until| format!(" until {until}")).unwrap_or_default();
        return Err(TaskError::hold(format!(
            "environment `{}` is frozen{until} by {}, since {}: {}",
            environment.name, freeze.by, freeze.since, freeze.reason
        ))
        .hint(format!("`graylane thaw {}` ends it; then answer `retry`", environment.name)));
    }
    match environment.frozen(cx.clock.now()) {
        Ok(None) => Ok(()),
        Ok(Some(freeze)) => Err(TaskError::hold(format!(
            "environment `{}` is frozen until {}: {}",
            environment.name, freeze.until, freeze.reason
        ))
        .hint("answer `retry` when it is over, or take the window out of the environment's file and start a new run")),
        Err(why) => Err(TaskError::permanent(format!("`freeze` of environment `{}`: {why}", environment.name))),
    }
}

/// A plan with its body, marked where it writes to a protected environment.
///
/// # Errors
/// A body that cannot be stored: a bug.
pub fn seal(plan: Plan, body: &impl serde::Serialize, site: &Site) -> Result<Plan, TaskError> {
    let body = serde_json::to_value(body).map_err(|error| TaskError::permanent(error.to_string()))?;
    let environment = &site.environment;
    Ok(Plan { body, protected: environment.protected.then(|| environment.name.clone()), ..plan })
}

/// A text of the spec that holds no expression.
pub fn plain<'s>(spec: &'s Value, key: &str) -> Option<&'s str> {
    spec.get(key).and_then(Value::as_str).filter(|text| !text.contains("${{"))
}

/// Checks `environment` against the operator's files; gives it where it is right.
pub fn check_environment(spec: &Value, at: &task::Site<'_>, findings: &mut Vec<Finding>) -> Option<Site> {
    let name = plain(spec, "environment")?;
    if no_environments(at.files) {
        return None;
    }
    let site = match Site::load(at.files, name) {
        Ok(site) => site,
        Err(why) => {
            let (message, hint) = split_hint(&why);
            findings.push(with_hint(Finding::at("/environment", message), hint));
            return None;
        }
    };
    if let Some(workflow) = at.workflow
        && let Err(why) = site.admit(workflow)
    {
        findings.push(
            Finding::at("/environment", why)
                .hint(format!("add it to `allow.workflows` in the file of environment `{name}`")),
        );
    }
    Some(site)
}

/// Where no environment file could be read at all, their names say nothing.
fn no_environments(files: &Bundle) -> bool {
    files.below("environments/").next().is_none()
}

/// `message; did you mean X?` as a message and what goes under its mark.
fn split_hint(text: &str) -> (&str, Option<&str>) {
    match text.split_once("; ") {
        Some((message, hint)) => (message, Some(hint)),
        None => (text, None),
    }
}

fn with_hint(finding: Finding, hint: Option<&str>) -> Finding {
    match hint {
        Some(hint) => finding.label(hint),
        None => finding,
    }
}

/// Checks `tag`.
pub fn check_lane_tag(spec: &Value, findings: &mut Vec<Finding>) {
    if let Some(tag) = plain(spec, "tag")
        && let Err(why) = check_tag(tag)
    {
        let (message, hint) = why.split_once(": ").map_or((why.as_str(), None), |(m, h)| (m, Some(h)));
        findings.push(with_hint(Finding::at("/tag", message), hint));
    }
}

/// Checks the services that `images` names, and the images that it gives: a text, or texts by container.
pub fn check_images(spec: &Value, site: Option<&Site>, findings: &mut Vec<Finding>) {
    let Some(images) = spec.get("images").and_then(Value::as_object) else { return };
    for (service, image) in images {
        let at = step("/images", service);
        check_service(service, &at, site, findings);
        match image {
            Value::String(text) => {
                check_image(text, &at, findings);
                let known = template_of(service, site).map(|template| names(template, "/spec/containers"));
                if let Some(known) = known.filter(|known| known.len() > 1) {
                    let message = format!("service `{service}` has several containers");
                    findings.push(Finding::at(at, message).label(format!(
                        "give images by container: {}",
                        graylane_engine::schema::list(&known)
                    )));
                }
            }
            Value::Object(map) => check_containers(service, map, &at, site, findings),
            _ => findings.push(
                Finding::at(at, format!("the image of `{service}` must be a text"))
                    .label("expected `repository:tag`, or images by container"),
            ),
        }
        check_one_place(service, spec, findings);
    }
}

/// Checks the services that `services` names, and the images that each gives by container.
pub fn check_services(spec: &Value, site: Option<&Site>, findings: &mut Vec<Finding>) {
    for (service, with) in spec.get("services").and_then(Value::as_object).into_iter().flatten() {
        let at = step("/services", service);
        check_service(service, &at, site, findings);
        if let Some(images) = with.get("images").and_then(Value::as_object) {
            check_containers(service, images, &format!("{at}/images"), site, findings);
        }
    }
}

/// `images` is short for `services`: a service stands in one of them.
fn check_one_place(service: &str, spec: &Value, findings: &mut Vec<Finding>) {
    let at = step("/services", service);
    if spec.pointer(&at).is_some() {
        findings.push(
            Finding::at(at, format!("`{service}` stands in `images` and in `services`"))
                .on_key()
                .label("`images` is short for `services`: keep one"),
        );
    }
}

fn check_containers(
    service: &str,
    images: &Map<String, Value>,
    at: &str,
    site: Option<&Site>,
    findings: &mut Vec<Finding>,
) {
    let known = containers_of(service, site);
    for (container, image) in images {
        let at = step(at, container);
        if let Some(known) = known.as_ref().filter(|known| !known.contains(container)) {
            let message = format!("service `{service}` has no container `{container}`");
            let near = graylane_engine::schema::nearest(container, known.iter().map(String::as_str));
            findings.push(Finding::at(&at, message).on_key().label(match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("it has {}", graylane_engine::schema::list(known)),
            }));
        }
        match image {
            Value::String(text) => check_image(text, &at, findings),
            _ => findings.push(Finding::at(at, "an image is a text").label("expected `repository:tag`")),
        }
    }
}

/// The names of a service's containers, init containers included; none where its manifest does not say.
fn containers_of(service: &str, site: Option<&Site>) -> Option<Vec<String>> {
    let template = template_of(service, site)?;
    Some(containers(template).filter_map(|c| c["name"].as_str().map(str::to_owned)).collect())
}

fn template_of<'s>(service: &str, site: Option<&'s Site>) -> Option<&'s Value> {
    deployment(service, site?.service(service).ok()?).ok()?.pointer("/spec/template")
}

fn names(template: &Value, pointer: &str) -> Vec<String> {
    let containers = template.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    containers.filter_map(|container| container["name"].as_str().map(str::to_owned)).collect()
}

/// Checks a duration's size; the schema knows its form.
pub fn check_duration(value: Option<&Value>, at: &str, findings: &mut Vec<Finding>) {
    let Some(text) = value.and_then(Value::as_str).filter(|text| !text.contains("${{")) else { return };
    if text.len() > 24 || parse_duration(text).is_err() {
        findings.push(Finding::at(at, "the duration is too long to be counted"));
    }
}

/// Checks that a service exists.
pub fn check_service(service: &str, at: &str, site: Option<&Site>, findings: &mut Vec<Finding>) {
    if let Some(site) = site
        && let Err(why) = site.service(service)
    {
        let (message, hint) = split_hint(&why);
        findings.push(with_hint(Finding::at(at, message).on_key(), hint));
    }
}

fn check_image(text: &str, at: &str, findings: &mut Vec<Finding>) {
    if text.contains("${{") {
        return;
    }
    if text.is_empty() || text.contains(char::is_whitespace) {
        let shown = if text.is_empty() { "an empty text".to_owned() } else { format!("`{text}`") };
        findings.push(Finding::at(at, format!("{shown} is not an image")).label("expected `repository:tag`"));
    }
}

/// The images that are given for a service, by container. One text means the one container.
///
/// # Errors
/// A sentence: a text for a service of several containers.
pub fn images_for(
    service: &str,
    given: Option<&Value>,
    baseline: &[Value],
) -> Result<BTreeMap<String, String>, String> {
    match given {
        None => Ok(BTreeMap::new()),
        Some(Value::String(image)) => {
            let template = deployment(service, baseline)?.pointer("/spec/template").unwrap_or(&Value::Null);
            let names = names(template, "/spec/containers");
            match names.as_slice() {
                [only] => Ok(BTreeMap::from([(only.clone(), image.clone())])),
                _ => Err(format!(
                    "service `{service}` has the containers {}: give images by container",
                    graylane_engine::schema::list(&names)
                )),
            }
        }
        Some(Value::Object(map)) => {
            let template = deployment(service, baseline)?.pointer("/spec/template").unwrap_or(&Value::Null);
            let known: Vec<String> =
                containers(template).filter_map(|c| c["name"].as_str().map(str::to_owned)).collect();
            let mut images = BTreeMap::new();
            for (container, image) in map {
                if !known.contains(container) {
                    return Err(format!(
                        "service `{service}` has no container `{container}`: it has {}",
                        graylane_engine::schema::list(&known)
                    ));
                }
                let image = image.as_str().ok_or_else(|| {
                    format!("service `{service}`, container `{container}`: an image is a text")
                })?;
                images.insert(container.clone(), image.to_owned());
            }
            Ok(images)
        }
        Some(_) => Err(format!("the image of service `{service}` must be a text, or texts by container")),
    }
}

/// Images by container as a spec takes them again: one text where there is one container.
pub fn images_value(images: &BTreeMap<String, String>) -> Value {
    match images.iter().next() {
        Some((_, only)) if images.len() == 1 => only.clone().into(),
        _ => Value::Object(
            images.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect::<Map<_, _>>(),
        ),
    }
}

/// The plan's own bytes as the type that made them.
///
/// # Errors
/// A plan of another version.
pub fn body<T: DeserializeOwned>(plan: &Plan) -> Result<T, TaskError> {
    serde_json::from_value(plan.body.clone())
        .map_err(|error| TaskError::permanent(format!("the plan cannot be read: {error}")))
}

/// The claim on the lane that the spec names, as far as it can be told already.
pub fn lane_claim(spec: &Value, mode: Mode) -> Vec<Claim> {
    match (plain(spec, "environment"), plain(spec, "tag")) {
        (Some(environment), Some(tag)) => vec![Claim::lane(environment, tag, mode)],
        _ => Vec::new(),
    }
}

/// One service, with all that can be said of it.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceWith {
    /// Image by container; what is not named keeps the image that production runs.
    #[serde(default)]
    pub images: BTreeMap<String, String>,
    /// How many pods. Where nothing is said: one in a lane, and in production as many as there are.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<u32>,
}

/// `images`, which is short, and `services` as one.
///
/// # Errors
/// A service that is not known, stands in both, or has several containers and one image; no service at all.
pub fn services(
    site: &Site,
    images: Option<&BTreeMap<String, Value>>,
    services: Option<&BTreeMap<String, ServiceWith>>,
) -> Result<BTreeMap<String, ServiceWith>, TaskError> {
    let mut all = services.cloned().unwrap_or_default();
    for (service, image) in images.into_iter().flatten() {
        let manifest = site.service(service).map_err(TaskError::permanent)?;
        let images = images_for(service, Some(image), manifest).map_err(TaskError::permanent)?;
        if all.insert(service.clone(), ServiceWith { images, replicas: None }).is_some() {
            let words = format!("`{service}` stands in `images` and in `services`: keep one");
            return Err(TaskError::permanent(words));
        }
    }
    if all.is_empty() {
        return Err(TaskError::permanent("no service is named").hint("name at least one in `images`"));
    }
    Ok(all)
}
