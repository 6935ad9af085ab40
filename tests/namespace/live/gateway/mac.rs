//! The MAC behind a gateway's addresses: an operator's bridge takes its lowest port's, one of ours keeps its own.

use super::uplink::{flat, host_and_segment};
use super::*;
use crate::support::wire::Wire;

const FOUR: &str = "10.0.0.1";
const SIX: &str = "fd00:0:0:1::1";
/// Lower than any that the kernel makes up (those are locally administered).
const LOW: &str = "00:16:3e:00:00:01";

/// A network on `br-ext`, which has no MAC of its own, with a machine behind it.
fn on_an_operators_bridge(host: &Host, keys: &str) -> (Daemon, Host) {
    host.ip("link add name br-ext type bridge");
    host.ip("link set br-ext up");
    host.ip("link set nic1 master br-ext");
    let text = flat(keys, "", "")
        .replace("interface = \"nic1\"", "bridge = \"br-ext\"")
        .replace("[\"10.0.0.1/24\"]", "[\"10.0.0.1/24\", \"fd00:0:0:1::1/64\"]")
        .replace("[[port]]", "[network.ra]\n[[port]]");
    let daemon = Daemon::spawn(host, &text);
    let guest = machine(host, "tap0-1", "10.0.0.5");
    guest.ip("-6 address add fd00:0:0:1::5/64 dev eth0 nodad");
    daemon.wait_port("tap0-1", "attached");
    daemon.wait_network("blue", "ready");
    (daemon, guest)
}

fn mac(host: &Host, link: &str) -> String {
    host.link(link).expect("a link")["address"]
        .as_str()
        .expect("a MAC")
        .to_owned()
}

/// A link with this MAC; its other end is nobody's.
fn make(host: &Host, name: &str, mac: &str) {
    host.ip(&format!(
        "link add {name} address {mac} type veth peer name {name}-peer"
    ));
    host.ip(&format!("link set {name}-peer up"));
    host.ip(&format!("link set {name} up"));
}

/// The MACs of the gateway's addresses in the machine's neighbour entries.
fn entries(guest: &Host) -> [Option<String>; 2] {
    [FOUR, SIX].map(|address| {
        let entry = &guest.ip_json(&format!("neigh show to {address} dev eth0"))[0];
        entry["lladdr"].as_str().map(str::to_owned)
    })
}

#[track_caller]
fn wait_known(guest: &Host, mac: &str) {
    wait_until(&format!("the machine writes to {mac}"), SOON, || {
        entries(guest) == [Some(mac.to_owned()), Some(mac.to_owned())]
    });
}

#[track_caller]
fn wait_mac(host: &Host, mac_then: &str) {
    wait_until(&format!("br-ext has {mac_then}"), SOON, || {
        mac(host, "br-ext") == mac_then
    });
}

#[test]
fn machines_follow_an_operators_bridge_to_another_mac() {
    in_namespace(|| {
        require!(
            Feature::Veth,
            Feature::Nat,
            Feature::Ipv6,
            Feature::Program("dnsmasq")
        );
        let (host, _office) = host_and_segment();
        let (mut daemon, guest) = on_an_operators_bridge(&host, "");
        let first = mac(&host, "br-ext");
        wait_until("the machine reaches it", SOON, || {
            reaches(&guest, FOUR) && reaches(&guest, SIX)
        });
        wait_known(&guest, &first);
        let router = || guest.ip("-6 route show default").contains("via fe80::");
        wait_until("the machine has a router", SOON, router);
        let addresses = host.ip("-6 -br address show dev br-ext");
        let link_local = addresses.split(['/', ' ']).find(|word| word.starts_with("fe80"));
        let link_local = link_local.expect("a link-local address");

        // A tap with a lower MAC joins by the daemon's own hand. Nothing is sent but what tapwire announces.
        make(&host, "low0", LOW);
        host.rename("low0", "tap0-2");
        wait_mac(&host, LOW);
        wait_known(&guest, LOW);

        // It leaves, when it is announced once or twice. The third time would lead the machine back.
        let wire = Wire::open(&guest, "eth0");
        host.ip("link del tap0-2");
        wait_mac(&host, &first);
        wait_known(&guest, &first);
        let later = Wire::open(&guest, "eth0");
        for address in [FOUR, SIX, link_local] {
            wire.wait_announced(address.parse().unwrap(), &first, 3);
            assert_eq!(later.announced(address.parse().unwrap(), LOW), 0);
        }
        assert!(router(), "the machine lost its router");

        // While nobody looks.
        daemon.kill();
        make(&host, "low0", LOW);
        host.ip("link set low0 master br-ext");
        wait_mac(&host, LOW);
        assert_eq!(entries(&guest), [Some(first.clone()), Some(first)]);
        daemon.start();
        wait_known(&guest, LOW);
        assert!(reaches(&guest, FOUR) && reaches(&guest, SIX));
        daemon.wait_in_sync();
        daemon.assert_nothing_planned();
    });
}

