//! Two networks: what one says or suffers is nothing to the other.

use super::{BLUE, PATIENCE, VM2_PORT, server, wait_servers};
use crate::support::daemon::Daemon;
use crate::support::feature::{Feature, require};
use crate::support::guest::{Guest, VM1, VM2};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::fs;
use std::net::{IpAddr, UdpSocket};

/// Other options than blue's, or none where blue has some.
const RED: &str = r#"
[[network]]
id = "red"
network_type = "local"
[network.gateway]
addresses = ["10.1.0.1/24"]
[network.dhcp]
dns_servers = []
lease_time = "2h"
mtu = 1300
routes = ["192.0.2.0/24 via 10.1.0.9"]
router = "none"
[[port]]
tap = "tap2"
network = "red"
mac = "52:54:00:00:00:02"
addresses = ["10.1.0.72"]
hostname = "vm2"
"#;

fn kill(pid: u32) {
    // SAFETY: takes no pointers; a process that the daemon said is running.
    let killed = unsafe { libc::kill(libc::pid_t::try_from(pid).expect("a process id"), libc::SIGKILL) };
    let error = std::io::Error::last_os_error();
    assert!(
        killed == 0 || error.raw_os_error() == Some(libc::ESRCH),
        "{error}"
    );
}

/// Another process than `pid` serves; which one.
#[track_caller]
fn wait_replaced(daemon: &Daemon, id: &str, pid: u32) -> u32 {
    let mut now = None;
    wait_until(&format!("another process serves {id}"), PATIENCE, || {
        now = server(daemon, id).filter(|now| *now != pid);
        now.is_some()
    });
    now.expect("a process id")
}

fn metric(daemon: &Daemon, name: &str) -> u64 {
    let page = String::from_utf8(daemon.output(&["metrics"]).stdout).expect("text");
    let value = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {name}:\n{page}"))
}

#[test]
fn what_is_done_to_one_server_heals_or_is_told_and_the_other_does_not_notice() {
    in_namespace(|| {
        require!(
            Feature::Tap,
            Feature::Nat,
            Feature::Program("dnsmasq"),
            Feature::Program("udhcpc")
        );
        let host = Host::here();
        let daemon = host.daemon(&format!("{BLUE}{RED}"));
        wait_servers(&daemon, 2);
        let other = server(&daemon, "red").expect("red is served");
        let vm1 = Guest::start(&host, "tap1", VM1);
        host.wait_attached("tap1", "brqblue");
        vm1.wait_lease("10.0.0.71");

        let mut pid = server(&daemon, "blue").expect("blue is served");
        kill(pid);
        pid = wait_replaced(&daemon, "blue", pid);
        assert_eq!(metric(&daemon, "tapwire_service_failures_total"), 1);
        vm1.wait_lease("10.0.0.71");

        let folder = daemon.path("state/dnsmasq/net-blue");
        // In one go: a file that goes alone is back before the next one is looked at.
        let gone = daemon.path("gone");
        fs::rename(&folder, &gone).expect("take blue's directory away");
        fs::remove_dir_all(&gone).expect("remove blue's directory");
        pid = wait_replaced(&daemon, "blue", pid);
        assert!(fs::read_to_string(folder.join("leases")).is_ok_and(|text| text.contains("10.0.0.71")));
        fs::write(folder.join("dnsmasq.conf"), "port=0\n").expect("change blue's configuration");
        pid = wait_replaced(&daemon, "blue", pid);
        assert!(fs::read_to_string(folder.join("dnsmasq.conf")).is_ok_and(|text| text.contains("brqblue")));
        vm1.wait_lease("10.0.0.71");

        // Its port is taken while it is down for a moment.
        let taken = loop {
            match UdpSocket::bind("10.0.0.1:53") {
                Ok(socket) => break socket,
                Err(_) => kill(server(&daemon, "blue").unwrap_or(pid)),
            }
        };
        wait_until("the reason is told", PATIENCE, || {
            let blue = daemon.network("blue");
            let reason = blue["reason"].to_string();
            blue["state"] == "failed" && reason.contains("10.0.0.1: Address already in use")
        });
        assert_eq!(daemon.network("red")["state"], "ready");
        // A tap is attached all the same.
        assert!(host.is_attached("tap1", "brqblue"));
        drop(taken);
        daemon.wait_network("blue", "ready");
        wait_servers(&daemon, 2);
        vm1.wait_lease("10.0.0.71");
        assert_eq!(server(&daemon, "red"), Some(other));
    });
}

