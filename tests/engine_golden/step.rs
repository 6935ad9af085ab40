//! The steps of a scenario, as `events.jsonl` has them, and devices in words.

use super::{kind_word, read_desired};
use crate::fake_kernel::host::Host;
use crate::fake_kernel::{Answer, Device, Fault, Kernel, Moment, record};
use serde::Deserialize;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use tapwire::desired::verdict::{Denial, PortVerdict};
use tapwire::engine::event::{Event, PolicyUse};
use tapwire::engine::service::ServiceState;
use tapwire::kernel::Refusal;
use tapwire::model::{
    BridgeAttributes, FdbEntry, Ifindex, LinkKind, LinkName, Mac, Mtu, NetworkId, PortMapping, TapSelector,
    Vid, VlanAttributes, VlanRow, VxlanAttributes,
};
use tapwire::plan::address_move::address_of;
use tapwire::plan::guard::GuardHave;
use tapwire::plan::op::ListAction;

use crate::fake_kernel::device::Birth;

/// What somebody does. Unless the messages are held back, the program then acts until nothing is left to do.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// The program starts. Before it, steps make the world that it finds.
    Start,
    /// It dies and starts again.
    Restart,
    /// Somebody makes a device.
    Link(Box<NewLink>),
    /// Somebody changes one.
    Set(Box<Change>),
    Delete {
        name: String,
        /// A bridge: the program hears of the first port before the bridge is gone.
        #[serde(default)]
        slowly: bool,
        /// It is gone, but the message that says so comes with `told`.
        #[serde(default)]
        untold: bool,
    },
    /// The last message about the device that was deleted `untold`.
    Told,
    Address {
        dev: String,
        add: Option<String>,
        del: Option<String>,
        #[serde(default)]
        flags: Option<u32>,
    },
    Route {
        to: String,
        via: Option<String>,
        dev: String,
        #[serde(default)]
        metric: u32,
    },
    /// Somebody else's forwarding entry.
    Fdb {
        dev: String,
        mac: Mac48,
        dst: IpAddr,
    },
    /// Somebody else's VLAN on a port; with `del` it goes.
    Vlan {
        dev: String,
        vid: i64,
        #[serde(default)]
        pvid: bool,
        #[serde(default)]
        untagged: bool,
        #[serde(default)]
        del: bool,
    },
    Bind {
        tap: String,
        network: String,
        #[serde(default = "yes")]
        admin_state_up: bool,
    },
    Unbind {
        tap: String,
    },
    /// The files say something else now.
    Config {
        file: String,
    },
    /// Time passes.
    Wait {
        ms: u64,
    },
    /// Messages pile up unread until `release`.
    Hold,
    Release,
    /// ENOBUFS.
    Overrun,
    Resync,
    /// Somebody flushes nftables' ruleset.
    FlushRuleset,
    /// The next operation that begins so (or is called so) fails.
    Fail {
        op: String,
        errno: Errno,
        #[serde(default)]
        skip: usize,
        #[serde(default = "one")]
        times: usize,
        #[serde(default)]
        after: bool,
        #[serde(default)]
        text: Option<String>,
    },
    /// What this kernel cannot do.
    Kernel {
        vlans: Option<bool>,
        ports_per_bridge: Option<usize>,
    },
    /// Policy's say about a tap.
    Verdict {
        tap: String,
        mtu: Option<i64>,
        deny: Option<String>,
        isolated: Option<bool>,
    },
    /// How a network's dnsmasq is: running again, or not, and why.
    Server {
        network: String,
        failed: Option<String>,
    },
    /// What `tapwire plan` says.
    Plan,
}

