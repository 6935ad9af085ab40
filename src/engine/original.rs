//! How a tap, or a bridge, was before policy said otherwise, so that a plugin that goes leaves nothing behind.
//!
//! Remembered in the moment a verdict first sets a field, put back when no verdict sets it any more, and then
//! forgotten: from there on the field is the operator's again. Not kept across a restart: then the present values are
//! all there is to know.

use crate::desired::port::PortWant;
use crate::desired::segment::BridgeWant;
use crate::model::{Ifindex, Link, LinkKind, Mtu, PortFlags};
use crate::observed::Observed;
use crate::plan::op::LinkChange;

#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Original {
    flags: PortFlags,
    alias: Option<Box<str>>,
    tx_queue_len: Option<u32>,
    mtu: Option<u32>,
    /// A verdict has set the MTU, not just the network.
    mtu_by_policy: bool,
}

impl Original {
    /// Remembers what `want` is about to change, and adds to `want` what it no longer says. `joins`: it is to become a port
    /// of another bridge. Until it is (`joined`) it may stay one of this.
    pub fn complete(&mut self, want: &mut PortWant, segment_mtu: Option<Mtu>, link: &Link, joins: bool) {
        // What is not told yet of a port, flag by flag, is how the kernel made it.
        let have = PortFlags::NEW_PORT.overlaid_with(&link.port.unwrap_or_default());
        let known = self.flags;
        let each = |said: Option<bool>, original: Option<bool>, have: Option<bool>| match (said, original) {
            (Some(_), None) => (said, have),
            (None, Some(_)) => (original, original),
            _ => (said, original),
        };
        if !joins {
            (want.flags, self.flags) = zip(&want.flags, &known, &have, each);
        }
        match (&want.alias, &self.alias) {
            (Some(_), None) => self.alias = Some(link.alias.clone().unwrap_or_default()),
            (None, Some(original)) => want.alias = Some(original.clone()),
            _ => {}
        }
        match (want.tx_queue_len, self.tx_queue_len) {
            (Some(_), None) => self.tx_queue_len = Some(link.tx_queue_len),
            (None, Some(original)) => want.tx_queue_len = Some(original),
            _ => {}
        }
        match (want.mtu.or(segment_mtu), self.mtu) {
            (Some(_), None) => self.mtu = Some(link.mtu),
            (None, Some(original)) => want.mtu = Mtu::new(i64::from(original)).ok(),
            _ => {}
        }
    }

    /// A new bridge port starts with the kernel's flags, whatever it had elsewhere; `said` is what changes them. `again`: it
    /// is not known to be a new one.
    pub fn joined(&mut self, said: &PortFlags, again: bool) {
        let new = |said: Option<bool>, new: Option<bool>, _| (said, new.filter(|_| said.is_some()));
        let (_, new) = zip(said, &PortFlags::NEW_PORT, &PortFlags::default(), new);
        self.flags = if again {
            new.overlaid_with(&self.flags)
        } else {
            new
        };
    }

    /// A verdict sets the MTU, or none does.
    pub fn note_policy(&mut self, sets_mtu: bool) {
        self.mtu_by_policy |= sets_mtu;
    }

    /// All is as wanted: forget what nobody sets.
    pub fn settle(&mut self, want: &PortWant, segment_mtu: Option<Mtu>) {
        let keep =
            |said: Option<bool>, original: Option<bool>, _| (said, original.filter(|_| said.is_some()));
        (_, self.flags) = zip(&want.flags, &self.flags, &PortFlags::default(), keep);
        self.alias.take_if(|_| want.alias.is_none());
        self.tx_queue_len.take_if(|_| want.tx_queue_len.is_none());
        self.mtu.take_if(|_| want.mtu.or(segment_mtu).is_none());
        self.mtu_by_policy &= self.mtu.is_some();
    }
}

