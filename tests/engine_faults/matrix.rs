//! One table: an operation that the kernel keeps refusing, whose trouble that is, and what becomes of it.

use crate::engine_golden::step::Step;
use crate::fake_kernel::host::Host;
use crate::fake_kernel::{Fault, Kernel, Moment};
use std::path::Path;
use std::time::Duration;
use tapwire::engine::event::Event;
use tapwire::engine::state::{PortState, SegmentState};
use tapwire::kernel::Refusal;
use tapwire::model::NetworkId;
use tapwire::{config, daemon};

/// Who has the trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// `tap0` alone.
    Tap,
    /// Network blue and the taps that wait for it.
    Network,
}

/// Beginning of the operation's line, and whose it is.
const OPERATIONS: [(&str, &str, Owner); 27] = [
    ("vxlan", "ip link add brqblue", Owner::Network),
    ("vxlan", "sysctl net.ipv6.conf.brqblue", Owner::Network),
    ("vxlan", "ip link set brqblue mtu", Owner::Network),
    ("vxlan", "ip link add vxlan-100", Owner::Network),
    ("vxlan", "sysctl net.ipv6.conf.vxlan-100", Owner::Network),
    ("vxlan", "ip link set vxlan-100 alias", Owner::Network),
    ("vxlan", "ip link set vxlan-100 up", Owner::Network),
    ("vxlan", "bridge fdb append", Owner::Network),
    ("vxlan", "bridge fdb replace", Owner::Network),
    ("vxlan", "ip neigh replace", Owner::Network),
    ("vlan", "ip link add link eth1", Owner::Network),
    ("vlan", "ip link set eth1 up", Owner::Network),
    ("flat", "ip link set eth1 master", Owner::Network),
    (
        "flat",
        "ip address replace 198.51.100.7/24 dev brqblue",
        Owner::Network,
    ),
    ("flat", "ip route append", Owner::Network),
    ("flat", "ip address del 198.51.100.7/24 dev eth1", Owner::Network),
    ("local", "sysctl net.ipv6.conf.tap0", Owner::Tap),
    ("local", "ip link set tap0 master", Owner::Tap),
    ("local", "ip link set tap0 up", Owner::Tap),
    ("aware vxlan", "ip link add vxlan-shared", Owner::Network),
    ("aware vxlan", "bridge link set dev vxlan-shared", Owner::Network),
    ("aware vxlan", "bridge vni add dev vxlan-shared", Owner::Network),
    ("aware vxlan", "bridge vlan add dev vxlan-shared", Owner::Network),
    ("aware vxlan", "bridge fdb append", Owner::Network),
    ("aware vlan", "bridge vlan add dev eth1.100", Owner::Network),
    ("aware trunk", "bridge vlan add dev eth1", Owner::Network),
    ("aware local", "bridge vlan add dev tap0", Owner::Tap),
];

/// One errno of each class, and whether time alone brings another try.
const REFUSALS: [(i32, bool); 6] = [
    (libc::ENODEV, true),
    (libc::EXFULL, true),
    (libc::EBUSY, true),
    (libc::EPERM, true),
    (libc::EINVAL, true),
    (libc::EOPNOTSUPP, false),
];

const BLUE: [(&str, &str); 4] = [
    ("local", "network_type = \"local\""),
    (
        "vlan",
        "network_type = \"vlan\"\nsegmentation_id = 100\nphysical_network = \"physnet1\"",
    ),
    (
        "vxlan",
        "network_type = \"vxlan\"\nsegmentation_id = 100\n[[network.peer]]\nvtep = \"192.0.2.12\"\n\
         mac = \"fa:16:3e:00:00:07\"\nip = \"10.0.0.7\"",
    ),
    ("flat", "network_type = \"flat\"\nphysical_network = \"physnet1\""),
];

fn configuration(kind: &str) -> String {
    let aware = kind.strip_prefix("aware ");
    let trunk = aware == Some("trunk");
    let segment = match aware {
        Some("trunk") => "vlan",
        Some(segment) => segment,
        None => kind,
    };
    let (_, blue) = BLUE.iter().find(|(k, _)| *k == segment).expect("a kind");
    let mode = if aware.is_some() {
        "vlan-aware"
    } else {
        "per-network"
    };
    let responder = aware.is_none();
    format!(
        "[bridge]\nmode = \"{mode}\"\n\
         [physical_networks]\nphysnet1 = {{ interface = \"eth1\", trunk = {trunk} }}\n\
         [vxlan]\nlocal_ip = \"192.0.2.11\"\nl2_population = true\narp_responder = {responder}\n\
         [[network]]\nid = \"red\"\nnetwork_type = \"local\"\n\
         [[network]]\nid = \"blue\"\n{blue}\n\
         [[port]]\ntap = \"tap0\"\nnetwork = \"blue\"\n\
         [[port]]\ntap = \"tap1\"\nnetwork = \"blue\"\n\
         [[port]]\ntap = \"tap2\"\nnetwork = \"red\"\n"
    )
}

