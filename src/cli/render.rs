//! `graylane render`: the gray copy of a service, as YAML.

use clap::Args;
use graylane_engine::scheduler::Mode;
use graylane_tasks::lane::route::{Entry, Header};
use graylane_tasks::manifest::yaml;
use graylane_tasks::mse_gray_deploy::RenderRequest;
use serde_json::{Map, Value};

use super::{Context, Failure, Output, bundle_value, json, key, note, operator_files, print, tell};
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
    #[arg(long, value_name = "NAME=VALUE")]
    header: Option<String>,
}

pub(crate) async fn run(context: &Context, args: RenderArgs) -> Result<u8, Failure> {
    let (bundle, _) = operator_files(context, &key(context)?);
    let entry = match &args.header {
        None => None,
        Some(header) => {
            let (name, value) = header
                .split_once('=')
                .ok_or_else(|| Failure::refused(format!("`{header}` is no header: write NAME=VALUE")))?;
            let header = Header { name: name.into(), value: Some(value.into()), pattern: None };
            Some(Entry { service: args.service.clone(), header: Some(header), cookie: None, weight: None })
        }
    };
    let request = RenderRequest {
        environment: args.environment,
        service: args.service,
        tag: args.tag,
        image: images(&args.image)?,
        replicas: args.replicas,
        entry,
    };
    let access = Access::open(&context.settings, Mode::Look, tell()).await?;
    let asked = Render { bundle: Some(bundle_value(&bundle)?), request };
    let rendered: Result<Vec<Value>, _> = access.client.post("/api/v1/render", &asked).await;
    access.close().await;
    let rendered = rendered?;
    match context.output {
        Output::Json => print(&json(&rendered)),
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
