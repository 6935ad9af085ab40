//! The world and what may happen in it.

use super::verdict;
use crate::fake_kernel::device::Birth;
use crate::fake_kernel::host::Host;
use crate::fake_kernel::{Kernel, record};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;
use tapwire::desired::Desired;
use tapwire::desired::verdict::{NetworkVerdict, PortVerdict};
use tapwire::engine::event::{Event, PolicyUse};
use tapwire::model::{
    BridgeAttributes, FdbEntry, Ifindex, LinkKind, LinkName, Mac, Mtu, NetworkId, PortMapping, TapSelector,
    Vid, VlanRow, Vni, VniRow, VxlanAttributes,
};
use tapwire::plan::guard::GuardHave;
use tapwire::plan::op::ListAction;
use tapwire::{config, daemon};

/// Id, bridge, uplink. The fourth is flat in both.
type Network = (&'static str, &'static str, Option<&'static str>);

pub const PER_NETWORK: [Network; 4] = [
    ("loc", "brqloc", None),
    ("vlan", "brqvlan", Some("eth1.100")),
    ("vx", "brqvx", Some("vxlan-100")),
    ("flat", "brqflat", Some("eth2")),
];
const VLAN_AWARE: [Network; 6] = [
    ("loc", BRIDGE, None),
    ("vlan", BRIDGE, Some("eth1.100")),
    ("vx", BRIDGE, Some(TUNNEL)),
    ("flat", "brqflat", Some("eth2")),
    ("tag", BRIDGE, Some("eth3")),
    ("far", BRIDGE, Some(TUNNEL)),
];
/// What networks share on a VLAN-aware bridge.
pub const BRIDGE: &str = "brvlan";
pub const TUNNEL: &str = "vxlan-shared";
/// VNI of `far`; that of `vx` is 100, as are the tag of `vlan` and, doubled, that of `tag`.
pub const FAR: u32 = 70_000;

/// `[bridge] mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    PerNetwork,
    VlanAware,
}

impl Mode {
    pub const fn networks(self) -> &'static [Network] {
        match self {
            Mode::PerNetwork => &PER_NETWORK,
            Mode::VlanAware => &VLAN_AWARE,
        }
    }
}

pub const HOST_ADDRESSES: [&str; 3] = ["198.51.100.7/24", "198.51.100.8/24", "2001:db8::7/64"];
const LOCAL: &str = "192.0.2.11/24";
/// A foreign bridge to which taps are taken.
const LENT: &str = "br-lent";
const FOREIGN: [&str; 4] = ["virbr0", "vnet9", "br-plain", "vx-foreign"];

/// One thing that somebody does. Numbers choose among what there is.
#[derive(Debug, Clone)]
pub enum Act {
    NewTap {
        net: usize,
        mtu: u32,
        up: bool,
    },
    DeleteTap(usize),
    Detach(usize),
    ToBridge {
        tap: usize,
        net: usize,
    },
    ToForeign(usize),
    TapMtu(usize, u32),
    /// A name that another network's mapping matches, or none.
    Rename {
        tap: usize,
        net: usize,
    },
    DeleteBridge {
        net: usize,
        slowly: bool,
    },
    DeleteUplink(usize),
    BridgeMtu(usize, u32),
    BridgeDown(usize),
    UplinkAway(usize),
    NicAway,
    NicBack,
    LocalAway,
    LocalBack,
    Bind {
        tap: usize,
        net: usize,
        /// The last byte of its MAC: the port is guarded.
        mac: Option<u8>,
    },
    /// Somebody flushes nftables' ruleset.
    FlushRuleset,
    Unbind(usize),
    NetworkMtu {
        net: usize,
        mtu: Option<i64>,
    },
    Peers(u8),
    /// A plugin's say about a tap or a network; none: no opinion.
    SayOfTap(usize, Option<Box<PortVerdict>>),
    SayOfNetwork(usize, Option<Box<NetworkVerdict>>),
    /// Plugins are loaded that have a say about ports, about networks.
    Plugins {
        ports: bool,
        networks: bool,
    },
    ForeignEntry(u8),
    Lose,
    Repeat(usize),
    /// Somebody puts a port of the VLAN-aware bridge into a VLAN, or takes it out.
    Vlan {
        port: usize,
        vid: usize,
        pvid: bool,
        untagged: bool,
        add: bool,
    },
    /// Somebody says which VNI a VLAN stands for.
    TunnelId {
        vid: usize,
        vni: usize,
    },
    /// Somebody gives the shared VXLAN device a VNI, or takes it away.
    Vni {
        vni: usize,
        add: bool,
    },
    DefaultPvid(u16),
    FilteringOff,
    TunnelOff,
    Resync,
    Restart,
    Wait(u64),
    /// The program gets some turns, not until it rests.
    Turns(usize),
    Settle,
}

