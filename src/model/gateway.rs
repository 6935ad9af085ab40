//! What a network asks of its host besides wiring: addresses, address translation, DHCP, DNS, router advertisements,
//! metadata, floating addresses (nova-network's words where it had them).
//!
//! Kept behind one box in `Network`: a network that asks for nothing is as small as before.

use super::cidr::Cidr;
use super::dns::Domain;
use super::ids::Mtu;
use super::name::LinkName;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// The gateway half of a network. `Default` asks for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Gateway {
    /// Addresses of the bridge, in this order before all others; no two prefixes overlap.
    pub addresses: Vec<Cidr>,
    pub snat: Option<Snat>,
    /// Ranges that guests reach with their own addresses.
    pub dmz: Vec<Cidr>,
    /// Ranges that are reached by SNAT although guests use another router.
    pub force_snat_range: Vec<Cidr>,
    pub forward: Forward,
    /// The first address is the same on every host that has this network: it must not be heard on the uplink.
    pub share_dhcp_address: bool,
    /// Where requests to 169.254.169.254:80 go.
    pub metadata: Option<SocketAddr>,
    pub dhcp: Option<Dhcp>,
    pub ra: Option<RouterAdvertisement>,
    pub floating_ips: Vec<FloatingIp>,
    pub port_forwards: Vec<PortForward>,
}

impl Gateway {
    /// What every guest asks for metadata (nova's and EC2's fixed address).
    pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
    pub const METADATA_PORT: u16 = 80;

    pub fn addresses4(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.addresses.iter().copied().filter(Cidr::is_ipv4)
    }
    pub fn addresses6(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.addresses.iter().copied().filter(|a| !a.is_ipv4())
    }
    /// The first IPv4 address: where guests find DHCP and DNS.
    pub fn first4(&self) -> Option<Cidr> {
        self.addresses4().next()
    }
    pub fn first6(&self) -> Option<Cidr> {
        self.addresses6().next()
    }
    /// Prefixes in which machines make addresses of their own.
    pub fn slaac_prefixes(&self) -> impl Iterator<Item = Cidr> + '_ {
        let advertised = self.ra.is_some_and(|ra| ra.slaac);
        self.addresses6().filter(move |_| advertised)
    }
    /// The gateway address in whose prefix `address` lies.
    pub fn holding(&self, address: IpAddr) -> Option<Cidr> {
        self.addresses.iter().copied().find(|a| a.contains(address))
    }
    /// Guests are told another router than this host (nova's external gateway): of their traffic only
    /// `force_snat_range` is translated here.
    pub fn has_external_router(&self) -> bool {
        match self.dhcp.as_ref().map(|d| d.router) {
            Some(Router::Other(router)) => self.addresses.iter().all(|a| a.address() != IpAddr::V4(router)),
            Some(Router::None) => true,
            Some(Router::Host) | None => false,
        }
    }
    /// Whether this host passes packets between the network and elsewhere.
    pub fn routes(&self, ipv4: bool) -> bool {
        self.addresses.iter().any(|a| a.is_ipv4() == ipv4)
    }
}

/// Source address translation of what guests send out of their network.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Snat {
    /// Only what leaves here; absent: whatever leaves elsewhere than by the network's own bridge.
    pub interface: Option<LinkName>,
    pub v4: Option<SnatTo<Ipv4Addr>>,
    pub v6: Option<SnatTo<Ipv6Addr>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum SnatTo<A> {
    /// The address of the interface it leaves by.
    Masquerade,
    Address(A),
}

/// Which interfaces packets of the network may pass to and from (nova's `forward_bridge_interface`). Packets from one
/// machine of the network to another are never concerned.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Forward {
    #[default]
    All,
    /// Sorted, without duplicates; empty: none.
    Only(Vec<LinkName>),
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Dhcp {
    /// Given to machines without a reservation; empty: reservations only (nova's way).
    pub ranges: Vec<DhcpRange>,
    /// `None`: for ever. At least two minutes (dnsmasq's limit).
    pub lease_time: Option<Duration>,
    /// Servers that names outside the network are asked from; `None`: those of the host; empty: none.
    pub dns_servers: Option<Vec<IpAddr>>,
    pub domain: Option<Domain>,
    /// Told to guests; absent: the network's own.
    pub mtu: Option<Mtu>,
    pub routes: Vec<DhcpRoute>,
    pub router: Router,
}

impl Dhcp {
    pub const LEASE_TIME: Duration = Duration::from_secs(86_400);
}

impl Default for Dhcp {
    fn default() -> Self {
        Self {
            ranges: Vec::new(),
            lease_time: Some(Self::LEASE_TIME),
            dns_servers: None,
            domain: None,
            mtu: None,
            routes: Vec::new(),
            router: Router::Host,
        }
    }
}

/// First and last address, of one family, inside one of the gateway's prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DhcpRange {
    pub first: IpAddr,
    pub last: IpAddr,
}

/// A classless static route (RFC 3442).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DhcpRoute {
    pub destination: Cidr,
    pub via: Ipv4Addr,
}

/// The default router that guests are told by DHCPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Router {
    /// The first gateway address.
    #[default]
    Host,
    Other(Ipv4Addr),
    None,
}

/// IPv6 router advertisements for the gateway's IPv6 prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RouterAdvertisement {
    /// Machines make addresses of their own in the prefix (SLAAC).
    pub slaac: bool,
    /// Between two unasked advertisements, whole seconds, 4 to 1800 (RFC 4861).
    pub interval: Duration,
    /// How long this host is a default router, whole seconds, 0 (is none) to 9000.
    pub lifetime: Duration,
}

impl Default for RouterAdvertisement {
    fn default() -> Self {
        Self {
            slaac: true,
            interval: Duration::from_secs(600),
            lifetime: Duration::from_secs(1800),
        }
    }
}

/// An address of the outside that stands for one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct FloatingIp {
    pub address: IpAddr,
    /// The machine's own; of the same family.
    pub fixed_address: IpAddr,
    /// Carries the floating address.
    pub interface: LinkName,
}

/// One port of an address of this host that leads to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct PortForward {
    pub protocol: Protocol,
    /// Must be on this host already; nothing is added.
    pub address: IpAddr,
    pub port: u16,
    pub fixed_address: IpAddr,
    pub fixed_port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn a_router_elsewhere_makes_the_gateway_external() {
        let mut gateway = Gateway {
            addresses: vec![cidr("10.0.0.2/24")],
            ..Gateway::default()
        };
        assert!(!gateway.has_external_router());
        let router = |router| {
            Some(Dhcp {
                router,
                ..Dhcp::default()
            })
        };
        gateway.dhcp = router(Router::Other(Ipv4Addr::new(10, 0, 0, 254)));
        assert!(gateway.has_external_router());
        gateway.dhcp = router(Router::Other(Ipv4Addr::new(10, 0, 0, 2)));
        assert!(!gateway.has_external_router());
    }
}
