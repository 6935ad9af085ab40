//! DHCP, DNS and RA servers in the loop: what the engine wants of them goes to `service`, how they are and who got a lease
//! comes back. Nothing of `service` exists before the first network asks for it.

use super::observe::LeaseStep;
use super::reactor::Reactor;
use super::{answer, convert, rows};
use crate::control::api::{Failure, FailureKind, NetworkDetail, Reply};
use crate::desired::service::{ServiceWant, is_asked_for};
use crate::engine::event;
use crate::engine::service::ServiceState;
use crate::model::{Ifindex, NetworkId};
use crate::service::{Command, Event, Lease, LeaseWhat, Service, Settings, State, held};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Below the state directory.
const DIRECTORY: &str = "dnsmasq";

#[derive(Debug)]
pub struct Services {
    settings: Settings,
    running: Option<Service>,
    /// By what their servers have told.
    leases: BTreeMap<NetworkId, BTreeSet<IpAddr>>,
}

impl Services {
    pub fn new(state_directory: &Path) -> Self {
        Self {
            settings: Settings {
                // dnsmasq does not stay where it was started.
                directory: std::path::absolute(state_directory.join(DIRECTORY))
                    .unwrap_or_else(|_| state_directory.join(DIRECTORY)),
                lease_program: std::env::current_exe().unwrap_or_default(),
            },
            running: None,
            leases: BTreeMap::new(),
        }
    }

    /// Starts the thread if it does not run yet.
    fn tell(&mut self, command: Command) -> Result<(), crate::service::Error> {
        if self.running.is_none() {
            self.running = Some(Service::start(self.settings.clone())?);
        }
        if let Some(service) = &self.running {
            service.tell(command);
        }
        Ok(())
    }

    /// The next event. Cancel-safe; never ends without a server.
    pub async fn event(&mut self) -> Event {
        match &mut self.running {
            Some(service) => service.event().await,
            None => std::future::pending().await,
        }
    }
}

impl Reactor {
    pub(super) fn serve(&mut self, network: NetworkId, device: Ifindex, want: Box<ServiceWant>) {
        let command = Command::Serve {
            network: network.clone(),
            device,
            want,
        };
        if let Err(error) = self.services.tell(command) {
            let error = convert::chain(&error).into();
            let state = ServiceState::Failed {
                error,
                retry_at: None,
            };
            let now = self.now();
            self.hear(event::Event::Service { network, state }, now);
        }
    }

    pub(super) fn end_service(&mut self, network: NetworkId, forget: bool) {
        self.services.leases.remove(&network);
        let command = if forget {
            Command::Remove(network)
        } else {
            Command::Pause(network)
        };
        self.tell_service(command);
    }

    /// Once every source has told what it has: servers' remains of networks that nobody names any more go.
    pub(super) fn sweep_services(&mut self) {
        if self.services.running.is_none() && !self.services.settings.directory.exists() {
            return;
        }
        let networks = self.engine.desired().networks();
        let keep = networks
            .filter(|n| is_asked_for(n))
            .map(|n| n.id.clone())
            .collect();
        self.tell_service(Command::Keep(keep));
    }

    fn tell_service(&mut self, command: Command) {
        if let Err(error) = self.services.tell(command) {
            tracing::warn!(target: "service", error = %convert::chain(&error), "DHCP and DNS cannot be told");
        }
    }

    pub(super) fn on_service(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::State { network, state } => {
                let metrics = &self.observer.metrics;
                match &state {
                    State::Starting { again } => {
                        metrics.service_started();
                        if *again {
                            metrics.service_failed();
                        }
                        // It tells of each lease that it finds.
                        self.services.leases.remove(&network);
                    }
                    State::Failed { .. } => metrics.service_failed(),
                    State::Running { .. } => {}
                }
                let state = match state {
                    State::Starting { .. } => ServiceState::Starting,
                    State::Running { pid } => ServiceState::Running { pid },
                    State::Failed { reason, retry } => ServiceState::Failed {
                        error: reason.into(),
                        retry_at: Some(now.plus(retry)),
                    },
                };
                self.hear(event::Event::Service { network, state }, now);
            }
            Event::Lease(lease) => self.on_lease(&lease),
        }
    }

    /// Leases that clients have now, of all networks.
    pub(super) fn active_leases(&self) -> usize {
        self.services.leases.values().map(BTreeSet::len).sum()
    }

    /// `network show`: dnsmasq's own file says what is leased until when.
    pub(super) fn show_network(&mut self, text: &str, reply: Reply<NetworkDetail>) {
        let network = self.find_network(text).map(|network| network.id.clone());
        let detail = self.network_detail(text);
        let (mut detail, network) = match detail.and_then(|detail| Ok((detail, network?))) {
            Ok((detail, network)) if detail.server.is_some() => (detail, network),
            other => return answer::send(reply, other.map(|(detail, _)| detail)),
        };
        let directory = self.services.settings.directory.clone();
        self.background(move || {
            let answer = match held(&directory, &network) {
                Ok(leases) => {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    detail.leases = leases
                        .iter()
                        .map(|lease| rows::lease(lease, now.as_secs()))
                        .collect();
                    Ok(detail)
                }
                Err(error) => Err(Failure::new(FailureKind::Internal, convert::chain(&error))),
            };
            Box::new(|_: &mut Reactor| answer::send(reply, answer))
        });
    }

    fn on_lease(&mut self, lease: &Lease) {
        let mac = lease.mac.map(|mac| mac.to_string());
        let hostname = lease.hostname.as_deref().unwrap_or_default();
        tracing::info!(
            target: "service",
            network = %lease.network,
            address = %lease.address,
            mac = mac.as_deref().unwrap_or_default(),
            hostname,
            expires_in_s = lease.expires_in,
            "lease {}", lease.what
        );
        let active = self.services.leases.entry(lease.network.clone()).or_default();
        match lease.what {
            LeaseWhat::Added | LeaseWhat::Changed => active.insert(lease.address),
            LeaseWhat::Ended => active.remove(&lease.address),
        };
        let tap = self.tap_of_lease(lease);
        let now = self.now();
        self.observer.lease(
            &LeaseStep {
                tap,
                network: &lease.network,
                what: lease.what.word(),
                address: lease.address,
            },
            &self.engine,
            now,
        );
        self.asking().tell_policy_lease(lease, tap);
    }

    /// The tap behind which the client is, if its mapping says so.
    fn tap_of_lease(&self, lease: &Lease) -> Option<Ifindex> {
        let taps = &self.engine.segment(&lease.network)?.users;
        taps.iter().copied().find(|index| {
            let mapping = self
                .engine
                .tap(*index)
                .and_then(|tap| self.engine.desired().mapping_for(&tap.name));
            mapping.is_some_and(|mapping| match lease.mac {
                Some(mac) => mapping.mac == Some(mac),
                None => mapping.addresses.contains(&lease.address),
            })
        })
    }
}
