//! Devices of ours that nothing needs: found in full passes and after changes, removed after a grace period.
//!
//! Only what we made (its `ifalias` says so, `model::owned`), only when every source has told what it has, only after
//! `prune_after` without a user, and everything is checked again in the step that deletes. A flat network's bridge
//! first gives the host its addresses back. Never while a tap waits: a bridge's deletion takes the kernel 30 ms.

use super::Engine;
use super::event::{Action, Failure};
use super::needed::is_root;
use super::note::What;
use super::relocation::{GiveBack, SLOW_RETRY, end_of, undo_of};
use super::state::{Moving, SegmentState};
use crate::model::owned::{self, Mark};
use crate::model::{Ifindex, Link, LinkKind, LinkName, NetworkId, Time};
use crate::plan::address_move::{Carried, address_of, carries_anything, plan_move, verify};
use crate::plan::flat::recorded_uplink as recorded_uplink_name;
use crate::plan::op::{LinkChange, LinkRef, Master, Op};
use crate::plan::segment::reference;
use crate::plan::{CauseId, Key, Plan, Step};
use std::time::Duration;

/// Changes come in bunches; one look serves them all.
const GATHER: Duration = Duration::from_secs(1);

impl Engine {
    pub(super) fn schedule_prune(&mut self, now: Time) {
        if self.prune_after.is_some() {
            let at = now.plus(GATHER);
            self.prune_check_at = Some(self.prune_check_at.map_or(at, |known| known.min(at)));
        }
    }

    /// Called when nothing else is to be done.
    pub(super) fn look_at_orphans(&mut self, now: Time) -> Option<Action> {
        if !self.in_sync || self.give_back.is_some() {
            return self.continue_give_back(now);
        }
        let prune_after = self.prune_after?;
        if self.prune_check_at.is_none_or(|at| at > now) {
            return None;
        }
        let needed = self.needed_names();
        let orphans: Vec<Ifindex> = self
            .observed
            .links()
            .filter(|link| Mark::read(link.alias.as_deref()).is_made() && !needed.contains(&link.name))
            .filter(|link| is_root(self, link, &needed))
            .map(|link| link.index)
            .collect();
        self.idle.retain(|index, _| orphans.contains(index));
        for index in &orphans {
            self.idle.entry(*index).or_insert(now);
        }
        let due: Vec<Ifindex> = self
            .idle
            .iter()
            .filter(|(_, since)| now.since(**since) >= prune_after)
            .map(|(index, _)| *index)
            .collect();
        for index in due {
            match self.remove_orphan(index) {
                Some(action) => {
                    // The next one is looked at when this one is done.
                    self.prune_check_at = Some(now);
                    return Some(action);
                }
                None => {
                    // In use after all: its time begins anew.
                    self.idle.insert(index, now);
                }
            }
        }
        let (action, due) = self.look_at_idle_vlans(now, prune_after);
        if action.is_some() {
            self.prune_check_at = Some(now);
            return action;
        }
        // Never at once again: what is not due now is not due in this turn.
        let next = self
            .idle
            .values()
            .map(|since| since.plus(prune_after))
            .chain(due)
            .min();
        self.prune_check_at = next.map(|at| at.max(now.plus(GATHER)));
        None
    }

    fn remove_orphan(&mut self, index: Ifindex) -> Option<Action> {
        let link = self.observed.link(index)?;
        let uplink = recorded_uplink(self, link);
        let ports: Vec<&Link> = self.observed.ports_of(index).collect();
        let shared = owned::is_shared(link.alias.as_deref());
        let trunks: Vec<LinkName> = self.trunk_interfaces().filter(|_| shared).collect();
        let is_ours = |port: &&Link| {
            Some(port.index) == uplink
                || trunks.contains(&port.name)
                || (matches!(port.kind, LinkKind::Vlan(_) | LinkKind::Vxlan(_))
                    && Mark::read(port.alias.as_deref()).is_made()
                    && !self.observed.has_address(port.index))
        };
        if !ports.iter().all(is_ours) {
            return None;
        }
        if let Some(uplink) = uplink {
            let enslaved = self
                .observed
                .link(uplink)
                .is_some_and(|l| l.master == Some(index));
            // Not before reading showed that nothing is left on it: a route without an address, say, is not in the mirror.
            if enslaved || !self.is_left_behind(index) {
                return begin_give_back(self, index, uplink);
            }
        }
        if self.observed.has_address(index) {
            // Somebody's addresses, and no interface recorded that they would belong to.
            return None;
        }
        let bridge = reference(link);
        let mut steps: Vec<Step> = Vec::new();
        for port in ports.iter().filter(|port| Some(port.index) != uplink) {
            let link = reference(port);
            if trunks.contains(&port.name) {
                // We silenced it when it became a port. Let go and still silent it would be nobody's business any more.
                steps.push(Step {
                    op: set_master(link, Master::Clear),
                    undo: Some(set_master(link, Master::Set(bridge))),
                });
                steps.push(Op::DisableIpv6 { link, disable: false }.into());
            } else {
                steps.push(Op::DeleteLink { link }.into());
            }
        }
        steps.push(Op::DeleteLink { link: bridge }.into());
        Some(Action::Execute(Plan {
            key: Key::Orphan(index),
            cause: CauseId(self.causes),
            steps,
        }))
    }

