//! interim
pub mod store;
