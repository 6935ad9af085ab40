//! Interfaces that networks needed larger than they were.
//!
//! A network that is told an MTU raises its interface to it; networks that are told none follow the interface. When nobody
//! asks for as much any more (a plugin has gone, a file says less, the network is not used), the interface goes back, but
//! not below what it was. Like `original`, this is not kept across a restart; and an MTU that somebody else set is theirs.

use super::Engine;
use crate::desired::segment::SegmentWant;
use crate::model::{Ifindex, Mtu, NetworkId};
use crate::plan::op::{LinkChange, Op};
use crate::plan::segment::reference;

/// An interface whose MTU is ours.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Raised {
    from: u32,
    /// What we told it since.
    told: Vec<u32>,
}

impl Engine {
    /// What a network in use asks of its interface; `None`: it is not used any more.
    pub(super) fn ask_of_nic(&mut self, id: &NetworkId, want: Option<&SegmentWant>) -> Option<Ifindex> {
        let entry = self.segments.get_mut(id)?;
        let before = entry.asked_of_nic.map(|(nic, _)| nic);
        entry.asked_of_nic = want.and_then(|want| Some((want.nic()?, want.asked_of_nic?)));
        before.or(want.and_then(SegmentWant::nic))
    }

    /// Remembers what `ops` are about to raise.
    pub(super) fn note_raise(&mut self, want: &SegmentWant, ops: &[Op]) {
        let Some(nic) = want.nic() else { return };
        let told = ops.iter().find_map(|op| match op {
            Op::SetLink { link, change } if link.index == Some(nic) => change.mtu,
            _ => None,
        });
        let (Some(told), Some(link)) = (told, self.observed.link(nic)) else {
            return;
        };
        let (have, told) = (link.mtu, told.get());
        match self.raised.get_mut(&nic) {
            Some(raised) if raised.from == have || raised.told.contains(&have) => {
                if !raised.told.contains(&told) {
                    raised.told.push(told);
                }
            }
            _ => {
                let raised = Raised {
                    from: have,
                    told: vec![told],
                };
                self.raised.insert(nic, raised);
            }
        }
    }

    /// Puts the first interface back that is larger than anybody asks for.
    pub(super) fn lower_nics(&mut self) -> Option<Op> {
        let raised: Vec<Ifindex> = self.raised.keys().copied().collect();
        raised.into_iter().find_map(|nic| self.lower_nic(nic))
    }

    /// Puts an interface back as far as nobody asks for more.
    pub(super) fn lower_nic(&mut self, nic: Ifindex) -> Option<Op> {
        let raised = self.raised.get_mut(&nic)?;
        let link = self.observed.link(nic)?;
        let asked = self.segments.values().filter_map(|entry| entry.asked_of_nic);
        let asked = asked.filter(|(on, _)| *on == nic).map(|(_, mtu)| mtu.get()).max();
        let most = asked.unwrap_or_default().max(raised.from);
        if link.mtu == raised.from && most == raised.from {
            self.raised.remove(&nic);
            return None;
        }
        if link.mtu <= most || !raised.told.contains(&link.mtu) {
            return None;
        }
        if !raised.told.contains(&most) {
            raised.told.push(most);
        }
        let change = LinkChange {
            mtu: Mtu::new(i64::from(most)).ok(),
            ..LinkChange::default()
        };
        Some(Op::SetLink {
            link: reference(link),
            change,
        })
    }
}
