//! IPv6: a gateway by a real address, translation where it is asked for, floating addresses, and what forwarding costs the host.

use super::*;

const GATEWAY: &str = "fd00:0:0:1::1/64";

fn six(gateway: &str, rest: &str) -> String {
    blue("", gateway, rest).replace("10.0.0.1/24", GATEWAY)
}

/// As `host_and_internet`, with 2001:db8::7 and 2001:db8::1.
fn host_and_internet6() -> (Host, Host) {
    let (host, internet) = (Host::here(), Host::new());
    host.join("nic0", &internet, "eth0");
    host.ip("-6 address add 2001:db8::7/64 dev nic0 nodad");
    internet.ip("-6 address add 2001:db8::1/64 dev eth0 nodad");
    host.ip("-6 route add default via 2001:db8::1 dev nic0");
    (host, internet)
}

fn machine6(host: &Host, tap: &str, address: &str) -> Host {
    let machine = Host::new();
    host.join(tap, &machine, "eth0");
    machine.ip(&format!("-6 address add {address}/64 dev eth0 nodad"));
    machine.ip("-6 route add default via fd00:0:0:1::1 dev eth0");
    machine
}

#[test]
fn ipv6_machines_are_translated_when_told_and_reached_by_floating_addresses() {
    in_namespace(|| {
        require!(
            Feature::Veth,
            Feature::Nat,
            Feature::Ipv6,
            Feature::Program("conntrack")
        );
        let (host, internet) = host_and_internet6();
        let before = footprint(&host);
        let rest = "[[floating_ip]]\naddress = \"2001:db8::20\"\nfixed_address = \"fd00:0:0:1::5\"\n\
             [[port_forward]]\nprotocol = \"tcp\"\naddress = \"2001:db8::7\"\nport = 8080\nfixed_address = \"fd00:0:0:1::6\"\nfixed_port = 80\n\
             [[port]]\ntap = \"tap0-1\"\nnetwork = \"blue\"\naddresses = [\"fd00:0:0:1::5\"]\n";
        let snat = "snat = { interface = \"nic0\", address6 = \"masquerade\" }";
        let mut daemon = Daemon::spawn(&host, &six(snat, rest));
        let guest = machine6(&host, "tap0-1", "fd00:0:0:1::5");
        let neighbour = machine6(&host, "tap0-2", "fd00:0:0:1::6");
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_port("tap0-2", "attached");
        daemon.wait_network("blue", "ready");
        serve(&guest, "[::]:80");
        serve(&neighbour, "[::]:80");
        serve(&internet, "[::]:80");
        let web = "[2001:db8::1]:80";
        let float = "[2001:db8::20]:80";
        for _ in 0..2 {
            assert_eq!(seen_by(&neighbour, web), ip("2001:db8::7"));
            assert_eq!(seen_by(&guest, web), ip("2001:db8::20"));
            assert_eq!(seen_by(&internet, float), ip("2001:db8::1"));
            assert!(seen_by(&host, float).is_some());
            assert_eq!(seen_by(&neighbour, float), ip("fd00:0:0:1::1"));
            assert_eq!(seen_by(&guest, float), ip("2001:db8::20"));
            assert_eq!(seen_by(&internet, "[2001:db8::7]:8080"), ip("2001:db8::1"));
        }
        // The host itself does not speak from the floating address.
        assert_eq!(seen_by(&host, web), ip("2001:db8::7"));
        daemon.assert_nothing_planned();

        // Over a restart, and cut when it goes.
        let mut flow = Flow::begin(&internet, float).expect("a connection");
        let mut other = Flow::begin(&neighbour, web).expect("a connection");
        daemon.kill();
        daemon.start();
        daemon.wait_in_sync();
        daemon.wait_network("blue", "ready");
        assert!(flow.lives() && other.lives());
        daemon.reload(&six(snat, ""));
        wait_until("the flow is cut", SOON, || {
            !host.run("conntrack -L -f ipv6").contains("2001:db8::20")
        });
        assert!(!flow.lives() && other.lives());
        for tap in ["tap0-1", "tap0-2"] {
            host.ip(&format!("link del {tap}"));
        }
        daemon.reload(NOTHING);
        wait_for(&host, &before);
    });
}

#[test]
fn without_being_told_ipv6_is_routed_and_not_translated() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat, Feature::Ipv6);
        let (host, internet) = host_and_internet6();
        internet.ip("-6 route add fd00:0:0:1::/64 via 2001:db8::7");
        let daemon = Daemon::spawn(&host, &six("", ""));
        let guest = machine6(&host, "tap0-1", "fd00:0:0:1::5");
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_network("blue", "ready");
        serve(&internet, "[::]:80");
        assert_eq!(seen_by(&guest, "[2001:db8::1]:80"), ip("fd00:0:0:1::5"));
    });
}

#[test]
fn a_host_with_a_route_by_advertisement_keeps_it_when_it_forwards() {
    in_namespace(|| {
        require!(
            Feature::Veth,
            Feature::Nat,
            Feature::Ipv6,
            Feature::Program("dnsmasq")
        );
        let (host, internet) = (Host::here(), Host::new());
        host.join("nic0", &internet, "eth0");
        internet.ip("-6 address add 2001:db8::1/64 dev eth0 nodad");
        let mut server = internet.command("dnsmasq");
        let mut server = server
            .args([
                "-k",
                "--conf-file=/dev/null",
                "-p",
                "0",
                "--pid-file=",
                "--leasefile-ro",
            ])
            .args([
                "--interface=eth0",
                "--enable-ra",
                "--dhcp-range=2001:db8::,ra-only",
                "--ra-param=eth0,4",
            ])
            .args(["--user=root"])
            .spawn()
            .expect("dnsmasq");
        wait_until(
            "a default route by advertisement",
            Duration::from_secs(30),
            || host.ip("-6 route show default").contains("proto ra"),
        );
        let daemon = host.daemon(&six("", "").replace(
            "network_type = \"local\"",
            "network_type = \"local\"\nprewarm = true",
        ));
        daemon.wait_network("blue", "ready");
        assert_eq!(host.sysctl("ipv6/conf/all/forwarding"), "1");
        assert_eq!(host.sysctl("ipv6/conf/nic0/accept_ra"), "2");
        assert_eq!(host.sysctl("ipv6/conf/brqblue/accept_ra"), "0");
        // Switching forwarding on flushed it; the next advertisement is believed.
        wait_until("the default route is there", Duration::from_secs(30), || {
            host.ip("-6 route show default").contains("proto ra")
        });
        daemon.reload(NOTHING);
        wait_until("accept_ra is as before", SOON, || {
            host.sysctl("ipv6/conf/nic0/accept_ra") == "1" && host.sysctl("ipv6/conf/all/forwarding") == "0"
        });
        server.kill().expect("end dnsmasq");
        server.wait().expect("wait for dnsmasq");
    });
}
