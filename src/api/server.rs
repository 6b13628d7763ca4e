//! Connections: the socket of the data folder (mode 0600: its owner alone), and TCP, with TLS or without.
//!
//! A connection that sends nothing, or too slowly, is closed; there are never more than [`CONNECTIONS`] of them over
//! TCP. Who calls is the gate's business; here it is only noted where a request came from.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use super::error::{ApiError, Code};
use crate::tls::Certificates;

/// How long the head of a request may take to arrive, and a TLS handshake.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long answers that have begun may go on when the server ends; streams of who still watches are cut off.
const LINGER: Duration = Duration::from_millis(300);
/// How many connections there may be over TCP: well below the usual limit of 1,024 open files.
const CONNECTIONS: usize = 512;
/// How often in a row no connection can be taken before the listener counts as lost.
const LOST_AFTER: u32 = 100;

/// Where a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Over the socket.
    Socket,
    /// Over TCP.
    Tcp(SocketAddr),
}

/// Opens the socket; a file that an ended process left behind is replaced, which the store's lock makes safe.
pub(crate) fn listen(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the socket until it is told to stop.
pub(crate) async fn serve(listener: UnixListener, router: axum::Router, stop: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, router.clone(), Peer::Socket, stop.clone()));
            }
            Err(error) => pause(&error).await,
        }
    }
    connections.close();
    // Streams of who still watches are not waited for.
    let _ = tokio::time::timeout(LINGER, connections.wait()).await;
}

/// Serves TCP until it is told to stop.
///
/// # Errors
/// The listener takes nothing any more.
pub(crate) async fn serve_tcp(
    listener: TcpListener,
    certificates: Option<Arc<Certificates>>,
    router: axum::Router,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut failures = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, from)) => {
                failures = 0;
                let place = Arc::clone(&places).try_acquire_owned().ok();
                let (router, stop) = (router.clone(), stop.clone());
                let config = certificates.as_ref().map(|certificates| certificates.current());
                connections.spawn(taken(stream, from, place, config, router, stop));
            }
            Err(error) => {
                failures += 1;
                if failures > LOST_AFTER {
                    return Err(error);
                }
                pause(&error).await;
            }
        }
    }
    connections.close();
    // As above.
    let _ = tokio::time::timeout(LINGER, connections.wait()).await;
    Ok(())
}

/// No more open files, mostly: what is served now will give some back.
async fn pause(error: &std::io::Error) {
    tracing::warn!(%error, "a connection could not be taken");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Serves one connection over TCP, where there is a place for it.
async fn taken(
    mut stream: TcpStream,
    from: SocketAddr,
    place: Option<OwnedSemaphorePermit>,
    config: Option<Arc<rustls::ServerConfig>>,
    router: axum::Router,
    stop: CancellationToken,
) {
    // Small events are not kept back; where the system does not know the option, they are a little late.
    let _ = stream.set_nodelay(true);
    let Some(_place) = place else {
        if config.is_none() {
            // It may have gone already.
            let _ = tokio::time::timeout(HEAD_WITHIN, stream.write_all(full().as_bytes())).await;
        }
        return;
    };
    let Some(config) = config else { return connection(stream, router, Peer::Tcp(from), stop).await };
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    match tokio::time::timeout(HEAD_WITHIN, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => connection(stream, router, Peer::Tcp(from), stop).await,
        Ok(Err(error)) => tracing::debug!(%error, %from, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%from, "a TLS handshake took too long"),
    }
}

/// What is said where there is no place.
fn full() -> String {
    let code = Code::Overloaded;
    let problem = ApiError::new(code, format!("{CONNECTIONS} connections are open, and no more are taken"));
    let body = serde_json::to_string(&problem.into_problem()).unwrap_or_default();
    format!(
        "HTTP/1.1 {}\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        code.status(),
        body.len()
    )
}

/// Serves one connection to its end.
async fn connection<S>(stream: S, router: axum::Router, peer: Peer, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut router = router.clone();
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            router.call(request).await.map_err(|never: Infallible| never)
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            match tokio::time::timeout(LINGER, served.as_mut()).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_no_place_is_told_as_in_every_refusal() {
        let said = full();
        let (head, body) = said.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
        let problem: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!((&problem["status"], &problem["code"]), (&503.into(), &"overloaded".into()));
    }
}
