//! What people see of the daemon and of the kernel: traces, recordings, the flight recorder, explanations, metrics,
//! logs.
//!
//! An edge folder: it reads the kernel folder's plain event types, and nothing decides by what is in here. Every part
//! is bounded and drops its own data rather than delaying anybody: a recorder that cannot write stops recording.

pub mod clock;
pub mod explain;
mod fields;
pub mod flight;
pub mod journal;
pub mod log;
pub mod metrics;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod record;
pub mod trace;
