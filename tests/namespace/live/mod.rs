//! The real daemon on the real kernel: what an operator sees from outside, and what other programs do to the host.
//!
//! One module per subject. Every test has a host (or several) of its own; the kernel is asked with iproute2, the
//! daemon with its own commands, and link events are counted by the rig's own observer.

mod adopt;
mod attach;
mod aware;
mod dhcp;
mod drift;
mod explain;
mod fabric;
mod flat;
mod gateway;
mod guard;
mod log;
mod overrun;
mod policy;
mod reload;
mod restart;
mod trunk;
mod vlan;
mod vlan_trunk;
mod vxlan;

use crate::support::daemon::Daemon;
use crate::support::host::Host;
use serde_json::Value;
use std::process::Output;

/// Taps `tap0-*` belong to network blue, `tap1-*` to red; both are local, so that any kernel has them.
pub const TWO_NETWORKS: &str = r#"
[daemon]
prune_after = "never"
[taps]
match = ["tap*"]
[[network]]
id = "blue"
network_type = "local"
[[network]]
id = "red"
network_type = "local"
[[port]]
tap = "tap0-*"
network = "blue"
[[port]]
tap = "tap1-*"
network = "red"
"#;

/// `TWO_NETWORKS` with more keys of `[taps]`.
pub fn two_networks_with_taps(keys: &str) -> String {
    TWO_NETWORKS.replace("match = [\"tap*\"]", &format!("match = [\"tap*\"]\n{keys}"))
}

/// Why a port is as it is, in the daemon's words.
#[track_caller]
pub fn reason(daemon: &Daemon, tap: &str) -> String {
    let port = daemon.port(tap).unwrap_or_else(|| panic!("{tap} is not listed"));
    port["reason"].as_str().unwrap_or_default().to_owned()
}

/// Runs `ip`, whatever it answers.
pub fn try_ip(host: &Host, arguments: &str) -> Output {
    host.command("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("run ip")
}

/// The value at a path like `linkinfo/info_data/id` of a link.
#[track_caller]
pub fn detail(host: &Host, link: &str, path: &str) -> Value {
    let link = host.link(link).unwrap_or_else(|| panic!("no link {link}"));
    link.pointer(&format!("/{path}")).cloned().unwrap_or_default()
}

/// The interface index.
#[track_caller]
pub fn index(host: &Host, link: &str) -> u64 {
    detail(host, link, "ifindex").as_u64().expect("an index")
}

/// What `ip -d link` says of bridges under `linkinfo/info_data`.
#[track_caller]
pub fn bridge_option(host: &Host, bridge: &str, key: &str) -> Value {
    detail(host, bridge, &format!("linkinfo/info_data/{key}"))
}
