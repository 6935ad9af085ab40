//! `tapwire wait`.

use super::context::Context;
use super::failure::Failure;
use super::output::plain;
use crate::control::api::{PortState, WaitReport};
use crate::control::client::{self, Client, escape};
use std::time::{Duration, Instant};

/// Wait until the daemon is in sync, or a tap is in a state
///
/// For scripts. A daemon that is just starting is waited for as well. Exit code 0 when it holds, 4 when it did not in
/// time, 3 when no daemon answered in time.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct Args {
    /// Until the first full pass is done and nothing is left to do
    #[arg(long, group = "what")]
    in_sync: bool,
    /// Until this tap (name or port id) is in --state; it need not exist yet
    #[arg(long, value_name = "TAP", group = "what")]
    port: Option<String>,
    /// The state to wait for
    #[arg(long, value_name = "STATE", default_value = "attached", conflicts_with = "in_sync", value_parser = clap::value_parser!(PortState))]
    state: PortState,
    /// Seconds, fractions allowed
    #[arg(long, value_name = "S", default_value = "30", value_parser = seconds)]
    timeout: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|_| "not a number of seconds".to_owned())
}

/// Between two attempts to reach a daemon that is not there yet.
const PAUSE: Duration = Duration::from_millis(50);

pub fn run(context: &mut Context, args: Args) -> Result<(), Failure> {
    let client = context.client()?;
    let condition = match &args.port {
        Some(port) => format!("port={}&state={}", escape(port), args.state.as_str()),
        None => "in_sync=true".to_owned(),
    };
    let deadline = Instant::now().checked_add(args.timeout);
    let report = context.block_on(async { Ok(patiently(&client, &condition, deadline).await?) })?;
    context.print(&report, |out, report| match &report.port {
        Some(row) => out.line(&plain(&format!("{} {}", row.tap, row.state.as_str()))),
        None => out.line("in sync"),
    })
}

/// Asks until the answer is final or the time is up; `None`: no end to patience.
async fn patiently(
    client: &Client,
    condition: &str,
    deadline: Option<Instant>,
) -> Result<WaitReport, client::Error> {
    loop {
        let left = deadline.map_or(Duration::from_secs(3600), |d| {
            d.saturating_duration_since(Instant::now())
        });
        // The daemon ends the wait; ours is only for a daemon that does not.
        let impatient = client
            .clone()
            .patience(left.saturating_add(Duration::from_secs(5)));
        let path = format!("/v1/wait?{condition}&timeout={}", left.as_secs_f64());
        match impatient.get(&path).await {
            Err(error) if error.may_pass() && !left.is_zero() => {
                tokio::time::sleep(PAUSE.min(left)).await;
            }
            result => return result,
        }
    }
}
