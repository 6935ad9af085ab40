//! Carries out plans as `kernel::Executor` and the daemon do: in order, to the first failure, list entries together, done
//! steps taken back afterwards; an index must still have its name.
//!
//! A [`Fault`] makes one chosen operation fail: before it took effect, or after (its answer was lost).

use super::device::Birth;
use super::{Answer, Kernel, refuse};
use std::collections::BTreeMap;
use std::sync::Arc;
use tapwire::desired::guard::Entry;
use tapwire::engine::event::{Applied, Done, Failure, FailureClass, StepResult};
use tapwire::kernel::{Class, Goal, Refusal};
use tapwire::model::{Ifindex, LinkKind, LinkName, VlanAttributes};
use tapwire::plan::Plan;
use tapwire::plan::guard::TableHave;
use tapwire::plan::op::{GuardTable, LinkChange, LinkRef, ListAction, Master, Op};

/// Whether the operation had its effect before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Before,
    After,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The nth operation from now that `op` matches, from 0.
    pub skip: usize,
    /// `Op::name`, or the beginning of its line; empty: any.
    pub op: String,
    pub moment: Moment,
    pub refusal: Refusal,
    /// How many operations in a row; the fault is over then.
    pub times: usize,
}

impl Fault {
    pub fn once(skip: usize, moment: Moment, errno: i32) -> Self {
        Self {
            skip,
            op: String::new(),
            moment,
            refusal: Refusal { errno, text: None },
            times: 1,
        }
    }

    /// Does it strike now? Counts.
    fn strikes(&mut self, op: &Op) -> bool {
        let matches = op.name() == self.op || op.to_string().starts_with(&self.op);
        if !matches || self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}

/// An operation as carried out, and what the kernel said.
pub type Told<'a> = &'a mut dyn FnMut(&Kernel, &Op, &Answer);

/// Links made in this run, by name.
type Made = BTreeMap<LinkName, Ifindex>;

impl Kernel {
    pub fn carry_out(&mut self, plan: Plan, faults: &mut Vec<Fault>, told: Told<'_>) -> Done {
        let mut made = Made::new();
        let mut results: Vec<StepResult> = Vec::new();
        let mut together = false;
        for step in &plan.steps {
            let failed = results.last().is_some_and(stops);
            // Entries sent together are answered together, also behind a failed one.
            together = together && is_list_entry(&step.op);
            if results.iter().any(stops) && !together {
                break;
            }
            together = is_list_entry(&step.op) && (together || !failed);
            let outcome = self.one(&step.op, &mut made, faults, told);
            results.push(StepResult {
                outcome,
                elapsed_us: 70,
            });
        }
        let mut undo_failures = Vec::new();
        if let Some(failed) = results.iter().position(|r| r.outcome.is_err()) {
            for undo in plan
                .steps
                .iter()
                .take(failed + 1)
                .rev()
                .filter_map(|s| s.undo.as_ref())
            {
                if let Err(failure) = self.one(undo, &mut made, faults, told) {
                    undo_failures.push(format!("{undo}: {}", failure.message));
                    break;
                }
            }
        }
        Done {
            plan,
            results,
            undo_failures,
        }
    }

    fn one(
        &mut self,
        op: &Op,
        made: &mut Made,
        faults: &mut Vec<Fault>,
        told: Told<'_>,
    ) -> Result<Applied, Failure> {
        // `kernel::Error::Replaced`: what is called otherwise now is not gone, also not to a delete.
        let renamed = named_links(op).iter().any(|link| {
            let device = link.index.and_then(|index| self.device(index));
            device.is_some_and(|d| d.link.name != link.name)
        });
        let struck = faults.iter_mut().find_map(|f| f.strikes(op).then(|| f.clone()));
        faults.retain(|f| f.times > 0);
        let answer = match &struck {
            Some(fault) if fault.moment == Moment::Before => Err(fault.refusal.clone()),
            Some(fault) => {
                let _effect = self.agreed(op, made);
                Err(fault.refusal.clone())
            }
            None => self.agreed(op, made),
        };
        told(self, op, &answer);
        let created = created_name(op);
        match answer {
            Ok(()) => match created.and_then(|name| self.by_name(&name)) {
                Some(device) => Ok(Applied::Created(Box::new(device.link.clone()))),
                None => Ok(Applied::Done),
            },
            Err(refusal) if renamed => Err(failure(&refusal, FailureClass::Gone)),
            Err(refusal) if refusal.class(goal(op)) == Class::AlreadySo => match created {
                None => Ok(Applied::Done),
                Some(name) => match self.by_name(&name) {
                    Some(device) => Ok(Applied::AlreadyThere(Box::new(device.link.clone()))),
                    None => Err(failure(&refusal, FailureClass::Refused)),
                },
            },
            Err(refusal) => {
                let class = class_of(refusal.class(goal(op)));
                Err(failure(&refusal, class))
            }
        }
    }

