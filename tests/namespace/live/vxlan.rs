//! VXLAN networks: two hosts on one underlay, guests that reach each other, forwarding entries as told.

use super::{detail, reason};
use crate::support::daemon::Daemon;
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::UdpSocket;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);
const ZERO: &str = "00:00:00:00:00:00";

/// A veth end called `tap0-*` stands for a guest's tap, so that the guest at the other end can have a network stack.
fn configuration(local_ip: &str, vxlan: &str, peers: &str) -> String {
    format!(
        r#"
[daemon]
prune_after = "never"
[taps]
match = ["tap*"]
other_kinds = ["veth"]
[vxlan]
local_ip = "{local_ip}"
{vxlan}
[[network]]
id = "blue"
network_type = "vxlan"
segmentation_id = 100
{peers}
[[network]]
id = "local"
network_type = "local"
[[port]]
tap = "tap0-*"
network = "blue"
[[port]]
tap = "tap1-*"
network = "local"
"#
    )
}

pub fn peer(vtep: &str, more: &str) -> String {
    format!("[[network.peer]]\nvtep = \"{vtep}\"\n{more}\n")
}

/// A host with an underlay address, and the peer at the other end of the cable.
pub fn underlay() -> (Host, Host) {
    let (left, right) = (Host::here(), Host::new());
    left.join("wire0", &right, "wire0");
    left.ip("address add 192.0.2.11/24 dev wire0");
    right.ip("address add 192.0.2.12/24 dev wire0");
    (left, right)
}

/// A guest on a host: its own namespace, `eth0` with an address there, `tap0-vm` on the host.
fn guest(host: &Host, address: &str) -> Host {
    let guest = Host::new();
    host.join("tap0-vm", &guest, "eth0");
    guest.ip("link set eth0 mtu 1450");
    guest.ip(&format!("address add {address}/24 dev eth0"));
    guest
}

/// Until a datagram from one guest has reached the other: ARP's broadcast and its answer have crossed the segment.
#[track_caller]
pub fn assert_reaches(from: &Host, to: &Host, address: &str) {
    let target = format!("{address}:7007");
    let listener = to.within(|| UdpSocket::bind(&target)).unwrap();
    let sender = from.within(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    listener.set_nonblocking(true).unwrap();
    wait_until("a datagram crosses the segment", SOON, || {
        // Refused for a moment after a failed ARP.
        let _ = sender.send_to(b"?", &target);
        listener.recv(&mut [0; 1]).is_ok()
    });
}

fn guests_reach_each_other(left: &str, right: &str) {
    let (here, there) = underlay();
    let (near, far) = (here.daemon(left), there.daemon(right));
    let (one, two) = (guest(&here, "10.0.0.1"), guest(&there, "10.0.0.2"));
    near.wait_port("tap0-vm", "attached");
    far.wait_port("tap0-vm", "attached");
    assert_reaches(&one, &two, "10.0.0.2");
    assert_reaches(&two, &one, "10.0.0.1");
    near.assert_nothing_planned();
    far.assert_nothing_planned();
}

#[test]
fn guests_on_two_hosts_reach_each_other_by_unicast() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Vxlan);
        guests_reach_each_other(
            &configuration("192.0.2.11", "l2_population = true", &peer("192.0.2.12", "")),
            &configuration("192.0.2.12", "l2_population = true", &peer("192.0.2.11", "")),
        );
    });
}

#[test]
fn guests_on_two_hosts_reach_each_other_by_multicast() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Vxlan);
        let group = "vxlan_group = \"239.1.1.1\"";
        guests_reach_each_other(
            &configuration("192.0.2.11", group, ""),
            &configuration("192.0.2.12", group, ""),
        );
    });
}

/// The forwarding entries of the VXLAN device with a destination: (MAC, VTEP).
fn forwarding(host: &Host) -> BTreeSet<(String, String)> {
    let rows = host.bridge_json("fdb show dev vxlan-100");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    rows.as_array()
        .unwrap()
        .iter()
        .filter(|row| row["dst"].is_string())
        .map(|row| (text(&row["mac"]), text(&row["dst"])))
        .collect()
}

/// Until the entries are these; tells what is there if they are not in time.
#[track_caller]
fn eventually(host: &Host, expected: &BTreeSet<(String, String)>) {
    let begin = Instant::now();
    while begin.elapsed() < SOON && forwarding(host) != *expected {
        thread::yield_now();
    }
    assert_eq!(forwarding(host), *expected);
}

