//! What the kernel and the sources tell, and whom it concerns.
//!
//! Length: one function for each thing that can be told.

use super::backoff::Fight;
use super::event::{Snapshot, Why};
use super::note::{Note, TapChange, What};
use super::state::{PortLabel, PortState, SegmentEntry, Tap};
use super::{Engine, Mirror};
use crate::desired::{Desired, port, segment};
use crate::model::owned::Mark;
use crate::model::{Ifindex, Link, LinkKind, LinkName, NetworkId, TapSelector, Time};
use crate::observed::{Change, Effect};
use crate::plan::{CauseId, Key};
use std::collections::BTreeSet;

impl Engine {
    pub(super) fn on_kernel(&mut self, change: Change, cause: CauseId, now: Time) {
        let effect = self.observed.apply(change);
        self.on_effect(effect, cause, now);
    }

    pub(super) fn on_effect(&mut self, effect: Effect, cause: CauseId, now: Time) {
        self.gateway_effect(&effect, cause);
        match effect {
            Effect::Same => {}
            Effect::Appeared(index) => self.on_appeared(index, cause, now),
            Effect::Changed(before) => self.on_changed(&before, cause, now),
            Effect::Gone(link) => self.on_gone(&link, cause, now),
            Effect::Addresses(index) => {
                self.mark_services_on(index);
                self.on_addresses(cause);
            }
            Effect::Vlans(index, vids) => self.on_vlans(index, &vids, cause),
            Effect::Vnis(device, vnis) => self.on_vnis(device, &vnis, cause),
        }
    }

    fn on_appeared(&mut self, index: Ifindex, cause: CauseId, now: Time) {
        let Some(link) = self.observed.link(index) else {
            return;
        };
        let (name, managed) = (link.name, port::is_managed(&self.desired, link));
        if managed {
            self.adopt_tap(index, name, cause, now);
        } else {
            self.mark_watchers(&name, cause);
        }
    }

    fn on_changed(&mut self, before: &Link, cause: CauseId, now: Time) {
        let Some(link) = self.observed.link(before.index) else {
            return;
        };
        let (index, name) = (link.index, link.name);
        let managed = port::is_managed(&self.desired, link);
        let renamed = before.name != name;
        let relabelled = before.alias != link.alias || before.mac != link.mac;
        let resized = before.mtu != link.mtu;
        let left_or_joined = before.master != link.master;
        // With what was acknowledged in the mirror, the first of an operation's echoes reads like a step back.
        let own_echo = self.is_being_worked_on(index);
        let prunable = Mark::read(link.alias.as_deref()).is_made();
        let change = self.foreign_change(before, index);
        let may_block = blocks_others(before) || blocks_others(link);
        let moved = change.as_ref().is_some_and(|change| change.master.is_some());
        if let Some(tap) = self.taps.get_mut(&index) {
            if let Some(change) = change {
                if moved {
                    // The kernel dropped the port's entries with the port.
                    tap.fdb.clear();
                }
                let port = tap.label(index);
                self.notes.push(Note {
                    at: now,
                    cause,
                    what: What::TapChanged { port, change },
                });
            }
            let entries = (renamed && tap.has_entries())
                .then(|| tap.intent.network().cloned())
                .flatten();
            if renamed {
                tap.name = name;
                // A new name is a new question.
                tap.verdict = super::state::Asked::Never;
            } else if self.policy.ports && relabelled {
                // A hypervisor's script names the network in the alias, after the tap was made.
                tap.ask_again(Why::Change);
            }
            self.mark_tap(index, cause);
            if let Some(id) = entries {
                self.mark_segment(&id, cause);
            }
            if moved {
                // One that policy keeps from its network has a guard for as long as it is on its bridge.
                self.guard_left(index, cause);
            }
        } else if managed {
            self.adopt_tap(index, name, cause, now);
        } else if resized && Mark::read(link.alias.as_deref()).is_foreign() {
            self.on_foreign_mtu(cause);
        }
        if renamed {
            self.mark_watchers(&before.name, cause);
        }
        self.mark_watchers(&name, cause);
        self.mark_trunk_of(index, cause);
        if left_or_joined && !own_echo {
            self.port_left(before.master, cause);
        }
        if may_block {
            self.mark_conflicts(cause);
        }
        if prunable && self.in_sync {
            self.schedule_prune(now);
        }
    }

