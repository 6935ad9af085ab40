//! Lists that the engine asks for: links, forwarding entries, addresses and routes.

use super::convert;
use super::reactor::Reactor;
use crate::engine::event::{Event, Snapshot as Dump};
use crate::kernel::{self, nft::NftMonitor};
use crate::model::{Ifindex, Link, LinkKind, Mac, NeighbourEntry, NetworkId, PortVlans, VniRow, owned};
use crate::plan::Key;
use crate::plan::address_move::Carried;
use crate::plan::forwarding::ForwardingHave;
use crate::plan::guard::TableHave;
use std::collections::BTreeSet;

impl Reactor {
    pub(super) async fn take_snapshot(&mut self) -> Event {
        let links = match self.snapshot.links().await {
            Ok(listing) if listing.complete => listing.rows,
            Ok(_) => {
                return Event::SnapshotFailed {
                    error: "the list changed while it was read".to_owned(),
                };
            }
            Err(error) => {
                return Event::SnapshotFailed {
                    error: convert::chain(&error),
                };
            }
        };
        let (vlans, vnis) = match self.read_vlans(&links).await {
            Ok(read) => read,
            Err(error) => {
                return Event::SnapshotFailed {
                    error: convert::chain(&error),
                };
            }
        };
        let static_entries = self.read_static_entries(&links).await;
        match self.snapshot.all_addresses().await {
            Ok(listing) => Event::Snapshot(Dump {
                links,
                addresses: listing.rows,
                vlans,
                vnis,
                static_entries,
            }),
            Err(error) => Event::SnapshotFailed {
                error: convert::chain(&error),
            },
        }
    }

    /// What is left of the static entries that we put on taps' ports: the kernel's links tell nothing of them.
    async fn read_static_entries(&mut self, links: &[Link]) -> Vec<(Ifindex, Vec<Mac>)> {
        let taps = self.engine.taps().filter(|(_, tap)| !tap.fdb.is_empty());
        let mut ports: BTreeSet<Ifindex> = taps.map(|(index, _)| index).collect();
        ports.retain(|index| {
            links
                .iter()
                .any(|link| link.index == *index && link.master.is_some())
        });
        let mut read = Vec::with_capacity(ports.len());
        for port in ports {
            match self.snapshot.port_forwarding(port).await {
                Ok(listing) => {
                    let fixed = listing.rows.iter().filter(|row| row.fixed);
                    read.push((port, fixed.map(|row| row.entry.mac).collect()));
                }
                // Most likely it is gone since; of a port that was not read nothing is believed to be missing.
                Err(error) => {
                    let error = convert::chain(&error);
                    tracing::warn!(target: "engine", ifindex = port.get(), error, "static entries not read");
                }
            }
        }
        read
    }

    /// The VLANs of all bridge ports and the VNIs of the shared VXLAN device, where there is a VLAN-aware bridge.
    async fn read_vlans(
        &mut self,
        links: &[Link],
    ) -> Result<(Vec<(Ifindex, PortVlans)>, Vec<(Ifindex, VniRow)>), kernel::Error> {
        let shared = self.engine.desired().mode.shared().is_some();
        // Subscribed before they are read.
        self.links.hear_vlans(shared)?;
        if !shared {
            return Ok(Default::default());
        }
        let vlans = self.snapshot.vlans().await?.rows;
        let shared = owned::shared_vxlan_name().ok();
        let device = links.iter().find(|link| {
            Some(link.name) == shared && matches!(&link.kind, LinkKind::Vxlan(v) if v.vnifilter)
        });
        let mut vnis = Vec::new();
        if let Some(device) = device.map(|link| link.index) {
            let rows = self.snapshot.vnis(device).await?.rows;
            vnis.extend(rows.into_iter().map(|row| (device, row)));
        }
        Ok((vlans, vnis))
    }

    pub(super) async fn read_forwarding(&mut self, network: NetworkId, device: Ifindex) -> Event {
        let fdb = self.snapshot.forwarding(device).await;
        let neighbours = self.snapshot.neighbours(device).await;
        let have = match (fdb, neighbours) {
            (Ok(fdb), Ok(neighbours)) => {
                let permanent = |ours_only: bool| {
                    let rows = neighbours.rows.iter();
                    rows.filter(|row| !ours_only || row.protocol == Some(owned::PROTOCOL))
                        .filter_map(|row| row.neighbour())
                        .collect::<BTreeSet<NeighbourEntry>>()
                };
                Ok(ForwardingHave {
                    fdb: fdb.rows,
                    neighbours: permanent(false),
                    our_neighbours: permanent(true),
                })
            }
            (Err(error), _) | (_, Err(error)) => Err(convert::failure(&error)),
        };
        Event::Forwarding {
            network,
            device,
            have,
        }
    }

    /// Subscribed before it is read, so that nothing is missed in between.
    pub(super) fn read_guard(&mut self, watch: bool) -> Event {
        let read = |reactor: &mut Reactor| {
            if watch && reactor.nft.is_none() {
                reactor.nft = Some(NftMonitor::open()?);
            }
            reactor.executor.read_guard()
        };
        let have = read(self).map_err(|error| convert::failure(&error));
        if !watch && have.as_ref().map_or(true, |have| have.table == TableHave::Absent) {
            self.executor.close_nft();
        }
        Event::Guard(have)
    }

    pub(super) async fn read_carried(&mut self, key: Key, devices: Vec<Ifindex>) -> Event {
        let mut all = Vec::with_capacity(devices.len());
        for device in devices {
            let addresses = self.snapshot.addresses(device).await;
            let routes = self.snapshot.routes(device).await;
            match (addresses, routes) {
                (Ok(addresses), Ok(routes)) => {
                    all.push(Carried {
                        addresses: addresses.rows,
                        routes: routes.rows,
                    });
                }
                (Err(error), _) | (_, Err(error)) => {
                    return Event::Carried {
                        key,
                        have: Err(convert::failure(&error)),
                    };
                }
            }
        }
        Event::Carried { key, have: Ok(all) }
    }
}
