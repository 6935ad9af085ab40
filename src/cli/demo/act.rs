//! The acts of the demo. Each waits for what it shows, with a limit, and never longer.

use super::meddle::Hand;
use super::process::Daemon;
use super::screen::{Screen, Summary};
use super::world::World;
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{Style, count, micros};
use crate::control::api::{BindRequest, Binding, PlanRow, PortRow, PortState, WaitReport};
use crate::control::client::Client;
use crate::kernel::tuntap::Tap;
use crate::model::{Ifindex, LinkName};
use crate::plan::op::LinkRef;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

/// For one thing to come right.
const PATIENCE: Duration = Duration::from_secs(10);
/// A few taps come one by one, as a person starting machines would see it; many come as fast as they can.
const PACE_LIMIT: Duration = Duration::from_millis(1500);
const PACE_MAX: Duration = Duration::from_millis(40);
/// How often the daemon is asked how far it is.
const GLANCE: Duration = Duration::from_millis(15);
/// The tap that no mapping knows. It matches `taps.match` and no `[[port]]`.
const STRAY: &str = "tap-stray";

pub struct Acts<'a, 'o> {
    pub client: &'a Client,
    pub daemon: &'a Daemon,
    pub world: &'a World,
    pub hand: &'a mut Hand,
    pub screen: &'a mut Screen<'o>,
    pub taps: &'a mut Vec<Tap>,
}

impl Acts<'_, '_> {
    pub async fn play(&mut self, count: usize) -> Result<Summary, Failure> {
        let mut summary = Summary {
            taps: count,
            networks: self.world.networks.len(),
            ..Summary::default()
        };
        let rows = self.appear(count).await?;
        summary.times(rows.iter().filter_map(|row| row.attach_us).collect());
        let healthy = rows.iter().all(|row| row.state == PortState::Attached);
        // Meddling shows nothing when the taps are not even there.
        if healthy && self.kernel_tells() {
            summary.repairs += self.take_off(&rows)?;
            summary.repairs += self.delete_bridge(&rows)?;
        }
        if healthy {
            self.stray().await?;
            summary.taps += 1;
        }
        let rows = self.settled(summary.taps).await?;
        summary.attached = rows.iter().filter(|row| row.state == PortState::Attached).count();
        for row in rows.iter().filter(|row| row.state != PortState::Attached) {
            self.screen.port(row)?;
        }
        let plan: Vec<PlanRow> = self.ask(self.client.get("/v1/plan").await)?;
        summary.left_to_do = plan.len();
        summary.elapsed_us = self.screen.elapsed_us();
        Ok(summary)
    }