impl Act {
    pub fn any(mode: Mode) -> BoxedStrategy<Act> {
        let anywhere = Act::in_any_mode(mode.networks().len());
        match mode {
            Mode::PerNetwork => anywhere.boxed(),
            Mode::VlanAware => prop_oneof![6 => anywhere, 1 => Act::with_vlans()].boxed(),
        }
    }

    fn with_vlans() -> impl Strategy<Value = Act> {
        let number = || 0_usize..12;
        let flag = any::<bool>;
        prop_oneof![
            4 => (number(), number(), flag(), flag(), flag())
                .prop_map(|(port, vid, pvid, untagged, add)| Act::Vlan { port, vid, pvid, untagged, add }),
            2 => (number(), 0_usize..3).prop_map(|(vid, vni)| Act::TunnelId { vid, vni }),
            2 => (0_usize..3, flag()).prop_map(|(vni, add)| Act::Vni { vni, add }),
            1 => prop_oneof![Just(0_u16), Just(1), Just(100)].prop_map(Act::DefaultPvid),
            1 => Just(Act::FilteringOff),
            1 => Just(Act::TunnelOff),
        ]
    }

    fn in_any_mode(networks: usize) -> impl Strategy<Value = Act> {
        let tap = || 0_usize..12;
        let net = || 0_usize..networks;
        let mtu = || prop_oneof![Just(1400_u32), Just(1500), Just(9000)];
        prop_oneof![
            // A fifth name that no mapping knows: only plugins say where it belongs.
            8 => (0_usize..networks + 1, mtu(), any::<bool>()).prop_map(|(net, mtu, up)| Act::NewTap { net, mtu, up }),
            2 => tap().prop_map(Act::DeleteTap),
            2 => tap().prop_map(Act::Detach),
            2 => (tap(), net()).prop_map(|(tap, net)| Act::ToBridge { tap, net }),
            1 => tap().prop_map(Act::ToForeign),
            1 => (tap(), mtu()).prop_map(|(tap, mtu)| Act::TapMtu(tap, mtu)),
            2 => (tap(), 0_usize..networks + 1).prop_map(|(tap, net)| Act::Rename { tap, net }),
            2 => (net(), any::<bool>()).prop_map(|(net, slowly)| Act::DeleteBridge { net, slowly }),
            2 => net().prop_map(Act::DeleteUplink),
            1 => (net(), mtu()).prop_map(|(net, mtu)| Act::BridgeMtu(net, mtu)),
            1 => net().prop_map(Act::BridgeDown),
            1 => net().prop_map(Act::UplinkAway),
            1 => Just(Act::NicAway),
            1 => Just(Act::NicBack),
            1 => Just(Act::LocalAway),
            1 => Just(Act::LocalBack),
            4 => (tap(), net(), proptest::option::of(0_u8..3))
                .prop_map(|(tap, net, mac)| Act::Bind { tap, net, mac }),
            1 => Just(Act::FlushRuleset),
            2 => tap().prop_map(Act::Unbind),
            2 => (net(), proptest::option::of(prop_oneof![Just(1400_i64), Just(1450)]))
                .prop_map(|(net, mtu)| Act::NetworkMtu { net, mtu }),
            2 => (0_u8..8).prop_map(Act::Peers),
            1 => (0_u8..4).prop_map(Act::ForeignEntry),
            6 => (tap(), proptest::option::weighted(0.8, verdict::of_port().prop_map(Box::new)))
                .prop_map(|(tap, said)| Act::SayOfTap(tap, said)),
            4 => net().prop_flat_map(|net| {
                proptest::option::weighted(0.8, verdict::of_network(net % PER_NETWORK.len()).prop_map(Box::new))
                    .prop_map(move |said| Act::SayOfNetwork(net, said))
            }),
            1 => (any::<bool>(), any::<bool>()).prop_map(|(ports, networks)| Act::Plugins { ports, networks }),
            1 => Just(Act::Lose),
            1 => (2_usize..4).prop_map(Act::Repeat),
            1 => Just(Act::Resync),
            1 => Just(Act::Restart),
            2 => prop_oneof![Just(1_u64), Just(1_000), Just(20_000), Just(400_000)].prop_map(Act::Wait),
            6 => (1_usize..6).prop_map(Act::Turns),
            6 => Just(Act::Settle),
        ]
    }

