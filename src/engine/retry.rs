//! Waiting: after a failure, and while somebody else keeps undoing what is done.
//!
//! A key with a `retry_at` in the future is not worked on; its timer marks it dirty. `Time(u64::MAX)` has no timer: only
//! a full pass, or being told otherwise, gives such a key another try.

use super::Engine;
use super::note::What;
use super::state::{PortState, SegmentEntry, SegmentState};
use crate::model::{Ifindex, LinkName, NetworkId, Time};
use crate::plan::Key;
use std::time::Duration;

/// A port that left its bridge is often on its way: to its end, or to another bridge. The kernel tells both in two
/// messages of one turn; between them nothing is repaired.
const SETTLE: Duration = Duration::from_millis(10);

impl Engine {
    /// Our port was taken away, or changed where it is. True if it may be repaired now.
    pub(super) fn wait_in_fight(&mut self, index: Ifindex, in_place: bool, now: Time) -> bool {
        let Some(tap) = self.taps.get_mut(&index) else {
            return false;
        };
        let pause = tap.fight.lost(now);
        let repairs = tap.fight.repairs();
        let name = tap.name;
        if pause == Duration::ZERO && in_place {
            self.note_drift(index, now);
            return true;
        }
        let state = if pause == Duration::ZERO {
            PortState::Configuring
        } else {
            let what = if in_place { "changing {}" } else { "taking {} away" };
            let what = what.replace("{}", &name.to_text());
            PortState::Conflict {
                bridge: "".into(),
                reason: format!("somebody else keeps {what}: {repairs} repairs").into(),
            }
        };
        self.retry_tap(index, now.plus(pause.max(SETTLE)));
        self.set_port_state(index, state, now);
        false
    }

    pub(super) fn note_drift(&mut self, index: Ifindex, now: Time) {
        let Some(tap) = self.taps.get(&index) else { return };
        let (device, network, cause) = (tap.name, tap.intent.network().cloned(), tap.cause);
        self.note(now, cause, What::Drift { device, network });
    }

    pub(super) fn retry_tap(&mut self, index: Ifindex, at: Time) {
        if let Some(tap) = self.taps.get_mut(&index) {
            if let Some(old) = tap.retry_at.replace(at) {
                self.timers.remove(&(old, Key::Port(index)));
            }
            self.timers.insert((at, Key::Port(index)));
        }
    }

    /// The reason of a failure may be gone: no more waiting.
    pub(super) fn retry_now(&mut self, index: Ifindex) {
        if let Some(tap) = self.taps.get_mut(&index)
            && matches!(tap.state, PortState::Failed { .. })
        {
            self.clear_retry(index);
        }
    }

    pub(super) fn clear_retry(&mut self, index: Ifindex) {
        if let Some(tap) = self.taps.get_mut(&index) {
            tap.failures = 0;
            if let Some(at) = tap.retry_at.take() {
                self.timers.remove(&(at, Key::Port(index)));
            }
        }
    }

    /// What may have to wait no more: it was told otherwise, or nobody needs it.
    pub(super) fn clear_segment_retry(&mut self, id: &NetworkId) {
        if let Some(entry) = self.segments.get_mut(id) {
            entry.failures = 0;
            entry.awaits_gone = false;
            if let Some(at) = entry.retry_at.take() {
                self.timers.remove(&(at, Key::Network(id.clone())));
            }
        }
    }

    /// The device is gone, and told so: what was refused because of it is asked for anew.
    pub(super) fn end_waits_for(&mut self, name: &LinkName) {
        let waiting: Vec<NetworkId> = self
            .watched
            .get(name)
            .into_iter()
            .flatten()
            .filter(|id| {
                let waits = |s: &SegmentEntry| s.awaits_gone || s.retry_at == Some(Time(u64::MAX));
                self.segments.get(*id).is_some_and(waits)
            })
            .cloned()
            .collect();
        for id in waiting {
            self.clear_segment_retry(&id);
        }
    }

    pub(super) fn retry_segment(&mut self, id: &NetworkId, at: Option<Time>) {
        if let Some(entry) = self.segments.get_mut(id) {
            // Without a time only a full pass, or being told otherwise, gives it another try.
            if let Some(old) = entry.retry_at.replace(at.unwrap_or(Time(u64::MAX))) {
                self.timers.remove(&(old, Key::Network(id.clone())));
            }
            if let Some(at) = at {
                self.timers.insert((at, Key::Network(id.clone())));
            }
        }
    }

    /// Bridge or uplink are not as we left them. True if they may be put right now.
    pub(super) fn wait_in_segment_fight(&mut self, id: &NetworkId, bridge: LinkName, now: Time) -> bool {
        let Some(entry) = self.segments.get_mut(id) else {
            return false;
        };
        let pause = entry.fight.lost(now);
        let (repairs, cause) = (entry.fight.repairs(), entry.cause);
        if pause == Duration::ZERO {
            let what = What::Drift {
                device: bridge,
                network: Some(id.clone()),
            };
            self.note(now, cause, what);
            return true;
        }
        let reason = format!("somebody else keeps changing {bridge} or its uplink: {repairs} repairs");
        self.retry_segment(id, Some(now.plus(pause)));
        self.set_segment_state(
            id,
            SegmentState::Conflict {
                reason: reason.into(),
            },
            now,
        );
        self.mark_users(id, cause);
        false
    }
}
