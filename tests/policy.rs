//! Policy from the outside: plugins in files, a `Host`, questions and replies.

#[path = "policy/basics.rs"]
mod basics;
#[path = "policy/bench.rs"]
mod bench;
