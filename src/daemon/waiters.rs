//! Clients that wait for something to become true (`tapwire wait`, `tapwire resync`).

use super::rows;
use crate::control::api::{Failure, FailureKind, Reply, ResyncReport, WaitCondition, WaitReport};
use crate::control::spec::PortTarget;
use crate::engine::{Counters, Engine};
use crate::model::Time;

#[derive(Debug, Default)]
pub struct Waiters {
    conditions: Vec<(WaitCondition, Reply<WaitReport>)>,
    resyncs: Vec<(Counters, Time, Reply<ResyncReport>)>,
}

impl Waiters {
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty() && self.resyncs.is_empty()
    }

    pub fn wait(&mut self, condition: WaitCondition, reply: Reply<WaitReport>) {
        self.conditions.push((condition, reply));
    }

    pub fn resync(&mut self, engine: &Engine, now: Time, reply: Reply<ResyncReport>) {
        self.resyncs.push((engine.counters(), now, reply));
    }

    /// Answers those whose condition holds now, forgets those whose client has gone.
    pub fn look(&mut self, engine: &Engine, now: Time) {
        let mut waiting = Vec::with_capacity(self.conditions.len());
        for (condition, reply) in self.conditions.drain(..) {
            if reply.is_closed() {
                continue;
            }
            match holds(&condition, engine) {
                Some(answer) => {
                    // The client may have gone this instant: nothing to do about it.
                    let _ = reply.send(answer);
                }
                None => waiting.push((condition, reply)),
            }
        }
        self.conditions = waiting;
        if engine.is_in_sync() {
            let after = engine.counters();
            for (before, since, reply) in self.resyncs.drain(..) {
                let report = ResyncReport {
                    links: engine.observed().len() as u64,
                    ops: after.ops - before.ops,
                    op_errors: after.op_errors - before.op_errors,
                    elapsed_us: now.micros().saturating_sub(since.micros()),
                };
                let _ = reply.send(Ok(report));
            }
        }
    }
}

fn holds(condition: &WaitCondition, engine: &Engine) -> Option<Result<WaitReport, Failure>> {
    match condition {
        WaitCondition::InSync => engine.is_in_sync().then(|| Ok(WaitReport::default())),
        WaitCondition::Port { port, state } => match PortTarget::parse(port) {
            Err(error) => Some(Err(Failure::new(FailureKind::Invalid, error.to_string()))),
            Ok(target) => {
                let row = rows::port_by_name(engine, &target.tap)?;
                (row.state == *state).then_some(Ok(WaitReport { port: Some(row) }))
            }
        },
    }
}
