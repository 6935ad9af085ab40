//! Commands that change what is told, and reloads.
//!
//! Nothing here waits on the loop: the store is written and files are read on threads that may block, and the rest is
//! done when they are through. A binding is in force only after it is on disk; a reload comes into force whole or not.

use super::reactor::{Reactor, SharedStore};
use super::{convert, footprint, notify, report, rows, sources};
use crate::config::{self, Config};
use crate::control::api::{
    BindRequest, Binding, Failure, FailureKind, NetworkRow, NetworkSpec, ReloadReport, Reply,
};
use crate::control::spec::PortTarget;
use crate::desired::Desired;
use crate::engine::event::Event;
use crate::model::{InvalidValue, Network, PortMapping, TapSelector};
use crate::source;
use crate::source::record::{BindingRecord, NetworkRecord};
use crate::source::store::Change;
use std::path::Path;
use std::sync::PoisonError;
use std::time::SystemTime;

/// A reload may always detach this many.
const FREE_DETACHES: usize = 10;

fn invalid(error: &InvalidValue) -> Failure {
    Failure::new(FailureKind::Invalid, error.to_string())
}

/// A client that has gone meanwhile needs no answer.
fn send<T>(reply: Reply<T>, answer: Result<T, Failure>) {
    let _ = reply.send(answer);
}

