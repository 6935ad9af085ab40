//! Worlds in which something was once left behind. Each is short enough to be read.

use super::hand::{Act, Mode, World};
use super::lives;
use tapwire::desired::verdict::{Denial, NetworkVerdict, PortVerdict};
use tapwire::model::{BridgeAttributes, FdbEntry, Mac, Mtu, NeighbourEntry, NetworkId, PortFlags};

pub(super) const LOCAL: usize = 0;
pub(super) const VLAN: usize = 1;
const VXLAN: usize = 2;
pub(super) const FLAT: usize = 3;
/// No mapping names its taps.
const NOWHERE: usize = 4;
pub(super) const MAC: Mac = Mac::new([0xfa, 0x16, 0x3e, 0, 0, 1]);

pub(super) fn tap(net: usize) -> Act {
    Act::NewTap {
        net,
        mtu: 1500,
        up: true,
    }
}

pub(super) fn of_tap(verdict: PortVerdict) -> Act {
    Act::SayOfTap(0, Some(Box::new(verdict)))
}

pub(super) fn of_network(net: usize, verdict: NetworkVerdict) -> Act {
    Act::SayOfNetwork(net, Some(Box::new(verdict)))
}

pub(super) fn bind(net: usize) -> Act {
    Act::Bind {
        tap: 0,
        net,
        mac: None,
    }
}

fn denial() -> Option<Denial> {
    Some(Denial {
        plugin: "site".into(),
        reason: "no".into(),
    })
}

pub(super) fn mtu(bytes: i64) -> Option<Mtu> {
    Some(Mtu::new(bytes).unwrap())
}

#[track_caller]
fn holds(acts: Vec<Act>) {
    for gone in [true, false] {
        if let Err(error) = lives(World::new(false, Mode::PerNetwork), &acts, (true, true), gone) {
            panic!("{error}");
        }
    }
}

#[test]
fn bridge_options_and_mtu_go_back() {
    for prewarmed_by in [vec![tap(LOCAL), Act::Settle], vec![]] {
        let mut acts = prewarmed_by;
        acts.push(of_network(
            LOCAL,
            NetworkVerdict {
                mtu: mtu(9000),
                bridge: BridgeAttributes {
                    stp: Some(true),
                    ageing_time: Some(0),
                    multicast_snooping: Some(false),
                    vlan_filtering: Some(true),
                    ..BridgeAttributes::default()
                },
                ..NetworkVerdict::default()
            },
        ));
        acts.extend([tap(LOCAL), Act::Settle]);
        holds(acts);
    }
}

#[test]
fn an_interface_raised_for_a_network_goes_back() {
    for net in [VLAN, FLAT] {
        let verdict = NetworkVerdict {
            mtu: mtu(9000),
            ..NetworkVerdict::default()
        };
        holds(vec![tap(net), of_network(net, verdict.clone()), Act::Settle]);
        // Also when nobody uses the network any more.
        let (gone, wait) = (Act::DeleteTap(0), Act::Wait(400_000));
        holds(vec![tap(net), of_network(net, verdict), Act::Settle, gone, wait]);
    }
}

#[test]
fn an_alias_is_taken_away_once() {
    let alias = |text: &str| PortVerdict {
        alias: Some(text.into()),
        tx_queue_len: Some(50),
        ..PortVerdict::default()
    };
    holds(vec![tap(LOCAL), of_tap(alias("site")), Act::Settle]);
    holds(vec![tap(LOCAL), of_tap(alias("")), Act::Settle]);
}

#[test]
fn a_tap_that_belongs_nowhere_any_more_is_as_it_was() {
    let verdict = PortVerdict {
        network: Some(NetworkId::new("loc").unwrap()),
        mtu: mtu(9000),
        alias: Some("site".into()),
        tx_queue_len: Some(50),
        flags: PortFlags {
            learning: Some(false),
            ..PortFlags::default()
        },
        ..PortVerdict::default()
    };
    holds(vec![tap(NOWHERE), of_tap(verdict), Act::Settle]);
}

#[test]
fn entries_go_with_what_is_said_and_with_the_tap() {
    let entries = PortVerdict {
        fdb: vec![FdbEntry {
            mac: MAC,
            dst: Some("192.0.2.13".parse().unwrap()),
        }],
        neighbours: vec![NeighbourEntry {
            ip: "10.0.0.9".parse().unwrap(),
            mac: MAC,
        }],
        ..PortVerdict::default()
    };
    let begin = || vec![tap(VXLAN), tap(VXLAN), of_tap(entries.clone()), Act::Settle];
    for end in [
        of_tap(PortVerdict::default()),
        bind(LOCAL),
        Act::DeleteTap(0),
        Act::Rename { tap: 0, net: LOCAL },
        Act::Rename { tap: 0, net: 4 },
    ] {
        let mut acts = begin();
        acts.extend([end, Act::Settle]);
        holds(acts);
    }
    // Said before it came: its network is in use already.
    holds(vec![
        tap(VXLAN),
        tap(LOCAL),
        Act::SayOfTap(1, Some(Box::new(entries))),
        Act::Settle,
        Act::Bind {
            tap: 1,
            net: VXLAN,
            mac: None,
        },
    ]);
}

#[test]
fn static_entries_follow_a_tap_that_somebody_moved() {
    let verdict = PortVerdict {
        fdb: vec![FdbEntry { mac: MAC, dst: None }],
        ..PortVerdict::default()
    };
    holds(vec![
        tap(LOCAL),
        tap(VLAN),
        of_tap(verdict),
        Act::Settle,
        Act::ToBridge { tap: 0, net: VLAN },
        bind(VLAN),
    ]);
}

