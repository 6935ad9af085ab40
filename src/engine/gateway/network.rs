//! One network's gateway: its addresses, and where it stands.

use super::super::Engine;
use super::super::backoff::{self, Fight};
use super::super::event::{Action, Failure, FailureClass};
use super::super::note::What;
use super::announce::Told;
use crate::desired::gateway::{AddressWant, Role, derive_addresses, inexpressible};
use crate::model::{Ifindex, NetworkId, Time};
use crate::plan::address_move::{Carried, address_of};
use crate::plan::first_address::plan_first;
use crate::plan::gateway::{Missing, plan_addresses};
use crate::plan::op::Op;
use crate::plan::{Key, Step};
use std::fmt;

const AF_INET: u8 = 2;

/// Where a network's gateway half stands.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum GatewayState {
    Pending { reason: Box<str> },
    Ready,
    Failed { error: Box<str>, retry_at: Option<Time> },
}

impl GatewayState {
    pub const ALL: [&str; 3] = ["pending", "ready", "failed"];

    pub const fn word(&self) -> &'static str {
        match self {
            GatewayState::Pending { .. } => "pending",
            GatewayState::Ready => "ready",
            GatewayState::Failed { .. } => "failed",
        }
    }
}

impl fmt::Display for GatewayState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GatewayState::Ready => Ok(()),
            GatewayState::Pending { reason } => f.write_str(reason),
            GatewayState::Failed { error, .. } => f.write_str(error),
        }
    }
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct GatewayEntry {
    pub state: GatewayState,
    pub failures: u32,
    pub retry_at: Option<Time>,
    /// A device is gone that the kernel has not told of yet.
    pub awaits_gone: bool,
    /// Against somebody who keeps removing addresses.
    pub fight: Fight,
    /// A repair waits for this moment.
    pub repair_at: Option<Time>,
    /// What the bridge carries, just read: addresses are on their way.
    pub carried: Option<Carried>,
    pub told: Told,
}

impl Default for GatewayEntry {
    fn default() -> Self {
        Self {
            state: GatewayState::Pending {
                reason: "not looked at yet".into(),
            },
            failures: 0,
            retry_at: None,
            awaits_gone: false,
            fight: Fight::default(),
            repair_at: None,
            carried: None,
            told: Told::default(),
        }
    }
}

pub(super) const READ: &str = "read addresses and routes";

/// The gateway's own IPv4 addresses become the first ones of the bridge.
fn put_first(ops: &mut [Op], bridge: Ifindex, wants: &[AddressWant], carried: &Carried) {
    for op in ops {
        if let Op::Address { link, record, .. } = &op
            && is_in_line(op, bridge, wants)
            && let Some(first) = plan_first(*link, bridge, record, carried)
        {
            *op = first;
        }
    }
}

fn is_in_line(op: &Op, bridge: Ifindex, wants: &[AddressWant]) -> bool {
    let Op::Address { link, record, .. } = op else {
        return false;
    };
    let is_own = |want: &AddressWant| {
        matches!(want.role, Role::Gateway { .. }) && Some(want.address.address()) == address_of(record)
    };
    link.index == Some(bridge) && record.family == AF_INET && wants.iter().any(is_own)
}

impl Engine {
    pub(super) fn look_at_gateway(&mut self, id: &NetworkId, waits: bool, now: Time) -> Option<Action> {
        let carried = self
            .gateways
            .networks
            .get_mut(id)
            .and_then(|entry| entry.carried.take());
        let network = self.desired.network(id)?;
        let gateway = network.gateway.as_deref()?;
        let entry = self.gateways.networks.get(id);
        if waits {
            let error = self
                .gateways
                .failed
                .clone()
                .unwrap_or_else(|| "somebody else keeps changing the tables".into());
            let retry_at = self.gateways.retry_at;
            self.set_gateway_state(id, GatewayState::Failed { error, retry_at }, now);
            return None;
        }
        if entry.is_some_and(|entry| entry.retry_at.is_some_and(|at| at > now)) {
            return None;
        }
        if let Some(name) = inexpressible(&self.desired, network, gateway) {
            let error = format!("nft has no way to write the name {name}").into();
            self.set_gateway_state(
                id,
                GatewayState::Failed {
                    error,
                    retry_at: None,
                },
                now,
            );
            return None;
        }
        // The host's own addresses come to the bridge in a transaction of their own.
        if self
            .segments
            .get(id)
            .is_some_and(|segment| segment.moving.is_some())
        {
            let reason = "waits for the interface's addresses".into();
            self.set_gateway_state(id, GatewayState::Pending { reason }, now);
            return None;
        }
        let wants = derive_addresses(&self.desired, network, gateway);
        let bridge = self.desired.bridge_name(network);
        let again = self.announce_again(id, &wants, now);
        if !again.is_empty() {
            let steps = again.into_iter().map(Step::from).collect();
            return Some(self.gateways_plan(Key::Gateway(id.clone()), steps));
        }
        let bridge = bridge
            .and_then(|name| self.observed.by_name(&name))
            .map(|bridge| bridge.index);
        let (mut ops, missing) = plan_addresses(&wants, &self.observed);
        if !ops.is_empty() {
            let first = wants.iter().find(|want| !self.carries(want));
            if let Some(at) = self.pause_before_repair(id, now) {
                let address = first.map_or_else(String::new, |want| want.address.address().to_string());
                let state = GatewayState::Failed {
                    error: format!("somebody else keeps removing {address}").into(),
                    retry_at: Some(at),
                };
                self.set_gateway_state(id, state, now);
                return None;
            }
            let in_line = |index: &Ifindex| ops.iter().any(|op| is_in_line(op, *index, &wants));
            if let Some(index) = bridge.filter(in_line).filter(|index| self.is_crowded(*index)) {
                let Some(carried) = carried else {
                    return Some(Action::ReadCarried {
                        key: Key::Gateway(id.clone()),
                        devices: vec![index],
                    });
                };
                put_first(&mut ops, index, &wants, &carried);
            }
            self.announced_first(id, &wants);
            let steps = ops.into_iter().map(Step::from).collect();
            return Some(self.gateways_plan(Key::Gateway(id.clone()), steps));
        }
        let state = match missing {
            Some(Missing(device)) => GatewayState::Pending {
                reason: format!("waits for {device}").into(),
            },
            None => GatewayState::Ready,
        };
        self.set_gateway_state(id, state, now);
        None
    }