impl Reactor {
    /// Writes to the store, then does the rest on the loop and answers.
    fn keep<T: Send + 'static>(
        &mut self,
        change: Change,
        reply: Reply<T>,
        then: impl FnOnce(&mut Reactor) -> T + Send + 'static,
    ) {
        let directory = self.config.daemon.state_directory.clone();
        let store = SharedStore::clone(&self.store);
        self.background(move || {
            let kept = write(&store, &directory, change);
            Box::new(move |reactor: &mut Reactor| {
                let answer = kept.map(|()| then(reactor)).map_err(|error| {
                    Failure::new(FailureKind::Internal, convert::chain(&error)).hint("nothing was changed")
                });
                send(reply, answer);
            })
        });
    }

    pub(super) fn bind(&mut self, request: BindRequest, reply: Reply<Binding>) {
        let mapping = match self.checked_binding(&request) {
            Ok(mapping) => mapping,
            Err(failure) => return send(reply, Err(failure)),
        };
        let binding = Binding {
            port: request.port,
            tap: crate::desired::port::selector_text(&mapping.tap),
            network: mapping.network.to_string(),
        };
        self.keep(
            Change::PutBinding(BindingRecord::from(&mapping)),
            reply,
            move |reactor| {
                reactor.told.mappings.retain(|m| m.tap != mapping.tap);
                reactor.told.mappings.push(mapping.clone());
                let now = reactor.now();
                reactor.hear(Event::SetMapping(Box::new(mapping)), now);
                binding
            },
        );
    }

    fn checked_binding(&self, request: &BindRequest) -> Result<PortMapping, Failure> {
        let target = PortTarget::parse(&request.port).map_err(|e| invalid(&e))?;
        let network = self.find_network(&request.network)?.id.clone();
        let tap = TapSelector::Exact(target.tap);
        if let Some(origin) = sources::mapping_origin(&self.config, &tap) {
            return Err(Failure::new(
                FailureKind::Conflict,
                format!("{} is mapped by {origin}", target.tap),
            )
            .hint("change it there; files are read again when they are saved"));
        }
        let mapping = PortMapping {
            id: target.port,
            ..PortMapping::new(tap, network)
        };
        config::port_facts_from_json(&request.facts(), mapping)
            .map_err(|report| Failure::new(FailureKind::Invalid, report.to_string()))
    }

    pub(super) fn unbind(&mut self, port: String, reply: Reply<Binding>) {
        let (known, key) = match self.checked_unbinding(&port) {
            Ok(found) => found,
            Err(failure) => return send(reply, Err(failure)),
        };
        self.keep(Change::DeleteBinding { key }, reply, move |reactor| {
            reactor.told.mappings.retain(|m| m.tap != known.tap);
            let now = reactor.now();
            reactor.hear(Event::RemoveMapping(known.tap.clone()), now);
            Binding {
                port,
                tap: crate::desired::port::selector_text(&known.tap),
                network: known.network.to_string(),
            }
        });
    }

    fn checked_unbinding(&self, port: &str) -> Result<(PortMapping, String), Failure> {
        let target = PortTarget::parse(port).map_err(|e| invalid(&e))?;
        let tap = TapSelector::Exact(target.tap);
        let Some(known) = self.told.mappings.iter().find(|m| m.tap == tap).cloned() else {
            return Err(match sources::mapping_origin(&self.config, &tap) {
                Some(origin) => Failure::new(
                    FailureKind::Conflict,
                    format!("{} is mapped by {origin}", target.tap),
                )
                .hint("take it out there; files are read again when they are saved"),
                None => Failure::new(FailureKind::NotFound, format!("{} is not bound", target.tap)),
            });
        };
        let key = BindingRecord::from(&known)
            .key()
            .map_err(|e| Failure::new(FailureKind::Internal, e.to_string()))?;
        Ok((known, key))
    }

    pub(super) fn add_network(&mut self, spec: &NetworkSpec, reply: Reply<NetworkRow>) {
        let network = match self.checked_network(spec) {
            Ok(network) => network,
            Err(failure) => return send(reply, Err(failure)),
        };
        self.keep(
            Change::PutNetwork(NetworkRecord::from(&network)),
            reply,
            move |reactor| {
                reactor.told.networks.insert(network.id.clone(), network.clone());
                let now = reactor.now();
                reactor.hear(Event::SetNetwork(Box::new(network.clone())), now);
                rows::network(&reactor.engine, &network)
            },
        );
    }

    fn checked_network(&self, spec: &NetworkSpec) -> Result<Network, Failure> {
        let network = spec.check().map_err(|errors| {
            let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
            Failure::new(FailureKind::Invalid, text.join("; "))
        })?;
        if let Some(origin) = sources::network_origin(&self.config, &network.id) {
            let error = format!("network {} is told by {origin}", network.id);
            return Err(Failure::new(FailureKind::Conflict, error));
        }
        let others = self.told.networks.values().filter(|n| n.id != network.id);
        config::fits(&self.config, others, &network)
            .map_err(|unfit| Failure::new(FailureKind::Conflict, unfit.to_string()))?;
        Ok(network)
    }

    pub(super) fn delete_network(&mut self, text: &str, force: bool, reply: Reply<NetworkRow>) {
        let (id, row) = match self.checked_deletion(text, force) {
            Ok(found) => found,
            Err(failure) => return send(reply, Err(failure)),
        };
        self.keep(
            Change::DeleteNetwork { id: id.to_string() },
            reply,
            move |reactor| {
                reactor.told.networks.remove(&id);
                let now = reactor.now();
                reactor.hear(Event::RemoveNetwork(id), now);
                row
            },
        );
    }

    fn checked_deletion(
        &self,
        text: &str,
        force: bool,
    ) -> Result<(crate::model::NetworkId, NetworkRow), Failure> {
        let network = self.find_network(text)?;
        let row = rows::network(&self.engine, network);
        if let Some(origin) = sources::network_origin(&self.config, &network.id) {
            let error = format!("network {} is told by {origin}", network.id);
            return Err(Failure::new(FailureKind::Conflict, error)
                .hint("take it out there; files are read again when they are saved"));
        }
        if row.ports > 0 && !force {
            let error = format!("network {} has {} attached taps", network.id, row.ports);
            return Err(Failure::new(FailureKind::Conflict, error).hint("--force detaches them"));
        }
        Ok((network.id.clone(), row))
    }

    /// SIGHUP, or a file that changed.
    pub(super) fn reload_unasked(&mut self, reason: &'static str) {
        tracing::info!(target: "config", reason, "reading the configuration again");
        notify::reloading();
        self.reload(false, None);
    }

    /// Reads the files again; either all of it comes into force or nothing.
    pub(super) fn reload(&mut self, force: bool, reply: Option<Reply<ReloadReport>>) {
        let path = self.config_path.clone();
        let began = SystemTime::now();
        self.background(move || {
            let loaded = config::load(&path);
            Box::new(move |reactor: &mut Reactor| {
                let answer = match loaded {
                    Ok(config) => reactor.apply_config(config, force, began),
                    Err(report) => Err(Failure::new(FailureKind::Invalid, report.to_string())),
                };
                reactor.config_error = answer.as_ref().err().map(|failure| failure.error.clone());
                match (answer, reply) {
                    (answer, Some(reply)) => send(reply, answer),
                    (Err(failure), None) => {
                        let error = &failure.error;
                        tracing::error!(target: "config", %error, "reload refused; the old configuration stays");
                        notify::ready("reload refused");
                    }
                    (Ok(_), None) => notify::ready("in sync"),
                }
                reactor.background(|| {
                    footprint::release_heap();
                    Box::new(|_| {})
                });
            })
        });
    }

    fn apply_config(
        &mut self,
        config: Config,
        force: bool,
        began: SystemTime,
    ) -> Result<ReloadReport, Failure> {
        let desired = sources::desired(&config, &self.told, &self.host);
        self.guard_detaches(&config, &desired, force)?;
        report::config_warnings(&config);
        let report = ReloadReport {
            files: config.files.len() as u64,
            changes: sources::changes(&self.config, &config),
            warnings: config.warnings.lines().collect(),
        };
        // What is open stays where it is until the next start.
        let daemon = config::DaemonSettings {
            prune_after: config.daemon.prune_after,
            max_detach_percent: config.daemon.max_detach_percent,
            ..self.config.daemon.clone()
        };
        self.config = Config { daemon, ..config };
        let prune_after = self.config.daemon.prune_after;
        self.account.set_prune_after(&mut self.engine, prune_after);
        let now = self.now();
        self.hear(Event::Desired(Box::new(desired)), now);
        self.watch_files(began);
        // A plugin's file may have changed without a word in the configuration.
        self.restart_policy(!report.changes.is_empty());
        tracing::info!(target: "config", files = report.files, changes = report.changes.len(), "configuration reloaded");
        Ok(report)
    }

    /// `max_detach`: an emptied file must not cut a host's guests off.
    fn guard_detaches(&self, config: &Config, desired: &Desired, force: bool) -> Result<(), Failure> {
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
}

/// Blocks until it is on disk.
fn write(store: &SharedStore, directory: &Path, change: Change) -> Result<(), source::Error> {
    // A writer that panicked left the store as its last commit was.
    let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
    let open = match store.take() {
        Some(open) => open,
        None => sources::open_store(directory)?,
    };
    let result = open.apply(&[change]).map(|_| ());
    *store = Some(open);
    result
}
