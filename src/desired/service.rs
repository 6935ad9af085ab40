//! What a network's DHCP, DNS and RA server has to say, in the model's words. How dnsmasq is told is `service`'s matter.
//!
//! Everything comes from the configuration alone (the network's gateway, the ports mapped to it): a tap that comes or
//! goes changes nothing here.

use super::port::selector_text;
use super::{Desired, aware};
use crate::model::gateway::{Gateway, Router};
use crate::model::{LinkName, Mac, Mtu, Network, PortMapping};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// One network's server.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ServiceWant {
    /// The bridge; nothing is answered anywhere else.
    pub interface: LinkName,
    /// The gateway's prefixes, in order.
    pub prefixes: Vec<ServedPrefix>,
    /// `None`: for ever.
    pub lease_time: Option<Duration>,
    /// Servers that names outside the network are asked from; `None`: those of the host; empty: none.
    pub dns_servers: Option<Vec<IpAddr>>,
    pub domain: Option<Box<str>>,
    /// Told to guests, bytes.
    pub mtu: Option<u32>,
    /// The default router of DHCPv4.
    pub router: Option<Ipv4Addr>,
    /// Classless static routes of DHCPv4: destination, prefix length, router.
    pub routes: Vec<(Ipv4Addr, u8, Ipv4Addr)>,
    /// Router advertisements.
    pub advertise: Option<Advertise>,
    /// No other server answers on this network: a client's old address is refused at once instead of ignored.
    pub authoritative: bool,
    /// By a name that is unique in the network and stays the same as long as the port does.
    pub reservations: BTreeMap<Box<str>, Reservation>,
}

/// A prefix of the bridge in which addresses are given out.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ServedPrefix {
    /// The host's own address in it: where guests find DNS.
    pub address: IpAddr,
    pub length: u8,
    /// Leases for machines without a reservation; empty: reservations only.
    pub ranges: Vec<(IpAddr, IpAddr)>,
    /// DHCP is served; otherwise only router advertisements and DNS.
    pub dhcp: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Advertise {
    /// Machines make addresses of their own in the prefixes.
    pub slaac: bool,
    pub interval: Duration,
    pub lifetime: Duration,
}

/// What one port's machine gets.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reservation {
    pub mac: Mac,
    /// At most one of IPv4 (nova's rule: the first), any number of IPv6.
    pub addresses: Vec<IpAddr>,
    pub hostname: Option<Box<str>>,
}

/// Whether a network has a server at all.
pub fn is_asked_for(network: &Network) -> bool {
    network
        .gateway
        .as_ref()
        .is_some_and(|g| g.dhcp.is_some() || g.ra.is_some())
}

