//! Reads TOML tables key by key: types are checked, wrong ones are reported with their place, and what nobody asked
//! for is an unknown key.
//!
//! A reader never stops at the first mistake: a value that does not fit is reported and then treated as absent, so
//! whoever needs it must not report its absence again (`has` before taking tells).

use super::place::{At, FileId, Place};
use super::report::Findings;
use super::suggest;
use crate::model::InvalidValue;
use std::borrow::Cow;
use toml::de::{DeTable, DeValue};

/// One `key = value`, with the places of both.
#[derive(Debug)]
pub(super) struct Item<'i> {
    pub key: Cow<'i, str>,
    pub key_place: Place,
    pub place: Place,
    pub value: DeValue<'i>,
}

/// A table that is being read. `finish` must be called, or unknown keys pass.
#[derive(Debug)]
pub(super) struct Table<'i> {
    /// For messages: "[daemon]".
    name: Cow<'static, str>,
    /// The header.
    pub place: Place,
    items: Vec<Item<'i>>,
    /// Every key asked for so far.
    known: Vec<&'static str>,
}

/// Why a string is not what it should be, and what to write instead.
#[derive(Debug)]
pub(super) struct Refusal {
    pub message: String,
    pub hint: Option<String>,
}

impl Refusal {
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: Some(hint.into()),
        }
    }
}

impl Refusal {
    pub fn report(self, place: Place, key: &str, example: &str, findings: &mut Findings) {
        let hint = self
            .hint
            .unwrap_or_else(|| format!("for example {key} = {example}"));
        findings.error(place, self.message).hint(hint);
    }
}

impl From<InvalidValue> for Refusal {
    fn from(error: InvalidValue) -> Self {
        Self {
            message: error.to_string(),
            hint: None,
        }
    }
}

impl<'i> Table<'i> {
    pub fn new(name: impl Into<Cow<'static, str>>, file: FileId, place: Place, table: DeTable<'i>) -> Self {
        let items = table.into_iter().map(|(key, value)| {
            let (key_span, span) = (key.span(), value.span());
            Item {
                key: key.into_inner(),
                key_place: Place::new(file, &key_span),
                place: Place::new(file, &span),
                value: value.into_inner(),
            }
        });
        Self {
            name: name.into(),
            place,
            items: items.collect(),
            known: Vec::new(),
        }
    }

    /// Adds the keys of the same table in another file; a key in both is a mistake that names both.
    pub fn merge(&mut self, other: Table<'i>, findings: &mut Findings) {
        for item in other.items {
            match self.items.iter().find(|mine| mine.key == item.key) {
                Some(mine) => {
                    findings
                        .error(
                            item.key_place,
                            format!("`{}` of {} is set twice", item.key, self.name),
                        )
                        .hint(
                            "keep one of them: included files add to the main file, they do not override it",
                        )
                        .related(mine.key_place, "it is first set here");
                }
                None => self.items.push(item),
            }
        }
    }

    /// Whether the key is there at all, right or wrong.
    pub fn has(&self, key: &str) -> bool {
        self.items.iter().any(|item| item.key == key)
    }

    pub fn take(&mut self, key: &'static str) -> Option<Item<'i>> {
        self.known.push(key);
        let index = self.items.iter().position(|item| item.key == key)?;
        Some(self.items.swap_remove(index))
    }

    /// Everything that was not taken: for tables whose keys are the user's own.
    pub fn take_rest(&mut self) -> Vec<Item<'i>> {
        let mut rest = std::mem::take(&mut self.items);
        rest.sort_by_key(|item| item.key_place);
        rest
    }

    pub fn boolean(&mut self, key: &'static str, findings: &mut Findings) -> Option<At<bool>> {
        let item = self.take(key)?;
        match item.value {
            DeValue::Boolean(value) => Some(At {
                value,
                place: item.place,
            }),
            _ => {
                let hint = match &item.value {
                    DeValue::String(text) if text == "true" || text == "false" => {
                        format!("leave the quotes out: {key} = {text}")
                    }
                    _ => format!("write {key} = true or {key} = false"),
                };
                item.wrong_type("true or false", findings, hint);
                None
            }
        }
    }

