//! The bindings and networks told over the control socket, kept on disk because nobody else has them.
//!
//! One file, `bindings.redb` in the state directory: a copy-on-write B-tree that is whole at every instant, so that a
//! kill or a power cut loses nothing that was acknowledged and needs no repair by hand. Every call is one transaction,
//! synced to disk before it returns (some milliseconds on a spinning disk): call it from a blocking thread, never
//! from the event loop. One process at a time has the file open.
//!
//! What the daemon does about trouble: a damaged file is moved aside at `open` and the store begins empty, with the
//! place of the old one told; a record that does not fit is listed as such and the others are used.

use super::record::{BindingRecord, NetworkRecord};
use super::{Error, RecordError};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Version of the tables and of the records' meaning.
pub const SCHEMA: u64 = 1;

/// Name of the file in the state directory.
pub const FILE: &str = "bindings.redb";

/// Pages kept in memory, bytes. All records are read once, at start; redb's default is 1 GiB.
const CACHE: usize = 1 << 20;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const NETWORKS: TableDefinition<'_, &str, &str> = TableDefinition::new("networks");
const BINDINGS: TableDefinition<'_, &str, &str> = TableDefinition::new("bindings");

/// The open store.
#[derive(Debug)]
pub struct Store {
    database: Database,
    path: PathBuf,
}

/// An open store, and what was found damaged on the way.
#[derive(Debug)]
pub struct Opened {
    pub store: Store,
    pub damaged: Option<Damaged>,
}

/// A file that could not be read any more. Its content is lost to the daemon, but not deleted.
#[derive(Debug, thiserror::Error)]
#[error("the store was damaged and is now {moved_to}: {reason}")]
pub struct Damaged {
    pub moved_to: PathBuf,
    pub reason: String,
}

/// Everything in the store.
#[derive(Debug, Default)]
pub struct Contents {
    pub networks: Vec<NetworkRecord>,
    pub bindings: Vec<BindingRecord>,
    /// Records that are no JSON of ours; they stay where they are.
    pub unusable: Vec<Error>,
}

/// One change; several of them make one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Adds or replaces.
    PutNetwork(NetworkRecord),
    DeleteNetwork {
        id: String,
    },
    /// Adds or replaces what has the same key.
    PutBinding(BindingRecord),
    DeleteBinding {
        key: String,
    },
}

impl Store {
    /// Opens the store in a directory that exists, and makes it if it is not there.
    ///
    /// Fails with `InUse` if another process has it, with `Newer` if a later version wrote it, with `Directory` if
    /// the directory can't be used; in all three the file is left alone.
    pub fn open(directory: &Path) -> Result<Opened, Error> {
        let path = directory.join(FILE);
        let unusable = |cause| Error::Directory {
            path: directory.to_owned(),
            cause,
        };
        // Held until the return: of two processes that find no file, one makes it, the other finds it in use.
        let lock = File::open(directory).map_err(unusable)?;
        lock.lock().map_err(unusable)?;
        let damaged = match open_existing(&path)? {
            Attempt::Open(database) => {
                let store = Store { database, path };
                return Ok(Opened { store, damaged: None });
            }
            Attempt::Absent => None,
            Attempt::Damaged(reason) => {
                let moved_to = move_aside(&path).map_err(unusable)?;
                Some(Damaged { moved_to, reason })
            }
        };
        create(directory, &path).map_err(|error| match error {
            Creation::Directory(cause) => unusable(cause),
            Creation::Store(cause) => store_error(&path, cause),
        })?;
        match open_existing(&path)? {
            Attempt::Open(database) => Ok(Opened {
                store: Store { database, path },
                damaged,
            }),
            Attempt::Absent => Err(unusable(ErrorKind::NotFound.into())),
            Attempt::Damaged(reason) => Err(store_error(&path, reason)),
        }
    }

