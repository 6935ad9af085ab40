//! From one operation to one request.
//!
//! Links go through rtnetlink's builders, neighbours and forwarding entries through netlink-packet-route's messages;
//! addresses and routes are told back byte by byte as they were read, because a typed message would lose what it
//! does not know. Nothing is decided here: what an op does not say is not sent.

mod entry;
mod link;
mod vlan;

use super::error::{Error, Goal};
use super::request::Batch;
use crate::model::{Ifindex, LinkName};
use crate::plan::op::{GuardTable, LinkRef, ListAction, Op};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::InfoKind;
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVlan};

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// Appends the op's request to the batch. `resolve` gives the index of a link that may have been created by an
/// earlier op of the plan.
pub fn op(
    op: &Op,
    resolve: &dyn Fn(&LinkRef) -> Result<Ifindex, Error>,
    batch: &mut Batch,
) -> Result<(), Error> {
    let word = op.name();
    match op {
        Op::CreateBridge {
            name,
            mac,
            mtu,
            attributes,
        } => {
            // Not `LinkBridge::new`, which also brings it up: before its IPv6 is off that would be an address of ours
            // in the tenant's network.
            let link = LinkMessageBuilder::<LinkBridge>::new(text(word, name)?);
            let link = link::bridge(link, attributes).address(mac.bytes().to_vec());
            batch.push(RouteNetlinkMessage::NewLink(link::sized(link, *mtu)), CREATE);
        }
        Op::CreateVlan {
            name,
            parent,
            vid,
            mtu,
        } => {
            let link = LinkVlan::new(text(word, name)?, resolve(parent)?.get(), vid.get());
            batch.push(RouteNetlinkMessage::NewLink(link::sized(link, *mtu)), CREATE);
        }
        Op::CreateVxlan {
            name,
            mtu,
            attributes,
        } => {
            let link = link::new_vxlan(text(word, name)?, attributes);
            batch.push(RouteNetlinkMessage::NewLink(link::sized(link, *mtu)), CREATE);
        }
        Op::SetLink { link, change } => {
            let message = link::set_link(resolve(link)?, change, resolve)?;
            batch.push(RouteNetlinkMessage::SetLink(message), 0);
        }
        // RTM_SETLINK ignores kind and port data; RTM_NEWLINK without NLM_F_CREATE changes what is there.
        Op::SetBridge { link, attributes } => {
            let change = LinkMessageBuilder::<LinkBridge>::new_with_info_kind(InfoKind::Bridge)
                .index(resolve(link)?.get());
            batch.push(
                RouteNetlinkMessage::NewLink(link::bridge(change, attributes).build()),
                0,
            );
        }
        Op::SetVxlan { link, attributes } => {
            let change = link::set_vxlan(resolve(link)?, attributes);
            batch.push(RouteNetlinkMessage::NewLink(change), 0);
        }
        Op::SetPort { link, flags } => {
            let change = link::port(LinkBridgePort::new(resolve(link)?.get()), flags);
            batch.push(RouteNetlinkMessage::NewLink(change.build()), 0);
        }
        Op::DeleteLink { link } => {
            let message = LinkUnspec::new_with_index(resolve(link)?.get()).build();
            batch.push(RouteNetlinkMessage::DelLink(message), 0);
        }
        Op::Fdb {
            action,
            link,
            entry,
            vni,
        } => entry::push_neighbour(*action, entry::forwarding(resolve(link)?, entry, *vni), batch),
        Op::Vlan { action, link, row } => {
            return vlan::push_vlan(word, *action, resolve(link)?, row, batch);
        }
        Op::Vni { action, link, row } => return vlan::push_vni(word, *action, resolve(link)?, row, batch),
        Op::Neighbour { action, link, entry } => {
            entry::push_neighbour(*action, entry::neighbour(resolve(link)?, entry), batch)
        }
        Op::Address { action, link, record } => {
            return entry::push_address(word, *action, resolve(link)?, record, batch);
        }
        Op::Readdress { steps, .. } => {
            for step in steps {
                self::op(step, resolve, batch)?;
            }
        }
        Op::Route { action, record } => return entry::push_route(word, *action, record, batch),
        Op::DisableIpv6 { .. }
        | Op::Guard { .. }
        | Op::GuardTable(_)
        | Op::Sysctls(_)
        | Op::Ruleset(_)
        | Op::Announce { .. } => {
            return Err(Error::Inexpressible {
                op: word,
                problem: "not a request of rtnetlink",
            });
        }
    }
    Ok(())
}

/// What the op wants, for the meaning of its errno.
pub const fn goal(op: &Op) -> Goal {
    match op {
        Op::CreateBridge { .. } | Op::CreateVlan { .. } | Op::CreateVxlan { .. } => Goal::Create,
        Op::DeleteLink { .. } => Goal::Delete,
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
        Op::GuardTable(GuardTable::Remove) => Goal::Delete,
        Op::Guard { .. }
        | Op::GuardTable(_)
        | Op::SetLink { .. }
        | Op::SetBridge { .. }
        | Op::SetVxlan { .. }
        | Op::SetPort { .. }
        | Op::DisableIpv6 { .. }
        | Op::Ruleset(_)
        | Op::Sysctls(_)
        | Op::Readdress { .. }
        | Op::Announce { .. } => Goal::Change,
    }
}

/// Names of ours are UTF-8; the builders take nothing else.
fn text<'a>(op: &'static str, name: &'a LinkName) -> Result<&'a str, Error> {
    std::str::from_utf8(name.as_bytes()).map_err(|_| Error::Inexpressible {
        op,
        problem: "the name of a device to make is not UTF-8",
    })
}
