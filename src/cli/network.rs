//! `tapwire network`.

use super::context::Context;
use super::failure::Failure;
use super::output::{Cell, Output, Style, Table, plain};
use super::port;
use crate::control::api::{NetworkDetail, NetworkRow, NetworkSpec, ServerRow};
use crate::control::client::escape;
use std::io;
use std::path::{Path, PathBuf};

/// List, show, add and delete networks
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List networks with their states
    #[command(visible_alias = "ls")]
    List,
    /// Show one network, its taps and its peers
    Show {
        /// Network id or name
        network: String,
    },
    /// Add a network; it survives a restart of the daemon
    Add(Add),
    /// Delete a network that was added with `network add`
    ///
    /// Refused while taps are attached. A network from a configuration file can only be deleted there.
    Delete {
        /// Network id or name
        network: String,
        /// Detach its taps
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Add {
    /// Network id, usually a UUID
    id: String,
    /// local, flat, vlan or vxlan
    #[arg(long, value_name = "TYPE")]
    network_type: String,
    /// VLAN id (1..4094) or VNI (1..16777215)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    segmentation_id: Option<i64>,
    /// Key of [physical_networks], for flat and vlan
    #[arg(long, value_name = "NAME")]
    physical_network: Option<String>,
    /// MTU in bytes
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    mtu: Option<i64>,
    /// A name for people
    #[arg(long)]
    name: Option<String>,
    /// Bridge name [default: brq + first 11 characters of the id]
    #[arg(long)]
    bridge: Option<String>,
    /// JSON file (- for standard input) with any of the keys gateway, dhcp, ra, metadata, share_dhcp_address,
    /// floating_ip and port_forward, as in [[network]] of the configuration
    #[arg(long, value_name = "FILE")]
    services: Option<PathBuf>,
}

impl Add {
    /// Checked here as the daemon will check it, so that a typing error needs no daemon to be found.
    fn into_spec(self) -> Result<NetworkSpec, Failure> {
        let services = self.services.as_deref().map(read_services).transpose()?;
        let spec = NetworkSpec {
            id: self.id,
            network_type: self.network_type,
            segmentation_id: self.segmentation_id,
            physical_network: self.physical_network,
            mtu: self.mtu,
            name: self.name,
            bridge: self.bridge,
            ..services.unwrap_or_default()
        };
        match spec.check() {
            Ok(_) => Ok(spec),
            Err(errors) => {
                let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
                Err(Failure::usage(texts.join("\nerror: ")))
            }
        }
    }
}

/// Only the keys of the gateway half: the rest is told by options.
fn read_services(path: &Path) -> Result<NetworkSpec, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
    let text = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(path)
    };
    let text = text.map_err(|error| wrong(&error))?;
    let mut keys: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&text).map_err(|error| wrong(&error))?;
    for told in ["id", "network_type"] {
        if keys.insert(told.to_owned(), "".into()).is_some() {
            return Err(wrong(&format_args!("`{told}` is told by the command line")));
        }
    }
    serde_json::from_value(keys.into()).map_err(|error| wrong(&error))
}

pub fn run(context: &mut Context, args: Args) -> Result<(), Failure> {
    match args.command {
        Command::List => {
            let client = context.client()?;
            let rows: Vec<NetworkRow> = context.block_on(async { Ok(client.get("/v1/networks").await?) })?;
            context.print(&rows, |out, rows| list(out, rows))
        }
        Command::Show { network } => {
            let client = context.client()?;
            let path = format!("/v1/networks/{}", escape(&network));
            let detail: NetworkDetail = context.block_on(async { Ok(client.get(&path).await?) })?;
            context.print(&detail, show)
        }
        Command::Add(add) => {
            let spec = add.into_spec()?;
            let client = context.client()?;
            let row: NetworkRow =
                context.block_on(async { Ok(client.post("/v1/networks", &spec).await?) })?;
            context.print(&row, |out, row| {
                out.line(&plain(&format!("network {} added ({})", row.id, segment(row))))
            })
        }
        Command::Delete { network, force } => {
            let client = context.client()?;
            let path = format!("/v1/networks/{}?force={force}", escape(&network));
            let row: NetworkRow = context.block_on(async { Ok(client.delete(&path).await?) })?;
            context.print(&row, |out, row| {
                out.line(&plain(&format!("network {} deleted", row.id)))
            })
        }
    }
}