    /// Reads everything.
    pub fn list(&self) -> Result<Contents, Error> {
        let read = || -> Result<Contents, redb::Error> {
            let transaction = self.database.begin_read()?;
            let mut contents = Contents::default();
            let networks = transaction.open_table(NETWORKS)?;
            for row in networks.iter()? {
                let (key, value) = row?;
                match serde_json::from_str(value.value()) {
                    Ok(record) => contents.networks.push(record),
                    Err(error) => contents
                        .unusable
                        .push(unusable_record(format!("network:{}", key.value()), error)),
                }
            }
            let bindings = transaction.open_table(BINDINGS)?;
            for row in bindings.iter()? {
                let (key, value) = row?;
                match serde_json::from_str(value.value()) {
                    Ok(record) => contents.bindings.push(record),
                    Err(error) => contents
                        .unusable
                        .push(unusable_record(key.value().to_owned(), error)),
                }
            }
            Ok(contents)
        };
        read().map_err(|error| store_error(&self.path, error))
    }

    pub fn put_network(&self, network: &NetworkRecord) -> Result<(), Error> {
        self.apply(&[Change::PutNetwork(network.clone())]).map(|_| ())
    }

    /// Whether it was there.
    pub fn delete_network(&self, id: &str) -> Result<bool, Error> {
        self.apply(&[Change::DeleteNetwork { id: id.to_owned() }])
            .map(|removed| removed > 0)
    }

    pub fn put_binding(&self, binding: &BindingRecord) -> Result<(), Error> {
        self.apply(&[Change::PutBinding(binding.clone())]).map(|_| ())
    }

    /// `key` is `BindingRecord::key`. Whether it was there.
    pub fn delete_binding(&self, key: &str) -> Result<bool, Error> {
        self.apply(&[Change::DeleteBinding { key: key.to_owned() }])
            .map(|removed| removed > 0)
    }

    /// Makes all changes or none (`network delete --force` takes its bindings along); how many records were removed.
    /// On disk when it returns.
    pub fn apply(&self, changes: &[Change]) -> Result<usize, Error> {
        // Told apart before the transaction, so that a record that can't be kept changes nothing.
        let rows = changes.iter().map(Row::new).collect::<Result<Vec<_>, _>>()?;
        let write = || -> Result<usize, redb::Error> {
            let mut removed = 0;
            let transaction = self.database.begin_write()?;
            {
                let mut networks = transaction.open_table(NETWORKS)?;
                let mut bindings = transaction.open_table(BINDINGS)?;
                for row in &rows {
                    let table = if row.network { &mut networks } else { &mut bindings };
                    match &row.value {
                        Some(value) => {
                            table.insert(row.key.as_str(), value.as_str())?;
                        }
                        None => removed += usize::from(table.remove(row.key.as_str())?.is_some()),
                    }
                }
            }
            transaction.commit()?;
            Ok(removed)
        };
        write().map_err(|error| store_error(&self.path, error))
    }
}

/// A change as the table takes it; no value removes.
struct Row {
    network: bool,
    key: String,
    value: Option<String>,
}

impl Row {
    fn new(change: &Change) -> Result<Self, Error> {
        fn json(key: &str, value: &impl serde::Serialize) -> Result<Option<String>, Error> {
            serde_json::to_string(value)
                .map(Some)
                .map_err(|error| unusable_record(key.to_owned(), error))
        }
        Ok(match change {
            Change::PutNetwork(record) => Row {
                network: true,
                key: record.id.clone(),
                value: json(&record.id, record)?,
            },
            Change::DeleteNetwork { id } => Row {
                network: true,
                key: id.clone(),
                value: None,
            },
            Change::PutBinding(record) => {
                let key = record.key().map_err(|cause| Error::Record {
                    key: "the binding".to_owned(),
                    cause,
                })?;
                Row {
                    network: false,
                    value: json(&key, record)?,
                    key,
                }
            }
            Change::DeleteBinding { key } => Row {
                network: false,
                key: key.clone(),
                value: None,
            },
        })
    }
}

fn unusable_record(key: String, error: serde_json::Error) -> Error {
    Error::Record {
        key,
        cause: RecordError::Json(error),
    }
}

