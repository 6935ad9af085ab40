//! Who is translated, and who passes: `dmz`, `force_snat_range`, `forward`.

use super::*;

#[test]
fn a_dmz_sees_machines_as_they_are() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        let (host, internet) = host_and_internet();
        internet.ip("address add 192.0.2.1/32 dev lo");
        host.ip("route add 192.0.2.1 via 198.51.100.1");
        internet.ip("route add 10.0.0.0/24 via 198.51.100.7");
        let floating = "[[floating_ip]]\naddress = \"198.51.100.20\"\nfixed_address = \"10.0.0.6\"\n";
        let keys = "snat = { interface = \"nic0\" }\ndmz = [\"192.0.2.0/24\"]";
        let daemon = Daemon::spawn(&host, &blue("", keys, floating));
        let guest = machine(&host, "tap0-1", "10.0.0.5");
        let famous = machine(&host, "tap0-2", "10.0.0.6");
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_port("tap0-2", "attached");
        daemon.wait_network("blue", "ready");
        serve(&internet, "0.0.0.0:80");
        assert_eq!(seen_by(&guest, "192.0.2.1:80"), ip("10.0.0.5"));
        assert_eq!(seen_by(&famous, "192.0.2.1:80"), ip("10.0.0.6"));
        assert_eq!(seen_by(&guest, "198.51.100.1:80"), ip("198.51.100.7"));
        assert_eq!(seen_by(&famous, "198.51.100.1:80"), ip("198.51.100.20"));
    });
}

#[test]
fn with_another_router_only_the_forced_range_is_translated() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat, Feature::Program("dnsmasq"));
        let (host, internet) = host_and_internet();
        internet.ip("address add 192.0.2.1/32 dev lo");
        host.ip("route add 192.0.2.1 via 198.51.100.1");
        internet.ip("route add 10.0.0.0/24 via 198.51.100.7");
        let keys = "snat = { address = \"198.51.100.7\" }\nforce_snat_range = [\"192.0.2.0/24\"]\n\
                    [network.dhcp]\nrouter = \"10.0.0.254\"";
        let daemon = Daemon::spawn(&host, &blue("", keys, ""));
        let guest = machine(&host, "tap0-1", "10.0.0.5");
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_network("blue", "ready");
        serve(&internet, "0.0.0.0:80");
        assert_eq!(seen_by(&guest, "192.0.2.1:80"), ip("198.51.100.7"));
        assert_eq!(seen_by(&guest, "198.51.100.1:80"), ip("10.0.0.5"));
    });
}

/// Internet and a second outside, `nic1`, with the machines' routes known everywhere.
fn two_outsides() -> (Host, Host, Host) {
    let (host, internet) = host_and_internet();
    let office = Host::new();
    host.join("nic1", &office, "eth0");
    host.ip("address add 203.0.113.7/24 dev nic1");
    office.ip("address add 203.0.113.1/24 dev eth0");
    office.ip("route add default via 203.0.113.7");
    internet.ip("route add 10.0.0.0/16 via 198.51.100.7");
    serve(&internet, "198.51.100.1:80");
    serve(&office, "203.0.113.1:80");
    (host, internet, office)
}

#[test]
fn a_forward_list_holds_both_ways_and_between_networks() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        let (host, internet, office) = two_outsides();
        let list = |blue_list: &str, red_list: &str| {
            let red = RED.replace("GATEWAY", &format!("forward = {red_list}"));
            blue("", &format!("forward = {blue_list}"), &red)
        };
        let daemon = Daemon::spawn(&host, &list("[\"nic0\"]", "[]"));
        let guest = machine(&host, "tap0-1", "10.0.0.5");
        let neighbour = machine(&host, "tap0-2", "10.0.0.6");
        let stranger = machine(&host, "tap1-1", "10.0.1.5");
        for (machine, tap, at) in [
            (&guest, "tap0-1", "10.0.0.5:80"),
            (&neighbour, "tap0-2", "10.0.0.6:80"),
            (&stranger, "tap1-1", "10.0.1.5:80"),
        ] {
            daemon.wait_port(tap, "attached");
            serve(machine, at);
        }
        let to = ["198.51.100.1:80", "203.0.113.1:80", "10.0.1.5:80", "10.0.0.6:80"];
        let passes = |from: &Host| to.map(|to| seen_by(from, to).is_some());
        let into = |from: &Host| ["10.0.0.5:80", "10.0.1.5:80"].map(|to| seen_by(from, to).is_some());
        let ready = |daemon: &Daemon| {
            daemon.wait_network("blue", "ready");
            daemon.wait_network("red", "ready");
        };
        ready(&daemon);
        // Out, and in; the host itself reaches everybody.
        assert_eq!(passes(&guest), [true, false, false, true]);
        assert_eq!((into(&internet), into(&office)), ([true, false], [false, false]));
        assert_eq!(into(&host), [true, true]);
        // One side's list is not enough.
        daemon.reload(&list("[\"brqred\", \"nic1\"]", "[]"));
        ready(&daemon);
        wait_until("the list is in force", SOON, || seen_by(&guest, to[1]).is_some());
        assert_eq!(passes(&guest), [false, true, false, true]);
        assert_eq!((into(&internet), into(&office)), ([false, false], [true, false]));
        assert_eq!(seen_by(&stranger, "10.0.0.5:80"), None);
        // Both are.
        daemon.reload(&list("[\"brqred\", \"nic1\"]", "[\"brqblue\"]"));
        ready(&daemon);
        wait_until("the list is in force", SOON, || seen_by(&guest, to[2]).is_some());
        assert_eq!(seen_by(&stranger, "10.0.0.5:80"), ip("10.0.1.5"));
        // All.
        daemon.reload(&list("[\"all\"]", "[\"all\"]"));
        ready(&daemon);
        wait_until("everything passes", SOON, || passes(&guest) == [true; 4]);
        assert_eq!((into(&internet), into(&office)), ([true, true], [true, true]));
        daemon.assert_nothing_planned();
    });
}
