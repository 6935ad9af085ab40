//! A gateway on a segment that other hosts have too: announcements, shared addresses, and what the bridge had before.

use super::*;
use crate::support::wire::Wire;

/// A flat network on `nic1`; `office` is on the same segment.
pub(super) fn flat(keys: &str, gateway: &str, rest: &str) -> String {
    let text = blue(keys, gateway, rest);
    let text = text.replace(
        "network_type = \"local\"\n",
        "network_type = \"flat\"\nphysical_network = \"physnet1\"\nprewarm = true\n",
    );
    format!("{text}\n[physical_networks]\nphysnet1 = {{ interface = \"nic1\" }}\n")
}

pub(super) fn host_and_segment() -> (Host, Host) {
    let (host, office) = (Host::here(), Host::new());
    host.join("nic1", &office, "eth0");
    office.ip("address add 10.0.0.9/24 dev eth0");
    office.ip("-6 address add fd00:0:0:1::9/64 dev eth0 nodad");
    (host, office)
}

#[test]
fn addresses_are_announced_on_the_wire() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat, Feature::Ipv6);
        let (host, internet) = host_and_internet();
        let office = Host::new();
        host.join("nic1", &office, "eth0");
        host.ip("-6 address add 2001:db8::7/64 dev nic0 nodad");
        let outside = Wire::open(&internet, "eth0");
        let segment = Wire::open(&office, "eth0");
        let floating = "[[floating_ip]]\naddress = \"198.51.100.20\"\nfixed_address = \"10.0.0.5\"\n\
             [[floating_ip]]\naddress = \"2001:db8::20\"\nfixed_address = \"fd00:0:0:1::5\"\n";
        let text = flat("", "snat = { interface = \"nic0\" }", floating);
        let text = text.replace("[\"10.0.0.1/24\"]", "[\"10.0.0.1/24\", \"fd00:0:0:1::1/64\"]");
        let daemon = host.daemon(&text);
        daemon.wait_network("blue", "ready");
        let mac = |link: &str| host.link(link).unwrap()["address"].as_str().unwrap().to_owned();
        for (wire, address, mac) in [
            (&outside, "198.51.100.20", mac("nic0")),
            (&outside, "2001:db8::20", mac("nic0")),
            (&segment, "10.0.0.1", mac("brqblue")),
            (&segment, "fd00:0:0:1::1", mac("brqblue")),
        ] {
            // Three times, a second apart.
            wire.wait_announced(address.parse().unwrap(), &mac, 3);
        }
    });
}

/// What the office hears of and gets from the host's address in the network.
fn is_heard(office: &Host) -> [bool; 2] {
    office.ip("neigh flush all");
    [reaches(office, "10.0.0.1"), reaches(office, "fd00:0:0:1::1")]
}