    /// Done to the kernel, not to the program.
    pub fn is_kernels(&self) -> bool {
        !matches!(
            self,
            Act::Bind { .. }
                | Act::Unbind(_)
                | Act::FlushRuleset
                | Act::NetworkMtu { .. }
                | Act::Peers(_)
                | Act::SayOfTap(..)
                | Act::SayOfNetwork(..)
                | Act::Plugins { .. }
                | Act::Lose
                | Act::Repeat(_)
                | Act::Resync
                | Act::Restart
                | Act::Wait(_)
                | Act::Turns(_)
                | Act::Settle
        )
    }
}

pub struct World {
    pub host: Host,
    pub mode: Mode,
    /// A restart or a lost answer: which destinations of a mixed flood entry are the program's own is not known to it.
    pub forgetful: bool,
    /// Answers got lost, so that a move of addresses may have to begin anew.
    pub faulty: bool,
    /// Which hooks the plugins have.
    pub policy: PolicyUse,
    /// A plugin has said something.
    pub spoken: bool,
    /// Devices of which this run of the program cannot know how they were before plugins said otherwise.
    pub unknown: BTreeSet<Ifindex>,
    /// MTUs of taps, unless somebody changed them.
    pub born_with: BTreeMap<Ifindex, u32>,
    /// Somebody changed the MTU of a bridge that has none of its own.
    pub meddled: bool,
    born: usize,
}

fn desired(prewarm: bool, mode: Mode) -> Desired {
    let aware = mode == Mode::VlanAware;
    let responder = !aware;
    let (trunk, further) = match mode {
        Mode::PerNetwork => ("", ""),
        Mode::VlanAware => (
            "physnet3 = { interface = \"eth3\", trunk = true }\n[bridge]\nmode = \"vlan-aware\"\n",
            "[[network]]\nid = \"tag\"\nnetwork_type = \"vlan\"\nsegmentation_id = 200\nphysical_network = \"physnet3\"\n\
             [[network]]\nid = \"far\"\nnetwork_type = \"vxlan\"\nsegmentation_id = 70000\n\
             [[network.peer]]\nvtep = \"192.0.2.12\"\n\
             [[port]]\ntap = \"tap4-*\"\nnetwork = \"tag\"\n[[port]]\ntap = \"tap5-*\"\nnetwork = \"far\"\n",
        ),
    };
    let text = format!(
        "[physical_networks]\nphysnet1 = {{ interface = \"eth1\" }}\nphysnet2 = {{ interface = \"eth2\" }}\n{trunk}\
         [vxlan]\nlocal_ip = \"192.0.2.11\"\nl2_population = true\narp_responder = {responder}\n\
         [[network]]\nid = \"loc\"\nnetwork_type = \"local\"\nprewarm = {prewarm}\n\
         [[network]]\nid = \"vlan\"\nnetwork_type = \"vlan\"\nsegmentation_id = 100\nphysical_network = \"physnet1\"\n\
         prewarm = {prewarm}\n\
         [[network]]\nid = \"vx\"\nnetwork_type = \"vxlan\"\nsegmentation_id = 100\n\
         [[network.peer]]\nvtep = \"192.0.2.12\"\n\
         [[network]]\nid = \"flat\"\nnetwork_type = \"flat\"\nphysical_network = \"physnet2\"\n\
         [[port]]\ntap = \"tap0-*\"\nnetwork = \"loc\"\n[[port]]\ntap = \"tap1-*\"\nnetwork = \"vlan\"\n\
         [[port]]\ntap = \"tap2-*\"\nnetwork = \"vx\"\n[[port]]\ntap = \"tap3-*\"\nnetwork = \"flat\"\n{further}"
    );
    let config = config::load_str(&text, Path::new("world.toml")).expect("the configuration");
    daemon::sources::desired(&config, &daemon::sources::Told::default(), "host")
}

