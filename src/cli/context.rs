//! `graylane context`: the daemons that commands may speak to, by name.

use std::io::Read as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use graylane_engine::id::is_name;
use serde_json::{Value, json};

use super::{Context, Failure, Output, json as indented, note, print};
use crate::contexts::{Contexts, Entry, LOCAL};

#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// All contexts, and which one holds
    List,
    /// From now on, commands speak to this one; `local` is the data folder of this machine
    Use(NameArg),
    /// Make a context of --server, --token-file and --certificate-authority, or change it
    #[command(
        after_help = "Example:\n  graylane context set production --server https://graylane.example.com:7420 --token-file ~/.graylane-token\n  graylane context use production"
    )]
    Set(SetArgs),
    /// Forget a context, and the token that is kept with it
    Delete(NameArg),
    /// One context, or the one that holds; never its token
    Show(ShowArgs),
}

/// A context.
#[derive(Debug, Args)]
pub(crate) struct NameArg {
    /// Its name
    name: String,
}

/// A context, or the current one.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Its name
    name: Option<String>,
}

/// What a context is.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Its name
    name: String,
    /// Read the token from standard input and keep it in the file of contexts
    #[arg(long)]
    token_stdin: bool,
    /// Send a token over plain HTTP too
    #[arg(long)]
    insecure: bool,
}

pub(crate) fn run(context: &Context, command: ContextCommand) -> Result<u8, Failure> {
    let path = Contexts::path();
    let mut contexts = Contexts::read(&path).map_err(Failure::refused)?;
    match command {
        ContextCommand::List => match context.output {
            Output::Json => {
                let told: Vec<Value> = contexts
                    .contexts
                    .iter()
                    .map(|(name, entry)| told(name, entry, contexts.current.as_deref() == Some(name)))
                    .collect();
                print(&indented(&told));
            }
            Output::Text => print(&table(&contexts)),
        },
        ContextCommand::Use(args) => {
            if args.name == LOCAL {
                contexts.current = None;
            } else {
                known(&contexts, &args.name)?;
                contexts.current = Some(args.name.clone());
            }
            contexts.write(&path).map_err(Failure::surroundings)?;
            note(&format!("commands speak to {} now", args.name));
        }
        ContextCommand::Set(args) => {
            let entry = changed(context, &args, contexts.contexts.get(&args.name).cloned())?;
            contexts.contexts.insert(args.name.clone(), entry);
            contexts.write(&path).map_err(Failure::surroundings)?;
            note(&format!("context {} is kept in {}", args.name, path.display()));
        }
        ContextCommand::Delete(args) => {
            known(&contexts, &args.name)?;
            contexts.contexts.remove(&args.name);
            if contexts.current.as_ref() == Some(&args.name) {
                contexts.current = None;
            }
            contexts.write(&path).map_err(Failure::surroundings)?;
            note(&format!("context {} is gone", args.name));
        }
        ContextCommand::Show(args) => {
            let current = contexts.current.clone();
            let Some(name) = args.name.or_else(|| current.clone()).filter(|name| name != LOCAL) else {
                print(&match context.output {
                    Output::Json => indented(&json!({ "name": LOCAL, "current": current.is_none() })),
                    Output::Text => format!("{LOCAL}: the data folder {}", context.settings.data.display()),
                });
                return Ok(0);
            };
            let entry = known(&contexts, &name)?;
            let told = told(&name, entry, current.as_ref() == Some(&name));
            match context.output {
                Output::Json => print(&indented(&told)),
                Output::Text => {
                    for (key, value) in told.as_object().into_iter().flatten() {
                        print(&format!(
                            "{key:24}{}",
                            value.as_str().map_or(value.to_string(), str::to_owned)
                        ));
                    }
                }
            }
        }
    }
    Ok(0)
}

fn known<'c>(contexts: &'c Contexts, name: &str) -> Result<&'c Entry, Failure> {
    contexts.contexts.get(name).ok_or_else(|| {
        Failure::refused(format!("there is no context `{name}`")).hint("`graylane context list` shows them")
    })
}

fn changed(context: &Context, args: &SetArgs, old: Option<Entry>) -> Result<Entry, Failure> {
    if !is_name(&args.name) || args.name == LOCAL {
        return Err(Failure::refused(format!("`{}` cannot be the name of a context", args.name))
            .hint("use up to 63 letters, digits, `-` and `_`; `local` is this machine"));
    }
    let mut entry = old.unwrap_or_default();
    let absolute = |path: &PathBuf| {
        std::path::absolute(path).map_err(|error| Failure::refused(format!("{}: {error}", path.display())))
    };
    if let Some(server) = &context.asked.server {
        entry.server.clone_from(server);
    }
    if entry.server.is_empty() {
        return Err(Failure::refused("the context has no server").hint("add --server https://HOST:PORT"));
    }
    if let Some(file) = &context.asked.certificate_authority {
        entry.certificate_authority = Some(absolute(file)?);
    }
    if let Some(file) = &context.asked.token_file {
        (entry.token_file, entry.token) = (Some(absolute(file)?), None);
    }
    if args.token_stdin {
        let mut token = String::new();
        std::io::stdin()
            .read_to_string(&mut token)
            .map_err(|error| Failure::refused(format!("the token cannot be read: {error}")))?;
        (entry.token_file, entry.token) = (None, Some(token.trim().to_owned()));
    }
    entry.insecure |= args.insecure;
    entry.remote().map_err(Failure::refused)?;
    Ok(entry)
}

fn told(name: &str, entry: &Entry, current: bool) -> Value {
    let token = match (&entry.token_file, &entry.token) {
        (Some(file), _) => format!("read from {}", file.display()),
        (None, Some(_)) => "kept with the context".into(),
        (None, None) => "none, unless GRAYLANE_TOKEN has one".into(),
    };
    let mut told = json!({ "name": name, "current": current, "server": entry.server, "token": token });
    if let Some(file) = &entry.certificate_authority {
        told["certificate_authority"] = file.display().to_string().into();
    }
    if entry.insecure {
        told["insecure"] = true.into();
    }
    told
}

fn table(contexts: &Contexts) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["", "NAME", "SERVER"]);
    let mark = |holds: bool| if holds { "*" } else { "" };
    table.add_row([mark(contexts.current.is_none()), LOCAL, "the data folder of this machine"]);
    for (name, entry) in &contexts.contexts {
        table.add_row([mark(contexts.current.as_ref() == Some(name)), name, &entry.server]);
    }
    table.trim_fmt()
}
