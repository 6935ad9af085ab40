//! What the daemon shows of its work: the flight recorder, explain, live decisions, metrics.
//!
//! Fed from three places of the loop: each plan carried out, each note of the engine, each scrape. All of it is bounded
//! and none of it waits; a reader of the live stream that does not keep up loses lines and is told how many.

use super::reactor::Reactor;
use crate::control::api::{Delivery, Failure, FailureKind, Sink};
use crate::engine::Engine;
use crate::engine::event::{Applied, Done};
use crate::engine::note::{Note, What};
use crate::engine::state::{PortLabel, PortState};
use crate::model::Time;
use crate::plan::Key;
use crate::telemetry::clock;
use crate::telemetry::flight::{FlightRecorder, Kind, Step};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::{Decision, Filter};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// What happened to a lease.
pub struct LeaseStep<'a> {
    /// Behind which the client is, if that is known.
    pub tap: Option<crate::model::Ifindex>,
    pub network: &'a crate::model::NetworkId,
    pub what: &'static str,
    pub address: std::net::IpAddr,
}

/// Everything that watches the loop.
pub struct Observer {
    pub(super) flight: FlightRecorder,
    pub(super) metrics: Metrics,
    sinks: Vec<Sink>,
    /// CLOCK_MONOTONIC at the engine's time zero, microseconds.
    clock_base_us: u64,
}

impl Observer {
    /// `recorder`: bytes of the flight recorder.
    pub fn new(state_directory: &Path, recorder: usize) -> Self {
        let mut flight = FlightRecorder::new(recorder);
        if !flight.is_off() {
            flight.dump_on_panic(state_directory);
        }
        Self {
            flight,
            metrics: Metrics::new(),
            sinks: Vec::new(),
            clock_base_us: clock::monotonic_us(),
        }
    }

    /// A plan was carried out.
    pub fn plan(&mut self, done: &Done, engine: &Engine, now: Time) {
        let cause = done.plan.cause.0;
        let tap;
        let (ifindex, name) = match &done.plan.key {
            Key::Port(index) => {
                tap = engine.tap(*index).map(|tap| tap.name);
                (index.get(), tap.as_ref().map(crate::model::LinkName::to_text))
            }
            Key::Network(id) | Key::Gateway(id) => (0, Some(id.as_str().into())),
            Key::Guard => (0, Some("spoof guard".into())),
            Key::Orphan(_) | Key::Gateways => (0, None),
        };
        let name = name.unwrap_or_default();
        for (step, result) in done.plan.steps.iter().zip(&done.results) {
            let (errno, text) = match &result.outcome {
                Ok(_) => (0, ""),
                Err(failure) => (failure.errno, failure.message.as_str()),
            };
            self.metrics
                .op(step.op.name(), errno, u64::from(result.elapsed_us));
            self.flight.push(Step {
                ifindex,
                name: &name,
                word: step.op.name(),
                text,
                errno: u16::try_from(errno).unwrap_or(u16::MAX),
                elapsed_us: result.elapsed_us,
                ..Step::new(Kind::Op, now.micros(), cause)
            });
        }
        if !self.sinks.is_empty() {
            self.stream(done, engine, now);
        }
    }

