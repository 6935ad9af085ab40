//! Configuration: TOML files -> raw (spans kept) -> validated `Config`.
//!
//! The one place that knows the file format. Every error carries file, line, column, the line itself and a hint;
//! all errors of all files are reported, not the first. Called at start, by `tapwire check` and at every reload; a
//! load either gives a whole `Config` or a `Report`, never something between, and keeps nothing.
//!
//! The way of a load: `include` finds and reads the files, `reader` takes their tables apart, `network`, `port` and
//! `settings` (with `vxlan`, `physical`, `policy`) read one table each into drafts that remember their places (a
//! network's `gateway`, `dhcp`, `floating` addresses in files of their own),
//! `check` (with `devices`, `floating` and `sight`) compares the drafts with each other. Only if nothing was found do the drafts become a `Config`.
//!
//! Files are merged, never overridden: a key, network, port or physical network in two places is a mistake that
//! names both. Included files may hold any table; only `include` itself belongs to the main file.
//!
//! `told` reads the same keys out of JSON, for what comes over the control socket and out of the store.

mod addition;
mod aware;
mod check;
mod devices;
mod dhcp;
mod diff;
mod floating;
mod gateway;
mod include;
mod network;
mod physical;
mod place;
mod policy;
mod port;
mod reader;
mod report;
mod settings;
mod sight;
mod suggest;
mod told;
mod units;
mod vxlan;

pub use addition::{Unfit, fits};
pub use diff::{Changes, Difference, difference};
pub use policy::KeyPlaces;
pub use report::{Diagnostic, Related, Report};
pub use told::{gateway_from_json, gateway_to_json, port_facts_from_json};

use crate::model::{
    BridgeMode, Network, PhysicalName, PhysicalNetwork, PortMapping, TapMatch, VxlanSettings,
};
use network::NetworkDraft;
use place::{At, FileId, Place, Sources};
use port::PortDraft;
use reader::Table;
use report::Findings;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::DeTable;

/// Where the configuration is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/tapwire/tapwire.toml";

/// A configuration that has passed every check. Networks and ports carry the file and line they came from.
#[derive(Debug, Clone)]
pub struct Config {
    pub daemon: DaemonSettings,
    pub taps: TapMatch,
    pub physical_networks: BTreeMap<PhysicalName, PhysicalNetwork>,
    pub vxlan: VxlanSettings,
    pub bridge: BridgeMode,
    pub policy: PolicySettings,
    pub networks: Vec<Sourced<Network>>,
    pub ports: Vec<Sourced<PortMapping>>,
    /// Every file read, the main one first; the watcher's list.
    pub files: Vec<PathBuf>,
    /// Directories that `include` patterns look into: a file that appears there may be a new part. May not exist yet.
    pub directories: Vec<PathBuf>,
    /// Allowed, but hardly meant.
    pub warnings: Report,
}

