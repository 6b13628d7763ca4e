//! `graylane lanes`: the lanes of an environment, as the cluster has them.

use clap::Args;
use comfy_table::{Table, presets};
use graylane_engine::scheduler::Mode;
use graylane_tasks::inventory::Lane;

use super::{Context, Failure, Output, json, note, print, sent_files, tell};
use crate::access::Access;
use crate::api::wire::{Frozen, Look};

/// What `lanes` takes.
#[derive(Debug, Args)]
pub(crate) struct LanesArgs {
    /// The environment
    environment: String,
}

pub(crate) async fn run(context: &Context, args: LanesArgs) -> Result<u8, Failure> {
    let access = Access::open(&context.settings, Mode::Look, tell()).await?;
    let asked = Look { bundle: sent_files(context)?, environment: args.environment.clone() };
    let lanes: Result<Vec<Lane>, _> = access.client.post("/api/v1/lanes", &asked).await;
    let frozen: Result<Vec<Frozen>, _> = access.client.get("/api/v1/freezes").await;
    access.close().await;
    let lanes = lanes?;
    for frozen in frozen?.iter().filter(|frozen| frozen.environment == args.environment) {
        note(&frozen.words());
    }
    match context.output {
        Output::Json => print(&json(&lanes)),
        Output::Text if lanes.is_empty() => print(&format!("{} has no lanes", args.environment)),
        Output::Text => print(&table(&lanes)),
    }
    Ok(0)
}

fn table(lanes: &[Lane]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(["TAG", "SERVICE", "READY", "IMAGE", "ROUTE", "SINCE", "RUN", "NOTES"]);
    for lane in lanes {
        let none = || "-".to_owned();
        let orphans = (!lane.orphans.is_empty()).then(|| format!("orphans: {}", lane.orphans.join(", ")));
        let mut notes = orphans;
        if lane.services.is_empty() {
            let (route, since, run) = (lane.route.clone(), lane.since.clone(), lane.run.clone());
            table.add_row([
                lane.tag.clone(),
                none(),
                none(),
                none(),
                route.unwrap_or_else(none),
                since.unwrap_or_else(none),
                run.unwrap_or_else(none),
                notes.clone().unwrap_or_default(),
            ]);
        }
        for (index, service) in lane.services.iter().enumerate() {
            // What holds for the whole lane stands in its first line.
            let first = |text: Option<&String>| {
                if index == 0 { text.cloned().unwrap_or_else(none) } else { String::new() }
            };
            let mut words = notes.take().into_iter().collect::<Vec<_>>();
            if service.baseline_moved {
                words.push("baseline moved".into());
            }
            table.add_row([
                if index == 0 { lane.tag.clone() } else { String::new() },
                service.service.clone(),
                format!("{}/{}", service.ready, service.replicas),
                service.images.values().cloned().collect::<Vec<_>>().join(", "),
                first(lane.route.as_ref()),
                first(lane.since.as_ref()),
                first(lane.run.as_ref()),
                words.join("; "),
            ]);
        }
    }
    table.trim_fmt()
}
