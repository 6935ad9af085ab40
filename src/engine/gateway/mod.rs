//! The gateway half of all networks: tables and kernel settings that they share, then each network's addresses.
//!
//! The order is the point. Addresses that nobody asks for go first, then tables and settings come into force, and only then
//! come addresses: a floating address is never there without its translation, in either direction. All of it begins
//! with the first full pass behind us, because it also takes away, and none of it is between a tap and its attach: a
//! gateway that cannot be had is told beside the network's state, and the network carries on without.
//!
//! Tables come into force by a program (`nft`), so that plan is carried out beside the loop; meanwhile nothing else of this
//! stage is done. A host without gateways pays one question at each full pass: is anything left of an earlier one?

mod announce;
mod force;
mod network;

pub use network::GatewayState;

use super::Engine;
use super::backoff::Fight;
use super::event::Action;
use crate::desired::gateway::{HostWant, derive_addresses, derive_host, strange_uplinks};
use crate::desired::ruleset::{Ruleset, derive_ruleset};
use crate::model::{Cidr, Ifindex, LinkKind, LinkName, NetworkId, Time};
use crate::observed::Effect;
use crate::plan::address_move::Carried;
use crate::plan::first_address::plan_last;
use crate::plan::gateway::{plan_addresses, plan_removal};
use crate::plan::op::Op;
use crate::plan::segment::reference;
use crate::plan::{CauseId, Key, Plan, Step};
use force::{InForce, host_steps};
use network::GatewayEntry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Gateways {
    /// Some network asks for one.
    wanted: bool,
    in_force: InForce,
    /// What the plan under way will bring into force.
    under_way: Option<HostWant>,
    /// Somebody else touched the tables while ours were on the way.
    doubted: bool,
    /// The same of the settings.
    sysctls_doubted: bool,
    /// Of the networks as they are told now, and of these uplinks.
    ruleset: Option<Arc<Ruleset>>,
    strange_uplinks: Vec<(LinkName, LinkName)>,
    fight: Fight,
    failures: u32,
    failed: Option<Box<str>>,
    retry_at: Option<Time>,
    networks: BTreeMap<NetworkId, GatewayEntry>,
    /// What the device of an address that goes carries, just read.
    carried: Option<Carried>,
    pub(super) dirty: bool,
    cause: CauseId,
}

impl Engine {
    /// What a network asks for was told, or told otherwise.
    pub(super) fn gateways_told(&mut self, cause: CauseId) {
        let wanted = self.desired.has_gateways();
        if wanted || self.gateways.wanted {
            self.gateways.ruleset = None;
            for entry in self.gateways.networks.values_mut() {
                entry.retry_at = None;
                (entry.fight, entry.repair_at) = (Fight::default(), None);
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
        match effect {
            Effect::Changed(before) if concerns => {
                let mac = self.observed.link(before.index).and_then(|link| link.mac);
                if mac != before.mac {
                    self.forget_told(before.index);
                }
            }
            Effect::Gone(link) if concerns => self.forget_told(link.index),
            _ => {}
        }
        let address =
            matches!(effect, Effect::Addresses(_)) && self.observed.own_addresses().next().is_some();
        if matches!(effect, Effect::Gone(_)) {
            for entry in self
                .gateways
                .networks
                .values_mut()
                .filter(|entry| entry.awaits_gone)
            {
                (entry.awaits_gone, entry.failures, entry.retry_at) = (false, 0, None);
            }
        }
        if concerns && (self.gateways.wanted || address) {
            self.mark_gateways(cause);
        }
    }

    fn forget_told(&mut self, device: Ifindex) {
        for entry in self.gateways.networks.values_mut() {
            entry.told.forget(device);
        }
    }

    /// Full pass: what is in force is asked anew, what could not be done is tried again.
    pub(super) fn doubt_gateways(&mut self, cause: CauseId) {
        let gateways = &mut self.gateways;
        gateways.in_force = InForce::Unknown;
        gateways.retry_at = None;
        for entry in gateways.networks.values_mut() {
            entry.retry_at = None;
        }
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
            InForce::Known { .. } => {}
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
        let uplinks = strange_uplinks(&self.desired, &self.observed);
        let ruleset = match &self.gateways.ruleset {
            Some(ruleset) if self.gateways.strange_uplinks == uplinks => Arc::clone(ruleset),
            _ => Arc::new(derive_ruleset(&self.desired, &uplinks)),
        };
        self.gateways.ruleset = Some(Arc::clone(&ruleset));
        self.gateways.strange_uplinks = uplinks;
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
        let carried = self.gateways.carried.take();
        self.observed.own_addresses().next()?;
        let (index, address) = *self.stale_addresses().first()?;
        let link = reference(self.observed.link(index)?);
        let mut op = plan_removal(link, index, address);
        let is_other = |other: IpAddr| other.is_ipv4() && other != address.address();
        let up = self.observed.link(index)?.up;
        if up && address.is_ipv4() && self.observed.addresses_of(index).any(is_other) {
            let Some(carried) = carried else {
                return Some(Action::ReadCarried {
                    key: Key::Gateways,
                    devices: vec![index],
                });
            };
            op = plan_last(link, index, op.clone(), &carried).unwrap_or(op);
        }
        Some(self.gateways_plan(Key::Gateways, vec![Step::from(op)]))
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

    fn gateways_plan(&mut self, key: Key, steps: Vec<Step>) -> Action {
        // Looked at again when it is done.
        Action::Execute(Plan {
            key,
            cause: self.gateways.cause,
            steps,
        })
    }

    /// What a look would do now, in its order.
    pub(super) fn preview_gateways(&self) -> Vec<(Op, Option<NetworkId>)> {
        let mut planned = Vec::new();
        for (index, address) in self.stale_addresses() {
            if let Some(link) = self.observed.link(index) {
                planned.push((plan_removal(reference(link), index, address), None));
            }
        }
        let want = if self.gateways.wanted {
            let uplinks = strange_uplinks(&self.desired, &self.observed);
            let ruleset = Arc::new(derive_ruleset(&self.desired, &uplinks));
            derive_host(&self.desired, &self.observed, ruleset)
        } else {
            HostWant::default()
        };
        let steps = host_steps(&self.gateways.in_force, &want);
        planned.extend(steps.into_iter().map(|step| (step.op, None)));
        for network in self.desired.networks() {
            if let Some(gateway) = network.gateway.as_deref() {
                let wants = derive_addresses(&self.desired, network, gateway);
                let again = self.due_announcements(&network.id, &wants);
                planned.extend(again.into_iter().map(|op| (op, Some(network.id.clone()))));
                let (ops, _) = plan_addresses(&wants, &self.observed);
                planned.extend(ops.into_iter().map(|op| (op, Some(network.id.clone()))));
            }
        }
        planned
    }
}
