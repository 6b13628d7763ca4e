//! The pod network: addresses like 10.244.0.10:20001 that lead to real listeners on loopback, or, on a node whose pods
//! really run, where they say.
//!
//! A port that nobody registered refuses connections, as the port of a process that has ended does.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;

/// How long a pod that really runs is given to take a connection: whoever is gone does not even refuse.
const CONNECT: Duration = Duration::from_secs(1);

/// Which listener answers for which pod address and port; clones are the same network.
#[derive(Debug, Clone, Default)]
pub struct Network {
    listeners: Arc<Mutex<HashMap<(String, u16), SocketAddr>>>,
    real: bool,
}

impl Network {
    /// An empty network.
    pub fn new() -> Self {
        Self::default()
    }

    /// The network of a node whose pods really run: every address leads where it says. It is reached from the node, and
    /// from its pods.
    pub fn of_a_node() -> Self {
        Self { real: true, ..Self::default() }
    }

    /// Lets a pod's port lead to a listener.
    pub fn register(&self, pod_ip: &str, port: u16, listener: SocketAddr) {
        self.with(|map| map.insert((pod_ip.to_owned(), port), listener));
    }

    /// Takes a pod's port away, where it still leads to the listener given.
    pub fn unregister(&self, pod_ip: &str, port: u16, listener: SocketAddr) {
        self.with(|map| {
            let key = (pod_ip.to_owned(), port);
            if map.get(&key) == Some(&listener) {
                map.remove(&key);
            }
        });
    }

    /// The listener behind a pod's port.
    pub fn resolve(&self, pod_ip: &str, port: u16) -> Option<SocketAddr> {
        self.with(|map| map.get(&(pod_ip.to_owned(), port)).copied())
    }

    /// Connects to a pod's port; refused where nobody listens.
    pub async fn connect(&self, pod_ip: &str, port: u16) -> io::Result<TcpStream> {
        if self.real {
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("{pod_ip}:{port}: nobody there"));
            return tokio::time::timeout(CONNECT, TcpStream::connect((pod_ip, port))).await.map_err(late)?;
        }
        match self.resolve(pod_ip, port) {
            Some(listener) => TcpStream::connect(listener).await,
            None => Err(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                format!("{pod_ip}:{port}: connection refused"),
            )),
        }
    }

    fn with<T>(&self, step: impl FnOnce(&mut HashMap<(String, u16), SocketAddr>) -> T) -> T {
        step(&mut self.listeners.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
