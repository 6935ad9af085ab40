//! The supervised dnsmasq by itself: `tapwire::service` against the real program, with real clients behind taps.

use crate::support::feature::{Feature, require};
use crate::support::guest::{Guest, VM1, VM2};
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tapwire::desired::service::{Advertise, Reservation, ServedPrefix, ServiceWant};
use tapwire::model::{Ifindex, LinkName, NetworkId};
use tapwire::service::{Command, Event, Lease, LeaseWhat, Service, Settings, State};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const TAPWIRE: &str = env!("CARGO_BIN_EXE_tapwire");
const PATIENCE: Duration = Duration::from_secs(20);

/// The service with what it said so far.
struct Rig {
    runtime: Runtime,
    service: Option<Service>,
    folder: TempDir,
    states: BTreeMap<String, State>,
    leases: Vec<Lease>,
}

impl Rig {
    fn new() -> Self {
        let mut rig = Self {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
            service: None,
            folder: TempDir::new().unwrap(),
            states: BTreeMap::new(),
            leases: Vec::new(),
        };
        rig.start();
        rig
    }

    fn start(&mut self) {
        self.service = Some(
            Service::start(Settings {
                directory: self.folder.path().join("dnsmasq"),
                lease_program: PathBuf::from(TAPWIRE),
            })
            .unwrap(),
        );
        self.states.clear();
    }

    fn serve(&self, host: &Host, id: &str, want: &ServiceWant) {
        let index = host.link(&want.interface.to_string()).unwrap()["ifindex"].as_u64();
        self.tell(Command::Serve {
            network: network(id),
            device: Ifindex::new(u32::try_from(index.unwrap()).unwrap()).unwrap(),
            want: Box::new(want.clone()),
        });
    }

    fn tell(&self, command: Command) {
        self.service.as_ref().unwrap().tell(command);
    }

    /// Reads events until `reached`.
    #[track_caller]
    fn until(&mut self, what: &str, mut reached: impl FnMut(&Self) -> bool) {
        let begin = Instant::now();
        while !reached(self) {
            assert!(
                begin.elapsed() < PATIENCE,
                "{what}: {:?} {:?}",
                self.states,
                self.leases
            );
            let service = self.service.as_mut().unwrap();
            let event = self
                .runtime
                .block_on(async { tokio::time::timeout(Duration::from_millis(20), service.event()).await });
            match event {
                Ok(Event::State { network, state }) => drop(self.states.insert(network.to_string(), state)),
                Ok(Event::Lease(lease)) => self.leases.push(lease),
                Err(_) => {}
            }
        }
    }

    #[track_caller]
    fn until_running(&mut self, id: &str) -> u32 {
        self.until("runs", |rig| rig.pid(id).is_some());
        self.pid(id).unwrap()
    }

    /// Another process than `pid` runs.
    #[track_caller]
    fn until_replaced(&mut self, id: &str, pid: u32) -> u32 {
        self.until("a new process runs", |rig| {
            rig.pid(id).is_some_and(|now| now != pid)
        });
        self.pid(id).unwrap()
    }

    #[track_caller]
    fn until_lease(&mut self, what: LeaseWhat, address: &str) {
        let address: IpAddr = address.parse().unwrap();
        self.until("the lease is told", |rig| {
            rig.leases.iter().any(|l| l.what == what && l.address == address)
        });
    }

    fn pid(&self, id: &str) -> Option<u32> {
        match self.states.get(id) {
            Some(State::Running { pid }) => Some(*pid),
            _ => None,
        }
    }

    fn path(&self, id: &str, name: &str) -> PathBuf {
        self.folder
            .path()
            .join("dnsmasq")
            .join(format!("net-{id}"))
            .join(name)
    }
}

fn network(id: &str) -> NetworkId {
    NetworkId::new(id).unwrap()
}

/// A bridge with a gateway address of each family.
fn bridge(host: &Host, name: &str, third: u8) {
    host.ip(&format!(
        "link add {name} type bridge forward_delay 0 mcast_snooping 0"
    ));
    host.ip(&format!("link set {name} up"));
    host.ip(&format!("address add 10.0.{third}.1/24 dev {name}"));
    host.ip(&format!("address add fd00:{third}::1/64 dev {name} nodad"));
}

