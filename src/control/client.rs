//! The command line's end of the control socket: one connection per request.
//!
//! Errors say what the caller does next: start the daemon, use other rights, believe the daemon's refusal, wait longer.

use super::api::{Failure, FailureKind};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Largest answer read, bytes: a hundred thousand rows fit.
const MAX_ANSWER: usize = 256 * 1024 * 1024;
/// For the daemon to take the connection. Everything else is timed by the daemon and by `Client::patience`.
const CONNECT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket, or nobody behind it.
    #[error("cannot reach the daemon at {path}")]
    Unreachable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The daemon was there but the conversation broke off.
    #[error("the daemon closed the connection")]
    Broken(#[source] hyper::Error),
    /// What it said is not what a daemon of this version says.
    #[error("the daemon's answer makes no sense")]
    Garbled(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No answer at all.
    #[error("the daemon did not answer within {0:?}")]
    Silent(Duration),
    /// The daemon says no.
    #[error("{}", .0.error)]
    Refused(Failure),
}

impl Error {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Unreachable { path, source } => Some(match source.kind() {
                io::ErrorKind::PermissionDenied => format!(
                    "you may not open {}; run it as root or join the group that owns it",
                    path.display()
                ),
                io::ErrorKind::NotFound => {
                    "is tapwire running? start it with `tapwire run`, or name its socket with --socket".into()
                }
                io::ErrorKind::ConnectionRefused => {
                    "is tapwire running? the socket file is a leftover of a daemon that is gone".into()
                }
                _ => "is tapwire running? name its socket with --socket or TAPWIRE_SOCKET".into(),
            }),
            Error::Broken(_) => Some("the daemon may have been stopped; its log knows".into()),
            Error::Garbled(_) => Some("are the daemon and this command of the same version?".into()),
            Error::Silent(_) => None,
            Error::Refused(failure) => failure.hint.clone(),
        }
    }

    pub fn is_timeout(&self) -> bool {
        match self {
            Error::Silent(_) => true,
            Error::Refused(failure) => failure.kind == FailureKind::TimedOut,
            _ => false,
        }
    }

    /// Whether the same request may succeed a moment later, because a daemon is starting or restarting.
    pub fn may_pass(&self) -> bool {
        match self {
            Error::Unreachable { source, .. } => {
                matches!(
                    source.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                )
            }
            Error::Broken(_) => true,
            Error::Refused(failure) => failure.kind == FailureKind::Unavailable,
            Error::Garbled(_) | Error::Silent(_) => false,
        }
    }

    /// What was asked for, a configuration or a plugin is wrong.
    pub fn is_invalid(&self) -> bool {
        matches!(self, Error::Refused(failure) if failure.kind == FailureKind::Invalid)
    }

    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Error::Unreachable { .. } | Error::Broken(_))
    }
}

/// Where the daemon is.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    patience: Duration,
}

impl Client {
    /// Waits for answers a little longer than the daemon's own limit, so that the daemon gets to say what was slow.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            patience: Duration::from_secs(75),
        }
    }
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.json(Method::GET, path, None::<&()>).await
    }
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.json(Method::DELETE, path, None::<&()>).await
    }
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Error> {
        self.json(Method::POST, path, Some(body)).await
    }
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Error> {
        self.json(Method::PUT, path, Some(body)).await
    }
    /// An answer that is text, not JSON (`/v1/metrics`).
    pub async fn text(&self, path: &str) -> Result<String, Error> {
        let bytes = self.bytes(Method::GET, path, None::<&()>).await?;
        String::from_utf8(bytes.into()).map_err(|e| Error::Garbled(e.into()))
    }

    /// A stream of server-sent events, each one JSON object. It has no time limit.
    pub async fn stream(&self, path: &str) -> Result<Lines, Error> {
        let response = self.patiently(self.send(Method::GET, path, None::<&()>)).await?;
        if !response.status().is_success() {
            return Err(self.patiently(refusal(response)).await?);
        }
        Ok(Lines {
            body: response.into_body(),
            buffer: Vec::new(),
        })
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Error> {
        let bytes = self.bytes(method, path, body).await?;
        serde_json::from_slice(&bytes).map_err(|e| Error::Garbled(e.into()))
    }

    async fn bytes(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<Bytes, Error> {
        self.patiently(async {
            let response = self.send(method, path, body).await?;
            if !response.status().is_success() {
                return Err(refusal(response).await?);
            }
            collect(response).await
        })
        .await
    }

    async fn patiently<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        timeout(self.patience, work)
            .await
            .unwrap_or(Err(Error::Silent(self.patience)))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Response<Incoming>, Error> {
        let unreachable = |source| Error::Unreachable {
            path: self.socket.clone(),
            source,
        };
        let stream = timeout(CONNECT, UnixStream::connect(&self.socket))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(unreachable)?;
        let body = match body {
            None => Vec::new(),
            Some(value) => serde_json::to_vec(value).map_err(|e| Error::Garbled(e.into()))?,
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "tapwire")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| Error::Garbled(e.into()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(Error::Broken)?;
        // Ends with the last of sender and response body; its errors reach us through those.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(Error::Broken)
    }
}

async fn collect(response: Response<Incoming>) -> Result<Bytes, Error> {
    let limited = Limited::new(response.into_body(), MAX_ANSWER);
    match limited.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => match error.downcast::<hyper::Error>() {
            Ok(error) => Err(Error::Broken(*error)),
            Err(error) => Err(Error::Garbled(error)),
        },
    }
}

/// The failure inside an answer that is not a success.
async fn refusal(response: Response<Incoming>) -> Result<Error, Error> {
    let status = response.status();
    let bytes = collect(response).await?;
    Ok(match serde_json::from_slice::<Failure>(&bytes) {
        Ok(failure) => Error::Refused(failure),
        Err(_) => Error::Garbled(format!("HTTP {status}").into()),
    })
}

/// Lines of a stream as they come.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next event's data; `None` when the daemon ended the stream. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<String>, Error> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                match event_data(&event)? {
                    Some(data) => return Ok(Some(data)),
                    None => continue,
                }
            }
            if self.buffer.len() > MAX_ANSWER {
                return Err(Error::Garbled("an event without end".into()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Error::Broken(error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

/// The `data:` lines of one event, joined; `None` for a comment.
fn event_data(event: &[u8]) -> Result<Option<String>, Error> {
    let text = std::str::from_utf8(event).map_err(|e| Error::Garbled(e.into()))?;
    let mut data: Option<String> = None;
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("data:") else {
            continue;
        };
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        match &mut data {
            None => data = Some(rest.to_owned()),
            Some(joined) => {
                joined.push('\n');
                joined.push_str(rest);
            }
        }
    }
    Ok(data)
}

/// A path segment or query value with everything but unreserved characters (RFC 3986) escaped.
pub fn escape(text: &str) -> String {
    use std::fmt::Write;
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_gives_its_data_and_a_comment_gives_none() {
        assert_eq!(
            event_data(b"data: {\"a\":1}\n\n").unwrap().as_deref(),
            Some("{\"a\":1}")
        );
        assert_eq!(event_data(b": keep-alive\n\n").unwrap(), None);
        assert_eq!(
            event_data(b"event: x\ndata:a\ndata: b\n\n").unwrap().as_deref(),
            Some("a\nb")
        );
    }

    #[test]
    fn a_strange_name_survives_a_path() {
        assert_eq!(escape("tap a/b?&é"), "tap%20a%2Fb%3F%26%C3%A9");
        assert_eq!(escape("tap0f3a9c6e-1b"), "tap0f3a9c6e-1b");
    }
}
