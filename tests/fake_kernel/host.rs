//! Engine and fake kernel, driven as `daemon::reactor` drives the real ones: read what is queued, say `Drained`, take
//! actions, carry them out, hand the answers back. Time is a number that moves when a test says so, or to the engine's
//! next deadline.
//!
//! Every plan is read by `plan::check`, and after every single operation the rules that hold at each moment are looked
//! at: foreign things untouched, the host's addresses reachable.

use super::execute::{Fault, read_failure};
use super::{Answer, Device, Kernel};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use tapwire::desired::Desired;
use tapwire::desired::service::ServiceWant;
use tapwire::desired::verdict::{NetworkVerdict, PortVerdict};
use tapwire::engine::Engine;
use tapwire::engine::event::{Action, Event, Loss};
use tapwire::engine::note::Note;
use tapwire::engine::service::ServiceState;
use tapwire::model::{Ifindex, LinkKind, LinkName, NetworkId, Time};
use tapwire::plan::address_move::address_of;
use tapwire::plan::check::check;
use tapwire::plan::op::Op;

/// Actions between two looks at the sockets, as the daemon has it.
const ACTION_BUDGET: usize = 32;
/// More turns than this without rest is a loop that never ends.
const MOST_TURNS: usize = 3000;

/// One operation carried out, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub at: Time,
    pub line: String,
    pub error: Option<String>,
}

pub struct Host {
    pub kernel: Kernel,
    pub engine: Engine,
    pub now: Time,
    pub operations: Vec<Operation>,
    pub notes: Vec<Note>,
    pub faults: Vec<Fault>,
    /// Rules broken, in words. A test that ends with one has failed.
    pub breaches: Vec<String>,
    /// Full dumps taken.
    pub dumps: usize,
    /// Reads of addresses and routes that fail from now on.
    pub refuse_reads: usize,
    /// Link messages read in one go; the daemon's 512 unless a test wants a slow reader.
    pub read_budget: usize,
    /// What policy says, by tap and by network; others get no opinion.
    pub port_verdicts: BTreeMap<LinkName, PortVerdict>,
    pub network_verdicts: BTreeMap<String, NetworkVerdict>,
    /// A scenario's world is made before the program starts.
    pub started: bool,
    /// A scenario holds the messages back.
    pub held: bool,
    watch: Watch,
    prune_after: Option<Duration>,
    /// After every turn the engine is written down, and goes on as it is read back.
    pub rewrites: bool,
}

/// What must hold after every single operation.
#[derive(Debug, Clone, Default)]
struct Watch {
    /// Devices that are none of the program's business, as they must stay.
    untouched: BTreeMap<Ifindex, Device>,
    /// Addresses by which the host is reached.
    reachable: Vec<IpAddr>,
}

impl Watch {
    fn look(&self, kernel: &Kernel, op: &Op) -> Option<String> {
        for (index, before) in &self.untouched {
            if kernel.device(*index) != Some(before) {
                return Some(format!("{op}: {} was touched", before.link.name));
            }
        }
        // Frames for a bridge come in through its ports; a port's own address is answered for too (weak host model).
        let leads_out = |device: &Device| {
            let is_wire = |d: &Device| d.link.up && matches!(d.link.kind, LinkKind::Physical);
            let through_a_port = kernel
                .devices()
                .any(|port| port.link.master == Some(device.link.index) && is_wire(port));
            is_wire(device) || (device.link.up && through_a_port)
        };
        let reachable = |wanted: &IpAddr| {
            kernel
                .devices()
                .any(|d| leads_out(d) && d.addresses.iter().any(|a| address_of(a) == Some(*wanted)))
        };
        let lost = self.reachable.iter().find(|address| !reachable(address))?;
        Some(format!("{op}: {lost} is on no device that leads out of the host"))
    }
}

