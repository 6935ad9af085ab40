//! A network's wishes in dnsmasq's words: one configuration file, and for each port a line for DHCP and lines for DNS.
//!
//! Everything is in files of the network's own: no option can reach another network (nova appended one network's DNS
//! servers to a global list), the command line stays the same, and a restart is needed exactly when the configuration
//! file's text changes. `dhcp-hostsdir` and `hostsdir` are watched by dnsmasq itself: a file that is renamed in is read
//! at once. It is never sent SIGHUP: 2.90 crashes on it.

use super::files::Layout;
use crate::desired::service::{Reservation, ServedPrefix, ServiceWant};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

/// Leases that one prefix may use up at most; a prefix can be larger than memory.
const MOST_LEASES: u64 = 65_536;

/// The configuration file. Writing into a string cannot fail, so the results of `write!` are not looked at.
pub fn configuration(want: &ServiceWant, layout: &Layout) -> String {
    let mut text = String::with_capacity(1024);
    let interface = want.interface.to_text();
    // In the foreground because it is supervised; as whoever starts it, whose rights are cut before (`process`); log on
    // stderr.
    let _ = write!(
        text,
        "# Written by tapwire; changes are undone.\n\
         keep-in-foreground\nuser=\ngroup=\npid-file=\nlog-facility=-\n\
         quiet-dhcp\nquiet-dhcp6\nquiet-ra\n\
         bind-interfaces\ninterface={interface}\nexcept-interface=lo\n\
         no-hosts\nhostsdir={}\n",
        layout.names().display()
    );
    match &want.dns_servers {
        None => {}
        Some(servers) => {
            text.push_str("no-resolv\n");
            for server in servers {
                let _ = writeln!(text, "server={server}");
            }
        }
    }
    if let Some(domain) = &want.domain {
        let _ = writeln!(text, "domain={domain}\nlocal=/{domain}/\nexpand-hosts");
    }
    if want.prefixes.iter().any(|prefix| prefix.dhcp) {
        dhcp(&mut text, want, layout);
    }
    for prefix in &want.prefixes {
        range(&mut text, want, prefix);
    }
    if let Some(advertise) = &want.advertise {
        let mtu = want.mtu.map_or_else(String::new, |mtu| format!("mtu:{mtu},"));
        let _ = writeln!(
            text,
            "enable-ra\nra-param={interface},{mtu}{},{}",
            advertise.interval.as_secs(),
            advertise.lifetime.as_secs()
        );
    }
    text
}

fn dhcp(text: &mut String, want: &ServiceWant, layout: &Layout) {
    let leases: u64 = want.prefixes.iter().filter(|p| p.dhcp).map(capacity).sum();
    let _ = write!(
        text,
        "dhcp-hostsdir={}\ndhcp-leasefile={}\ndhcp-lease-max={leases}\ndhcp-script={}\n",
        layout.hosts().display(),
        layout.leases().display(),
        layout.script().display()
    );
    if want.authoritative {
        text.push_str("dhcp-authoritative\n");
    }
    if !want.prefixes.iter().any(|p| p.dhcp && p.address.is_ipv4()) {
        return;
    }
    // An option without a value is not sent at all, not even dnsmasq's default (its own address).
    let _ = match want.router {
        Some(router) => writeln!(text, "dhcp-option=option:router,{router}"),
        None => writeln!(text, "dhcp-option=option:router"),
    };
    if let Some(mtu) = want.mtu {
        let _ = writeln!(text, "dhcp-option=option:mtu,{mtu}");
    }
    if !want.routes.is_empty() {
        text.push_str("dhcp-option=option:classless-static-route");
        // A client that takes this option must ignore the router option (RFC 3442), so the default route is repeated.
        let default = want.router.map(|router| (Ipv4Addr::UNSPECIFIED, 0, router));
        for (destination, length, via) in want.routes.iter().copied().chain(default) {
            let _ = write!(text, ",{destination}/{length},{via}");
        }
        text.push('\n');
    }
}

