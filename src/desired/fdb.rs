//! Forwarding entries and neighbours of a VXLAN network, from its peers and from policy.
//!
//! One flood entry (all-zero MAC) per remote VTEP, so that broadcast reaches it by head-end replication; one unicast
//! entry per known MAC; with `arp_responder` one permanent neighbour per known MAC and address, which the device's
//! `proxy` answers from (IPv4 only: IPv6 is off on the device, and the kernel takes no IPv6 neighbour there). Entries to
//! our own VTEP are skipped: they would loop. A MAC has one destination and an address one MAC: where several are told
//! (a guest that migrates), the last one counts, policy's after the peers'.

use super::Desired;
use super::verdict::{NetworkVerdict, PortVerdict};
use crate::model::{FdbEntry, Mac, NeighbourEntry, Network, Segment};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ForwardingWant {
    pub fdb: BTreeSet<FdbEntry>,
    pub neighbours: BTreeSet<NeighbourEntry>,
}

pub fn derive_forwarding<'a>(
    desired: &Desired,
    network: &Network,
    verdict: Option<&NetworkVerdict>,
    ports: impl Iterator<Item = &'a PortVerdict>,
) -> ForwardingWant {
    if !matches!(network.segment, Segment::Vxlan { .. }) {
        return ForwardingWant::default();
    }
    let own = desired.vxlan.local_ip;
    let remote = |entry: &&FdbEntry| entry.dst.is_some() && entry.dst != own;
    let answers = desired.vxlan.arp_responder;
    let mut entries: Vec<FdbEntry> = Vec::new();
    let mut neighbours: BTreeMap<IpAddr, Mac> = BTreeMap::new();
    for peer in network.peers.iter().filter(|peer| Some(peer.vtep) != own) {
        // Also with a multicast group: a VTEP that is told need not be a member of it.
        let dst = Some(peer.vtep);
        entries.push(FdbEntry { mac: Mac::ZERO, dst });
        if let Some(mac) = peer.mac {
            entries.push(FdbEntry { mac, dst });
            if let (Some(ip), true) = (peer.ip, answers) {
                neighbours.insert(ip, mac);
            }
        }
    }
    entries.extend(verdict.into_iter().flat_map(|v| &v.flood).filter(remote));
    for port in ports {
        entries.extend(port.fdb.iter().filter(remote));
        if answers {
            neighbours.extend(port.neighbours.iter().map(|n| (n.ip, n.mac)));
        }
    }
    let (flood, unicast): (Vec<FdbEntry>, Vec<FdbEntry>) = entries.into_iter().partition(FdbEntry::is_flood);
    let unicast: BTreeMap<Mac, FdbEntry> = unicast.into_iter().map(|entry| (entry.mac, entry)).collect();
    ForwardingWant {
        fdb: flood.into_iter().chain(unicast.into_values()).collect(),
        neighbours: neighbours
            .into_iter()
            .filter(|(ip, _)| ip.is_ipv4())
            .map(|(ip, mac)| NeighbourEntry { ip, mac })
            .collect(),
    }
}
