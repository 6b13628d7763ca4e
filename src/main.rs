//! The program `graylane`: parse, run, exit code. The only place that exits.

mod access;
mod api;
mod cli;
mod client;
mod holder;
mod problems;
mod progress;
mod rehearse;
mod settings;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // kube, hyper and the checks share one provider of cryptography; it must be named once, before any is used.
    let args = cli::Args::parse();
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
