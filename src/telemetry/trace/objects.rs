//! Objects that belong to devices: what a message about an address, a route, a neighbour or an entry changes.

use super::event::Word;
use super::fields::{self, Facts};
use super::key::{Key, Name, kind_of};
use super::state::{Told, Tracer};
use crate::kernel::watch::{AddressFacts, NeighbourFacts, RouteFacts, Verb};
use crate::model::Mac;
use std::net::{IpAddr, Ipv4Addr};

impl Tracer {
    pub(super) fn address(&mut self, verb: Verb, facts: &AddressFacts) -> Told {
        let key = Key {
            owner: facts.index,
            name: Name::Address(facts.address, facts.prefix_len),
        };
        self.object(verb, key, facts.index, fields::address(facts))
    }

    pub(super) fn route(&mut self, verb: Verb, facts: &RouteFacts, flags: u16) -> Told {
        let single = match facts.hops.as_slice() {
            [hop] => hop.index,
            _ => None,
        };
        let mut key = Key {
            owner: single.unwrap_or(0),
            name: Name::Route {
                family: facts.family,
                table: facts.table,
                destination: facts.destination,
                prefix_len: facts.prefix_len,
                tos: facts.tos,
                priority: facts.priority,
            },
        };
        let index = key.owner;
        let flags = i32::from(flags);
        let v6 = i32::from(facts.family) == libc::AF_INET6;
        // The same route by another way: said by flag when it is replaced; IPv6 says "append" when one more hop makes a
        // multipath route of it. A removal may name another way than the one last told.
        let moves = match verb {
            Verb::Present => flags & libc::NLM_F_REPLACE != 0 || (v6 && flags & libc::NLM_F_APPEND != 0),
            Verb::Removed => true,
        };
        let mut before = None;
        if moves && !self.objects.contains_key(&key) {
            let elsewhere = self.devices.keys().copied().chain([0]).find(|owner| {
                self.objects.contains_key(&Key {
                    owner: *owner,
                    name: key.name.clone(),
                })
            });
            if let Some(owner) = elsewhere {
                let old = Key {
                    owner,
                    name: key.name.clone(),
                };
                match verb {
                    Verb::Present => before = self.objects.remove(&old),
                    Verb::Removed => key.owner = owner,
                }
            }
        }
        if let Some(before) = before {
            self.objects.insert(key.clone(), before);
        }
        self.object(verb, key, index, fields::route(facts))
    }

    pub(super) fn neighbour(&mut self, verb: Verb, facts: &NeighbourFacts) -> Told {
        let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        if i32::from(facts.family) != libc::AF_BRIDGE {
            let key = Key {
                owner: facts.index,
                name: Name::Neighbour(facts.address.unwrap_or(unspecified)),
            };
            return self.object(verb, key, facts.index, fields::neighbour(facts));
        }
        let mac = facts.mac.unwrap_or(Mac::ZERO);
        let several = mac.is_zero() || mac.is_multicast();
        let key = Key {
            owner: facts.master.unwrap_or(facts.index),
            name: Name::Fdb {
                mac,
                vlan: facts.vlan,
                vni: facts.vni,
                remote: facts.address.filter(|_| several),
            },
        };
        self.object(verb, key, facts.index, fields::fdb(facts))
    }

    fn object(&mut self, verb: Verb, key: Key, index: u32, facts: Facts) -> Told {
        let (object, family) = kind_of(&key.name);
        let shown = Some(key.name.to_string().into());
        let (word, diff) = match verb {
            Verb::Present => {
                if let Some(seen) = &mut self.seen {
                    seen.objects.insert(key.clone());
                }
                let old = self.objects.get(&key);
                let word = if old.is_some() { Word::Change } else { Word::New };
                let mut diff = self.diff(old.map_or(&[], Vec::as_slice), &facts);
                // On whose line the entry is shown is said already, unless it moved.
                if word == Word::New {
                    diff.retain(|change| change.field != "dev");
                }
                self.objects.insert(key, facts);
                (word, diff)
            }
            Verb::Removed => {
                self.objects.remove(&key);
                (Word::Gone, Vec::new())
            }
        };
        Told {
            word,
            object,
            family,
            index,
            key: shown,
            diff,
            left: None,
        }
    }
}
