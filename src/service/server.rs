//! The life of one network's server: started, told of new ports, restarted when that is the only way, watched.
//!
//! A task of its own for each network, so one that waits, fails or is being ended holds up no other. What it does follows
//! from three things only: what is wanted, what the process that runs was told, and what the disk shows.
//!
//! - New ports are files renamed in; dnsmasq reads them at once.
//! - Anything else (an option, a port that goes or changes) is a new dnsmasq: it forgets nothing that it has read. The
//!   lease file stays, without the leases that lost their right. Restarts for freed addresses are at least
//!   `RESTART_PAUSE` apart, unless somebody is to get a freed address now; clients ask again, so they do not notice.
//! - A process that ends by itself is started again at once if it had been well, else after growing pauses.
//! - Files of ours that somebody removes or changes are written again.

use super::files::{self, Files, Layout, Step};
use super::leases;
use super::process::{self, Happened, Process};
use super::supervisor::Watching;
use super::{Error, Event, Lease, LeaseWhat, State, chain, report};
use crate::desired::service::ServiceWant;
use crate::engine::backoff::{Fight, after_failures};
use crate::model::{Ifindex, NetworkId, Time};
use std::fs;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Between two restarts that only free addresses.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// So long it must have run for its failures to be forgotten.
const WELL: Duration = Duration::from_secs(60);
/// dnsmasq's own word for having opened everything.
const STARTED: &str = "started, version";

#[derive(Debug)]
pub enum Order {
    Serve {
        device: Ifindex,
        want: Box<ServiceWant>,
    },
    /// Something happened to this file.
    Look(PathBuf),
    /// End, and remove everything.
    Remove,
}

/// What the servers share.
pub struct Surroundings {
    pub directory: PathBuf,
    /// This program, which dnsmasq runs for lease events.
    pub lease_program: PathBuf,
    pub events: mpsc::UnboundedSender<Event>,
    pub watching: Watching,
    pub began: Instant,
}

enum Phase {
    /// Nothing runs; started when `due`.
    Down,
    Up(Process),
    /// Told to end; killed at the instant. Then started again, or not.
    Ending(Process, Instant),
}

pub struct Server {
    network: NetworkId,
    layout: Layout,
    around: Rc<Surroundings>,
    want: Box<ServiceWant>,
    device: Ifindex,
    /// What the directory should hold.
    files: Files,
    /// What the process that runs has been told, and on which device.
    told: Files,
    told_device: Ifindex,
    phase: Phase,
    /// To be started (down) or restarted (up) then.
    due: Option<Instant>,
    started_at: Instant,
    /// It said that it has opened everything.
    ready: bool,
    failures: u32,
    /// Somebody keeps changing our files.
    fight: Fight,
    socket: Option<UnixDatagram>,
}

/// What a turn of the task was woken by.
enum Woken {
    Order(Option<Order>),
    Process(Happened),
    Report(Vec<u8>),
    Due,
}

impl Server {
    pub fn new(
        network: NetworkId,
        around: Rc<Surroundings>,
        device: Ifindex,
        want: Box<ServiceWant>,
    ) -> Self {
        let layout = Layout::of(&around.directory, &network);
        let now = Instant::now();
        Self {
            files: Files::of(&want, &layout),
            network,
            layout,
            around,
            want,
            device,
            told: Files::default(),
            told_device: device,
            phase: Phase::Down,
            due: Some(now),
            started_at: now,
            ready: false,
            failures: 0,
            fight: Fight::default(),
            socket: None,
        }
    }

