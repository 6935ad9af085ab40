//! dnsmasq's lease file, read and shortened while no dnsmasq runs.
//!
//! A line is `expiry hardware-address address name client-id`; after a line `duid ...` follow those of DHCPv6, with an
//! identity association instead of the hardware address. dnsmasq keeps a lease until it runs out, whatever became of
//! its reservation, and refuses the address to everybody else meanwhile; so leases without a right to their address are
//! taken out before it starts.

use super::Error;
use super::files::{self, Layout};
use crate::desired::service::ServiceWant;
use crate::model::{Mac, NetworkId};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A lease as dnsmasq keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub address: IpAddr,
    /// DHCPv6 keeps none.
    pub mac: Option<Mac>,
    pub hostname: Option<String>,
    /// Seconds since 1970; `None`: for ever.
    pub expires: Option<u64>,
}

/// The leases of a network, in the order of their addresses. Blocks.
pub fn held(directory: &Path, network: &NetworkId) -> Result<Vec<Held>, Error> {
    let path = Layout::of(directory, network).leases();
    match fs::read_to_string(&path) {
        Ok(text) => Ok(held_in(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

fn held_in(text: &str) -> Vec<Held> {
    let mut held: Vec<Held> = entries(text)
        .filter_map(|(_, entry)| {
            let entry = entry?;
            Some(Held {
                address: entry.address,
                mac: entry.mac,
                hostname: entry.hostname(),
                expires: Some(entry.expires).filter(|at| *at != 0),
            })
        })
        .collect();
    held.sort_by_key(|lease| lease.address);
    held
}

/// The lines, each with the lease that it is, if it is one.
fn entries(text: &str) -> impl Iterator<Item = (&str, Option<Entry<'_>>)> {
    let mut v6 = false;
    text.lines().map(move |line| {
        v6 |= line.starts_with("duid ");
        (line, Entry::read(line, v6))
    })
}

/// A lease that was taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    pub address: IpAddr,
    pub mac: Option<Mac>,
    pub hostname: Option<String>,
}

/// The lease file without those that have lost their right, and these. `before` and `now` are the ports' lines for
/// DHCP that the last dnsmasq knew and that the next one will.
pub fn retain(
    text: &str,
    want: &ServiceWant,
    before: &BTreeMap<String, String>,
    now: &BTreeMap<String, String>,
) -> (String, Vec<Released>) {
    let rights = Rights::new(want, before, now);
    let mut kept = String::with_capacity(text.len());
    let mut released = Vec::new();
    for (line, entry) in entries(text) {
        match entry {
            Some(entry) if !rights.keeps(&entry) => released.push(Released {
                address: entry.address,
                mac: entry.mac,
                hostname: entry.hostname(),
            }),
            // Also what cannot be read: dnsmasq knows better what it means.
            _ => {
                kept.push_str(line);
                kept.push('\n');
            }
        }
    }
    (kept, released)
}

/// dnsmasq holds its lease file open and writes on into it when somebody removes it, or moves it away with its directory.
/// Puts what it holds back into its place, so that the next one finds it.
pub fn rescue(layout: &Layout, pid: u32) {
    let place = layout.leases();
    if place.exists() {
        return;
    }
    let open = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    // No other file that it opens has this name.
    let is_it = |target: PathBuf| {
        let target = target.to_string_lossy();
        let target = target.strip_suffix(" (deleted)").unwrap_or(&target);
        Path::new(target).file_name() == place.file_name()
    };
    let held = open
        .map(|entry| entry.path())
        .find(|path| fs::read_link(path).is_ok_and(is_it));
    if let Some(text) = held.and_then(|path| fs::read_to_string(path).ok()) {
        // If it cannot be written the leases are lost, and the start says why.
        let _ = layout
            .make_root()
            .and_then(|()| files::write(layout, &place, &text));
    }
}

struct Entry<'a> {
    expires: u64,
    mac: Option<Mac>,
    address: IpAddr,
    name: &'a str,
}

impl<'a> Entry<'a> {
    fn read(line: &'a str, v6: bool) -> Option<Self> {
        let mut words = line.split(' ');
        let expires = words.next()?.parse().ok()?;
        let identity = words.next()?;
        Some(Self {
            expires,
            mac: if v6 { None } else { identity.parse().ok() },
            address: words.next()?.parse().ok()?,
            name: words.next()?,
        })
    }

    fn hostname(&self) -> Option<String> {
        (self.name != "*").then(|| self.name.to_owned())
    }
}

struct Rights<'a> {
    want: &'a ServiceWant,
    /// Whose an address is.
    owners: BTreeMap<IpAddr, Mac>,
    /// Machines with a reserved IPv4 address: they get no other.
    reserved: BTreeSet<Mac>,
    /// What was reserved and no longer is.
    freed: BTreeSet<(Mac, IpAddr)>,
}

impl<'a> Rights<'a> {
    fn new(want: &'a ServiceWant, before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Self {
        let pairs = |lines: &BTreeMap<String, String>| -> BTreeSet<(Mac, IpAddr)> {
            lines.values().flat_map(|line| pairs_of(line)).collect()
        };
        let valid = pairs(now);
        Self {
            want,
            owners: valid.iter().map(|(mac, address)| (*address, *mac)).collect(),
            reserved: valid
                .iter()
                .filter(|(_, address)| address.is_ipv4())
                .map(|(mac, _)| *mac)
                .collect(),
            freed: pairs(before).difference(&valid).copied().collect(),
        }
    }

    fn keeps(&self, entry: &Entry<'_>) -> bool {
        if let Some(owner) = self.owners.get(&entry.address) {
            return entry.mac.is_none_or(|mac| mac == *owner);
        }
        let freed = self
            .freed
            .iter()
            .any(|(mac, address)| *address == entry.address && entry.mac.is_none_or(|m| m == *mac));
        let has_another = entry.mac.is_some_and(|mac| self.reserved.contains(&mac));
        !freed && !has_another && self.in_a_range(entry.address)
    }

    fn in_a_range(&self, address: IpAddr) -> bool {
        self.want
            .prefixes
            .iter()
            .filter(|prefix| prefix.dhcp)
            .flat_map(|prefix| &prefix.ranges)
            .any(|(first, last)| first.is_ipv4() == address.is_ipv4() && (*first..=*last).contains(&address))
    }
}

fn pairs_of(line: &str) -> Vec<(Mac, IpAddr)> {
    let mut facts = files::facts(line);
    let Some(mac) = facts.next().and_then(|mac| mac.parse().ok()) else {
        return Vec::new();
    };
    facts
        .filter_map(|address| Some((mac, address.parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::service::ServedPrefix;
    use crate::model::LinkName;

    const FILE: &str = "\
1764170000 52:54:00:00:00:01 10.0.0.5 vm1 01:52:54:00:00:00:01
1764170000 52:54:00:00:00:02 10.0.0.6 * *
1764170000 52:54:00:00:00:09 10.0.0.150 guest *
duid 00:01:00:01:32:99:ba:8d:1e:61:e8:40:b9:5b
1764170000 7654321 fd00::5 vm1 00:01:00:01:2a:2a:2a:2a:52:54:00:00:00:01
0 7654322 fd00::6 * 00:01:00:01:2a:2a:2a:2a:52:54:00:00:00:02
";

    fn want() -> ServiceWant {
        let prefix = |address: &str, length, ranges: &[(&str, &str)]| ServedPrefix {
            address: address.parse().unwrap(),
            length,
            ranges: ranges
                .iter()
                .map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap()))
                .collect(),
            dhcp: true,
        };
        ServiceWant {
            interface: LinkName::new("br0").unwrap(),
            prefixes: vec![
                prefix("10.0.0.1", 24, &[("10.0.0.100", "10.0.0.199")]),
                prefix("fd00::1", 64, &[]),
            ],
            lease_time: None,
            dns_servers: None,
            domain: None,
            mtu: None,
            router: None,
            routes: Vec::new(),
            advertise: None,
            authoritative: false,
            reservations: BTreeMap::new(),
        }
    }

    fn hosts(lines: &[&str]) -> BTreeMap<String, String> {
        lines
            .iter()
            .enumerate()
            .map(|(n, line)| (n.to_string(), (*line).to_owned()))
            .collect()
    }

    fn released(before: &[&str], now: &[&str]) -> Vec<String> {
        let (kept, released) = retain(FILE, &want(), &hosts(before), &hosts(now));
        assert_eq!(kept.lines().count() + released.len(), FILE.lines().count());
        assert!(kept.contains("duid "));
        released.iter().map(|r| r.address.to_string()).collect()
    }

    const ONE: &str = "52:54:00:00:00:01,10.0.0.5,[fd00::5],vm1\n";
    const TWO: &str = "52:54:00:00:00:02,10.0.0.6,[fd00::6]\n";

    #[test]
    fn leases_of_reservations_and_of_ranges_stay() {
        assert!(released(&[ONE, TWO], &[ONE, TWO]).is_empty());
    }

    #[test]
    fn a_port_that_goes_takes_its_leases_with_it() {
        assert_eq!(released(&[ONE, TWO], &[TWO]), ["10.0.0.5", "fd00::5"]);
        // Also when nothing says what was told before: the address is in no range.
        assert_eq!(released(&[], &[ONE]), ["10.0.0.6", "fd00::6"]);
    }

    #[test]
    fn an_address_that_belongs_to_another_machine_now_is_free_for_it() {
        let stolen = "52:54:00:00:00:03,10.0.0.5\n";
        assert_eq!(released(&[TWO], &[stolen, TWO]), ["10.0.0.5", "fd00::5"]);
    }

    #[test]
    fn a_guest_of_a_range_that_gets_a_reservation_moves_to_it() {
        let nine = "52:54:00:00:00:09,10.0.0.9\n";
        assert_eq!(released(&[ONE, TWO], &[ONE, TWO, nine]), ["10.0.0.150"]);
        // And one whose reservation lay in a range and is gone starts anew.
        let in_range = "52:54:00:00:00:09,10.0.0.150\n";
        assert_eq!(released(&[ONE, TWO, in_range], &[ONE, TWO]), ["10.0.0.150"]);
    }

    #[test]
    fn what_is_held_is_read_in_order_with_names_and_ends() {
        let held = held_in(FILE);
        let told: Vec<_> = held
            .iter()
            .map(|l| (l.address.to_string(), l.hostname.as_deref(), l.expires))
            .collect();
        let end = Some(1_764_170_000);
        assert_eq!(
            told,
            [
                ("10.0.0.5".to_owned(), Some("vm1"), end),
                ("10.0.0.6".to_owned(), None, end),
                ("10.0.0.150".to_owned(), Some("guest"), end),
                ("fd00::5".to_owned(), Some("vm1"), end),
                ("fd00::6".to_owned(), None, None),
            ]
        );
        assert_eq!(held[0].mac.unwrap().to_string(), "52:54:00:00:00:01");
        assert_eq!(held[3].mac, None);
    }

    #[test]
    fn lines_that_say_nothing_to_us_are_left_to_dnsmasq() {
        let (kept, released) = retain("garbage\n\n1 x\n", &want(), &hosts(&[]), &hosts(&[]));
        assert_eq!((kept.as_str(), released.len()), ("garbage\n\n1 x\n", 0));
    }
}
