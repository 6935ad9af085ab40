//! How values are spelt inside strings: times, percentages, sizes, addresses, ranges.

use super::reader::Refusal;
use crate::model::{LinkName, Mac, MulticastRange, Vni, VxlanGroup};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// "5m", "1h30m", "250ms"; `None` is "never". At least a millisecond, at most ten years.
pub(super) fn duration_or_never(text: &str) -> Result<Option<Duration>, Refusal> {
    if text == "never" {
        return Ok(None);
    }
    let bad = |why: &str| {
        Refusal::new(
            format!("{text:?} is not a time: {why}"),
            "numbers with ms, s, m, h or d, as in \"5m\" or \"1h30m\", or \"never\"",
        )
    };
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.len() - tail.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, tail) = tail.split_at(letters);
        let number: u64 = match number {
            "" => return Err(bad("a number is missing")),
            _ => number.parse().map_err(|_| bad("the number is too large"))?,
        };
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" => return Err(bad("the unit is missing")),
            _ => return Err(bad("the unit is unknown")),
        };
        total = total.saturating_add(Duration::from_millis(number.saturating_mul(millis)));
        rest = tail;
    }
    if total.is_zero() {
        return Err(bad("it is zero"));
    }
    if total > Duration::from_secs(3_650 * 86_400) {
        return Err(bad("it is longer than ten years"));
    }
    Ok(Some(total))
}

/// "25%", 0 to 100.
pub(super) fn percent(text: &str) -> Result<u8, Refusal> {
    let number = text.strip_suffix('%').map(str::trim_end);
    number
        .filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|n| n.parse().ok())
        .filter(|n| *n <= 100)
        .ok_or_else(|| {
            Refusal::new(
                format!("{text:?} is not a percentage"),
                "a whole number from 0 to 100 with a percent sign, as in \"25%\"",
            )
        })
}

/// Bytes of a socket's receive buffer: 64 KiB to 1 GiB (`SO_RCVBUFFORCE` takes an `int` and doubles it).
pub(super) fn buffer_size(bytes: u64, written: &str) -> Result<usize, Refusal> {
    match usize::try_from(bytes) {
        Ok(size) if (64 << 10..=1 << 30).contains(&size) => Ok(size),
        _ => Err(Refusal::new(
            format!("a buffer of {written} is outside 64KiB..1GiB"),
            "for example receive_buffer = \"64MiB\"",
        )),
    }
}

/// Bytes of the flight recorder: 0 is none, or 16 KiB to 64 MiB.
pub(super) fn recorder_size(bytes: u64, written: &str) -> Result<usize, Refusal> {
    match usize::try_from(bytes) {
        Ok(size) if size == 0 || (16 << 10..=64 << 20).contains(&size) => Ok(size),
        _ => Err(Refusal::new(
            format!("a recorder of {written} is outside 16KiB..64MiB"),
            "for example flight_recorder = \"256KiB\"; 0 turns it off",
        )),
    }
}

/// "64MiB", "512KiB", "1GiB".
pub(super) fn byte_size(text: &str) -> Result<u64, Refusal> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor: Option<u64> = match unit.trim_start() {
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    factor
        .zip(number.parse::<u64>().ok())
        .and_then(|(factor, number)| number.checked_mul(factor))
        .ok_or_else(|| {
            Refusal::new(
                format!("{text:?} is not a size"),
                "a number with KiB, MiB or GiB, as in \"64MiB\", or bytes without quotes",
            )
        })
}

/// An absolute path without zero bytes.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, Refusal> {
    if text.contains('\0') {
        return Err(Refusal::new(
            "a path with a zero byte",
            "no path of the system holds one",
        ));
    }
    if !Path::new(text).is_absolute() {
        return Err(Refusal::new(
            format!("{text:?} is not an absolute path"),
            "start it with `/`: the daemon's working directory is not yours",
        ));
    }
    Ok(PathBuf::from(text))
}