/// A VTEP that no network is told of: somebody else floods to it.
fn strangers_vtep(last: u8) -> IpAddr {
    Ipv4Addr::new(203, 0, 113, last).into()
}

pub fn is_strangers(vtep: IpAddr) -> bool {
    (0..=u8::MAX).any(|last| strangers_vtep(last) == vtep)
}

/// Of `vx`, of `far`, and nobody's.
pub fn vni(which: usize) -> Vni {
    Vni::new(i64::from([100, FAR, 999][which])).expect("a VNI")
}

pub fn name(text: &str) -> LinkName {
    LinkName::new(text).expect("an interface name")
}

impl World {
    pub fn new(prewarm: bool, mode: Mode) -> Self {
        let mut kernel = Kernel::default();
        let add = |kernel: &mut Kernel, text: &str, kind: LinkKind| {
            let index = kernel.create(Birth::of(name(text), kind)).expect("a device");
            kernel.set_up(index, true).expect("up");
            index
        };
        let eth0 = add(&mut kernel, "eth0", LinkKind::Physical);
        kernel
            .address(ListAction::Add, eth0, &record::address(LOCAL, eth0))
            .expect("local_ip");
        add(&mut kernel, "eth1", LinkKind::Physical);
        if mode == Mode::VlanAware {
            add(&mut kernel, "eth3", LinkKind::Physical);
        }
        let eth2 = add(&mut kernel, "eth2", LinkKind::Physical);
        for address in HOST_ADDRESSES {
            kernel
                .address(ListAction::Add, eth2, &record::address(address, eth2))
                .expect("an address");
        }
        for route in [
            record::route("default", Some("198.51.100.1"), eth2, 50),
            record::route("203.0.113.0/24", Some("198.51.100.2"), eth2, 0),
            record::route("default", Some("2001:db8::1"), eth2, 1024),
        ] {
            kernel.route(ListAction::Add, &route).expect("a route");
        }
        let virbr = add(
            &mut kernel,
            "virbr0",
            LinkKind::Bridge(BridgeAttributes::default()),
        );
        let vnet = add(&mut kernel, "vnet9", LinkKind::Tap);
        kernel.set_master(vnet, Some(virbr)).expect("a port");
        for bridge in ["br-plain", LENT] {
            add(&mut kernel, bridge, LinkKind::Bridge(BridgeAttributes::default()));
        }
        let foreign = VxlanAttributes {
            vni: 7,
            dstport: 8472,
            ..VxlanAttributes::default()
        };
        let vx = add(&mut kernel, "vx-foreign", LinkKind::Vxlan(Box::new(foreign)));
        let entry = FdbEntry {
            mac: Mac::ZERO,
            dst: Some("203.0.113.9".parse().expect("an address")),
        };
        kernel
            .fdb(ListAction::Append, vx, entry, false)
            .expect("an entry");
        kernel.lose_messages();
        let mut host = Host::new(kernel, desired(prewarm, mode), Some(Duration::from_secs(300)));
        let guarded: Vec<Ifindex> = FOREIGN.iter().filter_map(|n| host.kernel.index(n)).collect();
        host.guard(guarded);
        host.keep_reachable(HOST_ADDRESSES.iter().map(|a| {
            let (ip, _) = a.split_once('/').expect("address/length");
            ip.parse().expect("an address")
        }));
        host.settle();
        Self {
            host,
            mode,
            forgetful: false,
            faulty: false,
            policy: PolicyUse::default(),
            spoken: false,
            unknown: BTreeSet::new(),
            born_with: BTreeMap::new(),
            meddled: false,
            born: 0,
        }
    }

