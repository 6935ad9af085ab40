//! What must hold.

use super::hand::{BRIDGE, HOST_ADDRESSES, Mode, TUNNEL, World, is_strangers, vni};
use crate::fake_kernel::Device;
use proptest::test_runner::TestCaseError;
use proptest::{prop_assert, prop_assert_eq};
use std::collections::{BTreeMap, BTreeSet};
use tapwire::desired::fdb::derive_forwarding;
use tapwire::desired::port::{PortIntent, derive_port};
use tapwire::engine::event::Event;
use tapwire::engine::state::PortState;
use tapwire::model::{LinkKind, Mac, NetworkId, Segment, Vid, VlanRow, VniRow};
use tapwire::plan::address_move::address_of;
use tapwire::plan::guard::TableHave;

type Verdict = Result<(), TestCaseError>;

/// Each mapped tap is attached, in the kernel too; each network in use has its uplink and its entries.
pub fn converged(world: &mut World) -> Verdict {
    let host = &world.host;
    prop_assert!(host.engine.is_in_sync());
    for index in world.taps() {
        let device = host.kernel.device(index).expect("a tap");
        let link = &device.link;
        let said = world.port_verdict(index);
        let PortIntent::Attach(want) = derive_port(host.engine.desired(), link, said) else {
            if let Some(tap) = host.engine.tap(index) {
                prop_assert!(
                    matches!(tap.state, PortState::Pending { .. } | PortState::Denied { .. }),
                    "{}: {:?}",
                    link.name,
                    tap
                );
            }
            continue;
        };
        let of_network = world.network_verdict(want.network.as_str());
        if of_network.is_some_and(|v| v.deny.is_some()) {
            continue;
        }
        let tap = host.engine.tap(index);
        prop_assert_eq!(tap.map(|t| &t.state), Some(&PortState::Attached), "{}", link.name);
        let (_, bridge, uplink) = world
            .mode
            .networks()
            .iter()
            .find(|(id, ..)| *id == want.network.as_str())
            .expect("a network");
        let master = link
            .master
            .and_then(|m| host.kernel.device(m))
            .map(|d| d.link.name.to_string());
        prop_assert_eq!(master.as_deref(), Some(*bridge), "{}", link.name);
        prop_assert!(link.up && link.ipv6_disabled == Some(true), "{:?}", link);
        let shared = *bridge == BRIDGE;
        let bridge = host.kernel.named(bridge).expect("a bridge");
        prop_assert!(bridge.link.up);
        if let Some(mtu) = want.mtu {
            prop_assert_eq!(link.mtu, mtu.get());
        }
        if shared {
            in_its_vlan(world, &want.network, device)?;
        }
        let told = host.engine.desired().network(&want.network).and_then(|n| n.mtu);
        if let Some(mtu) = of_network.and_then(|v| v.mtu).or(told).filter(|_| !shared) {
            prop_assert_eq!(bridge.link.mtu, mtu.get());
        }
        let flags = want.flags.missing_in(&link.port.unwrap_or_default());
        prop_assert!(flags.is_empty(), "{}: {:?}", link.name, flags);
        let statics = |macs: &[Mac]| macs.iter().copied().collect::<BTreeSet<_>>();
        let (have, told) = (statics(&device.port_fdb), statics(&want.fdb));
        prop_assert!(have.is_superset(&told), "{}: {:?} of {:?}", link.name, have, told);
        prop_assert!(
            have == told || world.faulty || world.unknown.contains(&index),
            "{}: {:?} not {:?}",
            link.name,
            have,
            told
        );
        if let Some(length) = want.tx_queue_len {
            prop_assert_eq!(link.tx_queue_len, length);
        }
        if let Some(alias) = &want.alias {
            prop_assert_eq!(link.alias.as_deref().unwrap_or_default(), &**alias);
        }
        if let Some(uplink) = uplink {
            let uplink = host.kernel.named(uplink).expect("an uplink");
            prop_assert_eq!(
                uplink.link.master,
                Some(bridge.link.index),
                "{}",
                uplink.link.name
            );
            prop_assert!(uplink.link.up);
        }
    }
    // The host has each of its addresses once, and its three routes. A move that was cut short and whose network nobody uses
    // any more stays half done (the host is reachable) until the bridge is pruned; a tap that somebody put there keeps it.
    let flat = tapwire::model::NetworkId::new("flat").expect("an id");
    let used = host.engine.segment(&flat).is_some_and(|s| !s.users.is_empty());
    for address in HOST_ADDRESSES {
        let holders = host.kernel.devices().filter(|d| {
            d.addresses
                .iter()
                .any(|a| address_of(a).is_some_and(|ip| address.starts_with(&format!("{ip}/"))))
        });
        let holders: Vec<String> = holders.map(|d| d.link.name.to_string()).collect();
        prop_assert!(!holders.is_empty(), "{} is gone", address);
        prop_assert!(holders.len() == 1 || !used, "{} is on {:?}", address, holders);
    }
    let routes = host.kernel.routes.len();
    prop_assert!(routes == 3 || (routes > 3 && !used), "{} routes", routes);
    guard(world)?;
    forwarding(world)
}

