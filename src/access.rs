//! How a command gets at the store: through the process that holds it, else by holding it itself.

use std::time::Duration;

use graylane_engine::journal::OpenError;
use graylane_engine::scheduler::{Mode, StartError};

use crate::cli::Failure;
use crate::client::{CallError, Client};
use crate::contexts::Remote;
use crate::holder::{HoldError, Holder, socket_path};
use crate::rehearse::Tell;
use crate::settings::Settings;

/// How long a process that has just taken the lock may need to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A way to the store.
pub(crate) struct Access {
    pub(crate) client: Client,
    /// Set where this process holds the store.
    pub(crate) holder: Option<Holder>,
}

impl Access {
    /// Goes to the holder's socket, else opens the store here.
    pub(crate) async fn open(settings: &Settings, mode: Mode, tell: Tell) -> Result<Access, Failure> {
        if let Some(remote) = &settings.remote {
            return elsewhere(remote).await;
        }
        let client = Client::new(&socket_path(&settings.data));
        let deadline = tokio::time::Instant::now() + ANSWER_WITHIN;
        loop {
            if let Ok(health) = client.health().await {
                if health.working || mode == Mode::Look {
                    return Ok(Access { client, holder: None });
                }
                // Somebody only looks, and will be gone in a moment.
            } else {
                match Holder::open(settings, mode, tell.clone()).await {
                    Ok(holder) => {
                        return Ok(Access { client: Client::new(&holder.socket), holder: Some(holder) });
                    }
                    Err(HoldError::Store(OpenError::Locked { path, pid }))
                        if tokio::time::Instant::now() >= deadline =>
                    {
                        let words = format!(
                            "the data folder {} is in use by process {pid}, which does not answer",
                            path.display()
                        );
                        return Err(Failure::surroundings(words)
                            .hint("wait until it has ended, or name another folder with --data"));
                    }
                    Err(HoldError::Store(OpenError::Locked { .. })) => {}
                    Err(error) => return Err(held(&error)),
                }
            }
            if tokio::time::Instant::now() >= deadline {
                let words = format!(
                    "the data folder {} is being looked at by another command",
                    settings.data.display()
                );
                return Err(Failure::surroundings(words).hint("try again when it has ended"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The process that holds the store, where one does; a command asks it before it looks for itself.
    pub(crate) async fn daemon(settings: &Settings) -> Result<Option<Client>, Failure> {
        if let Some(remote) = &settings.remote {
            return Ok(Some(elsewhere(remote).await?.client));
        }
        let client = Client::new(&socket_path(&settings.data));
        Ok(client.health().await.is_ok().then_some(client))
    }

    pub(crate) async fn close(self) {
        if let Some(holder) = self.holder {
            holder.close().await;
        }
    }
}

/// A daemon elsewhere carries on what is asked of it; nothing is held here.
async fn elsewhere(remote: &Remote) -> Result<Access, Failure> {
    let client = Client::remote(remote);
    client.health().await.map_err(|error| match error {
        CallError::Answer(_) => Failure::from(error),
        error => Failure::surroundings(error.to_string()).hint(
            "`graylane context list` shows the daemons that are known; `--context local` is this machine",
        ),
    })?;
    Ok(Access { client, holder: None })
}

/// Why a store cannot be opened, for the person who can mend it.
pub(crate) fn store_failure(error: &OpenError) -> Failure {
    let failure = Failure::surroundings(error.to_string());
    match error {
        OpenError::Damaged { why, .. } if why.contains("acknowledged writes are missing") => failure.hint(
            "restore a backup into a new folder with `graylane --data NEW store restore FILE`; or go on without them, for good, with `graylane store check --accept-loss`",
        ),
        OpenError::Damaged { .. } => failure.hint(
            "restore a backup into a new folder with `graylane --data NEW store restore FILE`; nothing was changed",
        ),
        OpenError::Newer { .. } => failure.hint("use the version of graylane that wrote it"),
        OpenError::Io { .. } => failure.hint("name another folder with --data, or mend its rights"),
        OpenError::Locked { .. } => failure.hint("wait until it has ended, or name another folder with --data"),
    }
}

pub(crate) fn held(error: &HoldError) -> Failure {
    let failure = Failure::surroundings(error.to_string());
    match error {
        HoldError::Store(error) => store_failure(error),
        HoldError::Start(StartError::Unfinished(runs)) => Failure::waits(error.to_string()).hint(format!(
            "`graylane resume` goes on with {}, `graylane cancel {}` ends it",
            if runs.len() == 1 { "it".to_owned() } else { format!("all {} that are", runs.len()) },
            runs[0].id
        )),
        HoldError::Start(_) | HoldError::Surroundings(_) => failure,
    }
}
