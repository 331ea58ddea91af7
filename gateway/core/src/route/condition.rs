//! Condition: a list of what a rule accepts and what it does not.
//!
//! in: entries such as `10.0.0.0/8` and `!10.1.0.0/16`; out: yes or no for a value. Plain data. Kept:
//! an empty list accepts everything; an entry with `!` before it wins over one without.

use std::fmt;
use std::str::FromStr;

/// One entry of a list: a value, or with `!` before it, all but that value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// Whether `!` stood before it.
    pub negated: bool,
    /// The value.
    pub value: T,
}

impl<T: FromStr> FromStr for Entry<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        let (negated, value) = match text.strip_prefix('!') {
            Some(rest) => (true, rest.trim_start()),
            None => (false, text),
        };
        Ok(Self { negated, value: value.parse()? })
    }
}

/// Matches when one of `any` does, or `any` is empty, and none of `none` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition<T> {
    /// The entries without `!`.
    pub any: Vec<T>,
    /// The entries with `!`.
    pub none: Vec<T>,
}

impl<T> Condition<T> {
    /// Whether it accepts everything.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }

    /// Whether a value, which `matches` compares with an entry, is accepted.
    pub fn accepts(&self, mut matches: impl FnMut(&T) -> bool) -> bool {
        (self.any.is_empty() || self.any.iter().any(&mut matches))
            && !self.none.iter().any(&mut matches)
    }

    /// Whether a value that is not known is accepted: only where nothing is asked for by name.
    pub fn accepts_unknown(&self) -> bool {
        self.any.is_empty()
    }
}

impl<T> Default for Condition<T> {
    fn default() -> Self {
        Self { any: Vec::new(), none: Vec::new() }
    }
}

impl<T> FromIterator<Entry<T>> for Condition<T> {
    fn from_iter<I: IntoIterator<Item = Entry<T>>>(entries: I) -> Self {
        let mut condition = Self::default();
        for Entry { negated, value } in entries {
            if negated { &mut condition.none } else { &mut condition.any }.push(value);
        }
        condition
    }
}

impl<T: fmt::Display> fmt::Display for Condition<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for value in &self.any {
            write!(f, "{comma}{value}")?;
            comma = ", ";
        }
        for value in &self.none {
            write!(f, "{comma}!{value}")?;
            comma = ", ";
        }
        Ok(())
    }
}
