//! Patterns: globs, domains, guests and users as a rule names them.
//!
//! in: text of a configuration; out: values that match text. Plain data. Kept: matching takes time
//! linear in the text for each `*`, never exponential. Bound:
//! [`limits::PATTERN_BYTES_MAX`].

use std::fmt;
use std::str::FromStr;

use crate::limits;

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// Nothing to compare with.
    #[error("an empty pattern matches nothing: leave the key away to match everything")]
    Empty,
    /// Too long for any name.
    #[error("a pattern has at most {} bytes", limits::PATTERN_BYTES_MAX)]
    TooLong,
    /// No domain looks like this.
    #[error("{0:?} is not a domain: write name.example, .example (with all below) or *.example")]
    NotADomain(String),
}

/// A text in which `*` stands for any run of characters and `?` for any one.
///
/// ```
/// use outsock_core::route::Glob;
/// let glob: Glob = "*/psql".parse().unwrap();
/// assert!(glob.matches("/usr/bin/psql") && !glob.matches("/usr/bin/psqlx"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Glob(Box<str>);

impl Glob {
    /// Whether the whole text matches.
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut at, mut from) = (0, 0);
        // Where to go on after the latest star took one more character.
        let mut retry: Option<(usize, usize)> = None;
        while from < text.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    at += 1;
                    retry = Some((at, from));
                }
                Some(&byte) if byte == b'?' || byte == text[from] => {
                    at += 1;
                    from += 1;
                }
                _ => match &mut retry {
                    Some((star, taken)) => {
                        *taken += 1;
                        (at, from) = (*star, *taken);
                    }
                    None => return false,
                },
            }
        }
        pattern[at..].iter().all(|&byte| byte == b'*')
    }

    /// The text, if nothing in it is special.
    pub fn exact(&self) -> Option<&str> {
        (!self.0.contains(['*', '?'])).then_some(&self.0)
    }

    /// What every match, taken for a path, has behind its last slash; `None` where that varies.
    pub(super) fn file_name(&self) -> Option<&str> {
        let literal = self.0.rsplit(['*', '?']).next().unwrap_or_default();
        let whole = literal.len() == self.0.len();
        literal.rsplit_once('/').map(|(_, name)| name).or_else(|| whole.then_some(literal))
    }

    fn checked(text: &str) -> Result<Self, BadPattern> {
        match text.len() {
            0 => Err(BadPattern::Empty),
            length if length > limits::PATTERN_BYTES_MAX => Err(BadPattern::TooLong),
            _ => Ok(Self(text.into())),
        }
    }
}

impl FromStr for Glob {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        Self::checked(text)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name as it is compared: lower case, no final dot. `None` where it cannot be a host's name: one
/// whose last label is a number would be an address in some old spelling, which nothing here reads.
pub fn canonical_name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let bytes = 1..=outsock_vmrpc::limits::HOST_NAME_BYTES_MAX;
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let number = last.bytes().all(|b| b.is_ascii_digit())
        || hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    let good = bytes.contains(&text.len()) && text.split('.').all(label) && !number;
    good.then(|| text.to_ascii_lowercase())
}

/// Which names a rule speaks of.
///
/// ```
/// use outsock_core::route::DomainPattern;
/// let below: DomainPattern = ".Example.org".parse().unwrap();
/// assert!(below.matches("example.org") && below.matches("a.b.example.org"));
/// assert!(!below.matches("badexample.org"));
/// let glob: DomainPattern = "db-*.peer".parse().unwrap();
/// assert!(glob.matches("db-1.tokyo.peer") && !glob.matches("db.peer"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DomainPattern {
    /// This name.
    Exact(Box<str>),
    /// This name and all below it.
    Suffix(Box<str>),
    /// Names of this form; `*` stands for any run of characters, dots too.
    Glob(Glob),
}

impl DomainPattern {
    /// Whether a canonical name matches.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *name,
            Self::Suffix(suffix) => name
                .strip_suffix(&**suffix)
                .is_some_and(|before| before.is_empty() || before.ends_with('.')),
            Self::Glob(glob) => glob.matches(name),
        }
    }

    /// A run of whole labels that every match ends with; `None` where there is none.
    pub(super) fn tail(&self) -> Option<&str> {
        match self {
            Self::Exact(name) | Self::Suffix(name) => Some(name),
            Self::Glob(glob) => {
                let literal = glob.0.rsplit(['*', '?']).next().unwrap_or_default();
                // The part before the first dot may be half a label.
                literal.split_once('.').map(|(_, tail)| tail).filter(|tail| !tail.is_empty())
            }
        }
    }
}

impl DomainPattern {
    /// The whole first label of every match; `None` where it varies.
    pub(super) fn head(&self) -> Option<&str> {
        let Self::Glob(glob) = self else { return None };
        let literal = glob.0.split(['*', '?']).next().unwrap_or_default();
        literal.split_once('.').map(|(head, _)| head)
    }
}

impl FromStr for DomainPattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let bad = || BadPattern::NotADomain(text.to_owned());
        let glob = Glob::checked(text)?;
        if let Some(below) = text.strip_prefix('.') {
            return canonical_name(below).map(|name| Self::Suffix(name.into())).ok_or_else(bad);
        }
        if glob.exact().is_some() {
            return canonical_name(text).map(|name| Self::Exact(name.into())).ok_or_else(bad);
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        // What the stars stand for is no concern here, only that the rest may be part of a name.
        let plain = text.replace(['*', '?'], "x");
        if text == "*" || canonical_name(&plain).is_some() {
            Ok(Self::Glob(Glob(text.to_ascii_lowercase().into())))
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(name) => write!(f, ".{name}"),
            Self::Glob(glob) => glob.fmt(f),
        }
    }
}

/// Which guests a rule speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestPattern {
    /// By name.
    Name(Glob),
    /// Those that carry this tag in the configuration.
    Tag(Glob),
}

impl GuestPattern {
    /// Whether a guest of this name and with these tags is meant.
    pub fn matches(&self, name: &str, tags: &[String]) -> bool {
        match self {
            Self::Name(glob) => glob.matches(name),
            Self::Tag(glob) => tags.iter().any(|tag| glob.matches(tag)),
        }
    }
}

impl FromStr for GuestPattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        match text.strip_prefix("tag:") {
            Some(tag) => Glob::checked(tag).map(Self::Tag),
            None => Glob::checked(text).map(Self::Name),
        }
    }
}

impl fmt::Display for GuestPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(glob) => glob.fmt(f),
            Self::Tag(glob) => write!(f, "tag:{glob}"),
        }
    }
}

/// Which users in the guest a rule speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserPattern {
    /// By number.
    Id(u32),
    /// By name.
    Name(Glob),
}

impl FromStr for UserPattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => Glob::checked(text).map(Self::Name),
        }
    }
}

impl fmt::Display for UserPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(glob) => glob.fmt(f),
        }
    }
}
