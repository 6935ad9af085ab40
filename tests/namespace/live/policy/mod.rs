//! Plugins on a real daemon and a real kernel: what each shipped plugin decides, what becomes of hostile ones, what plugin
//! authors are promised beyond verdicts.

mod entries;
mod hostile;
mod promises;
mod readme;
mod shipped;
mod told;

use crate::support::daemon::Daemon;
use crate::support::host::Host;
use crate::support::world::slowness;
use serde_json::Value;

/// The path of a shipped plugin.
fn shipped(name: &str) -> String {
    format!("{}/plugins/{name}.lua", env!("CARGO_MANIFEST_DIR"))
}

/// `[policy]` with these plugins, and more lines after it. Under emulation even an innocent plugin can run out of the default
/// limits: the processor time of a thread counts what the machine below gave to others.
fn policy(plugins: &[String], more: &str) -> String {
    let limits = match slowness() {
        1 => String::new(),
        times => format!("deadline_ms = {}\nabandon_ms = {}\n", 20 * times, 500 * times),
    };
    let limits = if more.contains("_ms =") { "" } else { &limits };
    format!("\n[policy]\nplugins = {plugins:?}\n{limits}{more}\n")
}

/// A flag of a bridge port, as `bridge -d link` says it.
#[track_caller]
fn port_flag(host: &Host, tap: &str, flag: &str) -> bool {
    let links = host.bridge_json(&format!("link show dev {tap}"));
    let port = links.as_array().and_then(|links| links.first()).cloned();
    let port = port.unwrap_or_else(|| panic!("{tap} is no bridge port"));
    port[flag]
        .as_bool()
        .unwrap_or_else(|| panic!("no {flag} in {port}"))
}

/// Addresses of the entries on a port or VXLAN device, `bridge fdb show dev`.
fn fdb(host: &Host, device: &str) -> Vec<Value> {
    let rows = host.bridge_json(&format!("fdb show dev {device}"));
    rows.as_array().cloned().unwrap_or_default()
}

/// Is there a static entry of this address on the tap's bridge port?
fn has_static(host: &Host, tap: &str, mac: &str) -> bool {
    fdb(host, tap)
        .iter()
        .any(|row| row["mac"] == mac && row["state"] == "static")
}

/// `policy reload`, which must succeed whatever it changes.
#[track_caller]
fn reload_plugins(daemon: &Daemon) {
    daemon.json(&["policy", "reload", "--max-changes", "1000"]);
}