    /// Until told to remove it, or there is nobody left to tell: then the process is ended and the files stay.
    pub async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        process::end_stale(&self.layout);
        loop {
            match self.wake(&mut orders).await {
                Woken::Order(Some(Order::Serve { device, want })) => self.serve(device, want),
                Woken::Order(Some(Order::Look(path))) => self.look(path),
                Woken::Order(Some(Order::Remove)) => {
                    self.end().await;
                    if let Err(error) = files::remove(self.layout.root()) {
                        tracing::warn!(target: "service", network = %self.network, error = %chain(&error), "directory stays");
                    }
                    return;
                }
                Woken::Order(None) => return self.end().await,
                Woken::Process(Happened::Line(line)) => self.on_line(&line),
                Woken::Process(Happened::Ended(status)) => self.on_end(status),
                Woken::Report(datagram) => {
                    if let Some(lease) = report::read(&self.network, &datagram) {
                        self.tell(Event::Lease(lease));
                    }
                }
                Woken::Due => self.on_due(),
            }
        }
    }

    /// Every arm is cancel-safe: channel, readiness and sleep lose nothing when dropped.
    async fn wake(&mut self, orders: &mut mpsc::UnboundedReceiver<Order>) -> Woken {
        let due = match &self.phase {
            Phase::Ending(_, kill_at) => Some(*kill_at),
            Phase::Down | Phase::Up(_) => self.due,
        };
        tokio::select! {
            biased;
            order = orders.recv() => Woken::Order(order),
            happened = happened(&mut self.phase) => Woken::Process(happened),
            datagram = receive(self.socket.as_ref()) => Woken::Report(datagram),
            () = sleep_until(due) => Woken::Due,
        }
    }

    fn serve(&mut self, device: Ifindex, want: Box<ServiceWant>) {
        self.files = Files::of(&want, &self.layout);
        self.want = want;
        self.device = device;
        let now = Instant::now();
        match &self.phase {
            // Whatever was wrong may be right now.
            Phase::Down => self.due = Some(now),
            Phase::Ending(..) => {}
            Phase::Up(_) if self.device != self.told_device => self.due = Some(now),
            Phase::Up(_) => match self.told.step_to(&self.files) {
                Step::Nothing => self.due = None,
                Step::Additions => {
                    self.due = None;
                    match self.files.write_additions(&self.told, &self.layout) {
                        Ok(()) => self.told = self.files.clone(),
                        Err(error) => self.distrust(&error),
                    }
                }
                Step::Restart
                    if self.told.configuration != self.files.configuration
                        || self.told.reuses_freed(&self.files) =>
                {
                    self.due = Some(now);
                }
                Step::Restart => self.due = Some(now.max(self.started_at + RESTART_PAUSE)),
            },
        }
    }

    /// The directory cannot be written while dnsmasq runs: a start will say why.
    fn distrust(&mut self, error: &Error) {
        tracing::warn!(target: "service", network = %self.network, error = %chain(error), "files cannot be written");
        self.due = Some(Instant::now());
    }

    fn look(&mut self, path: PathBuf) {
        if !matches!(self.phase, Phase::Up(_)) || self.told.is_right(&self.layout, &path) {
            return;
        }
        let now = Time::ZERO.plus(self.around.began.elapsed());
        if self.due.is_none() {
            let pause = self.fight.lost(now);
            tracing::warn!(target: "service", network = %self.network, path = %path.display(), "somebody changed a file; it is written again");
            self.due = Some(Instant::now() + pause);
        }
    }

    fn on_due(&mut self) {
        match std::mem::replace(&mut self.phase, Phase::Down) {
            Phase::Down => self.start(false),
            Phase::Up(process) => {
                self.due = None;
                leases::rescue(&self.layout, process.pid());
                process.signal(libc::SIGTERM);
                self.phase = Phase::Ending(process, Instant::now() + process::END_PATIENCE);
            }
            Phase::Ending(process, _) => {
                process.signal(libc::SIGKILL);
                self.phase = Phase::Ending(process, Instant::now() + process::END_PATIENCE);
            }
        }
    }

    fn start(&mut self, again: bool) {
        self.due = None;
        self.ready = false;
        self.started_at = Instant::now();
        self.tell(Event::State {
            network: self.network.clone(),
            state: State::Starting { again },
        });
        match self.try_start() {
            Ok(process) => self.phase = Phase::Up(process),
            Err(error) => self.fail(chain(&error)),
        }
    }

    fn try_start(&mut self) -> Result<Process, Error> {
        let program = process::program()?;
        self.layout.make_root()?;
        self.release_leases()?;
        self.files.write_all(&self.layout, &self.around.lease_program)?;
        self.listen();
        self.around.watching.add(&self.network, &self.layout);
        let process = Process::start(&self.layout, &program, &self.around.lease_program)?;
        files::write(&self.layout, &self.layout.pid(), &format!("{}\n", process.pid()))?;
        self.told = self.files.clone();
        self.told_device = self.device;
        Ok(process)
    }

    /// While nobody writes the lease file.
    fn release_leases(&self) -> Result<(), Error> {
        let path = self.layout.leases();
        let Ok(text) = fs::read_to_string(&path) else {
            return Ok(());
        };
        let before = Files::read_hosts(&self.layout);
        let (kept, released) = leases::retain(&text, &self.want, &before, &self.files.hosts);
        if released.is_empty() {
            return Ok(());
        }
        files::write(&self.layout, &path, &kept)?;
        for lease in released {
            self.tell(Event::Lease(Lease {
                network: self.network.clone(),
                what: LeaseWhat::Ended,
                address: lease.address,
                mac: lease.mac,
                hostname: lease.hostname,
                expires_in: None,
            }));
        }
        Ok(())
    }

    /// Without it leases are given all the same, only nobody hears of them.
    fn listen(&mut self) {
        let path = self.layout.socket();
        let bound = files::remove(&path)
            .and_then(|()| UnixDatagram::bind(&path).map_err(Error::file("listen on", &path)));
        self.socket = match bound {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(target: "service", network = %self.network, error = %chain(&error), "lease events are not heard");
                None
            }
        };
    }

    fn on_line(&mut self, line: &str) {
        tracing::debug!(target: "service", network = %self.network, line, "dnsmasq");
        if !self.ready
            && line.starts_with(STARTED)
            && let Phase::Up(process) = &self.phase
        {
            let pid = process.pid();
            self.ready = true;
            self.tell(Event::State {
                network: self.network.clone(),
                state: State::Running { pid },
            });
        }
    }

    fn on_end(&mut self, status: ExitStatus) {
        match std::mem::replace(&mut self.phase, Phase::Down) {
            Phase::Ending(..) => self.start(false),
            Phase::Down => {}
            Phase::Up(process) => {
                let reason = process.reason(status);
                if self.started_at.elapsed() >= WELL {
                    self.failures = 0;
                }
                if self.ready && self.failures == 0 {
                    self.failures = 1;
                    tracing::warn!(target: "service", network = %self.network, error = %reason, "dnsmasq ended; started again");
                    self.start(true);
                } else {
                    self.fail(reason);
                }
            }
        }
    }

    fn fail(&mut self, reason: String) {
        self.failures += 1;
        let seed = self
            .network
            .as_str()
            .bytes()
            .fold(0, |seed, byte| seed * 31 + u64::from(byte));
        let retry = after_failures(self.failures, seed);
        self.due = Some(Instant::now() + retry);
        self.tell(Event::State {
            network: self.network.clone(),
            state: State::Failed { reason, retry },
        });
    }

    async fn end(&mut self) {
        if let Phase::Up(process) | Phase::Ending(process, _) =
            std::mem::replace(&mut self.phase, Phase::Down)
        {
            process.end().await;
        }
    }

    fn tell(&self, event: Event) {
        // Nobody listens at the end.
        let _ = self.around.events.send(event);
    }
}

async fn happened(phase: &mut Phase) -> Happened {
    match phase {
        Phase::Up(process) | Phase::Ending(process, _) => process.happened().await,
        Phase::Down => std::future::pending().await,
    }
}

async fn receive(socket: Option<&UnixDatagram>) -> Vec<u8> {
    let Some(socket) = socket else {
        return std::future::pending().await;
    };
    let mut datagram = vec![0; report::LONGEST];
    match socket.recv(&mut datagram).await {
        Ok(length) => {
            datagram.truncate(length);
            datagram
        }
        // A bound datagram socket has no errors of its own; should it have one, no loop comes of it.
        Err(_) => std::future::pending().await,
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
