//! Puts the verdicts of a chain together.
//!
//! Rules (documented for authors in `plugins/README.md`): plugins count in configured order. A scalar that two plugins
//! set to the same value is fine; to different values it is a conflict, unless the later plugin lists the field in
//! `overrides`; on a conflict the earlier value stands and the conflict is reported. Lists are joined by key (a
//! forwarding entry's MAC, VLAN and VTEP; a neighbour's IP). `deny` and `defer` are vetoes: the first one stands, more of
//! them are no conflict. `resolve` is not merged: the first answer counts.

mod path;

use crate::policy::api::decision::{Decided, Decision, FdbRule, NeighbourRule, Verdict};
use crate::policy::api::{Conflict, Hook};
use crate::policy::shape::{IpText, MacText, OneOrMany, Setting, Whole};
pub use path::Path;
use serde::Serialize;
use std::collections::BTreeMap;

/// The state of one merge: who speaks, what was claimed by whom, who disagreed.
pub struct Merging<'a> {
    /// "plugin file:line" of the current plugin's statement about a field path.
    pub origin: &'a dyn Fn(&str) -> String,
    /// The current plugin's `overrides`.
    pub overrides: &'a [String],
    pub by: &'a mut BTreeMap<String, String>,
    pub conflicts: &'a mut Vec<Conflict>,
}

impl Merging<'_> {
    fn claim(&mut self, path: &Path<'_>) {
        let path = path.to_string();
        let origin = (self.origin)(&path);
        self.by.insert(path, origin);
    }
    /// May the current plugin replace what stands at `path`? Otherwise the conflict is noted.
    fn may_replace<T: Serialize>(&mut self, path: &Path<'_>, kept: &T, refused: &T) -> bool {
        let path = path.to_string();
        let covers = |entry: &String| {
            path == *entry
                || path
                    .strip_prefix(entry.as_str())
                    .is_some_and(|rest| rest.starts_with(['.', '[']))
        };
        if self.overrides.iter().any(covers) {
            return true;
        }
        let text = |value: &T| serde_json::to_string(value).unwrap_or_default();
        let earlier = self.by.get(&path).cloned().unwrap_or_default();
        self.conflicts.push(Conflict {
            kept: format!("{earlier} = {}", text(kept)),
            refused: format!("{} = {}", (self.origin)(&path), text(refused)),
            field: path,
        });
        false
    }
}

