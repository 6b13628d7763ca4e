//! `graylane store`: check, back up, restore, compact.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use graylane_engine::journal::{Checked, Counted, DiskJournal, OpenError, Statistics};
use graylane_engine::scheduler::Mode;
use serde_json::json;

use super::{
    Context, EXIT_SURROUNDINGS, Failure, Output, actor, json as indented, needs_store, note, print, tell,
};
use crate::access::{Access, store_failure};
use crate::api::wire::{Backup, Prune, Pruned};

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Read every byte that is kept, and say everything that is wrong; changes nothing
    #[command(
        long_about = "Opens the store, which checks what is not sealed yet, and reads all segments and all objects.\n\nWhether the history is the one that was written is another question: `graylane audit verify` answers it.\n\nExit codes: 0 everything is as it was written, 3 something is not, or the store cannot be opened."
    )]
    Check(CheckArgs),
    /// Write everything into one new file, also while runs go on
    #[command(
        visible_alias = "export",
        after_help = "Copying the data folder while it is in use is no backup; this is one.\nThe key of Secrets' digests (digest.key in the data folder) and logs are not in it."
    )]
    Backup(FileArg),
    /// Make a store in a new data folder of a backup
    #[command(
        visible_alias = "import",
        after_help = "Example:\n  graylane --data /var/lib/graylane-restored store restore graylane.backup"
    )]
    Restore(FileArg),
    /// Remove the finished runs that the settings (`retention`) do not keep; the audit log stays
    #[command(
        long_about = "Removes the finished runs that `retention` in the settings does not keep, with their logs, and the bundles and plans that no run names any more. A process that stays does so by itself.\n\nUnfinished runs, those that an unfinished run follows on, and those whose lane is up stay. Entries of the audit log stay, and a deed says what was removed: `graylane audit verify` tells it."
    )]
    Prune(PruneArgs),
    /// Give back the room that removed records still take
    Compact,
}

/// How the store is checked.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Go on with a store that ends before what was acknowledged; says how much is lost, for good
    #[arg(long)]
    accept_loss: bool,
}

/// What is removed.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Only tell which runs it would be
    #[arg(long)]
    dry_run: bool,
}

/// A backup.
#[derive(Debug, Args)]
pub(crate) struct FileArg {
    /// The file
    file: PathBuf,
}

pub(crate) async fn run(context: &Context, command: StoreCommand) -> Result<u8, Failure> {
    if !matches!(command, StoreCommand::Restore(_)) {
        needs_store(context)?;
    }
    match command {
        StoreCommand::Check(args) => check(context, &args).await,
        StoreCommand::Backup(args) => backup(context, &args.file).await,
        StoreCommand::Restore(args) => restore(context, args.file).await,
        StoreCommand::Prune(args) => prune(context, &args).await,
        StoreCommand::Compact => {
            let access = Access::open(&context.settings, Mode::Look, tell()).await?;
            let answer: Result<Statistics, _> = access.client.post("/api/v1/store/compact", &()).await;
            access.close().await;
            let statistics = answer?;
            match context.output {
                Output::Json => print(&indented(&statistics)),
                Output::Text => print(&told(&statistics)),
            }
            Ok(0)
        }
    }
}

async fn check(context: &Context, args: &CheckArgs) -> Result<u8, Failure> {
    if args.accept_loss {
        let data = context.settings.data.clone();
        let lost = blocking(move || DiskJournal::accept_loss(&data)).await?;
        match lost {
            0 => note("nothing that was acknowledged is missing: there is no loss to accept"),
            lost => note(&format!(
                "the last {lost} acknowledged writes are lost, and the store goes on without them"
            )),
        }
    }
    let access = Access::open(&context.settings, Mode::Look, tell()).await?;
    let checked: Result<Checked, _> = access.client.post("/api/v1/store/check", &()).await;
    let statistics: Result<Statistics, _> = access.client.get("/api/v1/store").await;
    access.close().await;
    let (checked, statistics) = (checked?, statistics?);
    match context.output {
        Output::Json => print(&indented(&json!({ "checked": checked, "store": statistics }))),
        Output::Text => {
            for problem in &checked.problems {
                print(&format!("problem: {problem}"));
            }
            let verdict = if checked.problems.is_empty() { "whole" } else { "damaged" };
            print(&format!(
                "{verdict}: {} runs, {} records, {} objects read; {}",
                checked.runs,
                checked.records,
                checked.objects,
                told(&statistics)
            ));
        }
    }
    if checked.problems.is_empty() {
        return Ok(0);
    }
    note(
        "hint: restore a backup into a new folder with `graylane --data NEW store restore FILE`; nothing was changed",
    );
    Ok(EXIT_SURROUNDINGS)
}

