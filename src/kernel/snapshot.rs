//! The kernel's lists: links, forwarding entries, neighbours, addresses, routes.
//!
//! On a socket of its own, so that a dump under way never delays an attach. A dump of 5,000 links takes 75 ms; it is
//! read in pieces (`begin_links`, `step_links`), so that the loop can serve events between them. Rows told in pieces
//! are older than events drained meanwhile: **a row of a link that an event has touched since `begin_links` must be
//! skipped** (the event is newer, or the event that will follow is).
//!
//! A list that changed under the dump (NLM_F_DUMP_INTR) is read again by the caller, bounded and with pauses
//! (`Retry`); what the last try told is still true and is used, but nothing is concluded from what it did not tell.

use super::decode::{self, Change, NeighbourRow};
use super::error::Error;
use super::request::Batch;
use super::socket::{RequestSocket, Step};
use super::wire::Message;
use crate::model::record::{AddressRecord, RouteRecord};
use crate::model::{FdbRow, Ifindex, Link, PortVlans, VniRow};
use crate::observed::AddressRow;
use crate::plan::address_move::address_of;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::time::Duration;

/// A list and how far it can be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing<T> {
    pub rows: Vec<T>,
    /// False when even the last try was interrupted: a thing not listed may exist.
    pub complete: bool,
    /// Rows that did not decode. They are not listed, so with any of them the listing is not complete either.
    pub undecodable: usize,
}

/// The pauses between tries of an interrupted dump: at most four repeats within 75 ms.
#[derive(Debug, Clone, Copy, Default)]
pub struct Retry {
    tries: u32,
}

impl Retry {
    pub const MAX: u32 = 4;

    /// How long to wait before the next try; none when it is time to make do with what is there.
    pub fn pause(&mut self) -> Option<Duration> {
        if self.tries >= Self::MAX {
            return None;
        }
        self.tries += 1;
        Some(Duration::from_millis(5 << (self.tries - 1)))
    }
}

#[derive(Debug)]
pub struct Snapshot {
    socket: RequestSocket,
    batch: Batch,
}

