//! Worlds in which an operation was once refused, and something was left behind.

use super::hand::{Act, Mode, World};
use super::known::{FLAT, LOCAL, MAC, VLAN, bind, mtu, of_network, of_tap, tap};
use crate::fake_kernel::{Fault, Moment};
use tapwire::desired::verdict::{NetworkVerdict, PortVerdict};
use tapwire::engine::state::PortState;
use tapwire::model::{FdbEntry, PortFlags};

#[test]
fn a_bridge_whose_first_request_failed_keeps_its_own_mtu() {
    let mut world = World::new(false, Mode::PerNetwork);
    world
        .host
        .faults
        .push(Fault::once(1, Moment::Before, libc::EBUSY));
    let big = Act::NewTap {
        net: LOCAL,
        mtu: 9000,
        up: true,
    };
    for act in [big, Act::Settle, Act::Wait(20_000)] {
        world.take(&act);
    }
    assert_eq!(world.host.kernel.named("brqloc").unwrap().link.mtu, 1500);
}

#[test]
fn static_entries_come_with_a_port_whose_first_plan_failed() {
    let mut world = World::new(false, Mode::PerNetwork);
    world.plugins(true, true);
    let verdict = PortVerdict {
        flags: PortFlags {
            isolated: Some(true),
            ..PortFlags::default()
        },
        fdb: vec![FdbEntry { mac: MAC, dst: None }],
        ..PortVerdict::default()
    };
    for act in [tap(LOCAL), tap(VLAN), of_tap(verdict), Act::Settle] {
        world.take(&act);
    }
    world.host.faults.push(Fault {
        op: "set_port".to_owned(),
        ..Fault::once(0, Moment::Before, libc::EBUSY)
    });
    for act in [bind(VLAN), Act::Settle, Act::Wait(20_000)] {
        world.take(&act);
    }
    let index = world.taps()[0];
    let device = world.host.kernel.device(index).unwrap();
    assert!(
        world.host.faults.iter().all(|fault| fault.times == 0),
        "the fault struck"
    );
    assert_eq!(device.port_fdb, [MAC]);
}

#[test]
fn an_unfinished_bridge_that_is_told_an_mtu_goes_back_to_1500() {
    let mut world = World::new(false, Mode::PerNetwork);
    world.plugins(false, true);
    world
        .host
        .faults
        .push(Fault::once(1, Moment::Before, libc::EBUSY));
    let verdict = NetworkVerdict {
        mtu: mtu(1400),
        ..NetworkVerdict::default()
    };
    let mtu_of_bridge = |world: &World| world.host.kernel.named("brqloc").unwrap().link.mtu;
    for act in [tap(LOCAL), Act::Turns(1)] {
        world.take(&act);
    }
    assert_eq!(mtu_of_bridge(&world), 1501, "the fault struck");
    for act in [of_network(LOCAL, verdict), Act::Wait(20_000)] {
        world.take(&act);
    }
    assert_eq!(mtu_of_bridge(&world), 1400);
    for act in [Act::SayOfNetwork(LOCAL, None), Act::Wait(20_000)] {
        world.take(&act);
    }
    assert_eq!(mtu_of_bridge(&world), 1500);
}

#[test]
fn an_interface_that_a_network_left_goes_back_although_it_was_refused() {
    let verdict = NetworkVerdict {
        mtu: mtu(9000),
        ..NetworkVerdict::default()
    };
    for refusals in [1, 3] {
        let mut world = World::new(false, Mode::PerNetwork);
        world.plugins(false, true);
        for act in [of_network(VLAN, verdict.clone()), tap(VLAN), Act::Settle] {
            world.take(&act);
        }
        let mtu_of_nic = |world: &World| world.host.kernel.named("eth1").unwrap().link.mtu;
        assert_eq!(mtu_of_nic(&world), 9000);
        world.host.faults.push(Fault {
            op: "ip link set eth1 mtu 1500".to_owned(),
            times: refusals,
            ..Fault::once(0, Moment::Before, libc::EBUSY)
        });
        for act in [Act::DeleteTap(0), Act::Settle] {
            world.take(&act);
        }
        assert_eq!(mtu_of_nic(&world), 9000, "the fault struck");
        // Whoever comes now does not wait for that.
        for act in [tap(VLAN), Act::Settle] {
            world.take(&act);
        }
        let index = world.taps()[0];
        assert_eq!(world.host.engine.tap(index).unwrap().state, PortState::Attached);
        for act in [Act::DeleteTap(0), Act::Wait(20_000)] {
            world.take(&act);
        }
        assert_eq!(mtu_of_nic(&world), 1500);
    }
}

