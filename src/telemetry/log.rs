//! Where the daemon's log goes and how it looks.
//!
//! To stderr, for people on a terminal (colours, a time stamp) or one JSON object a line for collectors; or, when stderr
//! is the journal, to the journal with every field apart (`journal`). Where no journal answers, stderr gets a `<N>`
//! priority in front of each line and no stamp, because whoever reads it has its own. Levels are `debug`, or
//! `info,engine=debug,policy=off` (the longest matching target wins). No regular expressions: `EnvFilter` would bring an
//! engine for them.
//!
//! Spans tell the way of each event (receive, decide, hook, operations, acknowledge) under its cause; with the feature
//! `otlp` they go to a collector. Nothing is paid for them while nobody listens: their level is debug.

use super::journal;
use std::fmt;
use std::io::{self, IsTerminal};
use std::path::Path;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the log is set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
    #[cfg(feature = "otlp")]
    #[error(transparent)]
    Endpoint(#[from] super::otlp::EndpointError),
    #[cfg(feature = "otlp")]
    #[error("cannot start the thread that sends spans")]
    Thread(#[source] io::Error),
}

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Json,
    /// `colours`: on a terminal.
    Human {
        colours: bool,
    },
    /// The journal's own protocol; without an answer there, `<N>` on stderr as sd-daemon(3) has it.
    Journal,
}

impl Form {
    /// JSON if asked for; the journal's form if stderr is the journal (systemd says so with `JOURNAL_STREAM`).
    pub fn detect(json: bool) -> Self {
        let stderr = io::stderr();
        if json {
            Form::Json
        } else if goes_to_journal(&stderr) {
            Form::Journal
        } else {
            let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
            Form::Human {
                colours: stderr.is_terminal() && !plain,
            }
        }
    }
}

/// `JOURNAL_STREAM` is "device:inode" of the stream systemd connected; a child with a redirected stderr inherits the
/// variable but not the stream.
fn goes_to_journal(stderr: &impl std::os::fd::AsRawFd) -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    // SAFETY: an all-zero stat is a valid value.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is valid for the write.
    let known = unsafe { libc::fstat(stderr.as_raw_fd(), &raw mut stat) } == 0;
    known && stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// To be kept until the process ends.
#[derive(Default)]
pub struct Guard {
    #[cfg(feature = "otlp")]
    _spans: Option<super::otlp::Flush>,
}

/// Sets the process's log up; once.
pub fn init(form: Form, levels: Targets) -> Result<Guard, LogError> {
    let log = match form {
        Form::Journal => match journal::Journal::connect(Path::new(journal::SOCKET)) {
            Ok(journal) => journal.boxed(),
            Err(_) => layer(form, io::stderr),
        },
        Form::Json | Form::Human { .. } => layer(form, io::stderr),
    };
    let registry = Registry::default().with(log.with_filter(levels));
    #[cfg(feature = "otlp")]
    if let Some(endpoint) = super::otlp::Endpoint::from_variables(|name| std::env::var(name).ok())? {
        let (spans, flush) = super::otlp::start(endpoint).map_err(LogError::Thread)?;
        registry
            .with(spans.with_filter(tracing_subscriber::filter::LevelFilter::DEBUG))
            .try_init()
            .map_err(LogError::Twice)?;
        return Ok(Guard { _spans: Some(flush) });
    }
    registry.try_init().map_err(LogError::Twice)?;
    Ok(Guard::default())
}

fn layer<S, W>(form: Form, to: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(to);
    match form {
        Form::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
        Form::Human { colours } => layer.with_ansi(colours).with_target(false).boxed(),
        Form::Journal => layer.with_ansi(false).event_format(Prioritised(plain())).boxed(),
    }
}

type Plain = format::Format<format::Full, ()>;

fn plain() -> Plain {
    format::format()
        .without_time()
        .with_level(false)
        .with_target(false)
        .with_ansi(false)
}

/// A line with its priority in front.
struct Prioritised(Plain);

impl<S, N> FormatEvent<S, N> for Prioritised
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// syslog(3): err 3, warning 4, info 6, debug 7.
pub(super) const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(form: Form, levels: &str) -> String {
        let lines = Lines::default();
        let to = lines.clone();
        let subscriber = Registry::default()
            .with(layer(form, move || to.clone()).with_filter(levels.parse::<Targets>().unwrap()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(ifindex = 5, ifname = "tap0", "tap set down by somebody else");
            tracing::debug!("not shown at info");
            tracing::debug!(target: "tapwire::kernel", cause = 7, "message received");
        });
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn without_a_journal_lines_have_priorities_and_no_stamps() {
        assert_eq!(
            logged(Form::Journal, "info"),
            "<4>tap set down by somebody else ifindex=5 ifname=\"tap0\"\n"
        );
    }

    #[test]
    fn json_has_one_object_a_line_with_the_fields_beside_the_message() {
        let text = logged(Form::Json, "info,tapwire::kernel=debug");
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["ifname"], "tap0");
        assert_eq!(lines[0]["level"], "WARN");
        assert_eq!(
            (&lines[1]["message"], &lines[1]["cause"]),
            (&"message received".into(), &7.into())
        );
    }
}
