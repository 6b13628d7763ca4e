//! The command tree. A file a subcommand below `cli/`: it parses, makes its calls, and prints.

mod again;
mod answer;
mod audit;
mod cancel;
mod completions;
mod context;
mod diff;
mod environment;
mod follow;
mod freeze;
mod lanes;
mod plan;
mod rbac;
mod rehearsal;
mod render;
mod run;
mod runs;
mod schedule;
mod schema;
mod serve;
mod settings;
mod show;
mod status;
mod store;
mod token;
mod validate;
mod workflows;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args as ClapArgs, ColorChoice, Parser, Subcommand, ValueEnum};
use graylane_engine::bundle::{Bundle, WORKFLOW_FILE};
use graylane_engine::document::Problem;
use graylane_engine::scheduler::Mode;
use graylane_engine::task::Registry;
use graylane_tasks::cluster::Clusters;
use graylane_tasks::secret::DigestKey;
use serde::Serialize;
use serde_json::Value;

use crate::api::wire;
use crate::client::CallError;
use crate::contexts;
use crate::problems::{self, Texts};
use crate::rehearse::{Stage, Tell};
use crate::settings::{Given, LogFormat, Settings};

/// The run failed or was cancelled; `validate`: problems were found.
pub(crate) const EXIT_FAILED: u8 = 1;
/// Refused before anything started.
pub(crate) const EXIT_REFUSED: u8 = 2;
/// Store, cluster or other surroundings failed.
pub(crate) const EXIT_SURROUNDINGS: u8 = 3;
/// It waits for a person.
pub(crate) const EXIT_WAITS: u8 = 4;

/// The version, and that of the time zones which are compiled in.
static LONG_VERSION: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
    format!("{}\ntime zones {}", env!("CARGO_PKG_VERSION"), graylane_engine::schedule::TZDATA)
});

