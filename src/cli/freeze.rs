//! `graylane freeze` and `thaw`: whether anything may be deployed to an environment. Verifying and taking back go on.

use clap::Args;
use graylane_engine::scheduler::Mode;

use super::runs::{escaped, later};
use super::{Context, Failure, Output, actor, json, print, tell};
use crate::access::Access;
use crate::api::wire::{Frozen, ToFreeze, ToThaw};

/// What `freeze` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "What would be deployed while it is frozen is held, and says who froze it and why; schedules skip it.\nFreezing it again changes reason and end.\n\nExample:\n  graylane freeze production --reason 'the shop is in sale' --until 8h"
)]
pub(crate) struct FreezeArgs {
    /// The environment
    environment: String,
    /// Why, for those whom it stops
    #[arg(long)]
    reason: String,
    /// When it ends by itself: RFC 3339, a day as 2026-12-24, or how long from now as 90m, 8h or 2d
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// What `thaw` takes.
#[derive(Debug, Args)]
pub(crate) struct ThawArgs {
    /// The environment
    environment: String,
    /// Why, for those who read it later
    #[arg(long)]
    reason: Option<String>,
}

pub(crate) async fn freeze(context: &Context, args: FreezeArgs) -> Result<u8, Failure> {
    let until = args.until.as_deref().map(later).transpose()?;
    let asked = ToFreeze { actor: Some(actor()), reason: args.reason, until };
    done(context, &args.environment, "freeze", &asked).await
}

pub(crate) async fn thaw(context: &Context, args: ThawArgs) -> Result<u8, Failure> {
    let asked = ToThaw { actor: Some(actor()), reason: args.reason };
    done(context, &args.environment, "thaw", &asked).await
}

async fn done(
    context: &Context,
    environment: &str,
    what: &str,
    asked: &impl serde::Serialize,
) -> Result<u8, Failure> {
    let access = Access::open(&context.settings, Mode::Answer, tell()).await?;
    let path = format!("/api/v1/environments/{}/{what}", escaped(environment));
    let answer: Result<Vec<Frozen>, _> = access.client.post(&path, asked).await;
    access.close().await;
    let frozen = answer?;
    match context.output {
        Output::Json => print(&json(&frozen)),
        Output::Text => match frozen.iter().find(|frozen| frozen.environment == environment) {
            Some(frozen) => print(&frozen.words()),
            None => print(&format!("{environment} is not frozen any more")),
        },
    }
    Ok(0)
}
