//! `graylane rehearsal`: plays the rehearsal cluster as a process of its own.

use std::net::SocketAddr;

use clap::Args;
use graylane_tasks::environment::{ClusterAt, Site, names};

use super::{Context, Failure, key, note, operator_files, print, tell};
use crate::rehearse::Stage;

/// What `rehearsal` takes.
#[derive(Debug, Args)]
pub(crate) struct RehearsalArgs {
    /// Where its API answers; port 0 takes any
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where its gateway answers; another port is taken where this one is in use
    #[arg(long, default_value = "127.0.0.1:8080")]
    gateway: SocketAddr,
}

pub(crate) async fn run(context: &Context, args: &RehearsalArgs) -> Result<u8, Failure> {
    if !args.listen.ip().is_loopback() || !args.gateway.ip().is_loopback() {
        return Err(Failure::refused("the rehearsal asks nobody who they are: it listens on loopback only"));
    }
    let (bundle, problems) = operator_files(context, &key(context, graylane_engine::scheduler::Mode::Begin)?);
    for problem in &problems {
        note(&problem.to_string());
    }
    let folder = context.settings.rehearsal_folder();
    let stage = Stage::new(folder.clone(), tell());
    let (api, gateway) = stage.serve(args.listen, args.gateway).await.map_err(Failure::surroundings)?;
    for name in names(&bundle) {
        let Ok(site) = Site::load(&bundle, &name) else { continue };
        if site.environment.cluster == ClusterAt::Rehearsal {
            stage.furnish(&site).await.map_err(Failure::surroundings)?;
        }
    }
    print(&format!("API      http://{api}"));
    print(&format!("gateway  http://{gateway}"));
    print(&format!("kubectl  KUBECONFIG={} kubectl get pods -A", folder.join("kubeconfig").display()));
    print("its objects stay on disk; Ctrl-C ends it");
    until_told().await;
    stage.close().await;
    Ok(0)
}

async fn until_told() {
    let Ok(mut term) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
}