    /// The request, if its links are those it means.
    fn agreed(&mut self, op: &Op, made: &mut Made) -> Answer {
        for link in named_links(op) {
            if let Some(index) = link.index
                && self.device(index).is_none_or(|d| d.link.name != link.name)
            {
                return refuse(libc::ENODEV, &format!("{} is another one now", link.name));
            }
        }
        self.finish_deletion()?;
        self.request(op, made)?;
        if let Some(name) = created_name(op)
            && let Some(device) = self.by_name(&name)
        {
            made.insert(name, device.link.index);
        }
        Ok(())
    }

    fn request(&mut self, op: &Op, made: &Made) -> Answer {
        match op {
            Op::CreateBridge {
                name,
                mac,
                mtu,
                attributes,
            } => {
                let mut birth = Birth::of(*name, LinkKind::Bridge(*attributes));
                birth.mac = Some(*mac);
                birth.mtu = mtu.map(|m| m.get());
                self.create(birth).map(drop)
            }
            Op::CreateVlan {
                name,
                parent,
                vid,
                mtu,
            } => {
                let kind = LinkKind::Vlan(VlanAttributes {
                    vid: Some(*vid),
                    protocol: 0x8100,
                });
                let mut birth = Birth::of(*name, kind);
                birth.parent = Some(resolve(parent, made)?);
                birth.mtu = mtu.map(|m| m.get());
                self.create(birth).map(drop)
            }
            Op::CreateVxlan {
                name,
                mtu,
                attributes,
            } => {
                let mut birth = Birth::of(*name, LinkKind::Vxlan(Box::new(attributes.clone())));
                birth.mtu = mtu.map(|m| m.get());
                self.create(birth).map(drop)
            }
            Op::SetLink { link, change } => self.set_link(resolve(link, made)?, change, made),
            Op::SetBridge { link, attributes } => {
                let index = resolve(link, made)?;
                let Some(device) = self.device_mut(index) else {
                    return refuse(libc::ENODEV, "");
                };
                let LinkKind::Bridge(have) = &mut device.link.kind else {
                    return refuse(libc::EOPNOTSUPP, "");
                };
                have.stp = attributes.stp.or(have.stp);
                have.forward_delay = attributes.forward_delay.or(have.forward_delay);
                have.ageing_time = attributes.ageing_time.or(have.ageing_time);
                have.multicast_snooping = attributes.multicast_snooping.or(have.multicast_snooping);
                have.vlan_filtering = attributes.vlan_filtering.or(have.vlan_filtering);
                have.link_local_learning = attributes.link_local_learning.or(have.link_local_learning);
                match attributes.vlan_default_pvid {
                    Some(pvid) if Some(pvid) != have.vlan_default_pvid => self.set_default_pvid(index, pvid),
                    _ => self.tell_link(index),
                }
                Ok(())
            }
            Op::SetVxlan { link, attributes } => {
                let index = resolve(link, made)?;
                let Some(device) = self.device_mut(index) else {
                    return refuse(libc::ENODEV, "");
                };
                let LinkKind::Vxlan(have) = &mut device.link.kind else {
                    return refuse(libc::EOPNOTSUPP, "");
                };
                // The request carries these five only (`kernel::encode::set_vxlan`); the others are immutable.
                have.group = attributes.group;
                have.ttl = attributes.ttl;
                have.tos = attributes.tos;
                have.learning = attributes.learning;
                have.link = attributes.link.or(have.link);
                let below = have.link;
                // `vxlan_config_apply`: never larger than the underlay lets it be.
                let limit = below.and_then(|l| self.device(l)).map(|d| d.link.mtu - 50);
                if let Some(device) = self.device_mut(index) {
                    device.link.parent = below;
                    device.link.mtu = limit.map_or(device.link.mtu, |limit| device.link.mtu.min(limit));
                }
                self.tell_link(index);
                Ok(())
            }
            Op::SetPort { link, flags } => {
                let index = resolve(link, made)?;
                let Some(device) = self.device_mut(index) else {
                    return refuse(libc::ENODEV, "");
                };
                let Some(port) = &mut device.link.port else {
                    return refuse(libc::EINVAL, "Device is not a bridge port");
                };
                *port = port.overlaid_with(flags);
                self.tell_port(index);
                Ok(())
            }
            Op::DisableIpv6 { link, disable } => self.set_ipv6_disabled(resolve(link, made)?, *disable),
            Op::DeleteLink { link } => self.delete(resolve(link, made)?),
            Op::Fdb {
                action,
                link,
                entry,
                vni,
            } => self.fdb_of(*action, resolve(link, made)?, *entry, *vni, true),
            Op::Vlan { action, link, row } => self.vlan(*action, resolve(link, made)?, *row),
            Op::Vni { action, link, row } => self.vni(*action, resolve(link, made)?, *row),
            Op::Neighbour { action, link, entry } => {
                self.neighbour(*action, resolve(link, made)?, *entry, true)
            }
            Op::Address { action, link, record } => self.address(*action, resolve(link, made)?, record),
            Op::Readdress { steps, .. } => {
                // All of them are carried out; the first refusal is the answer.
                let refused = steps.iter().filter_map(|step| {
                    let error = self.request(step, made).err()?;
                    (error.class(goal(step)) != Class::AlreadySo).then_some(error)
                });
                refused.collect::<Vec<_>>().into_iter().next().map_or(Ok(()), Err)
            }
            Op::Route { action, record } => self.route(*action, record),
            Op::Guard { .. } | Op::GuardTable(_) => self.change_guard(op),
            Op::Ruleset(ruleset) => {
                self.ruleset = (Arc::clone(ruleset), false);
                Ok(())
            }
            Op::Sysctls(sysctls) => {
                self.sysctls = Some(sysctls.to_vec());
                Ok(())
            }
            Op::Announce { .. } => Ok(()),
        }
    }

