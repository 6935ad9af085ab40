//! DHCP, DNS and router advertisements of a network, as the daemon keeps them.

mod boot;
mod left_behind;
mod others;
mod story;

use crate::support::daemon::Daemon;
use crate::support::feature::{Feature, require};
use crate::support::guest::{Guest, VM1, VM2};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

const BLUE: &str = r#"
[daemon]
prune_after = "never"
[[network]]
id = "blue"
network_type = "local"
prewarm = true
[network.gateway]
addresses = ["10.0.0.1/24"]
[network.dhcp]
domain = "blue.example"
dns_servers = []
[[port]]
tap = "tap1"
network = "blue"
mac = "52:54:00:00:00:01"
addresses = ["10.0.0.71"]
hostname = "vm1"
"#;

const VM2_PORT: &str = r#"
[[port]]
tap = "tap2"
network = "blue"
mac = "52:54:00:00:00:02"
addresses = ["10.0.0.72"]
hostname = "vm2"
"#;

/// A process that ends with this handle, and with the test however that ends.
struct Running(Child);

impl Running {
    #[track_caller]
    fn spawn(command: &mut Command) -> Self {
        // SAFETY: between fork and exec only the prctl system call.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        Self(command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }

    fn runs(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The host with a way out of both families, and the internet, which knows no route to machines.
fn host_with_internet() -> (Host, Host) {
    let (host, internet) = (Host::here(), Host::new());
    host.join("nic0", &internet, "eth0");
    host.ip("address add 198.51.100.7/24 dev nic0");
    host.ip("address add 2001:db8::7/64 dev nic0 nodad");
    host.ip("route add default via 198.51.100.1");
    internet.ip("address add 198.51.100.1/24 dev eth0");
    internet.ip("address add 2001:db8::1/64 dev eth0 nodad");
    (host, internet)
}

/// The dnsmasq processes of this daemon's networks.
fn servers(daemon: &Daemon) -> Vec<u32> {
    let ours = daemon.path("state/dnsmasq").to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").expect("processes").flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.contains(&ours)
        })
        .collect()
}

/// Until so many run and have opened everything.
#[track_caller]
fn wait_servers(daemon: &Daemon, count: usize) {
    wait_until(&format!("{count} servers run"), PATIENCE, || {
        let metrics = daemon.output(&["metrics"]).stdout;
        String::from_utf8_lossy(&metrics).contains(&format!("tapwire_services{{state=\"running\"}} {count}"))
    });
}

/// The process that serves a network and has opened everything.
fn server(daemon: &Daemon, id: &str) -> Option<u32> {
    let server = &daemon.json(&["network", "show", id])["server"];
    let pid = server["pid"].as_u64()?;
    (server["state"] == "running").then(|| u32::try_from(pid).expect("a process id"))
}

/// Until blue is served; by which process.
#[track_caller]
fn wait_running(daemon: &Daemon) -> u32 {
    let mut running = None;
    wait_until("blue is served", PATIENCE, || {
        running = server(daemon, "blue");
        running.is_some()
    });
    running.expect("a process id")
}

#[test]
fn a_network_with_dhcp_serves_its_ports_over_restarts_and_leaves_nothing_when_it_goes() {
    in_namespace(|| {
        require!(
            Feature::Tap,
            Feature::Nat,
            Feature::Program("dnsmasq"),
            Feature::Program("udhcpc")
        );
        let host = Host::here();
        let mut daemon = host.daemon(BLUE);
        let first = wait_running(&daemon);
        let vm1 = Guest::start(&host, "tap1", VM1);
        host.wait_attached("tap1", "brqblue");
        let lease = vm1.dhcp4(&[]).expect("a lease");
        assert_eq!(lease.get("ip"), Some("10.0.0.71"));
        assert_eq!(lease.get("router"), Some("10.0.0.1"));
        let dns = "10.0.0.1".parse().expect("an address");
        assert_eq!(
            vm1.resolve("vm1.blue.example", dns),
            ["10.0.0.71".parse::<std::net::IpAddr>().unwrap()]
        );
        wait_until("the lease is in the tap's story", PATIENCE, || {
            let story = daemon.json(&["explain", "tap1"]).to_string();
            story.contains("lease added: 10.0.0.71")
        });

        // A new port is served by the process that runs.
        daemon.reload(&format!("{BLUE}{VM2_PORT}"));
        let vm2 = Guest::start(&host, "tap2", VM2);
        host.wait_attached("tap2", "brqblue");
        wait_until("vm2 has its address", PATIENCE, || {
            vm2.dhcp4(&[])
                .is_some_and(|lease| lease.get("ip") == Some("10.0.0.72"))
        });
        assert_eq!(wait_running(&daemon), first);

        // Killed, it leaves no orphan, and the next one knows the leases.
        daemon.kill();
        wait_until("no orphan", PATIENCE, || servers(&daemon).is_empty());
        daemon.start();
        daemon.wait_in_sync();
        let second = wait_running(&daemon);
        assert_ne!(second, first);
        assert_eq!(vm1.dhcp4(&[]).expect("a lease").get("ip"), Some("10.0.0.71"));

        // Without the port the lease is released; without DHCP nothing is left.
        daemon.reload(BLUE);
        wait_until("vm2's lease is released", PATIENCE, || {
            let leases = std::fs::read_to_string(daemon.path("state/dnsmasq/net-blue/leases"));
            leases.is_ok_and(|text| text.contains("10.0.0.71") && !text.contains("10.0.0.72"))
        });
        let without = BLUE.replace(
            "[network.dhcp]\ndomain = \"blue.example\"\ndns_servers = []\n",
            "",
        );
        daemon.reload(&without);
        wait_until("no server", PATIENCE, || servers(&daemon).is_empty());
        wait_until("no files", PATIENCE, || {
            !daemon.path("state/dnsmasq/net-blue").exists()
        });
    });
}

#[test]
fn a_server_survives_its_bridge_and_an_emptier_configuration_sweeps_what_a_killed_daemon_left() {
    in_namespace(|| {
        require!(
            Feature::Tap,
            Feature::Nat,
            Feature::Program("dnsmasq"),
            Feature::Program("udhcpc")
        );
        let host = Host::here();
        let mut daemon = host.daemon(BLUE);
        let first = wait_running(&daemon);
        host.ip("link del dev brqblue");
        wait_until("a new process serves the new bridge", PATIENCE, || {
            wait_running(&daemon) != first
        });
        let vm1 = Guest::start(&host, "tap1", VM1);
        host.wait_attached("tap1", "brqblue");
        wait_until("a lease", PATIENCE, || vm1.dhcp4(&[]).is_some());
        daemon.kill();
        daemon.write_configuration("[daemon]\nprune_after = \"never\"\n");
        daemon.start();
        daemon.wait_in_sync();
        wait_until("no files", PATIENCE, || {
            !daemon.path("state/dnsmasq/net-blue").exists()
        });
        assert!(servers(&daemon).is_empty());
    });
}

#[test]
fn a_network_without_dhcp_starts_nothing_and_makes_no_directory() {
    in_namespace(|| {
        let host = Host::here();
        let daemon = host.daemon(super::TWO_NETWORKS);
        assert!(!Path::new(&daemon.path("state/dnsmasq")).exists());
        let pid = daemon.pid();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
            .expect("threads")
            .flatten();
        let mut names = tasks.filter_map(|t| std::fs::read_to_string(t.path().join("comm")).ok());
        assert!(!names.any(|name| name.trim() == "service"));
    });
}

#[test]
fn a_lease_is_told_to_plugins() {
    in_namespace(|| {
        require!(
            Feature::Tap,
            Feature::Nat,
            Feature::Program("dnsmasq"),
            Feature::Program("udhcpc")
        );
        let host = Host::here();
        let daemon = host.daemon(BLUE);
        daemon.write_file(
            "leases.lua",
            "return { api = 1, lease = function(ctx)\n  assert(ctx.lease.what == 'added' and ctx.link.name == 'tap1')\n  \
             assert(ctx.lease.address == '10.0.0.71' and ctx.lease.hostname == 'vm1')\nend }",
        );
        daemon.reload(&format!("{BLUE}\n[policy]\nplugins = [\"leases.lua\"]\n"));
        wait_running(&daemon);
        let vm1 = Guest::start(&host, "tap1", VM1);
        host.wait_attached("tap1", "brqblue");
        assert!(vm1.dhcp4(&[]).is_some());
        wait_until("the plugin was told", PATIENCE, || {
            daemon.counter("hook_calls") == 1
        });
        assert_eq!(daemon.counter("hook_errors"), 0);
    });
}