fn entries(list: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    list.iter()
        .map(|(mac, dst)| ((*mac).to_owned(), (*dst).to_owned()))
        .collect()
}

const MAC_7: &str = "mac = \"fa:16:3e:00:00:07\"";
const MAC_8: &str = "mac = \"fa:16:3e:00:00:08\"";

fn with_peers(peers: &[String]) -> String {
    configuration("192.0.2.11", "l2_population = true", &peers.concat())
}

#[test]
fn forwarding_entries_are_exactly_what_the_peers_say_and_strangers_entries_stay() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Veth);
        let (host, _other) = underlay();
        // Its own VTEP is in the list too, as when every host is given the same one.
        let mut daemon = host.daemon(&with_peers(&[
            peer("192.0.2.11", "mac = \"fa:16:3e:00:00:01\""),
            peer("192.0.2.12", MAC_7),
            peer("192.0.2.12", MAC_8),
            peer("192.0.2.13", ""),
        ]));
        let _tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        assert_eq!(detail(&host, "vxlan-100", "linkinfo/info_data/learning"), false);
        let told = [
            (ZERO, "192.0.2.12"),
            (ZERO, "192.0.2.13"),
            ("fa:16:3e:00:00:07", "192.0.2.12"),
            ("fa:16:3e:00:00:08", "192.0.2.12"),
        ];
        assert_eq!(forwarding(&host), entries(&told));
        host.run("bridge fdb add 52:54:00:00:00:01 dev vxlan-100 dst 192.0.2.98");
        let strangers = [("52:54:00:00:00:01", "192.0.2.98")];
        // A difference: one guest moves, one host goes, one comes.
        let second = with_peers(&[peer("192.0.2.12", MAC_8), peer("192.0.2.14", MAC_7)]);
        daemon.reload(&second);
        let told = [
            (ZERO, "192.0.2.12"),
            (ZERO, "192.0.2.14"),
            ("fa:16:3e:00:00:07", "192.0.2.14"),
            ("fa:16:3e:00:00:08", "192.0.2.12"),
        ];
        let expected = entries(&[&told[..], &strangers].concat());
        eventually(&host, &expected);
        // What a stopped daemon was not told is found when it starts.
        daemon.kill();
        daemon.write_configuration(&with_peers(&[peer("192.0.2.12", MAC_8)]));
        daemon.start();
        daemon.wait_in_sync();
        let told = [(ZERO, "192.0.2.12"), ("fa:16:3e:00:00:08", "192.0.2.12")];
        let expected = entries(&[&told[..], &strangers].concat());
        eventually(&host, &expected);
        // Drift heals with a resync.
        host.run("bridge fdb delete fa:16:3e:00:00:08 dev vxlan-100 dst 192.0.2.12");
        daemon.json(&["resync"]);
        assert_eq!(forwarding(&host), expected);
        daemon.assert_nothing_planned();
    });
}

#[test]
fn a_destination_that_a_stranger_floods_to_stays_and_peers_come_and_go_beside_it() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Veth);
        let (host, _other) = underlay();
        let daemon = host.daemon(&with_peers(&[peer("192.0.2.12", "")]));
        let _tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        // The kernel marks the flood entry as a whole: from here on it is not ours alone.
        host.run("bridge fdb append 00:00:00:00:00:00 dev vxlan-100 dst 192.0.2.99");
        daemon.reload(&with_peers(&[peer("192.0.2.12", ""), peer("192.0.2.13", MAC_7)]));
        let expected = entries(&[
            (ZERO, "192.0.2.12"),
            (ZERO, "192.0.2.13"),
            (ZERO, "192.0.2.99"),
            ("fa:16:3e:00:00:07", "192.0.2.13"),
        ]);
        eventually(&host, &expected);
        daemon.json(&["resync"]);
        assert_eq!(forwarding(&host), expected);
        daemon.assert_nothing_planned();
        // Which of its destinations are ours is remembered: a peer that goes is flooded to no longer.
        daemon.reload(&with_peers(&[peer("192.0.2.13", MAC_7)]));
        let expected = entries(&[
            (ZERO, "192.0.2.13"),
            (ZERO, "192.0.2.99"),
            ("fa:16:3e:00:00:07", "192.0.2.13"),
        ]);
        eventually(&host, &expected);
        daemon.assert_nothing_planned();
    });
}

