//! The log as the journal wants it: one datagram an event, each field on its own, so that `journalctl TAPWIRE_CAUSE=7`
//! finds a whole story.
//!
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>. MESSAGE has the fields too, because it is all that `journalctl` shows
//! by default. A datagram that cannot be sent (the journal restarts, its queue is full) is dropped: the log never holds
//! the daemon up, and what matters is in `status` as well.

use super::fields::Fields;
use super::log::priority;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Where journald listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";
/// Longer values are cut: the kernel's limit for a datagram is some 200 KiB.
const MAX_VALUE: usize = 32 << 10;

/// See the module.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// Fails where no journal listens.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        // Nobody could be told that the log cannot be written.
        let _dropped = self.socket.send(&datagram(event, fields));
    }
}

fn datagram(event: &Event<'_>, mut fields: Fields) -> Vec<u8> {
    let metadata = event.metadata();
    let message = match fields.take("message") {
        Some(serde_json::Value::String(text)) => text,
        _ => String::new(),
    };
    let shown = match fields.0.is_empty() {
        true => message,
        false => format!("{message} {fields}"),
    };
    let mut out = Vec::with_capacity(512);
    put(&mut out, "MESSAGE", &shown);
    put(&mut out, "PRIORITY", &priority(*metadata.level()).to_string());
    put(&mut out, "SYSLOG_IDENTIFIER", "tapwire");
    put(&mut out, "TAPWIRE_TARGET", metadata.target());
    for (name, value) in &fields.0 {
        let name = format!("TAPWIRE_{}", name.to_ascii_uppercase().replace('.', "_"));
        match value {
            serde_json::Value::String(text) => put(&mut out, &name, text),
            other => put(&mut out, &name, &other.to_string()),
        }
    }
    out
}

/// `NAME=value`, or with its length in front where the value has line ends.
fn put(out: &mut Vec<u8>, name: &str, value: &str) {
    let value = value.get(..value.floor_char_boundary(MAX_VALUE)).unwrap_or(value);
    out.extend(name.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend((value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend(value.as_bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::Registry;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn each_field_is_one_of_the_journals() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let subscriber = Registry::default().with(Journal::connect(&path).unwrap());
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "engine", cause = 7, ifname = %"tap0", error = "two\nlines", "port failed");
        });
        let mut buffer = [0; 1024];
        let length = journald.recv(&mut buffer).unwrap();
        let mut expected = b"MESSAGE\n".to_vec();
        let shown = "port failed cause=7 ifname=tap0 error=two\nlines";
        expected.extend((shown.len() as u64).to_le_bytes());
        expected.extend(shown.as_bytes());
        expected.extend(b"\nPRIORITY=4\nSYSLOG_IDENTIFIER=tapwire\nTAPWIRE_TARGET=engine\nTAPWIRE_CAUSE=7\n");
        expected.extend(b"TAPWIRE_IFNAME=tap0\nTAPWIRE_ERROR\n");
        expected.extend(9u64.to_le_bytes());
        expected.extend(b"two\nlines\n");
        assert_eq!(
            String::from_utf8_lossy(&buffer[..length]),
            String::from_utf8_lossy(&expected)
        );
    }

    #[test]
    fn without_a_journal_there_is_none() {
        assert!(Journal::connect(Path::new("/nonexistent/socket")).is_err());
    }
}