    /// A transaction: an element to delete that is not there fails the whole of it.
    fn change_guard(&mut self, op: &Op) -> Answer {
        let gone: Vec<(Ifindex, &[Entry])> = match op {
            Op::Guard { link, gone, .. } => link.index.map(|index| (index, &gone[..])).into_iter().collect(),
            Op::GuardTable(GuardTable::Sweep(ports)) => {
                ports.iter().map(|port| (port.index, &port.entries[..])).collect()
            }
            _ => Vec::new(),
        };
        let makes = matches!(op, Op::GuardTable(GuardTable::Make(_)));
        let there = |(index, entries): &(Ifindex, &[Entry])| {
            let have = self.guard.ports.get(index).map_or(&[][..], Vec::as_slice);
            entries.iter().all(|entry| have.contains(entry))
        };
        if !makes && (self.guard.table == TableHave::Absent || !gone.iter().all(there)) {
            return refuse(libc::ENOENT, "");
        }
        self.guard.acknowledge(op);
        Ok(())
    }

    /// `do_setlink`'s order; what came before the refused attribute stays.
    fn set_link(&mut self, index: Ifindex, change: &LinkChange, made: &Made) -> Answer {
        if let Some(mac) = change.mac {
            self.set_mac(index, mac)?;
        }
        if let Some(mtu) = change.mtu {
            self.set_mtu(index, mtu.get())?;
        }
        if let Some(alias) = &change.alias {
            self.set_alias(index, alias)?;
        }
        // Since 6.6 before the master.
        if let Some(up) = change.up {
            self.set_up(index, up)?;
        }
        match &change.master {
            Some(Master::Set(bridge)) => self.set_master(index, Some(resolve(bridge, made)?))?,
            Some(Master::Clear) => self.set_master(index, None)?,
            None => {}
        }
        if let Some(length) = change.tx_queue_len
            && let Some(device) = self.device_mut(index)
        {
            device.link.tx_queue_len = length;
            self.tell_link(index);
        }
        Ok(())
    }
}

fn stops(result: &StepResult) -> bool {
    !matches!(result.outcome, Ok(Applied::Done | Applied::Created(_)))
}

fn resolve(link: &LinkRef, made: &Made) -> Answer<Ifindex> {
    match link.index.or_else(|| made.get(&link.name).copied()) {
        Some(index) => Ok(index),
        None => refuse(
            libc::EFAULT,
            &format!("{} is not created by this plan", link.name),
        ),
    }
}

const fn is_list_entry(op: &Op) -> bool {
    matches!(op, Op::Fdb { .. } | Op::Neighbour { .. })
}

const fn created_name(op: &Op) -> Option<LinkName> {
    match op {
        Op::CreateBridge { name, .. } | Op::CreateVlan { name, .. } | Op::CreateVxlan { name, .. } => {
            Some(*name)
        }
        _ => None,
    }
}

fn named_links(op: &Op) -> Vec<LinkRef> {
    match op {
        Op::CreateVlan { parent, .. } => vec![*parent],
        Op::SetLink { link, change } => match change.master {
            Some(Master::Set(master)) => vec![*link, master],
            Some(Master::Clear) | None => vec![*link],
        },
        Op::SetBridge { link, .. }
        | Op::SetVxlan { link, .. }
        | Op::SetPort { link, .. }
        | Op::DisableIpv6 { link, .. }
        | Op::DeleteLink { link }
        | Op::Fdb { link, .. }
        | Op::Vlan { link, .. }
        | Op::Vni { link, .. }
        | Op::Neighbour { link, .. }
        | Op::Address { link, .. }
        | Op::Readdress { link, .. }
        | Op::Guard { link, .. }
        | Op::Announce { link, .. } => vec![*link],
        Op::CreateBridge { .. }
        | Op::CreateVxlan { .. }
        | Op::Route { .. }
        | Op::GuardTable(_)
        | Op::Ruleset(_)
        | Op::Sysctls(_) => Vec::new(),
    }
}

/// What the op wants, as `kernel::encode` has it.
fn goal(op: &Op) -> Goal {
    match op {
        Op::CreateBridge { .. } | Op::CreateVlan { .. } | Op::CreateVxlan { .. } => Goal::Create,
        Op::DeleteLink { .. } | Op::GuardTable(GuardTable::Remove) => Goal::Delete,
        Op::Vlan { .. } => Goal::Port,
        Op::Vni { action, .. }
        | Op::Fdb { action, .. }
        | Op::Neighbour { action, .. }
        | Op::Address { action, .. }
        | Op::Route { action, .. } => match action {
            ListAction::Add | ListAction::Append => Goal::Create,
            ListAction::Replace => Goal::Change,
            ListAction::Delete => Goal::Delete,
        },
        _ => Goal::Change,
    }
}

/// As `daemon::convert` has it.
fn class_of(class: Class) -> FailureClass {
    match class {
        Class::Gone => FailureClass::Gone,
        Class::Transient => FailureClass::Busy,
        Class::Unsupported => FailureClass::Unsupported,
        Class::Denied => FailureClass::Denied,
        Class::Full => FailureClass::Full,
        Class::AlreadySo | Class::Refused | Class::Bug => FailureClass::Refused,
    }
}

pub fn failure(refusal: &Refusal, class: FailureClass) -> Failure {
    Failure {
        class,
        errno: refusal.errno,
        message: refusal.to_string(),
    }
}

/// A refusal while reading.
pub fn read_failure(refusal: &Refusal) -> Failure {
    failure(refusal, class_of(refusal.class(Goal::Change)))
}
