//! Tests with a real kernel, each in private namespaces of its own: `cargo test --test namespace`.
//!
//! One binary, one module per subject; `tests/support` is the rig. The same binary runs under another kernel with
//! `tests/rigs/vmrun` as cargo's runner.

// Clippy's own exemption knows only functions marked #[test], not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod another_kernel;
mod kernel;
mod lifecycle;
mod live;
mod replay;
mod rig;
mod service;
mod trace;
