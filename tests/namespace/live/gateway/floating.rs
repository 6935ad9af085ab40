//! Floating addresses: from everywhere, to the outside, and moved from one machine to another.

use super::*;
use crate::support::frame::Nic;

const FLOATING: &str = "[[floating_ip]]\naddress = \"198.51.100.20\"\nfixed_address = \"10.0.0.5\"\n";
/// The machine's own port, which says its address.
const PORT: &str = "[[port]]\ntap = \"tap0-1\"\nnetwork = \"blue\"\naddresses = [\"10.0.0.5\"]\n";
const SNAT: &str = "snat = { interface = \"nic0\" }";

struct Everybody {
    internet: Host,
    host: Host,
    machine: Host,
    neighbour: Host,
    stranger: Host,
    daemon: Daemon,
}

/// Blue with a machine that has a floating address and a neighbour, red with a stranger.
fn everybody(blue_keys: &str, red_keys: &str) -> Everybody {
    let (host, internet) = host_and_internet();
    let rest = format!("{FLOATING}{PORT}{}", RED.replace("GATEWAY", red_keys));
    let daemon = Daemon::spawn(&host, &blue("", blue_keys, &rest));
    let [machine, neighbour, stranger] = [
        ("tap0-1", "10.0.0.5"),
        ("tap0-2", "10.0.0.6"),
        ("tap1-1", "10.0.1.5"),
    ]
    .map(|(tap, address)| {
        let machine = machine(&host, tap, address);
        daemon.wait_port(tap, "attached");
        serve(&machine, &format!("{address}:80"));
        machine
    });
    serve(&internet, "198.51.100.1:80");
    daemon.wait_network("blue", "ready");
    daemon.wait_network("red", "ready");
    Everybody {
        internet,
        host,
        machine,
        neighbour,
        stranger,
        daemon,
    }
}

fn leads_everywhere(e: &Everybody, stranger: &str) {
    // From outside, with its own address.
    assert_eq!(seen_by(&e.internet, "198.51.100.20:80"), ip("198.51.100.1"));
    // To the outside, with the floating one; the neighbour with the host's.
    assert_eq!(seen_by(&e.machine, "198.51.100.1:80"), ip("198.51.100.20"));
    assert_eq!(seen_by(&e.neighbour, "198.51.100.1:80"), ip("198.51.100.7"));
    // From the host, from a neighbour, from another network, and from the machine itself.
    assert_eq!(seen_by(&e.host, "198.51.100.20:80"), ip("198.51.100.20"));
    assert_eq!(seen_by(&e.neighbour, "198.51.100.20:80"), ip("10.0.0.1"));
    assert_eq!(seen_by(&e.stranger, "198.51.100.20:80"), ip(stranger));
    assert_eq!(seen_by(&e.machine, "198.51.100.20:80"), ip("198.51.100.20"));
    for host in [&e.internet, &e.host, &e.neighbour, &e.stranger, &e.machine] {
        assert!(reaches(host, "198.51.100.20"));
    }
}

#[test]
fn a_floating_address_leads_in_and_out_and_from_everywhere() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        let e = everybody(SNAT, SNAT);
        leads_everywhere(&e, "10.0.1.5");
        // Again: nobody was told a shorter way meanwhile.
        leads_everywhere(&e, "10.0.1.5");
        e.daemon.assert_nothing_planned();
    });
}

#[test]
fn a_floating_address_leads_everywhere_where_iptables_does_not_see_bridged_packets() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        bridged_packets_pass_unseen();
        let e = everybody(SNAT, SNAT);
        leads_everywhere(&e, "10.0.1.5");
        leads_everywhere(&e, "10.0.1.5");
    });
}

#[test]
fn a_floating_address_leads_everywhere_with_forward_lists() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        let keys = format!("{SNAT}\nforward = [\"nic0\"]");
        let e = everybody(&keys, &keys);
        leads_everywhere(&e, "10.0.1.5");
        e.daemon.assert_nothing_planned();
    });
}

