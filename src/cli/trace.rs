//! `tapwire trace`.

use super::context::Context;
use super::failure::{Exit, Failure};
use super::output::{colour, micros, plain};
use crate::control::client::{Client, Lines};
use crate::kernel::watch::{Objects, RECEIVE_BUFFER};
use crate::telemetry::clock;
use crate::telemetry::record::Recorder;
use crate::telemetry::trace::Filter;
use crate::telemetry::trace::live::{Format, Settings, Told, follow};
use crate::telemetry::trace::text::Style;
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};

/// What may wait for the trace; the daemon drops what a slow reader leaves behind.
const QUEUE: usize = 256;
/// Until a daemon that is not there is looked for again.
const AGAIN: Duration = Duration::from_millis(100);
const DECISIONS: &str = "/v1/trace";
const ACCOUNT: &str = "/v1/account";

/// Show what the kernel tells about links, addresses, routes, neighbours and forwarding entries
///
/// One line per event with the difference to the state before. Works without a running daemon and without privileges;
/// with a daemon, its decisions and their outcomes are added. Lost messages are said, with their number.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show only what matches: a name pattern (`tap*`), or `key=pattern` terms joined by commas
    ///
    /// Keys: ifname, kind, event (new change enslaved released gone), object (link port address route neighbour fdb),
    /// family, master, network, field, cause (own foreign), key. All terms must match; loss markers always show.
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,

    /// Write everything received to a pcapng file, for Wireshark, tshark and `tapwire replay`
    ///
    /// With a daemon, all that it decides by goes along, its configuration included: `tapwire replay` then does exactly what
    /// the daemon did.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,

    /// Print what the daemon remembers instead of what happens now, and stop
    #[arg(long, conflicts_with_all = ["record", "filter"])]
    history: bool,

    /// Have the daemon write what it remembers into its state directory, as after a panic, and print the file's path
    #[arg(long, requires = "history")]
    save: bool,

    /// Bytes of receive buffer to ask the kernel for
    #[arg(long, value_name = "BYTES", default_value_t = RECEIVE_BUFFER)]
    receive_buffer: usize,
}

pub fn run(context: &mut Context, args: Args) -> Result<(), Failure> {
    if args.save {
        return save_history(context);
    }
    if args.history {
        return history(context);
    }
    let filter = match args.filter.as_deref() {
        Some(text) => Filter::parse(text).map_err(|error| Failure::from_error(Exit::Usage, &error))?,
        None => Filter::default(),
    };
    let stdout = io::stdout();
    let format = match context.global.json {
        true => Format::Json,
        false => Format::Text(Style {
            colours: colour(&stdout),
            columns: stdout.is_terminal(),
        }),
    };
    let recorded = args.record.is_some();
    let mut record = args.record.as_deref().map(start_recording).transpose()?;
    let client = context.client()?;
    let (missed, listening) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let again = Arc::clone(&missed);
    let settings = Settings {
        objects: Objects::ALL,
        receive_buffer: args.receive_buffer,
        filter,
        format,
        missed: &|| again.notify_one(),
        record: record.as_mut(),
    };
    let summary = context.block_on(async {
        // Before anything is received, so that an early interrupt stops cleanly too.
        let stop =
            stop_signal().map_err(|error| Failure::failed(format!("cannot catch signals: {error}")))?;
        let (to, decisions) = mpsc::channel(QUEUE);
        let first = client.stream(DECISIONS).await.ok();
        let joined = first.is_some();
        if !joined {
            // There is room: nothing was sent before.
            let _full = to.try_send(Told::Gone);
        }
        tokio::spawn(decisions_of(client.clone(), first, to.clone()));
        if recorded {
            tokio::spawn(account_of(client, Arc::clone(&listening), missed, to));
        }
        let ready = |granted: usize| {
            listening.notify_one();
            let daemon = if joined {
                "with the daemon's decisions"
            } else {
                "no daemon"
            };
            say(&format!(
                "tracing ({daemon}, receive buffer {} KiB)",
                granted / 1024
            ));
        };
        follow(
            settings,
            BufWriter::new(stdout.lock()),
            Some(decisions),
            ready,
            stop,
        )
        .await
        .map_err(|error| Failure::from_error(Exit::Failed, &error))
    })?;
    if let (Some(record), Some(path)) = (record, &args.record) {
        let (packets, file) = record.finish().map_err(|error| cannot_record(path, &error))?;
        file.into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .map_err(|error| cannot_record(path, &error))?;
        let _unseen = writeln!(
            io::stderr(),
            "{packets} messages in {} ({} events, {} lost)",
            path.display(),
            summary.events,
            summary.lost
        );
    }
    Ok(())
}

