//! rtnetlink messages in, one event per message out: what it changed, who caused it, what we decided.
//!
//! [`Tracer`] keeps what was last said about every object and names the difference. It reads no socket and no clock,
//! so the same messages give the same lines, live or from a recording. `cli::trace` feeds and prints it.

pub mod event;
pub mod fields;
pub mod filter;
pub mod join;
mod key;
pub mod live;
mod objects;
mod resync;
pub mod state;
pub mod text;

pub use event::{Cause, Change, Decided, Line, Loss, Object, TraceEvent, Value, Word};
pub use filter::{Filter, FilterError};
pub use join::{Decision, Joiner};
pub use state::Tracer;

#[cfg(test)]
mod tests;
