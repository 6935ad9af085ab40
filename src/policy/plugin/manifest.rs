//! What a plugin says of itself: the data part of the table its file returns.

use super::options::OptionSpec;
use super::when::When;
use crate::policy::api::context::Part;
use crate::policy::api::decision::{NetworkVerdict, PortVerdict};
use crate::policy::api::{API, API_MIN, Hook};
use crate::policy::shape::{
    Decode, Field, Misshapen, Shape, Shaped, Whole, decoded_record, did_you_mean, words,
};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::time::Duration;

words! {
    /// What a failing `network` or `port` hook means when it never answered for that subject before.
    pub enum OnError {
        /// The port is denied (fail closed).
        Deny = "deny",
        /// As if the plugin had no opinion (fail open).
        Skip = "skip",
        /// The last good answer, and `deny` without one.
        LastGood = "last_good",
    }
}

decoded_record! {
    /// The table a plugin file returns, without its functions.
    pub struct Manifest {
        /// API version the plugin is written for: 1.
        pub api: Option<Whole<0, 1000000>>,
        /// Name; default: the file's name without `.lua` and a leading "NN-".
        pub name: Option<String>,
        /// Which questions reach it.
        pub when: Option<When>,
        /// What a failure means: "deny", "skip" or "last_good" (default).
        pub on_error: Option<OnError>,
        /// Fields in which it may replace what an earlier plugin said.
        pub overrides: Vec<String>,
        /// Its options, checked against `[policy.plugin.NAME]`.
        pub schema: BTreeMap<String, OptionSpec>,
        /// The parts of `ctx` its hooks read. Only these are given to it, and equal input is answered from memory.
        pub reads: Option<Vec<Part>>,
        /// Version of what it keeps in `host.state`.
        pub state_version: Option<Whole<0, 1000000>>,
        /// Period of `tick`: "30s", "5m".
        pub every: Option<String>,
    }
}

impl Manifest {
    /// Decodes and checks what does not depend on the host's configuration.
    pub fn read(value: Json, hooks: &[Hook]) -> Result<Self, Misshapen> {
        let manifest = Self::decode(value)?;
        match manifest.api {
            None => return Err(Misshapen::new(format!("missing; write `api = {API}`")).inside("api")),
            Some(api) if !(API_MIN..=API).contains(&api.get_u32()) => {
                let served = format!("version {api} is not served, this program serves {API_MIN} to {API}");
                return Err(Misshapen::new(served).inside("api"));
            }
            Some(_) => {}
        }
        if let Some(name) = &manifest.name {
            check_name(name).map_err(|e| e.inside("name"))?;
        }
        for (number, field) in (1..).zip(&manifest.overrides) {
            check_field(field).map_err(|e| e.inside(format_args!("overrides[{number}]")))?;
        }
        let every = manifest.every()?;
        match (every, hooks.contains(&Hook::Tick)) {
            (None, true) => Err(
                Misshapen::new("a plugin with `tick` needs it, for example every = \"30s\"").inside("every"),
            ),
            (Some(_), false) => Err(Misshapen::new("there is no `tick` hook").inside("every")),
            _ => Ok(manifest),
        }
    }

    /// Period of `tick`.
    pub fn every(&self) -> Result<Option<Duration>, Misshapen> {
        let Some(text) = &self.every else { return Ok(None) };
        let bad = || {
            Misshapen::new(format!(
                "{text:?} is not a period from 1s to 24h, like \"30s\" or \"5m\""
            ))
            .inside("every")
        };
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match text.get(digits.len()..) {
            Some("s") => 1,
            Some("m") => 60,
            Some("h") => 3600,
            _ => return Err(bad()),
        };
        let seconds = digits.parse::<u64>().map_err(|_| bad())?.saturating_mul(unit);
        if !(1..=86400).contains(&seconds) {
            return Err(bad());
        }
        Ok(Some(Duration::from_secs(seconds)))
    }
}

/// A field of a verdict that plugins may disagree about: "mtu", "port", "port.learning", "tags.rack".
fn check_field(text: &str) -> Result<(), Misshapen> {
    let path = text.split('[').next().unwrap_or_default();
    let mut known = Vec::new();
    for verdict in [PortVerdict::shape(), NetworkVerdict::shape()] {
        if let Shape::Record(_, fields) = verdict {
            fields.iter().for_each(|field| add_paths("", field, &mut known));
        }
    }
    let within = |name: &String| {
        path.strip_prefix(name.as_str())
            .is_some_and(|rest| rest.starts_with('.'))
    };
    let is_map = |name: &&String| name.as_str() == "tags";
    if known.iter().any(|name| name == path) || known.iter().filter(is_map).any(within) {
        return Ok(());
    }
    let hint = did_you_mean(path, known.iter().map(String::as_str));
    Err(Misshapen::new(format!("no hook returns a field `{text}`{hint}")))
}

fn add_paths(path: &str, field: &Field, out: &mut Vec<String>) {
    let path = crate::policy::merge::join(path, field.name);
    if let Shape::Record(_, fields) = &field.shape {
        fields.iter().for_each(|field| add_paths(&path, field, out));
    }
    out.push(path);
}

/// Names appear in configuration keys, metrics and file names.
pub fn check_name(name: &str) -> Result<(), Misshapen> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
        return Err(Misshapen::new(format!(
            "{name:?} is not 1 to 64 characters of A-Z a-z 0-9 _ -"
        )));
    }
    Ok(())
}

/// The default name of a plugin file: "10-mtu.lua" is "mtu".
pub fn name_from_stem(stem: &str) -> &str {
    let digits = stem.trim_start_matches(|c: char| c.is_ascii_digit());
    match digits.strip_prefix('-') {
        Some(rest) if digits.len() < stem.len() && !rest.is_empty() => rest,
        _ => stem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_plugin_for_another_api_is_refused() {
        let refused = |value| Manifest::read(value, &[Hook::Port]).unwrap_err().to_string();
        assert_eq!(refused(json!({})), "api: missing; write `api = 1`");
        assert_eq!(
            refused(json!({"api": 2})),
            "api: version 2 is not served, this program serves 1 to 1"
        );
        assert_eq!(
            refused(json!({"api": 1, "wen": {}})),
            "unknown field `wen`, did you mean `when`?"
        );
    }

    #[test]
    fn tick_and_every_go_together() {
        let read = |value, hooks: &[Hook]| Manifest::read(value, hooks).map_err(|e| e.to_string());
        assert!(read(json!({"api": 1, "every": "30s"}), &[Hook::Tick]).is_ok());
        assert!(
            read(json!({"api": 1}), &[Hook::Tick])
                .unwrap_err()
                .contains("every")
        );
        assert!(
            read(json!({"api": 1, "every": "0s"}), &[Hook::Tick])
                .unwrap_err()
                .contains("1s to 24h")
        );
        assert!(
            read(json!({"api": 1, "every": "5m"}), &[Hook::Port])
                .unwrap_err()
                .contains("no `tick`")
        );
    }

    #[test]
    fn a_leading_number_is_order_and_not_name() {
        assert_eq!(name_from_stem("10-mtu"), "mtu");
        assert_eq!(name_from_stem("mtu"), "mtu");
        assert_eq!(name_from_stem("10-"), "10-");
        assert_eq!(name_from_stem("-mtu"), "-mtu");
    }
}
