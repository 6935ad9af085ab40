//! Which VLAN id a network has on the VLAN-aware bridge.
//!
//! A VLAN network on a trunk has its segmentation id, since the same tag is on the wire. Every other network gets one
//! that is free: the one of its own number if that is a VID (VNI 100 is VLAN 100, which keeps the kernel's lists short
//! too: it tells neighbouring pairs as a range), else one that its id leads to. VLAN 1 is left out: tools and devices
//! give it to ports that nobody asked about.
//!
//! There is no file of them. After a restart the kernel's tables tell who has which (`engine::aware`); what they do not
//! tell, nobody uses, and the choice above is the same in every run.

use super::Desired;
use crate::model::{Network, NetworkId, Segment, Vid};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Vids {
    of: BTreeMap<NetworkId, Vid>,
    taken: BTreeMap<Vid, NetworkId>,
}

impl Vids {
    pub fn get(&self, network: &NetworkId) -> Option<Vid> {
        self.of.get(network).copied()
    }
    pub fn network_of(&self, vid: Vid) -> Option<&NetworkId> {
        self.taken.get(&vid)
    }
    pub fn iter(&self) -> impl Iterator<Item = (&NetworkId, Vid)> {
        self.of.iter().map(|(network, vid)| (network, *vid))
    }
    /// Gives `vid` to `network`; tells who had it.
    pub fn assign(&mut self, network: &NetworkId, vid: Vid) -> Option<NetworkId> {
        self.release(network);
        let before = self.taken.insert(vid, network.clone());
        if let Some(before) = &before {
            self.of.remove(before);
        }
        self.of.insert(network.clone(), vid);
        before
    }
    pub fn release(&mut self, network: &NetworkId) {
        if let Some(vid) = self.of.remove(network) {
            self.taken.remove(&vid);
        }
    }
}

/// The VID that a network must have: the tag on a trunk's wire.
pub fn fixed(desired: &Desired, network: &Network) -> Option<Vid> {
    match &network.segment {
        Segment::Vlan { physical, vid } if desired.physical.get(physical)?.trunk => Some(*vid),
        _ => None,
    }
}

/// Does some network's trunk need it?
pub fn is_reserved(desired: &Desired, vid: Vid) -> bool {
    reserved(desired).any(|tag| tag == vid)
}

/// Whose VLAN it is on the shared bridge, or will be once that network is used.
pub fn owner(desired: &Desired, vid: Vid) -> Option<NetworkId> {
    if let Some(network) = desired.vids.network_of(vid) {
        return Some(network.clone());
    }
    let will_be = |network: &&Network| {
        desired.vids.get(&network.id).is_none()
            && fixed(desired, network).or_else(|| preferred(network)) == Some(vid)
            && super::aware::shared_bridge(desired, network).is_some()
    };
    desired.networks().find(will_be).map(|network| network.id.clone())
}

/// Looks at every network only where there are trunks.
fn reserved(desired: &Desired) -> impl Iterator<Item = Vid> {
    let trunks = desired.physical.values().any(|physical| physical.trunk);
    let networks = trunks.then(|| desired.networks()).into_iter().flatten();
    networks.filter_map(|network| fixed(desired, network))
}

/// A VID for a network that has none, and not one that is `in_use` (some port is in it already).
pub fn choose(desired: &Desired, network: &Network, in_use: impl Fn(Vid) -> bool) -> Option<Vid> {
    if let Some(vid) = fixed(desired, network) {
        return Some(vid);
    }
    let reserved: BTreeSet<Vid> = reserved(desired).collect();
    let free =
        |vid: &Vid| desired.vids.network_of(*vid).is_none() && !in_use(*vid) && !reserved.contains(vid);
    let first = preferred(network).unwrap_or_else(|| hashed(network.id.as_str()));
    let all = || (i64::from(FIRST)..=i64::from(Vid::MAX)).filter_map(|raw| Vid::new(raw).ok());
    let (after, before) = (
        all().filter(|vid| *vid >= first),
        all().filter(|vid| *vid < first),
    );
    after.chain(before).find(free)
}

const FIRST: u16 = 2;

/// The network's own number.
fn preferred(network: &Network) -> Option<Vid> {
    let raw = network.segment.segmentation_id()?;
    let span = u32::from(Vid::MAX - FIRST) + 1;
    let raw = if (u32::from(FIRST)..=u32::from(Vid::MAX)).contains(&raw) {
        raw
    } else {
        u32::from(FIRST) + raw % span
    };
    Vid::new(i64::from(raw)).ok()
}

/// The upper half: numbers chosen by people are low.
fn hashed(id: &str) -> Vid {
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let raw = 2048 + (hash >> 32) % 2047;
    Vid::new(i64::try_from(raw).unwrap_or(2048)).unwrap_or_else(|_| unreachable!("2048..=4094"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LinkName, PhysicalName, PhysicalNetwork, TapMatch, Vni};

    fn desired(networks: &[Network]) -> Desired {
        let taps = TapMatch {
            patterns: Vec::new(),
            other_kinds: Vec::new(),
            adopt: false,
        };
        let mut desired = Desired::new(taps, "host");
        let name = PhysicalName::new("trunk").unwrap();
        desired.physical.insert(
            name.clone(),
            PhysicalNetwork {
                name,
                interface: LinkName::new("eth1").ok(),
                bridge: None,
                adopt: false,
                trunk: true,
            },
        );
        for network in networks {
            desired.set_network(network.clone());
        }
        desired
    }

    fn vxlan(id: &str, vni: i64) -> Network {
        let vni = Vni::new(vni).unwrap();
        Network::new(NetworkId::new(id).unwrap(), Segment::Vxlan { vni })
    }

    fn vlan(id: &str, vid: i64) -> Network {
        let segment = Segment::Vlan {
            physical: PhysicalName::new("trunk").unwrap(),
            vid: Vid::new(vid).unwrap(),
        };
        Network::new(NetworkId::new(id).unwrap(), segment)
    }

    #[test]
    fn a_network_on_a_trunk_has_its_tag_and_the_others_make_way() {
        let all = [vlan("v", 100), vxlan("x", 100), vxlan("y", 5000), vxlan("z", 1)];
        let mut desired = desired(&all);
        let mut vid_of = |network: &Network| {
            let vid = choose(&desired, network, |_| false).unwrap();
            assert_eq!(desired.vids.assign(&network.id, vid), None);
            vid.get()
        };
        // The tag is kept for its network, whoever comes first; VLAN 1 for nobody.
        assert_eq!(vid_of(&all[1]), 101);
        assert_eq!(vid_of(&all[0]), 100);
        assert_eq!(vid_of(&all[2]), 2 + 5000 % 4093);
        assert_eq!(vid_of(&all[3]), 3);
    }

    #[test]
    fn every_vid_but_the_first_is_given_once_and_then_none() {
        let networks: Vec<Network> = (0..4094)
            .map(|n| Network::new(NetworkId::new(&format!("n{n}")).unwrap(), Segment::Local))
            .collect();
        let mut desired = desired(&[]);
        for network in &networks[..4093] {
            let vid = choose(&desired, network, |_| false).unwrap();
            assert!(vid.get() >= FIRST);
            assert_eq!(desired.vids.assign(&network.id, vid), None);
        }
        assert_eq!(choose(&desired, &networks[4093], |_| false), None);
        desired.vids.release(&networks[7].id);
        assert!(choose(&desired, &networks[4093], |_| false).is_some());
    }
}
