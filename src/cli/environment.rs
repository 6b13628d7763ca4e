//! `graylane environment`: which there are, whether one is ready for gray releases, and bringing a baseline to the version label.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use graylane_engine::scheduler::Mode;
use graylane_tasks::adoption::{Adoption, Stepped};
use graylane_tasks::environment::{Summary, Verified};
use graylane_tasks::readiness::{Finding, Level, Readiness, counts};

use super::{
    Context, EXIT_FAILED, Failure, Output, actor, json, key, note, operator_files, plural, print, sent_files,
    tell,
};
use crate::access::Access;
use crate::api::wire::{Adopt, Environments, Fix, Frozen, Look};

/// How long all steps of an adoption may take together.
const PATIENCE: Duration = Duration::from_secs(1800);

#[derive(Debug, Subcommand)]
pub(crate) enum EnvironmentCommand {
    /// List the environments, with what their files say of lanes and of production
    List,
    /// Look at everything that gray releases need, and say what to do; exit code 1 where something stands in the way
    Check(CheckArgs),
    /// Bring a baseline without the version label to one that carries it, without a failed request
    Adopt(AdoptArgs),
}

/// What `check` takes.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The environment
    environment: String,
    /// Mend what can be mended safely: labels, selectors and annotations; restarts and removes nothing
    #[arg(long)]
    fix: bool,
    /// Show only what is not as it should be
    #[arg(short, long)]
    quiet: bool,
}

/// What `adopt` takes.
#[derive(Debug, Args)]
pub(crate) struct AdoptArgs {
    /// The service
    service: String,
    /// The environment
    #[arg(short, long)]
    environment: String,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(crate) async fn run(context: &Context, command: EnvironmentCommand) -> Result<u8, Failure> {
    match command {
        EnvironmentCommand::List => list(context).await,
        EnvironmentCommand::Check(args) => check(context, args).await,
        EnvironmentCommand::Adopt(args) => adopt(context, args).await,
    }
}

async fn list(context: &Context) -> Result<u8, Failure> {
    if context.settings.remote.is_none() {
        // A broken one is in no list: without this nobody would know why.
        for problem in operator_files(context, &key(context, Mode::Look)?).1 {
            note(&problem.to_string());
        }
    }
    let access = Access::open(&context.settings, Mode::Look, tell()).await?;
    let asked = Environments { bundle: sent_files(context)? };
    let found: Result<Vec<Summary>, _> = access.client.post("/api/v1/environments", &asked).await;
    let frozen: Result<Vec<Frozen>, _> = access.client.get("/api/v1/freezes").await;
    access.close().await;
    let found = found?;
    for frozen in frozen? {
        note(&frozen.words());
    }
    match context.output {
        Output::Json => print(&json(&found)),
        Output::Text if found.is_empty() => {
            print(&format!("there is no environment in {}", context.settings.environments.display()));
        }
        Output::Text => print(&table(&found, context.wide)),
    }
    Ok(0)
}

fn table(found: &[Summary], wide: bool) -> String {
    let mut table = Table::new();
    let mut header =
        vec!["NAME", "CLUSTER", "NAMESPACES", "GATEWAY", "SERVICES", "TTL", "MAX LANES", "NOTES"];
    if wide {
        header.insert(7, "WORKFLOWS");
    }
    table.load_style(presets::NOTHING).set_header(header);
    for one in found {
        let shared: Vec<String> = one.shared.iter().map(|service| format!("{service} (shared)")).collect();
        let services = match (wide, shared.len()) {
            (true, _) => [one.services.clone(), shared].concat().join(", "),
            (false, 0) => one.services.len().to_string(),
            (false, count) => format!("{} and {count} shared", one.services.len()),
        };
        let mut notes = Vec::new();
        if one.protected {
            notes.push("protected".to_owned());
        }
        if one.verified == Verified::Required {
            notes.push("verified: required".to_owned());
        }
        notes.extend(one.frozen.iter().map(|frozen| format!("frozen {frozen}")));
        let never = || "-".to_owned();
        let mut row = vec![
            one.name.clone(),
            one.cluster.clone(),
            one.namespaces.join(", "),
            one.gateway.clone(),
            services,
            one.ttl.clone().unwrap_or_else(never),
            one.max_lanes.map_or_else(never, |most| most.to_string()),
        ];
        if wide {
            row.push(one.workflows.join(", "));
        }
        row.push(notes.join("; "));
        table.add_row(row);
    }
    table.trim_fmt()
}

async fn check(context: &Context, args: CheckArgs) -> Result<u8, Failure> {
    let mode = if args.fix { Mode::Answer } else { Mode::Look };
    let access = Access::open(&context.settings, mode, tell()).await?;
    let (bundle, environment) = (sent_files(context)?, args.environment);
    let found: Result<Readiness, _> = if args.fix {
        let asked = Fix { bundle, environment, actor: Some(actor()) };
        access.client.post("/api/v1/environments/fix", &asked).await
    } else {
        access.client.post("/api/v1/environments/check", &Look { bundle, environment }).await
    };
    access.close().await;
    let found = found?;
    match context.output {
        Output::Json => print(&json(&found)),
        Output::Text => print(&told(&found, args.quiet)),
    }
    Ok(if found.is_ready() { 0 } else { EXIT_FAILED })
}

fn told(found: &Readiness, quiet: bool) -> String {
    let mut lines = Vec::new();
    for finding in found.findings.iter().filter(|finding| !quiet || finding.level != Level::Fine) {
        lines.push(format!("{} {:17} {}", word(finding), finding.check, finding.message));
        if let Some(hint) = finding.hint.as_ref().filter(|_| !finding.fixed) {
            let fix = if finding.fixable && finding.level != Level::Fine { " (`--fix` does it)" } else { "" };
            lines.push(format!("        {:17} hint: {hint}{fix}", ""));
        }
    }
    let counts = counts(&found.findings);
    let number = |word: &str| counts.get(word).copied().unwrap_or(0);
    let ready =
        if found.is_ready() { "is ready for gray releases" } else { "is not ready for gray releases" };
    lines.push(format!(
        "{} {ready}: {} fine, {}, {}",
        found.environment,
        number("fine"),
        plural(number("warnings"), "warning"),
        plural(number("problems"), "problem")
    ));
    lines.join("\n")
}

fn word(finding: &Finding) -> &'static str {
    match finding.level {
        Level::Fine if finding.fixed => "mended ",
        Level::Fine => "fine   ",
        Level::Warning => "warning",
        Level::Problem => "problem",
    }
}

