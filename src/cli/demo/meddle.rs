//! What the demo does as the host's administrator, and behind the daemon's back: what `ip` would do, through a socket
//! of its own. The daemon is another process and sees somebody else's doing.

use crate::kernel::Error;
use crate::kernel::executor::{Executor, Verdict};
use crate::kernel::request::LinkKey;
use crate::model::record::{AddressRecord, Attribute};
use crate::model::{Ifindex, LinkName, Vid};
use crate::plan::op::{LinkChange, LinkRef, ListAction, Master, Op};
use std::net::Ipv4Addr;

/// linux/if_addr.h.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

#[derive(Debug)]
pub struct Hand(Executor);

impl Hand {
    /// In the network namespace of the calling thread, which the demo has left the host's for.
    pub fn new() -> Result<Self, Error> {
        Executor::open().map(Self)
    }

    /// `ip address add ADDRESS/24 dev NAME; ip link set dev NAME up`.
    pub fn address(&mut self, link: LinkRef, address: Ipv4Addr) -> Result<(), Error> {
        let attribute = |kind| Attribute {
            kind,
            value: address.octets().to_vec(),
        };
        let record = AddressRecord {
            family: libc::AF_INET as u8,
            prefix_len: 24,
            flags: 0,
            scope: libc::RT_SCOPE_UNIVERSE,
            ifindex: link.index.map_or(0, Ifindex::get),
            attributes: vec![attribute(IFA_LOCAL), attribute(IFA_ADDRESS)],
        };
        self.run(&[
            Op::Address {
                action: ListAction::Add,
                link,
                record: Box::new(record),
            },
            Op::SetLink {
                link,
                change: LinkChange {
                    up: Some(true),
                    ..LinkChange::default()
                },
            },
        ])
    }

    /// `ip link set dev TAP nomaster`.
    pub fn detach(&mut self, link: LinkRef) -> Result<(), Error> {
        self.run(&[Op::SetLink {
            link,
            change: LinkChange {
                master: Some(Master::Clear),
                ..LinkChange::default()
            },
        }])
    }

    /// `ip link del dev NAME`. Returns some 30 ms after the device has gone: the kernel waits for its readers.
    pub fn delete(&mut self, name: LinkName) -> Result<(), Error> {
        let index = Some(self.0.link(LinkKey::Name(name))?.index);
        self.run(&[Op::DeleteLink {
            link: LinkRef { name, index },
        }])
    }

    /// Whether the kernel knows 802.1Q: makes a VLAN device and removes it again.
    pub fn knows_vlans(&mut self, parent: LinkRef) -> bool {
        let (Ok(name), Ok(vid)) = (LinkName::new("vlan-probe"), Vid::new(4094)) else {
            return false;
        };
        let probe = Op::CreateVlan {
            name,
            parent,
            vid,
            mtu: None,
        };
        self.run(&[probe]).is_ok() && self.delete(name).is_ok()
    }

    fn run(&mut self, ops: &[Op]) -> Result<(), Error> {
        let mut result = Ok(());
        self.0.run(ops, |_, outcome| {
            if let Verdict::Failed(error) = outcome.verdict {
                result = Err(error);
            }
        });
        result
    }
}