/// A path that fits into `sun_path` (108 bytes with the terminating zero, unix(7)).
pub(super) fn socket_path(text: &str) -> Result<PathBuf, Refusal> {
    let path = absolute_path(text)?;
    if text.len() > 107 {
        return Err(Refusal::new(
            format!("a socket path of {} bytes", text.len()),
            "the kernel takes at most 107 bytes",
        ));
    }
    if text.ends_with('/') {
        return Err(Refusal::new(
            format!("{text:?} names a directory"),
            "add the socket's own name: /run/tapwire/tapwire.sock",
        ));
    }
    Ok(path)
}

/// A group's name, as groups(5) has them; whether it exists is found out by the daemon.
pub(super) fn group_name(text: &str) -> Result<String, Refusal> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '$');
    if text.is_empty() || text.len() > 32 || text.starts_with('-') || !text.chars().all(legal) {
        return Err(Refusal::new(
            format!("{text:?} is not a group's name"),
            "a name out of /etc/group, as in socket_group = \"tapwire\"",
        ));
    }
    Ok(text.to_owned())
}

/// "127.0.0.1:9478": loopback only, because nothing guards it.
pub(super) fn loopback_socket(text: &str) -> Result<SocketAddr, Refusal> {
    let example = "an address of this host's loopback with a port: \"127.0.0.1:9478\" or \"[::1]:9478\"";
    let address: SocketAddr = text
        .parse()
        .map_err(|_| Refusal::new(format!("{text:?} is not an address with a port"), example))?;
    if !address.ip().is_loopback() {
        return Err(Refusal::new(
            format!("metrics on {} would be open to the network", address.ip()),
            example,
        ));
    }
    if address.port() == 0 {
        return Err(Refusal::new("port 0 is a different one at every start", example));
    }
    Ok(address)
}

pub(super) fn ip(text: &str) -> Result<IpAddr, Refusal> {
    text.parse().map_err(|_| match text.split_once('/') {
        Some((address, _)) if address.parse::<IpAddr>().is_ok() => Refusal::new(
            format!("{text:?} is a prefix, not an address"),
            format!("leave the prefix length out: \"{address}\""),
        ),
        _ => Refusal::new(
            format!("{text:?} is not an IP address"),
            "an IPv4 or IPv6 address, as in \"192.0.2.11\" or \"2001:db8::11\"",
        ),
    })
}

/// An address that a host can have.
pub(super) fn unicast_ip(text: &str) -> Result<IpAddr, Refusal> {
    let address = ip(text)?;
    let problem = if address.is_unspecified() {
        "the unspecified address"
    } else if address.is_multicast() {
        "a multicast address"
    } else if address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST) {
        "the broadcast address"
    } else {
        return Ok(address);
    };
    Err(Refusal::new(
        format!("{address} is {problem}"),
        "the address of one host",
    ))
}

/// A station's own address.
pub(super) fn unicast_mac(text: &str) -> Result<Mac, Refusal> {
    let mac: Mac = text.parse()?;
    if mac.is_multicast() {
        return Err(Refusal::new(
            format!("mac address {mac} is a group address"),
            "a station's address has an even first byte, as in \"fa:16:3e:00:00:07\"",
        ));
    }
    if mac.is_zero() {
        return Err(Refusal::new(
            "mac address 00:00:00:00:00:00 belongs to nobody",
            "leave `mac` out for a flood entry",
        ));
    }
    Ok(mac)
}

pub(super) fn link_name(text: &str) -> Result<LinkName, Refusal> {
    let name = LinkName::new(text)?;
    if text == "lo" {
        return Err(Refusal::new(
            "lo is the loopback device",
            "it can neither be a bridge nor a port of one",
        ));
    }
    Ok(name)
}

