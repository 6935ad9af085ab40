//! What a recorded link means in a world where some operations went differently.
//!
//! Three states of one link: `before` and `now` as the recording tells them, `have` as it is in the replay. A field
//! that the recording changed is news, whoever changed it; a field that it repeats says nothing, and what the replay
//! made of it stands. So the echoes of the recorded daemon's own operations change nothing that the replayed engine
//! decided alike, and a recording made without a daemon does not take back what the engine would have done.

use crate::model::{Link, PortFlags};

pub fn link(before: &Link, now: Link, have: &Link) -> Link {
    Link {
        index: now.index,
        name: field(&before.name, now.name, &have.name),
        kind: field(&before.kind, now.kind, &have.kind),
        mac: field(&before.mac, now.mac, &have.mac),
        mtu: field(&before.mtu, now.mtu, &have.mtu),
        up: field(&before.up, now.up, &have.up),
        carrier: field(&before.carrier, now.carrier, &have.carrier),
        operstate: field(&before.operstate, now.operstate, &have.operstate),
        master: field(&before.master, now.master, &have.master),
        parent: field(&before.parent, now.parent, &have.parent),
        alias: field(&before.alias, now.alias, &have.alias),
        ipv6_disabled: field(&before.ipv6_disabled, now.ipv6_disabled, &have.ipv6_disabled),
        tx_queue_len: field(&before.tx_queue_len, now.tx_queue_len, &have.tx_queue_len),
        port: port(before.port, now.port, have.port),
    }
}

fn field<T: PartialEq + Clone>(before: &T, now: T, have: &T) -> T {
    if *before == now { have.clone() } else { now }
}

/// Flag by flag. The first flags of a new port are the kernel's defaults: what the replay told it stands.
fn port(before: Option<PortFlags>, now: Option<PortFlags>, have: Option<PortFlags>) -> Option<PortFlags> {
    match (before, now, have) {
        (before, now, have) if before == now => have,
        (Some(before), Some(now), Some(have)) => Some(have.overlaid_with(&now.missing_in(&before))),
        (None, Some(now), Some(have)) => Some(now.overlaid_with(&have)),
        (_, now, _) => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Ifindex, LinkKind, LinkName, OperState};

    fn tap() -> Link {
        Link {
            index: Ifindex::new(7).unwrap(),
            name: LinkName::new("tap0").unwrap(),
            kind: LinkKind::Tap,
            mac: None,
            mtu: 1500,
            up: false,
            carrier: false,
            operstate: OperState::Unknown,
            master: None,
            parent: None,
            alias: None,
            ipv6_disabled: Some(false),
            tx_queue_len: 1000,
            port: None,
        }
    }

    #[test]
    fn what_the_recording_repeats_does_not_undo_what_the_replay_did() {
        let have = Link {
            mtu: 1450,
            up: true,
            master: Ifindex::new(9),
            ..tap()
        };
        let now = Link {
            carrier: true,
            ..tap()
        };
        assert_eq!(
            link(&tap(), now, &have),
            Link {
                carrier: true,
                ..have
            }
        );
    }

    #[test]
    fn what_the_recording_changes_is_news() {
        let before = Link {
            master: Ifindex::new(9),
            ..tap()
        };
        let have = Link {
            mtu: 1450,
            ..before.clone()
        };
        assert_eq!(
            link(&before, tap(), &have),
            Link { mtu: 1450, ..tap() },
            "released, and the MTU stays as the replay set it"
        );
    }

    #[test]
    fn the_defaults_of_a_new_port_do_not_undo_the_flags_told() {
        let flags = |isolated, learning| PortFlags {
            isolated: Some(isolated),
            learning: Some(learning),
            ..PortFlags::default()
        };
        let told = PortFlags {
            isolated: Some(true),
            ..PortFlags::default()
        };
        assert_eq!(
            port(None, Some(flags(false, true)), Some(told)),
            Some(flags(true, true))
        );
        assert_eq!(
            port(
                Some(flags(false, true)),
                Some(flags(false, false)),
                Some(flags(true, true))
            ),
            Some(flags(true, false))
        );
        assert_eq!(port(Some(flags(true, true)), None, Some(flags(true, true))), None);
    }
}
