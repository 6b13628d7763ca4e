//! `graylane lanes`: the lanes of an environment, as the cluster has them.

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use graylane_engine::scheduler::Mode;
use graylane_tasks::inventory::{Chain, Hop, Lane, Version};
use graylane_tasks::renewal::Renewed;

use super::{Context, Failure, Output, actor, json, note, print, sent_files, tell};
use crate::access::Access;
use crate::api::wire::{Frozen, Look, OneLane, Renew};

/// What `lanes` takes.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct LanesArgs {
    /// The environment
    #[arg(required = true)]
    environment: Option<String>,
    #[command(subcommand)]
    command: Option<LanesCommand>,
}

#[derive(Debug, Subcommand)]
enum LanesCommand {
    /// Draw one lane hop by hop: which service is gray, which falls back to the baseline
    Show(OneArgs),
    /// Let a lane live longer, where the environment has a `ttl`
    Renew(RenewArgs),
}

/// One lane.
#[derive(Debug, Args)]
struct OneArgs {
    /// The lane's tag
    tag: String,
    /// The environment
    #[arg(short, long)]
    environment: String,
}

#[derive(Debug, Args)]
struct RenewArgs {
    #[command(flatten)]
    lane: OneArgs,
    /// How long from now on, as in 8h or 3d
    #[arg(long = "for", value_name = "TIME")]
    length: String,
}

pub(crate) async fn run(context: &Context, args: LanesArgs) -> Result<u8, Failure> {
    match args.command {
        Some(LanesCommand::Show(lane)) => show(context, lane).await,
        Some(LanesCommand::Renew(args)) => renew(context, args).await,
        None => list(context, args.environment.unwrap_or_default()).await,
    }
}

async fn list(context: &Context, environment: String) -> Result<u8, Failure> {
    let access = Access::open(&context.settings, Mode::Look, tell()).await?;
    let asked = Look { bundle: sent_files(context)?, environment: environment.clone() };
    let lanes: Result<Vec<Lane>, _> = access.client.post("/api/v1/lanes", &asked).await;
    let frozen: Result<Vec<Frozen>, _> = access.client.get("/api/v1/freezes").await;
    access.close().await;
    let lanes = lanes?;
    for frozen in frozen?.iter().filter(|frozen| frozen.environment == environment) {
        note(&frozen.words());
    }
    match context.output {
        Output::Json => print(&json(&lanes)),
        Output::Text if lanes.is_empty() => print(&format!("{environment} has no lanes")),
        Output::Text => print(&table(&lanes, context.wide)),
    }
    Ok(0)
}

async fn show(context: &Context, lane: OneArgs) -> Result<u8, Failure> {
    let access = Access::open(&context.settings, Mode::Look, tell()).await?;
    let asked = OneLane { bundle: sent_files(context)?, environment: lane.environment, tag: lane.tag };
    let chain: Result<Chain, _> = access.client.post("/api/v1/lanes/chain", &asked).await;
    access.close().await;
    let chain = chain?;
    match context.output {
        Output::Json => print(&json(&chain)),
        Output::Text => print(&drawing(&chain)),
    }
    Ok(0)
}

async fn renew(context: &Context, args: RenewArgs) -> Result<u8, Failure> {
    let access = Access::open(&context.settings, Mode::Answer, tell()).await?;
    let OneArgs { tag, environment } = args.lane;
    let bundle = sent_files(context)?;
    let asked = Renew { bundle, environment, tag, length: args.length, actor: Some(actor()) };
    let renewed: Result<Renewed, _> = access.client.post("/api/v1/lanes/renew", &asked).await;
    access.close().await;
    let renewed = renewed?;
    match context.output {
        Output::Json => print(&json(&renewed)),
        Output::Text => {
            let was = renewed.was.map(|was| format!(" (before: {was})")).unwrap_or_default();
            print(&format!("lane {} lives until {}{was}", renewed.tag, renewed.expires));
        }
    }
    Ok(0)
}

/// A digest says more than anybody reads; `-o wide` and JSON have all of it.
fn shown_image(image: &str, wide: bool) -> String {
    let image = if wide { image } else { image.rsplit('/').next().unwrap_or(image) };
    match image.split_once("@sha256:") {
        Some((repository, digest)) if !wide && digest.len() > 12 => {
            format!("{repository}@sha256:{}", &digest[..12])
        }
        _ => image.to_owned(),
    }
}

