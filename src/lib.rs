//! tapwire: attaches virtual machines' tap devices to their network segments the moment the kernel announces them.
//!
//! The folders are a pipeline; `ARCHITECTURE.md` is the map, `tests/layering.rs` holds the rules.

pub mod config;
pub mod model;
pub mod plan;
pub mod policy;
