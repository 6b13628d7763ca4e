//! `graylane token`: who may call the API over TCP, and what they may there.

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use graylane_engine::ledger::Role;
use graylane_engine::scheduler::Mode;

use super::runs::look;
use super::{Context, Failure, Output, actor, json, note, print, tell};
use crate::access::Access;
use crate::api::wire::{MadeToken, NewToken, Revoke, Revoked, Token};

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token; it is shown once, and only its hash is kept
    #[command(
        after_help = "Roles: viewer looks; operator starts, cancels and answers runs; approver agrees to what runs ask for;\nadmin may do everything. Operators and approvers are not each other: nobody agrees to what they started.\n\nExamples:\n  graylane token create ci --role operator --expires 90d --environment staging\n  graylane token create ann --role approver --expires 365d"
    )]
    Create(CreateArgs),
    /// Who has a token
    List,
    /// End a token
    Revoke(RevokeArgs),
}

/// A token to make.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Who or what will hold it: the name that stands in records
    name: String,
    /// What it may do: viewer, operator, approver or admin
    #[arg(long)]
    role: Role,
    /// After how long it ends by itself
    #[arg(long, value_name = "DURATION", default_value = "90d")]
    expires: String,
    /// Only for runs of this environment; may be given more than once
    #[arg(long, value_name = "NAME")]
    environment: Vec<String>,
    /// Only for runs of this workflow; may be given more than once
    #[arg(long, value_name = "NAME")]
    workflow: Vec<String>,
}

/// A token to end.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// Its id, as `token list` shows it
    id: String,
    /// Why, for those who read it later
    #[arg(long)]
    reason: Option<String>,
}

pub(crate) async fn run(context: &Context, command: TokenCommand) -> Result<u8, Failure> {
    match command {
        TokenCommand::Create(args) => {
            let asked = NewToken {
                name: args.name,
                role: args.role,
                expires: Some(args.expires),
                environments: args.environment.into_iter().collect(),
                workflows: args.workflow.into_iter().collect(),
                actor: Some(actor()),
            };
            let made: MadeToken = ask(context, "/api/v1/tokens", &asked).await?;
            match context.output {
                Output::Json => print(&json(&made)),
                Output::Text => {
                    print(&made.token);
                    let until = made.expires.map(|at| format!(", until {at}")).unwrap_or_default();
                    note(&format!(
                        "token {} of {}{until}; it is not shown again: keep it where only {} can read it",
                        made.id, made.name, made.name
                    ));
                }
            }
        }
        TokenCommand::List => {
            let tokens: Vec<Token> = look(context, "/api/v1/tokens".into()).await?;
            match context.output {
                Output::Json => print(&json(&tokens)),
                Output::Text if tokens.is_empty() => print("nobody has a token"),
                Output::Text => print(&table(&tokens)),
            }
        }
        TokenCommand::Revoke(args) => {
            if !args.id.chars().all(|c| c.is_ascii_alphanumeric()) {
                return Err(Failure::refused(format!("`{}` is no id of a token", args.id)).hint(
                    "`graylane token list` shows them; a token itself does not belong on a command line",
                ));
            }
            let asked = Revoke { reason: args.reason, actor: Some(actor()) };
            let path = format!("/api/v1/tokens/{}/revoke", args.id);
            let revoked: Revoked = ask(context, &path, &asked).await?;
            match context.output {
                Output::Json => print(&json(&revoked)),
                Output::Text => print(&format!("token {} is of no more use", revoked.id)),
            }
        }
    }
    Ok(0)
}

/// Asks whoever holds the store, or holds it for the moment: a token can be made before the daemon first runs.
async fn ask<T: serde::de::DeserializeOwned>(
    context: &Context,
    path: &str,
    asked: &impl serde::Serialize,
) -> Result<T, Failure> {
    let access = Access::open(&context.settings, Mode::Answer, tell()).await?;
    let answer = access.client.post(path, asked).await;
    access.close().await;
    Ok(answer?)
}

fn table(tokens: &[Token]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "ID",
        "NAME",
        "ROLE",
        "STATE",
        "EXPIRES",
        "ENVIRONMENTS",
        "WORKFLOWS",
        "MADE BY",
    ]);
    let list = |names: &std::collections::BTreeSet<String>| {
        if names.is_empty() { "all".to_owned() } else { names.iter().cloned().collect::<Vec<_>>().join(", ") }
    };
    for token in tokens {
        table.add_row([
            token.id.clone(),
            token.name.clone(),
            token.role.word().to_owned(),
            token.state.clone(),
            token.expires.map_or_else(|| "never".to_owned(), |at| at.to_string()),
            list(&token.environments),
            list(&token.workflows),
            token.by.clone(),
        ]);
    }
    table.trim_fmt()
}
