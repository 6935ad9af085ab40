//! tapwire: attaches virtual machines' tap devices to their network segments the moment the kernel announces them.
//!
//! The folders are a pipeline; `ARCHITECTURE.md` is the map, `tests/layering.rs` holds the rules.

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod desired;
pub mod engine;
pub mod kernel;
pub mod model;
pub mod observed;
pub mod plan;
pub mod policy;
pub mod service;
pub mod source;
pub mod telemetry;
