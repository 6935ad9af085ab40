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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NetworkId, Peer, TapMatch, Vni};

    fn want(peers: &[(&str, Option<&str>, Option<&str>)]) -> ForwardingWant {
        let taps = TapMatch {
            patterns: Vec::new(),
            other_kinds: Vec::new(),
            adopt: false,
        };
        let mut desired = Desired::new(taps, "host");
        desired.vxlan.local_ip = Some("192.0.2.11".parse().unwrap());
        desired.vxlan.arp_responder = true;
        let vni = Vni::new(100).unwrap();
        let mut network = Network::new(NetworkId::new("blue").unwrap(), Segment::Vxlan { vni });
        network.peers = peers
            .iter()
            .map(|(vtep, mac, ip)| Peer {
                vtep: vtep.parse().unwrap(),
                mac: mac.map(|m| m.parse().unwrap()),
                ip: ip.map(|i| i.parse().unwrap()),
            })
            .collect();
        derive_forwarding(&desired, &network, None, std::iter::empty())
    }

    #[test]
    fn a_mac_told_behind_two_peers_has_the_last_one_as_its_destination() {
        let mac = "fa:16:3e:00:00:07";
        let want = want(&[
            ("192.0.2.12", Some(mac), Some("10.0.0.7")),
            ("192.0.2.13", Some(mac), Some("10.0.0.7")),
        ]);
        let unicast: Vec<_> = want.fdb.iter().filter(|e| !e.is_flood()).collect();
        assert_eq!(unicast.len(), 1);
        assert_eq!(unicast[0].dst, Some("192.0.2.13".parse().unwrap()));
        assert_eq!(want.fdb.iter().filter(|e| e.is_flood()).count(), 2);
        assert_eq!(want.neighbours.len(), 1);
    }

    #[test]
    fn our_own_vtep_is_no_peer() {
        assert_eq!(
            want(&[("192.0.2.11", Some("fa:16:3e:00:00:07"), None)]),
            ForwardingWant::default()
        );
    }
}
