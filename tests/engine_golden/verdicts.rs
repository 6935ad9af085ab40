//! Whom a verdict concerns: entries on a tap's own port are no business of its network, others are.

use super::tell;
use crate::fake_kernel::host::Host;
use tapwire::desired::verdict::PortVerdict;
use tapwire::engine::event::{Event, PolicyUse};
use tapwire::engine::state::PortState;
use tapwire::model::{FdbEntry, Ifindex, Mac, NeighbourEntry, NetworkId};
use tapwire::plan::CauseId;

/// An attached tap of a VXLAN network, and that network.
fn world() -> (Host, Ifindex, NetworkId) {
    let mut host = tell("04-", &mut |_| ());
    host.tell(Event::PolicyChanged(PolicyUse {
        ports: true,
        networks: false,
    }));
    host.settle();
    let attached = |host: &Host| {
        let mut taps = host.engine.taps();
        let (index, tap) = taps.find(|(_, tap)| tap.state == PortState::Attached)?;
        Some((index, tap.intent.network()?.clone()))
    };
    let (index, network) = attached(&host).expect("an attached tap");
    (host, index, network)
}

/// Policy says this from now on; the cause for which the network was last looked at.
fn looked_at(host: &mut Host, index: Ifindex, network: &NetworkId, verdict: PortVerdict) -> CauseId {
    let name = host.engine.tap(index).expect("the tap").name;
    host.port_verdicts.insert(name, verdict);
    host.tell(Event::Invalidate {
        taps: vec![index],
        networks: Vec::new(),
    });
    host.settle();
    host.engine.segment(network).expect("the network").cause
}

#[test]
fn a_verdict_with_static_entries_only_leaves_the_network_alone() {
    let (mut host, index, network) = world();
    let mac = Mac::new([0xfa, 0x16, 0x3e, 0, 0, 5]);
    let local = PortVerdict {
        fdb: vec![FdbEntry { mac, dst: None }],
        ..PortVerdict::default()
    };
    let before = looked_at(&mut host, index, &network, PortVerdict::default());
    host.take_operations();
    let after = looked_at(&mut host, index, &network, local.clone());
    let written: Vec<String> = host.take_operations().into_iter().map(|o| o.line).collect();
    assert!(
        written.iter().any(|line| line.contains("fa:16:3e:00:00:05")),
        "{written:?}"
    );
    assert!(!host.engine.tap(index).expect("the tap").has_entries());
    assert_eq!(before, after, "the network was looked at for a tap's own entry");
    // The other way round: what is on the network's device concerns it, when it comes and when it goes.
    let remote = PortVerdict {
        fdb: vec![FdbEntry {
            mac,
            dst: Some("192.0.2.13".parse().expect("an address")),
        }],
        ..PortVerdict::default()
    };
    let neighbour = PortVerdict {
        neighbours: vec![NeighbourEntry {
            ip: "10.0.0.9".parse().expect("an address"),
            mac,
        }],
        ..PortVerdict::default()
    };
    let mut last = after;
    for verdict in [remote, local.clone(), neighbour, local] {
        let now = looked_at(&mut host, index, &network, verdict.clone());
        assert_ne!(last, now, "{verdict:?}");
        last = now;
    }
}
