//! The `[policy]` keys beyond `plugins` and `plugin`: limits, failure policy, tables, state.

use super::plugin::manifest::OnError;
use super::shape::{Decode, Misshapen, Whole, decoded_record};
use crate::config::{KeyPlaces, PolicySettings};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

decoded_record! {
    /// Limits and failure policy; `[policy]` sets them for all plugins, `[policy.limits.NAME]` for one.
    pub struct PluginSettings {
        /// CPU milliseconds a call may take; default 20.
        pub deadline_ms: Option<Whole<1, 10000>>,
        /// Milliseconds of wall time after which the thread of a call that does not stop is abandoned; default 500. Ten
        /// times as long if the thread got no processor time.
        pub abandon_ms: Option<Whole<10, 60000>>,
        /// MiB a plugin may use; default 16.
        pub memory_mib: Option<Whole<2, 1024>>,
        /// Start without the plugin when it can't be loaded? Default: true, refuse to start.
        pub required: Option<bool>,
        /// Replaces the plugin's own `on_error`.
        pub on_error: Option<OnError>,
    }
}

decoded_record! {
    /// `[policy]` without `plugins` and `plugin`.
    pub struct RawSettings {
        pub deadline_ms: Option<Whole<1, 10000>>,
        pub abandon_ms: Option<Whole<10, 60000>>,
        pub memory_mib: Option<Whole<2, 1024>>,
        pub required: Option<bool>,
        pub on_error: Option<OnError>,
        /// The above for one plugin, by name.
        pub limits: BTreeMap<String, PluginSettings>,
        /// Tables for `host.map(name)`: files (JSON, TOML or CSV), relative to the configuration.
        pub maps: BTreeMap<String, String>,
        /// Facts about this host for `ctx.host.labels`; read by the daemon.
        pub labels: BTreeMap<String, String>,
        /// Directory where `host.state` is kept; absent: in memory only.
        pub state: Option<String>,
        /// Read the plugins again when one of their files changes; default: only on reload. For the daemon.
        pub watch: Option<bool>,
    }
}

/// Limits of one plugin, resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// CPU time of the thread, so that a busy machine does not punish an innocent plugin.
    pub deadline: Duration,
    /// Wall time.
    pub abandon: Duration,
    /// Bytes.
    pub memory: usize,
    pub required: bool,
    pub on_error: Option<OnError>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_millis(20),
            abandon: Duration::from_millis(500),
            memory: 16 << 20,
            required: true,
            on_error: None,
        }
    }
}

/// All settings, checked.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    defaults: PluginSettings,
    limits: BTreeMap<String, PluginSettings>,
    /// Absolute paths.
    pub maps: BTreeMap<String, PathBuf>,
    pub state_directory: Option<PathBuf>,
    /// `[policy.plugin.NAME]`.
    pub options: BTreeMap<String, Json>,
    pub places: KeyPlaces,
}

fn single(key: &str, value: Json) -> Json {
    Json::Object(Map::from_iter([(key.to_owned(), value)]))
}

impl Settings {
    /// What is right of them, and every mistake in the rest.
    pub fn read(config: &PolicySettings) -> (Self, Vec<Misshapen>) {
        let (mut right, mut mistakes) = (Map::new(), Vec::new());
        for (key, value) in &config.settings {
            let check = |value: Json| RawSettings::decode(single(key, value)).map(|_| ());
            match value {
                // One by one, so that one mistake does not hide another.
                Json::Object(table) if RawSettings::FIELDS.contains(&key.as_str()) => {
                    let mut kept = Map::new();
                    for (name, value) in table {
                        let parts = match value {
                            Json::Object(inner) if key == "limits" => {
                                let good = inner.iter().filter(|(field, value)| {
                                    let one = single(field, (*value).clone());
                                    check(single(name, one)).map_err(|e| mistakes.push(e)).is_ok()
                                });
                                Json::Object(good.map(|(k, v)| (k.clone(), v.clone())).collect())
                            }
                            other => match check(single(name, other.clone())) {
                                Ok(()) => other.clone(),
                                Err(mistake) => {
                                    mistakes.push(mistake);
                                    continue;
                                }
                            },
                        };
                        kept.insert(name.clone(), parts);
                    }
                    match check(Json::Object(kept.clone())) {
                        Ok(()) => drop(right.insert(key.clone(), Json::Object(kept))),
                        Err(mistake) => mistakes.push(mistake),
                    }
                }
                other => match check(other.clone()) {
                    Ok(()) => drop(right.insert(key.clone(), other.clone())),
                    Err(mistake) => mistakes.push(mistake),
                },
            }
        }
        let raw = match RawSettings::decode(Json::Object(right)) {
            Ok(raw) => raw,
            Err(mistake) => {
                mistakes.push(mistake);
                return (Self::default(), mistakes);
            }
        };
        let settings = Self {
            defaults: PluginSettings {
                deadline_ms: raw.deadline_ms,
                abandon_ms: raw.abandon_ms,
                memory_mib: raw.memory_mib,
                required: raw.required,
                on_error: raw.on_error,
            },
            limits: raw.limits,
            maps: raw
                .maps
                .into_iter()
                .map(|(name, path)| (name, config.base.join(path)))
                .collect(),
            state_directory: raw.state.map(|path| config.base.join(path)),
            options: config.plugin.clone(),
            places: config.places.clone(),
        };
        (settings, mistakes)
    }