#[test]
fn a_guest_that_moves_to_another_host_is_never_without_an_entry() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Veth);
        let (host, _other) = underlay();
        let daemon = host.daemon(&with_peers(&[peer("192.0.2.12", MAC_7), peer("192.0.2.13", "")]));
        let _tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        let mut monitor = host
            .command("bridge")
            .args(["monitor", "fdb"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let reader = {
            let (told, stdout) = (Arc::clone(&told), monitor.stdout.take().unwrap());
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    told.lock().unwrap().push(line);
                }
            })
        };
        let tells = |mac: &str| {
            told.lock()
                .unwrap()
                .iter()
                .any(|line: &String| line.contains(mac))
        };
        wait_until("the monitor listens", SOON, || {
            host.run("bridge fdb replace 52:54:00:00:00:01 dev vxlan-100 dst 192.0.2.98");
            host.run("bridge fdb delete 52:54:00:00:00:01 dev vxlan-100 dst 192.0.2.98");
            tells("52:54:00:00:00:01")
        });
        daemon.reload(&with_peers(&[peer("192.0.2.13", MAC_7), peer("192.0.2.12", "")]));
        wait_until("the guest is behind the other host", SOON, || {
            forwarding(&host).contains(&("fa:16:3e:00:00:07".into(), "192.0.2.13".into()))
        });
        host.run("bridge fdb add 52:54:00:00:00:02 dev vxlan-100 dst 192.0.2.98");
        wait_until("all is told", SOON, || tells("52:54:00:00:00:02"));
        monitor.kill().unwrap();
        monitor.wait().unwrap();
        reader.join().unwrap();
        let told = told.lock().unwrap();
        assert!(
            told.iter().any(|line| line.contains("fa:16:3e:00:00:07")),
            "the replacement was told: {told:?}"
        );
        let deleted = |line: &&String| line.contains("Deleted") && line.contains("fa:16:3e:00:00:07");
        assert_eq!(told.iter().find(deleted), None);
    });
}

#[test]
fn the_arp_responder_knows_the_peers_addresses_and_forgets_them() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Veth);
        let (host, _other) = underlay();
        let settings = "l2_population = true\narp_responder = true";
        let guest_7 = format!("{MAC_7}\nip = \"10.0.0.7\"");
        let guest_8 = format!("{MAC_8}\nip = \"2001:db8::8\"");
        let told = |guests: &[&str]| {
            let peers: String = guests.iter().map(|more| peer("192.0.2.12", more)).collect();
            configuration("192.0.2.11", settings, &peers)
        };
        let daemon = host.daemon(&told(&[&guest_7, &guest_8]));
        let _tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        assert_eq!(detail(&host, "vxlan-100", "linkinfo/info_data/proxy"), true);
        let neighbours = || host.ip("neigh show dev vxlan-100 nud permanent");
        assert!(
            neighbours().contains("10.0.0.7 lladdr fa:16:3e:00:00:07"),
            "{}",
            neighbours()
        );
        // With IPv6 off on the device the kernel takes no IPv6 neighbour there; that must not fail the network.
        daemon.wait_network("blue", "ready");
        host.ip("neigh add 10.0.0.99 lladdr 52:54:00:00:00:99 dev vxlan-100 nud permanent");
        daemon.reload(&told(&[&guest_8]));
        wait_until("the neighbour is forgotten", SOON, || {
            !neighbours().contains("10.0.0.7")
        });
        assert!(neighbours().contains("10.0.0.99"), "a stranger's stays");
        daemon.assert_nothing_planned();
    });
}

#[test]
fn a_network_waits_for_its_local_address_and_keeps_its_ports_when_it_goes() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Veth);
        let (host, other) = (Host::here(), Host::new());
        host.join("wire0", &other, "wire0");
        let daemon = host.daemon(&with_peers(&[peer("192.0.2.12", "")]));
        let _taps = (host.tap("tap0-1"), host.tap("tap1-1"));
        daemon.wait_port("tap1-1", "attached");
        daemon.wait_port("tap0-1", "pending");
        let text = reason(&daemon, "tap0-1");
        assert!(text.contains("waits for local_ip 192.0.2.11"), "{text}");
        host.ip("address add 192.0.2.11/24 dev wire0");
        daemon.wait_port("tap0-1", "attached");
        assert_eq!(
            detail(&host, "vxlan-100", "linkinfo/info_data/local"),
            "192.0.2.11"
        );
        assert_eq!(
            detail(&host, "tap0-1", "mtu"),
            1450,
            "the underlay's less the headers"
        );
        host.ip("address delete 192.0.2.11/24 dev wire0");
        host.ip("address add 192.0.2.11/24 dev wire0");
        daemon.wait_network("blue", "ready");
        assert!(host.is_attached("tap0-1", "brqblue"));
        daemon.assert_nothing_planned();
    });
}

