//! The gateway half of all networks: tables and kernel settings that they share, then each network's addresses.
//!
//! The order is the point. Addresses that nobody asks for go first, then tables and settings come into force, and only then
//! come addresses: a floating address is never there without its translation, in either direction. All of it begins
//! with the first full pass behind us, because it also takes away, and none of it is between a tap and its attach: a
//! gateway that cannot be had is told beside the network's state, and the network carries on without.
//!
//! Tables come into force by a program (`nft`), so that plan is carried out beside the loop; meanwhile nothing else of this
//! stage is done. A host without gateways pays one question at each full pass: is anything left of an earlier one?
//!
//! Length: one stage whose order is its content, with the state it keeps.

use super::Engine;
use super::backoff::{self, Fight};
use super::event::{Action, Failure, FailureClass};
use super::note::What;
use crate::desired::gateway::{HostWant, derive_addresses, derive_host, inexpressible};
use crate::desired::ruleset::{Ruleset, derive_ruleset};
use crate::model::{Cidr, Ifindex, LinkKind, LinkName, NetworkId, Time};
use crate::observed::Effect;
use crate::plan::gateway::{Missing, plan_addresses, plan_removal};
use crate::plan::op::{Flows, Op};
use crate::plan::segment::reference;
use crate::plan::{CauseId, Key, Plan, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

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

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Gateways {
    /// Some network asks for one.
    wanted: bool,
    in_force: InForce,
    /// What the plan under way will bring into force.
    under_way: Option<HostWant>,
    /// Somebody else touched the tables while ours were on the way.
    doubted: bool,
    /// Of the networks as they are told now.
    ruleset: Option<Arc<Ruleset>>,
    fight: Fight,
    failures: u32,
    failed: Option<Box<str>>,
    retry_at: Option<Time>,
    networks: BTreeMap<NetworkId, GatewayEntry>,
    /// Floating addresses whose flows were looked through by this run, with their machines.
    cut: BTreeSet<(std::net::IpAddr, std::net::IpAddr)>,
    pub dirty: bool,
    cause: CauseId,
}

/// Tables and settings.
#[derive(Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
enum InForce {
    #[default]
    Unknown,
    Asked,
    /// Something is there: an earlier run's, or somebody changed it.
    Remains,
    Nothing,
    Is(HostWant),
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct GatewayEntry {
    state: GatewayState,
    failures: u32,
    retry_at: Option<Time>,
}

impl Engine {
    /// What a network asks for was told, or told otherwise.
    pub(super) fn gateways_told(&mut self, cause: CauseId) {
        let wanted = self.desired.has_gateways();
        if wanted || self.gateways.wanted {
            self.gateways.ruleset = None;
            for entry in self.gateways.networks.values_mut() {
                entry.retry_at = None;
            }
            self.gateways.retry_at = None;
            self.mark_gateways(cause);
        }
        self.gateways.wanted = wanted;
    }

    pub(super) fn mark_gateways(&mut self, cause: CauseId) {
        self.gateways.cause = cause;
        self.gateways.dirty = true;
    }

    /// A link came, went or changed, or an address, perhaps one of ours. Taps concern no gateway.
    pub(super) fn gateway_effect(&mut self, effect: &Effect, cause: CauseId) {
        let concerns = match effect {
            Effect::Appeared(index) => self
                .observed
                .link(*index)
                .is_some_and(|l| l.kind != LinkKind::Tap),
            Effect::Changed(link) | Effect::Gone(link) => link.kind != LinkKind::Tap,
            Effect::Addresses(_) => true,
            Effect::Same | Effect::Vlans(..) | Effect::Vnis(..) => false,
        };
        let address =
            matches!(effect, Effect::Addresses(_)) && self.observed.own_addresses().next().is_some();
        if concerns && (self.gateways.wanted || address) {
            self.mark_gateways(cause);
        }
    }

    /// Full pass: what is in force is asked anew, what could not be done is tried again.
    pub(super) fn doubt_gateways(&mut self, cause: CauseId) {
        let gateways = &mut self.gateways;
        if !matches!(gateways.in_force, InForce::Is(_)) {
            gateways.in_force = InForce::Unknown;
        }
        gateways.retry_at = None;
        for entry in gateways.networks.values_mut() {
            entry.retry_at = None;
        }
        self.mark_gateways(cause);
    }

    /// Somebody else changed a table of ours.
    pub(super) fn on_ruleset_touched(&mut self, now: Time) {
        let cause = CauseId(self.causes);
        let gateways = &mut self.gateways;
        if gateways.under_way.is_some() {
            gateways.doubted = true;
        } else if matches!(gateways.in_force, InForce::Is(_)) {
            gateways.in_force = InForce::Remains;
            let pause = gateways.fight.lost(now);
            if !pause.is_zero() {
                self.retry_gateways(now.plus(pause));
            }
            let device = LinkName::new("nftables");
            if let Ok(device) = device {
                self.note(
                    now,
                    cause,
                    What::Drift {
                        device,
                        network: None,
                    },
                );
            }
        }
        self.mark_gateways(cause);
    }

    pub(super) fn on_gateways_read(&mut self, remains: Result<bool, Failure>, now: Time) {
        let cause = self.gateways.cause;
        self.gateways.in_force = match remains {
            Ok(true) => InForce::Remains,
            Ok(false) => InForce::Nothing,
            // A kernel without nftables has no table of ours.
            Err(_) if !self.gateways.wanted => InForce::Nothing,
            Err(failure) => {
                self.gateways_refused("read the tables", &failure, now);
                InForce::Remains
            }
        };
        self.mark_gateways(cause);
    }

    pub(super) fn look_at_gateways(&mut self, now: Time) -> Option<Action> {
        self.gateways.dirty = false;
        if !self.in_sync || self.gateways.under_way.is_some() {
            return None;
        }
        match self.gateways.in_force {
            InForce::Unknown => {
                self.gateways.in_force = InForce::Asked;
                let watch = self.gateways.wanted;
                return Some(Action::ReadGateways { watch });
            }
            InForce::Asked => return None,
            InForce::Remains | InForce::Nothing | InForce::Is(_) => {}
        }
        let waits = self.gateways.retry_at.is_some_and(|at| at > now);
        if !waits {
            if let Some(action) = self.remove_address() {
                return Some(action);
            }
            let want = self.host_want();
            let steps = host_steps(&self.gateways.in_force, &want);
            if !steps.is_empty() {
                self.gateways.under_way = Some(want);
                return Some(self.gateways_plan(Key::Gateways, steps));
            }
        }
        self.look_at_each_gateway(waits, now)
    }

    fn host_want(&mut self) -> HostWant {
        if !self.gateways.wanted {
            return HostWant::default();
        }
        let ruleset = match &self.gateways.ruleset {
            Some(ruleset) => Arc::clone(ruleset),
            None => Arc::new(derive_ruleset(&self.desired)),
        };
        self.gateways.ruleset = Some(Arc::clone(&ruleset));
        derive_host(&self.desired, &self.observed, ruleset)
    }

    /// Addresses with our mark that nobody asks for.
    fn stale_addresses(&self) -> Vec<(Ifindex, Cidr)> {
        let wanted: BTreeSet<(LinkName, Cidr)> = self
            .desired
            .networks()
            .filter_map(|network| Some((network, network.gateway.as_deref()?)))
            .flat_map(|(network, gateway)| derive_addresses(&self.desired, network, gateway))
            .map(|want| (want.device, want.address))
            .collect();
        let own = self.observed.own_addresses();
        let each = own.filter_map(|(index, address, length)| {
            let name = self.observed.link(index)?.name;
            let address = Cidr::new(address, length).ok()?;
            (!wanted.contains(&(name, address))).then_some((index, address))
        });
        each.collect()
    }

    fn remove_address(&mut self) -> Option<Action> {
        self.observed.own_addresses().next()?;
        let (index, address) = *self.stale_addresses().first()?;
        let link = reference(self.observed.link(index)?);
        self.gateways
            .cut
            .retain(|(floating, _)| *floating != address.address());
        let steps = plan_removal(link, index, address)
            .into_iter()
            .map(Step::from)
            .collect();
        Some(self.gateways_plan(Key::Gateways, steps))
    }

    fn look_at_each_gateway(&mut self, waits: bool, now: Time) -> Option<Action> {
        let ids: Vec<NetworkId> = self
            .desired
            .networks()
            .filter(|network| network.gateway.is_some())
            .map(|network| network.id.clone())
            .collect();
        if ids.len() != self.gateways.networks.len() {
            self.gateways
                .networks
                .retain(|id, _| ids.binary_search(id).is_ok());
        }
        for id in ids {
            if let Some(action) = self.look_at_gateway(&id, waits, now) {
                return Some(action);
            }
        }
        None
    }

    fn look_at_gateway(&mut self, id: &NetworkId, waits: bool, now: Time) -> Option<Action> {
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
        let (mut ops, missing) = plan_addresses(&wants, &self.observed);
        // An earlier run may have ended between a new machine's translation and the old one's flows.
        for floating in &gateway.floating_ips {
            if self
                .gateways
                .cut
                .insert((floating.address, floating.fixed_address))
            {
                let cut = Op::CutFlows(Flows::Floating {
                    address: floating.address,
                    keep: Some(floating.fixed_address),
                });
                if !ops.contains(&cut) {
                    ops.push(cut);
                }
            }
        }
        if !ops.is_empty() {
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

    fn gateways_plan(&mut self, key: Key, steps: Vec<Step>) -> Action {
        // Looked at again when it is done.
        Action::Execute(Plan {
            key,
            cause: self.gateways.cause,
            steps,
        })
    }

    fn set_gateway_state(&mut self, id: &NetworkId, state: GatewayState, now: Time) {
        let entry = self.gateways.networks.entry(id.clone()).or_insert(GatewayEntry {
            state: GatewayState::Pending {
                reason: "not looked at yet".into(),
            },
            failures: 0,
            retry_at: None,
        });
        if entry.state != state {
            entry.state = state.clone();
            let what = What::Gateway {
                network: id.clone(),
                state,
            };
            self.note(now, self.gateways.cause, what);
        }
    }

    /// A plan of all gateways was carried out.
    pub(super) fn gateways_done(&mut self, failed: Option<&Failure>, op: &str, now: Time) {
        let under_way = self.gateways.under_way.take();
        match (failed, under_way) {
            (None, under_way) => {
                if let Some(want) = under_way {
                    self.gateways.in_force = match (std::mem::take(&mut self.gateways.doubted), want) {
                        (true, _) => InForce::Remains,
                        (false, want) if want == HostWant::default() => InForce::Nothing,
                        (false, want) => InForce::Is(want),
                    };
                }
                self.gateways.failures = 0;
                self.gateways.failed = None;
            }
            (Some(failure), under_way) => {
                if under_way.is_some() {
                    self.gateways.in_force = InForce::Remains;
                }
                self.gateways_refused(op, failure, now);
            }
        }
        self.mark_gateways(self.gateways.cause);
    }

    fn gateways_refused(&mut self, op: &str, failure: &Failure, now: Time) {
        self.gateways.failures += 1;
        if self.gateways.failures == 1 {
            let what = What::Failed {
                op: op.to_owned(),
                error: failure.message.clone(),
                port: None,
                network: None,
            };
            self.note(now, self.gateways.cause, what);
        }
        self.gateways.failed = Some(format!("{op}: {}", failure.message).into());
        match failure.class {
            FailureClass::Unsupported => self.gateways.retry_at = Some(Time(u64::MAX)),
            _ => self.retry_gateways(now.plus(backoff::after_failures(self.gateways.failures, 0))),
        }
    }

    fn retry_gateways(&mut self, at: Time) {
        if let Some(old) = self.gateways.retry_at.replace(at) {
            self.timers.remove(&(old, Key::Gateways));
        }
        self.timers.insert((at, Key::Gateways));
    }

    /// A plan of one network's addresses was carried out.
    pub(super) fn gateway_done(&mut self, id: &NetworkId, failed: Option<(&Failure, String)>, now: Time) {
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

    /// What a look would do now, in its order.
    pub(super) fn preview_gateways(&self) -> Vec<(Op, Option<NetworkId>)> {
        let mut planned = Vec::new();
        for (index, address) in self.stale_addresses() {
            if let Some(link) = self.observed.link(index) {
                let ops = plan_removal(reference(link), index, address);
                planned.extend(ops.into_iter().map(|op| (op, None)));
            }
        }
        let want = if self.gateways.wanted {
            let ruleset = Arc::new(derive_ruleset(&self.desired));
            derive_host(&self.desired, &self.observed, ruleset)
        } else {
            HostWant::default()
        };
        let steps = host_steps(&self.gateways.in_force, &want);
        planned.extend(steps.into_iter().map(|step| (step.op, None)));
        for network in self.desired.networks() {
            if let Some(gateway) = network.gateway.as_deref() {
                let wants = derive_addresses(&self.desired, network, gateway);
                let (ops, _) = plan_addresses(&wants, &self.observed);
                planned.extend(ops.into_iter().map(|op| (op, Some(network.id.clone()))));
            }
        }
        planned
    }
}

/// Rules before the host forwards anything, and no forwarding without them.
fn host_steps(have: &InForce, want: &HostWant) -> Vec<Step> {
    let nothing = HostWant::default();
    let have = match have {
        InForce::Is(have) => Some(have),
        InForce::Nothing => Some(&nothing),
        InForce::Remains | InForce::Unknown | InForce::Asked => None,
    };
    let ruleset = have.is_none_or(|have| have.ruleset != want.ruleset);
    let sysctls = have.is_none_or(|have| have.sysctls != want.sysctls);
    let ruleset = ruleset.then(|| Op::Ruleset(Arc::clone(&want.ruleset)));
    let sysctls = sysctls.then(|| Op::Sysctls(want.sysctls.clone().into()));
    let mut steps: Vec<Step> = ruleset.into_iter().chain(sysctls).map(Step::from).collect();
    if want.ruleset.is_empty() {
        steps.reverse();
    }
    steps
}
