//! Where mappings come from, besides the event of a tap: changed files (`watch`) and what was told over the control
//! socket (`store`). Each part is driven by `daemon/`; neither knows the other, nor the configuration's format.

pub mod record;
pub mod store;
pub mod watch;

use crate::model::InvalidValue;
use std::path::PathBuf;

/// What can go wrong here, by what the daemon does about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refuses to watch: the daemon goes on, and a reload needs SIGHUP.
    #[error("cannot watch {what} for changes")]
    Watch {
        what: String,
        #[source]
        cause: std::io::Error,
    },
    /// The state directory can't be used: bindings told over the control socket must be refused.
    #[error("cannot use state directory {path}")]
    Directory {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    /// Another process has the store open: most likely a second daemon.
    #[error("the store {path} is in use by another process")]
    InUse { path: PathBuf },
    /// Written by a later version; opening it would lose what this one does not know.
    #[error("the store {path} has schema {found}, this version knows {known}")]
    Newer { path: PathBuf, found: u64, known: u64 },
    /// Reading or writing failed; the store may be used again, the change was not made.
    #[error("the store {path} failed")]
    Store {
        path: PathBuf,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A record that does not fit its type; told by a client, or written by another version.
    #[error("{key} is not a usable record")]
    Record {
        key: String,
        #[source]
        cause: RecordError,
    },
}

/// Why a record does not fit.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("it is not the JSON of a record")]
    Json(#[source] serde_json::Error),
    #[error(transparent)]
    Value(#[from] InvalidValue),
    #[error("a {network_type} network {problem}")]
    Segment {
        network_type: String,
        problem: &'static str,
    },
    #[error("it names neither a tap nor a port")]
    NoTap,
    #[error("{text:?} is not an ip address")]
    Address { text: String },
    #[error("its gateway half does not hold")]
    Services(#[from] crate::config::Report),
}
