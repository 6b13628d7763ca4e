//! `graylane audit`: who did what and how runs ended, and whether that history is the one that was written.

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use graylane_engine::audit::Head;
use graylane_engine::proof::Verified;
use graylane_engine::scheduler::Mode;
use serde_json::json;

use super::runs::{escaped, look, moment};
use super::{Context, EXIT_FAILED, Failure, Output, json as indented, needs_store, note, print, tell};
use crate::access::Access;
use crate::api::wire::{Anchors, AuditLine};
use crate::notary::AuditKey;

/// How many entries one call of an export asks for.
const PAGE: usize = 5_000;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Who did what, and how runs ended, oldest first
    List(ListArgs),
    /// Follow the whole history: is everything there, unchanged and in its order?
    #[command(
        long_about = "Reads every record and every entry of the audit log, and recomputes all hashes.\n\nAlone this says 'consistent': whoever can rewrite the whole store can recompute hashes too. Against a head that was kept elsewhere it says 'unchanged': the head that the audit key signed last (kept beside the key), or one that you give with --head, from the log or from a notification.\n\nExit codes: 0 consistent or unchanged, 1 something does not fit, 3 the store cannot be read."
    )]
    Verify(VerifyArgs),
    /// Print the head of the audit log, signed where there is a key
    Head,
    /// Print the audit log, oldest first, one JSON object a line
    #[command(
        long_about = "Prints the audit log, oldest first, one JSON object a line; deeds are in it.\n\nEach line has what an auditor needs to follow the chain without Graylane: `head` is POSITION:HASH, and HASH is the SHA-256 of the HASH of the line before it (32 zero bytes before the first) followed by the entry: position (8 bytes), `at` in milliseconds since 1970 (8), the 16 bytes of the ULID in `run` (zeros for a deed), seq (8), `record_hash` (32); numbers are big-endian. The last head must be the one that was signed or kept."
    )]
    Export(Only),
    /// Make the key that signs heads, or print the public key of the one that is there
    Key,
}

/// Which entries.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// After this position; the newest where nothing is said
    #[arg(long, value_name = "POSITION")]
    after: Option<u64>,
    #[command(flatten)]
    only: Only,
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10000))]
    limit: u16,
}

/// Which of them; every condition must hold.
#[derive(Debug, Args)]
pub(crate) struct Only {
    /// What this person did
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// At this time or later: RFC 3339, a day as 2026-12-24, or how long ago as 90m, 24h or 7d
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

impl Only {
    /// As it stands in the address.
    fn query(&self) -> Result<String, Failure> {
        let conditions = [
            ("actor", self.actor.clone()),
            ("since", self.since.as_deref().map(moment).transpose()?),
            ("until", self.until.as_deref().map(moment).transpose()?),
        ];
        let said = conditions.into_iter().filter_map(|(name, value)| Some((name, value?)));
        Ok(said.map(|(name, value)| format!("&{name}={}", escaped(&value))).collect())
    }
}

/// What to compare with.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A head that was kept, as POSITION:HASH; may be given more than once
    #[arg(long, value_name = "HEAD")]
    head: Vec<String>,
}

pub(crate) async fn run(context: &Context, command: AuditCommand) -> Result<u8, Failure> {
    if !matches!(command, AuditCommand::Key) {
        needs_store(context)?;
    }
    match command {
        AuditCommand::List(args) => {
            let after =
                args.after.map(|after| format!("&after={after}")).unwrap_or_default() + &args.only.query()?;
            let lines: Vec<AuditLine> =
                look(context, format!("/api/v1/audit?limit={}{after}", args.limit)).await?;
            match context.output {
                Output::Json => print(&indented(&lines)),
                Output::Text => print(&table(&lines)),
            }
            Ok(0)
        }
        AuditCommand::Verify(args) => verify(context, args).await,
        AuditCommand::Head => {
            let head: String = look(context, "/api/v1/audit/head".into()).await?;
            let key = AuditKey::open(&context.settings.audit_key).map_err(Failure::surroundings)?;
            let parsed: Head = head.parse().map_err(|error| Failure::surroundings(format!("{error}")))?;
            let signed = key.map(|key| key.sign(parsed));
            match (context.output, &signed) {
                (Output::Text, None) => print(&head),
                (Output::Text, Some(signed)) => {
                    print(&format!(
                        "{head}\nsignature   {}\npublic key  {}",
                        signed.signature, signed.public_key
                    ));
                }
                (Output::Json, None) => print(&indented(&json!({ "head": head }))),
                (Output::Json, Some(signed)) => print(&indented(signed)),
            }
            Ok(0)
        }
        AuditCommand::Export(only) => export(context, &only).await,
        AuditCommand::Key => key(context),
    }
}

