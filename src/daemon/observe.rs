//! What the daemon shows of its work: explain, history, live streams, metrics.

use super::reactor::Reactor;
use crate::control::api::{Failure, FailureKind, Sink, Story};
use serde_json::Value;

impl Reactor {
    pub(super) fn explain(&self, _port: &str) -> Result<Story, Failure> {
        Err(Failure::new(FailureKind::Unavailable, "no flight recorder yet"))
    }
    pub(super) fn history(&self, _limit: usize) -> Vec<Value> {
        Vec::new()
    }
    pub(super) fn subscribe(&mut self, _filter: Option<String>, _sink: Sink) -> Result<(), Failure> {
        Err(Failure::new(FailureKind::Unavailable, "no live stream yet"))
    }
    pub(super) fn metrics(&self) -> Result<String, Failure> {
        Err(Failure::new(FailureKind::Unavailable, "no metrics yet"))
    }
}