impl Host {
    pub fn new(kernel: Kernel, desired: Desired, prune_after: Option<Duration>) -> Self {
        let now = Time::from_secs(100);
        let mut host = Self {
            engine: Engine::new(desired, prune_after, now),
            kernel,
            now,
            operations: Vec::new(),
            notes: Vec::new(),
            faults: Vec::new(),
            breaches: Vec::new(),
            dumps: 0,
            refuse_reads: 0,
            read_budget: 512,
            port_verdicts: BTreeMap::new(),
            network_verdicts: BTreeMap::new(),
            started: false,
            held: false,
            watch: Watch::default(),
            prune_after,
            rewrites: false,
        };
        host.engine.handle(Event::SourcesInSync, now);
        host
    }

    /// The daemon dies and starts again: nothing is left but the kernel and what the sources say.
    pub fn restart(&mut self) {
        let desired = self.engine.desired().clone();
        // A new process subscribes anew.
        self.kernel.lose_messages();
        self.engine = Engine::new(desired, self.prune_after, self.now);
        self.engine.handle(Event::SourcesInSync, self.now);
    }

    /// From now on these devices must stay exactly as they are.
    pub fn guard(&mut self, devices: impl IntoIterator<Item = Ifindex>) {
        for index in devices {
            if let Some(device) = self.kernel.device(index) {
                self.watch.untouched.insert(index, device.clone());
            }
        }
    }
    /// From now on these addresses must be on a device that is up, at every moment.
    pub fn keep_reachable(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.watch.reachable.extend(addresses);
    }

    pub fn tell(&mut self, event: Event) {
        self.engine.handle(event, self.now);
    }
    /// ENOBUFS: whatever was queued is gone.
    pub fn overrun(&mut self) {
        self.kernel.lose_messages();
        self.tell(Event::Lost(Loss::Overrun));
    }

    /// One turn of the daemon's loop. True if nothing is left to do without an event or a deadline.
    pub fn turn(&mut self) -> bool {
        let empty = self.read();
        if empty {
            self.engine.handle(Event::Drained, self.now);
        }
        let mut acted = 0;
        while acted < ACTION_BUDGET {
            let Some(action) = self.engine.poll_action(self.now) else {
                break;
            };
            self.act(action);
            acted += 1;
        }
        self.notes.extend(self.engine.take_notes());
        if self.rewrites {
            let written = serde_json::to_string(&self.engine).unwrap();
            self.engine = serde_json::from_str(&written).unwrap();
        }
        acted == 0 && empty
    }

    fn read(&mut self) -> bool {
        let mut budget = self.read_budget;
        let mut empty = true;
        while let Some(change) = self.kernel.next_link_message() {
            self.engine.handle(Event::Kernel(change), self.now);
            budget -= 1;
            if budget == 0 {
                empty = self.kernel.link_messages().is_empty();
                break;
            }
        }
        while let Some(change) = self.kernel.next_address_message() {
            self.engine.handle(Event::Kernel(change), self.now);
        }
        empty
    }

    fn act(&mut self, action: Action) {
        let event = match action {
            Action::Execute(plan) => {
                for fault in check(&plan, self.engine.observed()) {
                    self.breaches.push(format!("{:?}: {fault}", plan.key));
                }
                let (watch, breaches, operations) = (&self.watch, &mut self.breaches, &mut self.operations);
                let now = &mut self.now;
                let mut told = |kernel: &Kernel, op: &Op, answer: &Answer| {
                    *now = now.plus(Duration::from_micros(70));
                    breaches.extend(watch.look(kernel, op));
                    operations.push(Operation {
                        at: *now,
                        line: op.to_string(),
                        error: answer.as_ref().err().map(ToString::to_string),
                    });
                };
                Event::Done(self.kernel.carry_out(plan, &mut self.faults, &mut told))
            }
            Action::Snapshot => {
                self.dumps += 1;
                Event::Snapshot(self.kernel.snapshot())
            }
            Action::ReadForwarding { network, device } => Event::Forwarding {
                network,
                device,
                have: self.reading(|kernel| kernel.forwarding(device)),
            },
            Action::ReadGuard { .. } => Event::Guard(Ok(self.kernel.guard.clone())),
            Action::ReadGateways { .. } => Event::Gateways(self.reading(|kernel| Ok(kernel.gateways()))),
            Action::ReadCarried { key, devices } => {
                let have = self.reading(|kernel| devices.iter().map(|d| kernel.carried(*d)).collect());
                Event::Carried { key, have }
            }
            Action::Serve {
                network,
                device,
                want,
            } => {
                self.order(serving(&network, device, &want));
                Event::Service {
                    network,
                    state: ServiceState::Running { pid: 1 },
                }
            }
            Action::EndService { network, forget } => {
                let leases = if forget { "forgotten" } else { "kept" };
                self.order(format!("dnsmasq of {network}: ended, its leases {leases}"));
                Event::Service {
                    network,
                    state: ServiceState::Waiting,
                }
            }
            Action::AskPort { index, ticket, .. } => {
                let name = self.kernel.device(index).map(|d| d.link.name);
                let verdict = name.and_then(|name| self.port_verdicts.get(&name).cloned());
                Event::PortVerdict {
                    index,
                    ticket,
                    verdict: Box::new(verdict.unwrap_or_default()),
                }
            }
            Action::AskNetwork { network, ticket, .. } => {
                let verdict = self.network_verdicts.get(network.as_str()).cloned();
                Event::NetworkVerdict {
                    network,
                    ticket,
                    verdict: Box::new(verdict.unwrap_or_default()),
                }
            }
        };
        self.engine.handle(event, self.now);
    }