    /// A tap that was operated on since the queue was empty last: what is still in it may be our own doing.
    pub(super) fn is_being_worked_on(&self, index: Ifindex) -> bool {
        self.taps.get(&index).is_some_and(|tap| tap.touched == self.epoch)
    }

    /// What somebody else changed on a tap of ours. The echoes of an operation of this epoch are none.
    fn foreign_change(&self, before: &Link, index: Ifindex) -> Option<TapChange> {
        let link = self.observed.link(index)?;
        if !self.taps.contains_key(&index) || self.is_being_worked_on(index) {
            return None;
        }
        let name = |master: Option<Ifindex>| master.and_then(|m| self.observed.link(m)).map(|l| l.name);
        let change = TapChange {
            name: (before.name != link.name).then_some((before.name, link.name)),
            master: (before.master != link.master).then(|| (name(before.master), name(link.master))),
            up: (before.up != link.up).then_some((before.up, link.up)),
            mtu: (before.mtu != link.mtu).then_some((before.mtu, link.mtu)),
        };
        (change != TapChange::default()).then_some(change)
    }

    fn on_gone(&mut self, link: &Link, cause: CauseId, now: Time) {
        if let Some(tap) = self.taps.remove(&link.index) {
            let label = PortLabel {
                index: link.index,
                name: tap.name,
                network: tap.intent.network().cloned(),
            };
            if let Some(id) = tap.intent.network() {
                self.release(id, link.index, now);
                self.mark_entries(id, &tap, cause);
            }
            self.release_sub_users(tap.trunk.as_deref(), link.index, now);
            if let Some(at) = tap.retry_at {
                self.timers.remove(&(at, Key::Port(link.index)));
            }
            self.note(
                now,
                cause,
                What::TapGone {
                    port: label,
                    link: Some(Box::new(link.clone())),
                },
            );
        }
        self.guard_left(link.index, cause);
        self.sub_interface_gone(link, cause);
        self.idle.remove(&link.index);
        self.left_behind.remove(&link.index);
        self.raised.remove(&link.index);
        self.end_waits_for(&link.name);
        self.mark_watchers(&link.name, cause);
        if blocks_others(link) {
            self.mark_conflicts(cause);
        }
        self.port_left(link.master, cause);
        if !link.is_bridge() {
            return;
        }
        self.mark_services();
        // Ports of a bridge that is gone were told in the mirror; their taps are looked at again.
        let orphaned: Vec<Ifindex> = self
            .taps
            .iter()
            .filter(|(_, tap)| tap.wired == Some(link.index))
            .map(|(index, _)| *index)
            .collect();
        for index in orphaned {
            self.mark_tap(index, cause);
        }
    }

    /// A place became free on a bridge: taps that found it full try again.
    fn port_left(&mut self, master: Option<Ifindex>, cause: CauseId) {
        let Some(master) = master else { return };
        let failed = |index: &Ifindex| {
            let tap = self.taps.get(index);
            tap.is_some_and(|tap| matches!(tap.state, PortState::Failed { .. }))
        };
        let is_on = |index: &Ifindex| {
            let mut segments = self.segments.values();
            segments.any(|s| s.bridge == Some(master) && s.users.contains(index))
        };
        // Who waits is among the timers, and these are few: a bridge has hundreds of ports, and all may leave at once.
        let timers = self.timers.iter().filter_map(|(_, key)| match key {
            Key::Port(index) => Some(*index),
            _ => None,
        });
        let waiting: Vec<Ifindex> = timers.filter(failed).filter(is_on).collect();
        for index in waiting {
            self.retry_now(index);
            self.mark_tap(index, cause);
        }
    }

