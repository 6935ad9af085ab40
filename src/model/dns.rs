//! Names in a network's DNS.

use super::ids::InvalidValue;
use std::fmt;

/// A machine's name in DNS: one label of at most 63 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hostname(Box<str>);

impl Hostname {
    /// What is longer than a label may be is shortened as nova did: the first 2 characters, a dash, the last 60.
    pub fn new(text: &str) -> Result<Self, InvalidValue> {
        let bad = |problem| Err(InvalidValue::new("hostname", format_args!("{text:?}"), problem));
        if text.is_empty() || text.len() > 253 {
            return bad("empty or longer than 253 characters");
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return bad("not made of letters, digits and - only (the domain is the network's)");
        }
        if text.starts_with('-') || text.ends_with('-') {
            return bad("begun or ended by a dash");
        }
        Ok(Self(if text.len() > 63 {
            format!("{}-{}", &text[..2], &text[text.len() - 60..]).into()
        } else {
            text.into()
        }))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A DNS domain, without a dot at the end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Domain(Box<str>);

impl Domain {
    pub fn new(text: &str) -> Result<Self, InvalidValue> {
        let label = |l: &str| {
            !l.is_empty()
                && l.len() <= 63
                && l.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        if text.len() > 253 || !text.split('.').all(label) {
            return Err(InvalidValue::new(
                "domain",
                format_args!("{text:?}"),
                "not labels of letters, digits and - with dots between them",
            ));
        }
        Ok(Self(text.into()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostname_longer_than_a_label_is_shortened_as_nova_did() {
        let long = format!("ab{}", "c".repeat(70));
        let name = Hostname::new(&long).unwrap();
        assert_eq!(name.as_str().len(), 63);
        assert!(name.as_str().starts_with("ab-c"));
        assert_eq!(Hostname::new("web-1").unwrap().as_str(), "web-1");
        for bad in ["", "-a", "a-", "a.b", "a b", "ä"] {
            assert!(Hostname::new(bad).is_err(), "{bad}");
        }
    }
}