impl Original {
    /// What a tap that belongs nowhere any more gets back of what policy changed. Its flags go with its bridge port; an MTU
    /// that was its network's it keeps.
    pub fn leave(&mut self, link: &Link) -> LinkChange {
        let back = LinkChange {
            mtu: self
                .mtu
                .filter(|_| self.mtu_by_policy)
                .filter(|mtu| *mtu != link.mtu)
                .and_then(|mtu| Mtu::new(i64::from(mtu)).ok()),
            alias: self
                .alias
                .clone()
                .filter(|alias| link.alias.as_deref().unwrap_or_default() != &**alias),
            tx_queue_len: self.tx_queue_len.filter(|length| *length != link.tx_queue_len),
            ..LinkChange::default()
        };
        if back == LinkChange::default() {
            // It may still be on a bridge: its flags are then put back when it is mapped again.
            *self = Self {
                flags: self.flags,
                mtu: self.mtu.filter(|_| !self.mtu_by_policy),
                ..Self::default()
            };
        }
        back
    }
}

/// How a network's bridge was. One that is made with what policy says would have had the kernel's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct BridgeOriginal {
    /// Of which bridge; none: of the one that is being made.
    of: Option<Ifindex>,
    mtu: Option<Mtu>,
    ageing_time: Option<u32>,
    multicast_snooping: Option<bool>,
    vlan_filtering: Option<bool>,
}

/// Hundredths of a second (`br_dev_setup`).
const AGEING_TIME: u32 = 30_000;
const MTU: i64 = 1500;

impl BridgeOriginal {
    /// As `Original::complete`.
    pub fn complete(&mut self, want: &mut BridgeWant, observed: &Observed) {
        let link = observed.by_name(&want.name);
        let is_it = match (link, self.of) {
            (None, of) => of.is_none(),
            // The one that was being made; or nothing is remembered.
            (Some(_), None) => true,
            (Some(link), Some(of)) => link.index == of,
        };
        if !is_it {
            *self = Self::default();
        }
        self.of = link.map(|link| link.index);
        let have = match link.map(|link| &link.kind) {
            Some(LinkKind::Bridge(have)) => *have,
            _ => crate::model::BridgeAttributes::default(),
        };
        // Without its mark yet it has the MTU it was born with, which is nobody's (`plan::bridge`).
        let newborn = |link: &&Link| link.alias.is_none() && observed.is_made_here(link.index);
        let had = link.filter(|link| !newborn(link));
        let mtu = Mtu::new(had.map_or(MTU, |link| i64::from(link.mtu))).ok();
        let wanted = &mut want.attributes;
        complete(&mut want.mtu, &mut self.mtu, mtu);
        let ageing_time = have.ageing_time.or(Some(AGEING_TIME));
        complete(&mut wanted.ageing_time, &mut self.ageing_time, ageing_time);
        let snooping = have.multicast_snooping.or(Some(true));
        complete(
            &mut wanted.multicast_snooping,
            &mut self.multicast_snooping,
            snooping,
        );
        let filtering = have.vlan_filtering.or(Some(false));
        complete(&mut wanted.vlan_filtering, &mut self.vlan_filtering, filtering);
    }

    /// As `Original::settle`; `said`: the want before it was completed.
    pub fn settle(&mut self, said: &BridgeWant) {
        self.mtu.take_if(|_| said.mtu.is_none());
        self.ageing_time
            .take_if(|_| said.attributes.ageing_time.is_none());
        self.multicast_snooping
            .take_if(|_| said.attributes.multicast_snooping.is_none());
        self.vlan_filtering
            .take_if(|_| said.attributes.vlan_filtering.is_none());
    }
}

fn complete<T: Copy>(want: &mut Option<T>, original: &mut Option<T>, have: Option<T>) {
    match (*want, *original) {
        (Some(_), None) => *original = have,
        (None, Some(_)) => *want = *original,
        _ => {}
    }
}