impl Snapshot {
    /// Opens in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: RequestSocket::open()?,
            batch: Batch::default(),
        })
    }

    /// Starts a dump of all links, without their counters.
    pub fn begin_links(&mut self) -> Result<(), Error> {
        self.begin(all_links())
    }

    /// Tells the next piece (some 20 links); a row that does not decode is told as an error.
    pub fn step_links(
        &mut self,
        row: &mut dyn FnMut(Result<Link, super::wire::Malformed>),
    ) -> Result<Step, Error> {
        self.socket
            .step("dump_links", &mut |message| match decode::change(message) {
                Ok(Change::Link(link)) => row(Ok(link)),
                Ok(_) => {}
                Err(malformed) => row(Err(malformed)),
            })
    }

    /// All links in one go, 5-15 us each.
    pub async fn links(&mut self) -> Result<Listing<Link>, Error> {
        self.list("dump_links", &all_links(), |change| match change {
            Change::Link(link) => Some(link),
            _ => None,
        })
        .await
    }

    /// The VLANs of every bridge port.
    pub async fn vlans(&mut self) -> Result<Listing<(Ifindex, PortVlans)>, Error> {
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Bridge;
        let compressed = vec![LinkExtentMask::BrvlanCompressed];
        message.attributes.push(LinkAttribute::ExtMask(compressed));
        let request = RouteNetlinkMessage::GetLink(message);
        self.list("dump_vlans", &request, |change| match change {
            Change::BridgePort { index, vlans, .. } => Some((index, vlans)),
            _ => None,
        })
        .await
    }

    /// The VNIs of a VXLAN device with `vnifilter`.
    pub async fn vnis(&mut self, device: Ifindex) -> Result<Listing<VniRow>, Error> {
        let mut retry = Retry::default();
        loop {
            let mut listing = Listing::empty();
            self.batch.clear();
            self.batch.push_vni_dump(device);
            self.socket.begin_dump(&mut self.batch)?;
            let end = loop {
                let step =
                    self.socket.step(
                        "dump_vnis",
                        &mut |message: &Message<'_>| match decode::vlan::vnis(message.payload) {
                            Ok((index, rows)) if index == device => listing.rows.extend(rows),
                            Ok(_) => {}
                            Err(_) => listing.undecodable += 1,
                        },
                    )?;
                if step != Step::More {
                    break step;
                }
            };
            listing.complete = end == Step::Done && listing.undecodable == 0;
            let pause = if end == Step::Done { None } else { retry.pause() };
            let Some(pause) = pause else {
                return Ok(listing);
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// The forwarding entries of one VXLAN device (its own, not those of the bridge it is a port of).
    pub async fn forwarding(&mut self, device: Ifindex) -> Result<Listing<FdbRow>, Error> {
        let rows = self.neighbour_rows(AddressFamily::Bridge, device).await?;
        Ok(rows.only(|row| {
            if row.master.is_none() {
                row.forwarding()
            } else {
                None
            }
        }))
    }

    /// The forwarding entries that the bridge holds for one of its ports.
    pub async fn port_forwarding(&mut self, port: Ifindex) -> Result<Listing<FdbRow>, Error> {
        let rows = self.neighbour_rows(AddressFamily::Bridge, port).await?;
        Ok(rows.only(|row| row.master.and_then(|_| row.forwarding())))
    }

    /// The IPv4 and IPv6 neighbours on a link.
    pub async fn neighbours(&mut self, link: Ifindex) -> Result<Listing<NeighbourRow>, Error> {
        let mut all = self.neighbour_rows(AddressFamily::Inet, link).await?;
        all.append(self.neighbour_rows(AddressFamily::Inet6, link).await?);
        Ok(all)
    }

    /// The addresses of a link, IPv4 then IPv6, in the kernel's order.
    pub async fn addresses(&mut self, link: Ifindex) -> Result<Listing<AddressRecord>, Error> {
        let mut all = Listing::empty();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = AddressMessage::default();
            message.header.family = family;
            message.header.index = link.get();
            let listed = self
                .list(
                    "dump_addresses",
                    &RouteNetlinkMessage::GetAddress(message),
                    |change| match change {
                        // Kernels without strict checking for addresses list every link's.
                        Change::AddressSet(record) if record.ifindex == link.get() => Some(record),
                        _ => None,
                    },
                )
                .await?;
            all.append(listed);
        }
        Ok(all)
    }

    /// Which address is on which link, of all links.
    pub async fn all_addresses(&mut self) -> Result<Listing<AddressRow>, Error> {
        let mut all = Listing::empty();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = AddressMessage::default();
            message.header.family = family;
            let request = RouteNetlinkMessage::GetAddress(message);
            let listed = self.list("dump_addresses", &request, |change| match change {
                Change::AddressSet(record) => Some(AddressRow {
                    index: Ifindex::new(record.ifindex)?,
                    address: address_of(&record)?,
                    own: record.own(),
                }),
                _ => None,
            });
            all.append(listed.await?);
        }
        Ok(all)
    }

    /// The routes of every table and both families that go out of a link, one of several next hops included.
    pub async fn routes(&mut self, link: Ifindex) -> Result<Listing<RouteRecord>, Error> {
        let mut all = Listing::empty();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            // The kernel's own filter looks at every next hop; a host with a full routing table sends a few rows.
            message.attributes.push(RouteAttribute::Oif(link.get()));
            let listed = self
                .list(
                    "dump_routes",
                    &RouteNetlinkMessage::GetRoute(message),
                    |change| match change {
                        Change::RouteSet(record) if refers_to(&record, link) => Some(record),
                        _ => None,
                    },
                )
                .await?;
            all.append(listed);
        }
        Ok(all)
    }

    async fn neighbour_rows(
        &mut self,
        family: AddressFamily,
        device: Ifindex,
    ) -> Result<Listing<NeighbourRow>, Error> {
        let op = match family {
            AddressFamily::Bridge => "dump_fdb",
            _ => "dump_neighbours",
        };
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        // An attribute, because the strict check wants zero in the header of an IP neighbour dump.
        message.attributes.push(NeighbourAttribute::IfIndex(device.get()));
        self.list(
            op,
            &RouteNetlinkMessage::GetNeighbour(message),
            |change| match change {
                Change::NeighbourSet(row) if row.index == device => Some(row),
                _ => None,
            },
        )
        .await
    }

    async fn list<T>(
        &mut self,
        op: &'static str,
        request: &RouteNetlinkMessage,
        pick: impl Fn(Change) -> Option<T>,
    ) -> Result<Listing<T>, Error> {
        let mut retry = Retry::default();
        loop {
            let mut listing = Listing::empty();
            self.begin(request.clone())?;
            let end = loop {
                let step =
                    self.socket
                        .step(op, &mut |message: &Message<'_>| match decode::change(message) {
                            Ok(change) => listing.rows.extend(pick(change)),
                            Err(_) => listing.undecodable += 1,
                        })?;
                if step != Step::More {
                    break step;
                }
            };
            listing.complete = end == Step::Done && listing.undecodable == 0;
            if end == Step::Done {
                return Ok(listing);
            }
            let Some(pause) = retry.pause() else {
                return Ok(listing);
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn begin(&mut self, request: RouteNetlinkMessage) -> Result<(), Error> {
        self.batch.clear();
        self.batch.push_dump(request);
        self.socket.begin_dump(&mut self.batch)
    }
}

impl<T> Listing<T> {
    const fn empty() -> Self {
        Self {
            rows: Vec::new(),
            complete: true,
            undecodable: 0,
        }
    }
    fn append(&mut self, other: Self) {
        self.rows.extend(other.rows);
        self.complete &= other.complete;
        self.undecodable += other.undecodable;
    }
    fn only<U>(self, pick: impl Fn(T) -> Option<U>) -> Listing<U> {
        Listing {
            rows: self.rows.into_iter().filter_map(pick).collect(),
            complete: self.complete,
            undecodable: self.undecodable,
        }
    }
}

/// Without counters: a fifth of the bytes.
fn all_links() -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    RouteNetlinkMessage::GetLink(message)
}

/// Whether a route's output device, or that of one of its next hops, is `link`.
pub fn refers_to(route: &RouteRecord, link: Ifindex) -> bool {
    /// `struct rtnexthop`: length u16, flags u8, hops u8, index i32, attributes.
    const NEXT_HOP: usize = 8;
    route.attributes.iter().any(|attribute| match attribute.kind {
        libc::RTA_OIF => super::wire::u32_at(&attribute.value, 0) == Some(link.get()),
        libc::RTA_MULTIPATH => {
            let mut rest = &attribute.value[..];
            while let (Some(length), Some(index)) =
                (super::wire::u16_at(rest, 0), super::wire::u32_at(rest, 4))
            {
                if index == link.get() {
                    return true;
                }
                let step = super::wire::align(usize::from(length)).max(NEXT_HOP);
                rest = rest.get(step..).unwrap_or_default();
            }
            false
        }
        _ => false,
    })
}
