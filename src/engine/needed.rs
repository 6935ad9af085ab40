//! What is needed: the devices that networks in use lean on, and which of the others go by themselves.

use super::Engine;
use crate::desired::segment::link_names;
use crate::model::owned::{self, Mark};
use crate::model::{Link, LinkName};
use std::collections::BTreeSet;

impl Engine {
    /// Names of all devices that networks in use lean on.
    pub(super) fn needed_names(&self) -> BTreeSet<LinkName> {
        self.segments
            .iter()
            .filter_map(|(id, segment)| {
                let network = self.desired.network(id)?;
                (!segment.users.is_empty() || network.stands()).then_some(network)
            })
            .flat_map(|network| link_names(&self.desired, network))
            .chain(self.sub_interfaces())
            .collect()
    }
}

/// Not hanging below another orphan, with which it goes.
pub(super) fn is_root(engine: &Engine, link: &Link, needed: &BTreeSet<LinkName>) -> bool {
    if link.is_bridge() {
        return true;
    }
    // A trunk port's sub-interface goes by itself, and so does an uplink of a bridge that others use.
    let owner = Mark::read(link.alias.as_deref()).owner();
    let holder = link.master.and_then(|master| engine.observed.link(master));
    let shared = holder.is_some_and(|l| needed.contains(&l.name) && owned::is_shared(l.alias.as_deref()));
    if shared || owner.is_some_and(|o| o.trunk.is_some()) {
        return true;
    }
    match link.master.and_then(|master| engine.observed.link(master)) {
        Some(bridge) => needed.contains(&bridge.name) && !Mark::read(bridge.alias.as_deref()).is_made(),
        None => true,
    }
}