/// A machine with hairpin mode hears nothing of what it sends to all: IPv6 would take it for a duplicate address.
#[test]
fn a_machine_that_reaches_itself_does_not_hear_itself() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat, Feature::Ipv6);
        let e = everybody(SNAT, SNAT);
        let flags = e.host.bridge_json("link show dev tap0-1");
        assert_eq!(flags[0]["hairpin"], true);
        let nic = Nic::open(&e.machine, "eth0");
        let other = Nic::open(&e.neighbour, "eth0");
        nic.shout("once");
        other.shout("twice");
        assert_eq!(nic.heard_all_until("twice"), ["twice"]);
        // Without floating addresses the port is as any other.
        e.daemon.reload(&blue("", SNAT, PORT));
        wait_until("hairpin mode is off", SOON, || {
            e.host.bridge_json("link show dev tap0-1")[0]["hairpin"] == false
        });
    });
}

#[test]
fn a_floating_address_moves_to_another_machine_with_its_flows_cut() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        let e = everybody(SNAT, SNAT);
        let mut inward = Flow::begin(&e.internet, "198.51.100.20:80").expect("a connection");
        let mut outward = Flow::begin(&e.machine, "198.51.100.1:80").expect("a connection");
        let mut other = Flow::begin(&e.neighbour, "198.51.100.1:80").expect("a connection");
        assert!(inward.lives() && outward.lives() && other.lives());
        let red = RED.replace("GATEWAY", SNAT);
        let to = |fixed: &str| {
            let floating = FLOATING.replace("10.0.0.5", fixed);
            e.daemon
                .reload(&blue("", SNAT, &format!("{floating}{PORT}{red}")));
        };
        to("10.0.0.6");
        wait_until("the neighbour has it", SOON, || {
            seen_by(&e.neighbour, "198.51.100.1:80") == ip("198.51.100.20")
        });
        wait_until("no flow of the old machine's is left", SOON, || {
            !flows(&e.host)
                .iter()
                .any(|flow| is_of(flow, &["198.51.100.20", "10.0.0.5"]))
        });
        assert!(!inward.lives() && !outward.lives(), "flows of the old machine");
        assert!(other.lives(), "a flow of nobody's concern");
        assert_eq!(seen_by(&e.machine, "198.51.100.1:80"), ip("198.51.100.7"));
        // And back: the same pair as before, and flows of the neighbour's.
        let mut second = Flow::begin(&e.internet, "198.51.100.20:80").expect("a connection");
        assert!(second.lives());
        to("10.0.0.5");
        wait_until("the first machine has it again", SOON, || {
            seen_by(&e.machine, "198.51.100.1:80") == ip("198.51.100.20")
        });
        eprintln!(
            "FLOWS {:#?} {}",
            flows(&e.host),
            std::fs::read_to_string(e.daemon.path("state/ruleset.json")).unwrap()
        );
        wait_until("no flow of the neighbour's is left", SOON, || {
            !flows(&e.host)
                .iter()
                .any(|flow| is_of(flow, &["198.51.100.20", "10.0.0.6"]))
        });
        assert!(!second.lives());
        // Without it nothing is left of it.
        let mut last = Flow::begin(&e.internet, "198.51.100.20:80").expect("a connection");
        assert!(last.lives());
        e.daemon.reload(&blue("", SNAT, &format!("{PORT}{red}")));
        wait_until("no flow is left", SOON, || {
            !flows(&e.host)
                .iter()
                .any(|flow| is_of(flow, &["198.51.100.20", "10.0.0.5"]))
        });
        assert!(!last.lives());
        // Whoever goes on sending makes no new one by it.
        wait_until("still none", SOON, || {
            !flows(&e.host)
                .iter()
                .any(|flow| is_of(flow, &["198.51.100.20", "10.0.0.5"]))
        });
    });
}
