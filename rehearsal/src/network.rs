//! The pod network: addresses like 10.244.0.10:20001 that lead to real listeners on loopback.
//!
//! A port that nobody registered refuses connections, as the port of a process that has ended does.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;

/// Which listener answers for which pod address and port; clones are the same network.
#[derive(Debug, Clone, Default)]
pub struct Network {
    listeners: Arc<Mutex<HashMap<(String, u16), SocketAddr>>>,
}

impl Network {
    /// An empty network.
    pub fn new() -> Self {
        Self::default()
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
