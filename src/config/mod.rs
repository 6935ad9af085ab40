//! Configuration: TOML files -> raw (spans kept) -> validated `Config`.
//!
//! The one place that knows the file format. Every error carries file, line, column, the line itself and a hint;
//! all errors of all files are reported, not the first.

use crate::model::{LinkName, Network, PhysicalName, PhysicalNetwork, PortMapping, TapMatch, VxlanSettings};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A configuration that has passed every check. Networks and ports carry the file and line they came from.
#[derive(Debug, Clone)]
pub struct Config {
    pub daemon: DaemonSettings,
    pub taps: TapMatch,
    pub physical_networks: BTreeMap<PhysicalName, PhysicalNetwork>,
    pub vxlan: VxlanSettings,
    pub policy: PolicySettings,
    pub networks: Vec<Sourced<Network>>,
    pub ports: Vec<Sourced<PortMapping>>,
    /// Every file read, the main one first; the watcher's list.
    pub files: Vec<PathBuf>,
}

/// A value and the place that said it ("/etc/tapwire/networks.d/a.toml:12").
#[derive(Debug, Clone)]
pub struct Sourced<T> {
    pub value: T,
    pub origin: String,
}

#[derive(Debug, Clone)]
pub struct DaemonSettings {
    pub socket: PathBuf,
    pub socket_group: Option<String>,
    pub state_directory: PathBuf,
    /// `None` is "never".
    pub prune_after: Option<Duration>,
    /// Per cent of attached ports that one reload may detach (never fewer than 10 ports).
    pub max_detach_percent: u8,
    /// Receive buffer of the link monitor socket, bytes (SO_RCVBUFFORCE).
    pub receive_buffer: usize,
    /// `127.0.0.1:9478`; loopback only. `None`: metrics over the control socket only.
    pub metrics_listen: Option<std::net::SocketAddr>,
}

#[derive(Debug, Clone, Default)]
pub struct PolicySettings {
    /// Files or directories, absolute, in the order they run.
    pub plugins: Vec<PathBuf>,
    /// `[policy.plugin.NAME]` as JSON-like values; checked against the plugin's own schema by `policy`.
    pub plugin: BTreeMap<String, serde_json::Value>,
    /// The other keys of `[policy]` (limits, enabled requests, maps), as JSON-like values; checked by `policy`.
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// Directory of the main file: what relative paths in `maps` refer to.
    pub base: PathBuf,
}

/// Unused until a network names it: kept here so that the name list of suggestions is in one place.
pub const DEFAULT_PATH: &str = "/etc/tapwire/tapwire.toml";

#[allow(unused)]
type _Names = LinkName;
