//! The networks' DHCP, DNS and RA servers: when each is to be told what.
//!
//! Beside the segments, not one of their stages: a server that waits or fails holds up no tap. A server is told when its
//! bridge stands and carries the gateway's addresses (somebody else puts them there), told anew when what it should say or
//! the device differs from what it was told, and ended when its bridge or the wish for it is gone. Networks that ask for
//! none cost nothing here.

use super::Engine;
use super::event::Action;
use super::note::What;
use super::state::SegmentState;
use crate::desired::service::{ServiceWant, derive_service, is_asked_for};
use crate::model::{Ifindex, Network, NetworkId, PortMapping, Time};
use crate::plan::CauseId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

/// How a network's server is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ServiceState {
    /// Its bridge does not stand yet, or without the gateway's addresses.
    Waiting,
    Starting,
    Running {
        pid: u32,
    },
    Failed {
        error: Box<str>,
        retry_at: Option<Time>,
    },
}

impl ServiceState {
    pub const ALL: [&str; 4] = ["waiting", "starting", "running", "failed"];

    pub const fn word(&self) -> &'static str {
        match self {
            ServiceState::Waiting => "waiting",
            ServiceState::Starting => "starting",
            ServiceState::Running { .. } => "running",
            ServiceState::Failed { .. } => "failed",
        }
    }
}

/// Why, in words; empty when there is nothing to say.
impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServiceState::Waiting => f.write_str("DHCP and DNS wait for the bridge and its addresses"),
            ServiceState::Failed { error, .. } => write!(f, "DHCP and DNS: {error}"),
            ServiceState::Starting | ServiceState::Running { .. } => Ok(()),
        }
    }
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Entry {
    /// What it was last told to do.
    told: Option<(Ifindex, Box<ServiceWant>)>,
    state: ServiceState,
}

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Services {
    dirty: BTreeSet<NetworkId>,
    entries: BTreeMap<NetworkId, Entry>,
    actions: VecDeque<Action>,
}

impl Engine {
    pub fn service_state(&self, id: &NetworkId) -> Option<&ServiceState> {
        self.services.entries.get(id).map(|entry| &entry.state)
    }

    pub fn service_states(&self) -> impl Iterator<Item = &ServiceState> {
        self.services.entries.values().map(|entry| &entry.state)
    }

    pub(super) fn mark_service(&mut self, id: &NetworkId) {
        if self.services.entries.contains_key(id) || self.desired.network(id).is_some_and(is_asked_for) {
            self.services.dirty.insert(id.clone());
        }
    }

    pub(super) fn mark_services(&mut self) {
        let wanted = self
            .desired
            .networks()
            .filter(|n| is_asked_for(n))
            .map(|n| n.id.clone());
        let known = self.services.entries.keys().cloned();
        let all: Vec<NetworkId> = wanted.chain(known).collect();
        self.services.dirty.extend(all);
    }

    /// Those whose bridge this is. What a server says is derived anew for each that is marked, from all ports, and every
    /// address of every network comes by here.
    pub(super) fn mark_services_on(&mut self, device: Ifindex) {
        let Some(name) = self.observed.link(device).map(|link| link.name) else {
            return;
        };
        let asks = |n: &&Network| is_asked_for(n) && self.desired.bridge_name(n) == Some(name);
        let concerned: Vec<NetworkId> = self
            .desired
            .networks()
            .filter(asks)
            .map(|n| n.id.clone())
            .collect();
        self.services.dirty.extend(concerned);
    }

    pub(super) fn look_at_services(&mut self) -> Option<Action> {
        if !self.services.dirty.is_empty() {
            let dirty = std::mem::take(&mut self.services.dirty);
            // The ports of all of them in one go: there may be many of both.
            let mut ports: BTreeMap<&NetworkId, Vec<&PortMapping>> = BTreeMap::new();
            for mapping in self.desired.mappings().filter(|m| dirty.contains(&m.network)) {
                ports.entry(&mapping.network).or_default().push(mapping);
            }
            let wants: Vec<(NetworkId, Option<ServiceWant>)> = dirty
                .iter()
                .map(|id| {
                    let ports = ports.get(id).map(Vec::as_slice).unwrap_or_default();
                    let mtu = self.segments.get(id).and_then(|segment| segment.mtu);
                    let network = self.desired.network(id);
                    let want = network.and_then(|n| derive_service(&self.desired, n, mtu, ports));
                    (id.clone(), want)
                })
                .collect();
            for (id, want) in wants {
                match want {
                    Some(want) => self.direct_service(&id, want),
                    None => {
                        if self.services.entries.remove(&id).is_some() {
                            self.services.actions.push_back(Action::EndService {
                                network: id,
                                forget: true,
                            });
                        }
                    }
                }
            }
        }
        self.services.actions.pop_front()
    }

    fn direct_service(&mut self, id: &NetworkId, want: ServiceWant) {
        let ready = self
            .segments
            .get(id)
            .is_some_and(|s| s.state == SegmentState::Ready);
        let device = self.observed.by_name(&want.interface).map(|link| link.index);
        let carries = |device: &Ifindex| {
            let mut wanted = want.prefixes.iter().map(|prefix| prefix.address);
            wanted.all(|address| self.observed.addresses_of(*device).any(|have| have == address))
        };
        let serving = device.filter(|device| ready && carries(device));
        let entry = self.services.entries.entry(id.clone()).or_insert(Entry {
            told: None,
            state: ServiceState::Waiting,
        });
        match (serving, device) {
            (Some(device), _) => {
                let told = entry
                    .told
                    .as_ref()
                    .is_some_and(|(d, w)| *d == device && **w == want);
                if !told {
                    entry.told = Some((device, Box::new(want.clone())));
                    self.services.actions.push_back(Action::Serve {
                        network: id.clone(),
                        device,
                        want: Box::new(want),
                    });
                }
            }
            // Its sockets are of a device that is gone.
            (None, None) if entry.told.take().is_some() => {
                entry.state = ServiceState::Waiting;
                self.services.actions.push_back(Action::EndService {
                    network: id.clone(),
                    forget: false,
                });
            }
            // Not yet, or being repaired: what runs goes on.
            _ => {}
        }
    }

    pub(super) fn on_service(&mut self, id: &NetworkId, state: ServiceState, now: Time) {
        let Some(entry) = self.services.entries.get_mut(id) else {
            return;
        };
        // The last words of one that was ended.
        if entry.told.is_none() || entry.state == state {
            return;
        }
        entry.state = state.clone();
        let what = What::Service {
            network: id.clone(),
            state,
        };
        self.note(now, CauseId(self.causes), what);
    }
}