    /// What goes to others than the kernel.
    fn order(&mut self, line: String) {
        self.operations.push(Operation {
            at: self.now,
            line,
            error: None,
        });
    }

    fn reading<T>(
        &mut self,
        read: impl FnOnce(&Kernel) -> Answer<T>,
    ) -> Result<T, tapwire::engine::event::Failure> {
        let answer = if self.refuse_reads > 0 {
            self.refuse_reads -= 1;
            super::refuse(libc::ENOBUFS, "")
        } else {
            read(&self.kernel)
        };
        answer.map_err(|refusal| read_failure(&refusal))
    }

    /// Turns until nothing is left to do at this moment.
    pub fn settle(&mut self) {
        for _ in 0..MOST_TURNS {
            if self.turn() {
                return;
            }
        }
        let last: Vec<&String> = self.operations.iter().rev().take(8).map(|o| &o.line).collect();
        panic!("no rest after {MOST_TURNS} turns; the last operations, newest first: {last:#?}");
    }

    /// Lets time pass, stopping at each of the engine's deadlines.
    pub fn wait(&mut self, time: Duration) {
        let end = self.now.plus(time);
        let mut idle_wakes = 0;
        loop {
            self.settle();
            let before = self.operations.len() + self.dumps + self.notes.len();
            match self.engine.next_deadline() {
                Some(at) if at <= end => {
                    idle_wakes = if at <= self.now { idle_wakes + 1 } else { 0 };
                    assert!(
                        idle_wakes < 100,
                        "a deadline that is never over: {at}, now {}",
                        self.now
                    );
                    self.now = self.now.max(at);
                }
                _ => break,
            }
            self.settle();
            if self.operations.len() + self.dumps + self.notes.len() != before {
                idle_wakes = 0;
            }
        }
        self.now = self.now.max(end);
        self.settle();
    }

    /// Operations carried out since the last call.
    pub fn take_operations(&mut self) -> Vec<Operation> {
        std::mem::take(&mut self.operations)
    }
}

/// What a network's server is told, on one line.
fn serving(network: &NetworkId, device: Ifindex, want: &ServiceWant) -> String {
    let prefixes = want
        .prefixes
        .iter()
        .map(|p| format!("{}/{}", p.address, p.length));
    let ports = want.reservations.iter().map(|(name, reservation)| {
        let addresses = reservation.addresses.iter().map(ToString::to_string);
        format!("{name} {}", addresses.collect::<Vec<_>>().join(" "))
    });
    let list = |items: Vec<String>| {
        if items.is_empty() {
            "none".to_owned()
        } else {
            items.join(", ")
        }
    };
    format!(
        "dnsmasq of {network}: on {}#{device} {}, reserved: {}",
        want.interface,
        list(prefixes.collect()),
        list(ports.collect())
    )
}
