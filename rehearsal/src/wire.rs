//! One HTTP request to a pod over the network, for the gateway and for the stand-ins alike.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;

use crate::network::Network;

const PATIENCE: Duration = Duration::from_secs(10);
const BODY_LIMIT: usize = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// Nobody listens there: nothing was sent.
    Refused(io::Error),
    /// The connection broke, or the answer did not come in time.
    Broken(String),
}

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(error) => write!(out, "{error}"),
            Self::Broken(why) => out.write_str(why),
        }
    }
}

/// What is asked of a pod.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Asks a pod on a connection of its own.
pub(crate) async fn ask(
    network: &Network,
    ip: &str,
    port: u16,
    question: &Question,
) -> Result<Response<Bytes>, NoAnswer> {
    let stream = network.connect(ip, port).await.map_err(NoAnswer::Refused)?;
    let broken = |error: hyper::Error| NoAnswer::Broken(error.to_string());
    let exchange = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let uri: Uri = question.path.parse().unwrap_or_else(|_| Uri::from_static("/"));
        let mut request = Request::new(Full::new(question.body.clone()));
        *request.method_mut() = question.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = question.headers.clone();
        let (parts, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        let body = Limited::new(body, BODY_LIMIT)
            .collect()
            .await
            .map_err(|error| NoAnswer::Broken(error.to_string()))?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .unwrap_or_else(|_| Err(NoAnswer::Broken("no answer in time".to_owned())))
}