#[test]
fn networks_do_not_leak_options_names_or_leases_into_each_other() {
    in_namespace(|| {
        require!(
            Feature::Tap,
            Feature::Nat,
            Feature::Program("dnsmasq"),
            Feature::Program("udhcpc")
        );
        let host = Host::here();
        let blue = BLUE.replace("dns_servers = []", "dns_servers = [\"192.0.2.53\"]");
        let daemon = host.daemon(&format!("{blue}{RED}"));
        wait_servers(&daemon, 2);
        let (vm1, vm2) = (Guest::start(&host, "tap1", VM1), Guest::start(&host, "tap2", VM2));
        host.wait_attached("tap1", "brqblue");
        host.wait_attached("tap2", "brqred");
        let (of_blue, of_red) = (vm1.wait_lease("10.0.0.71"), vm2.wait_lease("10.1.0.72"));
        for (key, here, there) in [
            ("domain", Some("blue.example"), None),
            ("router", Some("10.0.0.1"), None),
            ("lease", Some("86400"), Some("7200")),
            ("mtu", None, Some("1300")),
            ("staticroutes", None, Some("192.0.2.0/24 10.1.0.9")),
            ("dns", Some("10.0.0.1"), Some("10.1.0.1")),
            ("hostname", Some("vm1"), Some("vm2")),
        ] {
            assert_eq!((of_blue.get(key), of_red.get(key)), (here, there), "{key}");
        }
        // Also not what is only asked from elsewhere, and nothing of the host's own.
        let of_red =
            fs::read_to_string(daemon.path("state/dnsmasq/net-red/dnsmasq.conf")).expect("red's file");
        assert!(
            !of_red.contains("server=") && !of_red.contains("blue"),
            "{of_red}"
        );
        let [at_blue, at_red] = ["10.0.0.1", "10.1.0.1"].map(|ip| ip.parse::<IpAddr>().expect("an address"));
        assert_eq!(vm2.resolve("localhost", at_red), Vec::<IpAddr>::new());
        let own = fs::read_to_string("/proc/sys/kernel/hostname").expect("a host name");
        assert_eq!(vm2.resolve(own.trim(), at_red), Vec::<IpAddr>::new());
        assert_eq!(vm1.resolve("vm2.blue.example", at_blue), Vec::<IpAddr>::new());
        assert_eq!(vm2.resolve("vm1", at_red), Vec::<IpAddr>::new());
        assert_eq!(vm2.resolve("vm1.blue.example", at_red), Vec::<IpAddr>::new());
        assert_eq!(
            vm2.resolve("vm2", at_red),
            ["10.1.0.72".parse::<IpAddr>().expect("an address")]
        );
        // The same machine moved to blue is another one there, and its address in red is free again.
        let before = server(&daemon, "red").expect("red is served");
        daemon.reload(&format!(
            "{BLUE}{VM2_PORT}{}",
            RED.split("[[port]]").next().expect("a network")
        ));
        host.wait_attached("tap2", "brqblue");
        vm2.wait_lease("10.0.0.72");
        wait_until("red has no lease", PATIENCE, || {
            server(&daemon, "red").is_some_and(|now| now != before)
                && daemon.json(&["network", "show", "red"])["leases"].is_null()
        });
    });
}
