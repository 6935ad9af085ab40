//! What plugins say in these worlds, and that nothing is left of what they say no more.

use super::hand::{PER_NETWORK, World};
use crate::fake_kernel::Device;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use std::net::Ipv4Addr;
use std::time::Duration;
use tapwire::desired::verdict::{Denial, NetworkVerdict, PortVerdict};
use tapwire::engine::event::{Event, PolicyUse};
use tapwire::model::{
    BridgeAttributes, FdbEntry, Ifindex, LinkKind, Mac, Mtu, NeighbourEntry, NetworkId, PortFlags,
};

type Verdict = Result<(), TestCaseError>;

fn sometimes<T: std::fmt::Debug + Clone>(
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<T>> {
    proptest::option::weighted(0.3, value)
}

fn seldom() -> impl Strategy<Value = Option<Denial>> {
    proptest::option::weighted(
        0.1,
        Just(Denial {
            plugin: "site".into(),
            reason: "no".into(),
        }),
    )
}

fn mtu(choices: &'static [i64]) -> impl Strategy<Value = Option<Mtu>> {
    sometimes(proptest::sample::select(choices).prop_map(|mtu| Mtu::new(mtu).expect("an mtu")))
}

fn vtep() -> impl Strategy<Value = std::net::IpAddr> {
    // 11 is our own, 12 a peer of the configuration.
    (11_u8..16).prop_map(|last| Ipv4Addr::new(192, 0, 2, last).into())
}

fn mac() -> impl Strategy<Value = Mac> {
    (0_u8..3).prop_map(|last| Mac::new([0xfa, 0x16, 0x3e, 0, 0, last]))
}

fn flags() -> impl Strategy<Value = PortFlags> {
    let flag = || sometimes(any::<bool>());
    (flag(), flag(), flag(), flag(), flag(), flag(), flag(), flag()).prop_map(
        |(learning, isolated, hairpin, guard, neigh_suppress, flood, mcast_flood, bcast_flood)| PortFlags {
            learning,
            isolated,
            hairpin,
            guard,
            neigh_suppress,
            flood,
            mcast_flood,
            bcast_flood,
            vlan_tunnel: None,
        },
    )
}

pub fn of_port() -> impl Strategy<Value = PortVerdict> {
    let entry = prop_oneof![
        mac().prop_map(|mac| FdbEntry { mac, dst: None }),
        (mac(), vtep()).prop_map(|(mac, dst)| FdbEntry { mac, dst: Some(dst) }),
        vtep().prop_map(|dst| FdbEntry {
            mac: Mac::ZERO,
            dst: Some(dst)
        }),
    ];
    let neighbour = (1_u8..4, mac()).prop_map(|(last, mac)| NeighbourEntry {
        ip: Ipv4Addr::new(10, 0, 0, last).into(),
        mac,
    });
    let network =
        proptest::sample::select(&PER_NETWORK[..]).prop_map(|n| NetworkId::new(n.0).expect("an id"));
    (
        (
            proptest::option::weighted(0.2, network),
            proptest::bool::weighted(0.05),
            seldom(),
            mtu(&[1400, 1500, 9000]),
            flags(),
        ),
        (
            sometimes(proptest::sample::select(&[0_u32, 50, 1000][..])),
            sometimes(proptest::sample::select(&["a", "of somebody", ""][..])),
            proptest::collection::vec(entry, 0..4),
            proptest::collection::vec(neighbour, 0..3),
        ),
    )
        .prop_map(
            |((network, ignore, deny, mtu, flags), (tx_queue_len, alias, fdb, neighbours))| PortVerdict {
                network,
                ignore,
                deny,
                mtu,
                flags,
                tx_queue_len,
                alias: alias.map(Into::into),
                fdb,
                neighbours,
                vlans: Vec::new(),
            },
        )
}

/// For network `net`: the underlay of the VXLAN network carries 1450.
pub fn of_network(net: usize) -> impl Strategy<Value = NetworkVerdict> {
    let mtus: &'static [i64] = if net == 2 {
        &[1400, 1450]
    } else {
        &[1400, 1500, 9000]
    };
    let bridge = (
        sometimes(any::<bool>()),
        sometimes(proptest::sample::select(&[0_u32, 30000, 60000][..])),
        sometimes(any::<bool>()),
        sometimes(any::<bool>()),
    );
    (
        seldom(),
        mtu(mtus),
        mtu(mtus),
        bridge,
        (sometimes(0_u8..3), sometimes(0_u8..3), sometimes(any::<bool>())),
        proptest::collection::vec(vtep(), 0..3),
    )
        .prop_map(
            |(
                deny,
                mtu,
                uplink_mtu,
                (stp, ageing_time, multicast_snooping, vlan_filtering),
                vxlan,
                vteps,
            )| {
                let flood = |dst| FdbEntry {
                    mac: Mac::ZERO,
                    dst: Some(dst),
                };
                NetworkVerdict {
                    deny,
                    mtu,
                    uplink_mtu,
                    bridge: BridgeAttributes {
                        stp,
                        ageing_time,
                        multicast_snooping,
                        vlan_filtering,
                        ..BridgeAttributes::default()
                    },
                    vxlan_ttl: vxlan.0,
                    vxlan_tos: vxlan.1,
                    vxlan_learning: vxlan.2,
                    flood: vteps.into_iter().map(flood).collect(),
                }
            },
        )
}

impl World {
    /// Plugins come, go, or are others now.
    pub fn plugins(&mut self, ports: bool, networks: bool) {
        self.policy = PolicyUse { ports, networks };
        self.host.tell(Event::PolicyChanged(self.policy));
    }