/// `path.field`, or `field` at the top.
pub fn join(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

/// Values that several plugins may speak about.
pub trait Merge {
    /// Notes the current plugin as the origin of everything set in `self`.
    fn claim(&self, path: &Path<'_>, merging: &mut Merging<'_>);
    /// Adds the current plugin's `other` to what stands.
    fn absorb(&mut self, other: &Self, path: &Path<'_>, merging: &mut Merging<'_>);
}

impl<T: Merge + Clone> Merge for Option<T> {
    fn claim(&self, path: &Path<'_>, merging: &mut Merging<'_>) {
        if let Some(value) = self {
            value.claim(path, merging);
        }
    }
    fn absorb(&mut self, other: &Self, path: &Path<'_>, merging: &mut Merging<'_>) {
        match (self.as_mut(), other) {
            (Some(mine), Some(theirs)) => mine.absorb(theirs, path, merging),
            (None, Some(theirs)) => {
                theirs.claim(path, merging);
                *self = Some(theirs.clone());
            }
            (_, None) => {}
        }
    }
}

fn merge_scalar<T: PartialEq + Clone + Serialize>(
    mine: &mut T,
    theirs: &T,
    path: &Path<'_>,
    merging: &mut Merging<'_>,
) {
    if mine != theirs && !path.is_veto() && merging.may_replace(path, mine, theirs) {
        *mine = theirs.clone();
        merging.claim(path);
    }
}

macro_rules! scalar_merge {
    ([$($param:tt)*] $ty:ty) => {
        impl<$($param)*> Merge for $ty {
            fn claim(&self, path: &Path<'_>, merging: &mut Merging<'_>) {
                merging.claim(path);
            }
            fn absorb(&mut self, other: &Self, path: &Path<'_>, merging: &mut Merging<'_>) {
                merge_scalar(self, other, path, merging);
            }
        }
    };
}
scalar_merge!([] bool);
scalar_merge!([] String);
scalar_merge!([] MacText);
scalar_merge!([] IpText);
scalar_merge!([] crate::policy::api::decision::FdbKind);
scalar_merge!([] crate::policy::api::context::NetworkType);
scalar_merge!([const MIN: i64, const MAX: i64] Whole<MIN, MAX>);
scalar_merge!([T: PartialEq + Clone + Serialize] Setting<T>);

/// List entries with an identity.
pub trait Keyed {
    /// As it is written in a field path: "fa:16:3e:00:00:05 192.0.2.7".
    fn key(&self) -> String;
}
impl Keyed for FdbRule {
    fn key(&self) -> String {
        let mut key = self.mac().to_string();
        if let Some(vlan) = self.vlan {
            key.push_str(&format!(" vlan {vlan}"));
        }
        if let Some(dst) = self.dst {
            key.push_str(&format!(" dst {dst}"));
        }
        key
    }
}
impl Keyed for NeighbourRule {
    fn key(&self) -> String {
        self.ip.map(|ip| ip.to_string()).unwrap_or_default()
    }
}
impl<const MIN: i64, const MAX: i64> Keyed for Whole<MIN, MAX> {
    fn key(&self) -> String {
        self.get().to_string()
    }
}
impl Keyed for String {
    fn key(&self) -> String {
        self.clone()
    }
}

impl<T: Keyed + PartialEq + Clone + Serialize> Merge for Vec<T> {
    fn claim(&self, path: &Path<'_>, merging: &mut Merging<'_>) {
        for entry in self {
            merging.claim(&Path::Entry(path, &entry.key()));
        }
    }
    fn absorb(&mut self, other: &Self, path: &Path<'_>, merging: &mut Merging<'_>) {
        if other.is_empty() {
            return;
        }
        // By key, so that joining two lists of a thousand entries is not a million comparisons.
        let mut places: std::collections::HashMap<String, usize> = self
            .iter()
            .enumerate()
            .map(|(place, entry)| (entry.key(), place))
            .collect();
        for theirs in other {
            let key = theirs.key();
            let at = Path::Entry(path, &key);
            match places.get(&key).and_then(|place| self.get_mut(*place)) {
                Some(mine) => merge_scalar(mine, theirs, &at, merging),
                None => {
                    merging.claim(&at);
                    places.insert(key, self.len());
                    self.push(theirs.clone());
                }
            }
        }
    }
}

impl<T: Clone> Merge for OneOrMany<T>
where
    Vec<T>: Merge,
{
    fn claim(&self, path: &Path<'_>, merging: &mut Merging<'_>) {
        self.0.claim(path, merging);
    }
    fn absorb(&mut self, other: &Self, path: &Path<'_>, merging: &mut Merging<'_>) {
        self.0.absorb(&other.0, path, merging);
    }
}

impl<T: Merge + Clone> Merge for BTreeMap<String, T> {
    fn claim(&self, path: &Path<'_>, merging: &mut Merging<'_>) {
        for (key, value) in self {
            value.claim(&Path::Field(path, key), merging);
        }
    }
    fn absorb(&mut self, other: &Self, path: &Path<'_>, merging: &mut Merging<'_>) {
        for (key, theirs) in other {
            let at = Path::Field(path, key);
            match self.get_mut(key) {
                Some(mine) => mine.absorb(theirs, &at, merging),
                None => {
                    theirs.claim(&at, merging);
                    self.insert(key.clone(), theirs.clone());
                }
            }
        }
    }
}

/// One plugin's statement, for `merge`.
pub struct Statement<'a> {
    pub verdict: &'a Verdict,
    pub overrides: &'a [String],
    pub origin: &'a dyn Fn(&str) -> String,
}

/// Merges the statements of a chain, in configured order.
pub fn merge<'a>(
    hook: Hook,
    statements: impl IntoIterator<Item = Statement<'a>>,
) -> (Decision, Vec<Conflict>) {
    let mut decision = Decision::none(hook);
    let mut conflicts = Vec::new();
    let mut answered = false;
    for statement in statements {
        if hook == Hook::Resolve && answered {
            break;
        }
        answered = true;
        match (&mut decision, statement.verdict) {
            (Decision::Resolve(d), Verdict::Resolve(v)) => add(d, v, &statement, &mut conflicts),
            (Decision::Network(d), Verdict::Network(v)) => add(d, v, &statement, &mut conflicts),
            (Decision::Port(d), Verdict::Port(v)) => add(d, v, &statement, &mut conflicts),
            (Decision::Admit(d), Verdict::Admit(v)) => add(d, v, &statement, &mut conflicts),
            (Decision::Observe(d), Verdict::Observe(v)) => add(d, v, &statement, &mut conflicts),
            // A verdict is decoded for the hook it answers, so the two always go together.
            _ => {}
        }
    }
    (decision, conflicts)
}

