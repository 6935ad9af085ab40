//! Metrics in Prometheus' text format: stable names, units, help.
//!
//! Two ways in. What has a duration is observed when it happens (an attach, an operation, a hook): a few atomic adds,
//! and one look-up by static labels. What the daemon counts or knows anyway is told at scrape time as a [`Snapshot`]
//! and costs nothing between scrapes. The crate encodes OpenMetrics; [`Metrics::encode`] turns that into the text
//! format 0.0.4, in which a counter's family carries `_total` too, because that is what `promtool check metrics` and
//! every Prometheus read.

mod page;
mod policy;
mod snapshot;

pub use policy::{OwnMetric, OwnValue, PluginSnapshot, PolicySnapshot};
pub use snapshot::{Snapshot, SocketState};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// `Content-Type` of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LeaseLabel {
    what: &'static str,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabel {
    queue: &'static str,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SocketLabel {
    socket: &'static str,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OpLabel {
    op: &'static str,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OpOutcome {
    op: &'static str,
    outcome: &'static str,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HookLabel {
    hook: &'static str,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HookOutcome {
    hook: &'static str,
    outcome: &'static str,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabel {
    version: &'static str,
}

/// The registry. See the module.
pub struct Metrics {
    registry: Registry,
    attach: Histogram,
    op: Family<OpLabel, Histogram>,
    ops: Family<OpOutcome, Counter>,
    hook: Family<HookLabel, Histogram>,
    hooks: Family<HookOutcome, Counter>,
    in_sync: Gauge,
    config_ok: Gauge,
    uptime: Gauge,
    links: Gauge,
    ports: Family<StateLabel, Gauge>,
    networks: Family<StateLabel, Gauge>,
    gateways: Family<StateLabel, Gauge>,
    services: Family<StateLabel, Gauge>,
    service_starts: Counter,
    service_failures: Counter,
    active_leases: Gauge,
    guard_drops: Family<ReasonLabel, Counter>,
    leases: Family<LeaseLabel, Counter>,
    events: Counter,
    overruns: Counter,
    resyncs: Counter,
    decode_errors: Counter,
    queues: Family<QueueLabel, Gauge>,
    drops: Family<SocketLabel, Counter>,
    queued: Family<SocketLabel, Gauge>,
    flight_records: Gauge,
    flight_overwritten: Counter,
}

/// 50 us to 5 s: an attach is 150-400 us of kernel time, an operation 30-500 us; slower ones are somebody's problem.
fn latency() -> Histogram {
    Histogram::new([
        0.000_05, 0.000_1, 0.000_2, 0.000_3, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
        5.0,
    ])
}

impl Metrics {
    pub fn new() -> Self {
        let mut m = Self {
            registry: Registry::with_prefix("tapwire"),
            attach: latency(),
            op: Family::new_with_constructor(latency),
            ops: Family::default(),
            hook: Family::new_with_constructor(latency),
            hooks: Family::default(),
            in_sync: Gauge::default(),
            config_ok: Gauge::default(),
            uptime: Gauge::default(),
            links: Gauge::default(),
            ports: Family::default(),
            networks: Family::default(),
            gateways: Family::default(),
            services: Family::default(),
            service_starts: Counter::default(),
            service_failures: Counter::default(),
            active_leases: Gauge::default(),
            guard_drops: Family::default(),
            leases: Family::default(),
            events: Counter::default(),
            overruns: Counter::default(),
            resyncs: Counter::default(),
            decode_errors: Counter::default(),
            queues: Family::default(),
            drops: Family::default(),
            queued: Family::default(),
            flight_records: Gauge::default(),
            flight_overwritten: Counter::default(),
        };
        m.register();
        m
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        let build = Family::<BuildLabel, Gauge>::default();
        build
            .get_or_create(&BuildLabel {
                version: env!("CARGO_PKG_VERSION"),
            })
            .set(1);
        r.register("build_info", "Always 1; the label is the version", build);
        r.register(
            "in_sync",
            "1 once the first full pass is done",
            self.in_sync.clone(),
        );
        r.register(
            "config_ok",
            "0 while the files on disk are refused and an older configuration is in use",
            self.config_ok.clone(),
        );
        r.register_with_unit(
            "uptime",
            "Since the daemon started",
            Unit::Seconds,
            self.uptime.clone(),
        );
        r.register("links", "Links in this network namespace", self.links.clone());
        r.register("ports", "Taps by state", self.ports.clone());
        r.register("networks", "Networks by state", self.networks.clone());
        r.register(
            "gateways",
            "Networks with a gateway on this host by its state",
            self.gateways.clone(),
        );
        r.register("services", "DHCP and DNS servers by state", self.services.clone());
        r.register(
            "service_starts",
            "Times a dnsmasq was started",
            self.service_starts.clone(),
        );
        r.register(
            "service_failures",
            "Times a dnsmasq ended by itself or could not start",
            self.service_failures.clone(),
        );
        r.register(
            "leases_active",
            "DHCP leases that clients have now",
            self.active_leases.clone(),
        );
        r.register("leases", "What happened to DHCP leases", self.leases.clone());
        r.register(
            "guard_drops",
            "Frames dropped by the spoof guard",
            self.guard_drops.clone(),
        );
        r.register_with_unit(
            "attach",
            "From receiving a tap's RTM_NEWLINK to the last acknowledgement",
            Unit::Seconds,
            self.attach.clone(),
        );
        r.register("events", "Netlink messages received", self.events.clone());
        r.register(
            "overruns",
            "Times the kernel dropped messages for want of buffer",
            self.overruns.clone(),
        );
        r.register("resyncs", "Full passes after the first one", self.resyncs.clone());
        r.register(
            "decode_errors",
            "Messages that could not be decoded",
            self.decode_errors.clone(),
        );
        r.register(
            "ops",
            "Kernel operations by kind and outcome: ok, or the error's name",
            self.ops.clone(),
        );
        r.register_with_unit(
            "op",
            "Kernel operations, request to acknowledgement",
            Unit::Seconds,
            self.op.clone(),
        );
        r.register(
            "hook_calls",
            "Calls of plugins' hooks by outcome",
            self.hooks.clone(),
        );
        r.register_with_unit(
            "hook",
            "Calls of plugins' hooks",
            Unit::Seconds,
            self.hook.clone(),
        );
        r.register("queue_depth", "Waiting right now", self.queues.clone());
        r.register(
            "socket_drops",
            "Messages dropped, by the kernel's own count",
            self.drops.clone(),
        );
        r.register_with_unit(
            "socket_queued",
            "Queued in a netlink socket",
            Unit::Bytes,
            self.queued.clone(),
        );
        r.register(
            "flight_recorder_records",
            "Records held",
            self.flight_records.clone(),
        );
        r.register(
            "flight_recorder_overwritten",
            "Records overwritten by newer ones",
            self.flight_overwritten.clone(),
        );
    }

