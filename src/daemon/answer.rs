//! Answers to the control socket's commands.

use super::reactor::Reactor;
use super::{rows, sources};
use crate::config::gateway_to_json;
use crate::control::api::{
    Command, ConfigState, Counters, Failure, FailureKind, NetworkDetail, NetworkRow, PeerRow, PlanRow,
    PortCounts, PortDetail, PortRow, Reply, Request, Status,
};
use crate::control::spec::PortTarget;
use crate::engine::event::Event;
use crate::engine::state::{PortState, Tap};
use crate::model::{Link, Network, NetworkId, TapSelector};
use std::time::SystemTime;

pub(super) fn send<T>(reply: Reply<T>, answer: Result<T, Failure>) {
    // A client that has gone meanwhile needs no answer.
    let _ = reply.send(answer);
}

impl Reactor {
    pub(super) fn answer(&mut self, request: Request) {
        self.book_replies();
        let Request { command, peer } = request;
        if command.changes() {
            tracing::info!(target: "control", command = command.name(), uid = peer.uid, pid = peer.pid, "command");
        }
        match command {
            Command::Status(reply) => send(reply, Ok(self.status())),
            Command::PortList { all, reply } => send(reply, Ok(self.port_rows(all))),
            Command::PortShow { port, reply } => send(reply, self.port_detail(&port)),
            Command::PortBind { request, reply } => {
                self.bind(request, reply);
            }
            Command::PortUnbind { port, reply } => {
                self.unbind(port, reply);
            }
            Command::NetworkList(reply) => send(reply, Ok(self.network_rows())),
            Command::NetworkShow { network, reply } => self.show_network(&network, reply),
            Command::NetworkAdd { spec, reply } => {
                self.add_network(&spec, reply);
            }
            Command::NetworkDelete {
                network,
                force,
                reply,
            } => {
                self.delete_network(&network, force, reply);
            }
            Command::Plan(reply) => send(reply, Ok(self.plan_rows())),
            Command::Resync(reply) => {
                let now = self.now();
                self.waiters.resync(&self.engine, now, reply);
                self.hear(Event::Resync, now);
            }
            Command::Wait { condition, reply } => {
                self.waiters.wait(condition, reply);
                let now = self.now();
                self.waiters.look(&self.engine, now);
            }
            Command::Reload { force, reply } => {
                self.reload(force, Some(reply));
            }
            Command::Explain { port, reply } => send(reply, self.explain(&port)),
            Command::History { limit, reply } => send(reply, Ok(self.history(limit))),
            Command::HistorySave(reply) => send(reply, self.save_history()),
            Command::TraceSubscribe { filter, sink, reply } => send(reply, self.subscribe(filter, sink)),
            Command::AccountSubscribe { sink, reply } => {
                self.account.add(sink);
                send(reply, Ok(()));
            }
            Command::Metrics(reply) => {
                let page = self.metrics();
                send(reply, page);
            }
            Command::PolicyStatus(reply) => send(reply, Ok(self.policy_status())),
            Command::PolicyReload { request, reply } => self.policy_reload(request, reply),
            Command::PolicyRollback(reply) => self.policy_rollback(reply),
            Command::PolicyEval { port, reply } => self.policy_eval(&port, reply),
            Command::PolicyRecord { sink, reply } => send(reply, self.policy_record(sink)),
        }
    }

