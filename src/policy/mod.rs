//! Site rules as small Lua plugins: the only code that knows mlua.
//!
//! Hooks are pure functions from a read-only table to a decision; nothing here touches the kernel. The daemon asks
//! (`Host::ask`, never blocking), plugins run on worker threads of their own, and merged decisions come back through
//! `Host::recv`. A plugin that loops, raises, eats memory or returns nonsense costs its own answers and nothing else: it
//! is stopped at its CPU deadline, its last good answer (or its `on_error`) stands in, and after repeated failures it is
//! not called for a while.
//!
//! The pieces: `api` the seam, `shape` what tables may contain, `plugin` one file and its state, `pool` the threads,
//! `inbox` the way back, `watch` the deadlines, `merge` the rules for several opinions, `host` the whole; `tools` are for plugin authors.

pub mod answers;
pub mod api;
pub mod archive;
pub mod breaker;
pub mod error;
pub mod generation;
pub mod guard;
pub mod host;
pub mod inbox;
pub mod lift;
pub mod memory;
pub mod merge;
pub mod plugin;
pub mod pool;
pub mod rehearsal;
pub mod settings;
pub mod shape;
pub mod status;
pub mod tables;
pub mod tools;
pub mod watch;

pub use error::Error;
pub use generation::LoadReport;
pub use host::{Asked, Candidate, Host, Preparation};
pub use rehearsal::{Comparison, Known, Refusal};
pub use status::Status;

/// Between two looks of somebody who waits awake: a microsecond or less, in which the core's other thread goes faster.
pub fn pause() {
    for _ in 0..20 {
        std::hint::spin_loop();
    }
}

/// JSON without object entries that are null or empty: how decisions are shown.
pub fn without_nulls(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value as Json;
    match value {
        Json::Object(map) => Json::Object(
            map.into_iter()
                .map(|(key, value)| (key, without_nulls(value)))
                .filter(|(_, value)| {
                    !(value.is_null()
                        || value.as_array().is_some_and(Vec::is_empty)
                        || value.as_object().is_some_and(serde_json::Map::is_empty))
                })
                .collect(),
        ),
        Json::Array(list) => Json::Array(list.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
