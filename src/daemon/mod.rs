//! The wiring: start, the one select loop, shutdown, and the private namespace of `demo` and the tests.
//!
//! Here the I/O folders meet: the loop reads the kernel's events, gives them to the engine, carries out what the engine
//! asks for, answers the control socket and hands notes to the log. It owns no rule about networks.

mod account;
mod answer;
mod change;
mod convert;
mod explain;
mod footprint;
mod gateway;
mod lock;
pub mod namespace;
mod notify;
mod observe;
mod policy;
mod privileges;
mod reactor;
mod reading;
pub mod replay;
mod report;
mod rows;
mod scrape;
mod service;
pub mod sources;
mod waiters;

use crate::config::{self, Report};
use crate::{control, kernel};
use std::io;
use std::path::PathBuf;

/// What the command line says about a daemon.
#[derive(Debug)]
pub struct Start {
    pub config: PathBuf,
    /// Overrides `daemon.socket`.
    pub socket: Option<PathBuf>,
}

/// Why the daemon did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The report says file, line and hint.
    #[error("the configuration has errors")]
    Config(#[source] Report),
    #[error("another tapwire runs in this network namespace")]
    SecondInstance,
    #[error("cannot take the instance lock")]
    Lock(#[source] io::Error),
    #[error(transparent)]
    Privileges(#[from] privileges::Error),
    #[error("kernel")]
    Kernel(#[from] kernel::Error),
    #[error("control socket")]
    Control(#[from] control::Error),
    #[error("the plugins have errors")]
    Policy(#[source] crate::policy::LoadReport),
    #[error("cannot start the event loop")]
    Runtime(#[source] io::Error),
}

/// Runs until SIGTERM or SIGINT; every port stays attached.
pub fn run(start: &Start) -> Result<(), Error> {
    let mut config = config::load(&start.config).map_err(Error::Config)?;
    if let Some(socket) = &start.socket {
        config.daemon.socket.clone_from(socket);
    }
    // The command line and the configuration are read: a good part of the program was needed for that alone.
    footprint::release_files();
    report::config_warnings(&config);
    privileges::check()?;
    let _lock = lock::Lock::take()
        .map_err(Error::Lock)?
        .ok_or(Error::SecondInstance)?;
    // Needs more rights than the daemon keeps (a directory below /run, the socket's group).
    let server = control::server::Server::bind(&control::server::Settings {
        socket: config.daemon.socket.clone(),
        group: config.daemon.socket_group.clone(),
        metrics_listen: config.daemon.metrics_listen,
        limits: control::server::Limits::default(),
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(async {
        let reactor = reactor::Reactor::open(config, start.config.clone())?;
        privileges::drop_to_net_admin()?;
        let (requests, commands) = tokio::sync::mpsc::channel(control::api::QUEUE);
        let _server = server.start(requests)?;
        reactor.run(commands).await
    })
}
