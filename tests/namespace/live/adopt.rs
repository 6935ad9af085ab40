//! A host as Neutron's agent leaves it is taken over without a flap; what is nobody's any more is removed in time.

use super::{detail, try_ip};
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::observer::Change;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::time::{Duration, Instant};
use tapwire::kernel::tuntap::Tap;

const SOON: Duration = Duration::from_secs(10);
const NETWORK: &str = "6f0c2f5e-7d1b-4c39-9a35-0b7f6f0b1c11";
const PORT: &str = "0f3a9c6e-1b22-4f5d-8d7e-aa0102030405";
const BRIDGE: &str = "brq6f0c2f5e-7d";
const TAP: &str = "tap0f3a9c6e-1b";

fn configuration(prune_after: &str, ports: bool) -> String {
    let port = format!("[[port]]\nid = \"{PORT}\"\nnetwork = \"{NETWORK}\"\n");
    format!(
        r#"
[daemon]
prune_after = "{prune_after}"
[taps]
match = ["tap*"]
[vxlan]
local_ip = "192.0.2.11"
l2_population = true
[[network]]
id = "{NETWORK}"
network_type = "vxlan"
segmentation_id = 100
{}
"#,
        if ports { port.as_str() } else { "" }
    )
}

/// Bridge, VXLAN device and tap, each as the agent and os-vif make them.
fn as_the_agent_leaves_it(host: &Host, other: &Host) -> Tap {
    host.join("wire0", other, "wire0");
    host.ip("address add 192.0.2.11/24 dev wire0");
    host.ip(&format!(
        "link add {BRIDGE} type bridge forward_delay 0 stp_state 0"
    ));
    host.ip(&format!("link set {BRIDGE} up"));
    host.ip("link add vxlan-100 mtu 1450 type vxlan id 100 dev wire0 local 192.0.2.11 dstport 4789");
    host.ip(&format!("link set vxlan-100 master {BRIDGE} up"));
    let tap = host.tap(TAP);
    host.ip(&format!("link set {TAP} mtu 1450"));
    host.ip(&format!("link set {TAP} master {BRIDGE} up"));
    tap
}

#[test]
fn an_agents_devices_are_adopted_without_a_flap() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Veth);
        let (host, other) = (Host::here(), Host::new());
        let _tap = as_the_agent_leaves_it(&host, &other);
        let address = detail(&host, BRIDGE, "address");
        let devices = [BRIDGE, "vxlan-100", TAP].map(|name| super::index(&host, name));
        let observer = host.observer();
        let mut daemon = host.daemon(&configuration("1s", true));
        daemon.wait_port(TAP, "attached");
        let events = observer.take();
        let flap = events.iter().find(|event| {
            event.change != Change::New || !event.up && devices.contains(&u64::from(event.index))
        });
        assert_eq!(flap, None, "{events:?}");
        assert_eq!(
            devices,
            [BRIDGE, "vxlan-100", TAP].map(|name| super::index(&host, name))
        );
        assert_eq!(detail(&host, BRIDGE, "address"), address);
        let assigned = std::fs::read_to_string(format!("/sys/class/net/{BRIDGE}/addr_assign_type"));
        assert_eq!(assigned.unwrap().trim(), "3", "the address it had is pinned");
        assert_eq!(host.sysctl(&format!("ipv6/conf/{BRIDGE}/disable_ipv6")), "1");
        assert_eq!(detail(&host, "vxlan-100", "linkinfo/info_data/learning"), false);
        assert_eq!(daemon.port(TAP).unwrap()["port"], PORT);
        daemon.assert_nothing_planned();
        daemon.stop();
        observer.take();
        daemon.start();
        daemon.wait_in_sync();
        assert_eq!(observer.take(), [], "the second start has nothing left to do");
    });
}

#[test]
fn adopted_devices_are_never_removed() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Veth);
        let (host, other) = (Host::here(), Host::new());
        let tap = as_the_agent_leaves_it(&host, &other);
        let with_local = configuration("1s", true)
            + "[[network]]\nid = \"local\"\nnetwork_type = \"local\"\n[[port]]\ntap = \"tap9\"\nnetwork = \"local\"\n";
        let daemon = host.daemon(&with_local);
        daemon.wait_port(TAP, "attached");
        drop(tap);
        let ours = host.tap("tap9");
        daemon.wait_port("tap9", "attached");
        drop(ours);
        wait_until("what we made is removed", SOON, || {
            host.link("brqlocal").is_none()
        });
        assert!(host.link(BRIDGE).is_some() && host.link("vxlan-100").is_some());
    });
}

