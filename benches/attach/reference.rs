//! The reference attacher: the least a program can do for the same end state.
//!
//! A blocking socket with a forced buffer; per new tap IPv6 off, master, up, each waited for. The number in the tap's
//! name (`tap2-17`) is the bridge's (`br2`): no mapping, no policy, no mirror, no log, nothing it could survive.

use super::netlink::{Monitor, Requests};
use super::world::bridge_name;
use anyhow::{Context as _, Result};
use std::collections::HashSet;
use std::ffi::CString;
use std::io::Write as _;

/// Runs until killed. Says `ready` when subscribed.
pub fn run(bridges: usize) -> Result<()> {
    let mut monitor = Monitor::open().context("monitor socket")?;
    let mut requests = Requests::open().context("request socket")?;
    let masters = (0..bridges)
        .map(|n| index_of(&bridge_name(n)))
        .collect::<Result<Vec<u32>>>()?;
    let mut known = HashSet::new();
    println!("ready");
    std::io::stdout().flush()?;
    let mut path = String::new();
    loop {
        monitor.receive(|link| {
            let Some(master) = bridge_of(link.name).and_then(|n| masters.get(n)) else {
                return;
            };
            if !link.tun || !known.insert(link.index) {
                return;
            }
            path.clear();
            path.push_str("/proc/sys/net/ipv6/conf/");
            path.push_str(&String::from_utf8_lossy(link.name));
            path.push_str("/disable_ipv6");
            let outcome = std::fs::write(&path, "1")
                .and_then(|()| requests.set_master(link.index, *master))
                .and_then(|()| requests.set_up(link.index));
            if let Err(error) = outcome {
                eprintln!("reference: {}: {error}", String::from_utf8_lossy(link.name));
            }
        })?;
    }
}

/// `tap2-17` -> 2.
fn bridge_of(name: &[u8]) -> Option<usize> {
    let digits = name.strip_prefix(b"tap")?;
    let end = digits.iter().position(|byte| *byte == b'-')?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

fn index_of(name: &str) -> Result<u32> {
    let text = CString::new(name)?;
    // SAFETY: the string is terminated and alive through the call.
    match unsafe { libc::if_nametoindex(text.as_ptr()) } {
        0 => Err(std::io::Error::last_os_error()).with_context(|| format!("no {name}")),
        index => Ok(index),
    }
}
