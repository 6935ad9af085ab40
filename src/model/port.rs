//! Which tap belongs to which network.

use super::ids::{NetworkId, PortId};
use super::mac::Mac;
use super::name::{LinkName, NamePattern};
use std::net::IpAddr;

/// The tap or taps a mapping speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapSelector {
    Exact(LinkName),
    Pattern(NamePattern),
}

/// One `[[port]]`, or one binding told over the control socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    pub id: Option<PortId>,
    pub tap: TapSelector,
    pub network: NetworkId,
    /// Facts offered to plugins; `mac` and `addresses` do not change the tap.
    pub mac: Option<Mac>,
    pub addresses: Vec<IpAddr>,
    pub admin_state_up: bool,
}

/// `[taps]`: which links are ours to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapMatch {
    pub patterns: Vec<NamePattern>,
    /// Kinds besides `tun` in tap mode, as `IFLA_INFO_KIND` spells them.
    pub other_kinds: Vec<Box<str>>,
    /// Take a tap away from a foreign bridge.
    pub adopt: bool,
}