    /// An address came or went: VXLAN networks may wait for their local address, flat ones may have to move one.
    fn on_addresses(&mut self, cause: CauseId) {
        let leaning: Vec<NetworkId> = self
            .segments
            .keys()
            .filter(|id| {
                self.desired.network(id).is_some_and(|n| {
                    matches!(
                        n.segment,
                        crate::model::Segment::Vxlan { .. } | crate::model::Segment::Flat { .. }
                    )
                })
            })
            .cloned()
            .collect();
        for id in leaning {
            self.mark_segment(&id, cause);
        }
        self.mark_conflicts(cause);
    }

    fn adopt_tap(&mut self, index: Ifindex, name: LinkName, cause: CauseId, now: Time) {
        self.taps.insert(index, Box::new(Tap::new(name, now)));
        let port = PortLabel {
            index,
            name,
            network: None,
        };
        self.note(now, cause, What::TapAppeared { port });
        self.mark_tap(index, cause);
    }

    pub(super) fn on_snapshot(&mut self, snapshot: Snapshot, cause: CauseId, now: Time) {
        let lost_again = matches!(self.mirror, Mirror::Dumping { lost_again: true, .. });
        let listed: BTreeSet<Ifindex> = snapshot.links.iter().map(|link| link.index).collect();
        for link in self.observed.retain(&listed) {
            self.on_gone(&link, cause, now);
        }
        for link in snapshot.links {
            // The same index with another kind or address is another device: its events were lost.
            let reused = self.observed.link(link.index).is_some_and(|known| {
                // A tap just born has no master.
                let newborn = known.name != link.name || (known.master.is_some() && link.master.is_none());
                known.kind.name() != link.kind.name() || (newborn && known.mac != link.mac)
            });
            if reused {
                self.on_kernel(Change::Removed(link.index), cause, now);
            }
            self.on_kernel(Change::Upsert(link), cause, now);
        }
        if self.observed.replace_addresses(snapshot.addresses) {
            self.mark_services();
            self.on_addresses(cause);
        }
        self.observed.replace_vlans(snapshot.vlans, snapshot.vnis);
        self.recognise_vids();
        for (index, macs) in snapshot.static_entries {
            if let Some(tap) = self.taps.get_mut(&index) {
                tap.fdb.retain(|mac| macs.contains(mac));
            }
        }
        self.strays = None;
        // What the mirror does not hold is read again where it is used.
        for segment in self.segments.values_mut() {
            segment.forwarding = None;
        }
        self.doubt_guard(cause);
        self.forget_guard_failure();
        self.forget_failures();
        self.ask_everything_again(Why::Resync);
        self.mark_everything(cause);
        self.pass_open = true;
        self.mirror = if lost_again {
            Mirror::Stale {
                not_before: now.plus(super::RESYNC_PAUSE),
                first: false,
            }
        } else {
            Mirror::Current
        };
        if lost_again {
            self.counters.resyncs += 1;
        }
    }

    /// A full pass tries everything again, also what this kernel could not do before (a module may be there now).
    fn forget_failures(&mut self) {
        for segment in self.segments.values_mut() {
            segment.retry_at = None;
        }
        self.left_behind.clear();
        for tap in self.taps.values_mut() {
            tap.refused_mtu = None;
            if !matches!(tap.state, PortState::Conflict { .. }) {
                tap.retry_at = None;
            }
        }
        let taps = &self.taps;
        self.timers.retain(|(_, key)| match key {
            Key::Port(index) => taps.get(index).is_some_and(|tap| tap.retry_at.is_some()),
            Key::Network(_) | Key::Orphan(_) | Key::Guard | Key::Gateways | Key::Gateway(_) => false,
        });
    }

