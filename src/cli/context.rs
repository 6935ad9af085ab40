//! What every command needs: the global options, the daemon's address, an output, a runtime when it must wait.

use super::Global;
use super::failure::{Exit, Failure};
use super::output::Output;
use crate::config::DEFAULT_PATH;
use crate::control::client::Client;
use serde::Serialize;
use std::future::Future;
use std::path::{Path, PathBuf};

/// Used when neither the command line, the environment nor a named configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/tapwire/tapwire.sock";

#[derive(Debug)]
pub struct Context {
    pub global: Global,
    pub out: Output,
}

impl Context {
    pub fn new(global: Global) -> Self {
        Self {
            global,
            out: Output::stdout(),
        }
    }

    pub fn config_path(&self) -> PathBuf {
        self.global
            .config
            .clone()
            .unwrap_or_else(|| PathBuf::from(DEFAULT_PATH))
    }

    pub fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(self.socket()?))
    }

    /// `--socket`, else `daemon.socket` of a configuration that was named, else the default.
    fn socket(&self) -> Result<PathBuf, Failure> {
        match (&self.global.socket, &self.global.config) {
            (Some(socket), _) => Ok(socket.clone()),
            (None, Some(config)) => socket_of(config),
            (None, None) => Ok(PathBuf::from(DEFAULT_SOCKET)),
        }
    }

    /// Runs a conversation with the daemon to its end.
    pub fn block_on<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::failed(format!("cannot wait for the daemon: {e}")))?
            .block_on(work)
    }

    /// With `--json` prints the value, else lets `text` print it.
    pub fn print<T: Serialize>(
        &mut self,
        value: &T,
        text: impl FnOnce(&mut Output, &T) -> std::io::Result<()>,
    ) -> Result<(), Failure> {
        if self.global.json {
            self.out.json(value)?;
        } else {
            text(&mut self.out, value)?;
        }
        Ok(self.out.flush()?)
    }
}

/// Only this one key is looked at: a configuration that is broken elsewhere must not hide the daemon that still runs
/// on the one before.
fn socket_of(config: &Path) -> Result<PathBuf, Failure> {
    let text = std::fs::read_to_string(config)
        .map_err(|e| Failure::usage(format!("cannot read {}: {e}", config.display())))?;
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        Failure::new(Exit::Usage, format!("{}: {e}", config.display()))
            .hint("`tapwire check` shows everything that is wrong; --socket reaches the daemon all the same")
    })?;
    Ok(table
        .get("daemon")
        .and_then(|daemon| daemon.get("socket"))
        .and_then(toml::Value::as_str)
        .map_or_else(|| PathBuf::from(DEFAULT_SOCKET), PathBuf::from))
}
