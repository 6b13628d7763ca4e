//! `graylane render`: the gray copy of a service, as YAML.

use clap::Args;
use graylane_engine::scheduler::Mode;
use graylane_tasks::environment::Site;
use graylane_tasks::lane::patch::{Change, PatchWith, Target};
use graylane_tasks::lane::route::{Cookie, Entry, Header};
use graylane_tasks::manifest::{diff, kind, name, yaml};
use graylane_tasks::mse_gray_deploy::RenderRequest;
use serde_json::{Map, Value};

use super::{Context, Failure, Output, json, key, note, operator_files, print, sent_files, tell};
use crate::access::Access;
use crate::api::wire::Render;

/// What `render` takes.
#[derive(Debug, Args)]
pub(crate) struct RenderArgs {
    /// The service, by the name of its manifest file
    service: String,
    /// The environment
    #[arg(short, long)]
    environment: String,
    /// The lane's tag
    #[arg(short, long, default_value = "gray")]
    tag: String,
    /// The image, or CONTAINER=IMAGE [default: what production runs]
    #[arg(short, long, value_name = "IMAGE")]
    image: Vec<String>,
    /// How many pods
    #[arg(long)]
    replicas: Option<u32>,
    /// Let requests with this header in: the service is the lane's entry
    #[arg(long, value_name = "NAME=VALUE", group = "way")]
    header: Option<String>,
    /// The same, by a regular expression for the header's value
    #[arg(long, value_name = "NAME=PATTERN", group = "way")]
    header_pattern: Option<String>,
    /// Let requests with this cookie in
    #[arg(long, value_name = "NAME[=VALUE]", group = "way")]
    cookie: Option<String>,
    /// Let a share of all requests in, in percent
    #[arg(long, value_name = "PERCENT", group = "way")]
    weight: Option<u32>,
    /// Change the copy of an object by the patch in a file; may be given more than once
    #[arg(long, value_name = "KIND/NAME=FILE")]
    patch: Vec<String>,
    /// Show what differs from the baseline's manifest, object by object
    #[arg(long)]
    diff: bool,
}

pub(crate) async fn run(context: &Context, args: RenderArgs) -> Result<u8, Failure> {
    let entry = entry(&args)?;
    let patches = args.patch.iter().map(|text| patch(text)).collect::<Result<_, _>>()?;
    let request = RenderRequest {
        environment: args.environment,
        service: args.service,
        tag: args.tag,
        image: images(&args.image)?,
        replicas: args.replicas,
        entry,
        patches,
    };
    let baseline = baseline(context, &request, args.diff)?;
    let access = Access::open(&context.settings, Mode::Look, tell()).await?;
    let asked = Render { bundle: sent_files(context)?, request };
    let rendered: Result<Vec<Value>, _> = access.client.post("/api/v1/render", &asked).await;
    access.close().await;
    let rendered = rendered?;
    match context.output {
        Output::Json => print(&json(&rendered)),
        Output::Text if args.diff => {
            for object in &rendered {
                print(&compared(object, &baseline, context.colours));
            }
        }
        Output::Text => {
            let documents: Vec<String> =
                rendered.iter().map(|object| yaml(object).trim_end().to_owned()).collect();
            print(&documents.join("\n---\n"));
            if rendered.iter().any(|object| object["kind"] == "Secret") {
                note("the data of Secrets is shown as digests");
            }
        }
    }
    Ok(0)
}

/// The manifest that the copy is made of, as this machine has it; a daemon elsewhere has its own.
fn baseline(context: &Context, request: &RenderRequest, diff: bool) -> Result<Vec<Value>, Failure> {
    if context.settings.remote.is_some() {
        return if diff {
            Err(Failure::refused(
                "`--diff` compares with the manifests of this machine, not of a daemon elsewhere",
            ))
        } else {
            Ok(Vec::new())
        };
    }
    let (bundle, _) = operator_files(context, &key(context, Mode::Look)?);
    let site = Site::load(&bundle, &request.environment).map_err(Failure::refused)?;
    Ok(site.service(&request.service).map_err(Failure::refused)?.to_vec())
}

/// Who enters, where an option says it.
fn entry(args: &RenderArgs) -> Result<Option<Entry>, Failure> {
    let mut entry = Entry { service: args.service.clone(), header: None, cookie: None, weight: args.weight };
    for (given, is_pattern) in [(&args.header, false), (&args.header_pattern, true)] {
        let Some(text) = given else { continue };
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| Failure::refused(format!("`{text}` is no header: write NAME=VALUE")))?;
        let value = Some(value.to_owned());
        let (value, pattern) = if is_pattern { (None, value) } else { (value, None) };
        entry.header = Some(Header { name: name.into(), value, pattern });
    }
    if let Some(text) = &args.cookie {
        let (name, value) = text.split_once('=').map_or((text.as_str(), None), |(n, v)| (n, Some(v)));
        entry.cookie = Some(Cookie { name: name.into(), value: value.map(str::to_owned) });
    }
    let said = entry.header.is_some() || entry.cookie.is_some() || entry.weight.is_some();
    Ok(said.then_some(entry))
}

fn patch(text: &str) -> Result<PatchWith, Failure> {
    let wrong = || {
        Failure::refused(format!(
            "`{text}` is no patch: write KIND/NAME=FILE, as Deployment/spring-a=more.yaml"
        ))
    };
    let (target, file) = text.split_once('=').ok_or_else(wrong)?;
    let (kind, name) = target.split_once('/').ok_or_else(wrong)?;
    let content = std::fs::read_to_string(file)
        .map_err(|error| Failure::refused(format!("{file} cannot be read: {error}")))?;
    let change = Change::parse(&content).map_err(|why| Failure::refused(format!("{file} {why}")))?;
    Ok(PatchWith { target: Target { kind: kind.into(), name: name.into() }, patch: Some(change), file: None })
}

/// An object beside the one that it is a copy of.
fn compared(object: &Value, baseline: &[Value], colours: bool) -> String {
    let origin = object.pointer("/metadata/annotations/graylane.dev~1origin").and_then(Value::as_str);
    let before = baseline.iter().find(|one| kind(one) == kind(object) && Some(name(one)) == origin);
    let mut out = format!("{} {}", kind(object), name(object));
    if let Some(before) = before {
        out.push_str(&format!(" (a copy of {})", name(before)));
    }
    out.push('\n');
    out.push_str(&super::plan::coloured(&diff(before, Some(object)), colours));
    out.trim_end().to_owned()
}

/// One image alone, or images by container. An image never holds a `=` before its first `/` or `:`.
fn images(given: &[String]) -> Result<Option<Value>, Failure> {
    let pairs: Vec<(&str, &str)> = given.iter().filter_map(|text| text.split_once('=')).collect();
    match (given, pairs.len()) {
        ([], _) => Ok(None),
        ([one], 0) => Ok(Some(one.clone().into())),
        (_, count) if count == given.len() => {
            let map: Map<String, Value> = pairs.into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect();
            Ok(Some(Value::Object(map)))
        }
        _ => Err(Failure::refused("give one image, or every image as CONTAINER=IMAGE")),
    }
}