#[test]
fn an_unfinished_bridge_that_followed_a_port_has_an_mtu_of_its_own_when_it_is_finished() {
    let mut world = World::new(false, Mode::PerNetwork);
    world
        .host
        .faults
        .push(Fault::once(1, Moment::Before, libc::EBUSY));
    let small = Act::NewTap {
        net: LOCAL,
        mtu: 1400,
        up: true,
    };
    let there_and_away = [Act::ToBridge { tap: 0, net: LOCAL }, Act::Detach(0)];
    for act in [small, Act::Turns(1)].iter().chain(&there_and_away) {
        world.take(act);
    }
    let mtu_of_bridge = |world: &World| world.host.kernel.named("brqloc").unwrap().link.mtu;
    assert_eq!(mtu_of_bridge(&world), 1500, "the fault struck");
    world.take(&Act::Wait(20_000));
    assert_eq!(mtu_of_bridge(&world), 1500);
}

#[test]
fn a_move_that_was_taken_back_begins_with_the_interface_again() {
    // The events of what was taken back are lost, and the resync is not due.
    let mut world = World::new(false, Mode::PerNetwork);
    world
        .host
        .faults
        .push(Fault::once(3, Moment::Before, libc::EBUSY));
    let otherwise = Act::NetworkMtu {
        net: FLAT,
        mtu: Some(1400),
    };
    for act in [tap(FLAT), Act::Turns(2), otherwise, Act::Lose] {
        world.take(&act);
    }
    world.recover();
    assert!(world.host.breaches.is_empty(), "{:#?}", world.host.breaches);
}

#[test]
fn a_flat_interface_whose_bridge_is_gone_does_not_wait_as_after_a_failed_move() {
    let mut world = World::new(false, Mode::PerNetwork);
    world.host.faults.push(Fault {
        op: "ip link set eth2 master brqflat".to_owned(),
        ..Fault::once(0, Moment::Before, libc::ENODEV)
    });
    for act in [tap(FLAT), Act::Wait(3_000)] {
        world.take(&act);
    }
    assert!(world.host.faults.is_empty(), "the fault struck");
    let bridge = world.host.kernel.index("brqflat");
    assert!(bridge.is_some());
    assert_eq!(world.host.kernel.named("eth2").unwrap().link.master, bridge);
}

#[test]
fn what_cannot_be_taken_back_stays_with_all_that_was_done_before_it() {
    for (lost, refused) in [
        ("ip link set eth2 nomaster", "ip link set eth2 master brqflat"),
        (
            "ip route replace default (IPv6)",
            "ip route replace default (IPv6)",
        ),
    ] {
        let mut world = World::new(false, Mode::PerNetwork);
        for act in [tap(FLAT), Act::Settle] {
            world.take(&act);
        }
        let fault = |op: &str, skip, moment| Fault {
            op: op.to_owned(),
            ..Fault::once(skip, moment, libc::EBUSY)
        };
        // The second skips what the first strikes, if it is of the same name.
        let skip = usize::from(lost == refused);
        world.host.faults.push(fault(refused, skip, Moment::Before));
        world.host.faults.push(fault(lost, 0, Moment::After));
        for act in [Act::DeleteTap(0), Act::Wait(400_000)] {
            world.take(&act);
        }
        assert!(world.host.faults.is_empty(), "both faults struck");
        world.take(&Act::Wait(400_000));
        assert!(
            world.host.breaches.is_empty(),
            "{lost}: {:#?}",
            world.host.breaches
        );
        assert_eq!(world.host.kernel.routes.len(), 3, "{lost}");
        assert!(world.host.kernel.named("brqflat").is_none(), "{lost}");
    }
}