#[test]
fn empty_bridges_and_uplinks_of_ours_go_after_a_while_and_nothing_else() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Veth);
        let (host, other) = (Host::here(), Host::new());
        host.join("wire0", &other, "wire0");
        host.ip("address add 192.0.2.11/24 dev wire0");
        host.ip("link add brqforeign type bridge");
        host.ip("link add vxlan-7 type vxlan id 7 dstport 4789 local 192.0.2.11");
        let daemon = host.daemon(&configuration("2s", true));
        let tap = host.tap(TAP);
        daemon.wait_port(TAP, "attached");
        drop(tap);
        let begin = Instant::now();
        // A tap that comes back within the time finds everything as it was.
        let before = super::index(&host, BRIDGE);
        let tap = host.tap(TAP);
        daemon.wait_port(TAP, "attached");
        assert_eq!(super::index(&host, BRIDGE), before);
        drop(tap);
        wait_until("bridge and uplink are gone", SOON, || {
            host.link(BRIDGE).is_none() && host.link("vxlan-100").is_none()
        });
        assert!(begin.elapsed() >= Duration::from_secs(2), "not before its time");
        assert!(host.link("brqforeign").is_some() && host.link("vxlan-7").is_some());
        let _tap = host.tap(TAP);
        daemon.wait_port(TAP, "attached");
        assert!(host.is_attached("vxlan-100", BRIDGE));
    });
}

#[test]
fn a_bridge_with_somebody_elses_port_is_not_removed() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Veth);
        let (host, other) = (Host::here(), Host::new());
        host.join("wire0", &other, "wire0");
        host.ip("address add 192.0.2.11/24 dev wire0");
        let with_local = configuration("1s", true)
            + "[[network]]\nid = \"local\"\nnetwork_type = \"local\"\n[[port]]\ntap = \"tap9\"\nnetwork = \"local\"\n";
        let daemon = host.daemon(&with_local);
        let (tap, local) = (host.tap(TAP), host.tap("tap9"));
        daemon.wait_port(TAP, "attached");
        daemon.wait_port("tap9", "attached");
        host.ip("link add guest type veth peer name outside");
        host.ip(&format!("link set guest master {BRIDGE}"));
        drop((tap, local));
        wait_until("the local network's bridge is gone", SOON, || {
            host.link("brqlocal").is_none()
        });
        assert_eq!(host.master("guest").as_deref(), Some(BRIDGE));
        assert!(host.is_attached("vxlan-100", BRIDGE));
        host.ip("link delete guest");
        wait_until("then it goes too", SOON, || host.link(BRIDGE).is_none());
    });
}

#[test]
fn prune_after_never_keeps_everything() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Veth);
        let (host, other) = (Host::here(), Host::new());
        host.join("wire0", &other, "wire0");
        host.ip("address add 192.0.2.11/24 dev wire0");
        let daemon = host.daemon(&configuration("never", true));
        let tap = host.tap(TAP);
        daemon.wait_port(TAP, "attached");
        drop(tap);
        wait_until("the tap is forgotten", SOON, || daemon.port(TAP).is_none());
        daemon.json(&["resync"]);
        assert!(host.link(BRIDGE).is_some());
        daemon.assert_nothing_planned();
    });
}

#[test]
fn a_tap_left_on_our_bridge_without_mapping_is_not_cut_off_at_start() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Veth);
        let (host, other) = (Host::here(), Host::new());
        host.join("wire0", &other, "wire0");
        host.ip("address add 192.0.2.11/24 dev wire0");
        let mut daemon = host.daemon(&configuration("1s", true));
        let _tap = host.tap(TAP);
        daemon.wait_port(TAP, "attached");
        daemon.stop();
        daemon.write_configuration(&configuration("1s", false));
        daemon.start();
        daemon.wait_in_sync();
        daemon.wait_port(TAP, "pending");
        let text = super::reason(&daemon, TAP);
        assert!(text.contains(&format!("left on {BRIDGE}")), "{text}");
        assert!(host.is_attached(TAP, BRIDGE));
        assert!(try_ip(&host, "link show vxlan-100").status.success());
    });
}
