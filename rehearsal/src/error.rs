//! What can go wrong at the edges of this crate: its file, its listeners, its seeding.

use std::net::SocketAddr;
use std::path::PathBuf;

/// An error of starting or filling a rehearsal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster's file cannot be read.
    #[error("the rehearsal's file {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The cluster's file is not what this crate writes.
    #[error("the rehearsal's file {path} is broken: {why}; move it away to begin with an empty cluster")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A listener's address is taken, or not to be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A seeded manifest was refused.
    #[error("{object} was refused: {why}")]
    Refused {
        /// Kind and name.
        object: String,
        /// What the API server said.
        why: String,
    },
    /// A manifest is of a kind that the rehearsal does not serve, or has no name.
    #[error("not a manifest that the rehearsal can apply: {0}")]
    Manifest(String),
    /// The deadline passed before everything was available.
    #[error("not available in time: {0}")]
    NotReady(String),
}
