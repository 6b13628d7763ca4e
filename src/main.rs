//! The program `graylane`: parse, run, exit code. The only place that exits.

mod access;
mod api;
mod cli;
mod client;
mod contexts;
mod daemon;
mod holder;
mod metrics;
mod notary;
mod notify;
mod problems;
mod progress;
mod rehearse;
mod retention;
mod samples;
mod serve;
mod settings;
mod sources;
mod systemd;
mod tls;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    store_panics_are_answers();
    let args = match cli::Args::try_parse() {
        Ok(args) => args,
        Err(error) => return ExitCode::from(cli::misread(&error)),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            cli::complain(&cli::Failure::surroundings(format!("no threads can be started: {error}")));
            return ExitCode::from(cli::EXIT_SURROUNDINGS);
        }
    };
    let code = runtime.block_on(cli::run(args));
    // Whatever still runs is re-entered on the next start; nobody waits for it here.
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// The store's library panics on some damaged files. Its threads are watched, and their panics told in a sentence;
/// any other panic is a bug, and is shown as one.
fn store_panics_are_answers() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        if !matches!(thread.name(), Some("store" | "store check" | "journal")) {
            usual(panic);
        }
    }));
}
