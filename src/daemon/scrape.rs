//! The metrics' page: what the daemon knows when it is asked.

use super::convert;
use super::reactor::Reactor;
use crate::control::api::{Failure, FailureKind};
use crate::engine::service::ServiceState;
use crate::engine::state::GatewayState;
use crate::kernel::socket_usage;
use crate::telemetry::metrics::{Snapshot, SocketState};

impl Reactor {
    pub(super) fn metrics(&mut self) -> Result<String, Failure> {
        // A page without them is better than none.
        let drops = self.executor.guard_drops().unwrap_or_else(|error| {
            tracing::warn!(target: "kernel", error = %convert::chain(&error), "frames dropped by the guard are not counted");
            Vec::new()
        });
        let ports = self.engine.port_counts();
        let counters = self.engine.counters();
        let networks = |word: &'static str| {
            let states = self
                .engine
                .desired()
                .networks()
                .map(|n| self.engine.network_state(n));
            (word, states.filter(|state| state.word() == word).count() as u64)
        };
        let sockets = self.sockets().into_iter().filter_map(|(socket, portid)| {
            let (drops, queued_bytes) = socket_usage(portid)?;
            Some(SocketState {
                socket,
                drops,
                queued_bytes,
            })
        });
        let snapshot = Snapshot {
            in_sync: self.engine.is_in_sync(),
            config_ok: self.config_error.is_none(),
            uptime_seconds: self.now().micros() / 1_000_000,
            links: self.engine.observed().len() as u64,
            ports: vec![
                ("attached", ports.attached as u64),
                ("pending", ports.pending as u64),
                ("configuring", ports.configuring as u64),
                ("failed", ports.failed as u64),
                ("conflict", ports.conflict as u64),
                ("denied", ports.denied as u64),
                ("unmanaged", ports.unmanaged as u64),
            ],
            networks: ["idle", "pending", "configuring", "ready", "failed", "conflict"]
                .map(networks)
                .to_vec(),
            gateways: GatewayState::ALL
                .map(|word| {
                    let networks = self.engine.desired().networks();
                    let states = networks.filter_map(|n| self.engine.gateway_state(&n.id));
                    (word, states.filter(|state| state.word() == word).count() as u64)
                })
                .to_vec(),
            leases: self.active_leases() as u64,
            guard_drops: drops
                .iter()
                .map(|(reason, frames)| (reason.name(), *frames))
                .collect(),
            services: ServiceState::ALL
                .map(|word| {
                    let states = self.engine.service_states();
                    (word, states.filter(|state| state.word() == word).count() as u64)
                })
                .to_vec(),
            events: counters.events,
            overruns: counters.overruns,
            resyncs: counters.resyncs,
            decode_errors: counters.decode_errors,
            queues: vec![("dirty", self.engine.dirty_keys() as u64)],
            sockets: sockets.collect(),
            flight_records: self.observer.flight.len() as u64,
            flight_overwritten: self.observer.flight.overwritten(),
            policy: self.policy_snapshot(),
        };
        self.observer
            .metrics
            .encode(&snapshot)
            .map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))
    }
}
