//! The rehearsal cluster as an environment's cluster: in this process, or in the one that already plays it.
//!
//! ```text
//! <data>-rehearsal/lock        who plays it
//! <data>-rehearsal/objects.json   its objects: today's deploy and tomorrow's offline meet one cluster
//! <data>-rehearsal/objects.json.log   what changed since that was written
//! <data>-rehearsal/kubeconfig  how to reach it, while `graylane rehearsal` runs
//! <data>-rehearsal/gateway     where its gateway answers
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use graylane_engine::lock::{Lock, lock};
use graylane_rehearsal::{Delays, Error, Rehearsal, RehearsalOptions, kubeconfig};
use graylane_tasks::cluster::{Client, Rehearse, client_of, create_all};
use graylane_tasks::environment::Site;
use tokio::sync::Mutex;

/// Who plays a rehearsal that is being started: told to the user.
pub(crate) type Tell = Arc<dyn Fn(String) + Send + Sync>;

/// How long the baseline is waited for.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The rehearsal of a data folder, played when it is first asked for.
#[derive(Clone)]
pub(crate) struct Stage {
    folder: PathBuf,
    tell: Tell,
    played: Arc<Mutex<Option<Played>>>,
}

struct Played {
    rehearsal: Rehearsal,
    /// Held while the cluster is played here.
    _lock: File,
}

impl Stage {
    pub(crate) fn new(folder: PathBuf, tell: Tell) -> Stage {
        Stage { folder, tell, played: Arc::default() }
    }

    /// Whether somebody has asked for the cluster, and it is played here.
    pub(crate) async fn is_played(&self) -> bool {
        self.played.lock().await.is_some()
    }

    /// Ends the cluster that is played here; its objects are on disk when this returns.
    pub(crate) async fn close(&self) {
        if let Some(played) = self.played.lock().await.take() {
            played.rehearsal.shutdown().await;
            for file in ["kubeconfig", "gateway"] {
                // They may never have been written.
                let _ = fs::remove_file(self.folder.join(file));
            }
        }
    }

    /// Plays the cluster here and serves its API; gives the addresses of API and gateway.
    ///
    /// # Errors
    /// A sentence: another process plays it, or its objects cannot be read.
    pub(crate) async fn serve(
        &self,
        api: SocketAddr,
        gateway: SocketAddr,
    ) -> Result<(SocketAddr, SocketAddr), String> {
        let mut played = self.played.lock().await;
        let lock = match self.lock()? {
            Lock::Ours(lock) => lock,
            Lock::Theirs(pid) => {
                return Err(format!(
                    "process {pid} already plays the rehearsal of {}",
                    self.folder.display()
                ));
            }
        };
        let rehearsal = self.start(Some(api), gateway).await?;
        let api = rehearsal.api_addr().unwrap_or(api);
        let gateway = rehearsal.gateway_addr();
        let write = |name: &str, text: String| self.write(name, &text);
        write("kubeconfig", kubeconfig(api))?;
        write("gateway", format!("http://{gateway}\n"))?;
        *played = Some(Played { rehearsal, _lock: lock });
        Ok((api, gateway))
    }

    /// Puts an environment's services onto the cluster that is played here, where its namespace does not exist yet.
    ///
    /// # Errors
    /// What the cluster said.
    pub(crate) async fn furnish(&self, site: &Site) -> Result<(), String> {
        let played = self.played.lock().await;
        let Some(played) = played.as_ref() else { return Ok(()) };
        furnish(&played.rehearsal, site, &self.tell).await
    }