    /// The taps of the world that are meant for networks, by index.
    pub fn taps(&self) -> Vec<Ifindex> {
        self.host
            .kernel
            .devices()
            .filter(|d| matches!(d.link.kind, LinkKind::Tap) && d.link.name != name("vnet9"))
            .map(|d| d.link.index)
            .collect()
    }
    fn tap(&self, number: usize) -> Option<Ifindex> {
        let taps = self.taps();
        taps.get(number % taps.len().max(1)).copied()
    }
    fn named(&self, text: &str) -> Option<Ifindex> {
        self.host.kernel.index(text)
    }

    pub fn take(&mut self, act: &Act) {
        match act {
            Act::Bind { tap, net, mac } => {
                if let Some(tap) = self.tap(*tap).and_then(|t| self.host.kernel.device(t)) {
                    let mut mapping = PortMapping::new(
                        TapSelector::Exact(tap.link.name),
                        NetworkId::new(self.mode.networks()[*net].0).expect("an id"),
                    );
                    mapping.mac = mac.map(|last| Mac::new([0xfa, 0x16, 0x3e, 0, 1, last]));
                    self.host.tell(Event::SetMapping(Box::new(mapping)));
                }
            }
            Act::Unbind(tap) => {
                if let Some(tap) = self.tap(*tap).and_then(|t| self.host.kernel.device(t)) {
                    let selector = TapSelector::Exact(tap.link.name);
                    self.host.tell(Event::RemoveMapping(selector));
                }
            }
            Act::NetworkMtu { net, mtu } => {
                self.change_network(*net, |network| {
                    network.mtu = mtu.map(|mtu| Mtu::new(mtu).expect("an mtu"));
                });
            }
            Act::Peers(which) => {
                let which = *which;
                self.change_network(2, |network| {
                    network.peers = (0..3_u8)
                        .filter(|bit| which & (1 << bit) != 0)
                        .map(|bit| tapwire::model::Peer {
                            vtep: std::net::Ipv4Addr::new(192, 0, 2, 12 + bit).into(),
                            mac: (bit > 0).then(|| Mac::new([0xfa, 0x16, 0x3e, 0, 0, 1])),
                            ip: (bit > 0).then(|| std::net::Ipv4Addr::new(10, 0, 0, bit).into()),
                        })
                        .collect();
                });
            }
            Act::FlushRuleset => {
                self.host.kernel.guard = GuardHave::default();
                self.host.tell(Event::GuardTouched);
            }
            Act::Lose => {
                self.host.kernel.lose_messages();
                self.host.overrun();
            }
            Act::Repeat(times) => self.host.kernel.repeat_messages(*times),
            Act::Resync => self.host.tell(Event::Resync),
            Act::Restart => {
                self.forgetful = true;
                self.restart();
            }
            Act::Wait(ms) => self.host.wait(Duration::from_millis(*ms)),
            Act::Turns(turns) => {
                for _ in 0..*turns {
                    self.host.turn();
                }
            }
            Act::Settle => self.host.settle(),
            Act::SayOfTap(tap, said) => {
                if let Some(index) = self.tap(*tap) {
                    self.spoken = true;
                    self.say_of_tap(index, said.as_deref().cloned());
                }
            }
            Act::SayOfNetwork(net, said) => {
                self.spoken = true;
                self.say_of_network(*net, said.as_deref().cloned());
            }
            Act::Plugins { ports, networks } if self.mode == Mode::PerNetwork => {
                self.plugins(*ports, *networks)
            }
            Act::Plugins { .. } => {}
            other => self.quietly(other),
        }
    }

    fn change_network(&mut self, net: usize, change: impl FnOnce(&mut tapwire::model::Network)) {
        let id = NetworkId::new(self.mode.networks()[net].0).expect("an id");
        if let Some(mut network) = self.host.engine.desired().network(&id).cloned() {
            change(&mut network);
            self.host.tell(Event::SetNetwork(Box::new(network)));
        }
    }

    pub fn restart(&mut self) {
        self.forget_originals();
        self.host.restart();
        let (ports, networks) = (self.policy.ports, self.policy.networks);
        self.plugins(ports, networks);
    }

