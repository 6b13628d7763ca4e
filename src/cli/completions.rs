//! `graylane completions`: a script for the user's shell.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Failure;

/// What `completions` takes.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Args::command(), "graylane", &mut script);
    super::print(String::from_utf8_lossy(&script).trim_end());
    Ok(0)
}