    pub(super) fn is_giving_back(&self, bridge: LinkName) -> bool {
        let under_way = self.give_back.as_ref();
        under_way.is_some_and(|g| self.observed.link(g.bridge).is_some_and(|l| l.name == bridge))
    }

    fn continue_give_back(&mut self, now: Time) -> Option<Action> {
        let give_back = self.give_back.as_ref()?;
        let (bridge, uplink) = (give_back.bridge, give_back.uplink);
        if self.observed.link(bridge).is_none() || self.observed.link(uplink).is_none() {
            end_give_back(self, bridge, None, now);
            return None;
        }
        match give_back.stage {
            Moving::Verifying(_) => Some(Action::ReadCarried {
                key: Key::Orphan(bridge),
                devices: vec![bridge, uplink],
            }),
            Moving::Reading | Moving::Restoring(_) | Moving::Finishing => None,
        }
    }
}

/// The host's addresses go back from a bridge to the interface they came from. One at a time: whoever finds another one
/// under way is called when that is over.
pub(super) fn begin_give_back(engine: &mut Engine, bridge: Ifindex, uplink: Ifindex) -> Option<Action> {
    if engine.give_back.is_some() {
        return None;
    }
    engine.give_back = Some(GiveBack {
        bridge,
        uplink,
        stage: Moving::Reading,
    });
    Some(Action::ReadCarried {
        key: Key::Orphan(bridge),
        devices: vec![bridge, uplink],
    })
}

/// A giving back is over, well or not: networks that wait for it go on.
fn end_give_back(engine: &mut Engine, bridge: Ifindex, error: Option<String>, now: Time) {
    engine.give_back = None;
    let cause = CauseId(engine.causes);
    let waiting: Vec<NetworkId> = engine
        .segments
        .iter()
        .filter(|(_, segment)| segment.state == SegmentState::Configuring)
        .map(|(id, _)| id.clone())
        .collect();
    let name = engine.observed.link(bridge).map(|l| l.name);
    for id in waiting {
        let concerned = name.is_some_and(|name| engine.watched.get(&name).is_some_and(|w| w.contains(&id)));
        match &error {
            Some(error) if concerned => engine.fail_segment(&id, error.clone(), Some(SLOW_RETRY), now),
            _ => engine.mark_segment(&id, cause),
        }
    }
}

fn set_master(link: LinkRef, master: Master) -> Op {
    Op::SetLink {
        link,
        change: LinkChange {
            master: Some(master),
            ..LinkChange::default()
        },
    }
}

fn recorded_uplink(engine: &Engine, bridge: &Link) -> Option<Ifindex> {
    let name = recorded_uplink_name(bridge)?;
    engine.observed.by_name(&name).map(|l| l.index)
}

