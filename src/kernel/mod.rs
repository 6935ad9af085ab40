//! Netlink and tap devices: the only folder that talks to the kernel.

pub mod tuntap;
pub mod watch;
