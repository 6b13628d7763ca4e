//! The API's client: every command speaks to the holder of the store through it, also where this process is the holder.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Method;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::api::wire::{Health, Problem, Update};

/// A client of one socket.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    socket: PathBuf,
}

/// Why a call did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nobody listens.
    #[error("nobody answers at {0}: {1}")]
    Nobody(PathBuf, String),
    /// The connection broke off in the middle.
    #[error("the connection to the holder of the store was lost: {0}")]
    Lost(String),
    /// An answer that says no.
    #[error("{}", .0.detail)]
    Answer(Box<Problem>),
}

impl Client {
    pub(crate) fn new(socket: &Path) -> Client {
        Client { socket: socket.to_owned() }
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
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| CallError::Nobody(self.socket.clone(), error.to_string()))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        // It ends with the answer's last byte, or with an error that the answer tells too.
        tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "graylane")
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
