//! The networks' DHCP, DNS and router advertisement servers: told what to say when their gateways are ready.
//!
//! The thread that keeps them is started with the first network that asks for one. What they are told follows from the
//! configuration and the bridge; it is compared with what was told last, so telling again costs nothing.

use super::reactor::Reactor;
use super::{convert, rows};
use crate::control::api::NetworkRow;
use crate::desired::service::{ServiceWant, derive_service};
use crate::engine::note::What;
use crate::engine::state::GatewayState;
use crate::model::{Ifindex, Network, NetworkId};
use crate::service::{Command, Event, Lease, Service, Settings, State};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Services {
    service: Option<Service>,
    told: BTreeMap<NetworkId, (Ifindex, ServiceWant)>,
    states: BTreeMap<NetworkId, State>,
    /// What an earlier run left was looked at.
    swept: bool,
    /// What they are to say may have changed.
    pub dirty: bool,
}

impl Services {
    /// What they are to say may have changed with this.
    pub fn note(&mut self, what: &What) {
        self.dirty |= matches!(
            what,
            What::Gateway { .. } | What::Network { .. } | What::InSync { .. }
        );
    }

    /// Never ends without a server.
    pub async fn event(&mut self) -> Event {
        match &mut self.service {
            Some(service) => service.event().await,
            None => std::future::pending().await,
        }
    }
}

impl Reactor {
    /// A network's row, with what its server has to say.
    pub(super) fn network_row(&self, network: &Network) -> NetworkRow {
        let mut row = rows::network(&self.engine, network);
        if let Some(State::Failed { reason, .. }) = self.services.states.get(&network.id)
            && row.state == "ready"
        {
            row.state = "failed".to_owned();
            row.reason = Some(format!("dnsmasq: {reason}"));
        }
        row
    }

    pub(super) fn look_at_services(&mut self) {
        if !std::mem::take(&mut self.services.dirty) || !self.engine.is_in_sync() {
            return;
        }
        let directory = self.config.daemon.state_directory.join("dnsmasq");
        let desired = self.engine.desired();
        let asking: Vec<NetworkId> = desired
            .networks()
            .filter(|n| {
                n.gateway
                    .as_ref()
                    .is_some_and(|g| g.dhcp.is_some() || g.ra.is_some())
            })
            .map(|n| n.id.clone())
            .collect();
        if self.services.service.is_none()
            && (!asking.is_empty() || (!self.services.swept && directory.exists()))
        {
            let started = std::env::current_exe()
                .map_err(|error| error.to_string())
                .and_then(|lease_program| {
                    Service::start(Settings {
                        directory,
                        lease_program,
                    })
                    .map_err(|error| convert::chain(&error))
                });
            match started {
                Ok(service) => self.services.service = Some(service),
                Err(error) => {
                    tracing::error!(target: "service", %error, "no DHCP, DNS or router advertisements")
                }
            }
        }
        let Services {
            service: Some(service),
            told,
            states,
            swept,
            ..
        } = &mut self.services
        else {
            self.services.swept = true;
            return;
        };
        if !std::mem::replace(swept, true) {
            service.tell(Command::Keep(asking.iter().cloned().collect()));
        }
        let gone: Vec<NetworkId> = told.keys().filter(|id| !asking.contains(id)).cloned().collect();
        for id in gone {
            told.remove(&id);
            states.remove(&id);
            service.tell(Command::Remove(id));
        }
        for id in asking {
            // Its addresses must be there to listen on.
            if self.engine.gateway_state(&id) != Some(GatewayState::Ready) {
                continue;
            }
            let want = desired
                .network(&id)
                .and_then(|network| derive_service(desired, network));
            let Some(want) = want else { continue };
            let Some(device) = self.engine.observed().by_name(&want.interface).map(|l| l.index) else {
                continue;
            };
            if told
                .get(&id)
                .is_none_or(|(at, known)| *at != device || *known != want)
            {
                told.insert(id.clone(), (device, want.clone()));
                let want = Box::new(want);
                service.tell(Command::Serve {
                    network: id,
                    device,
                    want,
                });
            }
        }
    }

    pub(super) fn on_service(&mut self, event: Event) {
        match event {
            Event::State { network, state } => {
                match &state {
                    State::Starting => {}
                    State::Running { pid } => {
                        tracing::info!(target: "service", %network, pid, "dnsmasq runs");
                    }
                    State::Failed { reason, retry } => {
                        tracing::warn!(target: "service", %network, error = %reason, retry_s = retry.as_secs(), "dnsmasq failed");
                    }
                }
                if self.services.told.contains_key(&network) {
                    self.services.states.insert(network, state);
                }
            }
            Event::Lease(Lease {
                network,
                what,
                address,
                mac,
                hostname,
                ..
            }) => {
                let mac = mac.map(|mac| mac.to_string()).unwrap_or_default();
                let hostname = hostname.unwrap_or_default();
                tracing::info!(target: "service", %network, %what, %address, %mac, %hostname, "lease");
            }
        }
    }
}
