//! Dirty keys. Each is in its queue at most once; one that was operated on since the last `Drained` waits for the next.

use super::Engine;
use super::state::SegmentState;
use crate::model::{Ifindex, LinkName, NetworkId};
use crate::plan::{CauseId, Key};

impl Engine {
    pub(super) fn mark_tap(&mut self, index: Ifindex, cause: CauseId) {
        if let Some(tap) = self.taps.get_mut(&index) {
            tap.cause = cause;
            if !tap.dirty {
                tap.dirty = true;
                self.queue_tap(index);
            }
        }
    }

    pub(super) fn mark_segment(&mut self, id: &NetworkId, cause: CauseId) {
        if let Some(segment) = self.segments.get_mut(id) {
            segment.cause = cause;
            if !segment.dirty {
                segment.dirty = true;
                self.queue(Key::Network(id.clone()));
            }
        }
    }

    pub(super) fn mark_users(&mut self, id: &NetworkId, cause: CauseId) {
        let users: Vec<Ifindex> = self
            .segments
            .get(id)
            .into_iter()
            .flat_map(|s| s.users.iter().copied())
            .collect();
        for index in users {
            self.mark_tap(index, cause);
        }
    }

    pub(super) fn mark_everything(&mut self, cause: CauseId) {
        let segments: Vec<NetworkId> = self.segments.keys().cloned().collect();
        for id in segments {
            self.mark_segment(&id, cause);
        }
        let taps: Vec<Ifindex> = self.taps.keys().copied().collect();
        for index in taps {
            self.mark_tap(index, cause);
        }
    }

    /// The networks that lean on a link of this name.
    pub(super) fn mark_watchers(&mut self, name: &LinkName, cause: CauseId) {
        let networks: Vec<NetworkId> = self.watched.get(name).into_iter().flatten().cloned().collect();
        for id in networks {
            self.mark_segment(&id, cause);
        }
    }

    /// A device in the way changed or went, under whatever name: networks in conflict are looked at again.
    pub(super) fn mark_conflicts(&mut self, cause: CauseId) {
        let waiting: Vec<NetworkId> = self
            .segments
            .iter()
            .filter(|(_, segment)| matches!(segment.state, SegmentState::Conflict { .. }))
            .map(|(id, _)| id.clone())
            .collect();
        for id in waiting {
            self.mark_segment(&id, cause);
        }
    }

    pub(super) fn queue_tap(&mut self, index: Ifindex) {
        let touched = self.is_being_worked_on(index);
        if touched {
            self.deferred.push(Key::Port(index));
        } else {
            self.dirty_taps.push_back(index);
        }
    }

    pub(super) fn queue(&mut self, key: Key) {
        match key {
            Key::Port(index) => self.queue_tap(index),
            Key::Network(id) => {
                if self.segments.get(&id).is_some_and(|s| s.touched == self.epoch) {
                    self.deferred.push(Key::Network(id));
                } else {
                    self.dirty_segments.push_back(id);
                }
            }
            Key::Orphan(_) | Key::Guard | Key::Gateways | Key::Gateway(_) => {}
        }
    }

    pub(super) fn next_ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }
}
