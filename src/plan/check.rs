//! An independent reading of a plan: would it harm somebody, does every operation stand on something?
//!
//! Written apart from the planners and run on every plan in tests and debug builds. It knows the rules of the
//! machine (DESIGN section 3), not how plans are made.

use super::Plan;
use super::op::{LinkRef, Master, Op};
use crate::model::owned::Mark;
use crate::model::{LinkKind, LinkName};
use crate::observed::Observed;
use std::collections::BTreeSet;

/// Every rule broken, in words; empty for a good plan.
pub fn check(plan: &Plan, observed: &Observed) -> Vec<String> {
    let mut faults = Vec::new();
    let mut made: BTreeSet<LinkName> = BTreeSet::new();
    let mut deleted: BTreeSet<LinkName> = BTreeSet::new();
    for (at, step) in plan.steps.iter().enumerate() {
        let mut fault = |text: String| faults.push(format!("step {at} ({}): {text}", step.op));
        let stands = |link: &LinkRef| {
            if deleted.contains(&link.name) && !made.contains(&link.name) {
                return Some(format!("{} was deleted by an earlier step", link.name));
            }
            match link.index {
                None if made.contains(&link.name) => None,
                None => Some(format!("{} is made by no earlier step", link.name)),
                Some(index) => match observed.link(index) {
                    None => Some(format!("{} (index {index}) does not exist", link.name)),
                    Some(l) if l.name != link.name => {
                        Some(format!("index {index} is {}, not {}", l.name, link.name))
                    }
                    Some(_) => None,
                },
            }
        };
        match &step.op {
            Op::CreateBridge { name, .. } | Op::CreateVlan { name, .. } | Op::CreateVxlan { name, .. } => {
                if observed.by_name(name).is_some() && !deleted.contains(name) {
                    fault(format!("{name} exists already"));
                }
                if let Op::CreateVlan { parent, .. } = &step.op
                    && let Some(text) = stands(parent)
                {
                    fault(text);
                }
                made.insert(*name);
            }
            Op::DeleteLink { link } => {
                if let Some(text) = stands(link) {
                    fault(text);
                } else if let Some(l) = link.index.and_then(|index| observed.link(index)) {
                    if !Mark::read(l.alias.as_deref()).is_made() {
                        fault(format!("{} was not made by us", l.name));
                    }
                    if !matches!(
                        l.kind,
                        LinkKind::Bridge(_) | LinkKind::Vlan(_) | LinkKind::Vxlan(_)
                    ) {
                        fault(format!("{} is a {}: never ours to delete", l.name, l.kind.name()));
                    }
                }
                deleted.insert(link.name);
            }
            Op::SetLink { link, change } => {
                if let Some(text) = stands(link) {
                    fault(text);
                }
                if let Some(Master::Set(bridge)) = &change.master {
                    if let Some(text) = stands(bridge) {
                        fault(text);
                    }
                    if change.up == Some(true) {
                        fault("bridge and up in one request: the kernel sets it up first".to_owned());
                    }
                }
            }
            Op::SetBridge { link, .. }
            | Op::SetVxlan { link, .. }
            | Op::SetPort { link, .. }
            | Op::DisableIpv6 { link, .. }
            | Op::Fdb { link, .. }
            | Op::Vlan { link, .. }
            | Op::Vni { link, .. }
            | Op::Neighbour { link, .. }
            | Op::Address { link, .. }
            | Op::Readdress { link, .. }
            | Op::Guard { link, .. }
            | Op::Announce { link, .. } => {
                if let Some(text) = stands(link) {
                    fault(text);
                }
            }
            Op::Route { .. } | Op::GuardTable(_) | Op::Ruleset(_) | Op::Sysctls(_) => {}
        }
    }
    faults
}
