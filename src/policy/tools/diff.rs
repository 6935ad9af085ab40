//! Differences between two JSON values, one line per place.

use serde_json::Value as Json;

/// In a wanted value: `{["$match"] = "text"}` accepts any string that contains the text.
pub const MATCH: &str = "$match";

/// Lines such as "mtu: want 8950, got 9000"; none if `got` is what is wanted.
pub fn diff(want: &Json, got: &Json) -> Vec<String> {
    let mut lines = Vec::new();
    walk("", want, got, &mut lines);
    lines
}

fn walk(path: &str, want: &Json, got: &Json, lines: &mut Vec<String>) {
    let at = if path.is_empty() { "answer" } else { path };
    match (want, got) {
        (Json::Object(marker), got) if marker.contains_key(MATCH) => {
            let text = marker.get(MATCH).and_then(Json::as_str).unwrap_or_default();
            if !got.as_str().is_some_and(|got| got.contains(text)) {
                lines.push(format!("{at}: want a text with {text:?}, got {}", shown(got)));
            }
        }
        (Json::Object(want), Json::Object(got)) => {
            for (key, want) in want {
                let inner = join(path, key);
                match got.get(key) {
                    Some(got) => walk(&inner, want, got, lines),
                    None => lines.push(format!("{inner}: want {}, got nothing", shown(want))),
                }
            }
            for (key, got) in got.iter().filter(|(key, _)| !want.contains_key(*key)) {
                lines.push(format!("{}: want nothing, got {}", join(path, key), shown(got)));
            }
        }
        (Json::Array(want), Json::Array(got)) => {
            for i in 0..want.len().max(got.len()) {
                let inner = format!("{path}[{}]", i + 1);
                match (want.get(i), got.get(i)) {
                    (Some(want), Some(got)) => walk(&inner, want, got, lines),
                    (Some(want), None) => lines.push(format!("{inner}: want {}, got nothing", shown(want))),
                    (None, Some(got)) => lines.push(format!("{inner}: want nothing, got {}", shown(got))),
                    (None, None) => {}
                }
            }
        }
        (Json::Number(a), Json::Number(b)) if a.as_f64() == b.as_f64() => {}
        (want, got) if want == got => {}
        (want, got) => lines.push(format!("{at}: want {}, got {}", shown(want), shown(got))),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn shown(value: &Json) -> String {
    match value {
        Json::Null => "nothing".to_owned(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_place_that_differs_is_one_line() {
        assert_eq!(
            diff(
                &json!({"mtu": 1, "deny": {"$match": "mac"}, "a": [1, 2]}),
                &json!({"mtu": 2, "deny": "bad mac", "a": [1], "x": true})
            ),
            [
                "a[2]: want 2, got nothing",
                "mtu: want 1, got 2",
                "x: want nothing, got true"
            ]
        );
    }
}