    /// Taps appear; every one is shown when something was decided for it.
    async fn appear(&mut self, taps: usize) -> Result<Vec<PortRow>, Failure> {
        self.screen.heading(&format!(
            "{} appear, as a hypervisor makes them",
            count(taps, "tap")
        ))?;
        let pace = (PACE_LIMIT / u32::try_from(taps).unwrap_or(u32::MAX)).min(PACE_MAX);
        let mut shown = HashSet::new();
        let mut glanced = Instant::now();
        for number in 0..taps {
            let (name, _) = self.world.tap_name(number);
            self.make_tap(&name)?;
            tokio::time::sleep(pace).await;
            if glanced.elapsed() >= GLANCE {
                self.show_settled(&mut shown).await?;
                glanced = Instant::now();
            }
        }
        let deadline =
            Instant::now() + PATIENCE + Duration::from_millis(20) * u32::try_from(taps).unwrap_or(0);
        loop {
            let rows = self.show_settled(&mut shown).await?;
            if shown.len() >= taps || Instant::now() > deadline {
                return Ok(rows);
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    async fn show_settled(&mut self, shown: &mut HashSet<String>) -> Result<Vec<PortRow>, Failure> {
        let rows = self.rows().await?;
        for row in &rows {
            let settled = matches!(
                row.state,
                PortState::Attached | PortState::Conflict | PortState::Denied
            );
            if settled && shown.insert(row.tap.clone()) {
                self.screen.port(row)?;
            }
        }
        Ok(rows)
    }

    /// Somebody takes a tap off its bridge.
    fn take_off(&mut self, rows: &[PortRow]) -> Result<usize, Failure> {
        let Some((row, bridge)) = rows
            .iter()
            .rev()
            .find_map(|row| row.bridge.as_deref().map(|b| (row, b)))
        else {
            return Ok(0);
        };
        self.screen.heading("Somebody takes a tap off its bridge")?;
        let link = LinkRef {
            name: link_name(&row.tap)?,
            index: Ifindex::new(row.ifindex),
        };
        self.screen.note(
            Style::Accent,
            "by hand",
            &format!("ip link set dev {} nomaster", row.tap),
        )?;
        let since = Instant::now();
        self.hand.detach(link).map_err(|e| {
            let what = format!("cannot take {} off {bridge}", row.tap);
            Failure::from_error(Exit::Failed, &e).context(&what)
        })?;
        let taps = HashMap::from([(row.tap.clone(), bridge.to_owned())]);
        let healed = healed(self.daemon, &taps, since, || true)?;
        self.screen.note(
            Style::Good,
            "healed",
            &format!("{} is back on {bridge} after {healed}", row.tap),
        )?;
        Ok(1)
    }

    /// Somebody deletes a bridge with taps on it.
    fn delete_bridge(&mut self, rows: &[PortRow]) -> Result<usize, Failure> {
        let Some(bridge) = rows.iter().find_map(|row| row.bridge.clone()) else {
            return Ok(0);
        };
        let taps: HashMap<String, String> = rows
            .iter()
            .filter(|row| row.bridge.as_ref() == Some(&bridge))
            .map(|row| (row.tap.clone(), bridge.clone()))
            .collect();
        self.screen.heading(&format!(
            "Somebody deletes a bridge with {} taps on it",
            taps.len()
        ))?;
        self.screen
            .note(Style::Accent, "by hand", &format!("ip link del dev {bridge}"))?;
        let (name, before) = (link_name(&bridge)?, bridge_index(&bridge));
        let since = Instant::now();
        // In a thread, because the call returns late: the kernel waits for its readers, the daemon does not.
        let (hand, daemon) = (&mut *self.hand, self.daemon);
        let (deleted, healed) = std::thread::scope(|scope| {
            let deletion = scope.spawn(|| hand.delete(name).map(|()| took(since)));
            let healed = healed(daemon, &taps, since, || bridge_index(&bridge) != before);
            (deletion.join(), healed)
        });
        let cannot = format!("cannot delete {bridge}");
        let deletion = match deleted {
            Ok(Ok(deletion)) => deletion,
            Ok(Err(e)) => return Err(Failure::from_error(Exit::Failed, &e).context(&cannot)),
            Err(_) => return Err(Failure::failed(cannot)),
        };
        let healed = healed?;
        let taps_back = count(taps.len(), "tap");
        self.screen.note(
            Style::Good,
            "healed",
            &format!("{bridge} is rebuilt and {taps_back} back on it after {healed}"),
        )?;
        let note = format!("(the kernel's own part of the deletion took {deletion})");
        self.screen.note(Style::Plain, "", &note)?;
        Ok(taps.len())
    }

    /// A tap that no mapping knows is left alone until somebody says where it belongs.
    async fn stray(&mut self) -> Result<(), Failure> {
        let Some(network) = self.world.networks.first().map(|n| n.id.clone()) else {
            return Ok(());
        };
        self.screen.heading("A tap appears that nobody has told about")?;
        self.make_tap(STRAY)?;
        self.wait_for(STRAY, PortState::Pending).await?;
        let row = self.row(STRAY).await?;
        self.screen.port(&row)?;
        self.screen.note(
            Style::Accent,
            "by hand",
            &format!("tapwire port bind {STRAY} {network}"),
        )?;
        let since = Instant::now();
        let request = BindRequest {
            port: STRAY.into(),
            network,
            ..BindRequest::default()
        };
        let path = format!("/v1/ports/{STRAY}/binding");
        let _: Binding = self.ask(self.client.put(&path, &request).await)?;
        self.wait_for(STRAY, PortState::Attached).await?;
        let row = self.row(STRAY).await?;
        self.screen.port(&row)?;
        self.screen.note(
            Style::Good,
            "bound",
            &format!("told, kept on disk and attached after {}", took(since)),
        )?;
        Ok(())
    }

    /// Until every row is attached, or the patience is over.
    async fn settled(&mut self, count: usize) -> Result<Vec<PortRow>, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rows = self.rows().await?;
            let attached = rows.iter().filter(|row| row.state == PortState::Attached).count();
            if attached >= count || Instant::now() > deadline {
                return Ok(rows);
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Whether a fresh /sys shows this namespace's devices (a container may refuse one).
    fn kernel_tells(&self) -> bool {
        self.taps
            .first()
            .is_none_or(|tap| Path::new("/sys/class/net").join(tap.name().to_string()).exists())
    }

    async fn wait_for(&self, port: &str, state: PortState) -> Result<(), Failure> {
        let path = format!(
            "/v1/wait?port={port}&state={}&timeout={}",
            state.as_str(),
            PATIENCE.as_secs()
        );
        self.ask(self.client.get::<WaitReport>(&path).await).map(drop)
    }

    async fn rows(&self) -> Result<Vec<PortRow>, Failure> {
        self.ask(self.client.get("/v1/ports").await)
    }

    async fn row(&self, tap: &str) -> Result<PortRow, Failure> {
        self.ask(self.client.get(&format!("/v1/ports/{tap}")).await)
    }

    /// An answer, or what the daemon's log says about the lack of one.
    fn ask<T>(&self, answer: Result<T, crate::control::client::Error>) -> Result<T, Failure> {
        answer.map_err(|error| {
            self.daemon
                .disappointed(&Failure::from_error(Exit::Failed, &error).message)
        })
    }

    fn make_tap(&mut self, name: &str) -> Result<(), Failure> {
        let tap = Tap::create(Some(&link_name(name)?)).map_err(|e| Failure::from_error(Exit::Failed, &e))?;
        self.taps.push(tap);
        Ok(())
    }
}

/// Until `broken` was seen to have happened and the kernel says that every tap is a port of its bridge; how long
/// that took.
fn healed(
    daemon: &Daemon,
    taps: &HashMap<String, String>,
    since: Instant,
    broken: impl Fn() -> bool,
) -> Result<String, Failure> {
    let mut missing: Vec<_> = taps.iter().collect();
    let mut was_broken = false;
    loop {
        was_broken = was_broken || broken();
        if was_broken {
            missing.retain(|(tap, bridge)| master(tap).as_deref() != Some(bridge));
        }
        let Some((tap, bridge)) = missing.first() else {
            return Ok(took(since));
        };
        if since.elapsed() > PATIENCE {
            let message = format!("{tap} is not back on {bridge} after {PATIENCE:?}");
            return Err(daemon.disappointed(&message));
        }
        // Short, because what is measured is short; the daemon is another process.
        std::thread::sleep(Duration::from_micros(50));
    }
}

fn master(tap: &str) -> Option<String> {
    let target = std::fs::read_link(Path::new("/sys/class/net").join(tap).join("master")).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// Another index under the same name is another bridge; absent while there is none.
fn bridge_index(name: &str) -> Option<String> {
    std::fs::read_to_string(Path::new("/sys/class/net").join(name).join("ifindex")).ok()
}

fn link_name(text: &str) -> Result<LinkName, Failure> {
    LinkName::new(text).map_err(|e| Failure::failed(e.to_string()))
}

fn took(since: Instant) -> String {
    micros(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX))
}