    /// Something done to the kernel. What the kernel refuses did not happen.
    pub fn quietly(&mut self, act: &Act) {
        let networks = self.mode.networks();
        let bridge = |net: usize| self.named(networks[net].1);
        let uplink = |net: usize| networks[net].2.and_then(|n| self.named(n));
        let _refused = match act {
            Act::NewTap { net, mtu, up } => {
                self.born += 1;
                let text = format!("tap{net}-{}", self.born);
                let mut birth = Birth::of(name(&text), LinkKind::Tap);
                birth.mtu = Some(*mtu);
                let (mtu, up) = (*mtu, *up);
                self.host.kernel.create(birth).and_then(|index| {
                    self.unknown.remove(&index);
                    self.born_with.insert(index, mtu);
                    self.host.kernel.set_up(index, up)
                })
            }
            Act::DeleteTap(tap) => self.tap(*tap).map_or(Ok(()), |t| self.host.kernel.delete(t)),
            Act::Detach(tap) => self
                .tap(*tap)
                .map_or(Ok(()), |t| self.host.kernel.set_master(t, None)),
            Act::ToBridge { tap, net } => match (self.tap(*tap), bridge(*net)) {
                (Some(t), Some(b)) => self.host.kernel.set_master(t, Some(b)),
                _ => Ok(()),
            },
            Act::ToForeign(tap) => match (self.tap(*tap), self.named(LENT)) {
                (Some(t), Some(b)) => self.host.kernel.set_master(t, Some(b)),
                _ => Ok(()),
            },
            Act::TapMtu(tap, mtu) => self.tap(*tap).map_or(Ok(()), |t| {
                self.born_with.remove(&t);
                self.host.kernel.set_mtu(t, *mtu)
            }),
            Act::Rename { tap, net } => match self.tap(*tap) {
                Some(t) => {
                    self.born += 1;
                    let text = if *net < networks.len() {
                        format!("tap{net}-{}", self.born)
                    } else {
                        // Not ours any more, whatever it is called later.
                        self.unknown.insert(t);
                        format!("other{}", self.born)
                    };
                    self.host.kernel.rename(t, name(&text))
                }
                None => Ok(()),
            },
            // A flat network's bridge has the host's addresses: who deletes it cuts the host off, and nothing brings them back.
            Act::DeleteBridge { net, slowly } if *net != 3 => match bridge(*net) {
                Some(b) if *slowly => {
                    self.host.kernel.delete_slowly(b);
                    Ok(())
                }
                Some(b) => self.host.kernel.delete(b),
                None => Ok(()),
            },
            Act::DeleteUplink(net) if *net != 3 => {
                uplink(*net).map_or(Ok(()), |u| self.host.kernel.delete(u))
            }
            Act::BridgeMtu(net, mtu) => bridge(*net).map_or(Ok(()), |b| {
                self.meddled |= *net == 0;
                self.host.kernel.set_mtu(b, *mtu)
            }),
            Act::BridgeDown(net) if *net != 3 => {
                bridge(*net).map_or(Ok(()), |b| self.host.kernel.set_up(b, false))
            }
            Act::UplinkAway(net) if *net != 3 => {
                uplink(*net).map_or(Ok(()), |u| self.host.kernel.set_master(u, None))
            }
            Act::NicAway => self.named("eth1").map_or(Ok(()), |n| self.host.kernel.delete(n)),
            Act::NicBack => self.nic(),
            Act::LocalAway => self.local(ListAction::Delete),
            Act::LocalBack => self.local(ListAction::Add),
            Act::ForeignEntry(last) => {
                let (device, vni) = match self.mode {
                    Mode::PerNetwork => ("vxlan-100", None),
                    Mode::VlanAware => (TUNNEL, Some(vni(0))),
                };
                match self.named(device) {
                    Some(device) => {
                        let entry = FdbEntry {
                            mac: Mac::ZERO,
                            dst: Some(strangers_vtep(*last)),
                        };
                        self.host
                            .kernel
                            .fdb_of(ListAction::Append, device, entry, vni, false)
                    }
                    None => Ok(()),
                }
            }
            Act::Vlan {
                port,
                vid,
                pvid,
                untagged,
                add,
            } => match (self.port(*port), self.vid(*vid)) {
                (Some(port), Some(vid)) => {
                    let row = VlanRow {
                        vid,
                        pvid: *pvid,
                        untagged: *untagged,
                        vni: None,
                    };
                    let action = if *add { ListAction::Add } else { ListAction::Delete };
                    self.host.kernel.vlan(action, port, row)
                }
                _ => Ok(()),
            },
            Act::TunnelId { vid, vni: which } => match (self.named(TUNNEL), self.vid(*vid)) {
                (Some(device), Some(vid)) => {
                    let row = VlanRow::tunnel(vid, vni(*which));
                    self.host.kernel.vlan(ListAction::Add, device, row)
                }
                _ => Ok(()),
            },
            Act::Vni { vni: which, add } => match self.named(TUNNEL) {
                Some(device) => {
                    let row = VniRow {
                        vni: vni(*which),
                        group: None,
                    };
                    let action = if *add { ListAction::Add } else { ListAction::Delete };
                    self.host.kernel.vni(action, device, row)
                }
                None => Ok(()),
            },
            Act::DefaultPvid(pvid) => {
                if let Some(bridge) = self.named(BRIDGE) {
                    self.host.kernel.set_default_pvid(bridge, *pvid);
                }
                Ok(())
            }
            Act::FilteringOff => {
                if let Some(bridge) = self.named(BRIDGE) {
                    self.host.kernel.set_filtering(bridge, false);
                }
                Ok(())
            }
            Act::TunnelOff => {
                if let Some(device) = self.named(TUNNEL) {
                    self.host.kernel.tunnel_off(device);
                }
                Ok(())
            }
            _ => Ok(()),
        };
    }