/// A tap is in its network's VLAN and in no other, and the VLAN leaves the host where the network's type says.
fn in_its_vlan(world: &World, id: &NetworkId, tap: &Device) -> Verdict {
    let (host, desired) = (&world.host, world.host.engine.desired());
    let vid = desired.vids.get(id);
    prop_assert!(vid.is_some(), "{} has no VLAN", id);
    let vid = vid.unwrap_or(Vid::new(1).expect("a VID"));
    let only: Vec<VlanRow> = vec![VlanRow::access(vid)];
    let rows = |device: &Device| device.vlans.rows().copied().collect::<Vec<_>>();
    prop_assert_eq!(&rows(tap), &only, "{} of {}", tap.link.name, id);
    let bridge = host.kernel.named(BRIDGE).expect("the bridge");
    let LinkKind::Bridge(options) = &bridge.link.kind else {
        unreachable!("{BRIDGE} is a bridge");
    };
    prop_assert_eq!(
        (options.vlan_filtering, options.vlan_default_pvid),
        (Some(true), Some(0))
    );
    let uplink = |name: &str| host.kernel.named(name).expect("an uplink");
    match &desired.network(id).expect("a network").segment {
        Segment::Local | Segment::Flat { .. } => {}
        Segment::Vlan { vid: tag, .. } if id.as_str() == "tag" => {
            prop_assert_eq!(vid, *tag);
            prop_assert_eq!(uplink("eth3").vlans.get(vid), Some(&VlanRow::tagged(vid)));
        }
        Segment::Vlan { .. } => prop_assert_eq!(&rows(uplink("eth1.100")), &only),
        Segment::Vxlan { vni } => {
            let device = uplink(TUNNEL);
            prop_assert_eq!(device.vlans.get(vid), Some(&VlanRow::tunnel(vid, *vni)));
            let group = None;
            prop_assert!(
                device.vnis.contains(&VniRow { vni: *vni, group }),
                "{} is off",
                vni
            );
        }
    }
    Ok(())
}

/// Each guarded port has its entries, nobody else has any, and there is a table exactly if some mapping asks for it.
fn guard(world: &World) -> Verdict {
    let host = &world.host;
    let desired = host.engine.desired();
    let mut have = host.kernel.guard.clone();
    let mut wanted = BTreeMap::new();
    for device in host.kernel.devices() {
        let index = device.link.index;
        let said = derive_port(desired, &device.link, world.port_verdict(index));
        let of_network = said.network().and_then(|id| world.network_verdict(id.as_str()));
        if matches!(said, PortIntent::Denied { .. } | PortIntent::Unmanaged)
            || of_network.is_some_and(|v| v.deny.is_some())
        {
            // What policy keeps from its network has the guard that it had.
            have.ports.remove(&index);
            continue;
        }
        if let PortIntent::Attach(want) = said
            && let Some(entries) = &want.guard
        {
            wanted.insert(index, entries.to_vec());
        }
    }
    prop_assert_eq!(&have.ports, &wanted);
    let table = if desired.guards_anything() {
        TableHave::Right
    } else {
        TableHave::Absent
    };
    let kept = host.kernel.guard.ports.len() > have.ports.len();
    prop_assert!(have.table == table || kept, "{:?}", have.table);
    Ok(())
}

