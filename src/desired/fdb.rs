//! Forwarding entries and neighbours of a VXLAN network, from its peers and from policy.
//!
//! One flood entry (all-zero MAC) per remote VTEP, so that broadcast reaches it by head-end replication; one unicast
//! entry per known MAC; with `arp_responder` one permanent neighbour per known MAC and address, which the device's
//! `proxy` answers from. Entries to our own VTEP are skipped: they would loop.

use super::Desired;
use super::verdict::{NetworkVerdict, PortVerdict};
use crate::model::{FdbEntry, Mac, NeighbourEntry, Network, Segment};
use std::collections::BTreeSet;

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
    let mut want = ForwardingWant::default();
    if !matches!(network.segment, Segment::Vxlan { .. }) {
        return want;
    }
    let own = desired.vxlan.local_ip;
    for peer in network.peers.iter().filter(|peer| Some(peer.vtep) != own) {
        // Flooding is unicast only with l2population; otherwise the multicast group does it, unless there is none.
        want.fdb.insert(FdbEntry {
            mac: Mac::ZERO,
            dst: Some(peer.vtep),
        });
        if let Some(mac) = peer.mac {
            want.fdb.insert(FdbEntry {
                mac,
                dst: Some(peer.vtep),
            });
            if let (Some(ip), true) = (peer.ip, desired.vxlan.arp_responder) {
                want.neighbours.insert(NeighbourEntry { ip, mac });
            }
        }
    }
    let remote = |entry: &&FdbEntry| entry.dst.is_some() && entry.dst != own;
    want.fdb
        .extend(verdict.into_iter().flat_map(|v| &v.flood).filter(remote));
    for port in ports {
        want.fdb.extend(port.fdb.iter().filter(remote));
        if desired.vxlan.arp_responder {
            want.neighbours.extend(&port.neighbours);
        }
    }
    want
}
