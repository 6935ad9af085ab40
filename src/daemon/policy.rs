//! Policy's place in the loop.

use super::reactor::Reactor;
use crate::control::api::{
    Failure, FailureKind, PolicyReloadReport, PolicyReloadRequest, PolicyStatus, Reply, Sink, Verdict,
};
use crate::model::Ifindex;
use serde_json::Value;

fn none<T>() -> Result<T, Failure> {
    Err(Failure::new(FailureKind::Unavailable, "no plugins are loaded"))
}

impl Reactor {
    pub(super) fn policy_status(&self) -> PolicyStatus {
        PolicyStatus::default()
    }
    pub(super) fn policy_counters(&self) -> (u64, u64) {
        (0, 0)
    }
    pub(super) async fn policy_reload(
        &mut self,
        _request: PolicyReloadRequest,
        reply: Reply<PolicyReloadReport>,
    ) {
        let _ = reply.send(none());
    }
    pub(super) async fn policy_rollback(&mut self, reply: Reply<PolicyReloadReport>) {
        let _ = reply.send(none());
    }
    pub(super) fn policy_eval(&mut self, _port: &str, reply: Reply<Value>) {
        let _ = reply.send(none());
    }
    pub(super) fn policy_record(&mut self, _sink: Sink) -> Result<(), Failure> {
        none()
    }
    pub(super) fn port_verdicts(&self, _index: Ifindex) -> Vec<Verdict> {
        Vec::new()
    }
    pub(super) fn restart_policy(&mut self) {}
}