/// A value and the place that said it ("/etc/tapwire/networks.d/a.toml:12").
#[derive(Debug, Clone)]
pub struct Sourced<T> {
    pub value: T,
    pub origin: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonSettings {
    pub socket: PathBuf,
    pub socket_group: Option<String>,
    pub state_directory: PathBuf,
    /// `None` is "never".
    pub prune_after: Option<Duration>,
    /// Per cent of attached ports that one reload may detach (never fewer than 10 ports).
    pub max_detach_percent: u8,
    /// Receive buffer of the link monitor socket, bytes (SO_RCVBUFFORCE).
    pub receive_buffer: usize,
    /// Bytes of the flight recorder; 0: none.
    pub flight_recorder: usize,
    /// `127.0.0.1:9478`; loopback only. `None`: metrics over the control socket only.
    pub metrics_listen: Option<std::net::SocketAddr>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicySettings {
    /// Files or directories, absolute, in the order they run.
    pub plugins: Vec<PathBuf>,
    /// `[policy.plugin.NAME]` as JSON-like values; checked against the plugin's own schema by `policy`.
    pub plugin: BTreeMap<String, serde_json::Value>,
    /// The other keys of `[policy]` (limits, enabled requests, maps), as JSON-like values; checked by `policy`.
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// Directory of the main file: what relative paths in `maps` refer to.
    pub base: PathBuf,
    /// Where the daemon keeps the plugins that were last in force; none: nowhere.
    pub archive: Option<PathBuf>,
    pub places: KeyPlaces,
}

/// Reads and checks a configuration file and everything it includes.
pub fn load(path: &Path) -> Result<Config, Report> {
    let (mut sources, mut findings) = (Sources::default(), Findings::default());
    match include::read_main(path, path == Path::new(DEFAULT_PATH), &mut sources, &mut findings) {
        Some(main) => load_from(main, sources, findings),
        None => Err(findings.into_report(&sources)),
    }
}

/// Reads and checks a text as if it were the content of `path` (which need not exist; includes and plugins are
/// looked for beside it).
pub fn load_str(text: &str, path: &Path) -> Result<Config, Report> {
    let mut sources = Sources::default();
    let main = sources.add(path, text.to_owned());
    load_from(main, sources, Findings::default())
}

fn load_from(main: FileId, mut sources: Sources, mut findings: Findings) -> Result<Config, Report> {
    let main_text = sources.text(main);
    let mut main_table = parse(main, &main_text, &mut findings);
    let patterns = main_table
        .as_mut()
        .map_or(Vec::new(), |table| include_patterns(table, &mut findings));
    let before = findings.len();
    let (included, directories) = include::read_included(main, &patterns, &mut sources, &mut findings);
    // Whether every file could be read and parsed. If not, what seems to be missing may be in there.
    let mut complete = main_table.is_some() && findings.len() == before;

    // One file after the other: the tables of networks and ports, by far the largest part of memory, become drafts
    // and are gone before the next file is parsed.
    let texts: Vec<_> = included.iter().map(|id| (*id, sources.text(*id))).collect();
    let (mut sections, mut drafts) = (Sections::default(), Drafts::default());
    if let Some(table) = main_table {
        collect(table, &mut sections, &mut drafts, &mut findings);
    }
    for (id, text) in &texts {
        match parse(*id, text, &mut findings) {
            Some(mut table) => {
                if let Some(item) = table.take("include") {
                    findings
                        .error(item.key_place, "`include` in an included file")
                        .hint("name all files in the main file's `include`");
                }
                collect(table, &mut sections, &mut drafts, &mut findings);
            }
            None => complete = false,
        }
    }

    let daemon = settings::daemon(sections.daemon, &mut findings);
    let taps = settings::taps(sections.taps, &mut findings);
    let bridge = settings::bridge(sections.bridge, &mut findings);
    let vxlan = vxlan::read(sections.vxlan, &mut findings);
    let physical = physical::read(sections.physical_networks, &mut findings);
    let mut policy = policy::read(
        sections.policy,
        sections.plugin,
        &sources,
        sources.path(main),
        &mut findings,
    );
    policy.archive = Some(absolute(&daemon.state_directory).join("policy"));
    floating::settle(
        &mut drafts.networks,
        std::mem::take(&mut drafts.floating_ips),
        std::mem::take(&mut drafts.port_forwards),
        complete,
        &mut findings,
    );
    aware::check(&drafts.networks, &physical, &vxlan, &bridge, &mut findings);
    if bridge.mode.shared().is_some() {
        floating::not_on_a_shared_bridge(&drafts.networks, &mut findings);
    }
    check::networks(
        &drafts.networks,
        &physical,
        &vxlan,
        &bridge,
        complete,
        &mut findings,
    );
    let port_networks = check::ports(&drafts.ports, &drafts.networks, complete, &mut findings);

    if !findings.is_empty() {
        return Err(findings.into_report(&sources));
    }
    sight::check(&drafts.ports, &taps, &mut findings);
    let local_ip = vxlan.settings.local_ip;
    let networks = drafts
        .networks
        .into_iter()
        .filter_map(|draft| draft.finish(&bridge.attributes, local_ip, &sources));
    let ports = drafts.ports.into_iter().zip(port_networks);
    Ok(Config {
        daemon,
        taps,
        vxlan: vxlan.settings,
        bridge: bridge.mode.clone(),
        policy,
        networks: networks.collect(),
        ports: ports
            .filter_map(|(draft, network)| draft.finish(network?, &sources))
            .collect(),
        physical_networks: physical
            .known
            .into_iter()
            .map(|(name, p)| (name, p.value))
            .collect(),
        files: sources.paths().map(absolute).collect(),
        warnings: findings.into_warnings(&sources),
        directories: directories.iter().map(|d| absolute(d)).collect(),
    })
}

/// Mistakes of syntax are findings, one for each line; a file with one is not looked into further, because what the
/// parser made of the rest is a guess. One missing bracket turns every line behind it into a mistake, so that only
/// the first few are shown, and the parser's own word on what is not closed.
fn parse<'i>(file: FileId, text: &'i str, findings: &mut Findings) -> Option<Table<'i>> {
    let (root, mut errors) = DeTable::parse_recoverable(text);
    errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
    let unclosed = |error: &toml::de::Error| {
        let message = error.message();
        message.starts_with("unclosed array,") || message.starts_with("unclosed inline table")
    };
    let shown = if errors.iter().any(unclosed) { 2 } else { 20 };
    let (mut lines, mut last_line) = (0, None);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        let line = text.get(..span.start).and_then(|before| before.rfind('\n'));
        if last_line != Some(line) {
            last_line = Some(line);
            lines += 1;
        } else if !unclosed(error) {
            continue;
        }
        if lines <= shown || unclosed(error) {
            let hint = syntax_hint(error.message());
            findings
                .error(Place::new(file, &span), error.message())
                .hint(hint);
        }
    }
    let place = Place::new(file, &(0..0));
    errors
        .is_empty()
        .then(|| Table::new("the file", file, place, root.into_inner()))
}