/// What is told is there, and nothing else of ours: marked, or in the flood entry beside somebody else's destinations
/// (which makes the kernel mark the whole of it as theirs).
fn forwarding(world: &World) -> Verdict {
    let host = &world.host;
    let id = tapwire::model::NetworkId::new("vx").expect("an id");
    let used = host.engine.segment(&id).is_some_and(|s| !s.users.is_empty());
    let (name, of) = match world.mode {
        Mode::PerNetwork => ("vxlan-100", None),
        Mode::VlanAware => (TUNNEL, Some(vni(0))),
    };
    let Some(device) = host.kernel.named(name).filter(|_| used) else {
        return Ok(());
    };
    if world.network_verdict("vx").is_some_and(|v| v.deny.is_some()) {
        return Ok(());
    }
    let network = host.engine.desired().network(&id).expect("the network");
    let users = host.engine.segment(&id).into_iter().flat_map(|s| &s.users);
    let said = users.filter_map(|index| world.port_verdict(*index));
    let want = derive_forwarding(host.engine.desired(), network, world.network_verdict("vx"), said);
    let floods = want.fdb.iter().filter(|e| e.is_flood());
    let floods: BTreeSet<_> = floods.filter_map(|e| e.dst).collect();
    let rows = || device.fdb.iter().filter(|row| row.vni == of);
    let flood = || rows().filter(|row| row.entry.is_flood());
    let have: BTreeSet<_> = flood().filter_map(|row| row.entry.dst).collect();
    prop_assert!(have.is_superset(&floods), "{:?} of {:?}", have, floods);
    let mixed = flood().any(|row| !row.ours);
    for stale in have.difference(&floods).filter(|dst| !is_strangers(**dst)) {
        prop_assert!(mixed && world.forgetful, "{} is stale", stale);
    }
    let unicast = rows().filter(|row| row.ours && !row.entry.is_flood()).count();
    let told = want.fdb.iter().filter(|e| !e.is_flood()).count();
    prop_assert_eq!(unicast, told);
    prop_assert_eq!(device.neighbours.len(), want.neighbours.len());
    Ok(())
}

/// Nothing is left to do: not in the preview, not in a full pass.
pub fn second_pass_is_empty(world: &mut World) -> Verdict {
    let preview = world.host.engine.preview();
    prop_assert!(preview.is_empty(), "{:?}", preview);
    world.host.take_operations();
    world.host.tell(Event::Resync);
    world.host.settle();
    let operations = world.host.take_operations();
    prop_assert!(operations.is_empty(), "{:?}", operations);
    Ok(())
}

/// What the events led to is what a fresh look at the same world leads to.
pub fn a_fresh_start_finds_nothing_to_do(world: &mut World) -> Verdict {
    let states = |world: &World| -> Vec<(String, String)> {
        let engine = &world.host.engine;
        let taps = engine
            .taps()
            .map(|(_, tap)| (tap.name.to_string(), tap.state.word().to_owned()));
        taps.collect()
    };
    let before = states(world);
    let networks = |world: &World| -> Vec<String> {
        let engine = &world.host.engine;
        engine
            .desired()
            .networks()
            .map(|n| format!("{} {:?}", n.id, engine.network_state(n)))
            .collect()
    };
    let networks_before = networks(world);
    world.restart();
    world.host.settle();
    let operations = world.host.take_operations();
    prop_assert!(operations.is_empty(), "{:?}", operations);
    prop_assert_eq!(before, states(world));
    prop_assert_eq!(networks_before, networks(world));
    Ok(())
}

/// At no moment was a rule broken, and the strangers are as they were.
pub fn rules(world: &World) -> Verdict {
    prop_assert!(world.host.breaches.is_empty(), "{:#?}", world.host.breaches);
    for name in ["virbr0", "vnet9", "br-plain", "vx-foreign"] {
        prop_assert!(world.host.kernel.named(name).is_some(), "{} is gone", name);
    }
    let taps = world
        .host
        .operations
        .iter()
        .filter(|o| o.line.starts_with("ip link del tap") || o.line.starts_with("ip tuntap"))
        .count();
    prop_assert_eq!(taps, 0);
    prop_assert!(
        world
            .host
            .kernel
            .devices()
            .all(|d| !matches!(d.link.kind, LinkKind::Tun))
    );
    Ok(())
}
