//! `graylane approve`, `reject` and `answer`: what people say to a run that waits for them. Nothing is carried out here.

use clap::{Args, ValueEnum};
use graylane_engine::run::HoldAnswer;
use graylane_engine::scheduler::Mode;
use graylane_engine::view::RunView;

use super::runs::run_path;
use super::{Context, Failure, Output, actor, json, needs_store, print, tell};
use crate::access::Access;
use crate::api::wire::{Answer, Answered, Consent};

/// What `approve` and `reject` take.
#[derive(Debug, Args)]
pub(crate) struct ConsentArgs {
    /// The run's id, the beginning of it, or `latest`
    run: String,
    /// The task that asks, where more than one does
    #[arg(long)]
    task: Option<String>,
    /// Why, for those who read it later
    #[arg(short, long)]
    comment: Option<String>,
}

/// What `answer` takes.
#[derive(Debug, Args)]
pub(crate) struct AnswerArgs {
    /// The run's id, the beginning of it, or `latest`
    run: String,
    /// How the held task goes on
    #[arg(value_enum)]
    answer: Word,
    /// The task that is held, where more than one is
    #[arg(long)]
    task: Option<String>,
    /// Why, for those who read it later
    #[arg(short, long)]
    comment: Option<String>,
}

/// How a held task goes on.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Word {
    /// One more attempt, with the same plan
    Retry,
    /// It is left out and counts as passed
    Skip,
    /// It has failed
    Fail,
    /// It has failed, and the run is taken back
    Undo,
}

pub(crate) async fn consent(context: &Context, args: ConsentArgs, agrees: bool) -> Result<u8, Failure> {
    let asked = Consent { task: args.task, agrees, actor: Some(actor()), comment: args.comment };
    let done = if agrees { "approved" } else { "rejected" };
    say(context, &args.run, "approval", &asked, done).await
}

pub(crate) async fn hold(context: &Context, args: AnswerArgs) -> Result<u8, Failure> {
    let (answer, done) = match args.answer {
        Word::Retry => (HoldAnswer::Retry, "one more attempt"),
        Word::Skip => (HoldAnswer::Skip, "skipped"),
        Word::Fail => (HoldAnswer::Fail, "failed"),
        Word::Undo => (HoldAnswer::Undo, "failed, and the run is taken back"),
    };
    let asked = Answer { task: args.task, answer, actor: Some(actor()), comment: args.comment };
    say(context, &args.run, "answer", &asked, done).await
}

async fn say(
    context: &Context,
    run: &str,
    what: &str,
    asked: &impl serde::Serialize,
    done: &str,
) -> Result<u8, Failure> {
    needs_store(context)?;
    let access = Access::open(&context.settings, Mode::Answer, tell()).await?;
    let held = access.holder.is_none();
    // `latest` may be another run after the answer.
    let named: Result<RunView, _> = access.client.get(&format!("/api/v1/runs/{}", run_path(run)?)).await;
    let path = match named {
        Ok(view) => format!("/api/v1/runs/{}", view.summary.id),
        Err(error) => {
            access.close().await;
            return Err(error.into());
        }
    };
    let answered: Result<Answered, _> = access.client.post(&format!("{path}/{what}"), asked).await;
    let view: Result<RunView, _> = access.client.get(&path).await;
    access.close().await;
    let (answered, view) = (answered?, view?);
    match context.output {
        Output::Json => print(&json(&view)),
        Output::Text => {
            print(&format!("task {} of run {}: {done}", answered.task, view.summary.id));
            if let Some(asks) =
                view.tasks.iter().find(|task| task.name == answered.task).and_then(|task| task.asks.as_ref())
                && let Some(needed) = asks.approvals
            {
                print(&format!("{} of {needed} have agreed", asks.given.len()));
            }
            match view.outcome {
                Some(outcome) => {
                    print(&format!("the run has ended: {}", outcome.word()));
                    if let Some(undo) = view.undone_by {
                        let how = if held { "" } else { ", as soon as `graylane resume` goes on with it" };
                        print(&format!("what it changed is taken back by run {undo}{how}"));
                    }
                }
                None if held => {}
                None => print("nobody carries the run on: `graylane resume` does"),
            }
        }
    }
    Ok(0)
}