#[test]
fn a_shared_address_is_not_heard_across_the_uplink_but_by_machines() {
    in_namespace(|| {
        require!(
            Feature::Veth,
            Feature::Nat,
            Feature::Ipv6,
            Feature::Program("dnsmasq")
        );
        let (host, office) = host_and_segment();
        let both = |keys: &str| {
            let text =
                flat(keys, "", "").replace("[\"10.0.0.1/24\"]", "[\"10.0.0.1/24\", \"fd00:0:0:1::1/64\"]");
            text.replace(
                "[[port]]",
                "[network.dhcp]\nrange = [\"10.0.0.100-10.0.0.199\"]\n[network.ra]\n[[port]]",
            )
        };
        let daemon = Daemon::spawn(&host, &both(""));
        let guest = machine(&host, "tap0-1", "10.0.0.5");
        guest.ip("-6 address add fd00:0:0:1::5/64 dev eth0 nodad");
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_network("blue", "ready");
        wait_until("the office sees it", SOON, || is_heard(&office) == [true, true]);
        let wire = Wire::open(&office, "eth0");
        daemon.reload(&both("share_dhcp_address = true"));
        wait_until("the table is there", SOON, || {
            host.run("nft list tables").contains("tapwire_uplink")
        });
        wire.forget();
        assert_eq!(is_heard(&office), [false, false]);
        // The other way round: who asks for the address from within hears no impostor.
        office.ip("address add 10.0.0.1/24 dev eth0");
        office.ip("-6 address add fd00:0:0:1::1/64 dev eth0 nodad");
        guest.ip("neigh flush all");
        assert!(reaches(&guest, "10.0.0.1") && reaches(&guest, "fd00:0:0:1::1"));
        let gateway = host.link("brqblue").unwrap()["address"]
            .as_str()
            .unwrap()
            .to_owned();
        let known = guest.ip("neigh show");
        let of = |address: &str| {
            known
                .lines()
                .find(|line| line.starts_with(&format!("{address} ")))
                .unwrap_or_default()
        };
        assert!(
            of("10.0.0.1").contains(&gateway) && of("fd00:0:0:1::1").contains(&gateway),
            "{known}"
        );
        office.ip("address del 10.0.0.1/24 dev eth0");
        office.ip("-6 address del fd00:0:0:1::1/64 dev eth0");
        // DHCP stays on its side of the uplink, both ways and in both families.
        for (from, towards) in [(&office, &guest), (&guest, &office)] {
            let heard = Wire::open(towards, "eth0");
            let udp = from.within(|| UdpSocket::bind("0.0.0.0:0").expect("a socket"));
            udp.set_broadcast(true).expect("broadcast");
            let udp6 = from.within(|| UdpSocket::bind("[::]:0").expect("a socket"));
            for port in [67, 68] {
                udp.send_to(b"dhcp", format!("10.0.0.255:{port}"))
                    .expect("a datagram");
            }
            let index = super::super::index(from, "eth0");
            for port in [546, 547] {
                let all: std::net::SocketAddrV6 = format!("[ff02::1%{index}]:{port}").parse().unwrap();
                udp6.send_to(b"dhcp", all).expect("a datagram");
            }
            udp.send_to(b"other", "10.0.0.255:9999").expect("a datagram");
            heard.wait_datagram(9999);
            assert_eq!(heard.datagrams(&[67, 68, 546, 547]), 0);
        }
        // Others of the segment are reached as before.
        assert!(reaches(&guest, "10.0.0.9") && reaches(&guest, "fd00:0:0:1::9"));
        // No announcement of it was heard, nor a router advertisement.
        assert_eq!(wire.mentions("10.0.0.1".parse().unwrap()), 0);
        assert_eq!(wire.router_advertisements(), 0);
        daemon.assert_nothing_planned();
    });
}

#[test]
fn a_shared_address_stays_on_its_side_of_an_operators_bridge_too() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat, Feature::Ipv6);
        let (host, office) = host_and_segment();
        host.ip("link add name br-ext type bridge");
        host.ip("link set br-ext up");
        host.ip("link set nic1 master br-ext");
        let text = flat("share_dhcp_address = true", "", "")
            .replace("interface = \"nic1\"", "bridge = \"br-ext\"")
            .replace("[\"10.0.0.1/24\"]", "[\"10.0.0.1/24\", \"fd00:0:0:1::1/64\"]");
        let daemon = host.daemon(&text);
        let guest = machine(&host, "tap0-1", "10.0.0.5");
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_network("blue", "ready");
        wait_until("the machine reaches it", SOON, || reaches(&guest, "10.0.0.1"));
        assert!(reaches(&guest, "10.0.0.9"));
        assert_eq!(is_heard(&office), [false, false]);
        // A second way out, later.
        let other = Host::new();
        other.ip("link set lo up");
        host.join("nic2", &other, "eth0");
        other.ip("address add 10.0.0.19/24 dev eth0");
        other.ip("-6 address add fd00:0:0:1::19/64 dev eth0 nodad");
        host.ip("link set nic2 master br-ext");
        wait_until("the rules know it", SOON, || {
            host.run("nft list table bridge tapwire_uplink").contains("nic2")
        });
        wait_until("the bridge carries it", SOON, || reaches(&guest, "10.0.0.19"));
        assert_eq!(is_heard(&other), [false, false]);
        assert!(reaches(&guest, "10.0.0.1"));
        // A third one, with the lowest MAC: the bridge takes it, and that is told to the machine and to nobody else.
        let wires = [Wire::open(&office, "eth0"), Wire::open(&other, "eth0")];
        let heard = Wire::open(&guest, "eth0");
        let lowest = "00:16:3e:00:00:01";
        host.ip(&format!(
            "link add nic3 address {lowest} type veth peer name eth3"
        ));
        host.ip("link set nic3 master br-ext");
        for address in ["10.0.0.1", "fd00:0:0:1::1"] {
            heard.wait_announced(address.parse().unwrap(), lowest, 3);
            let elsewhere = wires.iter().map(|wire| wire.mentions(address.parse().unwrap()));
            assert_eq!(elsewhere.sum::<usize>(), 0, "{address}");
        }
        assert!(reaches(&guest, "10.0.0.1"));
        daemon.assert_nothing_planned();
    });
}
