//! The thread of all servers: it takes commands, gives each network's task its orders, and watches their files.
//!
//! One inotify instance for all networks: the system allows a user 128 of them (`fs.inotify.max_user_instances`), and each
//! dnsmasq takes one itself.

use super::files::{self, Layout};
use super::process;
use super::server::{Order, Server, Surroundings};
use super::{Command, Error, Event, chain};
use crate::model::NetworkId;
use futures_util::StreamExt as _;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::rc::Rc;
use std::thread::JoinHandle;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

#[derive(Debug, Clone)]
pub struct Settings {
    /// Each network has a directory below it.
    pub directory: PathBuf,
    /// This program.
    pub lease_program: PathBuf,
}

/// The handle of the thread. When it is dropped every server is ended; leases stay on disk.
#[derive(Debug)]
pub struct Service {
    commands: Option<mpsc::UnboundedSender<Command>>,
    events: mpsc::UnboundedReceiver<Event>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Drop privileges before: threads inherit them.
    pub fn start(settings: Settings) -> Result<Self, Error> {
        // Unbounded: commands are a few for each network and port, events a few for each lease.
        let (commands, orders) = mpsc::unbounded_channel();
        let (told, events) = mpsc::unbounded_channel();
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Thread)?;
        let thread = std::thread::Builder::new()
            .name("service".into())
            .spawn(move || LocalSet::new().block_on(&runtime, supervise(settings, orders, told)))
            .map_err(Error::Thread)?;
        Ok(Self {
            commands: Some(commands),
            events,
            thread: Some(thread),
        })
    }

    pub fn tell(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // The thread ends only with this handle.
            let _ = commands.send(command);
        }
    }

    /// The next event. Cancel-safe; never ends when the thread has.
    pub async fn event(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // It has panicked at worst, which its hook has said.
            let _ = thread.join();
        }
    }
}

/// Whose files are watched.
#[derive(Clone)]
pub struct Watching {
    watches: Option<Watches>,
    places: Rc<RefCell<HashMap<WatchDescriptor, (NetworkId, PathBuf)>>>,
}

impl Watching {
    /// A network's directory and its two folders; what is watched already stays so.
    pub fn add(&self, network: &NetworkId, layout: &Layout) {
        let mask = WatchMask::DELETE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::CLOSE_WRITE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        let Some(mut watches) = self.watches.clone() else {
            return;
        };
        for path in [layout.root().to_owned(), layout.hosts(), layout.names()] {
            match watches.add(&path, mask) {
                Ok(descriptor) => {
                    self.places
                        .borrow_mut()
                        .insert(descriptor, (network.clone(), path));
                }
                Err(error) => {
                    tracing::warn!(target: "service", %network, path = %path.display(), %error, "not watched");
                }
            }
        }
    }
}

/// A network's task, by the way to give it orders.
type Orders = mpsc::UnboundedSender<Order>;

fn begin(running: &mut JoinSet<NetworkId>, network: NetworkId, server: Server) -> Orders {
    let (orders, received) = mpsc::unbounded_channel();
    running.spawn_local(async move {
        server.run(received).await;
        network
    });
    orders
}

