//! Guests on one host or two, where VLANs are told apart: who hears whom, and who must not.

use super::vxlan::assert_reaches;
use crate::support::daemon::Daemon;
use crate::support::frame::Nic;
use crate::support::host::Host;
use std::time::Duration;

pub const SOON: Duration = Duration::from_secs(10);

/// The configuration of a host whose guests' taps are veth ends called `tap*`, up to its networks. `mode` of `[bridge]`.
pub fn head(mode: &str) -> String {
    format!(
        r#"
[daemon]
prune_after = "1s"
[bridge]
mode = "{mode}"
[taps]
match = ["tap*"]
other_kinds = ["veth"]
"#
    )
}

/// A guest: its own namespace, `eth0` there, `tap` on the host.
pub fn guest(host: &Host, tap: &str) -> Host {
    let guest = Host::new();
    host.join(tap, &guest, "eth0");
    guest
}

/// (VID, flags) of a port, as `bridge vlan show` has it.
pub fn vlans(host: &Host, port: &str) -> Vec<(u64, String)> {
    let listed = host.bridge_json(&format!("vlan show dev {port}"));
    let rows = listed[0]["vlans"].as_array().cloned().unwrap_or_default();
    rows.iter()
        .map(|row| {
            let flags = row["flags"].as_array().cloned().unwrap_or_default();
            let flags: Vec<&str> = flags.iter().filter_map(|f| f.as_str()).collect();
            (row["vlan"].as_u64().unwrap(), flags.join(" "))
        })
        .collect()
}

/// The one VLAN of a port that carries no tags.
#[track_caller]
pub fn only_vlan(host: &Host, port: &str) -> u64 {
    match &vlans(host, port)[..] {
        [(vid, flags)] if flags == "PVID Egress Untagged" => *vid,
        other => panic!("{port} is in {other:?}"),
    }
}

/// A host with its daemon's configuration.
pub type Side<'a> = (&'a Host, &'a str);

/// A guest of each network on both hosts (`tap0-a` here, `tap0-b` there), and the daemons still running.
pub struct Fabric {
    pub near: Daemon,
    pub far: Daemon,
    pub guests: Vec<Host>,
}

/// Each guest reaches the one of its network on the other host, all with the same two addresses, and no frame of another
/// network comes there. `mtu`: the guests'.
pub fn two_hosts(near: Side<'_>, far: Side<'_>, taps: &[&str], mtu: u32) -> Fabric {
    let (here, there) = (near.0, far.0);
    let (near, far) = (here.daemon(near.1), there.daemon(far.1));
    let at = |host: &Host, daemon: &Daemon, side: &str, address: &str| -> Vec<Host> {
        let names: Vec<String> = taps.iter().map(|tap| format!("{tap}{side}")).collect();
        let guests: Vec<Host> = names.iter().map(|tap| guest(host, tap)).collect();
        for (guest, tap) in guests.iter().zip(&names) {
            guest.ip(&format!("link set eth0 mtu {mtu}"));
            guest.ip(&format!("address add {address}/24 dev eth0"));
            daemon.wait_port(tap, "attached");
        }
        guests
    };
    let left = at(here, &near, "a", "10.0.0.1");
    let right = at(there, &far, "b", "10.0.0.2");
    for (one, two) in left.iter().zip(&right) {
        assert_reaches(one, two, "10.0.0.2");
        assert_reaches(two, one, "10.0.0.1");
    }
    {
        let nics =
            |hosts: &[Host]| -> Vec<Nic> { hosts.iter().map(|host| Nic::open(host, "eth0")).collect() };
        let (left, right) = (nics(&left), nics(&right));
        for round in ["in", "again"] {
            for (number, nic) in left.iter().enumerate() {
                nic.shout(&format!("{round} {number}"));
            }
            for (number, nic) in right.iter().enumerate() {
                // All were sent before the first is heard, and only one's own may be, then as in the round before.
                let own = format!("{round} {number}");
                assert_eq!(nic.heard_until(&own), std::slice::from_ref(&own));
            }
        }
    }
    near.assert_nothing_planned();
    far.assert_nothing_planned();
    let guests = left.into_iter().chain(right).collect();
    Fabric { near, far, guests }
}