fn add<V: Merge>(
    into: &mut Decided<V>,
    verdict: &V,
    statement: &Statement<'_>,
    conflicts: &mut Vec<Conflict>,
) {
    let Decided {
        verdict: standing,
        by,
    } = into;
    standing.absorb(
        verdict,
        &Path::Top,
        &mut Merging {
            origin: statement.origin,
            overrides: statement.overrides,
            by,
            conflicts,
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    /// Merges the given returns of `port` hooks; the plugins are called a, b, c.
    fn port(returns: &[(Json, &[&str])]) -> (Json, Vec<Conflict>) {
        let verdicts: Vec<_> = returns
            .iter()
            .map(|(r, _)| Verdict::decode(Hook::Port, r.clone()).unwrap())
            .collect();
        let overrides: Vec<Vec<String>> = returns
            .iter()
            .map(|(_, o)| o.iter().map(|s| (*s).to_owned()).collect())
            .collect();
        let origins: Vec<_> = ["a", "b", "c"]
            .iter()
            .map(|name| move |field: &str| format!("{name} {name}.lua:{}", field.len()))
            .collect();
        let statements =
            verdicts
                .iter()
                .zip(&overrides)
                .zip(&origins)
                .map(|((verdict, overrides), origin)| Statement {
                    verdict,
                    overrides,
                    origin,
                });
        let (decision, conflicts) = merge(Hook::Port, statements);
        (
            crate::policy::without_nulls(serde_json::to_value(decision).unwrap()),
            conflicts,
        )
    }

    #[test]
    fn equal_scalars_agree_and_the_first_is_named() {
        let (decision, conflicts) = port(&[(json!({"mtu": 1400}), &[]), (json!({"mtu": 1400}), &[])]);
        assert_eq!(decision, json!({"mtu": 1400, "by": {"mtu": "a a.lua:3"}}));
        assert!(conflicts.is_empty());
    }

    #[test]
    fn different_scalars_are_a_conflict_and_the_earlier_one_stands() {
        let (decision, conflicts) = port(&[
            (json!({"port": {"learning": false}}), &[]),
            (json!({"port": {"learning": true, "isolated": true}}), &[]),
        ]);
        assert_eq!(decision["port"], json!({"learning": false, "isolated": true}));
        assert_eq!(
            conflicts,
            [Conflict {
                field: "port.learning".into(),
                kept: "a a.lua:13 = false".into(),
                refused: "b b.lua:13 = true".into(),
            }]
        );
    }

    #[test]
    fn a_later_plugin_replaces_what_its_overrides_list() {
        let (decision, conflicts) = port(&[
            (json!({"mtu": 1400, "port": {"flood": true}}), &[]),
            (json!({"mtu": 9000, "port": {"flood": false}}), &["mtu", "port"]),
        ]);
        assert_eq!(
            decision,
            json!({"mtu": 9000, "port": {"flood": false}, "by": {"mtu": "b b.lua:3", "port.flood": "b b.lua:10"}})
        );
        assert!(conflicts.is_empty());
    }

    #[test]
    fn forwarding_entries_are_joined_by_key() {
        let (decision, conflicts) = port(&[
            (json!({"fdb": [{"mac": "02:00:00:00:00:01"}]}), &[]),
            (
                json!({"fdb": [{"mac": "02:00:00:00:00:01"}, {"mac": "02:00:00:00:00:02"}]}),
                &[],
            ),
        ]);
        assert_eq!(decision["fdb"].as_array().unwrap().len(), 2);
        assert_eq!(decision["by"]["fdb[02:00:00:00:00:02]"], "b b.lua:22");
        assert!(conflicts.is_empty());
    }

    #[test]
    fn the_first_veto_stands_and_more_of_them_are_no_conflict() {
        let (decision, conflicts) = port(&[(json!({"deny": "one"}), &[]), (json!({"deny": "two"}), &[])]);
        assert_eq!(decision["deny"], "one");
        assert!(conflicts.is_empty());
    }

    #[test]
    fn tags_conflict_key_by_key() {
        let (decision, conflicts) = port(&[
            (json!({"tags": {"tier": "gold"}}), &[]),
            (json!({"tags": {"tier": "iron", "rack": "7"}}), &[]),
        ]);
        assert_eq!(decision["tags"], json!({"tier": "gold", "rack": "7"}));
        assert_eq!(conflicts.first().unwrap().field, "tags.tier");
    }

    #[test]
    fn resolve_takes_the_first_answer_whole() {
        let verdicts = [json!({"network": "blue"}), json!({"ignore": true})]
            .map(|r| Verdict::decode(Hook::Resolve, r).unwrap());
        let origin = |_: &str| String::from("x");
        let (decision, conflicts) = merge(
            Hook::Resolve,
            verdicts.iter().map(|verdict| Statement {
                verdict,
                overrides: &[],
                origin: &origin,
            }),
        );
        let Decision::Resolve(decided) = decision else {
            panic!("wrong hook")
        };
        assert_eq!(decided.verdict.network.as_deref(), Some("blue"));
        assert_eq!(decided.verdict.ignore, None);
        assert!(conflicts.is_empty());
    }
}
