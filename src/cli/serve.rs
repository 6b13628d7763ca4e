//! `graylane serve`: the daemon.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::{Context, Failure};
use crate::settings::Given;

/// What `serve` takes; each stands for a setting.
#[derive(Debug, Args)]
#[command(
    after_help = "Without a configuration: loopback, a rehearsal environment in memory, and the workflows of ./workflows.\n\nSIGTERM and SIGINT drain: nothing new starts, and what runs may come to an end until --drain is over; what is left\nis resumed at the next start. A second signal ends at once.\n\nExit codes: 0 ended as told, 2 refused before it started, 3 the listener or the store is lost."
)]
pub(crate) struct ServeArgs {
    /// Where the API answers besides its socket [default: 127.0.0.1:7420]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// The certificate that it shows, in PEM; read again when it changes
    #[arg(long, value_name = "FILE")]
    tls_certificate: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// What people may do without a token: none, viewer or operator
    #[arg(long, value_name = "ROLE")]
    anonymous: Option<String>,
    /// Listen beyond this machine without TLS, or without tokens
    #[arg(long)]
    allow_insecure: bool,
    /// How long what runs may go on after a signal [default: 30s]
    #[arg(long, value_name = "DURATION")]
    drain: Option<String>,
}

impl ServeArgs {
    /// Lays the flags over the other settings.
    pub(crate) fn over(&self, given: Given) -> Given {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        given
            .flag("--listen", self.listen.as_ref())
            .flag("--tls-certificate", path(&self.tls_certificate))
            .flag("--tls-key", path(&self.tls_key))
            .flag("--anonymous", self.anonymous.as_ref())
            .flag("--allow-insecure", self.allow_insecure.then_some("true"))
            .flag("--drain", self.drain.as_ref())
    }
}

pub(crate) async fn run(context: &Context) -> Result<u8, Failure> {
    let settings = Arc::new(context.settings.clone());
    let tell = Arc::new(move |words: String| crate::serve::say(&settings, &words));
    crate::serve::serve(&context.settings, tell).await
}
