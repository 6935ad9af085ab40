//! Who needs which segment: the first tap starts it, the last one leaves it idle.

use super::Engine;
use super::note::What;
use super::state::{PortLabel, SegmentEntry, Tap};
use crate::model::{Ifindex, NetworkId, Time};
use crate::plan::{CauseId, Key};

impl Engine {
    pub(super) fn forget_tap(
        &mut self,
        index: Ifindex,
        network: Option<NetworkId>,
        cause: CauseId,
        now: Time,
    ) {
        let Some(tap) = self.taps.remove(&index) else {
            return;
        };
        if let Some(at) = tap.retry_at {
            self.timers.remove(&(at, Key::Port(index)));
        }
        if let Some(id) = &network {
            self.release(id, index, now);
            self.mark_entries(id, &tap, cause);
        }
        self.guard_left(index, cause);
        self.release_sub_users(tap.trunk.as_deref(), index, now);
        self.note(
            now,
            cause,
            What::TapGone {
                port: PortLabel {
                    index,
                    name: tap.name,
                    network,
                },
                link: None,
            },
        );
    }

    /// Keeps the segments' lists of users, and starts a segment with its first one.
    pub(super) fn move_user(
        &mut self,
        index: Ifindex,
        from: Option<NetworkId>,
        to: Option<NetworkId>,
        cause: CauseId,
        now: Time,
    ) {
        let entries = self.taps.get(&index).is_some_and(|tap| tap.has_entries());
        if from != to
            && let Some(id) = &from
        {
            self.release(id, index, now);
            if entries {
                self.mark_segment(id, cause);
            }
        }
        let Some(id) = to.filter(|id| self.desired.network(id).is_some()) else {
            return;
        };
        let entry = self
            .segments
            .entry(id.clone())
            .or_insert_with(|| SegmentEntry::new(now));
        let (joins, first) = (entry.users.insert(index), entry.users.len() == 1);
        if joins && first {
            self.rewatch(&id);
        }
        if joins && (first || entries) {
            self.mark_segment(&id, cause);
        }
    }

    /// A tap that is gone leaves no entries of policy on its network's VXLAN device.
    pub(super) fn mark_entries(&mut self, id: &NetworkId, tap: &Tap, cause: CauseId) {
        if tap.has_entries() {
            self.mark_segment(id, cause);
        }
    }

    /// Nobody needs its bridge.
    pub(super) fn is_unused(&self, id: &NetworkId) -> bool {
        let stands = self.desired.network(id).is_some_and(|network| network.stands());
        !stands && self.segments.get(id).is_some_and(|entry| entry.users.is_empty())
    }

    pub(super) fn release(&mut self, id: &NetworkId, index: Ifindex, now: Time) {
        let Some(entry) = self.segments.get_mut(id) else {
            return;
        };
        entry.users.remove(&index);
        if entry.users.is_empty() {
            let cause = CauseId(self.causes);
            self.mark_segment(id, cause);
            if self.in_sync {
                self.schedule_prune(now);
            }
        }
    }
}