    fn status(&self) -> Status {
        let ports = self.engine.port_counts();
        let counters = self.engine.counters();
        let policy = self.policy_counters();
        let since = match (self.engine.is_in_sync(), self.engine.in_sync_since()) {
            (true, Some(since)) => self.started + since.since(crate::model::Time::ZERO),
            _ => self.started,
        };
        let last_good = || self.policy.last_good();
        let error = self.config_error.clone().or_else(|| self.policy_error.clone());
        let error = error.or_else(last_good);
        let plugins = self.policy_status();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            in_sync: self.engine.is_in_sync(),
            since: humantime::format_rfc3339_seconds(since).to_string(),
            uptime_s: SystemTime::now()
                .duration_since(self.started)
                .map_or(0, |d| d.as_secs()),
            ports: PortCounts {
                attached: ports.attached as u64,
                pending: ports.pending as u64,
                configuring: ports.configuring as u64,
                failed: ports.failed as u64,
                conflict: ports.conflict as u64,
                denied: ports.denied as u64,
                unmanaged: ports.unmanaged as u64,
            },
            networks: self.engine.desired().network_count() as u64,
            links: self.engine.observed().len() as u64,
            counters: Counters {
                events: counters.events,
                overruns: counters.overruns,
                resyncs: counters.resyncs,
                decode_errors: counters.decode_errors,
                ops: counters.ops,
                op_errors: counters.op_errors,
                hook_calls: policy.0,
                hook_errors: policy.1,
            },
            config: ConfigState {
                path: self.config_path.display().to_string(),
                ok: error.is_none(),
                error,
            },
            plugins: plugins.plugins,
            conflicts: plugins.conflicts,
        }
    }

    fn port_rows(&self, all: bool) -> Vec<PortRow> {
        let mut list: Vec<PortRow> = self
            .engine
            .taps()
            .map(|(index, tap)| rows::port(&self.engine, index, tap))
            .collect();
        if all {
            list.extend(
                self.engine
                    .unmanaged()
                    .map(|link| rows::unmanaged(&self.engine, link)),
            );
        }
        list.sort_by(|a, b| a.tap.cmp(&b.tap));
        list
    }

    /// The link that a tap name or port id means.
    pub(super) fn find_tap(&self, text: &str) -> Result<(&Link, Option<&Tap>), Failure> {
        let invalid =
            |error: crate::model::InvalidValue| Failure::new(FailureKind::Invalid, error.to_string());
        let target = PortTarget::parse(text).map_err(invalid)?;
        let mapped = target
            .port
            .as_ref()
            .and_then(|id| self.engine.desired().mapping_by_port(id));
        let name = match mapped.map(|m| &m.tap) {
            Some(TapSelector::Exact(name)) => *name,
            _ => target.tap,
        };
        let link = self.engine.observed().by_name(&name).ok_or_else(|| {
            Failure::new(FailureKind::NotFound, format!("no link is named {name}"))
                .hint("`tapwire port list --all` shows every tap the kernel has")
        })?;
        Ok((link, self.engine.tap(link.index)))
    }

    fn port_detail(&self, port: &str) -> Result<PortDetail, Failure> {
        let (link, tap) = self.find_tap(port)?;
        let row = match tap {
            Some(tap) => rows::port(&self.engine, link.index, tap),
            None => rows::unmanaged(&self.engine, link),
        };
        let mapping = self.engine.desired().mapping_for(&link.name).map(|m| {
            sources::mapping_origin(&self.config, &m.tap)
                .map_or_else(|| "port bind".to_owned(), str::to_owned)
        });
        let retry_in_ms = match tap.map(|t| &t.state) {
            Some(PortState::Failed {
                retry_at: Some(at), ..
            }) => Some(at.since(self.now()).as_millis() as u64),
            _ => None,
        };
        Ok(PortDetail {
            row,
            mac: link.mac.map(|m| m.to_string()),
            up: link.up,
            carrier: link.carrier,
            mapping,
            retry_in_ms,
            verdicts: self.port_verdicts(link.index),
        })
    }

    fn network_rows(&self) -> Vec<NetworkRow> {
        self.engine
            .desired()
            .networks()
            .map(|n| rows::network(&self.engine, n))
            .collect()
    }

    /// By id, or by a name that only one network has.
    pub(super) fn find_network(&self, text: &str) -> Result<&Network, Failure> {
        let desired = self.engine.desired();
        if let Some(network) = NetworkId::new(text).ok().and_then(|id| desired.network(&id)) {
            return Ok(network);
        }
        let mut named = desired.networks().filter(|n| n.name.as_deref() == Some(text));
        match (named.next(), named.next()) {
            (Some(network), None) => Ok(network),
            (Some(_), Some(_)) => Err(Failure::new(
                FailureKind::Conflict,
                format!("more than one network is named {text:?}"),
            )
            .hint("use the id")),
            (None, _) => Err(
                Failure::new(FailureKind::NotFound, format!("no network {text:?}"))
                    .hint("`tapwire network list` shows them"),
            ),
        }
    }

    /// All but the leases.
    pub(super) fn network_detail(&self, text: &str) -> Result<NetworkDetail, Failure> {
        let network = self.find_network(text)?;
        let taps = self
            .engine
            .taps()
            .filter(|(_, tap)| tap.intent.network() == Some(&network.id));
        Ok(NetworkDetail {
            row: rows::network(&self.engine, network),
            origin: sources::network_origin(&self.config, &network.id)
                .unwrap_or("network add")
                .to_owned(),
            taps: taps
                .map(|(index, tap)| rows::port(&self.engine, index, tap))
                .collect(),
            peers: network
                .peers
                .iter()
                .map(|peer| PeerRow {
                    vtep: peer.vtep.to_string(),
                    mac: peer.mac.map(|m| m.to_string()),
                    ip: peer.ip.map(|ip| ip.to_string()),
                })
                .collect(),
            services: network
                .gateway
                .as_deref()
                .map(gateway_to_json)
                .unwrap_or_default(),
            server: self.engine.service_state(&network.id).map(rows::server),
            leases: Vec::new(),
        })
    }

    fn plan_rows(&self) -> Vec<PlanRow> {
        let planned = self.engine.preview();
        planned
            .into_iter()
            .map(|p| {
                let line = p.op.to_string();
                PlanRow {
                    op: p.op.name().to_owned(),
                    args: rows::op_args(&p.op),
                    cause: p.cause,
                    line,
                }
            })
            .collect()
    }
}