/// Release workflows for Kubernetes: full-chain gray releases that survive kill -9
#[derive(Debug, Parser)]
#[command(
    name = "graylane",
    version,
    long_version = LONG_VERSION.as_str(),
    about,
    long_about = "Release workflows for Kubernetes: gray lane up, verified with real requests, promoted, taken down again.\n\nEvery step is on disk before it happens: a run that was cut off goes on with `graylane resume`.",
    after_help = "Begin with:\n  graylane run workflows/release.yaml        the whole story, on a cluster that graylane carries\n  graylane validate workflows/               every mistake at once, with its line\n  graylane plan workflows/release.yaml       what a run would do; changes nothing\n\nExit codes: 0 succeeded, 1 failed or cancelled (validate: problems found), 2 refused before it started,\n3 store, cluster or other surroundings failed, 4 unfinished: a person says how it goes on."
)]
pub(crate) struct Args {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct Global {
    /// The folder of the store [env: GRAYLANE_DATA] [default: the user's state folder]
    #[arg(long, global = true, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// The settings file [env: GRAYLANE_CONFIG] [default: config/graylane.yaml where it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder of environment files [env: GRAYLANE_ENVIRONMENTS] [default: config/environments]
    #[arg(long, global = true, value_name = "FOLDER")]
    environments: Option<PathBuf>,
    /// The daemon to speak to, as https://HOST:PORT [default: the current context]
    #[arg(long, global = true, env = "GRAYLANE_SERVER", value_name = "URL")]
    server: Option<String>,
    /// The context to speak to; `local` is the data folder of this machine
    #[arg(long, global = true, env = "GRAYLANE_CONTEXT", value_name = "NAME")]
    context: Option<String>,
    /// The file that holds the token [default: GRAYLANE_TOKEN, or the context's]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The authorities that are trusted, in PEM [default: the context's, or those that browsers trust]
    #[arg(long, global = true, value_name = "FILE")]
    certificate_authority: Option<PathBuf>,
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// When colours are used
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto)]
    color: ColorChoice,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// What `-o` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For people, with all there is to tell; only for `lanes`
    Wide,
    /// For programs
    Json,
    /// For code hosts that mark problems in a change (SARIF 2.1.0); only for `validate`
    Sarif,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Carry out a workflow, and follow it to its end
    Run(run::RunArgs),
    /// Show what a run would do, object by object; changes nothing
    Plan(plan::PlanArgs),
    /// Check workflow files: every problem at once, with its place
    Validate(validate::ValidateArgs),
    /// Print the gray copy of a service, as a deploy would apply it
    Render(render::RenderArgs),
    /// Show the lanes of an environment, as the cluster has them
    Lanes(lanes::LanesArgs),
    /// List environments; whether one is ready for gray releases, and bringing it there
    #[command(subcommand)]
    Environment(environment::EnvironmentCommand),
    /// List runs, or look at one
    #[command(subcommand)]
    Runs(runs::RunsCommand),
    /// What sources hold, and pause or unpause it
    #[command(subcommand)]
    Workflows(workflows::WorkflowsCommand),
    /// Who did what, and proof that the history is the one that was written
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// When schedules are due, and what became of their slots
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// What stands still, what failed, what is frozen: each with the command for it
    #[command(
        long_about = "Shows what whoever is woken must know: runs that wait for people or were cut off, the last failures, paused workflows, frozen environments, schedules with the oldest undecided slot, lanes and those whose time is nearly up, and whether the journal can be written; each with the exact command. A cluster that does not answer within 3 s is a line, not a failure.\n\nExit codes: 0 nothing waits for anybody, 3 the journal cannot be written or the store cannot be opened, 4 a run stands still until somebody does something."
    )]
    Status,
    /// Hold what would be deployed to an environment
    Freeze(freeze::FreezeArgs),
    /// Let an environment be deployed to again
    Thaw(freeze::ThawArgs),
    /// Ask a run to end: attempts go to a safe point, then clean-up tasks run
    Cancel(cancel::CancelArgs),
    /// Agree to what a run that waits will do next
    Approve(answer::ConsentArgs),
    /// Do not agree: the task that asks has failed
    Reject(answer::ConsentArgs),
    /// Say how a held task goes on: retry, skip, fail or undo
    Answer(answer::AnswerArgs),
    /// Take back what a run has changed, in the reverse order, as a run of its own
    Undo(again::UndoArgs),
    /// Do what a run did not get done, as a new run that keeps what succeeded
    Retry(again::RetryArgs),
    /// Do all of a run once more, with the same files and inputs
    Rerun(again::RerunArgs),
    /// Check, back up, restore or compact the store
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Go on with the runs that were cut off, and follow them to their end
    Resume,
    /// Run the daemon: it holds the store, answers the API, and carries on what was cut off
    Serve(serve::ServeArgs),
    /// Who may call the API over TCP
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// The daemons that commands may speak to, by name
    #[command(subcommand)]
    Context(context::ContextCommand),
    /// Show the settings that hold, and where each came from
    Settings,
    /// Print the Roles that an environment needs on its cluster, and what a thief could do with them
    Rbac(rbac::RbacArgs),
    /// Print a JSON Schema, as editors and `validate` use it
    Schema(schema::SchemaArgs),
    /// Play the rehearsal cluster as a process of its own, with a kubeconfig
    Rehearsal(rehearsal::RehearsalArgs),
    /// Print a script that completes commands in a shell
    Completions(completions::CompletionsArgs),
}

impl Command {
    /// Whether it speaks to a daemon, where one is named; the others are about this machine alone.
    fn speaks(&self) -> bool {
        !matches!(
            self,
            Command::Serve(_)
                | Command::Context(_)
                | Command::Settings
                | Command::Rbac(_)
                | Command::Schema(_)
                | Command::Rehearsal(_)
                | Command::Completions(_)
                | Command::Validate(_)
        )
    }
}

/// What a command works with.
pub(crate) struct Context {
    pub(crate) settings: Settings,
    /// Whom flags and variables name to speak to.
    pub(crate) asked: contexts::Asked,
    pub(crate) output: Output,
    /// Whether JSON is SARIF; only for `validate`.
    pub(crate) sarif: bool,
    /// Whether text is told at its full width; only for `lanes`.
    pub(crate) wide: bool,
    pub(crate) colours: bool,
}

