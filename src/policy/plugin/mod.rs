//! One plugin: its source, what it says of itself, and its running state.

mod desk;
pub mod fault;
mod given;
pub mod hint;
pub(crate) mod hostcall;
pub mod hostlib;
pub mod load;
pub mod manifest;
pub mod options;
pub mod origin;
mod parts;
pub mod runtime;
mod said;
pub mod sandbox;
pub mod source;
pub mod store;
pub mod when;
