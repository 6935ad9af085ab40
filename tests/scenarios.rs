//! The engine against a fake kernel: golden scenarios, properties over random worlds, and the fault matrix (tiers 2 to 4
//! of DESIGN section 7). One binary, no root, no clock, no sleep; seconds.
//!
//! `TAPWIRE_BLESS=1` rewrites the scenarios' expectations (read each difference: a golden that says what the program does
//! instead of what the contract promises is worse than none). `TAPWIRE_CASES=1000` runs more random worlds.

// Clippy's own exemption knows only functions marked #[test], not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod engine_faults;
mod engine_golden;
mod engine_properties;
mod fake_kernel;
