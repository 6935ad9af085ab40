//! Spans to an OpenTelemetry collector (cargo feature `otlp`): OTLP over HTTP, JSON encoding.
//!
//! Nothing but what is in the build already: the daemon's spans are few and flat, and the usual exporter is a hundred
//! crates. `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT` says where to, plain `http://` only: a
//! collector on the host, which knows about certificates.
//!
//! One trace is one cause: its id is this process' and the cause's number. `receive` is the trace's root; other spans
//! with a `cause` hang below it, spans within a span below that one. What has neither is not exported. A field
//! `elapsed_us` says that what a span tells took that long, up to `ago_us` before it: the kernel's answers and plugins'
//! verdicts are told when they are in.
//!
//! A thread of its own sends batches and sleeps when there is nothing. A collector that is slow or gone costs spans,
//! never the daemon's time: the queue is bounded, what does not fit is counted and said.

use super::fields::Fields;
use serde_json::{Value, json};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Spans that wait to be sent.
const QUEUE: usize = 4096;
/// Spans in one request, and how long the first of them waits for more.
const BATCH: usize = 512;
const BATCH_TIME: Duration = Duration::from_secs(1);
/// For connecting, and for each read and write.
const PATIENCE: Duration = Duration::from_secs(5);
/// At the end of the process.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
#[error("{endpoint:?} is no endpoint for spans: {problem} (example: http://127.0.0.1:4318)")]
pub struct EndpointError {
    endpoint: String,
    problem: &'static str,
}

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// host:port
    authority: String,
    path: String,
}

impl Endpoint {
    /// As the OpenTelemetry specification has it: the first variable is a whole URL, the second one that `/v1/traces`
    /// is added to. `None`: neither is set, nothing is exported.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, EndpointError> {
        let set = |name| variable(name).filter(|value| !value.trim().is_empty());
        if let Some(url) = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
            return Self::parse(&url).map(Some);
        }
        set("OTEL_EXPORTER_OTLP_ENDPOINT")
            .map(|url| Self::parse(&format!("{}/v1/traces", url.trim_end_matches('/'))))
            .transpose()
    }

    fn parse(url: &str) -> Result<Self, EndpointError> {
        let refuse = |problem| EndpointError {
            endpoint: url.to_owned(),
            problem,
        };
        let rest = url
            .trim()
            .strip_prefix("http://")
            .ok_or_else(|| refuse("only http:// is spoken"))?;
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, format!("/{path}")),
            None => (rest, "/".to_owned()),
        };
        if authority.is_empty() || authority.contains('@') {
            return Err(refuse("no host"));
        }
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = match has_port {
            true => authority.to_owned(),
            false => format!("{authority}:4318"),
        };
        Ok(Self { authority, path })
    }
}

/// The subscriber's side.
pub struct Spans {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    ids: AtomicU64,
    /// Of this process.
    trace_prefix: u64,
}

enum Message {
    Span(Box<Value>),
    /// Send what is there, then answer.
    Flush(SyncSender<()>),
}

/// Kept until the process ends: dropping it sends what is left.
pub struct Flush(SyncSender<Message>);

impl Drop for Flush {
    fn drop(&mut self) {
        let (done, is_done) = sync_channel(1);
        if self.0.try_send(Message::Flush(done)).is_ok() {
            // Not longer: a collector that is gone does not hold up a stop.
            let _in_time = is_done.recv_timeout(LAST_PATIENCE);
        }
    }
}

/// What a span is while it is open.
struct Open {
    begin: SystemTime,
    fields: Fields,
    events: Vec<Value>,
    id: u64,
}

/// The layer, and what to keep until the end.
pub fn start(endpoint: Endpoint) -> io::Result<(Spans, Flush)> {
    let (queue, messages) = sync_channel(QUEUE);
    let lost = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&lost);
    std::thread::Builder::new()
        .name("otlp".to_owned())
        .spawn(move || send(&endpoint, &messages, &counted))?;
    let spans = Spans {
        queue: queue.clone(),
        lost,
        ids: AtomicU64::new(random()),
        trace_prefix: random(),
    };
    Ok((spans, Flush(queue)))
}

/// Differs from process to process.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id()) | 1
}

impl Spans {
    fn next_id(&self) -> u64 {
        // Odd steps visit every number; 0 is no id.
        self.ids
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
            .max(1)
    }

    /// The id of a cause's `receive`, whether or not it was exported.
    fn root_of(&self, cause: u64) -> u64 {
        (self.trace_prefix ^ cause).max(1)
    }