/// Says what is wrong with the arguments, or shows the help that was asked for; gives the exit code.
pub(crate) fn misread(error: &clap::Error) -> u8 {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let asked = |at: usize| given.get(at + 1).is_some_and(|next| next == "json");
    let json_asked = given.iter().enumerate().any(|(at, word)| match word.as_str() {
        "-o" | "--output" => asked(at),
        word => ["-ojson", "-o=json", "--output=json"].contains(&word),
    });
    if !error.use_stderr() || !json_asked {
        // Whoever closed the output early has read enough.
        let _ = error.print();
        return if error.use_stderr() { EXIT_REFUSED } else { 0 };
    }
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let message = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let mut failure = Failure::refused(message);
    failure.kind = "bad-arguments";
    failure.details = lines.map(str::to_owned).collect();
    print(&json(&failure.wire()));
    EXIT_REFUSED
}

/// Runs a command; gives the exit code.
pub(crate) async fn run(args: Args) -> u8 {
    let Args { global, command } = args;
    let colours = match global.color {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    };
    let path = |path: Option<PathBuf>| path.map(|path| path.display().to_string());
    let given = Given::of_process()
        .flag("--config", path(global.config))
        .flag("--data", path(global.data.clone()))
        .flag("--environments", path(global.environments));
    let daemon = matches!(command, Command::Serve(_));
    let given = if let Command::Serve(args) = &command { args.over(given) } else { given };
    let asked = contexts::Asked {
        server: global.server,
        context: global.context,
        token_file: global.token_file,
        certificate_authority: global.certificate_authority,
        token: std::env::var("GRAYLANE_TOKEN").ok().filter(|token| !token.is_empty()),
        data: global.data.is_some(),
    };
    let mut settings = match Settings::resolve(&given) {
        Ok(settings) => settings,
        Err(found) => {
            let failure = Failure::refused("the settings have errors").problems(found);
            match global.output {
                Format::Json => print(&json(&failure.wire())),
                Format::Text | Format::Wide | Format::Sarif => complain(&failure),
            }
            return EXIT_REFUSED;
        }
    };
    start_log(&settings, daemon, colours);
    if command.speaks() {
        match asked.clone().resolve() {
            Ok(remote) => settings.remote = remote,
            Err(why) => {
                complain(&Failure::refused(why));
                return EXIT_REFUSED;
            }
        }
    }
    let wide = global.output == Format::Wide;
    let output = if wide || global.output == Format::Text { Output::Text } else { Output::Json };
    let sarif = global.output == Format::Sarif;
    let context = Context { settings, asked, output, sarif, wide, colours };
    if sarif && !matches!(command, Command::Validate(_)) {
        complain(&Failure::refused("`-o sarif` is for `graylane validate` alone").hint("use `-o json`"));
        return EXIT_REFUSED;
    }
    let has_wide =
        matches!(command, Command::Lanes(_) | Command::Environment(environment::EnvironmentCommand::List));
    if wide && !has_wide {
        let words = "`-o wide` is for `graylane lanes` and `graylane environment list` alone";
        complain(&Failure::refused(words).hint("use `-o json`"));
        return EXIT_REFUSED;
    }
    let done = match command {
        Command::Run(args) => run::run(&context, args).await,
        Command::Plan(args) => plan::run(&context, args).await,
        Command::Validate(args) => validate::run(&context, &args),
        Command::Render(args) => render::run(&context, args).await,
        Command::Lanes(args) => lanes::run(&context, args).await,
        Command::Environment(command) => environment::run(&context, command).await,
        Command::Runs(command) => runs::run(&context, command).await,
        Command::Workflows(command) => workflows::run(&context, command).await,
        Command::Store(command) => store::run(&context, command).await,
        Command::Audit(command) => audit::run(&context, command).await,
        Command::Schedule(command) => schedule::run(&context, command).await,
        Command::Status => status::run(&context).await,
        Command::Freeze(args) => freeze::freeze(&context, args).await,
        Command::Thaw(args) => freeze::thaw(&context, args).await,
        Command::Cancel(args) => cancel::run(&context, args).await,
        Command::Approve(args) => answer::consent(&context, args, true).await,
        Command::Reject(args) => answer::consent(&context, args, false).await,
        Command::Answer(args) => answer::hold(&context, args).await,
        Command::Undo(args) => again::undo(&context, args).await,
        Command::Retry(args) => again::retry(&context, args).await,
        Command::Rerun(args) => again::rerun(&context, args).await,
        Command::Resume => follow::resume(&context).await,
        Command::Context(command) => context::run(&context, command),
        Command::Serve(_) => serve::run(&context).await,
        Command::Token(command) => token::run(&context, command).await,
        Command::Settings => settings::run(&context),
        Command::Rbac(args) => rbac::run(&context, &args),
        Command::Schema(args) => schema::run(&args),
        Command::Rehearsal(args) => rehearsal::run(&context, &args).await,
        Command::Completions(args) => completions::run(&args),
    };
    match done {
        Ok(_) if LOST.load(Ordering::SeqCst) => EXIT_SURROUNDINGS,
        Ok(code) => code,
        Err(failure) => {
            match context.output {
                Output::Text => complain_in(&failure, context.colours),
                Output::Json => print(&json(&failure.wire())),
            }
            failure.code
        }
    }
}

