//! What the daemon may do once everything is open: change the network of its namespace, and nothing else.
//!
//! Kept: CAP_NET_ADMIN (links, addresses, forwarding entries, `/proc/sys/net`, forced receive buffers); of what is there
//! CAP_NET_RAW (announcing addresses) and CAP_NET_BIND_SERVICE (for the networks' dnsmasq). Dropped for good, also
//! from the bounding set so that no child gets them back: everything else. Without root (a user namespace, or ambient
//! capabilities given by systemd) the same call keeps what is there of it.

use capctl::caps::{Cap, CapSet, CapState, ambient, bounding};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("CAP_NET_ADMIN is missing: run as root, or with AmbientCapabilities=CAP_NET_ADMIN")]
    Missing,
    #[error("cannot drop capabilities")]
    Drop(#[source] capctl::Error),
}

/// Does this process have what it needs?
pub fn check() -> Result<(), Error> {
    let state = CapState::get_current().map_err(Error::Drop)?;
    if state.effective.has(Cap::NET_ADMIN) {
        Ok(())
    } else {
        Err(Error::Missing)
    }
}

/// Keeps what is named above. Call before any thread is started: capabilities belong to threads.
pub fn drop_to_net_admin() -> Result<(), Error> {
    capctl::prctl::set_no_new_privs().map_err(Error::Drop)?;
    let had = CapState::get_current().map_err(Error::Drop)?.permitted;
    let wanted = [Cap::NET_ADMIN, Cap::NET_RAW, Cap::NET_BIND_SERVICE];
    let keep: CapSet = wanted.into_iter().filter(|cap| had.has(*cap)).collect();
    for cap in Cap::iter().filter(|cap| !wanted.contains(cap)) {
        // Needs CAP_SETPCAP, which a non-root service has not; then there was nothing to gain either.
        if bounding::read(cap) == Some(true) && bounding::drop(cap).is_err() {
            break;
        }
    }
    ambient::clear().map_err(Error::Drop)?;
    CapState {
        effective: keep,
        permitted: keep,
        inheritable: CapSet::empty(),
    }
    .set_current()
    .map_err(Error::Drop)
}