/// `ports`: those mapped to the network. `mtu`: the network's as it stands. `None`: nothing is to be served, or not in this
/// way of building bridges (all networks on one).
pub fn derive_service(
    desired: &Desired,
    network: &Network,
    mtu: Option<Mtu>,
    ports: &[&PortMapping],
) -> Option<ServiceWant> {
    let gateway = network.gateway.as_ref().filter(|_| is_asked_for(network))?;
    if aware::shared_bridge(desired, network).is_some() {
        return None;
    }
    let interface = desired.bridge_name(network)?;
    let dhcp = gateway.dhcp.clone();
    let serves = |ipv4: bool| match (&dhcp, gateway.ra) {
        (Some(_), _) => true,
        // Machines that make no addresses of their own need to be told theirs.
        (None, Some(ra)) => !ipv4 && !ra.slaac,
        (None, None) => false,
    };
    let prefixes = gateway
        .addresses
        .iter()
        .map(|own| ServedPrefix {
            address: own.address(),
            length: own.length(),
            ranges: dhcp
                .iter()
                .flat_map(|d| &d.ranges)
                .filter(|range| own.contains(range.first))
                .map(|range| (range.first, range.last))
                .collect(),
            dhcp: serves(own.is_ipv4()),
        })
        .collect();
    let dhcp = dhcp.unwrap_or_default();
    let host = gateway.first4().map(|own| own.address()).and_then(v4);
    let router = match dhcp.router {
        Router::Host => host,
        Router::Other(router) => Some(router),
        Router::None => None,
    };
    let told = dhcp.routes.iter().filter_map(|route| {
        let destination = v4(route.destination.address())?;
        Some((destination, route.destination.length(), route.via))
    });
    // Metadata is behind this host; whoever has another router must be told.
    let metadata = host
        .filter(|host| gateway.metadata.is_some() && router != Some(*host))
        .map(|host| (Gateway::METADATA, 32, host));
    Some(ServiceWant {
        interface,
        prefixes,
        lease_time: dhcp.lease_time,
        dns_servers: dhcp.dns_servers.clone(),
        domain: dhcp.domain.as_ref().map(|domain| domain.as_str().into()),
        mtu: dhcp.mtu.or(mtu).map(Mtu::get),
        router,
        routes: told.chain(metadata).collect(),
        advertise: gateway.ra.map(|ra| Advertise {
            slaac: ra.slaac,
            interval: ra.interval,
            lifetime: ra.lifetime,
        }),
        // Elsewhere on a network that leaves the host another server may know what this one does not.
        authoritative: matches!(network.segment, crate::model::Segment::Local) || gateway.share_dhcp_address,
        reservations: without_duplicates(ports.iter().filter_map(|port| {
            let reservation = Reservation {
                mac: port.mac?,
                addresses: port
                    .addresses
                    .iter()
                    .copied()
                    .filter(|address| gateway.holding(*address).is_some())
                    .collect(),
                hostname: port.hostname.as_ref().map(|name| name.as_str().into()),
            };
            let name = port
                .id
                .as_ref()
                .map_or_else(|| selector_text(&port.tap), ToString::to_string);
            Some((name.into(), reservation))
        })),
    })
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// Drops what cannot be served twice: of several IPv4 addresses of one machine the first counts, of several machines
/// with the same MAC address or the same address the first. Order is the order of the ports' names.
pub fn without_duplicates(
    wanted: impl IntoIterator<Item = (Box<str>, Reservation)>,
) -> BTreeMap<Box<str>, Reservation> {
    let mut macs = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    let sorted: BTreeMap<Box<str>, Reservation> = wanted.into_iter().collect();
    sorted
        .into_iter()
        .filter_map(|(name, mut reservation)| {
            if !macs.insert(reservation.mac) {
                return None;
            }
            let mut has_v4 = false;
            reservation.addresses.retain(|address| {
                let second = address.is_ipv4() && std::mem::replace(&mut has_v4, true);
                !second && addresses.insert(*address)
            });
            Some((name, reservation))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reservation(mac: u8, addresses: &[&str]) -> Reservation {
        Reservation {
            mac: Mac::new([0x52, 0x54, 0, 0, 0, mac]),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            hostname: None,
        }
    }

    #[test]
    fn of_two_machines_with_one_mac_address_the_first_is_served() {
        let kept = without_duplicates([
            ("b".into(), reservation(1, &["10.0.0.6"])),
            ("a".into(), reservation(1, &["10.0.0.5"])),
        ]);
        assert_eq!(kept.len(), 1);
        assert_eq!(kept["a"].addresses, ["10.0.0.5".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn one_ipv4_address_a_machine_and_one_machine_an_address() {
        let kept = without_duplicates([
            (
                "a".into(),
                reservation(1, &["10.0.0.5", "fd00::5", "10.0.0.7", "fd00::6"]),
            ),
            ("b".into(), reservation(2, &["fd00::6", "10.0.0.7"])),
        ]);
        let of = |name: &str| {
            kept[name]
                .addresses
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(of("a"), ["10.0.0.5", "fd00::5", "fd00::6"]);
        assert_eq!(of("b"), ["10.0.0.7"]);
    }
}
