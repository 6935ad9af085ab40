//! What was last said about every object, and the difference a message makes to it.
//!
//! Invariant: one message in, one event out; nothing is merged or left out here (filters and printing come later).
//! Objects the kernel removes without saying so (IPv4 routes of a device that went down, everything of a device that
//! is gone) are forgotten silently, so that their return is "new" again.
//!
//! Length: the table and the device half of the comparison, which share every field; the rest is split off already.

use super::event::{Cause, Change, Object, TraceEvent, Value, Word};
use super::fields::{self, Facts, Field, show};
use super::key::{Key, Name};
use super::resync::Seen;
use crate::kernel::watch::{Body, Head, LinkFacts, Notice, PortFacts, Undecodable, Verb, decode};
use crate::model::Mac;
use crate::model::owned::Mark;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

/// One device: the link and, while it is in a bridge, the port.
#[derive(Debug, Default)]
pub(super) struct Device {
    name: Box<str>,
    kind: Box<str>,
    mac: Option<Mac>,
    master: Option<u32>,
    up: bool,
    alias: Option<Box<str>>,
    link: Facts,
    pub port: Option<Facts>,
}

/// What of an event depends on the object.
pub(super) struct Told {
    pub word: Word,
    pub object: Object,
    pub family: &'static str,
    pub index: u32,
    pub key: Option<Box<str>>,
    pub diff: Vec<Change>,
    /// The master it just left: its network is still the event's.
    pub left: Option<u32>,
}

impl Told {
    pub(super) fn of_device(word: Word, object: Object, index: u32, diff: Vec<Change>) -> Self {
        Told {
            word,
            object,
            family: if object == Object::Port {
                "bridge"
            } else {
                "unspec"
            },
            index,
            key: None,
            diff,
            left: None,
        }
    }

    fn other(text: String) -> Self {
        Told {
            key: Some(text.into()),
            ..Told::of_device(Word::Change, Object::Other, 0, Vec::new())
        }
    }
}

/// The state table. See the module.
#[derive(Debug, Default)]
pub struct Tracer {
    pub(super) devices: HashMap<u32, Device>,
    pub(super) objects: BTreeMap<Key, Facts>,
    own_portids: BTreeSet<u32>,
    pub(super) seq: u64,
    pub(super) undecodable: u64,
    /// While a listing is compared: what it named.
    pub(super) seen: Option<Seen>,
}

impl Tracer {
    pub fn new() -> Self {
        Self::default()
    }

    /// Port ids of the daemon's netlink sockets: what they ask for is ours.
    pub fn set_own_portids(&mut self, portids: impl IntoIterator<Item = u32>) {
        self.own_portids = portids.into_iter().filter(|id| *id != 0).collect();
    }

    /// Messages that could not be decoded so far.
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// The name of a device as last told; `#7` for one never told of.
    pub fn name_of(&self, index: u32) -> Box<str> {
        match self.devices.get(&index).filter(|device| !device.name.is_empty()) {
            Some(device) => device.name.clone(),
            None => format!("#{index}").into(),
        }
    }