async fn verify(context: &Context, args: VerifyArgs) -> Result<u8, Failure> {
    for head in &args.head {
        head.parse::<Head>().map_err(|error| {
            Failure::refused(error.to_string())
                .hint("`graylane audit head` prints one, and so does the log line of every run's end")
        })?;
    }
    let mut problems = Vec::new();
    let mut heads = args.head;
    let key = AuditKey::open(&context.settings.audit_key).map_err(Failure::surroundings)?;
    if let Some(key) = &key {
        match key.anchor(&context.settings.data) {
            Ok(anchor) => heads.extend(anchor.map(|anchor| anchor.to_string())),
            Err(why) => problems.push(why),
        }
    }
    let anchored = !heads.is_empty();
    let access = Access::open(&context.settings, Mode::Look, tell()).await?;
    let answer = access.client.post("/api/v1/audit/verify", &Anchors { heads: heads.clone() }).await;
    access.close().await;
    let mut verified: Verified = answer?;
    problems.append(&mut verified.problems);
    let verdict = match (problems.is_empty(), anchored) {
        (false, _) => "changed",
        (true, true) => "unchanged",
        (true, false) => "consistent",
    };
    let code = if problems.is_empty() { 0 } else { EXIT_FAILED };
    if context.output == Output::Json {
        print(&indented(&json!({
            "verdict": verdict, "head": verified.head, "entries": verified.entries, "runs": verified.runs,
            "deeds": verified.deeds, "removed": verified.removed, "retention": verified.retention,
            "compared_with": heads, "problems": problems,
        })));
        return Ok(code);
    }
    for problem in &problems {
        print(&format!("problem: {problem}"));
    }
    for removed in &verified.retention {
        print(&format!(
            "deed {} of {} by {}: {} runs were removed ({}), which had ended from {} to {}",
            removed.deed,
            removed.at,
            removed.by,
            removed.runs,
            removed.rule,
            removed.ended_from,
            removed.ended_to
        ));
    }
    print(&format!(
        "{verdict}: {} entries, {} runs, head {}",
        verified.entries, verified.runs, verified.head
    ));
    match verdict {
        "consistent" => note(
            "hint: nothing was compared with a head that was kept elsewhere; `graylane audit key` makes a key, and --head takes a head",
        ),
        "changed" => note("hint: restore the data folder from a backup, and find out who could write to it"),
        _ => print(&format!("up to {}", heads.join(", "))),
    }
    Ok(code)
}

async fn export(context: &Context, only: &Only) -> Result<u8, Failure> {
    let only = only.query()?;
    let access = Access::open(&context.settings, Mode::Look, tell()).await?;
    let mut after = 0;
    let done = loop {
        let path = format!("/api/v1/audit?limit={PAGE}&after={after}{only}");
        let lines: Vec<AuditLine> = match access.client.get(&path).await {
            Ok(lines) => lines,
            Err(error) => break Err(error.into()),
        };
        let Some(last) = lines.last() else { break Ok(0) };
        after = last.position;
        for line in &lines {
            print(&serde_json::to_string(line).unwrap_or_default());
        }
    };
    access.close().await;
    done
}

fn key(context: &Context) -> Result<u8, Failure> {
    let path = &context.settings.audit_key;
    let inside = path.starts_with(&context.settings.data);
    if inside {
        return Err(Failure::refused(format!("{} is inside the data folder", path.display()))
            .hint("whoever can rewrite the store could sign it too: name another place in `audit.key`"));
    }
    let there = AuditKey::open(path).map_err(Failure::surroundings)?;
    let made = there.is_none();
    let key = there.map_or_else(|| AuditKey::create(path), Ok).map_err(Failure::surroundings)?;
    match context.output {
        Output::Json => {
            print(&indented(&json!({ "path": key.path(), "public_key": key.public_key(), "made": made })))
        }
        Output::Text => {
            print(&key.public_key());
            note(&format!(
                "{} {}",
                if made { "made" } else { "this is the public key of" },
                key.path().display()
            ));
        }
    }
    Ok(0)
}

fn table(lines: &[AuditLine]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["POSITION", "AT", "RUN", "BY", "WHAT"]);
    for line in lines {
        table.add_row([
            line.position.to_string(),
            line.at.clone(),
            line.run.clone().unwrap_or_else(|| "-".into()),
            line.actor.clone().unwrap_or_else(|| "-".into()),
            line.what.clone(),
        ]);
    }
    table.trim_fmt()
}