    /// One decision for each device of a plan, as `/v1/trace` streams it.
    fn stream(&mut self, done: &Done, engine: &Engine, now: Time) {
        let elapsed: u64 = done.results.iter().map(|r| u64::from(r.elapsed_us)).sum();
        let network = match &done.plan.key {
            Key::Port(index) => engine.tap(*index).and_then(|tap| tap.intent.network()).cloned(),
            Key::Network(id) | Key::Gateway(id) => Some(id.clone()),
            Key::Orphan(_) | Key::Guard | Key::Gateways => None,
        };
        let shared = match &done.plan.key {
            Key::Guard => "spoof guard".to_owned(),
            Key::Gateways => "gateways".to_owned(),
            Key::Network(id) | Key::Gateway(id) => format!("network {id}"),
            Key::Port(_) | Key::Orphan(_) => "host".to_owned(),
        };
        let mut decisions: Vec<Decision> = Vec::new();
        for (step, result) in done.plan.steps.iter().zip(&done.results) {
            let device = step.op.device();
            let made = match &result.outcome {
                Ok(Applied::Created(link) | Applied::AlreadyThere(link)) => Some(link.index),
                _ => step
                    .op
                    .device_index()
                    .or_else(|| Some(engine.observed().by_name(device.as_ref()?)?.index)),
            };
            // Tables, settings, routes and flows are no device's.
            let name = device.map_or_else(|| shared.clone(), |name| name.to_string());
            let at = decisions
                .iter()
                .position(|d| *d.ifname == *name)
                .unwrap_or_else(|| {
                    decisions.push(Decision {
                        ts_us: self.clock_base_us + now.micros().saturating_sub(elapsed),
                        cause: done.plan.cause.0,
                        ifindex: 0,
                        ifname: name.as_str().into(),
                        network: network.as_ref().map(|id| id.as_str().into()),
                        decision: "".into(),
                        ops: Vec::new(),
                        lines: Vec::new(),
                        outcome: Some("ok".into()),
                        elapsed_us: Some(elapsed),
                    });
                    decisions.len() - 1
                });
            let Some(decision) = decisions.get_mut(at) else {
                continue;
            };
            decision.ifindex = made.map_or(decision.ifindex, crate::model::Ifindex::get);
            decision.ops.push(step.op.name().into());
            decision.lines.push(step.op.to_string().into());
            if let Err(failure) = &result.outcome {
                decision.outcome = Some(failure.message.as_str().into());
            }
        }
        for mut decision in decisions {
            decision.decision = decision.ops.join(", ").into();
            self.send(&decision);
        }
    }

    /// Something happened to a lease: into the tap's story, and to those who follow.
    pub fn lease(&mut self, step: &LeaseStep<'_>, engine: &Engine, now: Time) {
        self.metrics.lease(step.what);
        let link = step.tap.and_then(|index| engine.observed().link(index));
        let name = link.map(|link| link.name.to_string()).unwrap_or_default();
        let address = step.address.to_string();
        let ifindex = step.tap.map_or(0, crate::model::Ifindex::get);
        self.flight.push(Step {
            ifindex,
            name: &name,
            word: step.what,
            text: &address,
            ..Step::new(Kind::Lease, now.micros(), 0)
        });
        if self.sinks.is_empty() {
            return;
        }
        self.send(&Decision {
            ts_us: self.clock_base_us + now.micros(),
            cause: 0,
            ifindex,
            // Behind which tap it is need not be known.
            ifname: match ifindex {
                0 => format!("network {}", step.network).into(),
                _ => name.into(),
            },
            network: Some(step.network.as_str().into()),
            decision: "lease".into(),
            ops: Vec::new(),
            lines: Vec::new(),
            outcome: Some(format!("{address} {}", step.what).into()),
            elapsed_us: None,
        });
    }

    fn send(&mut self, decision: &Decision) {
        match serde_json::to_string(decision) {
            Ok(line) => {
                let line: Arc<str> = line.into();
                self.sinks
                    .retain_mut(|sink| sink.push(Arc::clone(&line)) != Delivery::Closed);
            }
            Err(error) => tracing::warn!(target: "telemetry", %error, "decision cannot be told"),
        }
    }

