//! The monitor: a tap's birth and life, losses, causes.

use super::{attach, block_on, index, name, run_well, set, there};
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::world::in_namespace;
use std::time::Duration;
use tapwire::kernel::{Change, Drained, Executor, Monitor, RxEvent, Subscription};
use tapwire::model::LinkKind;
use tapwire::model::record::{AddressRecord, Attribute};
use tapwire::plan::op::{LinkChange, ListAction, Master, Op};

const BUFFER: usize = 4 * 1024 * 1024;

/// Everything queued, as changes; a loss or an undecodable message is a failure.
fn drain(monitor: &mut Monitor) -> Vec<Change> {
    let mut changes = Vec::new();
    let drained = monitor
        .drain(usize::MAX, &mut |event| match event {
            RxEvent::Message { change, message, .. } => {
                assert!(message.raw.len() >= 32);
                changes.push(change);
            }
            other => panic!("{other:?}"),
        })
        .unwrap();
    assert_eq!(drained, Drained::Empty);
    changes
}

#[test]
fn a_taps_life_is_told_as_what_it_is() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        host.ip("link add br0 type bridge");
        let bridge = index("br0");
        block_on(async {
            let mut monitor = Monitor::open(Subscription::Links, BUFFER).unwrap();
            let tap = host.tap("tap0");
            monitor.readable().await.unwrap();
            let birth = drain(&mut monitor);
            let [Change::Link(link)] = &birth[..] else {
                panic!("{birth:?}")
            };
            assert_eq!(
                (link.index, link.name, &link.kind, link.up, link.master),
                (tap.index(), name("tap0"), &LinkKind::Tap, false, None)
            );

            run_well(&[attach("tap0", "br0")]);
            let changes = drain(&mut monitor);
            assert!(
                changes
                    .iter()
                    .any(|c| matches!(c, Change::BridgePort { index, master, flags, .. }
                    if *index == tap.index() && *master == bridge && flags.learning == Some(true))),
                "{changes:?}"
            );
            assert!(
                changes.iter().any(
                    |c| matches!(c, Change::Link(l) if l.index == tap.index() && l.master == Some(bridge))
                ),
                "{changes:?}"
            );

            // Leaving the bridge is not the end.
            run_well(&[set(
                "tap0",
                LinkChange {
                    master: Some(Master::Clear),
                    ..LinkChange::default()
                },
            )]);
            let changes = drain(&mut monitor);
            assert!(changes.contains(&Change::LeftBridge {
                index: tap.index(),
                master: Some(bridge)
            }));
            assert!(
                !changes.iter().any(|c| matches!(c, Change::LinkGone { .. })),
                "{changes:?}"
            );

            let was = tap.index();
            drop(tap);
            let changes = drain(&mut monitor);
            assert_eq!(
                changes.last(),
                Some(&Change::LinkGone {
                    index: was,
                    name: Some(name("tap0")),
                    moved_to: None
                })
            );
        });
    });
}

#[test]
fn a_link_that_moves_to_another_namespace_is_gone_with_a_word_where_to() {
    in_namespace(|| {
        let (host, other) = (Host::here(), Host::new());
        host.join("v0", &other, "v1");
        block_on(async {
            let mut monitor = Monitor::open(Subscription::Links, BUFFER).unwrap();
            let was = index("v0");
            // A process in the other namespace is the way to name it.
            let mut there = other.command("sleep").arg("60").spawn().unwrap();
            host.ip(&format!("link set v0 netns {}", there.id()));
            let changes = drain(&mut monitor);
            there.kill().unwrap();
            there.wait().unwrap();
            assert!(
                matches!(changes.last(), Some(Change::LinkGone { index, moved_to: Some(_), .. }) if *index == was),
                "{changes:?}"
            );
        });
    });
}

#[test]
fn losses_are_told_and_the_stream_goes_on() {
    in_namespace(|| {
        let host = Host::here();
        block_on(async {
            let mut monitor = Monitor::open(Subscription::Links, 8192).unwrap();
            assert!(monitor.granted_buffer() <= 16_384);
            for i in 0..20 {
                host.ip(&format!("link add b{i} type bridge"));
            }
            let (mut losses, mut messages) = (0, 0);
            let drained = monitor
                .drain(1000, &mut |event| match event {
                    RxEvent::Overrun { .. } => losses += 1,
                    RxEvent::Message { .. } => messages += 1,
                    RxEvent::Undecodable { .. } => panic!("{event:?}"),
                })
                .unwrap();
            assert_eq!(drained, Drained::Empty);
            assert!(losses >= 1, "{losses}");
            assert!(messages >= 1, "{messages}");
            host.ip("link add last type bridge");
            monitor.readable().await.unwrap();
            assert!(!drain(&mut monitor).is_empty());
        });
    });
}

