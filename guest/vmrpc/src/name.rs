//! Names and versions of host modules.
//!
//! A name is checked once, where it enters (wire, config, code), and is a value of its own from
//! then on. Bound: [`limits::MODULE_NAME_BYTES_MAX`].

use std::fmt;

use crate::limits;

/// The name of a host module: 1 to 64 of `a-z 0-9 . - _`, starting with a letter.
///
/// ```
/// use outsock_vmrpc::ModuleName;
/// assert!("socket".parse::<ModuleName>().is_ok());
/// assert!("Socket!".parse::<ModuleName>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleName(Box<str>);

/// Why a text is no module name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a module name: 1 to 64 of a-z, 0-9, '.', '-', '_', starting with a letter")]
pub struct BadModuleName(String);

impl ModuleName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for ModuleName {
    type Err = BadModuleName;

    fn from_str(text: &str) -> Result<Self, BadModuleName> {
        let letter = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(b);
        let good = text.len() <= limits::MODULE_NAME_BYTES_MAX
            && text.as_bytes().first().is_some_and(u8::is_ascii_lowercase)
            && text.as_bytes().iter().all(letter);
        if good {
            Ok(Self(text.into()))
        } else {
            Err(BadModuleName(text.chars().take(limits::MODULE_NAME_BYTES_MAX).collect()))
        }
    }
}

impl fmt::Display for ModuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The version of a module's interface. Functions and their arguments are fixed per version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(pub u16);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The versions that one side speaks, both ends included.
///
/// ```
/// use outsock_vmrpc::{Version, VersionRange};
/// let host = VersionRange::new(Version(1), Version(3)).unwrap();
/// let guest = VersionRange::new(Version(2), Version(7)).unwrap();
/// assert_eq!(host.best_common(guest), Some(Version(3)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    first: Version,
    last: Version,
}

impl VersionRange {
    /// `None` when the range is empty (`first > last`).
    pub const fn new(first: Version, last: Version) -> Option<Self> {
        if first.0 <= last.0 { Some(Self { first, last }) } else { None }
    }

    /// Exactly one version.
    pub const fn only(version: Version) -> Self {
        Self { first: version, last: version }
    }

    /// The lowest version.
    pub fn first(self) -> Version {
        self.first
    }

    /// The highest version.
    pub fn last(self) -> Version {
        self.last
    }

    /// The highest version that both ranges hold.
    pub fn best_common(self, other: Self) -> Option<Version> {
        let last = self.last.min(other.last);
        (last >= self.first.max(other.first)).then_some(last)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{} to {}", self.first, self.last)
        }
    }
}
