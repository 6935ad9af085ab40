//! Where in a verdict a field is.

use std::fmt;

/// Where a field is: written out only for those that a plugin spoke about, which are few.
#[derive(Debug, Clone, Copy)]
pub enum Path<'a> {
    Top,
    /// `outer.name`, or `name` at the top.
    Field(&'a Path<'a>, &'a str),
    /// `outer[key]`.
    Entry(&'a Path<'a>, &'a str),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Top => Ok(()),
            Path::Field(Path::Top, name) => f.write_str(name),
            Path::Field(outer, name) => write!(f, "{outer}.{name}"),
            Path::Entry(outer, key) => write!(f, "{outer}[{key}]"),
        }
    }
}

impl Path<'_> {
    /// `deny` and `defer`: the first one stands.
    pub(super) const fn is_veto(&self) -> bool {
        matches!(self, Path::Field(Path::Top, name) if matches!(name.as_bytes(), b"deny" | b"defer"))
    }
}