fn world(kind: &str) -> Host {
    let config = config::load_str(&configuration(kind), Path::new("matrix.toml")).expect("the configuration");
    let desired = daemon::sources::desired(&config, &daemon::sources::Told::default(), "host");
    let mut host = Host::new(Kernel::default(), desired, None);
    let up = if kind == "vlan" { "false" } else { "true" };
    // A trunk has no addresses of the host.
    let address = if kind == "aware trunk" {
        ""
    } else {
        r#""198.51.100.7/24""#
    };
    for line in [
        r#"{"do":"link","name":"eth0","kind":"physical","up":true,"addresses":["192.0.2.11/24"]}"#,
        &format!(r#"{{"do":"link","name":"eth1","kind":"physical","up":{up},"addresses":[{address}]}}"#),
    ] {
        step(&mut host, line);
    }
    if kind == "flat" {
        step(
            &mut host,
            r#"{"do":"route","to":"203.0.113.0/24","via":"198.51.100.2","dev":"eth1"}"#,
        );
    }
    step(&mut host, r#"{"do":"start"}"#);
    host
}

fn step(host: &mut Host, line: &str) {
    let step: Step = serde_json::from_str(line).expect("a step");
    step.take(host, Path::new("."), &mut String::new());
}

fn state<'a>(host: &'a Host, tap: &str) -> &'a PortState {
    let index = host.kernel.index(tap).expect("the tap");
    &host.engine.tap(index).expect("a managed tap").state
}

fn blue(host: &Host) -> SegmentState {
    let id = NetworkId::new("blue").expect("an id");
    host.engine.segment(&id).expect("a segment").state.clone()
}

#[test]
fn a_refused_operation_concerns_its_own_tap_or_network_and_nobody_else() {
    for (kind, operation, owner) in OPERATIONS {
        for (errno, retried) in REFUSALS {
            // Of a port's VLANs it says that the port has left its bridge.
            let of_a_port = operation.starts_with("bridge vlan");
            let retried = retried || of_a_port;
            let case = format!("{kind}: {operation} refused with errno {errno}");
            let mut host = world(kind);
            host.faults.push(Fault {
                skip: 0,
                op: operation.to_owned(),
                moment: Moment::Before,
                refusal: Refusal { errno, text: None },
                times: usize::MAX,
            });
            for tap in ["tap0", "tap1", "tap2"] {
                step(&mut host, &format!(r#"{{"do":"link","name":"{tap}"}}"#));
            }
            // A minute of it: tries are few, and the states are those of trouble.
            host.wait(Duration::from_secs(60));
            assert_eq!(*state(&host, "tap2"), PortState::Attached, "{case}");
            // To delete what is not there, or to tell what is there, is done.
            let already = (errno == libc::ENODEV && operation.contains(" del "))
                || (errno == libc::EEXIST && operation.contains(" append "));
            let tries = host
                .operations
                .iter()
                .filter(|o| o.line.starts_with(operation) && o.error.is_some())
                .count();
            match owner {
                _ if already => {}
                Owner::Tap => {
                    assert_eq!(*state(&host, "tap1"), PortState::Attached, "{case}");
                    let PortState::Failed { retry_at, .. } = state(&host, "tap0") else {
                        panic!("{case}: {:?}", state(&host, "tap0"));
                    };
                    assert_eq!(retry_at.is_some(), retried, "{case}");
                }
                Owner::Network => {
                    let SegmentState::Failed { retry_at, .. } = blue(&host) else {
                        panic!("{case}: {:?}", blue(&host));
                    };
                    assert_eq!(retry_at.is_some(), retried, "{case}");
                    for tap in ["tap0", "tap1"] {
                        let state = state(&host, tap);
                        assert!(
                            matches!(state, PortState::Failed { .. }),
                            "{case}: {tap} {state:?}"
                        );
                    }
                }
            }
            if !already {
                assert!((1..=10).contains(&tries), "{case}: {tries} tries in a minute");
            }
            host.faults.clear();
            if !retried {
                host.wait(Duration::from_secs(600));
                assert_ne!(*state(&host, "tap0"), PortState::Attached, "{case}: nobody asked");
                host.tell(Event::Resync);
            }
            host.wait(Duration::from_secs(90));
            for tap in ["tap0", "tap1", "tap2"] {
                assert_eq!(*state(&host, tap), PortState::Attached, "{case}: {tap} after it");
            }
            if already {
                // An answer that was a lie: the next pass sees.
                host.tell(Event::Resync);
                host.wait(Duration::from_secs(90));
            }
            assert!(
                host.engine.preview().is_empty(),
                "{case}: {:?}",
                host.engine.preview()
            );
            assert!(host.breaches.is_empty(), "{case}: {:?}", host.breaches);
        }
    }
}

#[test]
fn reading_what_devices_carry_may_fail_for_long_and_costs_few_tries() {
    for kind in ["flat", "vxlan"] {
        let mut host = world(kind);
        host.refuse_reads = usize::MAX;
        step(&mut host, r#"{"do":"link","name":"tap0"}"#);
        step(&mut host, r#"{"do":"link","name":"tap2"}"#);
        host.wait(Duration::from_secs(60));
        assert_eq!(*state(&host, "tap2"), PortState::Attached, "{kind}");
        assert!(matches!(blue(&host), SegmentState::Failed { .. }), "{kind}");
        let tries = usize::MAX - host.refuse_reads;
        assert!((2..=12).contains(&tries), "{kind}: {tries} tries in a minute");
        host.refuse_reads = 0;
        host.wait(Duration::from_secs(90));
        assert_eq!(*state(&host, "tap0"), PortState::Attached, "{kind}");
    }
}
