//! What is told at scrape time.

/// What the daemon knows at the moment of a scrape.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub in_sync: bool,
    /// The configuration on disk is the one in use, and right.
    pub config_ok: bool,
    pub uptime_seconds: u64,
    pub links: u64,
    /// By state's word; every state, zeros too.
    pub ports: Vec<(&'static str, u64)>,
    pub networks: Vec<(&'static str, u64)>,
    /// Gateways by state's word.
    pub gateways: Vec<(&'static str, u64)>,
    /// DHCP and DNS servers by state's word.
    pub services: Vec<(&'static str, u64)>,
    pub leases: u64,
    /// Frames that the spoof guard dropped, by reason; empty where nothing is guarded.
    pub guard_drops: Vec<(&'static str, u64)>,
    /// Counted since the start.
    pub events: u64,
    pub overruns: u64,
    pub resyncs: u64,
    pub decode_errors: u64,
    /// Waiting right now, by queue ("dirty", "plans", "policy", "commands" ...).
    pub queues: Vec<(&'static str, u64)>,
    pub sockets: Vec<SocketState>,
    pub flight_records: u64,
    pub flight_overwritten: u64,
    pub policy: super::PolicySnapshot,
}

/// A netlink socket as the kernel sees it (`/proc/net/netlink`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketState {
    /// "links", "addresses", "requests".
    pub socket: &'static str,
    /// Messages dropped since it was opened.
    pub drops: u64,
    /// Bytes queued.
    pub queued_bytes: u64,
}
