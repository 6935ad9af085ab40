//! Interface names, as the kernel compares them: bytes, at most 15.

use super::ids::InvalidValue;
use std::fmt;

/// An interface name (`IFNAMSIZ` 16 with the terminating zero). Bytes, not text: the kernel accepts any byte but
/// `/`, `:` and white space (`dev_valid_name`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkName {
    bytes: [u8; 15],
    len: u8,
}

impl LinkName {
    pub const MAX: usize = 15;

    pub fn new(text: &str) -> Result<Self, InvalidValue> {
        Self::from_bytes(text.as_bytes())
    }

    pub fn from_bytes(raw: &[u8]) -> Result<Self, InvalidValue> {
        let bad = |problem| {
            InvalidValue::new(
                "interface name",
                format_args!("{:?}", String::from_utf8_lossy(raw)),
                problem,
            )
        };
        if raw.is_empty() {
            return Err(bad("empty"));
        }
        if raw.len() > Self::MAX {
            return Err(bad("longer than 15 bytes"));
        }
        if raw == b"." || raw == b".." {
            return Err(bad("not a name the kernel takes"));
        }
        if raw
            .iter()
            .any(|b| matches!(b, b'/' | b':' | 0) || b.is_ascii_whitespace() || *b == 0x0b)
        {
            return Err(bad("not a name the kernel takes: no '/', ':' or white space"));
        }
        let mut bytes = [0; 15];
        bytes[..raw.len()].copy_from_slice(raw);
        Ok(Self {
            bytes,
            len: raw.len() as u8,
        })
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
    /// For messages and requests; the rare name that is not UTF-8 shows replacement characters.
    pub fn to_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.as_bytes())
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_text())
    }
}

impl fmt::Debug for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A shell-like name pattern: `*` any run of bytes, `?` one byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamePattern(Box<str>);

impl NamePattern {
    pub fn new(text: &str) -> Result<Self, InvalidValue> {
        let bad = |problem| InvalidValue::new("name pattern", format_args!("{text:?}"), problem);
        if text.is_empty() {
            return Err(bad("empty"));
        }
        if text.bytes().filter(|b| *b != b'*').count() > LinkName::MAX {
            return Err(bad("longer than any interface name (15 bytes)"));
        }
        if text.contains(['[', ']', '{', '}']) {
            return Err(bad("only * and ? are special; [ ] { } are not supported"));
        }
        if text
            .bytes()
            .any(|b| matches!(b, b'/' | b':' | 0) || b.is_ascii_whitespace())
        {
            return Err(bad("never matching: names have no '/', ':' or white space"));
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one name it matches, if it has no wildcard.
    pub fn exact(&self) -> Option<LinkName> {
        if self.0.contains(['*', '?']) {
            None
        } else {
            LinkName::new(&self.0).ok()
        }
    }

    pub fn matches(&self, name: &LinkName) -> bool {
        matches_bytes(self.0.as_bytes(), name.as_bytes())
    }

    /// Is there an interface name that both match?
    pub fn overlaps(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.collapsed(), other.collapsed());
        // Length of the shortest text that matches what is left of ours from `i` on and what is left of theirs from `j`
        // on, for the row of `i` and the row below.
        let too_long = LinkName::MAX + 1;
        let mut below = vec![too_long; theirs.len() + 1];
        for i in (0..=ours.len()).rev() {
            let mut row = vec![too_long; theirs.len() + 1];
            for j in (0..=theirs.len()).rev() {
                row[j] = match (ours.get(i), theirs.get(j)) {
                    (None, None) => 0,
                    (Some(b'*'), Some(b'*')) => below[j].min(row[j + 1]),
                    (Some(b'*'), Some(_)) => below[j].min(row[j + 1] + 1),
                    (Some(b'*'), None) => below[j],
                    (Some(_), Some(b'*')) => row[j + 1].min(below[j] + 1),
                    (None, Some(b'*')) => row[j + 1],
                    (Some(a), Some(b)) if a == b || *a == b'?' || *b == b'?' => below[j + 1] + 1,
                    _ => too_long,
                }
                .min(too_long);
            }
            below = row;
        }
        below[0] <= LinkName::MAX
    }

    /// Several stars in a row mean what one means.
    fn collapsed(&self) -> Vec<u8> {
        let mut bytes = self.0.as_bytes().to_vec();
        bytes.dedup_by(|a, b| *a == b'*' && *b == b'*');
        bytes
    }
}

/// Matches any byte string, also one that is no interface name (trace filters, plugins' `when`).
pub fn matches_bytes(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go back to when a literal fails: just behind the last star, one byte further in the text.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                star = Some((p, t));
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((behind, from)) => {
                    p = behind;
                    t = from + 1;
                    star = Some((behind, t));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_kernels_rules() {
        for good in ["tap0", "eth0.100", "abcdefghijklmno", "tap%d", "täp"] {
            assert!(LinkName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "abcdefghijklmnop", "a/b", "a:b", "a b", ".", ".."] {
            assert!(LinkName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_match_like_a_shell() {
        let hits = |p: &str, n: &str| NamePattern::new(p).unwrap().matches(&LinkName::new(n).unwrap());
        assert!(hits("tap*", "tap0f3a9c6e-1b"));
        assert!(hits("*", "x"));
        assert!(hits("vm?-*-net", "vm1-a-b-net"));
        assert!(!hits("vm?-*-net", "vm-a-net"));
        assert!(!hits("tap?", "tap"));
        assert!(hits("a*b*c", "aXbYbZc"));
        assert!(!hits("a*b*c", "aXbYbZ"));
    }

    #[test]
    fn patterns_overlap_where_one_name_matches_both() {
        let overlap = |a: &str, b: &str| {
            let (a, b) = (NamePattern::new(a).unwrap(), NamePattern::new(b).unwrap());
            assert_eq!(a.overlaps(&b), b.overlaps(&a), "{a:?} {b:?}");
            a.overlaps(&b)
        };
        for (a, b) in [
            ("tap*", "tap*"),
            ("tap*", "*"),
            ("tap*", "ta?1-*"),
            ("tap*", "*-net"),
            ("tap0", "tap?"),
            ("a***b", "*ab*"),
            ("abcdefgh*", "*hijklmno"),
        ] {
            assert!(overlap(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("tap*", "vt*"),
            ("tap?", "tap"),
            ("*a", "*b"),
            ("tap*x", "*y"),
            // 16 bytes are no name.
            ("abcdefgh*", "*ijklmnop"),
        ] {
            assert!(!overlap(a, b), "{a} {b}");
        }
    }
}
