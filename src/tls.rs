//! Certificates: the daemon's own, read again when their files change, and whom a client trusts.
//!
//! A pair that cannot be used while the daemon runs is told, and the one before goes on; nothing here logs a key.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use graylane_engine::id::Digest;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;

use crate::settings::Tls;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The certificate that the daemon shows.
pub(crate) struct Certificates {
    files: Tls,
    current: RwLock<(Digest, Arc<ServerConfig>)>,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// Which of them is wrong, and how.
    pub(crate) fn open(files: &Tls) -> Result<Certificates, String> {
        let read = read(files)?;
        Ok(Certificates { files: files.clone(), current: RwLock::new(read) })
    }

    /// What connections that begin now are shown.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).1)
    }

    /// Looks at the files again and again, until it is told to stop.
    pub(crate) async fn watch(self: Arc<Certificates>, stop: CancellationToken) {
        let mut told = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
            let files = self.files.clone();
            let Ok(read) = tokio::task::spawn_blocking(move || read(&files)).await else { continue };
            match read {
                Ok((digest, config)) => {
                    told = None;
                    let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                    if current.0 != digest {
                        *current = (digest, config);
                        tracing::info!(certificate = %self.files.certificate.display(), "a new certificate is shown");
                    }
                }
                // Two files are never replaced in the same moment: it is told once, and looked at again.
                Err(why) if told.as_ref() != Some(&why) => {
                    tracing::warn!(%why, "the certificate cannot be read again; the one before is shown");
                    told = Some(why);
                }
                Err(_) => {}
            }
        }
    }
}

fn read(files: &Tls) -> Result<(Digest, Arc<ServerConfig>), String> {
    let bytes = |path: &Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let (chain, key) = (bytes(&files.certificate)?, bytes(&files.key)?);
    let digest = Digest::of(&[chain.as_slice(), key.as_slice()].concat());
    let certificates = chain_of(&files.certificate, &chain)?;
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|_| format!("{}: no private key in PEM", files.key.display()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(certificates, key))
        .map_err(|error| format!("{}: {error}", files.certificate.display()))?;
    Ok((digest, Arc::new(config)))
}

fn chain_of(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let none = || format!("{}: no certificate in PEM", path.display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|_| none())?;
    if chain.is_empty() { Err(none()) } else { Ok(chain) }
}

/// How a client speaks TLS: it trusts this file's authorities, or those that browsers trust.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn client(authority: Option<&PathBuf>) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = match authority {
        Some(path) => {
            let pem = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let mut roots = RootCertStore::empty();
            for certificate in chain_of(path, &pem)? {
                roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        None => {
            use hyper_rustls::ConfigBuilderExt as _;
            builder.with_webpki_roots().with_no_client_auth()
        }
    };
    Ok(Arc::new(config))
}
