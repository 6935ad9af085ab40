//! `tapwire demo`: the whole program at work, in a world of its own.
//!
//! Leaves the host's network first of all (a private user and network namespace), then starts the real daemon there
//! as a child process, makes taps as a hypervisor would and meddles with what the daemon built. What it reports as
//! repaired it has read from the kernel, not from the daemon.
//!
//! - `world`: the stand-in NICs, the networks, the configuration
//! - `process`: the daemon
//! - `meddle`: what is done behind its back
//! - `act`: the acts, in order
//! - `screen`: what is shown

mod act;
mod meddle;
mod process;
mod screen;
mod world;

use super::context::Context;
use super::failure::{Exit, Failure};
use crate::control::client::Client;
use crate::daemon::namespace;
use crate::kernel::tuntap::{Tap, TapSource};
use meddle::Hand;
use process::Daemon;
use screen::Screen;
use world::World;

/// Show it all in a private namespace: no root, and nothing on this host is touched
///
/// Starts the real daemon in a user and network namespace of its own, makes taps, shows how each is attached and how
/// long it took; then takes a tap off its bridge, deletes a bridge, makes a tap that nobody has told about, and shows
/// what the daemon does. Succeeds only if every tap ended attached.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many taps
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=9999))]
    taps: u32,
    /// How many networks
    #[arg(long, value_name = "M", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    networks: u32,
}

pub fn run(context: &mut Context, args: Args) -> Result<(), Failure> {
    // Before anything else: what cannot work is said before anything is made.
    TapSource::open().map_err(|e| Failure::from_error(Exit::Failed, &e))?;
    namespace::enter_private().map_err(|e| {
        Failure::from_error(Exit::Failed, &e).hint(
            "`sudo tapwire demo` works everywhere, and still touches nothing outside a network namespace",
        )
    })?;
    let mut hand = Hand::new().map_err(|e| Failure::from_error(Exit::Failed, &e))?;
    let world = World::build(&mut hand, usize::try_from(args.networks).unwrap_or(1))?;
    let mut taps = Vec::new();
    let outcome = play(
        context,
        &world,
        &mut hand,
        usize::try_from(args.taps).unwrap_or(1),
        &mut taps,
    );
    release(taps);
    outcome
}

fn play(
    context: &mut Context,
    world: &World,
    hand: &mut Hand,
    count: usize,
    taps: &mut Vec<Tap>,
) -> Result<(), Failure> {
    let mut daemon = Daemon::start(world)?;
    let client = Client::new(&world.socket);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot wait for the daemon: {e}")))?;
    let json = context.global.json;
    let mut screen = Screen::new(&mut context.out, json);
    screen.opening(world)?;
    let summary = runtime.block_on(async {
        daemon.wait_in_sync(&client).await?;
        let mut acts = act::Acts {
            client: &client,
            daemon: &daemon,
            world,
            hand,
            screen: &mut screen,
            taps,
        };
        acts.play(count).await
    })?;
    let status = daemon.stop()?;
    screen.closing(&summary)?;
    if !status.success() {
        return Err(daemon.disappointed(&format!("the daemon ended badly ({status})")));
    }
    if summary.attached == summary.taps {
        Ok(())
    } else {
        Err(Failure::failed(format!(
            "{} of {} taps are not attached",
            summary.taps - summary.attached,
            summary.taps
        )))
    }
}

/// Closing a tap costs 20 ms each (the kernel waits for its readers); a persistent one is closed at once and goes with
/// the namespace, after we have ended.
fn release(taps: Vec<Tap>) {
    for tap in taps {
        if tap.set_persistent(true).is_err() {
            // Then its end is slow, nothing worse.
            continue;
        }
    }
}