fn yes() -> bool {
    true
}
fn one() -> usize {
    1
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewLink {
    name: String,
    #[serde(default = "tap")]
    kind: String,
    index: Option<u32>,
    mac: Option<Mac48>,
    mtu: Option<u32>,
    max_mtu: Option<u32>,
    #[serde(default)]
    up: bool,
    master: Option<String>,
    alias: Option<String>,
    parent: Option<String>,
    vid: Option<i64>,
    vni: Option<u32>,
    local: Option<IpAddr>,
    group: Option<IpAddr>,
    dstport: Option<u16>,
    #[serde(default)]
    learning: bool,
    #[serde(default)]
    addresses: Vec<String>,
    ipv6_disabled: Option<bool>,
    stp: Option<bool>,
    forward_delay: Option<u32>,
}

fn tap() -> String {
    "tap".to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    name: String,
    up: Option<bool>,
    /// "" lets it go.
    master: Option<String>,
    mtu: Option<u32>,
    mac: Option<Mac48>,
    rename: Option<String>,
    alias: Option<String>,
}

/// By its name, so that a scenario reads without a table.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum Errno {
    #[serde(rename = "EBUSY")]
    Busy,
    #[serde(rename = "EINVAL")]
    Invalid,
    #[serde(rename = "ENODEV")]
    NoDevice,
    #[serde(rename = "EPERM")]
    Permission,
    #[serde(rename = "EOPNOTSUPP")]
    Unsupported,
}

