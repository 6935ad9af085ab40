//! The engine's notes as log lines.
//!
//! info: what an operator wants to see; warn: heals by itself; error: a human is needed. Data is in fields with fixed
//! names, so that one `cause` finds the whole story.

use crate::config::Config;
use crate::engine::note::{Note, What};
use crate::engine::service::ServiceState;
use crate::engine::state::{GatewayState, PortLabel, PortState, SegmentState, WAITS_FOR_POLICY};
use tracing::{debug, info, warn};

/// What is allowed in the files but can hardly be meant.
pub fn config_warnings(config: &Config) {
    for warning in config.warnings.lines() {
        warn!(target: "config", %warning, "configuration");
    }
}

pub fn log(note: &Note) {
    let cause = note.cause.0;
    match &note.what {
        What::TapAppeared { port } => {
            debug!(target: "engine", cause, ifindex = port.index.get(), ifname = %port.name, "tap appeared");
        }
        What::TapGone { port, .. } => {
            debug!(target: "engine", cause, ifindex = port.index.get(), ifname = %port.name, "tap gone");
        }
        What::TapChanged { port, change } => {
            debug!(target: "engine", cause, ifindex = port.index.get(), ifname = %port.name, %change, "tap changed");
        }
        What::Mapped { port, by } => {
            let network = port.network.as_ref().map(ToString::to_string).unwrap_or_default();
            debug!(target: "engine", cause, ifindex = port.index.get(), ifname = %port.name, %network, by, "tap mapped");
        }
        What::Port {
            port,
            state,
            remark,
            attach_us,
        } => log_port(cause, port, state, remark.as_deref(), *attach_us),
        What::Network { network, state } => match state {
            SegmentState::Ready => info!(target: "engine", cause, %network, "network ready"),
            SegmentState::Idle => debug!(target: "engine", cause, %network, "network idle"),
            SegmentState::Configuring => {}
            SegmentState::Pending { reason } => {
                warn!(target: "engine", cause, %network, %reason, "network waits")
            }
            SegmentState::Failed { error, .. } => {
                warn!(target: "engine", cause, %network, %error, "network failed")
            }
            SegmentState::Conflict { reason } => {
                warn!(target: "engine", cause, %network, %reason, "network in conflict")
            }
        },
        What::Gateway { network, state } => match state {
            GatewayState::Ready => info!(target: "engine", cause, %network, "gateway ready"),
            GatewayState::Pending { reason } => {
                info!(target: "engine", cause, %network, %reason, "gateway waits")
            }
            GatewayState::Failed { error, .. } => {
                warn!(target: "engine", cause, %network, %error, "gateway failed")
            }
        },
        What::Failed {
            op,
            error,
            port,
            network,
        } => {
            let ifname = port.as_ref().map(|p| p.name.to_string()).unwrap_or_default();
            let network = network
                .as_ref()
                .or(port.as_ref().and_then(|p| p.network.as_ref()));
            let network = network.map(ToString::to_string).unwrap_or_default();
            warn!(target: "engine", cause, %op, %error, %ifname, %network, "operation failed");
        }
        What::Resync { reason } => warn!(target: "engine", cause, %reason, "resync"),
        What::InSync { links, taps } => info!(target: "engine", cause, links, taps, "in sync"),
        What::Service { network, state } => match state {
            ServiceState::Running { pid } => {
                info!(target: "service", cause, %network, pid, "DHCP and DNS run")
            }
            ServiceState::Failed { error, .. } => {
                warn!(target: "service", cause, %network, %error, "DHCP and DNS failed");
            }
            ServiceState::Waiting | ServiceState::Starting => {}
        },
        What::Pruned { device } => info!(target: "engine", cause, ifname = %device, "unused device removed"),
        What::AddressesMoved {
            from,
            to,
            addresses,
            routes,
        } => {
            info!(target: "engine", cause, %from, %to, addresses, routes, "addresses moved");
        }
        What::Drift { device, network } => {
            let network = network.as_ref().map(ToString::to_string).unwrap_or_default();
            warn!(target: "engine", cause, ifname = %device, %network, "drift is being repaired");
        }
    }
}

fn log_port(cause: u64, port: &PortLabel, state: &PortState, remark: Option<&str>, attach_us: Option<u64>) {
    let network = port.network.as_ref().map(ToString::to_string).unwrap_or_default();
    let (ifindex, ifname) = (port.index.get(), port.name);
    match state {
        PortState::Attached => {
            let remark = remark.unwrap_or_default();
            info!(target: "engine", cause, ifindex, %ifname, %network, elapsed_us = attach_us, %remark, "port attached");
        }
        PortState::Configuring => {}
        PortState::Pending { reason } if **reason == *WAITS_FOR_POLICY => {
            debug!(target: "engine", cause, ifindex, %ifname, %network, %reason, "port pending");
        }
        PortState::Pending { reason } => {
            info!(target: "engine", cause, ifindex, %ifname, %network, %reason, "port pending");
        }
        PortState::Failed { error, .. } => {
            warn!(target: "engine", cause, ifindex, %ifname, %network, %error, "port failed");
        }
        PortState::Conflict { reason, .. } => {
            warn!(target: "engine", cause, ifindex, %ifname, %network, %reason, "port in conflict");
        }
        PortState::Denied { plugin, reason } => {
            info!(target: "engine", cause, ifindex, %ifname, %network, %plugin, %reason, "port denied");
        }
    }
}