/// Applies `pair` to each flag of three sets; two sets come out.
fn zip(
    a: &PortFlags,
    b: &PortFlags,
    c: &PortFlags,
    pair: impl Fn(Option<bool>, Option<bool>, Option<bool>) -> (Option<bool>, Option<bool>),
) -> (PortFlags, PortFlags) {
    let (mut x, mut y) = (PortFlags::default(), PortFlags::default());
    (x.learning, y.learning) = pair(a.learning, b.learning, c.learning);
    (x.isolated, y.isolated) = pair(a.isolated, b.isolated, c.isolated);
    (x.hairpin, y.hairpin) = pair(a.hairpin, b.hairpin, c.hairpin);
    (x.guard, y.guard) = pair(a.guard, b.guard, c.guard);
    (x.neigh_suppress, y.neigh_suppress) = pair(a.neigh_suppress, b.neigh_suppress, c.neigh_suppress);
    (x.flood, y.flood) = pair(a.flood, b.flood, c.flood);
    (x.mcast_flood, y.mcast_flood) = pair(a.mcast_flood, b.mcast_flood, c.mcast_flood);
    (x.bcast_flood, y.bcast_flood) = pair(a.bcast_flood, b.bcast_flood, c.bcast_flood);
    (x, y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Ifindex, LinkKind, LinkName, NetworkId, OperState};

    fn link(port: PortFlags) -> Link {
        Link {
            index: Ifindex::new(5).unwrap(),
            name: LinkName::new("tap0").unwrap(),
            kind: LinkKind::Tap,
            mac: None,
            mtu: 1500,
            up: true,
            carrier: true,
            operstate: OperState::Unknown,
            master: None,
            parent: None,
            alias: None,
            ipv6_disabled: Some(true),
            tx_queue_len: 1000,
            port: Some(port),
        }
    }

    fn want() -> PortWant {
        PortWant {
            network: NetworkId::new("blue").unwrap(),
            mtu: None,
            flags: PortFlags::default(),
            tx_queue_len: None,
            alias: None,
            admin_state_up: true,
            guard: None,
            fdb: Vec::new(),
            sub_ports: Vec::new(),
        }
    }

    #[test]
    fn what_a_verdict_set_is_put_back_once_and_then_left_alone() {
        let on = PortFlags {
            learning: Some(true),
            ..PortFlags::default()
        };
        let mut original = Original::default();
        let mut first = want();
        first.flags.learning = Some(false);
        first.mtu = Mtu::new(1400).ok();
        original.complete(&mut first, None, &link(on), false);
        assert_eq!(first.flags.learning, Some(false));

        let off = PortFlags {
            learning: Some(false),
            ..PortFlags::default()
        };
        let mut gone = want();
        original.complete(
            &mut gone,
            None,
            &Link {
                mtu: 1400,
                ..link(off)
            },
            false,
        );
        assert_eq!(gone.flags.learning, Some(true));
        assert_eq!(gone.mtu, Mtu::new(1500).ok());

        original.settle(&want(), None);
        let mut later = want();
        original.complete(&mut later, None, &link(off), false);
        assert_eq!(later, want());
    }

    #[test]
    fn a_flag_that_was_not_told_yet_goes_back_to_what_a_new_port_has() {
        // Of a fresh port only our own change is known so far.
        let ours = PortFlags {
            mcast_flood: Some(false),
            ..PortFlags::default()
        };
        let mut original = Original::default();
        let mut first = want();
        first.flags.bcast_flood = Some(false);
        original.complete(&mut first, None, &link(ours), false);
        let mut gone = want();
        original.complete(&mut gone, None, &link(PortFlags::NEW_PORT), false);
        assert_eq!(gone.flags.bcast_flood, Some(true));
    }

    #[test]
    fn flags_set_with_the_attach_go_back_to_what_a_new_port_has() {
        let mut original = Original::default();
        let mut first = want();
        first.flags.isolated = Some(true);
        original.complete(&mut first, None, &link(PortFlags::default()), true);
        original.joined(&first.flags, false);
        let have = PortFlags {
            isolated: Some(true),
            ..PortFlags::NEW_PORT
        };
        let mut gone = want();
        original.complete(&mut gone, None, &link(have), false);
        assert_eq!(gone.flags.isolated, Some(false));
    }
}
