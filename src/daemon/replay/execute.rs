//! A plan carried out in a replay's world: every operation succeeds at once.
//!
//! A device that is made gets the index of the recording's device of that name, if one follows, else one that no
//! kernel reaches soon. What the engine's mirror shows by itself (`engine::acknowledge`) is left to it.

use super::tape::Tape;
use super::world::{FIRST_MADE, World};
use crate::engine::event::{Applied, Done, StepResult};
use crate::model::record::AddressRecord;
use crate::model::{FdbEntry, FdbRow, Ifindex, Link, LinkKind, LinkName, Mac, OperState, VlanAttributes};
use crate::observed::Observed;
use crate::plan::Plan;
use crate::plan::address_move::address_of;
use crate::plan::op::{LinkRef, ListAction, Op};

/// Bytes, where neither the operation nor the recording says.
const MTU: u32 = 1500;
const VXLAN_OVERHEAD: u32 = 50;
const TX_QUEUE_LEN: u32 = 1000;
const ETH_P_8021Q: u16 = 0x8100;

impl World {
    /// Carries out a plan behind the tape's entry `position`.
    pub fn execute(&mut self, plan: Plan, observed: &Observed, tape: &Tape, position: usize) -> Done {
        let mut run = Run {
            world: self,
            observed,
            tape,
            position,
            made: Vec::new(),
        };
        let results = plan.steps.iter().map(|step| StepResult {
            outcome: Ok(run.apply(&step.op)),
            elapsed_us: 0,
        });
        let results = results.collect();
        Done {
            plan,
            results,
            undo_failures: Vec::new(),
        }
    }

    fn next_made(&mut self) -> Option<Ifindex> {
        self.made += 1;
        Ifindex::new(FIRST_MADE + self.made)
    }

    /// A kernel without IPv6 says nothing of it; with it, a new link has it on unless somebody turned it off.
    fn ipv6_of_new_links(&self) -> Option<bool> {
        let with_ipv6 = self.recorded.values().any(|link| link.ipv6_disabled.is_some());
        with_ipv6.then_some(false)
    }
}

/// One plan being carried out.
struct Run<'a> {
    world: &'a mut World,
    observed: &'a Observed,
    tape: &'a Tape,
    position: usize,
    made: Vec<(LinkName, Ifindex)>,
}

impl Run<'_> {
    fn apply(&mut self, op: &Op) -> Applied {
        match op {
            Op::CreateBridge { .. } | Op::CreateVlan { .. } | Op::CreateVxlan { .. } => {
                return match self.create(op) {
                    Some(link) => Applied::Created(Box::new(link)),
                    None => Applied::Done,
                };
            }
            Op::DeleteLink { link } => {
                if let Some(index) = self.index_of(link) {
                    if self.world.recorded.contains_key(&index) {
                        self.world.deleted.insert(index);
                    }
                    self.world.forget(index);
                }
            }
            Op::Fdb { link, .. } | Op::Neighbour { link, .. } => {
                if let Some(index) = self.index_of(link) {
                    self.world.forwarding.entry(index).or_default().acknowledge(op);
                }
            }
            Op::Address { action, link, record } => self.address(*action, link, record),
            Op::Route { action, record } => {
                self.world.remove_route(record);
                if *action != ListAction::Delete {
                    self.world.routes.push((**record).clone());
                }
            }
            Op::Readdress { steps, .. } => {
                for step in steps {
                    self.apply(step);
                }
            }
            // The engine's mirror shows it: `engine::acknowledge`.
            Op::SetLink { .. }
            | Op::SetBridge { .. }
            | Op::SetVxlan { .. }
            | Op::SetPort { .. }
            | Op::Vlan { .. }
            | Op::Vni { .. }
            | Op::DisableIpv6 { .. }
            | Op::Ruleset(_)
            | Op::Sysctls(_)
            | Op::Announce { .. } => {}
            Op::Guard { .. } | Op::GuardTable(_) => self.world.guard.acknowledge(op),
        }
        Applied::Done
    }

    fn address(&mut self, action: ListAction, link: &LinkRef, record: &AddressRecord) {
        let (Some(index), Some(address)) = (self.index_of(link), address_of(record)) else {
            return;
        };
        match action {
            ListAction::Delete => drop(self.world.addresses.remove(&(index, address))),
            ListAction::Replace | ListAction::Append | ListAction::Add => {
                let mut record = record.clone();
                record.ifindex = index.get();
                self.world.addresses.insert((index, address), record);
            }
        }
    }

    fn index_of(&self, link: &LinkRef) -> Option<Ifindex> {
        let made = || self.made.iter().find(|(name, _)| *name == link.name);
        link.index
            .or_else(|| made().map(|(_, index)| *index))
            .or_else(|| self.observed.by_name(&link.name).map(|l| l.index))
    }

    fn create(&mut self, op: &Op) -> Option<Link> {
        let (name, kind, parent, mac, mtu) = match op {
            Op::CreateBridge {
                name,
                mac,
                mtu,
                attributes,
            } => (name, LinkKind::Bridge(*attributes), None, Some(*mac), *mtu),
            Op::CreateVlan {
                name,
                parent,
                vid,
                mtu,
            } => {
                let kind = LinkKind::Vlan(VlanAttributes {
                    vid: Some(*vid),
                    protocol: ETH_P_8021Q,
                });
                (name, kind, self.index_of(parent), None, *mtu)
            }
            Op::CreateVxlan {
                name,
                mtu,
                attributes,
            } => {
                let kind = LinkKind::Vxlan(Box::new(attributes.clone()));
                (name, kind, attributes.link, None, *mtu)
            }
            _ => return None,
        };
        let below = parent.and_then(|index| self.observed.link(index));
        let told = self.tape.birth_after(self.position, name);
        let told = told.filter(|link| link.kind.name() == kind.name());
        if let Some(told) = told {
            self.world.recorded.insert(told.index, told.clone());
        }
        let index = match told {
            Some(told) => told.index,
            None => self.world.next_made()?,
        };
        let room = match (&kind, below) {
            (LinkKind::Vxlan(_), below) => below.map_or(MTU, |l| l.mtu).saturating_sub(VXLAN_OVERHEAD),
            (_, Some(below)) => below.mtu,
            (_, None) => MTU,
        };
        // The kernel makes its own entry for the group.
        if let LinkKind::Vxlan(attributes) = &kind
            && let Some(group) = attributes.group
        {
            let entry = FdbEntry {
                mac: Mac::ZERO,
                dst: Some(group),
            };
            self.world.forwarding.entry(index).or_default().fdb.push(FdbRow {
                entry,
                vni: None,
                ours: false,
                fixed: true,
            });
        }
        self.made.push((*name, index));
        Some(Link {
            index,
            name: *name,
            kind,
            mac: mac
                .or_else(|| told.and_then(|l| l.mac))
                .or_else(|| below.and_then(|l| l.mac)),
            mtu: mtu.map_or_else(|| told.map_or(room, |l| l.mtu), |mtu| mtu.get()),
            up: false,
            // Nothing will tell of it later, and the engine waits for a bridge's carrier.
            carrier: told.is_none(),
            operstate: OperState::Unknown,
            master: None,
            parent,
            alias: None,
            ipv6_disabled: told.map_or_else(|| self.world.ipv6_of_new_links(), |l| l.ipv6_disabled),
            tx_queue_len: told.map_or(TX_QUEUE_LEN, |l| l.tx_queue_len),
            port: None,
        })
    }
}