fn start_recording(path: &Path) -> Result<Recorder<BufWriter<File>>, Failure> {
    File::create(path)
        .and_then(|file| Recorder::start(BufWriter::new(file), clock::wall_us(), clock::monotonic_us()))
        .map_err(|error| cannot_record(path, &error))
}

fn cannot_record(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot write {}: {error}", path.display()))
}

/// SIGINT or SIGTERM.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// The daemon's side of the story, as long as there is a daemon that tells it. It may come and go; the trace goes on.
async fn decisions_of(client: Client, first: Option<Lines>, to: mpsc::Sender<Told>) {
    let mut there = first;
    loop {
        let came = there.is_none();
        let mut lines = match there.take() {
            Some(lines) => lines,
            None => match client.stream(DECISIONS).await {
                Ok(lines) => lines,
                Err(_) => {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            },
        };
        if came {
            say("the daemon is here: its decisions are added");
        }
        while let Ok(Some(line)) = lines.next().await {
            // A newer daemon may say more than this version knows.
            let Ok(told) = serde_json::from_str(&line) else {
                continue;
            };
            if to.send(told).await.is_err() {
                return;
            }
        }
        if to.send(Told::Gone).await.is_err() {
            return;
        }
        say("the daemon is gone");
    }
}

/// Its account of itself, for the recording. Asked for anew when messages are `missed`: it then begins anew.
/// Not before the trace is `listening`: what the daemon reads from then on is in the recording.
async fn account_of(client: Client, listening: Arc<Notify>, missed: Arc<Notify>, to: mpsc::Sender<Told>) {
    listening.notified().await;
    loop {
        let Ok(mut lines) = client.stream(ACCOUNT).await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let mut begun = false;
        loop {
            let line = tokio::select! {
                line = lines.next() => line,
                () = missed.notified() => break,
            };
            let Ok(Some(line)) = line else { break };
            if !std::mem::replace(&mut begun, true) {
                say("from here on the recording holds all that the daemon decides by");
            }
            if to.send(Told::Account(line.into())).await.is_err() {
                return;
            }
        }
    }
}

fn say(what: &str) {
    // Only for people; a closed stderr is no reason to stop.
    let _unseen = writeln!(io::stderr(), "{what}");
}

/// One step of the flight recorder: when, which device, what.
fn remembered(step: &Value) -> String {
    let number = |key| step.get(key).and_then(Value::as_u64);
    let text = |key| step.get(key).and_then(Value::as_str).unwrap_or_default();
    let at = number("at_us").unwrap_or_default();
    let device = match number("ifindex") {
        Some(index) => format!("{}#{index} ", text("ifname")),
        None => String::new(),
    };
    let mut line = format!(
        "{}.{:06} {} {device}{}",
        at / 1_000_000,
        at % 1_000_000,
        text("kind"),
        text("word")
    );
    if !text("text").is_empty() {
        line.push_str(": ");
        line.push_str(text("text"));
    }
    if let Some(errno) = number("errno") {
        line.push_str(&format!(" errno {errno}"));
    }
    if let Some(us) = number("elapsed_us") {
        line.push_str(&format!(" (+{})", micros(us)));
    }
    plain(&line)
}

fn save_history(context: &mut Context) -> Result<(), Failure> {
    let client = context.client()?;
    let saved: Value =
        context.block_on(async { Ok(client.post("/v1/history/save", &serde_json::Map::new()).await?) })?;
    if context.global.json {
        context.out.json(&saved)?;
    } else {
        context
            .out
            .line(saved.get("path").and_then(Value::as_str).unwrap_or_default())?;
    }
    Ok(context.out.flush()?)
}

/// The flight recorder, oldest first: one JSON object a line.
fn history(context: &mut Context) -> Result<(), Failure> {
    let client = context.client()?;
    let mut records: Vec<Value> =
        context.block_on(async { Ok(client.get("/v1/history?limit=1000000").await?) })?;
    // Operations are recorded when their plan is through, with the time they ended at.
    records.sort_by_key(|step| step.get("at_us").and_then(Value::as_u64));
    for record in &records {
        if context.global.json {
            context.out.json(record)?;
        } else {
            context.out.line(&remembered(record))?;
        }
    }
    Ok(context.out.flush()?)
}