impl Errno {
    const fn number(self) -> i32 {
        match self {
            Errno::Busy => libc::EBUSY,
            Errno::Invalid => libc::EINVAL,
            Errno::NoDevice => libc::ENODEV,
            Errno::Permission => libc::EPERM,
            Errno::Unsupported => libc::EOPNOTSUPP,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub struct Mac48(Mac);

impl TryFrom<String> for Mac48 {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
            .map(Mac48)
            .map_err(|e: tapwire::model::InvalidValue| e.to_string())
    }
}

impl Step {
    pub fn take(self, host: &mut Host, case: &Path, text: &mut String) {
        match self {
            Step::Start => {
                // What was before it was never multicast to it.
                host.kernel.lose_messages();
                host.started = true;
            }
            Step::Restart => host.restart(),
            Step::Link(new) => new.make(&mut host.kernel).expect("the device"),
            Step::Set(change) => change.make(&mut host.kernel).expect("the change"),
            Step::Delete { name, slowly, untold } => {
                let index = index(&host.kernel, &name);
                if slowly {
                    host.kernel.delete_slowly(index);
                } else if untold {
                    host.kernel.delete_untold(index).expect("the deletion");
                } else {
                    host.kernel.delete(index).expect("the deletion");
                }
            }
            Step::Told => host.kernel.tell_deletion(),
            Step::Address { dev, add, del, flags } => {
                let index = index(&host.kernel, &dev);
                for (action, text) in [(ListAction::Add, add), (ListAction::Delete, del)] {
                    if let Some(text) = text {
                        let record = record::address_with(&text, index, flags.unwrap_or(0x80));
                        host.kernel.address(action, index, &record).expect("the address");
                    }
                }
            }
            Step::Route { to, via, dev, metric } => {
                let route = record::route(&to, via.as_deref(), index(&host.kernel, &dev), metric);
                host.kernel.route(ListAction::Add, &route).expect("the route");
            }
            Step::Fdb { dev, mac, dst } => {
                let entry = FdbEntry {
                    mac: mac.0,
                    dst: Some(dst),
                };
                let index = index(&host.kernel, &dev);
                host.kernel
                    .fdb(ListAction::Append, index, entry, false)
                    .expect("the entry");
            }
            Step::Vlan {
                dev,
                vid,
                pvid,
                untagged,
                del,
            } => {
                let index = index(&host.kernel, &dev);
                let row = VlanRow {
                    vid: Vid::new(vid).expect("a VLAN id"),
                    pvid,
                    untagged,
                    vni: None,
                };
                let action = if del { ListAction::Delete } else { ListAction::Add };
                host.kernel.vlan(action, index, row).expect("the VLAN");
            }
            Step::Bind {
                tap,
                network,
                admin_state_up,
            } => host.tell(Event::SetMapping(Box::new(PortMapping {
                admin_state_up,
                ..PortMapping::new(
                    TapSelector::Exact(name(&tap)),
                    NetworkId::new(&network).expect("a network id"),
                )
            }))),
            Step::Unbind { tap } => host.tell(Event::RemoveMapping(TapSelector::Exact(name(&tap)))),
            Step::Config { file } => {
                let (desired, _) = read_desired(&case.join(file));
                host.tell(Event::Desired(Box::new(desired)));
            }
            Step::Wait { ms } => host.wait(Duration::from_millis(ms)),
            Step::Hold => host.held = true,
            Step::Release => host.held = false,
            Step::Overrun => host.overrun(),
            Step::Resync => host.tell(Event::Resync),
            Step::FlushRuleset => {
                host.kernel.guard = GuardHave::default();
                host.tell(Event::GuardTouched);
            }
            Step::Fail {
                op,
                errno,
                skip,
                times,
                after,
                text,
            } => host.faults.push(Fault {
                skip,
                op,
                moment: if after { Moment::After } else { Moment::Before },
                refusal: Refusal {
                    errno: errno.number(),
                    text: text.map(Into::into),
                },
                times,
            }),
            Step::Kernel {
                vlans,
                ports_per_bridge,
            } => {
                host.kernel.vlans = vlans.unwrap_or(host.kernel.vlans);
                host.kernel.ports_per_bridge = ports_per_bridge.unwrap_or(host.kernel.ports_per_bridge);
            }
            Step::Verdict {
                tap,
                mtu,
                deny,
                isolated,
            } => {
                let verdict = PortVerdict {
                    mtu: mtu.map(|mtu| Mtu::new(mtu).expect("an mtu")),
                    deny: deny.map(|reason| Denial {
                        plugin: "site".into(),
                        reason: reason.into(),
                    }),
                    flags: tapwire::model::PortFlags {
                        isolated,
                        ..Default::default()
                    },
                    ..PortVerdict::default()
                };
                host.port_verdicts.insert(name(&tap), verdict);
                host.tell(Event::PolicyChanged(PolicyUse {
                    ports: true,
                    networks: false,
                }));
            }
            Step::Server { network, failed } => host.tell(Event::Service {
                network: NetworkId::new(&network).expect("a network id"),
                state: match failed {
                    Some(error) => ServiceState::Failed {
                        error: error.into(),
                        retry_at: None,
                    },
                    None => ServiceState::Running { pid: 2 },
                },
            }),
            Step::Plan => {
                for planned in host.engine.preview() {
                    let _infallible = writeln!(text, "  plan: {} ({})", planned.op, planned.cause);
                }
            }
        }
        if host.started && !host.held {
            host.settle();
        }
    }
}

fn name(text: &str) -> LinkName {
    LinkName::new(text).expect("an interface name")
}

fn index(kernel: &Kernel, name: &str) -> Ifindex {
    kernel.index(name).unwrap_or_else(|| panic!("no device {name}"))
}

impl NewLink {
    fn make(self, kernel: &mut Kernel) -> Answer {
        let parent = self.parent.as_deref().map(|p| index(kernel, p));
        let kind = match self.kind.as_str() {
            "tap" => LinkKind::Tap,
            "tun" => LinkKind::Tun,
            "physical" => LinkKind::Physical,
            "bridge" => LinkKind::Bridge(BridgeAttributes {
                stp: self.stp,
                forward_delay: self.forward_delay,
                ..BridgeAttributes::default()
            }),
            "vlan" => LinkKind::Vlan(VlanAttributes {
                vid: self.vid.map(|vid| Vid::new(vid).expect("a vid")),
                protocol: 0x8100,
            }),
            "vxlan" => LinkKind::Vxlan(Box::new(VxlanAttributes {
                vni: self.vni.expect("a vni"),
                local: self.local,
                group: self.group,
                link: parent,
                dstport: self.dstport.unwrap_or(4789),
                learning: self.learning,
                ..VxlanAttributes::default()
            })),
            other => LinkKind::Other(other.into()),
        };
        let mut birth = Birth::of(name(&self.name), kind);
        birth.index = self.index.and_then(Ifindex::new);
        birth.mac = self.mac.map(|m| m.0);
        birth.mtu = self.mtu;
        birth.parent = parent;
        let index = kernel.create(birth)?;
        if let (Some(max), Some(device)) = (self.max_mtu, kernel.device_mut(index)) {
            device.max_mtu = max;
        }
        if let Some(disable) = self.ipv6_disabled {
            kernel.set_ipv6_disabled(index, disable)?;
        }
        if let Some(alias) = &self.alias {
            kernel.set_alias(index, alias)?;
        }
        if let Some(master) = &self.master {
            let master = self::index(kernel, master);
            kernel.set_master(index, Some(master))?;
        }
        if self.up {
            kernel.set_up(index, true)?;
        }
        for address in &self.addresses {
            kernel.address(ListAction::Add, index, &record::address(address, index))?;
        }
        Ok(())
    }
}

impl Change {
    fn make(self, kernel: &mut Kernel) -> Answer {
        let index = index(kernel, &self.name);
        if let Some(name) = &self.rename {
            kernel.rename(index, self::name(name))?;
        }
        if let Some(mac) = self.mac {
            kernel.set_mac(index, mac.0)?;
        }
        if let Some(mtu) = self.mtu {
            kernel.set_mtu(index, mtu)?;
        }
        if let Some(alias) = &self.alias {
            kernel.set_alias(index, alias)?;
        }
        match self.master.as_deref() {
            Some("") => kernel.set_master(index, None)?,
            Some(master) => {
                let master = self::index(kernel, master);
                kernel.set_master(index, Some(master))?;
            }
            None => {}
        }
        match self.up {
            Some(up) => kernel.set_up(index, up),
            None => Ok(()),
        }
    }
}

/// One device in a line, as far as anybody cares.
pub fn describe(kernel: &Kernel, device: &Device) -> String {
    let link = &device.link;
    let mut text = format!("{} #{} {}", link.name, link.index, kind_word(&link.kind));
    let mut word = |w: String| {
        text.push(' ');
        text.push_str(&w);
    };
    word(format!("mtu {}", link.mtu));
    word(if link.up { "up" } else { "down" }.to_owned());
    if let Some(master) = link.master.and_then(|m| kernel.device(m)) {
        word(format!("master {}", master.link.name));
    }
    if let LinkKind::Bridge(_) = &link.kind
        && let Some(mac) = link.mac
    {
        word(format!("address {mac}"));
    }
    if let LinkKind::Vlan(vlan) = &link.kind
        && let Some(vid) = vlan.vid
    {
        word(format!("vid {vid}"));
    }
    if let LinkKind::Vxlan(vxlan) = &link.kind {
        match vxlan.external {
            true => word(format!("external port {}", vxlan.dstport)),
            false => word(format!("vni {} port {}", vxlan.vni, vxlan.dstport)),
        }
        for row in &device.vnis {
            let group = row.group.map_or(String::new(), |group| format!(" group {group}"));
            word(format!("takes {}{group}", row.vni));
        }
        if let Some(local) = vxlan.local {
            word(format!("local {local}"));
        }
        if let Some(group) = vxlan.group {
            word(format!("group {group}"));
        }
        word(if vxlan.learning { "learning" } else { "nolearning" }.to_owned());
    }
    if link.ipv6_disabled == Some(true) {
        word("noipv6".to_owned());
    }
    if link.port.is_some_and(|p| p.isolated == Some(true)) {
        word("isolated".to_owned());
    }
    if let Some(alias) = &link.alias {
        word(format!("alias '{alias}'"));
    }
    for address in device.addresses.iter().filter_map(address_of) {
        word(format!("inet {address}"));
    }
    let filters = |link: &tapwire::model::Link| matches!(&link.kind, LinkKind::Bridge(b) if b.vlan_filtering == Some(true));
    if link
        .master
        .and_then(|m| kernel.device(m))
        .is_some_and(|m| filters(&m.link))
    {
        for row in device.vlans.rows() {
            let mut vlan = format!("vlan {}", row.vid);
            vlan.push_str(if row.pvid { " pvid" } else { "" });
            vlan.push_str(if row.untagged { " untagged" } else { "" });
            vlan.push_str(&row.vni.map_or(String::new(), |vni| format!(" vni {vni}")));
            word(vlan);
        }
    }
    for row in &device.fdb {
        let dst = row.entry.dst.map_or(String::new(), |dst| format!(" dst {dst}"));
        let whose = if row.ours { "" } else { " (foreign)" };
        let vni = row.vni.map_or(String::new(), |vni| format!(" src_vni {vni}"));
        word(format!("fdb {}{dst}{vni}{whose}", row.entry.mac));
    }
    for (neighbour, _) in &device.neighbours {
        word(format!("neigh {} {}", neighbour.ip, neighbour.mac));
    }
    text
}
