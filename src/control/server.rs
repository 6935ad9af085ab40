//! Accepts connections and serves each in a task of its own; see `routes` for what is served.
//!
//! What a bad client can cost others: nothing. A connection that says nothing is the first to be closed when places
//! run out, a request head that does not end is closed after `Limits::head`, a body after `Limits::body`, a reader
//! that stops reading after `Limits::stall`. A connection that is being served keeps its place. All timers belong to
//! open connections: without a client the thread sleeps in `accept`.
//!
//! Who may do what: opening the socket is what its mode (0660) allows; commands that change something need root, the
//! daemon's user or the socket's group even if the mode was widened later (`socket::identify`). The optional loopback
//! listener serves metrics and nothing else.

use super::Error;
use super::api::{Peer, Request};
use super::refusal::Refusal;
use super::routes;
use super::socket::{self, SocketFile};
use super::stall::Stall;
use axum::Router;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

#[derive(Debug, Clone)]
pub struct Settings {
    pub socket: PathBuf,
    /// `socket_group`; absent: the daemon's own group.
    pub group: Option<String>,
    /// Serves `/metrics` there. Loopback only; the configuration has checked that.
    pub metrics_listen: Option<SocketAddr>,
    pub limits: Limits,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// For a whole request head, and between two requests of one connection.
    pub head: Duration,
    /// For a whole request body.
    pub body: Duration,
    /// For a reader that takes nothing.
    pub stall: Duration,
    /// For the daemon's loop to answer.
    pub answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            answer: Duration::from_secs(60),
        }
    }
}

/// Bound and listening; not yet accepting.
#[derive(Debug)]
pub struct Server {
    file: SocketFile,
    metrics: Option<std::net::TcpListener>,
    limits: Limits,
}

impl Server {
    pub fn bind(settings: &Settings) -> Result<Self, Error> {
        let file = SocketFile::bind(&settings.socket, settings.group.as_deref())?;
        let metrics = settings.metrics_listen.map(metrics_listener).transpose()?;
        Ok(Self {
            file,
            metrics,
            limits: settings.limits,
        })
    }

    pub fn path(&self) -> &Path {
        self.file.path()
    }
    /// Where metrics are served, with the port the kernel chose if 0 was asked for.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().and_then(|l| l.local_addr().ok())
    }

    /// Serves on a thread of its own until the handle is dropped. Drop privileges before: threads inherit them.
    pub fn start(self, requests: mpsc::Sender<Request>) -> Result<Handle, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Thread)?;
        let (stop, stopped) = oneshot::channel();
        let path = self.path().to_owned();
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                let result = runtime.block_on(self.run(requests, async {
                    // Told, or the handle is gone: both mean stop.
                    let _ = stopped.await;
                }));
                if let Err(error) = result {
                    tracing::error!(target: "control", error = %chain(&error), "control socket failed");
                }
            })
            .map_err(Error::Thread)?;
        Ok(Handle {
            stop: Some(stop),
            thread: Some(thread),
            path,
        })
    }

    /// Serves until `stop` is ready; then every connection is closed and the file removed.
    pub async fn run(
        self,
        requests: mpsc::Sender<Request>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let fail = |source| Error::Socket {
            what: "listen on",
            path: self.file.path().to_owned(),
            source,
        };
        let listener = UnixListener::from_std(self.file.listener().map_err(fail)?).map_err(fail)?;
        let metrics = match &self.metrics {
            None => None,
            Some(std) => {
                let address = std
                    .local_addr()
                    .unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 0)));
                let wrap = |source| Error::Metrics { address, source };
                Some(TcpListener::from_std(std.try_clone().map_err(wrap)?).map_err(wrap)?)
            }
        };
        let full = routes::all(requests.clone(), self.limits);
        let metrics_only = routes::metrics_only(requests, self.limits);
        let mut connections = Connections::new(self.limits);
        tokio::pin!(stop);
        loop {
            // Every arm is cancel-safe: accept and join_next lose nothing when dropped, `stop` is pinned outside.
            tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                _ = connections.tasks.join_next(), if !connections.tasks.is_empty() => connections.sweep(),
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => match socket::identify(&stream, self.file.gid()) {
                        Ok((peer, may_change)) => {
                            connections.open(stream, &full, Some(Caller { peer, may_change }));
                        }
                        Err(error) => tracing::debug!(target: "control", %error, "peer credentials unavailable"),
                    },
                    Err(error) => pause_after(&error).await,
                },
                accepted = accept_metrics(metrics.as_ref()) => match accepted {
                    Ok((stream, _)) => connections.open(stream, &metrics_only, None),
                    Err(error) => pause_after(&error).await,
                },
            }
        }
    }
}

