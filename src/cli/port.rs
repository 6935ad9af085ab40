//! `tapwire port`.

use super::context::Context;
use super::failure::Failure;
use super::output::{Cell, Output, Style, Table, micros, plain};
use crate::control::api::{BindRequest, Binding, PortDetail, PortRow, PortState};
use crate::control::client::escape;
use crate::control::spec::PortTarget;
use std::io;

/// List and show ports, bind taps to networks
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List taps with their states
    #[command(visible_alias = "ls")]
    List {
        /// Also links that are not ours to manage
        #[arg(long)]
        all: bool,
    },
    /// Show everything known about one tap
    Show {
        /// Tap name or port id
        tap: String,
    },
    /// Tell which network a tap belongs to
    ///
    /// The tap need not exist yet. The binding survives a restart of the daemon; it ends with `port unbind`.
    Bind {
        /// Tap name, or a port id (it stands for the tap `tap` + its first 11 characters)
        #[arg(value_name = "TAP|PORT-ID", value_parser = target)]
        port: String,
        /// Network id or name
        network: String,
        /// The machine's MAC address: with it (or --address) the port may send from these only
        #[arg(long)]
        mac: Option<String>,
        /// An address of the machine; may be given several times
        #[arg(long = "address", value_name = "IP")]
        addresses: Vec<String>,
        /// The machine's name in the network's DNS
        #[arg(long)]
        hostname: Option<String>,
        /// Whether the port may send from its own addresses only [default: true with --mac or --address]
        #[arg(long, value_name = "BOOL")]
        port_security: Option<bool>,
    },
    /// Take back a binding: the tap is detached
    Unbind {
        /// Tap name or port id, as it was bound
        #[arg(value_name = "TAP|PORT-ID", value_parser = target)]
        port: String,
    },
}

/// Refuses what can be neither a tap's name nor a port id before anybody is asked.
fn target(text: &str) -> Result<String, String> {
    PortTarget::parse(text)
        .map(|_| text.to_owned())
        .map_err(|e| e.to_string())
}

pub fn run(context: &mut Context, args: Args) -> Result<(), Failure> {
    let client = context.client()?;
    match args.command {
        Command::List { all } => {
            let path = if all { "/v1/ports?all=true" } else { "/v1/ports" };
            let rows: Vec<PortRow> = context.block_on(async { Ok(client.get(path).await?) })?;
            context.print(&rows, |out, rows| list(out, rows))
        }
        Command::Show { tap } => {
            let path = format!("/v1/ports/{}", escape(&tap));
            let detail: PortDetail = context.block_on(async { Ok(client.get(&path).await?) })?;
            context.print(&detail, show)
        }
        Command::Bind {
            port,
            network,
            mac,
            addresses,
            hostname,
            port_security,
        } => {
            let path = format!("/v1/ports/{}/binding", escape(&port));
            let request = BindRequest {
                port,
                network,
                mac: mac.map(Into::into),
                addresses: (!addresses.is_empty()).then(|| addresses.into()),
                hostname: hostname.map(Into::into),
                port_security: port_security.map(Into::into),
                allowed_address_pairs: None,
            };
            let binding: Binding = context.block_on(async { Ok(client.put(&path, &request).await?) })?;
            context.print(&binding, |out, b| {
                out.line(&plain(&format!("{} bound to network {}", b.tap, b.network)))
            })
        }
        Command::Unbind { port } => {
            let path = format!("/v1/ports/{}/binding", escape(&port));
            let binding: Binding = context.block_on(async { Ok(client.delete(&path).await?) })?;
            context.print(&binding, |out, b| {
                out.line(&plain(&format!(
                    "{} no longer bound to network {}",
                    b.tap, b.network
                )))
            })
        }
    }
}

pub const fn style(state: PortState) -> Style {
    match state {
        PortState::Attached => Style::Good,
        PortState::Pending | PortState::Configuring => Style::Attention,
        PortState::Failed | PortState::Conflict | PortState::Denied => Style::Bad,
        PortState::Unmanaged => Style::Dim,
    }
}

/// Also what `network show` shows.
pub fn list(out: &mut Output, rows: &[PortRow]) -> io::Result<()> {
    let mut table = Table::new(&[
        "TAP", ">IFINDEX", "STATE", "NETWORK", "BRIDGE", ">MTU", ">ATTACH", "REASON",
    ]);
    for row in rows {
        table.push(vec![
            row.tap.clone().into(),
            row.ifindex.into(),
            Cell::styled(style(row.state), row.state.as_str()),
            row.network.clone().into(),
            row.bridge.clone().into(),
            row.mtu.into(),
            row.attach_us.map(micros).into(),
            row.reason.clone().into(),
        ]);
    }
    out.table(&table)
}

fn show(out: &mut Output, detail: &PortDetail) -> io::Result<()> {
    let row = &detail.row;
    let state = out.paint(style(row.state), row.state.as_str());
    let reason = row
        .reason
        .as_ref()
        .map_or_else(String::new, |r| format!(": {}", plain(r)));
    let tap = out.paint(Style::Bold, &row.tap);
    out.line(&format!("{tap}  ifindex {}  {state}{reason}", row.ifindex))?;
    let flags = match (detail.up, detail.carrier) {
        (true, true) => "up, carrier",
        (true, false) => "up, no carrier (nobody has the tap open)",
        (false, _) => "down",
    };
    let fields = [
        ("port id", row.port.clone()),
        ("network", row.network.clone()),
        ("mapping", detail.mapping.clone()),
        ("bridge", row.bridge.clone()),
        ("link", Some(format!("{flags}, mtu {}", row.mtu))),
        ("mac", detail.mac.clone()),
        ("attached in", row.attach_us.map(micros)),
        (
            "next try in",
            detail.retry_in_ms.map(|ms| micros(ms.saturating_mul(1000))),
        ),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            out.line(&format!("  {name:<11} {}", plain(&value)))?;
        }
    }
    if !detail.verdicts.is_empty() {
        out.line("")?;
        let mut table = Table::new(&["PLUGIN", "HOOK", "VERDICT"]);
        for v in &detail.verdicts {
            table.push(vec![
                v.plugin.clone().into(),
                v.hook.clone().into(),
                v.verdict.clone().into(),
            ]);
        }
        out.table(&table)?;
    }
    Ok(())
}
