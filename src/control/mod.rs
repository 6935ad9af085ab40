//! The control socket: HTTP/1.1 with JSON bodies over a unix socket.
//!
//! Owns the wire types (`api`), the server that the daemon runs (`server`, `routes`), the socket file (`socket`) and
//! the client that the command line uses (`client`). It knows nothing of the engine: every request becomes one
//! [`api::Command`] with its own reply channel, sent through a bounded queue to the daemon's loop, which is the only
//! reader of the engine's state. So a client, however slow, hostile or silent, can cost the loop at most the handling
//! of the commands it managed to send; and a daemon loop that is busy costs a client a wait, never a wrong answer.
//!
//! The server lives on a thread of its own (`server::Server::start`): parsing and serialising never run on the thread
//! that attaches taps. Without a client it sleeps in one `accept`; there is no timer.

pub mod api;
pub mod client;
mod extract;
mod refusal;
pub mod routes;
pub mod server;
pub mod socket;
pub mod spec;
mod stall;

use std::io;
use std::path::PathBuf;

/// What can go wrong when the control socket is set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another daemon listens there: refuse to start, do not touch its socket.
    #[error("another process listens on {path}")]
    InUse { path: PathBuf },
    /// The path is taken by something that is not a socket; it is not ours to remove.
    #[error("{path} exists and is not a socket")]
    NotASocket { path: PathBuf },
    /// `socket_group` names no group of this host.
    #[error("group {name:?} does not exist (socket_group)")]
    NoSuchGroup { name: String },
    /// The kernel takes 107 bytes of path.
    #[error("socket path {path} is longer than 107 bytes")]
    PathTooLong { path: PathBuf },
    #[error("cannot {what} {path}")]
    Socket {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot listen on {address} for metrics")]
    Metrics {
        address: std::net::SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot start the control thread")]
    Thread(#[source] io::Error),
}
