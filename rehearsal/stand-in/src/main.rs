//! A stand-in as a program: what an image of the demo's services holds where pods really run. Which service it plays, and for
//! which lane, it reads off its own pod. It never writes anything but a line when it begins and one when it ends.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Where a pod finds its own namespace (<https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/>).
const NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("stand-in: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut end = signal(SignalKind::terminate())?;
    let namespace = std::fs::read_to_string(NAMESPACE)
        .map_err(|error| format!("{NAMESPACE}: {error}: this program runs in a pod that has an account"))?;
    let pod = std::fs::read_to_string(Path::new("/etc/hostname"))?.trim().to_owned();
    let client = kube::Client::try_default().await?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        end.recv().await;
        stopping.cancel();
    });
    say(&format!("stand-in: {pod} begins"));
    graylane_rehearsal::stand_in(client, namespace.trim().to_owned(), pod, stop).await?;
    say("stand-in: over");
    Ok(())
}

fn say(text: &str) {
    // Nobody may be reading.
    let _ = writeln!(std::io::stdout(), "{text}");
}
