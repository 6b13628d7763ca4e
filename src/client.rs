//! The API's client: every command speaks to the holder of the store through it, also where this process is the holder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::api::wire::{Health, Problem, Update};
use crate::contexts::Remote;

/// How long a connection may take, to somewhere else.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A client of one socket, or of one daemon elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    at: At,
}

#[derive(Debug, Clone)]
enum At {
    Socket(PathBuf),
    Remote(Remote),
}

/// Why a call did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nobody listens.
    #[error("nobody answers at {0}: {1}")]
    Nobody(String, String),
    /// The connection broke off in the middle.
    #[error("the connection to the holder of the store was lost: {0}")]
    Lost(String),
    /// An answer that says no.
    #[error("{}", .0.detail)]
    Answer(Box<Problem>),
}

impl Client {
    pub(crate) fn new(socket: &Path) -> Client {
        Client { at: At::Socket(socket.to_owned()) }
    }

    pub(crate) fn remote(remote: &Remote) -> Client {
        Client { at: At::Remote(remote.clone()) }
    }

    pub(crate) async fn health(&self) -> Result<Health, CallError> {
        self.get("/api/v1/health").await
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        let body = serde_json::to_vec(body).map_err(|error| CallError::Lost(error.to_string()))?;
        self.call(Method::POST, path, Bytes::from(body)).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, CallError> {
        let response = self.send(method, path, body).await?;
        let ok = response.status().is_success();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| CallError::Lost(error.to_string()))?
            .to_bytes();
        if ok {
            return serde_json::from_slice(&body)
                .map_err(|error| CallError::Lost(format!("an answer that cannot be read: {error}")));
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(CallError::Answer(Box::new(problem))),
            // The server's own words, as for a request that is too large.
            Err(_) => Err(CallError::Lost(String::from_utf8_lossy(&body).into_owned())),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<hyper::Response<hyper::body::Incoming>, CallError> {
        let lost = |error: hyper::Error| CallError::Lost(error.to_string());
        let (mut sender, host, token) = match &self.at {
            At::Socket(socket) => {
                let stream = UnixStream::connect(socket)
                    .await
                    .map_err(|error| CallError::Nobody(socket.display().to_string(), error.to_string()))?;
                (shake(stream).await?, "graylane".to_owned(), None)
            }
            At::Remote(remote) => {
                let connected = tokio::time::timeout(CONNECT_WITHIN, connect(remote)).await;
                let sender = connected.unwrap_or_else(|_| {
                    Err(CallError::Nobody(remote.server.clone(), "it took too long".into()))
                })?;
                let host = remote.server.split("://").nth(1).unwrap_or_default().to_owned();
                (sender, host, remote.token.clone())
            }
        };
        let mut request = hyper::Request::builder();
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| CallError::Lost("the token is not one that can be sent".into()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = request
            .method(method)
            .uri(path)
            .header("host", host)
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| CallError::Lost(error.to_string()))?;
        sender.send_request(request).await.map_err(lost)
    }

    /// Everything that happened and happens in a run; ends with the run, or when the holder goes.
    pub(crate) async fn follow(&self, run: &str) -> Result<Updates, CallError> {
        let response = self.send(Method::GET, &format!("/api/v1/runs/{run}/follow"), Bytes::new()).await?;
        if response.status().is_success() {
            return Ok(Updates { body: response.into_body(), rest: Vec::new() });
        }
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| CallError::Lost(error.to_string()))?
            .to_bytes();
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(CallError::Answer(Box::new(problem))),
            Err(error) => Err(CallError::Lost(error.to_string())),
        }
    }
}

type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

/// Over TCP, and TLS where the address says so.
async fn connect(remote: &Remote) -> Result<Sender, CallError> {
    let nobody = |error: std::io::Error| CallError::Nobody(remote.server.clone(), error.to_string());
    let stream = TcpStream::connect((remote.host.as_str(), remote.port)).await.map_err(nobody)?;
    match &remote.tls {
        None => shake(stream).await,
        Some((config, name)) => {
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
            shake(connector.connect(name.clone(), stream).await.map_err(nobody)?).await
        }
    }
}

async fn shake<S>(stream: S) -> Result<Sender, CallError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| CallError::Lost(error.to_string()))?;
    // It ends with the answer's last byte, or with an error that the answer tells too.
    tokio::spawn(connection);
    Ok(sender)
}

/// A stream of updates.
pub(crate) struct Updates {
    body: hyper::body::Incoming,
    rest: Vec<u8>,
}

impl Updates {
    /// The next update; none when the stream has ended.
    pub(crate) async fn next(&mut self) -> Result<Option<Update>, CallError> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|error| CallError::Lost(error.to_string()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.rest.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(CallError::Lost(error.to_string())),
            }
        }
    }
}