fn start_log(settings: &Settings, daemon: bool, colours: bool) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(settings.log_filter(daemon)))
        .with_writer(std::io::stderr)
        .with_ansi(colours);
    match settings.log_format {
        LogFormat::Compact => builder.compact().init(),
        LogFormat::Pretty => builder.pretty().init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Why a command did not do what it should, and the exit code that says so.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    kind: &'static str,
    message: String,
    details: Vec<String>,
    hint: Option<String>,
    problems: Vec<Problem>,
    texts: Texts,
}

impl Failure {
    fn new(code: u8, kind: &'static str, message: impl Into<String>) -> Failure {
        let message = message.into();
        Failure {
            code,
            kind,
            message,
            details: Vec::new(),
            hint: None,
            problems: Vec::new(),
            texts: Texts::new(),
        }
    }

    pub(crate) fn refused(message: impl Into<String>) -> Failure {
        Failure::new(EXIT_REFUSED, "refused", message)
    }

    pub(crate) fn surroundings(message: impl Into<String>) -> Failure {
        Failure::new(EXIT_SURROUNDINGS, "surroundings", message)
    }

    pub(crate) fn waits(message: impl Into<String>) -> Failure {
        Failure::new(EXIT_WAITS, "waits", message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn problems(mut self, problems: Vec<Problem>) -> Failure {
        self.problems = problems;
        self
    }

    pub(crate) fn texts(mut self, texts: Texts) -> Failure {
        self.texts = texts;
        self
    }

    fn wire(&self) -> wire::Problem {
        wire::Problem {
            code: self.kind.into(),
            detail: self.message.clone(),
            problems: self.problems.iter().map(problems::WireProblem::from).collect(),
            details: self.details.clone(),
            hint: self.hint.clone(),
            ..wire::Problem::default()
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Failure {
        let CallError::Answer(problem) = error else { return Failure::surroundings(error.to_string()) };
        let code = match problem.code.as_str() {
            "store" | "cluster" => EXIT_SURROUNDINGS,
            _ => EXIT_REFUSED,
        };
        let mut failure = Failure::new(code, "refused", problem.detail);
        failure.details = problem.details;
        failure.details.extend(problem.problems.into_iter().map(|found| match (found.line, found.column) {
            (Some(line), Some(column)) => format!("{}:{line}:{column}: {}", found.file, found.message),
            _ => format!("{}: {}", found.file, found.message),
        }));
        failure.hint = problem.hint;
        failure
    }
}

/// Prints a failure for people, without colours.
pub(crate) fn complain(failure: &Failure) {
    complain_in(failure, false);
}

fn complain_in(failure: &Failure, colours: bool) {
    let (red, bold, plain) = if colours { ("\x1b[1;31m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
    let mut text = problems::render(&failure.problems, &failure.texts, colours);
    text.push_str(&format!("{red}error{plain}{bold}: {}{plain}\n", failure.message));
    for detail in &failure.details {
        text.push_str(&format!("  {detail}\n"));
    }
    if let Some(hint) = &failure.hint {
        text.push_str(&format!("hint: {hint}\n"));
    }
    note(text.trim_end());
}

/// Prints to standard output. Whoever closed it early has read enough.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != std::io::ErrorKind::BrokenPipe
        && !LOST.swap(true, Ordering::SeqCst)
    {
        note(&format!("error: the output cannot be written: {error}"));
    }
}

/// Set when something could not be printed: a list that was cut in silence would be taken for the whole.
static LOST: AtomicBool = AtomicBool::new(false);

/// Prints to standard error, above the bars where there are any.
pub(crate) fn note(text: &str) {
    if crate::progress::print_above(text) {
        return;
    }
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A value as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Tells what happens around a command, on standard error.
pub(crate) fn tell() -> Tell {
    Arc::new(|text| note(&text))
}

/// Who runs this command.
pub(crate) fn actor() -> String {
    ["USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".into())
}

/// A workflow file and what a run of it is given.
#[derive(Debug, ClapArgs)]
pub(crate) struct WorkflowArgs {
    /// The workflow file; for `run` also the name of a workflow that the daemon knows
    file: PathBuf,
    /// An input, by its declared type; entries of a map as NAME.KEY=VALUE
    #[arg(short, long = "input", value_name = "NAME=VALUE")]
    input: Vec<String>,
    /// Carry out only these tasks
    #[arg(long, value_name = "TASK", value_delimiter = ',')]
    only: Vec<String>,
    /// Leave these tasks out
    #[arg(long, value_name = "TASK", value_delimiter = ',')]
    skip: Vec<String>,
    /// Take the outputs of tasks that are left out from this run
    #[arg(long, value_name = "RUN")]
    from: Option<String>,
    /// Inputs that are known already.
    #[arg(skip)]
    given: serde_json::Map<String, Value>,
}

impl WorkflowArgs {
    /// The name of a workflow, or SOURCE/NAME, where no such file is there.
    fn by_name(&self) -> Option<String> {
        let text = self.file.to_str()?;
        let name = text.split('/').all(graylane_engine::id::is_name) && text.split('/').count() <= 2;
        (name && !self.file.exists() && self.from.is_none()).then(|| text.to_owned())
    }

    /// What a run by name is given.
    fn request(&self) -> crate::api::workflows::RunRequest {
        crate::api::workflows::RunRequest {
            inputs: self.given.clone(),
            set: self.input.clone(),
            only: self.only.clone(),
            skip: self.skip.clone(),
            actor: Some(actor()),
        }
    }

    /// All of a file, with these inputs.
    pub(crate) fn of(file: PathBuf, given: serde_json::Map<String, Value>) -> WorkflowArgs {
        WorkflowArgs { file, input: Vec::new(), only: Vec::new(), skip: Vec::new(), from: None, given }
    }
}

/// The operator's files, gathered; a broken one is told, and is an error only to who names it.
pub(crate) fn operator_files(context: &Context, key: &DigestKey) -> (Bundle, Vec<Problem>) {
    let gathered = graylane_tasks::environment::gather(&context.settings.environments, key);
    (gathered.bundle, gathered.problems)
}

/// The key of the data folder: what is submitted, and what is compared with it later, is digested with it.
pub(crate) fn key(context: &Context, mode: Mode) -> Result<DigestKey, Failure> {
    let key = match mode {
        Mode::Look => crate::holder::key_to_look(&context.settings),
        Mode::Work | Mode::Begin | Mode::End(_) | Mode::Answer => {
            crate::holder::digest_key(&context.settings)
        }
    };
    key.map_err(Failure::surroundings)
}

/// Refuses what means nothing where nothing was ever stored: a mistyped data folder is not made, nor found whole.
pub(crate) fn needs_store(context: &Context) -> Result<(), Failure> {
    if context.settings.remote.is_some() || !context.settings.holds_nothing() {
        return Ok(());
    }
    let words = format!("there is no store in {}", context.settings.data.display());
    Err(Failure::refused(words).hint("name the data folder with --data; `graylane run` makes a new one"))
}

/// So many of a thing, as one says it.
pub(crate) fn plural(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

/// A key for digests that nobody keeps: checking a file leaves nothing behind.
pub(crate) fn no_key() -> DigestKey {
    DigestKey::new([0; 32])
}

/// The task types for their schemas and checks; none of them is ever run.
pub(crate) fn types() -> Registry {
    let mut registry = Registry::default();
    let clusters = Clusters::new(Stage::new(PathBuf::new(), tell()));
    graylane_tasks::register(&mut registry, &clusters, &no_key());
    registry
}

/// Reads and checks a workflow file, and makes what is submitted.
pub(crate) fn submission(
    context: &Context,
    args: &WorkflowArgs,
    mode: Mode,
) -> Result<wire::Submit, Failure> {
    let shown = args.file.display().to_string();
    let bytes = std::fs::read(&args.file).map_err(|error| {
        Failure::refused(format!("{shown} cannot be read: {error}"))
            .hint("name a workflow file, as workflows/release.yaml")
    })?;
    if args.from.is_some() && args.only.is_empty() && args.skip.is_empty() {
        return Err(Failure::refused(
            "`--from RUN` supplies the outputs of tasks that are left out, and none is",
        )
        .hint("add --only or --skip; to do a part of RUN again, use `graylane retry RUN --from TASK`"));
    }
    if context.settings.remote.is_some() {
        // Environments, variables and secrets are those of the daemon, which checks the file against them.
        let mut bundle = Bundle::default();
        let folder = args.file.parent().unwrap_or(std::path::Path::new(""));
        let unreadable = graylane_tasks::attached::attach(&mut bundle, &shown, &bytes, folder);
        if !unreadable.is_empty() {
            return Err(
                Failure::refused(format!("{shown} names files that cannot be used")).problems(unreadable)
            );
        }
        bundle.add(WORKFLOW_FILE, bytes);
        return Ok(wire::Submit {
            bundle: bundle_value(&bundle)?,
            inputs: args.given.clone(),
            set: args.input.clone(),
            only: args.only.clone(),
            skip: args.skip.clone(),
            from: args.from.clone(),
            actor: None,
            vars: BTreeMap::new(),
            secrets: BTreeSet::new(),
        });
    }
    let (mut bundle, broken) = operator_files(context, &key(context, mode)?);
    if graylane_tasks::environment::names(&bundle).is_empty() {
        let folder = context.settings.environments.display();
        return Err(Failure::refused(format!("there is no valid environment file in {folder}"))
            .problems(broken)
            .hint(
                "name the folder with --environments, or run from the folder that holds config/environments",
            ));
    }
    let (graph, mut problems, texts) = validate::check_one(context, &shown, &bytes, &bundle);
    let folder = args.file.parent().unwrap_or(std::path::Path::new(""));
    let unreadable = graylane_tasks::attached::attach(&mut bundle, &shown, &bytes, folder);
    let sealed = unreadable.is_empty();
    problems.extend(unreadable);
    let Some(graph) = graph.filter(|_| sealed) else {
        let count = problems.len();
        let problems = [problems, broken].concat();
        return Err(Failure::refused(format!("{shown} has {}", plural(count, "problem")))
            .problems(problems)
            .texts(texts));
    };
    let mut inputs =
        graylane_engine::input::parse_pairs(&graph.inputs, args.input.iter().map(String::as_str))
            .map_err(wrong_inputs)?;
    inputs.extend(args.given.clone());
    graylane_engine::input::complete(&graph.inputs, inputs.clone()).map_err(wrong_inputs)?;
    bundle.add(WORKFLOW_FILE, bytes);
    Ok(wire::Submit {
        bundle: bundle_value(&bundle)?,
        inputs,
        set: Vec::new(),
        only: args.only.clone(),
        skip: args.skip.clone(),
        from: args.from.clone(),
        actor: Some(actor()),
        vars: context.settings.vars.clone(),
        secrets: context.settings.secret_names(),
    })
}

fn wrong_inputs(wrong: Vec<String>) -> Failure {
    let mut wrong = wrong.into_iter();
    let mut failure = Failure::refused(wrong.next().unwrap_or_default());
    failure.details = wrong.collect();
    failure
}

/// The operator's files as they go with a question about an environment; a daemon elsewhere has its own.
pub(crate) fn sent_files(context: &Context) -> Result<Option<Value>, Failure> {
    if context.settings.remote.is_some() {
        return Ok(None);
    }
    let (bundle, _) = operator_files(context, &key(context, Mode::Look)?);
    bundle_value(&bundle).map(Some)
}

/// A bundle as it goes over the socket.
pub(crate) fn bundle_value(bundle: &Bundle) -> Result<Value, Failure> {
    serde_json::from_slice(&bundle.to_bytes()).map_err(|error| Failure::surroundings(error.to_string()))
}