async fn adopt(context: &Context, args: AdoptArgs) -> Result<u8, Failure> {
    let access = Access::open(&context.settings, Mode::Answer, tell()).await?;
    let asked = Adopt {
        bundle: sent_files(context)?,
        environment: args.environment.clone(),
        service: args.service.clone(),
        actor: Some(actor()),
    };
    let done = carry_out(context, &access, &args, &asked).await;
    access.close().await;
    done
}

async fn carry_out(
    context: &Context,
    access: &Access,
    args: &AdoptArgs,
    asked: &Adopt,
) -> Result<u8, Failure> {
    let plan: Adoption = access.client.post("/api/v1/environments/adoption", asked).await?;
    let text = context.output == Output::Text;
    match (text, plan.steps.is_empty()) {
        (true, empty) => {
            plan.warnings.iter().for_each(|warning| note(warning));
            if empty {
                print(&format!("{} carries the version label: nothing is left to be done", plan.service));
            } else {
                print(&format!("{} in {}:\n{}", plan.service, args.environment, planned(&plan)));
            }
        }
        (false, _) => print(&json(&plan)),
    }
    if plan.steps.is_empty() {
        return Ok(0);
    }
    if !args.yes && !agreed()? {
        return Err(Failure::refused("nothing was changed").hint("`--yes` goes on without a question"));
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut told = String::new();
    while tokio::time::Instant::now() < deadline {
        let stepped: Stepped = access.client.post("/api/v1/environments/adopt", asked).await?;
        if stepped.did != told {
            print(&if text { stepped.did.clone() } else { json(&stepped) });
            told.clone_from(&stepped.did);
        }
        if stepped.done {
            return Ok(0);
        }
    }
    Err(Failure::surroundings(format!("it was not done in time; at last: {told}"))
        .hint("call it again: it goes on from here"))
}

fn planned(plan: &Adoption) -> String {
    let steps = plan.steps.iter().enumerate().map(|(index, step)| format!("  {}. {step}", index + 1));
    let mut lines: Vec<String> = steps.collect();
    if !plan.diff.is_empty() {
        lines.push(plan.diff.trim_end().to_owned());
    }
    lines.join("\n")
}

/// Whether whoever sits at the terminal agrees; without a terminal nobody does.
fn agreed() -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(false);
    }
    let wrong =
        |error: std::io::Error| Failure::surroundings(format!("the terminal cannot be read: {error}"));
    let mut asks = std::io::stderr();
    write!(asks, "go on? [y/N] ").and_then(|()| asks.flush()).map_err(wrong)?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(wrong)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}