/// "vlan 100 on physnet1".
fn segment(row: &NetworkRow) -> String {
    let mut text = row.network_type.clone();
    if let Some(id) = row.segmentation_id {
        text.push_str(&format!(" {id}"));
    }
    if let Some(physical) = &row.physical_network {
        text.push_str(&format!(" on {physical}"));
    }
    text
}

fn style(state: &str) -> Style {
    match state {
        "ready" => Style::Good,
        "idle" => Style::Dim,
        "pending" => Style::Attention,
        _ => Style::Bad,
    }
}

/// Behind the bridge.
const VLAN_AT: usize = 5;

fn list(out: &mut Output, rows: &[NetworkRow]) -> io::Result<()> {
    // Networks have VLANs on a VLAN-aware bridge only.
    let vlans = rows.iter().any(|row| row.vid.is_some());
    let mut heads = vec![
        "NETWORK", "NAME", "SEGMENT", "STATE", "BRIDGE", "UPLINK", ">MTU", ">PORTS", "REASON",
    ];
    if vlans {
        heads.insert(VLAN_AT, ">VLAN");
    }
    let mut table = Table::new(&heads);
    for row in rows {
        let mut cells = vec![
            row.id.clone().into(),
            row.name.clone().into(),
            segment(row).into(),
            Cell::styled(style(&row.state), row.state.clone()),
            row.bridge.clone().into(),
            row.uplink.clone().into(),
            row.mtu.into(),
            row.ports.into(),
            row.reason.clone().into(),
        ];
        if vlans {
            cells.insert(VLAN_AT, row.vid.map(u32::from).into());
        }
        table.push(cells);
    }
    out.table(&table)
}

fn show(out: &mut Output, detail: &NetworkDetail) -> io::Result<()> {
    let row = &detail.row;
    let id = out.paint(Style::Bold, &row.id);
    let state = out.paint(style(&row.state), &row.state);
    let reason = row
        .reason
        .as_ref()
        .map_or_else(String::new, |r| format!(": {}", plain(r)));
    out.line(&format!("{id}  {}  {state}{reason}", plain(&segment(row))))?;
    let fields = [
        ("name", row.name.clone()),
        ("from", Some(detail.origin.clone())),
        ("bridge", row.bridge.clone()),
        ("vlan", row.vid.map(|vid| vid.to_string())),
        ("uplink", row.uplink.clone()),
        ("mtu", row.mtu.map(|m| m.to_string())),
    ];
    let present = fields
        .iter()
        .filter_map(|(name, value)| Some((*name, value.clone()?)));
    let services = detail
        .services
        .iter()
        .map(|(key, value)| (key.as_str(), inline(value)));
    let server = detail.server.iter().map(|server| ("dnsmasq", serving(server)));
    let lines: Vec<(&str, String)> = present.chain(services).chain(server).collect();
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in lines {
        out.line(&format!("  {name:<width$} {}", plain(&value)))?;
    }
    if !detail.taps.is_empty() {
        out.line("")?;
        port::list(out, &detail.taps)?;
    }
    if !detail.peers.is_empty() {
        out.line("")?;
        let mut table = Table::new(&["VTEP", "MAC", "IP"]);
        for peer in &detail.peers {
            table.push(vec![
                peer.vtep.clone().into(),
                peer.mac.clone().into(),
                peer.ip.clone().into(),
            ]);
        }
        out.table(&table)?;
    }
    if !detail.leases.is_empty() {
        out.line("")?;
        let mut table = Table::new(&["ADDRESS", "MAC", "HOSTNAME", ">EXPIRES IN"]);
        for lease in &detail.leases {
            let expires = lease
                .expires_in_s
                .map_or_else(|| "never".to_owned(), |s| format!("{s} s"));
            table.push(vec![
                lease.address.clone().into(),
                lease.mac.clone().into(),
                lease.hostname.clone().into(),
                expires.into(),
            ]);
        }
        out.table(&table)?;
    }
    Ok(())
}

fn serving(server: &ServerRow) -> String {
    let pid = server
        .pid
        .map_or_else(String::new, |pid| format!(", process {pid}"));
    let reason = server
        .reason
        .as_ref()
        .map_or_else(String::new, |r| format!(": {r}"));
    format!("{}{pid}{reason}", server.state)
}

/// As a configuration file has it, on one line.
fn inline(value: &serde_json::Value) -> String {
    // What JSON has and TOML has not (null) is left out of what the daemon tells.
    toml::Value::try_from(value).map_or_else(|_| value.to_string(), |value| value.to_string())
}
