//! One network's gateway: its addresses, and where it stands.

use super::super::Engine;
use super::super::backoff::{self, Fight};
use super::super::event::{Action, Failure};
use super::super::note::What;
use crate::desired::gateway::{AddressWant, derive_addresses, inexpressible};
use crate::model::{NetworkId, Time};
use crate::plan::gateway::{Missing, plan_addresses};
use crate::plan::{Key, Step};
use std::fmt;

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
    /// Against somebody who keeps removing addresses.
    pub fight: Fight,
    /// A repair waits for this moment.
    pub repair_at: Option<Time>,
}

impl Default for GatewayEntry {
    fn default() -> Self {
        Self {
            state: GatewayState::Pending {
                reason: "not looked at yet".into(),
            },
            failures: 0,
            retry_at: None,
            fight: Fight::default(),
            repair_at: None,
        }
    }
}

impl Engine {
    pub(super) fn look_at_gateway(&mut self, id: &NetworkId, waits: bool, now: Time) -> Option<Action> {
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
        let wants = derive_addresses(&self.desired, network, gateway);
        let (ops, missing) = plan_addresses(&wants, &self.observed);
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
        match failed {
            None => {
                if let Some(entry) = self.gateways.networks.get_mut(id) {
                    entry.failures = 0;
                }
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
