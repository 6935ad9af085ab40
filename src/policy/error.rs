//! What can go wrong around plugins, other than in their own code (`plugin::fault`, `plugin::load::Problem`).

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path} can't be read")]
    Unreadable {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("{path} is not text")]
    NotText { path: PathBuf },
    #[error("{path} is larger than {limit_kib} KiB")]
    TooLarge { path: PathBuf, limit_kib: u64 },
    #[error("{path} is neither a directory nor a .lua file")]
    NotLua { path: PathBuf },
    /// A table of `[policy.maps]`.
    #[error("map {path} is not valid: {problem}")]
    Map { path: PathBuf, problem: String },
    /// A file of `host.state`.
    #[error("plugin state {path} can't be {verb}")]
    State {
        path: PathBuf,
        verb: &'static str,
        #[source]
        cause: std::io::Error,
    },
    #[error("plugin state {path} is no state file")]
    StateFormat {
        path: PathBuf,
        #[source]
        cause: serde_json::Error,
    },
    #[error("host.state would grow to {size} bytes, at most {limit} are kept")]
    StateTooLarge { size: usize, limit: usize },
    /// Guarded script code outside a hook: loading, `migrate`, a test file.
    #[error("it did not come back within {seconds} s; its thread was abandoned")]
    Wedged { seconds: u64 },
    #[error("no thread for it")]
    NoThread(#[source] std::io::Error),
    #[error("its thread ended without a result")]
    Lost,
}