    pub fn string(
        &mut self,
        key: &'static str,
        example: &str,
        findings: &mut Findings,
    ) -> Option<At<Cow<'i, str>>> {
        let item = self.take(key)?;
        item.string(example, findings)
    }

    /// A string that `parse` understands.
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        example: &str,
        findings: &mut Findings,
        parse: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Option<At<T>> {
        let text = self.string(key, example, findings)?;
        text.parse(key, example, findings, parse)
    }

    /// An integer that `convert` accepts; numbers beyond 64 bits are refused here.
    pub fn integer<T>(
        &mut self,
        key: &'static str,
        example: &str,
        findings: &mut Findings,
        convert: impl FnOnce(i64) -> Result<T, Refusal>,
    ) -> Option<At<T>> {
        let item = self.take(key)?;
        let DeValue::Integer(number) = &item.value else {
            let hint = match &item.value {
                DeValue::String(text) if text.parse::<i64>().is_ok() => {
                    format!("leave the quotes out: {key} = {text}")
                }
                _ => format!("write {key} = {example}"),
            };
            item.wrong_type("an integer", findings, hint);
            return None;
        };
        let value = i64::from_str_radix(number.as_str(), number.radix())
            .map_err(|_| {
                Refusal::new(
                    format!("`{key}` is a number of more than 64 bits"),
                    format!("write {key} = {example}"),
                )
            })
            .and_then(convert);
        match value {
            Ok(value) => Some(At {
                value,
                place: item.place,
            }),
            Err(refusal) => {
                refusal.report(item.place, key, example, findings);
                None
            }
        }
    }

    /// A list of strings, each with its place. A wrong element is reported and left out.
    pub fn strings(
        &mut self,
        key: &'static str,
        example: &str,
        findings: &mut Findings,
    ) -> Option<At<Vec<At<Cow<'i, str>>>>> {
        let item = self.take(key)?;
        let file = item.place.file;
        let hint = match &item.value {
            DeValue::String(text) => format!("put it into brackets: {key} = [{text:?}]"),
            _ => format!("write {key} = {example}"),
        };
        let place = item.place;
        let DeValue::Array(array) = item.value else {
            item.wrong_type("a list of strings", findings, hint);
            return None;
        };
        let mut value = Vec::with_capacity(array.len());
        for element in array {
            let place = Place::new(file, &element.span());
            match element.into_inner() {
                DeValue::String(value_text) => value.push(At {
                    value: value_text,
                    place,
                }),
                other => {
                    findings
                        .error(
                            place,
                            format!("`{key}` holds strings, this is {}", described(&other)),
                        )
                        .hint(format!("for example {key} = {example}"));
                }
            }
        }
        Some(At { value, place })
    }

    /// `[[key]]`: tables in a list; written as one `[key]` it is a mistake with the obvious remedy.
    pub fn tables(
        &mut self,
        key: &'static str,
        name: &'static str,
        findings: &mut Findings,
    ) -> Vec<Table<'i>> {
        let Some(item) = self.take(key) else {
            return Vec::new();
        };
        let file = item.place.file;
        let DeValue::Array(array) = item.value else {
            item.wrong_type(
                "a list of tables",
                findings,
                format!("write {name}, with two brackets"),
            );
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(array.len());
        for element in array {
            let place = Place::new(file, &element.span());
            match element.into_inner() {
                DeValue::Table(table) => tables.push(Table::new(name, file, place, table)),
                other => {
                    findings
                        .error(
                            place,
                            format!("`{key}` holds tables, this is {}", described(&other)),
                        )
                        .hint(format!("write {name} and its keys below it"));
                }
            }
        }
        tables
    }

    /// `[key]`.
    pub fn table(
        &mut self,
        key: &'static str,
        name: &'static str,
        findings: &mut Findings,
    ) -> Option<Table<'i>> {
        let item = self.take(key)?;
        let hint = format!("write {name} and its keys below it");
        item.into_table(name, hint, findings)
    }

    /// Reports that a key is missing, at the header.
    pub fn missing(&mut self, key: &'static str, hint: impl Into<String>, findings: &mut Findings) {
        self.known.push(key);
        findings
            .error(self.place, format!("{} has no `{key}`", self.name))
            .hint(hint);
    }

    /// Whatever was not asked for is unknown.
    pub fn finish(mut self, findings: &mut Findings) {
        for item in self.take_rest() {
            let hint = match (
                suggest::nearest(findings, &item.key, self.known.iter().copied()),
                suggest::foreign_key(&item.key),
            ) {
                (Some(near), _) => format!("did you mean `{near}`?"),
                (None, Some(text)) => text.to_owned(),
                (None, None) => format!("known here: {}", suggest::list(self.known.iter().copied())),
            };
            findings
                .error(
                    item.key_place,
                    format!("unknown key `{}` in {}", item.key, self.name),
                )
                .hint(hint);
        }
    }
}

impl<'i> Item<'i> {
    pub fn string(self, example: &str, findings: &mut Findings) -> Option<At<Cow<'i, str>>> {
        let place = self.place;
        match self.value {
            DeValue::String(value) => Some(At { value, place }),
            _ => {
                let hint = match &self.value {
                    DeValue::Integer(_) | DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Boolean(_) => {
                        format!("in quotes, for example {} = {example}", self.key)
                    }
                    _ => format!("for example {} = {example}", self.key),
                };
                self.wrong_type("a string", findings, hint);
                None
            }
        }
    }

    pub fn into_table(
        self,
        name: impl Into<Cow<'static, str>>,
        hint: impl Into<String>,
        findings: &mut Findings,
    ) -> Option<Table<'i>> {
        match self.value {
            DeValue::Table(table) => Some(Table::new(name, self.place.file, self.place, table)),
            _ => {
                self.wrong_type("a table", findings, hint);
                None
            }
        }
    }

    fn wrong_type(&self, wanted: &str, findings: &mut Findings, hint: impl Into<String>) {
        findings
            .error(
                self.place,
                format!("`{}` must be {wanted}, not {}", self.key, described(&self.value)),
            )
            .hint(hint);
    }
}

/// A value's type, with its article.
fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

impl At<Cow<'_, str>> {
    /// Reports what `parse` refuses at this place.
    pub fn parse<T>(
        &self,
        key: &str,
        example: &str,
        findings: &mut Findings,
        parse: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Option<At<T>> {
        match parse(&self.value) {
            Ok(value) => Some(At {
                value,
                place: self.place,
            }),
            Err(refusal) => {
                refusal.report(self.place, key, example, findings);
                None
            }
        }
    }
}
