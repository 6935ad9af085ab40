//! `schema`: a plugin's own description of `[policy.plugin.NAME]`, and the check of the configured values.

use crate::policy::shape::{Misshapen, decoded_record, did_you_mean, show, type_word, words};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;

words! {
    /// The type of an option.
    pub enum OptionType {
        Boolean = "boolean",
        Integer = "integer",
        Number = "number",
        String = "string",
        /// A list of values.
        List = "list",
        /// A table with free keys.
        Table = "table",
    }
}

decoded_record! {
    /// One option of a plugin.
    pub struct OptionSpec {
        /// "boolean", "integer", "number", "string", "list" or "table".
        pub r#type: Option<OptionType>,
        /// Value when the configuration says nothing.
        pub default: Option<serde_json::Value>,
        /// Smallest number.
        pub min: Option<serde_json::Value>,
        /// Largest number.
        pub max: Option<serde_json::Value>,
        /// Words a string may be.
        pub one_of: Vec<String>,
        /// For people.
        pub doc: Option<String>,
        /// True: must be configured.
        pub required: Option<bool>,
    }
}

/// Checks the configured values and fills in the defaults.
pub fn configure(
    schema: &BTreeMap<String, OptionSpec>,
    configured: Option<&Json>,
) -> Result<Map<String, Json>, Vec<Misshapen>> {
    let mut problems = Vec::new();
    let mut out = Map::new();
    let empty = Map::new();
    let given = match configured {
        None => &empty,
        Some(Json::Object(map)) => map,
        // An empty Lua table in a test.
        Some(Json::Array(list)) if list.is_empty() => &empty,
        Some(other) => {
            return Err(vec![Misshapen::new(format!(
                "expected a table, found {}",
                type_word(other)
            ))]);
        }
    };
    for key in given.keys().filter(|key| !schema.contains_key(*key)) {
        let hint = did_you_mean(key, schema.keys().map(String::as_str));
        problems.push(Misshapen::new(format!("unknown option `{key}`{hint}")));
    }
    for (name, spec) in schema {
        let value = match given.get(name).or(spec.default.as_ref()) {
            Some(value) => value,
            None if spec.required == Some(true) => {
                problems.push(Misshapen::new("required, but not configured").inside(name));
                continue;
            }
            None => continue,
        };
        match check(spec, value) {
            Ok(value) => {
                out.insert(name.clone(), value);
            }
            Err(problem) => problems.push(problem.inside(name)),
        }
    }
    if problems.is_empty() {
        Ok(out)
    } else {
        Err(problems)
    }
}

fn check(spec: &OptionSpec, value: &Json) -> Result<Json, Misshapen> {
    let right = match spec.r#type {
        None => true,
        Some(OptionType::Boolean) => value.is_boolean(),
        Some(OptionType::Integer) => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        Some(OptionType::Number) => value.is_number(),
        Some(OptionType::String) => value.is_string(),
        Some(OptionType::List) => value.is_array(),
        // An empty Lua table is lifted as an empty list.
        Some(OptionType::Table) => value.is_object() || value.as_array().is_some_and(Vec::is_empty),
    };
    if !right {
        let wanted = spec.r#type.map_or("", OptionType::word);
        return Err(Misshapen::new(format!(
            "expected {wanted}, found {} {}",
            type_word(value),
            show(value)
        )));
    }
    if let Some(number) = value.as_f64() {
        let bound = |limit: &Option<Json>| limit.as_ref().and_then(Json::as_f64);
        if bound(&spec.min).is_some_and(|min| number < min)
            || bound(&spec.max).is_some_and(|max| number > max)
        {
            let side = |limit: &Option<Json>| limit.as_ref().map(show).unwrap_or_default();
            return Err(Misshapen::new(format!(
                "{} is outside {}..{}",
                show(value),
                side(&spec.min),
                side(&spec.max)
            )));
        }
    }
    if let Some(word) = value.as_str()
        && !spec.one_of.is_empty()
        && !spec.one_of.iter().any(|allowed| allowed == word)
    {
        let hint = did_you_mean(word, spec.one_of.iter().map(String::as_str));
        return Err(Misshapen::new(format!(
            "`{word}` is not one of {}{hint}",
            spec.one_of.join(", ")
        )));
    }
    Ok(value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::shape::Decode;
    use serde_json::json;

    fn schema() -> BTreeMap<String, OptionSpec> {
        BTreeMap::decode(json!({
            "headroom": {"type": "integer", "default": 50, "min": 0, "max": 200},
            "mode": {"type": "string", "one_of": ["strict", "lax"]},
        }))
        .unwrap()
    }

    fn problem(configured: Json) -> String {
        configure(&schema(), Some(&configured))
            .unwrap_err()
            .remove(0)
            .to_string()
    }

    #[test]
    fn defaults_fill_what_the_configuration_leaves_out() {
        assert_eq!(
            configure(&schema(), None).unwrap(),
            *json!({"headroom": 50}).as_object().unwrap()
        );
    }

    #[test]
    fn a_wrong_option_is_refused_with_its_name_and_bounds() {
        assert_eq!(
            problem(json!({"headrom": 1})),
            "unknown option `headrom`, did you mean `headroom`?"
        );
        assert_eq!(
            problem(json!({"headroom": 201})),
            "headroom: 201 is outside 0..200"
        );
        assert_eq!(
            problem(json!({"headroom": "a"})),
            "headroom: expected integer, found string \"a\""
        );
        assert_eq!(
            problem(json!({"mode": "strct"})),
            "mode: `strct` is not one of strict, lax, did you mean `strict`?"
        );
    }
}