#[test]
fn the_buffer_asked_for_is_granted_beyond_the_systems_limit() {
    in_namespace(|| {
        block_on(async {
            let monitor = Monitor::open(Subscription::Links, 64 * 1024 * 1024).unwrap();
            assert!(
                monitor.granted_buffer() >= 212_992,
                "{} bytes granted",
                monitor.granted_buffer()
            );
        });
    });
}

#[test]
fn a_budget_is_kept_and_nothing_is_lost_by_it() {
    in_namespace(|| {
        let host = Host::here();
        block_on(async {
            let mut monitor = Monitor::open(Subscription::Links, BUFFER).unwrap();
            host.ip("link add br0 type bridge");
            host.ip("link add br1 type bridge");
            let mut told = 0;
            assert_eq!(monitor.drain(1, &mut |_| told += 1).unwrap(), Drained::Budget);
            assert_eq!(told, 1);
            // Still ready: the budget says nothing about the queue.
            monitor.readable().await.unwrap();
            assert!(!drain(&mut monitor).is_empty());
            let quiet = tokio::time::timeout(Duration::from_millis(20), monitor.readable()).await;
            assert!(quiet.is_err(), "an emptied queue is not readable");
        });
    });
}

#[test]
fn address_events_carry_the_port_id_of_the_socket_that_caused_them() {
    in_namespace(|| {
        let host = Host::here();
        block_on(async {
            let mut monitor = Monitor::open(Subscription::Addresses, BUFFER).unwrap();
            let mut executor = Executor::open().unwrap();
            let own = executor.portid();
            let record = AddressRecord {
                family: libc::AF_INET as u8,
                prefix_len: 32,
                flags: 0,
                scope: 0,
                ifindex: 1,
                attributes: vec![Attribute {
                    kind: libc::IFA_LOCAL,
                    value: vec![192, 0, 2, 1],
                }],
            };
            let op = Op::Address {
                action: ListAction::Add,
                link: there("lo"),
                record: Box::new(record),
            };
            assert_eq!(executor.run(&[op], |_, _| {}), 1);
            host.ip("addr add 192.0.2.2/32 dev lo");
            let mut causes = Vec::new();
            monitor
                .drain(100, &mut |event| {
                    if let RxEvent::Message {
                        message,
                        change: Change::AddressSet(_),
                        ..
                    } = event
                    {
                        causes.push(message.header.portid == own);
                    }
                })
                .unwrap();
            assert_eq!(causes, [true, false]);
        });
    });
}

#[test]
fn addresses_come_on_a_socket_of_their_own() {
    in_namespace(|| {
        let host = Host::here();
        block_on(async {
            let mut links = Monitor::open(Subscription::Links, BUFFER).unwrap();
            let mut addresses = Monitor::open(Subscription::Addresses, BUFFER).unwrap();
            host.ip("addr add 192.0.2.1/24 dev lo");
            let changes = drain(&mut addresses);
            assert!(
                changes
                    .iter()
                    .any(|c| matches!(c, Change::AddressSet(a) if a.prefix_len == 24 && a.ifindex == 1)),
                "{changes:?}"
            );
            assert!(
                !changes.iter().any(|c| matches!(c, Change::RouteSet(_))),
                "{changes:?}"
            );
            host.ip("addr del 192.0.2.1/24 dev lo");
            assert!(
                drain(&mut addresses)
                    .iter()
                    .any(|c| matches!(c, Change::AddressGone(_)))
            );
            assert_eq!(drain(&mut links), []);
        });
    });
}

#[test]
fn a_message_of_another_process_is_dropped() {
    in_namespace(|| {
        block_on(async {
            let mut monitor = Monitor::open(Subscription::Links, BUFFER).unwrap();
            let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE).unwrap();
            socket.bind_auto().unwrap();
            let all_links = netlink_sys::SocketAddr::new(0, libc::RTNLGRP_LINK);
            let message = [16u8, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            // Root may send to a multicast group; the kernel answers the unicast half of it with an error.
            let _ = socket.send_to(&message, &all_links, 0);
            assert_eq!(drain(&mut monitor), []);
            assert_eq!(monitor.foreign_datagrams(), 1);
        });
    });
}