async fn prune(context: &Context, args: &PruneArgs) -> Result<u8, Failure> {
    let access = Access::open(&context.settings, Mode::Answer, tell()).await?;
    let asked = Prune { actor: Some(actor()), dry_run: args.dry_run };
    let answer: Result<Pruned, _> = access.client.post("/api/v1/store/prune", &asked).await;
    access.close().await;
    let pruned = answer?;
    if context.output == Output::Json {
        print(&indented(&pruned));
        return Ok(0);
    }
    for run in &pruned.due {
        print(&format!("{} {} {} {}", run.id, run.workflow, run.status, run.submitted_at));
    }
    let (verb, objects) = match pruned.objects {
        Some(objects) => ("removed", format!(", and {objects} objects that nobody names any more")),
        None => ("to be removed", String::new()),
    };
    print(&format!("{verb}: {} runs ({}){objects}", pruned.runs, pruned.rule));
    Ok(0)
}

fn told(statistics: &Statistics) -> String {
    format!(
        "{} runs unfinished, {} finished, {} of them sealed in {} segments ({} MB)",
        statistics.unfinished,
        statistics.unsealed + statistics.sealed,
        statistics.sealed,
        statistics.segments,
        statistics.segment_bytes / 1_000_000
    )
}

async fn backup(context: &Context, file: &Path) -> Result<u8, Failure> {
    let path = std::path::absolute(file)
        .map_err(|error| Failure::refused(format!("{}: {error}", file.display())))?;
    if path.exists() {
        return Err(Failure::refused(format!("{} exists already", file.display())).hint("name a new file"));
    }
    let access = Access::open(&context.settings, Mode::Look, tell()).await?;
    let answer: Result<Counted, _> = access.client.post("/api/v1/store/backup", &Backup { path }).await;
    access.close().await;
    show(context, "written", &answer?, file);
    Ok(0)
}

async fn restore(context: &Context, file: PathBuf) -> Result<u8, Failure> {
    let data = context.settings.data.clone();
    if data.join("format").exists() {
        return Err(Failure::refused(format!("the data folder {} holds a store already", data.display()))
            .hint("name a new folder with --data; nothing is ever written over a store"));
    }
    let from = file.clone();
    let fresh = !data.exists();
    let made = data.clone();
    let counted = match blocking(move || DiskJournal::import(&data, &from)).await {
        Ok(counted) => counted,
        Err(failure) => {
            // Half a store in a folder of its own is of use to nobody, and could be taken for an empty one.
            if fresh {
                let _ = std::fs::remove_dir_all(&made);
            }
            return Err(failure.hint("this backup cannot be used: take another one"));
        }
    };
    show(context, "restored", &counted, &context.settings.data);
    Ok(0)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| Failure::surroundings(error.to_string()))?;
    done.map_err(|error| store_failure(&error))
}

fn show(context: &Context, verb: &str, counted: &Counted, place: &Path) {
    match context.output {
        Output::Json => print(&indented(counted)),
        Output::Text => print(&format!(
            "{verb}: {} runs, {} records, {} audit entries, {} objects: {}\naudit head {}",
            counted.runs,
            counted.records,
            counted.entries,
            counted.objects,
            place.display(),
            counted.head
        )),
    }
}