fn table(lanes: &[Lane], wide: bool) -> String {
    let mut table = Table::new();
    let mut header = vec!["TAG", "SERVICE", "READY", "IMAGE", "ROUTE", "SINCE", "RUN", "EXPIRES", "NOTES"];
    if wide {
        header.insert(2, "NAMESPACE");
    }
    table.load_style(presets::NOTHING).set_header(header);
    let none = || "-".to_owned();
    for lane in lanes {
        // What holds for the whole lane stands in its first line.
        let whole = |index: usize, text: Option<&String>| {
            if index == 0 { text.cloned().unwrap_or_else(none) } else { String::new() }
        };
        let mut rows: Vec<(String, String, String, String, Vec<String>)> = lane
            .services
            .iter()
            .map(|service| {
                let images = service.images.values().map(|image| shown_image(image, wide));
                (
                    service.service.clone(),
                    service.namespace.clone().unwrap_or_else(none),
                    format!("{}/{}", service.ready, service.replicas),
                    images.collect::<Vec<_>>().join(", "),
                    if wide { service.words() } else { brief(service) },
                )
            })
            .collect();
        if rows.is_empty() {
            rows.push((none(), none(), none(), none(), Vec::new()));
        }
        for (index, (service, namespace, ready, images, words)) in rows.into_iter().enumerate() {
            let notes = if index == 0 { lane.notes.iter().cloned().chain(words).collect() } else { words };
            let tag = if index == 0 { lane.tag.clone() } else { String::new() };
            let mut row = vec![tag, service, ready, images];
            if wide {
                row.insert(2, namespace);
            }
            row.push(whole(index, lane.route.as_ref()));
            row.push(whole(index, lane.since.as_ref()));
            row.push(whole(index, lane.run.as_ref()));
            row.push(whole(index, lane.expires.as_ref()));
            row.push(notes.join("; "));
            table.add_row(row);
        }
    }
    table.trim_fmt()
}

/// What is worth knowing of a copy, without its objects and fields.
fn brief(service: &graylane_tasks::inventory::LaneService) -> Vec<String> {
    let mut words = Vec::new();
    if service.baseline_moved {
        words.push("baseline moved".to_owned());
    }
    if !service.edited.is_empty() {
        words.push("edited".to_owned());
    }
    if !service.missing.is_empty() {
        words.push(format!("deleted: {}", service.missing.join(", ")));
    }
    words
}

/// The lane from the outside in.
fn drawing(chain: &Chain) -> String {
    let lane = &chain.lane;
    let mut lines = vec![format!("lane {}", lane.tag)];
    let facts = [("since", &lane.since), ("run", &lane.run), ("expires", &lane.expires)];
    lines.extend(facts.iter().filter_map(|(name, value)| Some(format!("  {name}: {}", value.as_ref()?))));
    lines.extend(lane.notes.iter().map(|note| format!("  note: {note}")));
    lines.push(String::new());
    lines.push(match &lane.route {
        Some(route) => format!("  {route}"),
        None => "  nobody enters: no route is on".to_owned(),
    });
    let width = chain.hops.iter().map(|hop| hop.service.len()).max().unwrap_or(0);
    for (index, hop) in chain.hops.iter().enumerate() {
        // Where the order is not known, only the way to the entry is drawn as one.
        let arrow = if chain.ordered || (index == 0 && lane.route.is_some()) { "-->" } else { "   " };
        lines.push(format!("  {arrow} {:width$}  {}", hop.service, met(hop)));
        lines.extend(hop.notes.iter().map(|note| format!("      {:width$}    {note}", "")));
    }
    if !chain.ordered {
        lines.push(String::new());
        lines.push(
            "  in which order the others are called is not known: `chain` in the environment's file says it"
                .into(),
        );
    }
    lines.join("\n")
}

fn met(hop: &Hop) -> String {
    let images: Vec<String> = hop.images.values().map(|image| shown_image(image, false)).collect();
    let pods = format!("{}/{} ready, {}", hop.ready, hop.replicas, images.join(", "));
    match hop.version {
        Version::Gray => format!("gray       {pods}"),
        Version::Baseline => format!("baseline   {pods}"),
        Version::Nobody => "nobody answers: neither a gray copy nor the baseline is up".to_owned(),
    }
}