    /// A port of the VLAN-aware bridge.
    fn port(&self, number: usize) -> Option<Ifindex> {
        let bridge = self.named(BRIDGE)?;
        let devices = self.host.kernel.devices();
        let ports: Vec<Ifindex> = devices
            .filter(|d| d.link.master == Some(bridge))
            .map(|d| d.link.index)
            .collect();
        ports.get(number % ports.len().max(1)).copied()
    }
    /// Some network's VLAN, or nobody's.
    fn vid(&self, number: usize) -> Option<Vid> {
        let given = self.host.engine.desired().vids.iter().map(|(_, vid)| vid);
        let others = [100, 200, 3000].into_iter().filter_map(|raw| Vid::new(raw).ok());
        let all: Vec<Vid> = others.chain(given).collect();
        all.get(number % all.len()).copied()
    }

    fn nic(&mut self) -> crate::fake_kernel::Answer {
        let nics: &[&str] = match self.mode {
            Mode::PerNetwork => &["eth1"],
            Mode::VlanAware => &["eth1", "eth3"],
        };
        for nic in nics {
            if self.named(nic).is_none() {
                let birth = Birth::of(name(nic), LinkKind::Physical);
                let index = self.host.kernel.create(birth)?;
                self.host.kernel.set_up(index, true)?;
            }
        }
        Ok(())
    }

    fn local(&mut self, action: ListAction) -> crate::fake_kernel::Answer {
        let Some(eth0) = self.named("eth0") else {
            return Ok(());
        };
        self.host
            .kernel
            .address(action, eth0, &record::address(LOCAL, eth0))
    }

    /// Everybody stops, and what networks need is there.
    pub fn recover_quietly(&mut self) {
        self.quietly(&Act::NicBack);
        self.quietly(&Act::LocalBack);
        let lent = self.named(LENT);
        for tap in self.taps() {
            if lent.is_some()
                && self
                    .host
                    .kernel
                    .device(tap)
                    .is_some_and(|d| d.link.master == lent)
            {
                let _held = self.host.kernel.set_master(tap, None);
            }
        }
    }
    pub fn recover(&mut self) {
        self.recover_quietly();
        // Longer than the longest pause and the slow retry of a move.
        self.wait(400);
    }
    pub fn resync(&mut self) {
        self.host.tell(Event::Resync);
        self.wait(100);
    }
    pub fn wait(&mut self, seconds: u64) {
        self.host.wait(Duration::from_secs(seconds));
    }
}
