//! `[policy.maps]`: tables from files for `host.map(name)`, read when a generation is built.

use super::error::Error;
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Larger tables belong into a source, not into a plugin's memory.
const MAX_BYTES: u64 = 1 << 20;

/// Reads all tables; all problems are reported.
pub fn read_all(paths: &BTreeMap<String, PathBuf>) -> Result<BTreeMap<String, Arc<Json>>, Vec<Error>> {
    let mut tables = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, path) in paths {
        match read(path) {
            Ok(table) => {
                tables.insert(name.clone(), Arc::new(table));
            }
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        Ok(tables)
    } else {
        Err(problems)
    }
}

/// JSON, TOML or CSV, by the file's ending. CSV becomes a list of rows by the first line's names, all text.
pub fn read(path: &Path) -> Result<Json, Error> {
    let unreadable = |cause| Error::Unreadable {
        path: path.to_owned(),
        cause,
    };
    let invalid = |problem: String| Error::Map {
        path: path.to_owned(),
        problem,
    };
    if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_BYTES {
        return Err(Error::TooLarge {
            path: path.to_owned(),
            limit_kib: MAX_BYTES >> 10,
        });
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    match path.extension().and_then(|e| e.to_str()) {
        Some("json") => serde_json::from_str(&text).map_err(|e| invalid(e.to_string())),
        Some("toml") => {
            let table: toml::Table = text
                .parse()
                .map_err(|e: toml::de::Error| invalid(e.to_string()))?;
            serde_json::to_value(table).map_err(|e| invalid(e.to_string()))
        }
        Some("csv") => csv(&text).map_err(invalid),
        _ => Err(invalid("its name must end in .json, .toml or .csv".into())),
    }
}

/// Comma-separated without quoting: addresses and names need none, and a quote is refused rather than misread.
fn csv(text: &str) -> Result<Json, String> {
    let mut lines = (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let Some((_, head)) = lines.next() else {
        return Ok(Json::Array(Vec::new()));
    };
    let names: Vec<_> = head.split(',').map(str::trim).collect();
    let mut rows = Vec::new();
    for (number, line) in lines {
        let fields: Vec<_> = line.split(',').map(str::trim).collect();
        if line.contains('"') {
            return Err(format!("line {number}: quotes are not supported"));
        }
        if fields.len() != names.len() {
            return Err(format!(
                "line {number}: {} fields, the first line has {}",
                fields.len(),
                names.len()
            ));
        }
        let row: Map<String, Json> = names
            .iter()
            .zip(fields)
            .map(|(name, field)| ((*name).to_owned(), Json::from(field)))
            .collect();
        rows.push(Json::Object(row));
    }
    Ok(Json::Array(rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_csv_table_is_a_list_of_rows_and_a_short_row_is_refused_with_its_line() {
        assert_eq!(
            csv("mac, dst\n# note\na, b\n").unwrap(),
            json!([{"mac": "a", "dst": "b"}])
        );
        assert_eq!(
            csv("mac,dst\na\n").unwrap_err(),
            "line 2: 1 fields, the first line has 2"
        );
    }
}