/// Stops the server when dropped; waits for its thread, which stops at once.
#[derive(Debug)]
pub struct Handle {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
}

impl Handle {
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// False after the control thread has died; the daemon then works on without a control socket.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(target: "control", "control thread panicked");
        }
    }
}

/// The other end of one connection of the control socket.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    pub peer: Peer,
    pub may_change: bool,
}

/// The open connections, oldest first.
struct Connections {
    limits: Limits,
    tasks: JoinSet<()>,
    slots: BTreeMap<u64, Slot>,
    next: u64,
}

struct Slot {
    task: AbortHandle,
    /// Requests being served: 0 or 1.
    busy: Arc<AtomicUsize>,
}

impl Connections {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            tasks: JoinSet::new(),
            slots: BTreeMap::new(),
            next: 0,
        }
    }

    fn sweep(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        self.slots.retain(|_, slot| !slot.task.is_finished());
    }

    /// At the limit, the oldest connection without a request under way gives its place; if there is none, the new one
    /// is closed.
    fn open<S>(&mut self, stream: S, router: &Router, caller: Option<Caller>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if self.slots.len() >= self.limits.connections {
            let idle = self
                .slots
                .iter()
                .find(|(_, slot)| slot.busy.load(Ordering::Relaxed) == 0)
                .map(|(key, _)| *key);
            match idle.and_then(|key| self.slots.remove(&key)) {
                Some(slot) => slot.task.abort(),
                None => {
                    tracing::warn!(target: "control", limit = self.limits.connections, "too many control connections");
                    return;
                }
            }
        }
        let busy = Arc::new(AtomicUsize::new(0));
        let task = self.tasks.spawn(serve(
            stream,
            router.clone(),
            caller,
            self.limits,
            Arc::clone(&busy),
        ));
        self.slots.insert(self.next, Slot { task, busy });
        self.next += 1;
    }
}

async fn serve<S>(stream: S, router: Router, caller: Option<Caller>, limits: Limits, busy: Arc<AtomicUsize>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        let guard = Busy::new(&busy);
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        let answer = router.call(request);
        async move {
            let response = answer.await?;
            // The guard lives as long as the response's body, which for a stream is as long as the stream.
            Ok::<_, std::convert::Infallible>(response.map(|body| {
                body.map_frame(move |frame| {
                    let _serving = &guard;
                    frame
                })
            }))
        }
    });
    let result = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(64 * 1024)
        .serve_connection(
            TokioIo::new(Refusal::new(Stall::new(stream, limits.stall))),
            service,
        )
        .await;
    if let Err(error) = result {
        tracing::debug!(target: "control", error = %chain(&error), "control connection ended");
    }
}

struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn accept_metrics(
    listener: Option<&TcpListener>,
) -> std::io::Result<(tokio::net::TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// A failing accept is about that connection (go on) or about resources (EMFILE, ENOMEM: the connection stays in the
/// backlog and accept fails again at once, so wait a moment).
async fn pause_after(error: &std::io::Error) {
    let resources = matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)
    );
    if resources {
        tracing::warn!(target: "control", %error, "cannot accept control connections");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn metrics_listener(address: SocketAddr) -> Result<std::net::TcpListener, Error> {
    let wrap = |source| Error::Metrics { address, source };
    let listener = std::net::TcpListener::bind(address).map_err(wrap)?;
    listener.set_nonblocking(true).map_err(wrap)?;
    Ok(listener)
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
