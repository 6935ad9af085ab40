//! Random worlds and random hands in them.
//!
//! A world has four networks, one of each type (on a VLAN-aware bridge six: `aware`), with their interfaces, and things that
//! are none of the program's business.
//! Hands make, rename, detach, move and delete taps, delete and change bridges and uplinks, take interfaces and addresses
//! away, tell other mappings and networks; plugins say something, something else, nothing more; messages are lost, held
//! back and repeated; the program is restarted. Then everybody stops, what is missing comes back, and time passes. What must
//! hold then, and at every moment, is in `check`; in the end the plugins fall silent, and nothing is left of what they
//! said (`verdict`).
//!
//! Without more the same 96 worlds are made each time, so that a red run is about the change at hand. `TAPWIRE_CASES=20000`
//! makes as many new ones; a failing one is kept in `proptest-regressions.txt`.

mod aware;
mod check;
mod hand;
mod known;
mod refused;
mod verdict;

use crate::fake_kernel::{Fault, Moment};
use hand::{Act, Mode, World};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, RngSeed, TestCaseError};

fn config() -> Config {
    let cases = std::env::var("TAPWIRE_CASES").ok().and_then(|n| n.parse().ok());
    Config {
        cases: cases.unwrap_or(96),
        rng_seed: cases.map_or(RngSeed::Fixed(0x7461_7077), |_| RngSeed::Random),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/engine_properties/proptest-regressions.txt"
        )))),
        max_shrink_iters: 4000,
        ..Config::default()
    }
}

/// What happens, and what must hold in the end. `gone`: the plugins go; else they have no opinion any more.
fn lives(mut world: World, acts: &[Act], plugins: (bool, bool), gone: bool) -> Result<(), TestCaseError> {
    world.plugins(plugins.0, plugins.1);
    for act in acts {
        world.take(act);
    }
    world.recover();
    check::converged(&mut world)?;
    check::second_pass_is_empty(&mut world)?;
    verdict::what_is_not_said_any_more_is_undone(&mut world, gone)?;
    check::converged(&mut world)?;
    check::second_pass_is_empty(&mut world)?;
    check::a_fresh_start_finds_nothing_to_do(&mut world)?;
    check::rules(&world)
}

fn one_dump_is_enough(mut world: World, acts: &[Act]) -> Result<(), TestCaseError> {
    for act in acts.iter().filter(|act| act.is_kernels()) {
        world.quietly(act);
    }
    world.host.overrun();
    world.host.overrun();
    let before = world.host.dumps;
    world.recover_quietly();
    world.host.overrun();
    world.wait(130);
    prop_assert_eq!(world.host.dumps, before + 1);
    check::converged(&mut world)?;
    check::second_pass_is_empty(&mut world)?;
    check::rules(&world)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_happens_the_world_ends_as_told(
        prewarm in any::<bool>(),
        budget in prop_oneof![Just(512_usize), 1_usize..8],
        acts in proptest::collection::vec(Act::any(Mode::PerNetwork), 1..40),
        plugins in any::<(bool, bool)>(),
        gone in any::<bool>(),
    ) {
        let mut world = World::new(prewarm, Mode::PerNetwork);
        world.host.read_budget = budget;
        lives(world, &acts, plugins, gone)?;
    }

    #[test]
    fn the_same_with_operations_that_fail(
        acts in proptest::collection::vec(Act::any(Mode::PerNetwork), 1..24),
        plugins in any::<(bool, bool)>(),
        faults in proptest::collection::vec((0_usize..60, any::<bool>(), 0_usize..4), 1..6),
    ) {
        let mut world = World::new(false, Mode::PerNetwork);
        world.plugins(plugins.0, plugins.1);
        for (skip, after, errno) in faults {
            let errno = [libc::EBUSY, libc::EINVAL, libc::EPERM, libc::ENOMEM][errno];
            let moment = if after { Moment::After } else { Moment::Before };
            world.host.faults.push(Fault::once(skip, moment, errno));
            world.forgetful |= after;
            // A bridge whose making was not acknowledged is taken for somebody else's, with the MTU it has.
            world.meddled |= after;
            world.faulty = true;
        }
        for act in &acts {
            world.take(act);
        }
        world.host.faults.clear();
        world.recover();
        world.resync();
        check::converged(&mut world)?;
        check::second_pass_is_empty(&mut world)?;
        verdict::what_is_not_said_any_more_is_undone(&mut world, true)?;
        check::converged(&mut world)?;
        check::second_pass_is_empty(&mut world)?;
        check::a_fresh_start_finds_nothing_to_do(&mut world)?;
        check::rules(&world)?;
    }

    #[test]
    fn however_many_messages_are_lost_one_dump_makes_it_good(
        acts in proptest::collection::vec(Act::any(Mode::PerNetwork), 1..30),
    ) {
        one_dump_is_enough(World::new(false, Mode::PerNetwork), &acts)?;
    }
}
