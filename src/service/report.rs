//! How a lease event comes from dnsmasq to the daemon: dnsmasq runs this same program under another name, with the
//! event as its arguments; it sends one datagram to the network's socket and ends.
//!
//! That program is found by a link in the network's directory, the socket by the environment that dnsmasq was started
//! with. The directory is closed to others, so nobody else can report.

use super::{Lease, LeaseWhat};
use crate::model::NetworkId;
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// The name under which the program reports.
pub const PROGRAM: &str = "tapwire-lease";
/// Where to, in dnsmasq's environment.
pub const SOCKET: &str = "TAPWIRE_LEASE_SOCKET";
/// A datagram is at most so long: the longest names and addresses are a tenth of it.
pub const LONGEST: usize = 4096;
/// The daemon reads at once; if it does not, the event is lost rather than dnsmasq held up.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize, Deserialize)]
struct Message {
    what: String,
    /// MAC address, or the client's DUID in DHCPv6.
    identity: String,
    address: String,
    hostname: Option<String>,
    mac: Option<String>,
    remaining: Option<u64>,
}

/// Is the program called by dnsmasq?
pub fn is_called_as(program: &OsStr) -> bool {
    Path::new(program).file_name() == Some(OsStr::new(PROGRAM))
}

/// Reports the event in the arguments (`add MAC ADDRESS [NAME]`). What cannot be reported is dropped: dnsmasq would only
/// log it.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<String> = arguments
        .into_iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    match (message(&words, variable), std::env::var_os(SOCKET)) {
        (Some(message), Some(socket)) => match send(&message, Path::new(&socket)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        // Events that are no leases (`tftp`, `arp-add`), or somebody else's call.
        _ => ExitCode::SUCCESS,
    }
}

fn message(words: &[String], variable: impl Fn(&str) -> Option<String>) -> Option<Message> {
    let [what, identity, address, rest @ ..] = words else {
        return None;
    };
    what_of(what)?;
    Some(Message {
        what: what.clone(),
        identity: identity.clone(),
        address: address.clone(),
        hostname: rest.first().cloned().or_else(|| variable("DNSMASQ_OLD_HOSTNAME")),
        mac: variable("DNSMASQ_MAC"),
        remaining: variable("DNSMASQ_TIME_REMAINING").and_then(|text| text.parse().ok()),
    })
}

fn send(message: &Message, to: &Path) -> io::Result<()> {
    let bytes = serde_json::to_vec(message).map_err(io::Error::other)?;
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to(&bytes, to).map(drop)
}

fn what_of(word: &str) -> Option<LeaseWhat> {
    match word {
        "add" => Some(LeaseWhat::Added),
        "old" => Some(LeaseWhat::Changed),
        "del" => Some(LeaseWhat::Ended),
        _ => None,
    }
}

/// The event in a datagram; `None` if it is none.
pub fn read(network: &NetworkId, datagram: &[u8]) -> Option<Lease> {
    let message: Message = serde_json::from_slice(datagram).ok()?;
    let what = what_of(&message.what)?;
    let mac = message.mac.as_deref().and_then(|mac| mac.parse().ok());
    Some(Lease {
        network: network.clone(),
        what,
        address: message.address.parse().ok()?,
        mac: mac.or_else(|| message.identity.parse().ok()),
        hostname: message.hostname,
        expires_in: message
            .remaining
            .filter(|_| what != LeaseWhat::Ended)
            .filter(|seconds| *seconds > 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(words: &[&str], environment: &[(&str, &str)]) -> Option<Lease> {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        let variable = |name: &str| {
            let found = environment.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let bytes = serde_json::to_vec(&message(&words, variable)?).unwrap();
        read(&NetworkId::new("blue").unwrap(), &bytes)
    }

    #[test]
    fn an_event_arrives_as_dnsmasq_told_it() {
        let lease = through(
            &["add", "52:54:00:00:00:01", "10.0.0.5", "vm1"],
            &[("DNSMASQ_TIME_REMAINING", "3600")],
        )
        .unwrap();
        assert_eq!(lease.what, LeaseWhat::Added);
        assert_eq!(lease.address.to_string(), "10.0.0.5");
        assert_eq!(lease.mac.unwrap().to_string(), "52:54:00:00:00:01");
        assert_eq!(
            (lease.hostname.as_deref(), lease.expires_in),
            (Some("vm1"), Some(3600))
        );
    }

    #[test]
    fn the_mac_address_of_a_dhcpv6_client_is_told_beside_its_duid() {
        let words = ["del", "00:01:00:01:2a:2a:2a:2a:52:54:00:00:00:01", "fd00::5"];
        let lease = through(&words, &[("DNSMASQ_MAC", "52:54:00:00:00:01")]).unwrap();
        assert_eq!(lease.what, LeaseWhat::Ended);
        assert_eq!(lease.mac.unwrap().to_string(), "52:54:00:00:00:01");
        assert_eq!(through(&words, &[]).unwrap().mac, None);
    }

    #[test]
    fn what_is_no_lease_event_is_dropped() {
        assert_eq!(through(&["tftp", "1", "10.0.0.5", "/file"], &[]), None);
        assert_eq!(through(&["add", "52:54:00:00:00:01"], &[]), None);
        assert_eq!(
            read(&NetworkId::new("blue").unwrap(), b"{\"what\":\"add\"}"),
            None
        );
        assert_eq!(read(&NetworkId::new("blue").unwrap(), b"\xff"), None);
    }

    #[test]
    fn the_program_knows_by_its_name_what_it_is_there_for() {
        assert!(is_called_as(OsStr::new(
            "/var/lib/tapwire/dnsmasq/net-blue/tapwire-lease"
        )));
        assert!(is_called_as(OsStr::new("tapwire-lease")));
        assert!(!is_called_as(OsStr::new("/usr/bin/tapwire")));
    }
}
