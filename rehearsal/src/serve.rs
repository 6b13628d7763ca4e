//! The API over HTTP/1.1 on a listener, for kubectl and for clients that want a URL.

use std::net::SocketAddr;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::Api;

/// Serves the API until the token is cancelled; answers in progress are finished, watches are cut.
pub async fn serve(listener: TcpListener, api: Api, stop: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    continue;
                }
            },
            () = stop.cancelled() => break,
        };
        let (api, stop) = (api.clone(), stop.clone());
        connections.spawn(async move {
            let service = service_fn(|request| {
                let api = api.clone();
                async move { Ok::<_, std::convert::Infallible>(api.answer(request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection to the rehearsal's API ended");
                },
                () = stop.cancelled() => {}
            }
        });
    }
    connections.close();
    connections.wait().await;
}

/// A kubeconfig for a served API: no credentials, plain HTTP.
pub fn kubeconfig(address: SocketAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: rehearsal\n  cluster:\n    server: http://{address}\n\
         users:\n- name: rehearsal\n  user: {{}}\ncontexts:\n- name: rehearsal\n  context:\n    cluster: rehearsal\n    \
         user: rehearsal\n    namespace: default\ncurrent-context: rehearsal\n"
    )
}