    /// A tap became attached.
    pub fn attached(&self, elapsed_us: u64) {
        self.attach.observe(seconds(elapsed_us));
    }

    /// An operation was answered. `op`: `plan::Op::name`; `errno`: 0 for success.
    pub fn op(&self, op: &'static str, errno: i32, elapsed_us: u64) {
        self.op
            .get_or_create(&OpLabel { op })
            .observe(seconds(elapsed_us));
        self.ops
            .get_or_create(&OpOutcome {
                op,
                outcome: errno_name(errno),
            })
            .inc();
    }

    /// Something happened to a lease: "added", "changed", "ended".
    pub fn lease(&self, what: &'static str) {
        self.leases.get_or_create(&LeaseLabel { what }).inc();
    }

    /// A dnsmasq is being started.
    pub fn service_started(&self) {
        self.service_starts.inc();
    }

    /// One ended by itself, or could not start.
    pub fn service_failed(&self) {
        self.service_failures.inc();
    }

    /// A hook was called and returned. `outcome`: "ok", "error", "deadline" ...
    pub fn hook(&self, hook: &'static str, outcome: &'static str, elapsed_us: u64) {
        self.hook
            .get_or_create(&HookLabel { hook })
            .observe(seconds(elapsed_us));
        self.hooks.get_or_create(&HookOutcome { hook, outcome }).inc();
    }

    /// The whole page, with what is known now.
    pub fn encode(&self, now: &Snapshot) -> Result<String, fmt::Error> {
        self.take(now);
        let mut page = String::with_capacity(16 << 10);
        text::encode(&mut page, &self.registry)?;
        let mut page = page::to_prometheus_text(&page);
        policy::write(&mut page, &now.policy);
        Ok(page)
    }

    fn take(&self, now: &Snapshot) {
        let gauge = |gauge: &Gauge, value: u64| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        let counter = |counter: &Counter, value| AtomicU64::store(counter.inner(), value, Ordering::Relaxed);
        gauge(&self.in_sync, now.in_sync.into());
        gauge(&self.config_ok, now.config_ok.into());
        gauge(&self.uptime, now.uptime_seconds);
        gauge(&self.links, now.links);
        for (state, count) in &now.ports {
            gauge(&self.ports.get_or_create(&StateLabel { state }), *count);
        }
        for (state, count) in &now.networks {
            gauge(&self.networks.get_or_create(&StateLabel { state }), *count);
        }
        for (state, count) in &now.gateways {
            gauge(&self.gateways.get_or_create(&StateLabel { state }), *count);
        }
        for (state, count) in &now.services {
            gauge(&self.services.get_or_create(&StateLabel { state }), *count);
        }
        gauge(&self.active_leases, now.leases);
        for (reason, frames) in &now.guard_drops {
            let label = ReasonLabel { reason };
            counter(&self.guard_drops.get_or_create(&label), *frames);
        }
        counter(&self.events, now.events);
        counter(&self.overruns, now.overruns);
        counter(&self.resyncs, now.resyncs);
        counter(&self.decode_errors, now.decode_errors);
        for (queue, depth) in &now.queues {
            gauge(&self.queues.get_or_create(&QueueLabel { queue }), *depth);
        }
        for state in &now.sockets {
            let label = SocketLabel { socket: state.socket };
            counter(&self.drops.get_or_create(&label), state.drops);
            gauge(&self.queued.get_or_create(&label), state.queued_bytes);
        }
        gauge(&self.flight_records, now.flight_records);
        counter(&self.flight_overwritten, now.flight_overwritten);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// Bounded: what an operation can meet by name, everything else as "other".
fn errno_name(errno: i32) -> &'static str {
    match errno {
        0 => "ok",
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::ENOSPC => "ENOSPC",
        libc::ERANGE => "ERANGE",
        libc::ELOOP => "ELOOP",
        libc::EXFULL => "EXFULL",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::EADDRINUSE => "EADDRINUSE",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::ENOBUFS => "ENOBUFS",
        libc::ETIMEDOUT => "ETIMEDOUT",
        _ => "other",
    }
}

#[cfg(test)]
mod tests;
