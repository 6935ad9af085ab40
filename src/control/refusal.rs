//! Turns the HTTP library's own refusals into ours.
//!
//! What is not HTTP at all, or has a head too large, never reaches a route: hyper answers it itself, with a status
//! and an empty body. Clients are promised a JSON error for every failure, so this stream watches for exactly that
//! answer on its way out and gives it a body. Nothing of ours looks like it: our failures have a body already.

use super::api::{Failure, FailureKind};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[derive(Debug)]
pub struct Refusal<S> {
    inner: S,
    /// Ours, on its way out.
    instead: Vec<u8>,
}

impl<S> Refusal<S> {
    pub const fn new(inner: S) -> Self {
        Self {
            inner,
            instead: Vec::new(),
        }
    }
}

impl<S: AsyncWrite + Unpin> Refusal<S> {
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.instead.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.instead))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.instead.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

/// The answer in place of `bytes`, if they are a refusal without a body.
fn instead_of(bytes: &[u8]) -> Option<Vec<u8>> {
    let (kind, error, status) = if bytes.starts_with(b"HTTP/1.1 400 ") {
        (
            FailureKind::Invalid,
            "this is not an HTTP request",
            "400 Bad Request",
        )
    } else if bytes.starts_with(b"HTTP/1.1 414 ") {
        (
            FailureKind::TooLarge,
            "the request's path is too long",
            "414 URI Too Long",
        )
    } else if bytes.starts_with(b"HTTP/1.1 431 ") {
        (
            FailureKind::TooLarge,
            "the request's headers are too large",
            "431 Request Header Fields Too Large",
        )
    } else {
        return None;
    };
    let head = std::str::from_utf8(bytes).ok()?.strip_suffix("\r\n\r\n")?;
    let empty = head
        .lines()
        .any(|line| line.eq_ignore_ascii_case("content-length: 0"));
    let body = serde_json::to_string(&Failure::new(kind, error))
        .ok()
        .filter(|_| empty)?;
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    Some(answer.into_bytes())
}

impl<S: AsyncRead + Unpin> AsyncRead for Refusal<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Refusal<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_instead(cx))?;
        match instead_of(buf) {
            None => Pin::new(&mut self.inner).poll_write(cx, buf),
            Some(answer) => {
                // Taken over whole; it goes out with this call or with the flush that follows.
                self.instead = answer;
                if let Poll::Ready(Err(error)) = self.poll_instead(cx) {
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(Ok(buf.len()))
            }
        }
    }
    /// A refusal without a body comes alone, in one piece, so only the plain way needs to look.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = bufs {
            return self.poll_write(cx, only);
        }
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_refusal_is_replaced() {
        let refusal = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let answer = String::from_utf8(instead_of(refusal).unwrap()).unwrap();
        assert!(answer.ends_with(r#"{"kind":"invalid","error":"this is not an HTTP request"}"#));
        let ours = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(instead_of(ours), None);
        assert_eq!(instead_of(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), None);
        assert_eq!(instead_of(b"data: HTTP/1.1 400 \r\n\r\n"), None);
    }
}