pub(super) fn on_carried(
    engine: &mut Engine,
    bridge: Ifindex,
    have: Result<Vec<Carried>, Failure>,
    now: Time,
) {
    let Some(give_back) = engine.give_back.take().filter(|g| g.bridge == bridge) else {
        return;
    };
    let carried = have.map(|have| <[Carried; 2]>::try_from(have).unwrap_or_default());
    let cause = CauseId(engine.causes);
    let (Ok([on_bridge, on_uplink]), Some(from), Some(to)) =
        (carried, end_of(engine, bridge), end_of(engine, give_back.uplink))
    else {
        fail(engine, bridge, "the devices cannot be read".to_owned(), now);
        return;
    };
    for (index, carried) in [(bridge, &on_bridge), (give_back.uplink, &on_uplink)] {
        let addresses = carried.addresses.iter().filter_map(address_of).collect();
        let effect = engine.observed.set_addresses(index, &addresses);
        engine.on_effect(effect, cause, now);
    }
    let plan = match give_back.stage {
        Moving::Reading => {
            let mut movement = match plan_move(from, to, &on_bridge, &on_uplink) {
                Ok(movement) => movement,
                Err(error) => {
                    fail(engine, bridge, error.to_string(), now);
                    return;
                }
            };
            let (Some(bridge_link), Some(uplink_link)) = (
                engine.observed.link(bridge),
                engine.observed.link(give_back.uplink),
            ) else {
                return;
            };
            let uplink = reference(uplink_link);
            let set = |master| Op::SetLink {
                link: uplink,
                change: LinkChange {
                    master: Some(master),
                    ..LinkChange::default()
                },
            };
            let mut steps = Vec::new();
            // We silenced it when it became a port.
            let carries = carries_anything(&on_bridge, from.mac);
            let is_port = uplink_link.master == Some(bridge);
            if uplink_link.ipv6_disabled == Some(true) && (carries || is_port) {
                steps.push(Step {
                    op: Op::DisableIpv6 {
                        link: uplink,
                        disable: false,
                    },
                    undo: Some(Op::DisableIpv6 {
                        link: uplink,
                        disable: true,
                    }),
                });
            }
            steps.extend(movement.restore.iter().cloned());
            if is_port {
                steps.push(Step {
                    op: set(Master::Clear),
                    undo: Some(set(Master::Set(reference(bridge_link)))),
                });
            }
            if !carries {
                engine.leave_behind(bridge);
            }
            movement.undo = undo_of(&steps);
            engine.give_back = Some(GiveBack {
                stage: Moving::Restoring(Box::new(movement)),
                ..give_back
            });
            steps
        }
        Moving::Verifying(movement) => match verify(&movement.expected, &on_uplink) {
            Ok(()) => {
                let what = What::AddressesMoved {
                    from: from.name,
                    to: to.name,
                    addresses: movement.expected.addresses.len(),
                    routes: movement.expected.routes.len(),
                };
                if !movement.restore.is_empty() {
                    engine.note(now, cause, what);
                }
                let steps = movement.remove.into_iter().map(Step::from).collect();
                engine.give_back = Some(GiveBack {
                    stage: Moving::Finishing,
                    ..give_back
                });
                steps
            }
            Err(missing) => {
                // Not half: everything stays on the bridge, which is a port's master again. Tried again later.
                fail(engine, bridge, missing, now);
                movement.undo.into_iter().map(Step::from).collect()
            }
        },
        Moving::Restoring(_) | Moving::Finishing => {
            end_give_back(engine, bridge, None, now);
            return;
        }
    };
    engine.pending_plans.push_back(Plan {
        key: Key::Orphan(bridge),
        cause,
        steps: plan,
    });
}

pub(super) fn step_done(engine: &mut Engine, index: Ifindex, now: Time) {
    match engine.give_back.take_if(|g| g.bridge == index) {
        Some(GiveBack {
            stage: Moving::Restoring(movement),
            bridge,
            uplink,
        }) => {
            engine.give_back = Some(GiveBack {
                stage: Moving::Verifying(movement),
                bridge,
                uplink,
            });
        }
        // Given back: the bridge itself goes with the next look.
        Some(_) => {
            end_give_back(engine, index, None, now);
            if engine.prune_after.is_some() {
                engine.prune_check_at = Some(now);
            }
        }
        // The deletion itself was noted when the device went.
        None => {
            engine.idle.remove(&index);
        }
    }
}

pub(super) fn step_failed(
    engine: &mut Engine,
    index: Ifindex,
    op: String,
    failure: &Failure,
    cause: CauseId,
    now: Time,
) {
    let what = What::Failed {
        op,
        error: failure.message.clone(),
        port: None,
        network: None,
    };
    engine.note(now, cause, what);
    end_give_back(engine, index, Some(failure.message.clone()), now);
    postpone(engine, index, now);
}

fn fail(engine: &mut Engine, bridge: Ifindex, error: String, now: Time) {
    let what = What::Failed {
        op: "give addresses back".to_owned(),
        error: error.clone(),
        port: None,
        network: None,
    };
    engine.note(now, CauseId(engine.causes), what);
    end_give_back(engine, bridge, Some(format!("give addresses back: {error}")), now);
    postpone(engine, bridge, now);
}

fn postpone(engine: &mut Engine, index: Ifindex, now: Time) {
    if engine.prune_after.is_none() {
        return;
    }
    let wait = engine.prune_after.unwrap_or(SLOW_RETRY).max(SLOW_RETRY);
    // `idle` counts from a moment that makes it due after `wait`.
    engine.idle.insert(index, now);
    engine.prune_check_at = Some(now.plus(wait));
}