    pub(super) fn replace_desired(&mut self, desired: Desired, cause: CauseId, now: Time) {
        let changed = self.desired.changed_networks(&desired);
        self.take_desired(desired, now);
        self.mark_services();
        self.look_for_guards(cause);
        for id in changed {
            self.network_changed(&id, cause, now);
        }
        // `[taps]` and mappings: whoever is ours now, and whoever was.
        let known: Vec<(Ifindex, LinkName)> = self
            .observed
            .links()
            .filter(|link| port::is_managed(&self.desired, link) && !self.taps.contains_key(&link.index))
            .map(|link| (link.index, link.name))
            .collect();
        for (index, name) in known {
            self.adopt_tap(index, name, cause, now);
        }
        let taps: Vec<Ifindex> = self.taps.keys().copied().collect();
        for index in taps {
            self.ask_port_again(index, Why::Change);
            self.mark_tap(index, cause);
        }
        self.start_prewarmed(now);
    }

    pub(super) fn network_changed(&mut self, id: &NetworkId, cause: CauseId, now: Time) {
        self.mark_service(id);
        self.clear_segment_retry(id);
        if let Some(segment) = self.segments.get_mut(id) {
            segment.fight = Fight::default();
            segment.moving = None;
        } else if self.desired.network(id).is_some_and(|n| n.stands()) {
            self.segments.insert(id.clone(), SegmentEntry::new(now));
        }
        self.rewatch(id);
        self.ask_network_again(id, Why::Change);
        self.mark_segment(id, cause);
        // Also taps that were mapped to it before it was told.
        let mapped: Vec<Ifindex> = self
            .taps
            .iter()
            .filter(|(_, tap)| tap.intent.network() == Some(id))
            .map(|(index, _)| *index)
            .collect();
        for index in mapped {
            self.ask_port_again(index, Why::Change);
            self.mark_tap(index, cause);
        }
        if self.in_sync {
            self.schedule_prune(now);
        }
    }

    pub(super) fn mapping_changed(&mut self, selector: &TapSelector, cause: CauseId) {
        let concerned: Vec<Ifindex> = self
            .taps
            .iter()
            .filter(|(_, tap)| match selector {
                TapSelector::Exact(name) => tap.name == *name,
                TapSelector::Pattern(pattern) => pattern.matches(&tap.name),
            })
            .map(|(index, _)| *index)
            .collect();
        for index in concerned {
            self.ask_port_again(index, Why::Change);
            self.mark_tap(index, cause);
        }
    }

    pub(super) fn start_prewarmed(&mut self, now: Time) {
        let ids: Vec<NetworkId> = self
            .desired
            .networks()
            .filter(|n| n.stands() && !self.segments.contains_key(&n.id))
            .map(|n| n.id.clone())
            .collect();
        let cause = CauseId(self.causes);
        for id in ids {
            self.segments.insert(id.clone(), SegmentEntry::new(now));
            self.rewatch(&id);
            self.mark_segment(&id, cause);
        }
    }

    /// Registers the names of the links that a segment leans on.
    pub(super) fn rewatch(&mut self, id: &NetworkId) {
        let Some(entry) = self.segments.get_mut(id) else {
            return;
        };
        let names = self
            .desired
            .network(id)
            .map(|n| segment::link_names(&self.desired, n))
            .unwrap_or_default();
        if names == entry.watched {
            return;
        }
        for old in std::mem::replace(&mut entry.watched, names.clone()) {
            if let Some(networks) = self.watched.get_mut(&old) {
                networks.remove(id);
                if networks.is_empty() {
                    self.watched.remove(&old);
                }
            }
        }
        for name in names {
            self.watched.entry(name).or_default().insert(id.clone());
        }
    }
}

/// A device that may hold a VLAN id or VNI that a network wants under another name.
fn blocks_others(link: &Link) -> bool {
    matches!(link.kind, LinkKind::Vlan(_) | LinkKind::Vxlan(_))
}