#[test]
fn a_burst_of_ever_lower_macs_is_announced_once_a_second() {
    in_namespace(|| {
        require!(
            Feature::Veth,
            Feature::Tap,
            Feature::Nat,
            Feature::Ipv6,
            Feature::Program("dnsmasq")
        );
        let (host, _office) = host_and_segment();
        let (daemon, guest) = on_an_operators_bridge(&host, "");
        wait_until("the machine reaches it", SOON, || {
            reaches(&guest, FOUR) && reaches(&guest, SIX)
        });
        let wire = Wire::open(&guest, "eth0");
        let begin = Instant::now();
        let taps: Vec<String> = (1..=40).map(|n| format!("tap0-x{n}")).collect();
        let lowest = format!("00:16:3e:00:00:{:02x}", 0x80 - taps.len());
        let script: Vec<String> = (1..)
            .zip(&taps)
            .map(|(n, tap)| {
                let mac = format!("00:16:3e:00:00:{:02x}", 0x80 - n);
                format!("link add {tap} address {mac} type veth peer name peer{n}\n")
            })
            .collect();
        host.ip_batch(&script.concat());
        wait_mac(&host, &lowest);
        wait_known(&guest, &lowest);
        wire.wait_announced(FOUR.parse().unwrap(), &lowest, 3);
        daemon.wait_port("tap0-x40", "attached");
        // Each change of the first second may be cut short by the next; what is left of the start's is sent, too.
        let at_most = 3 + 3 + usize::try_from(begin.elapsed().as_secs()).unwrap();
        let heard = wire.mentions(FOUR.parse().unwrap());
        eprintln!("{heard} announcements for 40 MACs in {:?}", begin.elapsed());
        assert!(heard <= at_most, "{heard} announcements, at most {at_most}");
    });
}

#[test]
fn a_bridge_that_was_made_or_taken_over_keeps_its_mac() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        let (host, _internet) = host_and_internet();
        // As an agent leaves it: a bridge that follows its lowest port.
        host.ip("link add name brqred type bridge");
        host.ip("link set brqred up");
        make(&host, "tap1-0", "00:16:3e:00:00:ff");
        host.ip("link set tap1-0 master brqred");
        assert_eq!(mac(&host, "brqred"), "00:16:3e:00:00:ff");
        let daemon = host.daemon(&blue("prewarm = true", "", &RED.replace("GATEWAY", "")));
        for (bridge, tap) in [("brqblue", "tap0-1"), ("brqred", "tap1-1")] {
            let own = mac(&host, bridge);
            make(&host, tap, LOW);
            daemon.wait_port(tap, "attached");
            assert_eq!(host.master(tap).as_deref(), Some(bridge));
            assert_eq!(mac(&host, bridge), own, "{bridge}");
            host.ip(&format!("link del {tap}"));
        }
        // The lowest port leaves.
        host.ip("link del tap1-0");
        let left = "every port of brqred is gone";
        wait_until(left, SOON, || host.attached("brqred") == 0);
        assert_eq!(mac(&host, "brqred"), "00:16:3e:00:00:ff");
    });
}