    /// A plugin answered.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one record, named at the call"
    )]
    pub fn policy_step(
        &mut self,
        now: Time,
        cause: u64,
        index: crate::model::Ifindex,
        name: &str,
        plugin: &str,
        hook: &str,
        verdict: &str,
        elapsed_us: u64,
    ) {
        self.flight.push(Step {
            ifindex: index.get(),
            name,
            word: plugin,
            text: &format!("{hook}: {verdict}"),
            elapsed_us: u32::try_from(elapsed_us).unwrap_or(u32::MAX),
            ..Step::new(Kind::Policy, now.micros(), cause)
        });
    }

    pub fn note(&mut self, note: &Note) {
        if let What::Port {
            state: PortState::Attached,
            attach_us: Some(us),
            ..
        } = &note.what
        {
            self.metrics.attached(*us);
        }
        if !self.flight.is_off() {
            self.record(note);
        }
    }

    fn record(&mut self, note: &Note) {
        let (at, cause) = (note.at.micros(), note.cause.0);
        let port_step =
            |flight: &mut FlightRecorder, kind, port: &PortLabel, word: &str, text: &str, elapsed_us| {
                flight.push(Step {
                    ifindex: port.index.get(),
                    name: &port.name.to_text(),
                    word,
                    text,
                    elapsed_us,
                    ..Step::new(kind, at, cause)
                });
            };
        match &note.what {
            What::TapAppeared { port } => port_step(&mut self.flight, Kind::Event, port, "new", "", 0),
            What::TapGone { port, .. } => port_step(&mut self.flight, Kind::Event, port, "gone", "", 0),
            What::TapChanged { port, change } => {
                let word = match change.master {
                    Some((_, None)) => "released",
                    Some((_, Some(_))) => "enslaved",
                    None => "change",
                };
                port_step(&mut self.flight, Kind::Event, port, word, &change.to_string(), 0);
            }
            What::Mapped { port, by } => {
                let network = port.network.as_ref().map_or("", |n| n.as_str());
                port_step(&mut self.flight, Kind::Mapping, port, by, network, 0);
            }
            What::Port {
                port,
                state,
                remark,
                attach_us,
            } => {
                let text = match remark {
                    Some(remark) => remark.to_string(),
                    None => state.to_string(),
                };
                let elapsed = attach_us.map_or(0, |us| u32::try_from(us).unwrap_or(u32::MAX));
                port_step(&mut self.flight, Kind::State, port, state.word(), &text, elapsed);
            }
            What::Resync { reason } => {
                self.flight.push(Step {
                    word: reason,
                    ..Step::new(Kind::Resync, at, cause)
                });
            }
            What::InSync { .. } => self.flight.push(Step {
                word: "in sync",
                ..Step::new(Kind::Resync, at, cause)
            }),
            What::Network { .. }
            | What::Gateway { .. }
            | What::Failed { .. }
            | What::Pruned { .. }
            | What::Service { .. }
            | What::AddressesMoved { .. }
            | What::Drift { .. } => {}
        }
    }
}

/// The kernel's answer to each operation, as a span that took as long. They are told when all are in.
pub(super) fn answers(done: &Done) {
    let mut ago_us: u64 = done.results.iter().map(|r| u64::from(r.elapsed_us)).sum();
    for (step, result) in done.plan.steps.iter().zip(&done.results) {
        let elapsed_us = u64::from(result.elapsed_us);
        ago_us -= elapsed_us;
        let error = result
            .outcome
            .as_ref()
            .err()
            .map_or("", |failure| failure.message.as_str());
        tracing::debug_span!(target: "kernel::tx", "op", op = step.op.name(), line = %step.op, elapsed_us, ago_us, error)
            .in_scope(|| {});
    }
}

impl Reactor {
    pub(super) fn history(&self, limit: usize) -> Vec<Value> {
        let skip = self.observer.flight.len().saturating_sub(limit);
        // A step is made of plain fields: it always serialises.
        self.observer
            .flight
            .steps()
            .skip(skip)
            .filter_map(|step| serde_json::to_value(step).ok())
            .collect()
    }

    pub(super) fn save_history(&self) -> Result<String, Failure> {
        if self.observer.flight.is_off() {
            return Err(Failure::new(
                FailureKind::Conflict,
                "the flight recorder is off: flight_recorder is 0",
            ));
        }
        let directory = &self.config.daemon.state_directory;
        self.observer
            .flight
            .dump_into(directory, "request")
            .map(|path| path.display().to_string())
            .map_err(|error| {
                let what = format!("cannot write into {}: {error}", directory.display());
                Failure::new(FailureKind::Internal, what)
            })
    }

    /// The filter is applied by the reader, which knows the events too.
    pub(super) fn subscribe(&mut self, filter: Option<String>, sink: Sink) -> Result<(), Failure> {
        if let Some(filter) = &filter {
            Filter::parse(filter).map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
        }
        // First of all, whose requests are ours: addresses and routes name the requester.
        let portids: Vec<u32> = self.sockets().into_iter().map(|(_, portid)| portid).collect();
        let mut sink = sink;
        sink.push(serde_json::json!({ "portids": portids }).to_string().into());
        self.observer.sinks.push(sink);
        Ok(())
    }
}