    /// The state to begin with: rows of a listing, whole messages. Yields no events.
    pub fn seed<'a>(&mut self, rows: impl IntoIterator<Item = &'a [u8]>) {
        for row in rows {
            match decode(row) {
                Ok(notice) => drop(self.tell(&notice)),
                Err(_) => self.undecodable += 1,
            }
        }
    }

    /// One event. `ts_us`: CLOCK_MONOTONIC when the message was received.
    pub fn apply(&mut self, notice: &Notice, ts_us: u64) -> TraceEvent {
        let told = self.tell(notice);
        self.event(told, notice.head, ts_us)
    }

    /// One whole message, decoded or not: a broken one is an event of object "other" that says what is wrong.
    pub fn apply_message(&mut self, message: &[u8], ts_us: u64) -> TraceEvent {
        match decode(message) {
            Ok(notice) => self.apply(&notice, ts_us),
            Err(error) => self.broken(error, ts_us),
        }
    }

    fn broken(&mut self, error: Undecodable, ts_us: u64) -> TraceEvent {
        self.undecodable += 1;
        self.event(Told::other(error.to_string()), Head::default(), ts_us)
    }

    pub(super) fn event(&mut self, told: Told, head: Head, ts_us: u64) -> TraceEvent {
        self.seq += 1;
        let device = self.devices.get(&told.index);
        let master = device.and_then(|d| d.master).or(told.left);
        let network = device
            .and_then(|d| network(d))
            .or_else(|| master.and_then(|m| self.devices.get(&m)).and_then(network));
        let event = TraceEvent {
            ts_us,
            seq: self.seq,
            word: told.word,
            object: told.object,
            family: told.family,
            ifindex: told.index,
            ifname: device.map(|d| d.name.clone()).unwrap_or_default(),
            kind: device.map(|d| d.kind.clone()).unwrap_or_default(),
            key: told.key,
            master: master.map(|m| self.name_of(m)),
            network: network.map(Into::into),
            diff: told.diff,
            cause: Cause {
                own: self.own_portids.contains(&head.portid),
                op: None,
                portid: (head.portid != 0).then_some(head.portid),
            },
            decided: None,
            resync: false,
        };
        // The line of a device's end still shows its name; only then it is forgotten.
        if told.word == Word::Gone && told.object == Object::Link {
            self.forget(told.index);
        }
        event
    }

    pub(super) fn tell(&mut self, notice: &Notice) -> Told {
        match &notice.body {
            Body::Link(Verb::Present, facts) => self.link(facts),
            Body::Link(Verb::Removed, facts) => self.link_gone(facts),
            Body::Port(Verb::Present, facts) => self.port(facts),
            Body::Port(Verb::Removed, facts) => {
                self.introduce(facts.index, facts.name.map(|n| n.to_string()));
                self.port_gone(facts.index)
            }
            Body::Address(verb, facts) => self.address(*verb, facts),
            Body::Route(verb, facts) => self.route(*verb, facts, notice.head.flags),
            Body::Neighbour(verb, facts) => self.neighbour(*verb, facts),
            Body::Other => Told::other(format!("message of type {}", notice.head.kind)),
        }
    }

    fn link(&mut self, facts: &LinkFacts) -> Told {
        if let Some(seen) = &mut self.seen {
            seen.devices.insert(facts.index);
        }
        let name: Box<str> = match facts.name {
            Some(name) => name.to_string().into(),
            None => self.name_of(facts.index),
        };
        let kind = facts.kind.clone().unwrap_or_default();
        let up = facts.flags & libc::IFF_UP as u32 != 0;
        // All ones in `change`: just registered. If such a device looks like another one than the one known under
        // the index, that one's end was missed.
        let reused = facts.change == u32::MAX
            && self.devices.get(&facts.index).is_some_and(|known| {
                known.kind != kind || (known.name != name && facts.mac.is_some() && known.mac != facts.mac)
            });
        if reused {
            self.forget(facts.index);
        }
        let fresh = !self.devices.contains_key(&facts.index);
        let device = self.devices.entry(facts.index).or_default();
        let old_master = device.master;
        let went_down = device.up && !up;
        let old = std::mem::replace(&mut device.link, fields::link(facts));
        device.name = name;
        device.kind = kind;
        device.mac = facts.mac;
        device.up = up;
        device.alias.clone_from(&facts.alias);
        device.master = facts.master;
        let word = match (fresh, old_master == facts.master, facts.master) {
            (true, ..) => Word::New,
            (false, true, _) => Word::Change,
            (false, false, Some(_)) => Word::Enslaved,
            (false, false, None) => Word::Released,
        };
        if went_down {
            self.forget_ipv4_routes(facts.index);
        }
        let diff = self
            .devices
            .get(&facts.index)
            .map(|d| self.diff(&old, &d.link))
            .unwrap_or_default();
        Told {
            left: old_master.filter(|_| word == Word::Released),
            ..Told::of_device(word, Object::Link, facts.index, diff)
        }
    }

    fn link_gone(&mut self, facts: &LinkFacts) -> Told {
        self.introduce(facts.index, facts.name.map(|n| n.to_string()));
        let change = |field, value| Change {
            field,
            old: Value::Absent,
            new: value,
        };
        // A move to another namespace: where to, and as what. -1: it has no id in this namespace.
        let moved = facts.new_netnsid.map(|id| match u64::try_from(id) {
            Ok(id) => change("netns", Value::Number(id)),
            Err(_) => change("netns", Value::Text("without an id here".into())),
        });
        let index = facts
            .new_index
            .map(|index| change("new_ifindex", Value::Number(index.into())));
        let diff = moved.into_iter().chain(index).collect();
        Told::of_device(Word::Gone, Object::Link, facts.index, diff)
    }

    fn port(&mut self, facts: &PortFacts) -> Told {
        if let Some(seen) = &mut self.seen {
            seen.ports.insert(facts.index);
        }
        self.introduce(facts.index, facts.name.map(|n| n.to_string()));
        if facts.master.is_none() {
            // A bridge speaks of itself in this family too (its own VLANs): it is nobody's port by that.
            return Told::of_device(Word::Change, Object::Port, facts.index, Vec::new());
        }
        let device = self.devices.entry(facts.index).or_default();
        let old_master = device.master;
        let old = device
            .port
            .replace(fields::port(facts))
            .unwrap_or_else(fields::fresh_port);
        device.master = facts.master;
        set_device_field(&mut device.link, "master", facts.master);
        let entered = facts.master != old_master;
        let mut diff = Vec::new();
        if entered {
            diff.push(self.master_change(old_master, facts.master));
        }
        if let Some(port) = self.devices.get(&facts.index).and_then(|d| d.port.as_ref()) {
            diff.extend(self.diff(&old, port));
        }
        let word = if entered { Word::Enslaved } else { Word::Change };
        Told::of_device(word, Object::Port, facts.index, diff)
    }

    pub(super) fn port_gone(&mut self, index: u32) -> Told {
        let (mut old_master, mut state) = (None, None);
        if let Some(device) = self.devices.get_mut(&index) {
            old_master = device.master.take();
            set_device_field(&mut device.link, "master", None);
            state = device
                .port
                .take()
                .and_then(|port| port.into_iter().find(|(name, _)| *name == "port_state"));
        }
        let mut diff = Vec::new();
        if old_master.is_some() {
            diff.push(self.master_change(old_master, None));
        }
        if let Some((field, value)) = state {
            diff.push(Change {
                field,
                old: self.show(&value),
                new: Value::Absent,
            });
        }
        Told {
            left: old_master,
            ..Told::of_device(Word::Released, Object::Port, index, diff)
        }
    }

    /// A device first heard of by another message than its own.
    fn introduce(&mut self, index: u32, name: Option<String>) {
        let name = name.unwrap_or_default().into();
        self.devices.entry(index).or_insert_with(|| Device {
            name,
            ..Device::default()
        });
    }

    fn forget(&mut self, index: u32) {
        self.devices.remove(&index);
        let mine: Vec<Key> = self.owned_by(index).cloned().collect();
        for key in mine {
            self.objects.remove(&key);
        }
    }

    fn forget_ipv4_routes(&mut self, index: u32) {
        let inet = libc::AF_INET as u8;
        let routes: Vec<Key> = self
            .owned_by(index)
            .filter(|key| matches!(key.name, Name::Route { family, .. } if family == inet))
            .cloned()
            .collect();
        for key in routes {
            self.objects.remove(&key);
        }
    }

    fn owned_by(&self, index: u32) -> impl Iterator<Item = &Key> {
        let first = Key {
            owner: index,
            name: Name::Address(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        };
        self.objects
            .range(first..)
            .map(|(key, _)| key)
            .take_while(move |key| key.owner == index)
    }

    fn show(&self, field: &Field) -> Value {
        show(field, &|index| self.name_of(index))
    }

    fn master_change(&self, old: Option<u32>, new: Option<u32>) -> Change {
        let name = |index: Option<u32>| index.map_or(Value::Absent, |index| Value::Text(self.name_of(index)));
        Change {
            field: "master",
            old: name(old),
            new: name(new),
        }
    }

    /// Fields of `new` that differ, in their order, then those only `old` has.
    pub(super) fn diff(&self, old: &[(&'static str, Field)], new: &[(&'static str, Field)]) -> Vec<Change> {
        let find = |facts: &[(&'static str, Field)], name| {
            facts
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| value.clone())
        };
        let shown = |value: Option<&Field>| value.map_or(Value::Absent, |value| self.show(value));
        let changed = new.iter().filter_map(|(field, value)| {
            let before = find(old, *field);
            (before.as_ref() != Some(value)).then(|| Change {
                field,
                old: shown(before.as_ref()),
                new: shown(Some(value)),
            })
        });
        let removed = old
            .iter()
            .filter(|(field, _)| find(new, *field).is_none())
            .map(|(field, value)| Change {
                field,
                old: shown(Some(value)),
                new: Value::Absent,
            });
        changed.chain(removed).collect()
    }
}

/// The network a device of ours is marked with.
fn network(device: &Device) -> Option<&str> {
    match Mark::read(device.alias.as_deref()) {
        Mark::Made(owner) | Mark::Adopted(owner) => Some(owner.network),
        Mark::Foreign => None,
    }
}

/// Keeps a link's fields in step with what its port messages said, so that the difference is shown once.
fn set_device_field(facts: &mut Facts, name: &'static str, value: Option<u32>) {
    facts.retain(|(n, _)| *n != name);
    if let Some(index) = value {
        facts.push((name, Field::Device(index)));
    }
}