/// A way out for what operators get wrong most, by the parser's own words.
fn syntax_hint(message: &str) -> &'static str {
    const HINTS: [(&str, &str); 8] = [
        (
            "duplicate key",
            "a key can be set once in a table, and a [table] opened once; several networks are [[network]] each",
        ),
        ("must be quoted", "put the value into quotes: key = \"value\""),
        ("key with no value", "write key = value"),
        ("missing value", "write key = value; text goes into quotes"),
        (
            "unclosed",
            "close it: \"text\", [\"list\"], { table = 1 }, [header], [[header]]",
        ),
        ("invalid basic string", "close the quotes on the same line"),
        ("missing comma", "separate the elements by commas"),
        (
            "unquoted key",
            "keys are letters, digits, - and _; anything else goes into quotes",
        ),
    ];
    let hint = HINTS.iter().find(|(words, _)| message.contains(words));
    hint.map_or(
        "this is not TOML; its grammar is at https://toml.io",
        |(_, hint)| hint,
    )
}

fn include_patterns(table: &mut Table<'_>, findings: &mut Findings) -> Vec<At<String>> {
    let list = table.strings("include", "[\"networks.d/*.toml\"]", findings);
    let items = list.map_or(Vec::new(), |list| list.value);
    items
        .into_iter()
        .map(|At { value, place }| At {
            value: value.into_owned(),
            place,
        })
        .collect()
}

/// The tables that are there once, merged over all files.
#[derive(Debug, Default)]
struct Sections<'i> {
    daemon: Option<Table<'i>>,
    taps: Option<Table<'i>>,
    bridge: Option<Table<'i>>,
    vxlan: Option<Table<'i>>,
    physical_networks: Option<Table<'i>>,
    policy: Option<Table<'i>>,
    /// `[policy.plugin]`, whose keys are the plugins' names.
    plugin: Option<Table<'i>>,
}

#[derive(Debug, Default)]
struct Drafts {
    networks: Vec<NetworkDraft>,
    ports: Vec<PortDraft>,
    floating_ips: Vec<floating::FloatingDraft>,
    port_forwards: Vec<floating::ForwardDraft>,
}

/// Takes one file apart.
fn collect<'i>(
    mut root: Table<'i>,
    sections: &mut Sections<'i>,
    drafts: &mut Drafts,
    findings: &mut Findings,
) {
    let once: [(&'static str, &'static str, &mut Option<Table<'i>>); 5] = [
        ("daemon", "[daemon]", &mut sections.daemon),
        ("taps", "[taps]", &mut sections.taps),
        ("bridge", "[bridge]", &mut sections.bridge),
        ("vxlan", "[vxlan]", &mut sections.vxlan),
        (
            "physical_networks",
            "[physical_networks]",
            &mut sections.physical_networks,
        ),
    ];
    for (key, name, merged) in once {
        merge(merged, root.table(key, name, findings), findings);
    }
    if let Some(mut policy) = root.table("policy", "[policy]", findings) {
        let plugin = policy.table("plugin", "[policy.plugin.NAME]", findings);
        merge(&mut sections.plugin, plugin, findings);
        merge(&mut sections.policy, Some(policy), findings);
    }
    let networks = root.tables("network", "[[network]]", findings);
    drafts
        .networks
        .extend(networks.into_iter().map(|t| network::read(t, findings)));
    let ports = root.tables("port", "[[port]]", findings);
    drafts
        .ports
        .extend(ports.into_iter().map(|t| port::read(t, findings)));
    let floating = root.tables("floating_ip", "[[floating_ip]]", findings);
    drafts
        .floating_ips
        .extend(floating::floating_ips(floating, None, findings));
    let forwards = root.tables("port_forward", "[[port_forward]]", findings);
    drafts
        .port_forwards
        .extend(floating::port_forwards(forwards, None, findings));
    root.finish(findings);
}

fn merge<'i>(merged: &mut Option<Table<'i>>, table: Option<Table<'i>>, findings: &mut Findings) {
    match (merged.as_mut(), table) {
        (Some(merged), Some(table)) => merged.merge(table, findings),
        (None, table @ Some(_)) => *merged = table,
        (_, None) => {}
    }
}

fn absolute(path: &Path) -> PathBuf {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    // Fails only without a working directory; then the relative path is as good as it gets.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
