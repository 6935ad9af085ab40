use super::*;
use crate::model::{Mac, OperState};

pub fn tap(index: u32, name: &str) -> Link {
    Link {
        index: Ifindex::new(index).unwrap(),
        name: LinkName::new(name).unwrap(),
        kind: LinkKind::Tap,
        mac: Some(Mac::new([2, 0, 0, 0, 0, index as u8])),
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

fn index(raw: u32) -> Ifindex {
    Ifindex::new(raw).unwrap()
}

#[test]
fn the_same_row_twice_is_no_news() {
    let mut observed = Observed::default();
    assert_eq!(
        observed.apply(Change::Upsert(tap(5, "tap0"))),
        Effect::Appeared(index(5))
    );
    assert_eq!(observed.apply(Change::Upsert(tap(5, "tap0"))), Effect::Same);
}

#[test]
fn a_name_follows_its_new_holder_in_either_order_of_events() {
    let mut observed = Observed::default();
    observed.apply(Change::Upsert(tap(5, "tap0")));
    // tap0 deleted and made again with index 6, the deletion told late.
    observed.apply(Change::Upsert(tap(6, "tap0")));
    observed.apply(Change::Removed(index(5)));
    assert_eq!(
        observed.by_name(&LinkName::new("tap0").unwrap()).map(|l| l.index),
        Some(index(6))
    );
}

#[test]
fn a_rename_keeps_the_index() {
    let mut observed = Observed::default();
    observed.apply(Change::Upsert(tap(5, "foo")));
    let effect = observed.apply(Change::Upsert(tap(5, "tap0")));
    assert!(matches!(effect, Effect::Changed(before) if before.name == LinkName::new("foo").unwrap()));
    assert!(observed.by_name(&LinkName::new("foo").unwrap()).is_none());
}

#[test]
fn leaving_a_bridge_is_not_a_deletion() {
    let mut observed = Observed::default();
    observed.apply(Change::Upsert(Link {
        master: Some(index(9)),
        ..tap(5, "tap0")
    }));
    assert_eq!(observed.port_count(index(9)), 1);
    observed.apply(Change::LeftBridge {
        index: index(5),
        master: index(9),
    });
    assert_eq!(observed.port_count(index(9)), 0);
    assert!(observed.link(index(5)).is_some());
}

#[test]
fn a_late_leave_of_the_old_bridge_does_not_undo_the_new_one() {
    let mut observed = Observed::default();
    observed.apply(Change::Upsert(Link {
        master: Some(index(10)),
        ..tap(5, "tap0")
    }));
    observed.apply(Change::LeftBridge {
        index: index(5),
        master: index(9),
    });
    assert_eq!(observed.link(index(5)).and_then(|l| l.master), Some(index(10)));
}

#[test]
fn a_dump_that_does_not_list_a_link_removes_it() {
    let mut observed = Observed::default();
    observed.apply(Change::Upsert(tap(5, "tap0")));
    observed.apply(Change::Upsert(tap(6, "tap1")));
    let gone = observed.retain(&BTreeSet::from([index(6)]));
    assert_eq!(gone.len(), 1);
    assert_eq!(observed.len(), 1);
}

#[test]
fn an_address_is_found_on_its_link_and_goes_with_it() {
    let mut observed = Observed::default();
    let ip: IpAddr = "192.0.2.11".parse().unwrap();
    observed.apply(Change::Upsert(tap(5, "eth0")));
    assert_eq!(
        observed.apply(Change::Address {
            index: index(5),
            address: ip,
            own: None,
            present: true
        }),
        Effect::Addresses(index(5))
    );
    assert!(observed.link_with_address(ip).is_some() && observed.has_address(index(5)));
    observed.apply(Change::Removed(index(5)));
    assert!(observed.link_with_address(ip).is_none());
}
