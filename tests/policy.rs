//! Policy from the outside: plugins in files, a `Host`, questions and replies.

// Helpers of tests are not recognised as tests by clippy's allow-*-in-tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "policy/basics.rs"]
mod basics;
#[path = "policy/bench.rs"]
mod bench;
#[path = "policy/hostile.rs"]
mod hostile;
#[path = "policy/last_good.rs"]
mod last_good;
#[path = "policy/lifecycle.rs"]
mod lifecycle;
#[path = "policy/mistakes.rs"]
mod mistakes;
#[path = "policy/remembered.rs"]
mod remembered;
#[path = "policy/tools.rs"]
mod tools;
