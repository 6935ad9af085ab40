//! `[policy]`: where plugins are, and their settings as JSON values. What the settings mean is known in `policy/`.

use super::place::{Place, Sources};
use super::reader::Table;
use super::report::Findings;
use super::{PolicySettings, absolute};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::de::DeValue;

/// Where the keys of `[policy]` are written, for messages: "limits.mtu.deadline_ms" at "tapwire.toml:12:1".
#[derive(Debug, Clone, Default)]
pub struct KeyPlaces(BTreeMap<String, String>);

impl KeyPlaces {
    /// The place of a key, or of the table that it would be in.
    pub fn of(&self, path: &str) -> Option<&str> {
        let mut path = path;
        loop {
            if let Some(place) = self.0.get(path) {
                return Some(place);
            }
            path = path.rsplit_once('.')?.0;
        }
    }
}

/// A setting that moved to another line is the same setting.
impl PartialEq for KeyPlaces {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl PolicySettings {
    /// What plugins are made of: their files or directories, the `lib` beside them, the tables of `[policy.maps]`.
    pub fn files(&self) -> Vec<PathBuf> {
        let library = |path: &PathBuf| match path.is_dir() {
            true => Some(path.join("lib")),
            false => Some(path.parent()?.join("lib")),
        };
        let libraries = self.plugins.iter().filter_map(library).filter(|lib| lib.is_dir());
        let maps = self.settings.get("maps").and_then(serde_json::Value::as_object);
        let maps = maps.into_iter().flat_map(serde_json::Map::values);
        let maps = maps.filter_map(|path| Some(self.base.join(path.as_str()?)));
        let mut files: Vec<PathBuf> = self
            .plugins
            .iter()
            .cloned()
            .chain(libraries)
            .chain(maps)
            .collect();
        files.sort();
        files.dedup();
        files
    }
}

/// `[policy]`; `main` is the main file, whose directory plugins' data files are relative to.
pub(super) fn read(
    table: Option<Table<'_>>,
    plugin: Option<Table<'_>>,
    sources: &Sources,
    main: &Path,
    findings: &mut Findings,
) -> PolicySettings {
    let mut settings = PolicySettings {
        base: absolute(main.parent().unwrap_or(Path::new(""))),
        ..PolicySettings::default()
    };
    if let Some(mut t) = table {
        if let Some(list) = t.strings("plugins", "[\"plugins/mtu.lua\"]", findings) {
            let mut seen: BTreeMap<PathBuf, Place> = BTreeMap::new();
            for text in list.value {
                let directory = sources.path(text.place.file).parent().unwrap_or(Path::new(""));
                let shown = directory.join(&*text.value);
                let path = absolute(&shown);
                // Read once here only to point at the line; the policy loader meets a later disappearance itself.
                if let Err(error) = std::fs::metadata(&path) {
                    findings
                        .error(text.place, format!("no plugin at {}: {error}", shown.display()))
                        .hint("paths are relative to the file that names them; a file or a directory");
                } else if let Some(first) = seen.insert(path.clone(), text.place) {
                    findings
                        .error(text.place, format!("plugin {} is listed twice", shown.display()))
                        .hint("keep one of them: a plugin runs once for each tap")
                        .related(first, "it is first listed here");
                } else {
                    settings.plugins.push(path);
                }
            }
        }
        for item in t.take_rest() {
            note_places(
                &item.key,
                item.key_place,
                &item.value,
                sources,
                &mut settings.places,
            );
            if let Some(value) = json(&item.value, item.place, findings) {
                settings.settings.insert(item.key.into_owned(), value);
            }
        }
    }
    if let Some(mut t) = plugin {
        for item in t.take_rest() {
            let name = item.key.to_string();
            let place = item.place;
            let path = format!("plugin.{name}");
            note_places(&path, item.key_place, &item.value, sources, &mut settings.places);
            match json(&item.value, place, findings) {
                Some(value @ serde_json::Value::Object(_)) => {
                    settings.plugin.insert(name, value);
                }
                Some(_) => {
                    findings
                        .error(place, format!("the settings of plugin `{name}` must be a table"))
                        .hint(format!("write [policy.plugin.{name}] and its keys below it"));
                }
                None => {}
            }
        }
    }
    settings
}

/// Notes where a key and the keys of the tables in it are.
fn note_places(path: &str, place: Place, value: &DeValue<'_>, sources: &Sources, places: &mut KeyPlaces) {
    if let Some(at) = sources.position(place) {
        let text = format!("{}:{}:{}", at.path.display(), at.line, at.column);
        places.0.insert(path.to_owned(), text);
    }
    if let DeValue::Table(table) = value {
        for (key, value) in table {
            let place = Place::new(place.file, &key.span());
            note_places(
                &format!("{path}.{}", key.get_ref()),
                place,
                value.get_ref(),
                sources,
                places,
            );
        }
    }
}

/// A TOML value as JSON; what JSON can't say is reported at the place of the key's value.
fn json(value: &DeValue<'_>, place: Place, findings: &mut Findings) -> Option<serde_json::Value> {
    use serde_json::Value;
    Some(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(date) => Value::String(date.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(value) => Value::from(value),
            Err(_) => {
                findings
                    .error(place, format!("{number} is a number of more than 64 bits"))
                    .hint("write it as a string");
                return None;
            }
        },
        DeValue::Float(number) => match number
            .as_str()
            .parse()
            .ok()
            .and_then(serde_json::Number::from_f64)
        {
            Some(value) => Value::Number(value),
            None => {
                findings
                    .error(place, format!("{number} is not a finite number"))
                    .hint("plugins take finite numbers only");
                return None;
            }
        },
        DeValue::Array(array) => {
            let items = array
                .iter()
                .map(|item| json(item.get_ref(), Place::new(place.file, &item.span()), findings));
            // Every element is looked at, so that every mistake is reported.
            let items: Vec<Option<Value>> = items.collect();
            Value::Array(items.into_iter().collect::<Option<_>>()?)
        }
        DeValue::Table(table) => {
            let items = table.iter().map(|(key, item)| {
                let value = json(item.get_ref(), Place::new(place.file, &item.span()), findings)?;
                Some((key.get_ref().to_string(), value))
            });
            let items: Vec<Option<(String, Value)>> = items.collect();
            Value::Object(items.into_iter().collect::<Option<_>>()?)
        }
    })
}
