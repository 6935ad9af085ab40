//! The same on a VLAN-aware bridge, whose VLANs, PVIDs, VNIs and tunnel ids somebody changes by hand. No plugins here: they
//! have nothing to say about VLANs.

use super::hand::{Act, Mode, World};
use super::{check, config, known, one_dump_is_enough};
use crate::fake_kernel::{Fault, Moment};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

fn acts(most: usize) -> impl Strategy<Value = Vec<Act>> {
    proptest::collection::vec(Act::any(Mode::VlanAware), 1..most)
}

fn ends_as_told(world: &mut World) -> Result<(), TestCaseError> {
    check::converged(world)?;
    check::second_pass_is_empty(world)?;
    check::a_fresh_start_finds_nothing_to_do(world)?;
    check::rules(world)
}

/// The last network's entries went with its VLAN, which nobody needed for long; then somebody gives the device its VNI back.
#[test]
fn entries_that_went_with_their_vlan_are_made_again() {
    let mut world = World::new(false, Mode::VlanAware);
    let acts = [
        known::tap(0),
        known::bind(5),
        Act::Settle,
        known::bind(2),
        Act::Wait(400_000),
        Act::Vni { vni: 1, add: true },
        known::bind(5),
    ];
    for act in &acts {
        world.take(act);
    }
    world.recover();
    ends_as_told(&mut world).unwrap();
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_happens_on_a_vlan_aware_bridge_the_world_ends_as_told(
        prewarm in any::<bool>(),
        budget in prop_oneof![Just(512_usize), 1_usize..8],
        acts in acts(40),
    ) {
        let mut world = World::new(prewarm, Mode::VlanAware);
        world.host.read_budget = budget;
        for act in &acts {
            world.take(act);
        }
        world.recover();
        ends_as_told(&mut world)?;
    }

    #[test]
    fn the_same_on_a_vlan_aware_bridge_with_operations_that_fail(
        acts in acts(24),
        faults in proptest::collection::vec((0_usize..60, any::<bool>(), 0_usize..4), 1..6),
    ) {
        let mut world = World::new(false, Mode::VlanAware);
        for (skip, after, errno) in faults {
            let errno = [libc::EBUSY, libc::EINVAL, libc::EPERM, libc::ENOMEM][errno];
            let moment = if after { Moment::After } else { Moment::Before };
            world.host.faults.push(Fault::once(skip, moment, errno));
            world.forgetful |= after;
            world.faulty = true;
        }
        for act in &acts {
            world.take(act);
        }
        world.host.faults.clear();
        world.recover();
        world.resync();
        ends_as_told(&mut world)?;
    }

    #[test]
    fn however_many_messages_of_a_vlan_aware_bridge_are_lost_one_dump_makes_it_good(acts in acts(30)) {
        one_dump_is_enough(World::new(false, Mode::VlanAware), &acts)?;
    }
}