#[test]
fn a_deleted_uplink_comes_back_with_all_its_entries() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Veth);
        let (host, _other) = underlay();
        let daemon = host.daemon(&with_peers(&[peer("192.0.2.12", MAC_7)]));
        let _tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        let before = forwarding(&host);
        host.ip("link delete vxlan-100");
        wait_until("it is back", SOON, || {
            host.is_attached("vxlan-100", "brqblue") && forwarding(&host) == before
        });
        host.ip("link set vxlan-100 nomaster");
        host.wait_attached("vxlan-100", "brqblue");
        host.ip("link set vxlan-100 down");
        wait_until("an uplink is kept up", SOON, || host.is_up("vxlan-100"));
        assert_eq!(forwarding(&host), before);
        assert!(host.is_attached("tap0-1", "brqblue"));
    });
}

fn wait_conflict(daemon: &Daemon, text: &str) {
    daemon.wait_network("blue", "conflict");
    let network = daemon.network("blue");
    let reason = network["reason"].as_str().unwrap_or_default();
    assert!(reason.contains(text), "{network}");
    daemon.wait_port("tap0-1", "pending");
}

#[test]
fn a_foreign_device_under_our_name_or_with_our_vni_is_a_conflict_until_it_goes() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Veth);
        let (host, _other) = underlay();
        host.ip("link add vxlan-100 type vxlan id 999 dstport 4789 local 192.0.2.11");
        let daemon = host.daemon(&with_peers(&[peer("192.0.2.12", "")]));
        let _taps = (host.tap("tap0-1"), host.tap("tap1-1"));
        daemon.wait_port("tap1-1", "attached");
        wait_conflict(&daemon, "vxlan-100 exists with another VNI");
        host.ip("link delete vxlan-100");
        daemon.wait_port("tap0-1", "attached");
        host.ip("link delete vxlan-100");
        daemon.wait_network("blue", "ready");
        daemon.signal(libc::SIGSTOP);
        host.ip("link delete vxlan-100");
        host.ip("link add theirs type vxlan id 100 dstport 4789 local 192.0.2.11");
        daemon.signal(libc::SIGCONT);
        daemon.wait_network("blue", "conflict");
        let reason = daemon.network("blue")["reason"].to_string();
        assert!(reason.contains("in use by theirs"), "{reason}");
        host.ip("link delete theirs");
        daemon.wait_network("blue", "ready");
        host.wait_attached("vxlan-100", "brqblue");
    });
}

#[test]
fn what_the_kernel_cannot_change_on_our_own_device_makes_it_anew() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Vxlan, Feature::Veth);
        let (host, _other) = underlay();
        let with_port = |port: u16| {
            let settings = format!("l2_population = true\nudp_dstport = {port}");
            configuration("192.0.2.11", &settings, &peer("192.0.2.12", MAC_7))
        };
        let daemon = host.daemon(&with_port(4789));
        let _tap = host.tap("tap0-1");
        daemon.wait_port("tap0-1", "attached");
        let before = forwarding(&host);
        daemon.reload(&with_port(8472));
        wait_until("the device has the new port", SOON, || {
            host.is_attached("vxlan-100", "brqblue")
                && detail(&host, "vxlan-100", "linkinfo/info_data/port") == 8472
                && forwarding(&host) == before
        });
        // What can be changed is changed in place.
        let index = super::index(&host, "vxlan-100");
        daemon.reload(&with_port(8472).replace("l2_population = true", "ttl = 9"));
        wait_until("it has the TTL and learns", SOON, || {
            detail(&host, "vxlan-100", "linkinfo/info_data/ttl") == 9
                && detail(&host, "vxlan-100", "linkinfo/info_data/learning") == true
        });
        assert_eq!(super::index(&host, "vxlan-100"), index);
        assert!(host.is_attached("tap0-1", "brqblue"));
    });
}