fn store_error(path: &Path, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Store {
        path: path.to_owned(),
        cause: cause.into(),
    }
}

enum Attempt {
    Open(Database),
    Absent,
    /// Why.
    Damaged(String),
}

/// Opens a file that may be damaged in any way. The whole file is checked, page by page: it is small, and a bit that
/// flipped is better met now than in the middle of a change.
fn open_existing(path: &Path) -> Result<Attempt, Error> {
    // redb takes an empty file for a new one; ours is never empty, because it is renamed into place when complete.
    match std::fs::metadata(path) {
        Ok(meta) if meta.len() == 0 => return Ok(Attempt::Damaged("it is empty".to_owned())),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Attempt::Absent),
        Err(error) => return Err(store_error(path, error)),
    }
    // redb's checks of damaged pages are assertions in debug builds; a damaged file must not end the daemon.
    let opened = std::panic::catch_unwind(|| {
        let database = redb::Builder::new()
            .set_cache_size(CACHE)
            .set_check_integrity_on_open(true)
            .open(path)?;
        let schema = schema(&database)?;
        Ok::<_, redb::Error>((database, schema))
    });
    match opened {
        Ok(Ok((database, Some(SCHEMA)))) => Ok(Attempt::Open(database)),
        Ok(Ok((_, Some(found)))) => Err(Error::Newer {
            path: path.to_owned(),
            found,
            known: SCHEMA,
        }),
        Ok(Ok((_, None))) => Ok(Attempt::Damaged("it has no schema".to_owned())),
        Ok(Err(redb::Error::DatabaseAlreadyOpen)) => Err(Error::InUse {
            path: path.to_owned(),
        }),
        Ok(Err(error)) if is_damage(&error) => Ok(Attempt::Damaged(error.to_string())),
        Ok(Err(error)) => Err(store_error(path, error)),
        Err(_) => Ok(Attempt::Damaged("reading it failed an assertion".to_owned())),
    }
}

/// The content is at fault, not the disk, the permissions or another process.
fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_) | redb::Error::RepairAborted | redb::Error::UpgradeRequired(_) => true,
        redb::Error::Io(error) => matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof),
        redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableIsNotMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. } => true,
        _ => false,
    }
}

fn schema(database: &Database) -> Result<Option<u64>, redb::Error> {
    let transaction = database.begin_read()?;
    let meta = match transaction.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let schema = meta.get("schema")?.map(|value| value.value());
    // Missing tables are damage too: they are made together with the schema.
    for table in [NETWORKS, BINDINGS] {
        match transaction.open_table(table) {
            Ok(_) => {}
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(schema)
}

enum Creation {
    Directory(std::io::Error),
    Store(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Creation {
    fn from(error: E) -> Self {
        Creation::Store(error.into())
    }
}

/// Makes an empty store under another name and renames it: a kill half-way leaves no half-made store, and the
/// leftover is overwritten next time.
fn create(directory: &Path, path: &Path) -> Result<(), Creation> {
    let fresh = directory.join(format!("{FILE}.new"));
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(Creation::Directory(error)),
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(Creation::Directory)?;
    {
        let database = redb::Builder::new().set_cache_size(CACHE).create(&fresh)?;
        let transaction = database.begin_write()?;
        transaction.open_table(META)?.insert("schema", SCHEMA)?;
        transaction.open_table(NETWORKS)?;
        transaction.open_table(BINDINGS)?;
        transaction.commit()?;
    }
    std::fs::rename(&fresh, path).map_err(Creation::Directory)?;
    // The rename itself must survive a power cut.
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(Creation::Directory)
}

/// Renames a damaged file to the first free name.
fn move_aside(path: &Path) -> std::io::Result<PathBuf> {
    let mut number = 1;
    loop {
        let aside = path.with_extension(format!("redb.damaged-{number}"));
        // Not `rename` at once: it would overwrite the remains of an earlier damage.
        match std::fs::hard_link(path, &aside) {
            Ok(()) => {
                std::fs::remove_file(path)?;
                return Ok(aside);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists && number < 1_000 => number += 1,
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