fn guest(host: &Host, bridge: &str, tap: &str, mac: &str) -> Guest {
    let guest = Guest::start(host, tap, mac);
    host.ip(&format!("link set {tap} master {bridge}"));
    host.ip(&format!("link set {tap} up"));
    guest
}

fn want(bridge: &str, third: u8) -> ServiceWant {
    let prefix = |address: String, length| ServedPrefix {
        address: address.parse().unwrap(),
        length,
        ranges: Vec::new(),
        dhcp: true,
    };
    ServiceWant {
        interface: LinkName::new(bridge).unwrap(),
        prefixes: vec![
            prefix(format!("10.0.{third}.1"), 24),
            prefix(format!("fd00:{third}::1"), 64),
        ],
        lease_time: Some(Duration::from_secs(3600)),
        dns_servers: Some(Vec::new()),
        domain: Some(format!("{bridge}.example").into()),
        mtu: Some(1400),
        router: Some(Ipv4Addr::new(10, 0, third, 1)),
        routes: Vec::new(),
        advertise: Some(Advertise {
            slaac: false,
            interval: Duration::from_secs(600),
            lifetime: Duration::from_secs(1800),
        }),
        authoritative: true,
        reservations: BTreeMap::new(),
    }
}

fn reserve(want: &mut ServiceWant, port: &str, mac: &str, addresses: &[&str], hostname: &str) {
    want.reservations.insert(
        port.into(),
        Reservation {
            mac: mac.parse().unwrap(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            hostname: Some(hostname.into()),
        },
    );
}

fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// One that has just ended by itself, and was waited for, is as good as killed.
fn kill(pid: u32) {
    // SAFETY: takes no pointers; a process that the service said is running.
    let killed = unsafe { libc::kill(libc::pid_t::try_from(pid).unwrap(), libc::SIGKILL) };
    let error = std::io::Error::last_os_error();
    assert!(
        killed == 0 || error.raw_os_error() == Some(libc::ESRCH),
        "{error}"
    );
}

#[test]
fn a_machine_gets_its_reservation_in_both_families_and_names_resolve() {
    in_namespace(|| {
        require!(
            Feature::Tap,
            Feature::Ipv6,
            Feature::Program("dnsmasq"),
            Feature::Program("udhcpc"),
            Feature::Program("dhclient"),
        );
        let host = Host::here();
        bridge(&host, "br0", 0);
        let mut want = want("br0", 0);
        want.routes = vec![(Ipv4Addr::new(192, 0, 2, 0), 24, Ipv4Addr::new(10, 0, 0, 9))];
        reserve(&mut want, "p1", VM1, &["10.0.0.71", "fd00:0::71"], "vm1");
        reserve(&mut want, "p2", VM2, &["10.0.0.72", "fd00:0::72"], "vm2");
        let mut rig = Rig::new();
        rig.serve(&host, "blue", &want);
        rig.until_running("blue");
        let vm1 = guest(&host, "br0", "tap1", VM1);
        let lease = vm1.dhcp4(&[]).expect("a lease");
        assert_eq!(lease.get("ip"), Some("10.0.0.71"));
        assert_eq!(lease.get("router"), Some("10.0.0.1"));
        assert_eq!(lease.get("dns"), Some("10.0.0.1"));
        assert_eq!(lease.get("mtu"), Some("1400"));
        assert_eq!(lease.get("domain"), Some("br0.example"));
        assert_eq!(lease.get("hostname"), Some("vm1"));
        assert_eq!(lease.get("lease"), Some("3600"));
        assert_eq!(
            lease.get("staticroutes"),
            Some("192.0.2.0/24 10.0.0.9 0.0.0.0/0 10.0.0.1")
        );
        rig.until_lease(LeaseWhat::Added, "10.0.0.71");
        let told = &rig.leases[0];
        assert_eq!(told.mac.unwrap().to_string(), VM1);
        assert_eq!(told.hostname.as_deref(), Some("vm1"));
        assert_eq!(vm1.dhcp6(), Some("fd00:0::71".parse().unwrap()));
        rig.until_lease(LeaseWhat::Added, "fd00:0::71");
        // vm2 never asked for anything, and has a name all the same. The host's own names are nobody's business.
        let dns = "10.0.0.1".parse().unwrap();
        for name in ["vm2", "vm2.br0.example"] {
            let both = ["10.0.0.72", "fd00:0::72"].map(|a| a.parse::<IpAddr>().unwrap());
            assert_eq!(vm1.resolve(name, dns), both, "{name}");
        }
        assert_eq!(vm1.resolve("nobody.br0.example", dns), Vec::<IpAddr>::new());
        let stranger = guest(&host, "br0", "tap9", "52:54:00:00:00:99");
        assert!(stranger.dhcp4(&["-t", "2"]).is_none());
    });
}

#[test]
fn a_new_port_is_served_without_a_restart_and_one_that_goes_frees_its_address() {
    in_namespace(|| {
        require!(
            Feature::Tap,
            Feature::Program("dnsmasq"),
            Feature::Program("udhcpc")
        );
        let host = Host::here();
        bridge(&host, "br0", 0);
        let mut want = want("br0", 0);
        let mut rig = Rig::new();
        rig.serve(&host, "blue", &want);
        let first = rig.until_running("blue");
        reserve(&mut want, "p1", VM1, &["10.0.0.71"], "vm1");
        rig.serve(&host, "blue", &want);
        let vm1 = guest(&host, "br0", "tap1", VM1);
        wait_until("vm1 has its address", PATIENCE, || {
            vm1.dhcp4(&[])
                .is_some_and(|lease| lease.get("ip") == Some("10.0.0.71"))
        });
        rig.until_lease(LeaseWhat::Added, "10.0.0.71");
        assert_eq!(rig.until_running("blue"), first);
        // Its address goes to another machine: at once, and to nobody else.
        want.reservations.clear();
        reserve(&mut want, "p2", VM2, &["10.0.0.71"], "vm2");
        rig.serve(&host, "blue", &want);
        let second = rig.until_replaced("blue", first);
        rig.until_lease(LeaseWhat::Ended, "10.0.0.71");
        assert!(!alive(first));
        let vm2 = guest(&host, "br0", "tap2", VM2);
        assert_eq!(vm2.dhcp4(&[]).expect("a lease").get("ip"), Some("10.0.0.71"));
        assert!(vm1.dhcp4(&["-t", "2"]).is_none());
        // Another option: another process, the same leases.
        want.mtu = Some(1300);
        rig.serve(&host, "blue", &want);
        rig.until_replaced("blue", second);
        rig.until_lease(LeaseWhat::Changed, "10.0.0.71");
        assert_eq!(vm2.dhcp4(&[]).expect("a lease").get("mtu"), Some("1300"));
    });
}

#[test]
fn a_machine_without_a_reservation_is_served_from_a_range() {
    in_namespace(|| {
        require!(
            Feature::Tap,
            Feature::Program("dnsmasq"),
            Feature::Program("udhcpc")
        );
        let host = Host::here();
        bridge(&host, "br0", 0);
        let mut want = want("br0", 0);
        want.prefixes[0].ranges = vec![("10.0.0.100".parse().unwrap(), "10.0.0.100".parse().unwrap())];
        let mut rig = Rig::new();
        rig.serve(&host, "blue", &want);
        rig.until_running("blue");
        let vm1 = guest(&host, "br0", "tap1", VM1);
        assert_eq!(vm1.dhcp4(&[]).expect("a lease").get("ip"), Some("10.0.0.100"));
    });
}

#[test]
fn what_happens_to_one_server_heals_or_is_told_and_the_others_do_not_notice() {
    in_namespace(|| {
        require!(
            Feature::Tap,
            Feature::Program("dnsmasq"),
            Feature::Program("udhcpc")
        );
        let host = Host::here();
        bridge(&host, "br0", 0);
        bridge(&host, "br1", 1);
        let mut rig = Rig::new();
        let mut blue = want("br0", 0);
        blue.prefixes[0].ranges = vec![("10.0.0.100".parse().unwrap(), "10.0.0.199".parse().unwrap())];
        let red = want("br1", 1);
        rig.serve(&host, "blue", &blue);
        rig.serve(&host, "red", &red);
        let mut pid = rig.until_running("blue");
        let other = rig.until_running("red");
        let vm1 = guest(&host, "br0", "tap1", VM1);
        let address = vm1.dhcp4(&[]).expect("a lease").get("ip").unwrap().to_owned();
        rig.until_lease(LeaseWhat::Added, &address);

        kill(pid);
        pid = rig.until_replaced("blue", pid);
        for name in ["dnsmasq.conf", "leases", "hosts", "names", "tapwire-lease", ""] {
            let path = rig.path("blue", name);
            if path.is_dir() {
                fs::remove_dir_all(&path).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
            pid = rig.until_replaced("blue", pid);
            assert!(path.exists(), "{name}");
            if matches!(name, "leases" | "") {
                let path = rig.path("blue", "leases");
                assert!(fs::read_to_string(&path).unwrap().contains(&address));
            }
        }
        assert!(vm1.dhcp4(&[]).is_some());

        // Its port is taken while it is down: told, in dnsmasq's words, and tried again.
        let address = "10.0.0.1:53";
        kill(pid);
        let taken = loop {
            match UdpSocket::bind(address) {
                Ok(socket) => break socket,
                Err(_) => rig.until("it is down for a moment", |rig| {
                    rig.pid("blue").is_none_or(|now| {
                        kill(now);
                        true
                    })
                }),
            }
        };
        rig.until("the reason is told", |rig| {
            matches!(rig.states.get("blue"), Some(State::Failed { reason, .. })
                if reason.contains("failed to create listening socket for 10.0.0.1: Address already in use"))
        });
        drop(taken);
        rig.until_running("blue");
        assert_eq!(rig.until_running("red"), other);
        assert!(alive(other));
    });
}

#[test]
fn nothing_of_a_network_that_is_gone_is_left() {
    in_namespace(|| {
        require!(Feature::Program("dnsmasq"));
        let host = Host::here();
        bridge(&host, "br0", 0);
        bridge(&host, "br1", 1);
        let mut rig = Rig::new();
        rig.serve(&host, "blue", &want("br0", 0));
        rig.serve(&host, "red", &want("br1", 1));
        let (blue, red) = (rig.until_running("blue"), rig.until_running("red"));
        rig.tell(Command::Remove(network("blue")));
        wait_until("it has ended", PATIENCE, || !alive(blue));
        wait_until("its directory is gone", PATIENCE, || {
            !rig.path("blue", "").exists()
        });
        assert!(alive(red));
        // It comes back while it is being removed.
        rig.tell(Command::Remove(network("red")));
        rig.serve(&host, "red", &want("br1", 1));
        let again = rig.until_replaced("red", red);
        // The end of the handle is the end of the processes; the next start knows nothing of the network.
        rig.service = None;
        assert!(!alive(again));
        assert!(rig.path("red", "leases").exists());
        rig.start();
        rig.tell(Command::Keep(BTreeSet::new()));
        wait_until("its directory is gone", PATIENCE, || {
            !rig.path("red", "").exists()
        });
    });
}

#[test]
fn a_server_has_no_more_rights_than_it_needs() {
    in_namespace(|| {
        require!(Feature::Program("dnsmasq"));
        let host = Host::here();
        bridge(&host, "br0", 0);
        let mut rig = Rig::new();
        rig.serve(&host, "blue", &want("br0", 0));
        let pid = rig.until_running("blue");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        let names: Vec<&[u8]> = environment
            .split(|byte| *byte == 0)
            .filter_map(|variable| variable.split(|byte| *byte == b'=').next())
            .filter(|name| !name.is_empty())
            .collect();
        assert_eq!(names, [&b"LANG"[..], b"TAPWIRE_LEASE_SOCKET"]);
    });
}