#[test]
fn a_tap_that_was_to_be_left_alone_is_asked_about_again() {
    let ignore = PortVerdict {
        ignore: true,
        ..PortVerdict::default()
    };
    holds(vec![
        tap(LOCAL),
        of_tap(ignore),
        Act::Settle,
        Act::SayOfTap(0, None),
        Act::Settle,
    ]);
}

#[test]
fn a_denial_does_not_stop_a_move_of_addresses_half_way() {
    let verdict = NetworkVerdict {
        deny: denial(),
        ..NetworkVerdict::default()
    };
    let otherwise = || Act::NetworkMtu {
        net: FLAT,
        mtu: Some(1400),
    };
    for turns in 1..6 {
        for meanwhile in [Act::Turns(0), Act::Restart, otherwise()] {
            holds(vec![
                tap(FLAT),
                Act::Turns(turns),
                meanwhile,
                of_network(FLAT, verdict.clone()),
            ]);
        }
    }
}

#[test]
fn a_denied_port_that_forwards_keeps_its_guard() {
    let verdict = PortVerdict {
        deny: denial(),
        ..PortVerdict::default()
    };
    let bind = Act::Bind {
        tap: 0,
        net: LOCAL,
        mac: Some(1),
    };
    let mut world = World::new(false, Mode::PerNetwork);
    world.plugins(true, true);
    let acts = [tap(LOCAL), bind, Act::Settle, of_tap(verdict), Act::Settle];
    for act in acts.iter().chain(&[Act::FlushRuleset, Act::Settle]) {
        world.take(act);
    }
    let index = world.taps()[0];
    assert!(world.host.kernel.guard.ports.contains_key(&index));
}

#[test]
fn flags_of_a_port_that_was_renamed_before_it_could_leave_its_bridge_go_back() {
    let verdict = PortVerdict {
        flags: PortFlags {
            guard: Some(true),
            ..PortFlags::default()
        },
        ..PortVerdict::default()
    };
    let mut world = World::new(false, Mode::PerNetwork);
    // The new name is read after the plan is made.
    world.host.read_budget = 1;
    let acts = [
        tap(FLAT),
        tap(LOCAL),
        of_tap(verdict),
        Act::Settle,
        bind(LOCAL),
        tap(VLAN),
        Act::Rename { tap: 0, net: FLAT },
    ];
    if let Err(error) = lives(world, &acts, (true, false), false) {
        panic!("{error}");
    }
}

#[test]
fn static_entries_come_with_a_port_that_somebody_else_put_where_it_belongs() {
    let verdict = PortVerdict {
        fdb: vec![FdbEntry { mac: MAC, dst: None }],
        ..PortVerdict::default()
    };
    let mut world = World::new(true, Mode::PerNetwork);
    world.plugins(true, false);
    // In the same breath in which it was attached.
    let (attach, to) = (Act::Turns(1), Act::ToBridge { tap: 0, net: VLAN });
    for act in [
        tap(LOCAL),
        of_tap(verdict.clone()),
        attach,
        bind(VLAN),
        to,
        Act::Settle,
    ] {
        world.take(&act);
    }
    let index = world.taps()[0];
    assert_eq!(world.host.kernel.device(index).unwrap().port_fdb, [MAC]);
}

#[test]
fn what_was_set_before_events_were_lost_goes_back() {
    let verdict = PortVerdict {
        alias: Some("site".into()),
        fdb: vec![FdbEntry { mac: MAC, dst: None }],
        flags: PortFlags {
            flood: Some(false),
            ..PortFlags::default()
        },
        ..PortVerdict::default()
    };
    for turns in 1..5 {
        let mut world = World::new(true, Mode::PerNetwork);
        // What was read last is how the tap was when it came.
        world.host.read_budget = 1;
        let acts = [
            tap(LOCAL),
            of_tap(verdict.clone()),
            Act::Turns(turns),
            Act::Lose,
            tap(LOCAL),
            Act::SayOfTap(0, None),
        ];
        if let Err(error) = lives(world, &acts, (true, false), false) {
            panic!("{turns}: {error}");
        }
    }
}

#[test]
fn the_guard_of_a_port_that_is_on_no_bridge_goes_with_its_mapping() {
    let guarded = || Act::Bind {
        tap: 0,
        net: LOCAL,
        mac: Some(1),
    };
    let deny = NetworkVerdict {
        deny: denial(),
        ..NetworkVerdict::default()
    };
    // Taken off by somebody and unbound; or denied, so that it never came on.
    let unbound = vec![
        tap(NOWHERE),
        guarded(),
        Act::Settle,
        Act::Detach(0),
        Act::Turns(1),
        Act::Unbind(0),
    ];
    let denied = vec![
        of_network(LOCAL, deny),
        tap(LOCAL),
        guarded(),
        Act::Settle,
        Act::FlushRuleset,
        Act::Settle,
        Act::Rename { tap: 0, net: LOCAL },
    ];
    let port_denied = vec![
        tap(LOCAL),
        guarded(),
        Act::Settle,
        Act::Detach(0),
        Act::Turns(1),
        Act::Rename { tap: 0, net: LOCAL },
        of_tap(PortVerdict {
            deny: denial(),
            ..PortVerdict::default()
        }),
    ];
    for acts in [unbound, denied, port_denied] {
        let mut world = World::new(false, Mode::PerNetwork);
        world.plugins(true, true);
        for act in acts.iter().chain([&Act::Wait(20_000)]) {
            world.take(act);
        }
        let index = world.taps()[0];
        assert!(!world.host.kernel.guard.ports.contains_key(&index));
    }
}
