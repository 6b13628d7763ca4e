//! Contexts: the daemons that commands may speak to, by name, in a file of the user's (`graylane/contexts.json`).
//!
//! The file holds tokens, so it is its owner's alone (mode 0600), and one that others can read is refused. A token is
//! never printed. The name `local` means no context: the data folder of this machine.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::Uri;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

/// What means the data folder of this machine.
pub(crate) const LOCAL: &str = "local";

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one that holds where none is named; `local` where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// All of them.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Entry>,
}

/// A daemon, and how it is spoken to.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// `https://HOST:PORT`.
    pub(crate) server: String,
    /// A file of authorities that are trusted, instead of those that browsers trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) certificate_authority: Option<PathBuf>,
    /// The file that holds the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    /// The token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// Whether a token may go over plain HTTP beyond this machine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) insecure: bool,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Contexts {
    /// The user's file.
    pub(crate) fn path() -> PathBuf {
        crate::settings::config_folder().join("contexts.json")
    }

    /// Reads a file; an empty one where there is none.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn read(path: &Path) -> Result<Contexts, String> {
        let shown = path.display();
        let meta = match std::fs::metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Contexts::default()),
            Err(error) => return Err(format!("{shown}: {error}")),
        };
        if meta.permissions().mode() & 0o077 != 0 {
            return Err(format!("{shown} holds tokens and can be read by others: `chmod 600 {shown}`"));
        }
        let bytes = std::fs::read(path).map_err(|error| format!("{shown}: {error}"))?;
        serde_json::from_slice(&bytes).map_err(|error| format!("{shown}: {error}"))
    }

    /// Writes it, whole, readable by its owner alone.
    ///
    /// # Errors
    /// What the system said.
    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let cannot = |error: std::io::Error| format!("{}: {error}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(cannot)?;
        }
        let fresh = path.with_extension(format!("json.{}", std::process::id()));
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        let mut file = std::fs::OpenOptions::new();
        file.write(true).create(true).truncate(true).mode(0o600);
        let written = file.open(&fresh).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        });
        written.and_then(|()| std::fs::rename(&fresh, path)).map_err(cannot)
    }
}

/// A daemon elsewhere, as a client speaks to it.
#[derive(Clone)]
pub(crate) struct Remote {
    /// Its address, as people write it.
    pub(crate) server: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Over TLS, and to whom.
    pub(crate) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    pub(crate) token: Option<Arc<str>>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("server", &self.server).finish_non_exhaustive()
    }
}

/// What flags and variables say of whom to speak to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    pub(crate) server: Option<String>,
    pub(crate) context: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) certificate_authority: Option<PathBuf>,
    /// `GRAYLANE_TOKEN`.
    pub(crate) token: Option<String>,
    /// Whether a data folder is named, so that the current context does not hold.
    pub(crate) data: bool,
}

impl Asked {
    /// The daemon to speak to; none for the data folder of this machine. A named server or context comes first, then a
    /// named data folder, then the current context.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub(crate) fn resolve(self) -> Result<Option<Remote>, String> {
        let mut entry = match (&self.server, &self.context) {
            (Some(server), None) => Entry { server: server.clone(), ..Entry::default() },
            (Some(_), Some(_)) => return Err("name a server or a context, not both".into()),
            (None, named) => {
                if named.is_none() && self.data {
                    return Ok(None);
                }
                let contexts = Contexts::read(&Contexts::path())?;
                let Some(name) = named.clone().or(contexts.current) else { return Ok(None) };
                if name == LOCAL {
                    return Ok(None);
                }
                let known: Vec<&str> = contexts.contexts.keys().map(String::as_str).collect();
                contexts.contexts.get(&name).cloned().ok_or_else(|| {
                    format!(
                        "there is no context `{name}`; there {}",
                        match known.as_slice() {
                            [] => "is none: `graylane context set NAME --server URL` makes one".into(),
                            known => format!("are: {}", known.join(", ")),
                        }
                    )
                })?
            }
        };
        if self.certificate_authority.is_some() {
            entry.certificate_authority = self.certificate_authority;
        }
        match (self.token_file, self.token) {
            (Some(file), _) => (entry.token_file, entry.token) = (Some(file), None),
            (None, Some(token)) => (entry.token_file, entry.token) = (None, Some(token)),
            (None, None) => {}
        }
        entry.remote().map(Some)
    }
}

impl Entry {
    /// As a client speaks to it.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub(crate) fn remote(&self) -> Result<Remote, String> {
        let server = &self.server;
        let wrong = || format!("`{server}` is no address of a server: write it as https://HOST:PORT");
        let uri: Uri = server.parse().map_err(|_| wrong())?;
        let host = uri.host().ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
        let bare = uri.path().trim_end_matches('/').is_empty() && uri.query().is_none();
        if !bare || uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(wrong());
        }
        let (tls, usual) = match uri.scheme_str() {
            Some("https") => {
                let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
                (Some((crate::tls::client(self.certificate_authority.as_ref())?, name)), 443)
            }
            Some("http") => (None, 80),
            _ => return Err(wrong()),
        };
        let token = match (&self.token_file, &self.token) {
            (Some(path), _) => {
                let text =
                    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
                Some(text.trim().to_owned())
            }
            (None, token) => token.clone(),
        };
        let token = token.filter(|token| !token.is_empty());
        let here = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        if token.is_some() && tls.is_none() && !here && !self.insecure {
            return Err(format!(
                "a token is not sent to {server} over plain HTTP: use https://, or `graylane context set ... --insecure`"
            ));
        }
        Ok(Remote {
            server: server.trim_end_matches('/').to_owned(),
            host,
            port: uri.port_u16().unwrap_or(usual),
            tls,
            token: token.map(Arc::from),
        })
    }
}