    fn queue(&self, span: Value) {
        if self.queue.try_send(Message::Span(Box::new(span))).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// `within`: the id of the span around it.
    fn span(&self, name: &str, mut open: Open, end: SystemTime, cause: u64, within: Option<u64>) -> Value {
        let micros = |fields: &mut Fields, name| {
            let value = fields.take(name).and_then(|value| value.as_u64());
            value.map(Duration::from_micros)
        };
        let ago = micros(&mut open.fields, "ago_us").unwrap_or_default();
        let (begin, end) = match micros(&mut open.fields, "elapsed_us") {
            Some(elapsed) => (end - ago - elapsed, end - ago),
            None => (open.begin, end),
        };
        let root = self.root_of(cause);
        let (id, parent) = match (name, within) {
            ("receive", _) => (root, String::new()),
            (_, Some(within)) => (open.id, format!("{within:016x}")),
            (_, None) => (open.id, format!("{root:016x}")),
        };
        let error = open
            .fields
            .get("error")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let status = match error.is_empty() {
            true => json!({}),
            false => json!({"code": 2, "message": error}),
        };
        json!({
            "traceId": format!("{:016x}{cause:016x}", self.trace_prefix),
            "spanId": format!("{id:016x}"),
            "parentSpanId": parent,
            "name": name,
            "kind": 1,
            "startTimeUnixNano": nanos(begin),
            "endTimeUnixNano": nanos(end),
            "attributes": attributes(&open.fields),
            "events": open.events,
            "status": status,
        })
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let open = Open {
            begin: SystemTime::now(),
            fields,
            events: Vec::new(),
            id: self.next_id(),
        };
        span.extensions_mut().insert(open);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(open) = span.extensions_mut().get_mut::<Open>()
        {
            values.record(&mut open.fields);
        }
    }

    /// Within a span: an event of it. With a cause of its own: a span without duration, in the cause's trace.
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let message = match fields.take("message") {
            Some(Value::String(text)) => text,
            _ => event.metadata().name().to_owned(),
        };
        let now = SystemTime::now();
        if let Some(cause) = fields.number("cause") {
            // How long it took is a fact about it here, not its own duration.
            if let Some(elapsed) = fields.take("elapsed_us") {
                fields.0.push(("attach_us", elapsed));
            }
            let open = Open {
                begin: now,
                fields,
                events: Vec::new(),
                id: self.next_id(),
            };
            self.queue(self.span(&message, open, now, cause, None));
        } else if let Some(span) = context.event_span(event)
            && let Some(open) = span.extensions_mut().get_mut::<Open>()
        {
            open.events.push(json!({
                "timeUnixNano": nanos(now),
                "name": message,
                "attributes": attributes(&fields),
            }));
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(open) = span.extensions_mut().remove::<Open>() else {
            return;
        };
        let around = span.parent().and_then(|parent| {
            let extensions = parent.extensions();
            let around = extensions.get::<Open>()?;
            Some((around.id, around.fields.number("cause")?))
        });
        let cause = open.fields.number("cause").or(around.map(|(_, cause)| cause));
        if let Some(cause) = cause {
            let within = around.filter(|(_, of)| *of == cause).map(|(id, _)| id);
            self.queue(self.span(span.name(), open, SystemTime::now(), cause, within));
        }
    }
}

fn nanos(at: SystemTime) -> String {
    at.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos()
        .to_string()
}

fn attributes(fields: &Fields) -> Vec<Value> {
    let value = |value: &Value| match value {
        Value::Bool(b) => json!({"boolValue": b}),
        // Integers are strings in OTLP's JSON.
        Value::Number(n) if n.is_f64() => json!({"doubleValue": n}),
        Value::Number(n) => json!({"intValue": n.to_string()}),
        Value::String(text) => json!({"stringValue": text}),
        other => json!({"stringValue": other.to_string()}),
    };
    fields
        .0
        .iter()
        .map(|(name, v)| json!({"key": name, "value": value(v)}))
        .collect()
}

/// The thread. Ends with the process.
fn send(endpoint: &Endpoint, messages: &Receiver<Message>, lost: &AtomicU64) {
    let mut told = false;
    while let Ok(first) = messages.recv() {
        let mut spans = Vec::new();
        let mut flush = None;
        let due = Instant::now() + BATCH_TIME;
        let mut next = Ok(first);
        loop {
            match next {
                Ok(Message::Span(span)) => spans.push(*span),
                Ok(Message::Flush(done)) => flush = Some(done),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
            if spans.len() == BATCH || flush.is_some() {
                break;
            }
            next = messages.recv_timeout(due.saturating_duration_since(Instant::now()));
        }
        let number = spans.len() as u64;
        if number > 0 {
            match post(endpoint, &request(spans)) {
                Ok(()) => told = false,
                // The first of a run of failures only.
                Err(error) if !std::mem::replace(&mut told, true) => {
                    tracing::warn!(target: "telemetry", %error, endpoint = endpoint.authority, spans = number,
                        "spans are not taken");
                }
                Err(_) => {}
            }
        }
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(target: "telemetry", lost, "spans were dropped");
        }
        if let Some(done) = flush {
            // Nobody waits any more: all right.
            let _late = done.try_send(());
        }
    }
}

fn request(spans: Vec<Value>) -> Value {
    static HOST: OnceLock<String> = OnceLock::new();
    let host = HOST.get_or_init(|| {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        name.trim().to_owned()
    });
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let name = std::env::var("OTEL_SERVICE_NAME")
        .ok()
        .filter(|name| !name.is_empty());
    json!({"resourceSpans": [{
        "resource": {"attributes": [
            text("service.name", name.as_deref().unwrap_or("tapwire")),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("host.name", host),
        ]},
        "scopeSpans": [{"scope": {"name": "tapwire"}, "spans": spans}],
    }]})
}

/// One HTTP/1.1 request on a connection of its own.
fn post(endpoint: &Endpoint, body: &Value) -> io::Result<()> {
    let body = serde_json::to_vec(body)?;
    let address = endpoint
        .authority
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| io::Error::other("the host has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        endpoint.path,
        endpoint.authority,
        body.len()
    )?;
    stream.write_all(&body)?;
    let mut status = String::new();
    BufReader::new(stream).read_line(&mut status)?;
    match status.split(' ').nth(1) {
        Some(code) if code.starts_with('2') => Ok(()),
        _ => Err(io::Error::other(format!(
            "the collector answered {:?}",
            status.trim_end()
        ))),
    }
}

#[cfg(test)]
mod tests;
