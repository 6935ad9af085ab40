//! Announcing again: the neighbours of a device know its addresses by another MAC than it has.
//!
//! A bridge without a MAC of its own takes the lowest of its ports' (`br_stp_recalculate_bridge_id`), hence another one when
//! a port joins or leaves. Frames to the old one are nobody's from then on, but machines keep it in their neighbour entries
//! for minutes. So what a device carries for a network is announced again: gateway addresses, also those shared with other
//! hosts (the rules that keep them on this side of the uplink are in force before any address is looked at), floating
//! addresses, and with `[network.ra]` the link-local address that machines have as their router. Bridges of ours are made
//! with a MAC, and what is taken over is given the one it has (`plan/bridge.rs`; but one with an alias of the operator's gets
//! no mark and no MAC, and counts as theirs here). There only somebody's own hand changes it, which is told like any other
//! change, as are those of bonds and VLANs.
//!
//! **When.** The state decides, not the event: for each device the MAC that its neighbours were told is compared with the
//! one in the mirror. An event of a link that is no tap has the gateways looked at, after all taps and segments: a burst of
//! taps of one turn costs one announcement, with the MAC that it ended with. A full pass after lost messages compares the
//! same. Another MAC makes the known one void at once: there and back again within a pause is told too, because who asked
//! in between was answered with the other one. (Unless both were lost: that a dump does not show.)
//!
//! **A start** knows nothing of what was told. What carries addresses of ours by then is announced once, except on devices of
//! ours and on network cards, which have the MAC that they had.
//!
//! **A MAC that flaps** is told at once and then at most once a second for each network. Whoever sends drops what is left
//! to send of the MAC before.
//!
//! **What fails.** Nobody acknowledges an announcement, so it is sent three times. A device without carrier reaches nobody and
//! is told when it has one. If the plan fails, because the device was renamed or went in this moment, nothing of it
//! counts as told, and it is told with the next try, which waits like that of an address. A packet socket that cannot be had
//! is a warning; then machines ask again in their own time.

use super::super::Engine;
use crate::desired::gateway::AddressWant;
use crate::model::owned::Mark;
use crate::model::{Ifindex, Link, LinkKind, Mac, NetworkId, Time};
use crate::observed::Observed;
use crate::plan::Key;
use crate::plan::gateway::plan_announcements;
use crate::plan::op::Op;
use std::collections::BTreeMap;
use std::time::Duration;

/// Between two announcements of what one network's devices carry.
const PAUSE: Duration = Duration::from_secs(1);

/// What the neighbours of one network's addresses know.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Told {
    /// By device. None: not looked at since the start.
    macs: Option<BTreeMap<Ifindex, Mac>>,
    /// By the plan under way.
    under_way: Vec<Ifindex>,
    /// The last time that something was told again.
    again_at: Option<Time>,
}

impl Told {
    /// The device has another MAC, or is gone.
    pub fn forget(&mut self, device: Ifindex) {
        if let Some(macs) = &mut self.macs {
            macs.remove(&device);
        }
    }

    /// The plan under way was carried out, or was not: then nobody knows what was told.
    pub fn done(&mut self, failed: bool) {
        for device in std::mem::take(&mut self.under_way) {
            if failed {
                self.forget(device);
            }
        }
    }

    fn knows(&self, link: &Link, mac: Mac) -> bool {
        match &self.macs {
            Some(macs) => macs.get(&link.index) == Some(&mac),
            None => keeps_its_mac(link),
        }
    }
}

/// Over a time in which nobody looked. A bond's follows its members, a VLAN's the device below.
fn keeps_its_mac(link: &Link) -> bool {
    matches!(link.kind, LinkKind::Physical) || !Mark::read(link.alias.as_deref()).is_foreign()
}

/// The devices that carry something of this already, each once.
fn carriers<'a>(wants: &[AddressWant], observed: &'a Observed) -> Vec<(&'a Link, Mac)> {
    let mut found: Vec<(&Link, Mac)> = Vec::new();
    for want in wants {
        if let Some(link) = observed.by_name(&want.device)
            && let Some(mac) = link.mac.filter(|mac| !mac.is_zero())
            && found.iter().all(|(known, _)| known.index != link.index)
            && observed.carries(link.index, want.address.address())
        {
            found.push((link, mac));
        }
    }
    found
}

impl Engine {
    /// What is to be announced again, were it not for the pause; for `plan`.
    pub(super) fn due_announcements(&self, id: &NetworkId, wants: &[AddressWant]) -> Vec<Op> {
        let unlooked = Told::default();
        let told = self
            .gateways
            .networks
            .get(id)
            .map_or(&unlooked, |entry| &entry.told);
        let due: Vec<Ifindex> = carriers(wants, &self.observed)
            .into_iter()
            .filter(|(link, mac)| link.up && link.carrier && !told.knows(link, *mac))
            .map(|(link, _)| link.index)
            .collect();
        if due.is_empty() {
            return Vec::new();
        }
        let advertised = self
            .desired
            .network(id)
            .and_then(|network| network.gateway.as_deref())
            .is_some_and(|gateway| gateway.ra.is_some());
        plan_announcements(wants, &due, advertised, &self.observed)
    }

    /// The operations that announce again what it is time for; they count as carried out.
    pub(super) fn announce_again(&mut self, id: &NetworkId, wants: &[AddressWant], now: Time) -> Vec<Op> {
        let mut ops = self.due_announcements(id, wants);
        let entry = self.gateways.networks.get(id);
        if ops.is_empty() && entry.is_some_and(|entry| entry.told.macs.is_some()) {
            return ops;
        }
        let told = &mut self.gateways.networks.entry(id.clone()).or_default().told;
        let next = told.again_at.map(|at| at.plus(PAUSE)).filter(|at| *at > now);
        if !ops.is_empty() {
            match next {
                Some(at) => {
                    self.timers.insert((at, Key::Gateway(id.clone())));
                    ops.clear();
                }
                None => told.again_at = Some(now),
            }
        }
        let macs = told.macs.get_or_insert_with(|| {
            let each = carriers(wants, &self.observed).into_iter();
            each.filter(|(link, _)| keeps_its_mac(link))
                .map(|(link, mac)| (link.index, mac))
                .collect()
        });
        for op in &ops {
            if let Some(index) = op.device_index()
                && let Some(mac) = self.observed.link(index).and_then(|link| link.mac)
            {
                macs.insert(index, mac);
                told.under_way.push(index);
            }
        }
        ops
    }

    /// Addresses are put on these devices and announced with it. Where there are others of this network already, those may
    /// have to be told still.
    pub(super) fn announced_first(&mut self, id: &NetworkId, wants: &[AddressWant]) {
        let carriers = carriers(wants, &self.observed);
        let told = &mut self.gateways.networks.entry(id.clone()).or_default().told;
        let macs = told.macs.get_or_insert_default();
        for want in wants {
            if let Some(link) = self.observed.by_name(&want.device)
                && carriers.iter().all(|(known, _)| known.index != link.index)
                && let Some(mac) = link.mac
            {
                macs.insert(link.index, mac);
                told.under_way.push(link.index);
            }
        }
    }
}