/// "239.1.1.1" or "239.1.0.0/16".
pub(super) fn vxlan_group(text: &str) -> Result<VxlanGroup, Refusal> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => {
            let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
            let length = prefix.parse().ok().filter(|_| digits);
            let length = length.ok_or_else(|| {
                Refusal::new(
                    format!("{prefix:?} is not a prefix length"),
                    "for example \"239.1.0.0/16\"",
                )
            })?;
            (ip(address)?, Some(length))
        }
        None => (ip(text)?, None),
    };
    Ok(VxlanGroup::new(address, prefix)?)
}

/// "239.1.1.0:300:315". Split from the right, so that an IPv6 group needs no brackets (but may have them).
pub(super) fn multicast_range(text: &str) -> Result<MulticastRange, Refusal> {
    let example = "group:lowest:highest, as in \"239.1.1.0:300:315\" or \"[ff05::1]:300:315\"";
    let bad = || Refusal::new(format!("{text:?} is not a multicast range"), example);
    let mut parts = text.rsplitn(3, ':');
    let (max, min, group) = match (parts.next(), parts.next(), parts.next()) {
        (Some(max), Some(min), Some(group)) => (max, min, group),
        _ => return Err(bad()),
    };
    let vni = |part: &str| -> Result<Vni, Refusal> {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let number = part.parse::<i64>().ok().filter(|_| digits).ok_or_else(bad)?;
        Vni::new(number).map_err(|error| Refusal::new(error.to_string(), example))
    };
    let (min, max) = (vni(min)?, vni(max)?);
    let bare = group
        .strip_prefix('[')
        .and_then(|g| g.strip_suffix(']'))
        .unwrap_or(group);
    let group: IpAddr = bare.parse().map_err(|_| bad())?;
    if !group.is_multicast() {
        return Err(Refusal::new(
            format!("{group} is not a multicast address"),
            "a group out of 224.0.0.0/4 or ff00::/8; 239.0.0.0/8 is for private use",
        ));
    }
    if min > max {
        return Err(Refusal::new(
            format!("the range {min}..{max} is empty"),
            format!("lowest first: \"{bare}:{max}:{min}\""),
        ));
    }
    Ok(MulticastRange { group, min, max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_up_and_never_is_none() {
        let read = |text| duration_or_never(text).ok();
        assert_eq!(read("never"), Some(None));
        assert_eq!(read("5m"), Some(Some(Duration::from_secs(300))));
        assert_eq!(read("1h30m"), Some(Some(Duration::from_secs(5400))));
        assert_eq!(read("250ms"), Some(Some(Duration::from_millis(250))));
        for bad in [
            "",
            "5",
            "m",
            "5 m",
            "-5m",
            "5w",
            "0s",
            "1.5h",
            "99999999999999999999s",
            "4000d",
            "5µs",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn percentages_and_sizes_need_their_unit() {
        assert_eq!(percent("25%").ok(), Some(25));
        assert_eq!(percent("100 %").ok(), Some(100));
        for bad in ["25", "101%", "-1%", "+1%", "%", "2.5%"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
        assert_eq!(byte_size("64MiB").ok(), Some(64 << 20));
        for bad in ["64", "64MB", "MiB", "99999999999999999GiB", "-1KiB"] {
            assert!(byte_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_take_both_families() {
        let read = |text| {
            multicast_range(text)
                .map(|r| (r.group.to_string(), r.min.get(), r.max.get()))
                .ok()
        };
        assert_eq!(read("239.1.1.0:300:315"), Some(("239.1.1.0".into(), 300, 315)));
        assert_eq!(read("[ff05::1]:1:2"), Some(("ff05::1".into(), 1, 2)));
        assert_eq!(read("ff05::1:7:7"), Some(("ff05::1".into(), 7, 7)));
        for bad in [
            "239.1.1.0",
            "239.1.1.0:300",
            "239.1.1.0:2:1",
            "10.0.0.1:1:2",
            "239.1.1.0:0:2",
            "239.1.1.0:+1:2",
            "x:1:2",
            "::",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