async fn supervise(
    settings: Settings,
    mut commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::UnboundedSender<Event>,
) {
    let (mut stream, watches) = match watch() {
        Ok((stream, watches)) => (Some(stream), Some(watches)),
        Err(error) => {
            tracing::warn!(target: "service", %error, "files of DHCP and DNS are not watched");
            (None, None)
        }
    };
    let around = Rc::new(Surroundings {
        directory: settings.directory,
        lease_program: settings.lease_program,
        events,
        watching: Watching {
            watches,
            places: Rc::default(),
        },
        began: Instant::now(),
    });
    let mut tasks: BTreeMap<NetworkId, Orders> = BTreeMap::new();
    let mut running = JoinSet::new();
    // Networks that are being removed: the next server of one waits for the end of the last.
    let mut removing: BTreeMap<NetworkId, Option<Command>> = BTreeMap::new();
    loop {
        // Every arm is cancel-safe.
        tokio::select! {
            command = commands.recv() => match command {
                None => break,
                Some(Command::Serve { network, device, want }) => {
                    if let Some(waiting) = removing.get_mut(&network) {
                        *waiting = Some(Command::Serve { network, device, want });
                    } else if let Some(task) = tasks.get(&network) {
                        // A task ends only when told.
                        let _ = task.send(Order::Serve { device, want });
                    } else {
                        let server = Server::new(network.clone(), Rc::clone(&around), device, want);
                        tasks.insert(network.clone(), begin(&mut running, network, server));
                    }
                }
                Some(command @ (Command::Pause(_) | Command::Remove(_))) => {
                    let (network, forgets) = match command {
                        Command::Remove(network) => (network, true),
                        Command::Pause(network) | Command::Serve { network, .. } => (network, false),
                        Command::Keep(_) => continue,
                    };
                    if let Some(task) = tasks.remove(&network) {
                        // Without a word it ends and leaves everything.
                        if forgets {
                            let _ = task.send(Order::Remove);
                        }
                        removing.insert(network, None);
                    } else if let Some(waiting) = removing.get_mut(&network) {
                        *waiting = None;
                    } else if forgets {
                        forget(&Layout::of(&around.directory, &network));
                    }
                }
                Some(Command::Keep(networks)) => sweep(&around.directory, &networks, &tasks),
            },
            Some(ended) = running.join_next() => {
                if let Ok(network) = ended
                    && let Some(Some(Command::Serve { network, device, want })) = removing.remove(&network)
                {
                    let server = Server::new(network.clone(), Rc::clone(&around), device, want);
                    tasks.insert(network.clone(), begin(&mut running, network, server));
                }
            },
            Some((network, path)) = changed(&mut stream, &around.watching) => {
                if let Some(task) = tasks.get(&network) {
                    let _ = task.send(Order::Look(path));
                }
            }
        }
    }
    // Their orders end: each ends its process.
    drop(tasks);
    while running.join_next().await.is_some() {}
}

fn watch() -> std::io::Result<(EventStream<Vec<u8>>, Watches)> {
    let inotify = Inotify::init()?;
    let watches = inotify.watches();
    Ok((inotify.into_event_stream(vec![0; 4096])?, watches))
}

/// The file that something happened to; `None` for what concerns nobody. Never ends without a watch.
async fn changed(
    stream: &mut Option<EventStream<Vec<u8>>>,
    watching: &Watching,
) -> Option<(NetworkId, PathBuf)> {
    let Some(events) = stream else {
        return std::future::pending().await;
    };
    loop {
        match events.next().await {
            Some(Ok(event)) => {
                let mut places = watching.places.borrow_mut();
                if event.mask.contains(EventMask::IGNORED) {
                    places.remove(&event.wd);
                    continue;
                }
                let Some((network, folder)) = places.get(&event.wd) else {
                    continue;
                };
                let path = match &event.name {
                    Some(name) => folder.join(name),
                    None => folder.clone(),
                };
                return Some((network.clone(), path));
            }
            // An overflow of the queue is an event without a place; a broken stream is the end of watching.
            Some(Err(_)) | None => {
                *stream = None;
                return std::future::pending().await;
            }
        }
    }
}

fn sweep(directory: &std::path::Path, keep: &BTreeSet<NetworkId>, tasks: &BTreeMap<NetworkId, Orders>) {
    match files::networks(directory) {
        Ok(found) => {
            for (network, layout) in found {
                if !keep.contains(&network) && !tasks.contains_key(&network) {
                    tracing::info!(target: "service", %network, "DHCP and DNS of a network that is gone: removed");
                    forget(&layout);
                }
            }
        }
        Err(error) => {
            tracing::warn!(target: "service", error = %chain(&error), "earlier networks are not looked for");
        }
    }
}

fn forget(layout: &Layout) {
    process::end_stale(layout);
    if let Err(error) = files::remove(layout.root()) {
        tracing::warn!(target: "service", error = %chain(&error), "directory stays");
    }
}
