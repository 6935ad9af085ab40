//! Answers to the control socket's commands.

use super::reactor::Reactor;
use super::{notify, rows, sources};
use crate::config;
use crate::control::api::{
    BindRequest, Binding, Command, ConfigState, Counters, Failure, FailureKind, NetworkDetail, NetworkRow,
    NetworkSpec, PeerRow, PlanRow, PortCounts, PortDetail, PortRow, ReloadReport, Reply, Request, Status,
};
use crate::control::spec::PortTarget;
use crate::desired::Desired;
use crate::engine::event::Event;
use crate::engine::state::{PortState, Tap};
use crate::model::{Link, Network, NetworkId, PortMapping, TapSelector};
use crate::source;
use crate::source::record::{BindingRecord, NetworkRecord};
use crate::source::store::Change;
use std::time::SystemTime;

/// A reload may always detach this many.
const FREE_DETACHES: usize = 10;

fn send<T>(reply: Reply<T>, answer: Result<T, Failure>) {
    // A client that has gone meanwhile needs no answer.
    let _ = reply.send(answer);
}

impl Reactor {
    pub(super) async fn answer(&mut self, request: Request) {
        let Request { command, peer } = request;
        if command.changes() {
            tracing::info!(target: "control", command = command.name(), uid = peer.uid, pid = peer.pid, "command");
        }
        match command {
            Command::Status(reply) => send(reply, Ok(self.status())),
            Command::PortList { all, reply } => send(reply, Ok(self.port_rows(all))),
            Command::PortShow { port, reply } => send(reply, self.port_detail(&port)),
            Command::PortBind { request, reply } => {
                let answer = self.bind(request).await;
                send(reply, answer);
            }
            Command::PortUnbind { port, reply } => {
                let answer = self.unbind(&port).await;
                send(reply, answer);
            }
            Command::NetworkList(reply) => send(reply, Ok(self.network_rows())),
            Command::NetworkShow { network, reply } => send(reply, self.network_detail(&network)),
            Command::NetworkAdd { spec, reply } => {
                let answer = self.add_network(spec).await;
                send(reply, answer);
            }
            Command::NetworkDelete {
                network,
                force,
                reply,
            } => {
                let answer = self.delete_network(&network, force).await;
                send(reply, answer);
            }
            Command::Plan(reply) => send(reply, Ok(self.plan_rows())),
            Command::Resync(reply) => {
                let now = self.now();
                self.waiters.resync(&self.engine, now, reply);
                self.engine.handle(Event::Resync, now);
            }
            Command::Wait { condition, reply } => {
                self.waiters.wait(condition, reply);
                let now = self.now();
                self.waiters.look(&self.engine, now);
            }
            Command::Reload { force, reply } => {
                let answer = self.reload(force).await;
                send(reply, answer);
            }
            Command::Explain { port, reply } => send(reply, self.explain(&port)),
            Command::History { limit, reply } => send(reply, Ok(self.history(limit))),
            Command::TraceSubscribe { filter, sink, reply } => send(reply, self.subscribe(filter, sink)),
            Command::Metrics(reply) => send(reply, self.metrics()),
            Command::PolicyStatus(reply) => send(reply, Ok(self.policy_status())),
            Command::PolicyReload { request, reply } => self.policy_reload(request, reply).await,
            Command::PolicyRollback(reply) => self.policy_rollback(reply).await,
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
                ok: self.config_error.is_none(),
                error: self.config_error.clone(),
            },
            plugins: self.policy_status().plugins,
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

    async fn bind(&mut self, request: BindRequest) -> Result<Binding, Failure> {
        let invalid =
            |error: crate::model::InvalidValue| Failure::new(FailureKind::Invalid, error.to_string());
        let target = PortTarget::parse(&request.port).map_err(invalid)?;
        let network = self.find_network(&request.network)?.id.clone();
        let tap = TapSelector::Exact(target.tap);
        if let Some(origin) = sources::mapping_origin(&self.config, &tap) {
            return Err(Failure::new(
                FailureKind::Conflict,
                format!("{} is mapped by {origin}", target.tap),
            )
            .hint("change it there; files are read again on SIGHUP"));
        }
        let mapping = PortMapping {
            id: target.port,
            tap,
            network: network.clone(),
            mac: None,
            addresses: Vec::new(),
            admin_state_up: true,
        };
        self.keep(Change::PutBinding(BindingRecord::from(&mapping)))
            .await?;
        self.told.mappings.retain(|m| m.tap != mapping.tap);
        self.told.mappings.push(mapping.clone());
        let now = self.now();
        self.engine.handle(Event::SetMapping(Box::new(mapping)), now);
        Ok(Binding {
            port: request.port,
            tap: target.tap.to_string(),
            network: network.to_string(),
        })
    }

    async fn unbind(&mut self, port: &str) -> Result<Binding, Failure> {
        let invalid =
            |error: crate::model::InvalidValue| Failure::new(FailureKind::Invalid, error.to_string());
        let target = PortTarget::parse(port).map_err(invalid)?;
        let tap = TapSelector::Exact(target.tap);
        let Some(known) = self.told.mappings.iter().find(|m| m.tap == tap).cloned() else {
            return Err(match sources::mapping_origin(&self.config, &tap) {
                Some(origin) => Failure::new(
                    FailureKind::Conflict,
                    format!("{} is mapped by {origin}", target.tap),
                )
                .hint("take it out there; files are read again on SIGHUP"),
                None => Failure::new(FailureKind::NotFound, format!("{} is not bound", target.tap)),
            });
        };
        let key = BindingRecord::from(&known)
            .key()
            .map_err(|e| Failure::new(FailureKind::Internal, e.to_string()))?;
        self.keep(Change::DeleteBinding { key }).await?;
        self.told.mappings.retain(|m| m.tap != tap);
        let now = self.now();
        self.engine.handle(Event::RemoveMapping(tap), now);
        Ok(Binding {
            port: port.to_owned(),
            tap: target.tap.to_string(),
            network: known.network.to_string(),
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
    fn find_network(&self, text: &str) -> Result<&Network, Failure> {
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

    fn network_detail(&self, text: &str) -> Result<NetworkDetail, Failure> {
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
        })
    }

    async fn add_network(&mut self, spec: NetworkSpec) -> Result<NetworkRow, Failure> {
        let network = spec.check().map_err(|errors| {
            let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
            Failure::new(FailureKind::Invalid, text.join("; "))
        })?;
        if let Some(origin) = sources::network_origin(&self.config, &network.id) {
            return Err(Failure::new(
                FailureKind::Conflict,
                format!("network {} is told by {origin}", network.id),
            ));
        }
        let others: Vec<Network> = self
            .told
            .networks
            .values()
            .filter(|n| n.id != network.id)
            .cloned()
            .collect();
        config::fits(&self.config, &others, &network)
            .map_err(|unfit| Failure::new(FailureKind::Conflict, unfit.to_string()))?;
        self.keep(Change::PutNetwork(NetworkRecord::from(&network)))
            .await?;
        self.told.networks.insert(network.id.clone(), network.clone());
        let now = self.now();
        self.engine
            .handle(Event::SetNetwork(Box::new(network.clone())), now);
        Ok(rows::network(&self.engine, &network))
    }

    async fn delete_network(&mut self, text: &str, force: bool) -> Result<NetworkRow, Failure> {
        let network = self.find_network(text)?.clone();
        let row = rows::network(&self.engine, &network);
        if let Some(origin) = sources::network_origin(&self.config, &network.id) {
            return Err(Failure::new(
                FailureKind::Conflict,
                format!("network {} is told by {origin}", network.id),
            )
            .hint("take it out there; files are read again on SIGHUP"));
        }
        if row.ports > 0 && !force {
            let error = format!("network {} has {} attached taps", network.id, row.ports);
            return Err(Failure::new(FailureKind::Conflict, error).hint("--force detaches them"));
        }
        self.keep(Change::DeleteNetwork {
            id: network.id.to_string(),
        })
        .await?;
        self.told.networks.remove(&network.id);
        let now = self.now();
        self.engine.handle(Event::RemoveNetwork(network.id), now);
        Ok(row)
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

    pub(super) async fn reload_unasked(&mut self, reason: &'static str) {
        tracing::info!(target: "config", reason, "reading the configuration again");
        notify::reloading();
        if let Err(failure) = self.reload(false).await {
            tracing::error!(target: "config", error = %failure.error, "reload refused; the old configuration stays");
        }
        notify::ready("in sync");
    }

    /// Reads the files again; either all of it comes into force or nothing.
    pub(super) async fn reload(&mut self, force: bool) -> Result<ReloadReport, Failure> {
        let answer = self.try_reload(force).await;
        self.config_error = answer.as_ref().err().map(|failure| failure.error.clone());
        answer
    }

    async fn try_reload(&mut self, force: bool) -> Result<ReloadReport, Failure> {
        let path = self.config_path.clone();
        let began = SystemTime::now();
        let loaded = tokio::task::spawn_blocking(move || config::load(&path)).await;
        let config = loaded
            .map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))?
            .map_err(|report| Failure::new(FailureKind::Invalid, report.to_string()))?;
        let desired = sources::desired(&config, &self.told, &self.host);
        self.guard_detaches(&config, &desired, force)?;
        let report = ReloadReport {
            files: config.files.len() as u64,
            changes: sources::changes(&self.config, &config),
        };
        let policy_changed = config.policy != self.config.policy;
        // What is open stays where it is until the next start.
        let daemon = config::DaemonSettings {
            prune_after: config.daemon.prune_after,
            max_detach_percent: config.daemon.max_detach_percent,
            ..self.config.daemon.clone()
        };
        self.config = config::Config { daemon, ..config };
        self.engine.set_prune_after(self.config.daemon.prune_after);
        let now = self.now();
        self.engine.handle(Event::Desired(Box::new(desired)), now);
        self.watch_files(began);
        if policy_changed {
            self.restart_policy();
        }
        tracing::info!(target: "config", files = report.files, changes = report.changes.len(), "configuration reloaded");
        Ok(report)
    }

    /// `max_detach`: an emptied file must not cut a host's guests off.
    fn guard_detaches(&self, config: &config::Config, desired: &Desired, force: bool) -> Result<(), Failure> {
        let detached = self.engine.ports_detached_by(desired);
        let attached = self.engine.port_counts().attached;
        let allowed = (attached * usize::from(config.daemon.max_detach_percent) / 100).max(FREE_DETACHES);
        if detached <= allowed || force {
            return Ok(());
        }
        let error = format!(
            "this configuration would detach {detached} of {attached} ports; max_detach allows {allowed}"
        );
        Err(Failure::new(FailureKind::Conflict, error)
            .hint("`tapwire reload --force` applies it all the same"))
    }

    /// Writes to the store on a thread for that, so that a slow disk delays this client only.
    async fn keep(&mut self, change: Change) -> Result<(), Failure> {
        let directory = self.config.daemon.state_directory.clone();
        let open = self.store.take();
        let task = tokio::task::spawn_blocking(move || {
            let store = match open {
                Some(store) => store,
                None => sources::open_store(&directory)?,
            };
            let result = store.apply(&[change]);
            Ok::<_, source::Error>((store, result))
        });
        let lost = |error: tokio::task::JoinError| Failure::new(FailureKind::Internal, error.to_string());
        let (store, result) = task.await.map_err(lost)?.map_err(|e| store_failure(&e))?;
        self.store = Some(store);
        result.map(|_| ()).map_err(|e| store_failure(&e))
    }
}

fn store_failure(error: &source::Error) -> Failure {
    Failure::new(FailureKind::Internal, super::convert::chain(error)).hint("nothing was changed")
}
