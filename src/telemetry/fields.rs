//! The fields of a `tracing` event or span, collected for whoever writes them elsewhere than to stderr.

use serde_json::Value;
use std::fmt::{Debug, Display, Write as _};
use tracing::field::{Field, Visit};

/// In the order they were recorded; a field recorded again is replaced.
#[derive(Debug, Clone, Default)]
pub struct Fields(pub Vec<(&'static str, Value)>);

impl Fields {
    #[cfg(feature = "otlp")]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, v)| v)
    }

    #[cfg(feature = "otlp")]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.as_u64()
    }

    /// Takes a field out.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.remove(at).1)
    }

    fn put(&mut self, field: &Field, value: Value) {
        match self.0.iter_mut().find(|(known, _)| *known == field.name()) {
            Some((_, old)) => *old = value,
            None => self.0.push((field.name(), value)),
        }
    }
}

/// `name=value` pairs with blanks between; texts without quotes.
impl Display for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (nth, (name, value)) in self.0.iter().enumerate() {
            if nth > 0 {
                f.write_char(' ')?;
            }
            match value {
                Value::String(text) => write!(f, "{name}={text}")?,
                other => write!(f, "{name}={other}")?,
            }
        }
        Ok(())
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}