    pub fn say_of_tap(&mut self, index: Ifindex, verdict: Option<PortVerdict>) {
        let Some(name) = self.host.kernel.device(index).map(|d| d.link.name) else {
            return;
        };
        match verdict {
            Some(verdict) => self.host.port_verdicts.insert(name, verdict),
            None => self.host.port_verdicts.remove(&name),
        };
        let (taps, networks) = (vec![index], Vec::new());
        self.host.tell(Event::Invalidate { taps, networks });
    }

    pub fn say_of_network(&mut self, net: usize, verdict: Option<NetworkVerdict>) {
        let id = self.mode.networks()[net].0;
        match verdict {
            Some(verdict) => self.host.network_verdicts.insert(id.to_owned(), verdict),
            None => self.host.network_verdicts.remove(id),
        };
        let networks = vec![NetworkId::new(id).expect("an id")];
        let taps = Vec::new();
        self.host.tell(Event::Invalidate { taps, networks });
    }

    /// The program starts again: how things were before it said otherwise is not known to the next one.
    pub fn forget_originals(&mut self) {
        // Nor the MTU of a bridge that its network was told; and one without its mark is taken for somebody else's as it is.
        let as_it_is = |d: &Device| d.link.alias.is_none() || d.link.mtu != 1500;
        self.meddled |= self.host.kernel.named("brqloc").is_some_and(as_it_is);
        // Their networks' are what is left.
        self.born_with.clear();
        if self.spoken {
            self.unknown
                .extend(self.host.kernel.devices().map(|d| d.link.index));
        }
    }

    pub fn port_verdict(&self, index: Ifindex) -> Option<&PortVerdict> {
        let name = self.host.kernel.device(index)?.link.name;
        self.host.port_verdicts.get(&name).filter(|_| self.policy.ports)
    }

    pub fn network_verdict(&self, id: &str) -> Option<&NetworkVerdict> {
        self.host
            .network_verdicts
            .get(id)
            .filter(|_| self.policy.networks)
    }
}

/// Plugins go (`gone`), or have no opinion any more: everything is as if they had never said a word.
pub fn what_is_not_said_any_more_is_undone(world: &mut World, gone: bool) -> Verdict {
    world.host.port_verdicts.clear();
    world.host.network_verdicts.clear();
    let policy = world.policy;
    match gone {
        true => world.plugins(false, false),
        false => world.plugins(policy.ports, policy.networks),
    }
    world.host.wait(Duration::from_secs(400));
    taps(world)?;
    networks(world)
}

fn taps(world: &World) -> Verdict {
    let kernel = &world.host.kernel;
    for index in world.taps() {
        let device = kernel.device(index).expect("a tap");
        let link = &device.link;
        let Some(tap) = world.host.engine.tap(index) else {
            continue;
        };
        if world.unknown.contains(&index) {
            continue;
        }
        prop_assert_eq!(&link.alias, &None, "{}", link.name);
        prop_assert_eq!(link.tx_queue_len, 1000, "{}", link.name);
        if let Some(flags) = link.port {
            prop_assert_eq!(flags, PortFlags::NEW_PORT, "{}", link.name);
        }
        let entries = &device.port_fdb;
        prop_assert!(entries.is_empty() || world.faulty, "{}: {:?}", link.name, entries);
        // A network with an MTU of its own gives it to its taps, and one that leaves keeps it.
        let free = tap.intent.network().is_some_and(|id| {
            let told = world.host.engine.desired().network(id).and_then(|n| n.mtu);
            told.is_none() && id.as_str() == "loc"
        });
        if free && let Some(born) = world.born_with.get(&index) {
            prop_assert_eq!(link.mtu, *born, "{}", link.name);
        }
    }
    Ok(())
}

fn networks(world: &World) -> Verdict {
    let (engine, kernel) = (&world.host.engine, &world.host.kernel);
    let known = |index: Ifindex| !world.unknown.contains(&index);
    for nic in ["eth1", "eth2"] {
        if let Some(device) = kernel.named(nic).filter(|d| known(d.link.index)) {
            prop_assert_eq!(device.link.mtu, 1500, "{}", nic);
        }
    }
    for (net, (id, bridge, uplink)) in PER_NETWORK.iter().enumerate() {
        let id = NetworkId::new(id).expect("an id");
        if engine.segment(&id).is_none_or(|s| s.users.is_empty()) {
            continue;
        }
        let told = engine.desired().network(&id).and_then(|n| n.mtu).map(Mtu::get);
        let nic = |name| kernel.named(name).map(|d| d.link.mtu);
        let mtu = match net {
            0 => told.or((!world.meddled).then_some(1500)),
            1 => told.or(nic("eth1")),
            2 => told.or(Some(1450)),
            _ => told.or(nic("eth2")),
        };
        if let Some(device) = kernel.named(bridge).filter(|d| known(d.link.index)) {
            let LinkKind::Bridge(have) = &device.link.kind else {
                return Err(TestCaseError::fail(format!("{bridge} is no bridge")));
            };
            let want = BridgeAttributes {
                stp: Some(false),
                forward_delay: Some(0),
                ageing_time: Some(30000),
                multicast_snooping: Some(true),
                vlan_filtering: Some(false),
                ..*have
            };
            prop_assert_eq!(have, &want, "{}", bridge);
            if let Some(mtu) = mtu {
                prop_assert_eq!(device.link.mtu, mtu, "{}", bridge);
            }
        }
        let Some(device) = uplink.and_then(|name| kernel.named(name)) else {
            continue;
        };
        if let (1 | 2, Some(mtu)) = (net, mtu) {
            prop_assert_eq!(device.link.mtu, mtu, "{}", device.link.name);
        }
        if let LinkKind::Vxlan(have) = &device.link.kind {
            prop_assert_eq!((have.ttl, have.tos, have.learning), (0, 0, false));
        }
    }
    Ok(())
}