    /// Names that have limits of their own.
    pub fn limited(&self) -> impl Iterator<Item = &String> {
        self.limits.keys()
    }

    pub fn limits(&self, plugin: &str) -> Limits {
        let own = self.limits.get(plugin);
        let pick =
            |get: fn(&PluginSettings) -> Option<i64>| own.and_then(get).or_else(|| get(&self.defaults));
        let millis = |value: Option<i64>, default: Duration| {
            value
                .and_then(|ms| u64::try_from(ms).ok())
                .map_or(default, Duration::from_millis)
        };
        let standard = Limits::default();
        Limits {
            deadline: millis(pick(|s| s.deadline_ms.map(Whole::get)), standard.deadline),
            abandon: millis(pick(|s| s.abandon_ms.map(Whole::get)), standard.abandon),
            memory: pick(|s| s.memory_mib.map(Whole::get))
                .and_then(|mib| usize::try_from(mib).ok())
                .map_or(standard.memory, |mib| mib << 20),
            required: own
                .and_then(|s| s.required)
                .or(self.defaults.required)
                .unwrap_or(standard.required),
            on_error: own.and_then(|s| s.on_error).or(self.defaults.on_error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(settings: Json) -> Result<Settings, String> {
        let Json::Object(settings) = settings else {
            panic!("not a table")
        };
        let (settings, mistakes) = Settings::read(&PolicySettings {
            settings,
            base: "/etc/tapwire".into(),
            ..PolicySettings::default()
        });
        match mistakes.is_empty() {
            true => Ok(settings),
            false => Err(mistakes
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n")),
        }
    }

    #[test]
    fn every_mistake_is_told_and_what_is_right_counts() {
        assert_eq!(
            read(json!({
                "deadline_ms": 0, "memory_mib": 0, "dedline_ms": 5, "maps": {"a": 5, "b": "b.csv"}, "on_error": "deni",
                "limits": {"mtu": {"deadlin_ms": 5, "abandon_ms": 1, "memory_mib": 16}, "x": 5},
            }))
            .unwrap_err(),
            "deadline_ms: 0 is outside 1..10000\n\
             unknown field `dedline_ms`, did you mean `deadline_ms`?\n\
             limits.mtu.abandon_ms: 1 is outside 10..60000\n\
             limits.mtu: unknown field `deadlin_ms`, did you mean `deadline_ms`?\n\
             limits.x: expected a table with keys, found number 5\n\
             maps.a: expected a string, found number 5\n\
             memory_mib: 0 is outside 2..1024\n\
             on_error: `deni` is not one of deny, skip, last_good, did you mean `deny`?"
        );
    }

    #[test]
    fn one_plugin_can_have_its_own_limits() {
        let settings = read(json!({
            "deadline_ms": 5, "limits": {"slow": {"deadline_ms": 50, "required": false, "on_error": "skip"}},
            "maps": {"vteps": "vteps.json"},
        }))
        .unwrap();
        assert_eq!(settings.limits("mtu").deadline, Duration::from_millis(5));
        assert_eq!(settings.limits("slow").deadline, Duration::from_millis(50));
        assert!(!settings.limits("slow").required);
        assert_eq!(settings.limits("slow").on_error, Some(OnError::Skip));
        assert_eq!(settings.maps["vteps"], PathBuf::from("/etc/tapwire/vteps.json"));
    }

    #[test]
    fn an_unknown_or_absurd_setting_is_refused() {
        assert_eq!(
            read(json!({"dedline_ms": 5})).unwrap_err(),
            "unknown field `dedline_ms`, did you mean `deadline_ms`?"
        );
        assert_eq!(
            read(json!({"memory_mib": 0})).unwrap_err(),
            "memory_mib: 0 is outside 2..1024"
        );
    }
}
