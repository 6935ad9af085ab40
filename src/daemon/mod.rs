//! The wiring: tasks, the one select loop, shutdown, and the private namespace of `demo` and the tests.

pub mod namespace;