    async fn start(&self, api: Option<SocketAddr>, gateway: SocketAddr) -> Result<Rehearsal, String> {
        let options = |gateway: SocketAddr| RehearsalOptions {
            file: Some(self.folder.join("objects.json")),
            gateway_listen: gateway,
            api_listen: api,
            // As MSE's and nginx's gateways do: a refused connection goes to the next pod.
            retry_connect: true,
            delays: delays(),
            ..RehearsalOptions::default()
        };
        match Rehearsal::start(options(gateway)).await {
            Ok(rehearsal) => Ok(rehearsal),
            Err(Error::Listen { address, .. }) if api != Some(address) => {
                let elsewhere = SocketAddr::from(([127, 0, 0, 1], 0));
                let rehearsal =
                    Rehearsal::start(options(elsewhere)).await.map_err(|error| error.to_string())?;
                (self.tell)(format!(
                    "{address} is taken: the rehearsal's gateway answers at {}",
                    rehearsal.gateway_addr()
                ));
                Ok(rehearsal)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn lock(&self) -> Result<Lock, String> {
        let shown = self.folder.display();
        let wrong = |error: std::io::Error| format!("the rehearsal's folder {shown} cannot be used: {error}");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(wrong)?;
        lock(&self.folder).map_err(wrong)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.folder.join(name);
        let draft = path.with_extension("draft");
        let written = fs::write(&draft, text).and_then(|()| fs::rename(&draft, &path));
        written.map_err(|error| format!("{} cannot be written: {error}", path.display()))
    }

    async fn elsewhere(&self, pid: &str) -> Result<(Client, String), String> {
        let path = self.folder.join("kubeconfig");
        let gateway = fs::read_to_string(self.folder.join("gateway"));
        let Ok(gateway) = gateway else {
            return Err(format!(
                "process {pid} plays the rehearsal of {} for itself; wait until it has ended",
                self.folder.display()
            ));
        };
        let client = client_of(&path, None).await.map_err(|error| error.message)?;
        Ok((client, gateway.trim().to_owned()))
    }
}

/// Realistic, unless a test asks for haste.
fn delays() -> Delays {
    match std::env::var("GRAYLANE_REHEARSAL_DELAYS").as_deref() {
        Ok("fast") => Delays::fast(),
        _ => Delays::realistic(),
    }
}

#[async_trait]
impl Rehearse for Stage {
    async fn connect(&self, site: &Site) -> Result<(Client, String), String> {
        let mut played = self.played.lock().await;
        if played.is_none() {
            match self.lock()? {
                Lock::Theirs(pid) => {
                    drop(played);
                    return self.elsewhere(&pid).await;
                }
                Lock::Ours(lock) => {
                    let address =
                        site.environment.gateway.address.trim_start_matches("http://").trim_end_matches('/');
                    let listen = address.parse().unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 0)));
                    let rehearsal = self.start(None, listen).await?;
                    *played = Some(Played { rehearsal, _lock: lock });
                }
            }
        }
        let Some(played) = played.as_ref() else { return Err("the rehearsal has ended".into()) };
        furnish(&played.rehearsal, site, &self.tell).await?;
        Ok((played.rehearsal.client(), format!("http://{}", played.rehearsal.gateway_addr())))
    }
}

async fn furnish(rehearsal: &Rehearsal, site: &Site, tell: &Tell) -> Result<(), String> {
    let mut labels = BTreeMap::new();
    if site.environment.mse.enabled {
        labels.insert("mse-enable".to_owned(), "enabled".to_owned());
    }
    let mut namespaces = vec![site.environment.namespace.clone()];
    namespaces.extend(site.other_namespaces());
    let mut new = BTreeSet::new();
    for namespace in &namespaces {
        let seeded = rehearsal.seed(namespace, &labels, Vec::new(), "kubectl").await;
        if seeded.map_err(|error| error.to_string())? {
            new.insert(namespace.as_str());
        }
    }
    let home = |service: &str| site.environment.namespace_of(service).unwrap_or(&site.environment.namespace);
    if !new.is_empty() {
        let names = site.services.keys().map(String::as_str);
        let names: Vec<&str> = names.filter(|service| new.contains(home(service))).collect();
        tell(format!(
            "rehearsal cluster: starting the baseline of {} ({})",
            site.environment.name,
            names.join(", ")
        ));
        for service in &names {
            let Some(source) = site.source(service) else { continue };
            create_all(&rehearsal.client(), home(service), source).await?;
        }
    }
    for namespace in &namespaces {
        if let Err(error) = rehearsal.wait_ready(namespace, READY_WITHIN).await {
            // A baseline that is not up is a cluster as clusters are; tasks judge it for themselves.
            tell(format!("rehearsal cluster: {error}"));
        }
    }
    Ok(())
}