    /// Whether the device has an IPv4 address that may be in the way of a gateway's. One that is down takes no routes, and
    /// nobody is reached there.
    fn is_crowded(&self, device: Ifindex) -> bool {
        let up = self.observed.link(device).is_some_and(|link| link.up);
        up && self
            .observed
            .addresses_of(device)
            .any(|address| address.is_ipv4())
    }

    /// Answer to a question about a bridge.
    pub(in crate::engine) fn on_gateway_carried(
        &mut self,
        id: &NetworkId,
        have: Result<Carried, Failure>,
        now: Time,
    ) {
        match have {
            Ok(carried) => {
                self.gateways.networks.entry(id.clone()).or_default().carried = Some(carried);
                self.mark_gateways(self.gateways.cause);
            }
            Err(failure) => self.gateway_done(id, Some((&failure, READ.to_owned())), now),
        }
    }

    fn has_failed(&self, id: &NetworkId) -> bool {
        let entry = self.gateways.networks.get(id);
        entry.is_none_or(|entry| entry.failures > 0)
    }

    fn carries(&self, want: &AddressWant) -> bool {
        let link = self.observed.by_name(&want.device);
        link.is_some_and(|link| self.observed.carries(link.index, want.address.address()))
    }

    /// Addresses are missing. The first times they are told at once, then later each time.
    fn pause_before_repair(&mut self, id: &NetworkId, now: Time) -> Option<Time> {
        let entry = self.gateways.networks.entry(id.clone()).or_default();
        let at = match entry.repair_at {
            Some(at) => at,
            None => now.plus(entry.fight.lost(now)),
        };
        if at <= now {
            entry.repair_at = None;
            return None;
        }
        if entry.repair_at.replace(at).is_none() {
            self.timers.insert((at, Key::Gateway(id.clone())));
        }
        Some(at)
    }

    fn set_gateway_state(&mut self, id: &NetworkId, state: GatewayState, now: Time) {
        let entry = self.gateways.networks.entry(id.clone()).or_default();
        if entry.state != state {
            entry.state = state.clone();
            let what = What::Gateway {
                network: id.clone(),
                state,
            };
            self.note(now, self.gateways.cause, what);
        }
    }

    /// A plan of one network's addresses was carried out.
    pub(in crate::engine) fn gateway_done(
        &mut self,
        id: &NetworkId,
        failed: Option<(&Failure, String)>,
        now: Time,
    ) {
        let cause = self.gateways.cause;
        if let Some(entry) = self.gateways.networks.get_mut(id) {
            entry.told.done(failed.is_some());
        }
        match failed {
            None => {
                if let Some(entry) = self.gateways.networks.get_mut(id) {
                    entry.failures = 0;
                }
            }
            // The kernel unlists a device a while before it tells so; nothing has failed yet that an operator should hear of.
            Some((failure, _)) if failure.class == FailureClass::Gone && !self.has_failed(id) => {
                let at = now.plus(backoff::after_failures(1, 0));
                self.timers.insert((at, Key::Gateway(id.clone())));
                if let Some(entry) = self.gateways.networks.get_mut(id) {
                    (entry.failures, entry.retry_at, entry.awaits_gone) = (1, Some(at), true);
                }
                let reason = "waits for its device".into();
                self.set_gateway_state(id, GatewayState::Pending { reason }, now);
            }
            Some((failure, op)) => {
                let failures = self.gateways.networks.get(id).map_or(0, |entry| entry.failures) + 1;
                if failures == 1 {
                    let what = What::Failed {
                        op: op.clone(),
                        error: failure.message.clone(),
                        port: None,
                        network: Some(id.clone()),
                    };
                    self.note(now, cause, what);
                }
                let at = now.plus(backoff::after_failures(failures, u64::from(failures)));
                self.timers.insert((at, Key::Gateway(id.clone())));
                let state = GatewayState::Failed {
                    error: format!("{op}: {}", failure.message).into(),
                    retry_at: Some(at),
                };
                self.set_gateway_state(id, state, now);
                if let Some(entry) = self.gateways.networks.get_mut(id) {
                    entry.failures = failures;
                    entry.retry_at = Some(at);
                }
            }
        }
        self.mark_gateways(cause);
    }

    /// Where a network's gateway half stands; none if it asks for none.
    pub fn gateway_state(&self, id: &NetworkId) -> Option<GatewayState> {
        self.desired.network(id)?.gateway.as_ref()?;
        Some(match self.gateways.networks.get(id) {
            Some(entry) => entry.state.clone(),
            None => GatewayState::Pending {
                reason: "not looked at yet".into(),
            },
        })
    }
}