fn range(text: &mut String, want: &ServiceWant, prefix: &ServedPrefix) {
    let lease = lease_time(want.lease_time);
    let slaac = want.advertise.is_some_and(|advertise| advertise.slaac);
    let _ = match (prefix.address, prefix.dhcp) {
        (IpAddr::V4(_), false) => Ok(()),
        (IpAddr::V4(address), true) => {
            let mask = Ipv4Addr::from(!u32::MAX.checked_shr(u32::from(prefix.length)).unwrap_or(0));
            if prefix.ranges.is_empty() {
                let network = Ipv4Addr::from(u32::from(address) & u32::from(mask));
                let _ = writeln!(text, "dhcp-range={network},static,{mask},{lease}");
            }
            prefix
                .ranges
                .iter()
                .try_for_each(|(first, last)| writeln!(text, "dhcp-range={first},{last},{mask},{lease}"))
        }
        (IpAddr::V6(address), dhcp) => {
            let mode = if slaac { "slaac," } else { "" };
            let length = prefix.length;
            let host = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
            let network = std::net::Ipv6Addr::from(u128::from(address) & !host);
            if !dhcp {
                let _ = writeln!(text, "dhcp-range={network},ra-only,{length},{lease}");
            } else if prefix.ranges.is_empty() {
                let _ = writeln!(text, "dhcp-range={network},static,{mode}{length},{lease}");
            }
            prefix.ranges.iter().try_for_each(|(first, last)| {
                writeln!(text, "dhcp-range={first},{last},{mode}{length},{lease}")
            })
        }
    };
}

/// How many leases a prefix can hold: dnsmasq's own limit (150, later 1,000) is none of its size.
fn capacity(prefix: &ServedPrefix) -> u64 {
    let bits = if prefix.address.is_ipv4() { 32 } else { 128 };
    let host = u32::from(bits - prefix.length.min(bits));
    1_u64.checked_shl(host).unwrap_or(MOST_LEASES).min(MOST_LEASES)
}

fn lease_time(time: Option<Duration>) -> String {
    time.map_or_else(|| "infinite".to_owned(), |time| time.as_secs().to_string())
}

/// The line of a port's file in `dhcp-hostsdir`; `None` when there is nothing to reserve.
pub fn reservation(reservation: &Reservation) -> Option<String> {
    if reservation.addresses.is_empty() && reservation.hostname.is_none() {
        return None;
    }
    let mut text = reservation.mac.to_string();
    for address in &reservation.addresses {
        let _ = match address {
            IpAddr::V4(address) => write!(text, ",{address}"),
            IpAddr::V6(address) => write!(text, ",[{address}]"),
        };
    }
    if let Some(hostname) = &reservation.hostname {
        let _ = write!(text, ",{hostname}");
    }
    text.push('\n');
    Some(text)
}

/// The lines of a port's file in `hostsdir`: its name, known whether or not it ever asked for a lease.
pub fn names(reservation: &Reservation) -> Option<String> {
    let hostname = reservation.hostname.as_ref()?;
    let mut text = String::new();
    for address in &reservation.addresses {
        let _ = writeln!(text, "{address} {hostname}");
    }
    (!text.is_empty()).then_some(text)
}

/// What dnsmasq is started with; the rest is in the file.
pub fn arguments(layout: &Layout) -> Vec<std::ffi::OsString> {
    vec![argument(&layout.configuration())]
}

