//! Addresses and routes, as far as a move between two devices needs them.

use super::record::{self, gateway, out_of};
use super::{Answer, Kernel, refuse};
use std::net::IpAddr;
use tapwire::model::Ifindex;
use tapwire::model::record::{AddressRecord, RouteRecord};
use tapwire::observed::Change;
use tapwire::plan::address_move::address_of;
use tapwire::plan::op::ListAction;

const ONLINK: u32 = 4;

impl Kernel {
    pub fn address(&mut self, action: ListAction, index: Ifindex, asked: &AddressRecord) -> Answer {
        let Some(device) = self.device_mut(index) else {
            return refuse(libc::ENODEV, "");
        };
        let six = asked.family == record::AF_INET6;
        if six && device.link.ipv6_disabled == Some(true) && action != ListAction::Delete {
            return refuse(libc::EACCES, "IPv6 is disabled on this device");
        }
        let same = |have: &AddressRecord| {
            have.family == asked.family
                && address_of(have) == address_of(asked)
                && have.prefix_len == asked.prefix_len
        };
        let at = device.addresses.iter().position(same);
        let Some(address) = address_of(asked) else {
            return refuse(libc::EINVAL, "");
        };
        match (action, at) {
            (ListAction::Delete, None) => refuse(libc::EADDRNOTAVAIL, ""),
            (ListAction::Delete, Some(at)) => {
                let gone = device.addresses.remove(at);
                let first = !device
                    .addresses
                    .iter()
                    .take(at)
                    .any(|other| same_subnet(other, &gone));
                // Without promote_secondaries a primary takes the secondaries of its subnet along (`__inet_del_ifa`).
                let along: Vec<AddressRecord> = if six || !first {
                    Vec::new()
                } else {
                    device
                        .addresses
                        .extract_if(.., |other| same_subnet(other, &gone))
                        .collect()
                };
                self.tell_address(index, address, None, false);
                for secondary in along.iter().filter_map(address_of) {
                    self.tell_address(index, secondary, None, false);
                }
                Ok(())
            }
            (ListAction::Replace, Some(at)) => {
                if let Some(have) = device.addresses.get_mut(at) {
                    *have = asked.clone();
                }
                Ok(())
            }
            (_, Some(_)) => refuse(libc::EEXIST, ""),
            (_, None) => {
                let mut new = asked.clone();
                new.ifindex = index.get();
                if !six && device.addresses.iter().any(|other| same_subnet(other, &new)) {
                    record::make_secondary(&mut new);
                }
                device.addresses.push(new);
                self.tell_address(index, address, asked.own(), true);
                Ok(())
            }
        }
    }

    pub fn route(&mut self, action: ListAction, asked: &RouteRecord) -> Answer {
        let at = self.routes.iter().position(|have| have == asked);
        if action == ListAction::Delete {
            return match at {
                Some(at) => {
                    self.routes.remove(at);
                    Ok(())
                }
                None => refuse(libc::ESRCH, ""),
            };
        }
        let Some(device) = out_of(asked).and_then(|index| self.device(index)) else {
            return refuse(libc::ENODEV, "");
        };
        if !device.link.up {
            return refuse(libc::ENETDOWN, "");
        }
        // `fib_check_nh`: a gateway is reached through an address of the same device.
        if let Some(gateway) = gateway(asked)
            && asked.flags & ONLINK == 0
            && !device.addresses.iter().any(|a| covers(a, gateway))
        {
            return refuse(libc::ENETUNREACH, "Nexthop has invalid gateway");
        }
        match (action, at) {
            (ListAction::Replace, Some(_)) => Ok(()),
            (_, Some(_)) => refuse(libc::EEXIST, ""),
            (_, None) => {
                // An IPv6 route of the same destination, metric and table gives its place (`fib6_add_rt2node`).
                if action == ListAction::Replace && asked.family == record::AF_INET6 {
                    self.routes.retain(|have| !record::same_place(have, asked));
                }
                self.routes.push(asked.clone());
                Ok(())
            }
        }
    }

    /// A device goes: its addresses and the routes through it go too.
    pub(super) fn forget_addresses(&mut self, index: Ifindex) {
        let gone: Vec<IpAddr> = self
            .device(index)
            .into_iter()
            .flat_map(|d| d.addresses.iter().filter_map(address_of))
            .collect();
        for address in gone {
            self.tell_address(index, address, None, false);
        }
        if let Some(device) = self.device_mut(index) {
            device.addresses.clear();
        }
        self.routes.retain(|route| out_of(route) != Some(index));
    }

    /// `disable_ipv6=1` takes the device's IPv6 addresses and routes away.
    pub(super) fn forget_ipv6(&mut self, index: Ifindex) {
        let Some(device) = self.device_mut(index) else {
            return;
        };
        let gone: Vec<IpAddr> = device
            .addresses
            .extract_if(.., |record| record.family == record::AF_INET6)
            .filter_map(|record| address_of(&record))
            .collect();
        for address in gone {
            self.tell_address(index, address, None, false);
        }
        self.routes
            .retain(|route| route.family != record::AF_INET6 || out_of(route) != Some(index));
    }

    fn tell_address(&mut self, index: Ifindex, address: IpAddr, own: Option<u8>, present: bool) {
        self.addresses.push_back(Change::Address {
            index,
            address,
            own: own.filter(|_| present),
            present,
        });
    }
}

fn same_subnet(a: &AddressRecord, b: &AddressRecord) -> bool {
    a.family == b.family && a.prefix_len == b.prefix_len && address_of(b).is_some_and(|ip| covers(a, ip))
}

fn covers(record: &AddressRecord, ip: IpAddr) -> bool {
    match (address_of(record), ip) {
        (Some(IpAddr::V4(have)), IpAddr::V4(ip)) => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(record.prefix_len))
                .unwrap_or(0);
            u32::from(have) & mask == u32::from(ip) & mask
        }
        (Some(IpAddr::V6(have)), IpAddr::V6(ip)) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(record.prefix_len))
                .unwrap_or(0);
            u128::from(have) & mask == u128::from(ip) & mask
        }
        _ => false,
    }
}