/// By this a process is recognised as ours.
pub fn argument(configuration: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from("--conf-file=");
    argument.push(configuration);
    argument
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::service::Advertise;
    use crate::model::{LinkName, Mac};
    use std::collections::BTreeMap;

    fn want() -> ServiceWant {
        ServiceWant {
            interface: LinkName::new("brqblue").unwrap(),
            prefixes: vec![ServedPrefix {
                address: "10.0.0.1".parse().unwrap(),
                length: 24,
                ranges: Vec::new(),
                dhcp: true,
            }],
            lease_time: Some(Duration::from_secs(86_400)),
            dns_servers: Some(Vec::new()),
            domain: None,
            mtu: None,
            router: Some(Ipv4Addr::new(10, 0, 0, 1)),
            routes: Vec::new(),
            advertise: None,
            authoritative: false,
            reservations: BTreeMap::new(),
        }
    }

    fn lines(want: &ServiceWant) -> Vec<String> {
        let layout = Layout::new(Path::new("/s/dhcp/blue"));
        configuration(want, &layout).lines().map(str::to_owned).collect()
    }

    #[test]
    fn without_ranges_only_reservations_are_served_and_the_lease_limit_is_the_prefix() {
        let lines = lines(&want());
        for line in [
            "interface=brqblue",
            "bind-interfaces",
            "no-hosts",
            "no-resolv",
            "dhcp-range=10.0.0.0,static,255.255.255.0,86400",
            "dhcp-lease-max=256",
            "dhcp-option=option:router,10.0.0.1",
            "dhcp-hostsdir=/s/dhcp/blue/hosts",
            "dhcp-leasefile=/s/dhcp/blue/leases",
        ] {
            assert!(lines.iter().any(|l| l == line), "{line} in {lines:#?}");
        }
        assert!(!lines.iter().any(|l| l.starts_with("server=") || l == "enable-ra"));
    }

    #[test]
    fn routes_repeat_the_default_router_because_clients_ignore_the_other_option_then() {
        let mut want = want();
        want.routes = vec![(Ipv4Addr::new(192, 0, 2, 0), 24, Ipv4Addr::new(10, 0, 0, 9))];
        assert!(lines(&want).iter().any(
            |l| l == "dhcp-option=option:classless-static-route,192.0.2.0/24,10.0.0.9,0.0.0.0/0,10.0.0.1"
        ));
        want.router = None;
        let lines = lines(&want);
        assert!(
            lines
                .iter()
                .any(|l| l == "dhcp-option=option:classless-static-route,192.0.2.0/24,10.0.0.9")
        );
        assert!(lines.iter().any(|l| l == "dhcp-option=option:router"));
    }

    #[test]
    fn ipv6_is_by_reservation_and_slaac_as_asked() {
        let mut want = want();
        want.lease_time = None;
        want.mtu = Some(1400);
        want.prefixes.push(ServedPrefix {
            address: "fd00:20::1".parse().unwrap(),
            length: 64,
            ranges: Vec::new(),
            dhcp: true,
        });
        want.advertise = Some(Advertise {
            slaac: true,
            interval: Duration::from_secs(600),
            lifetime: Duration::from_secs(1800),
        });
        let slaac = lines(&want);
        for line in [
            "dhcp-range=fd00:20::,static,slaac,64,infinite",
            "enable-ra",
            "ra-param=brqblue,mtu:1400,600,1800",
            "dhcp-option=option:mtu,1400",
        ] {
            assert!(slaac.iter().any(|l| l == line), "{line} in {slaac:#?}");
        }
        want.prefixes[1].dhcp = false;
        want.advertise = want.advertise.map(|a| Advertise { slaac: false, ..a });
        assert!(
            lines(&want)
                .iter()
                .any(|l| l == "dhcp-range=fd00:20::,ra-only,64,infinite")
        );
    }

    #[test]
    fn ranges_take_the_place_of_static_and_hosts_servers_are_the_default() {
        let mut want = want();
        want.dns_servers = None;
        want.domain = Some("blue.example".into());
        want.prefixes[0].ranges = vec![("10.0.0.100".parse().unwrap(), "10.0.0.199".parse().unwrap())];
        let lines = lines(&want);
        assert!(
            lines
                .iter()
                .any(|l| l == "dhcp-range=10.0.0.100,10.0.0.199,255.255.255.0,86400")
        );
        assert!(!lines.iter().any(|l| l.contains("static,") || l == "no-resolv"));
        assert!(lines.iter().any(|l| l == "local=/blue.example/"));
    }

    #[test]
    fn a_port_is_one_line_for_dhcp_and_a_line_an_address_for_dns() {
        let port = Reservation {
            mac: Mac::new([0x52, 0x54, 0, 0, 0, 1]),
            addresses: vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            hostname: Some("vm1".into()),
        };
        assert_eq!(
            reservation(&port).unwrap(),
            "52:54:00:00:00:01,10.0.0.5,[fd00::5],vm1\n"
        );
        assert_eq!(names(&port).unwrap(), "10.0.0.5 vm1\nfd00::5 vm1\n");
        let silent = Reservation {
            hostname: None,
            ..port.clone()
        };
        assert_eq!(names(&silent), None);
        let unknown = Reservation {
            addresses: Vec::new(),
            ..silent
        };
        assert_eq!(reservation(&unknown), None);
    }
}
