//! Differential: what a socket program saw in two runs, and where they differ.
//!
//! in: lines `CASE/FAMILY key=value ...`; out: [`Difference`]s. Owner: the caller, plain data. Kept: a case
//! that only one run has is a difference of every key that it has. Bound: the program's output.

use std::collections::BTreeMap;
use std::fmt;

/// Stands for a key that a run did not say.
pub const ABSENT: &str = "-";

/// The lines of one run: by case and family, then by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observations(BTreeMap<(String, String), BTreeMap<String, String>>);

/// One key of one case that the two runs saw differently.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The case, such as `end.reset-recv`.
    pub case: String,
    /// `v4`, `v6` or `mapped`.
    pub family: String,
    /// The key, such as `so_error`.
    pub key: String,
    /// What TCP says.
    pub tcp: String,
    /// What an outsourced socket says.
    pub outsock: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, family, key, tcp, outsock } = self;
        write!(formatter, "{case}/{family} {key}: TCP {tcp}, outsock {outsock}")
    }
}

impl Observations {
    /// Reads the program's output, which ends with `end`.
    ///
    /// # Errors
    /// What is wrong with it: a run that broke off, a key that a case says twice, a case that failed or died.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut observations = Self::default();
        let mut ended = false;
        for line in text.lines() {
            ended = line == "end";
            let mut words = line.split(' ');
            let Some((case, family)) = words.next().and_then(|name| name.split_once('/')) else {
                continue;
            };
            let mut keys = BTreeMap::new();
            for word in words {
                let (key, value) = word.split_once('=').ok_or_else(|| format!("{line}: {word}"))?;
                if keys.insert(key.to_owned(), value.to_owned()).is_some() {
                    return Err(format!("{case}/{family} says {key} twice"));
                }
            }
            observations.0.insert((case.to_owned(), family.to_owned()), keys);
        }
        if ended { Ok(observations) } else { Err("the run broke off".to_owned()) }
    }

    /// Cases, each with its families.
    pub fn cases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.keys().map(|(case, family)| (case.as_str(), family.as_str()))
    }

    /// How many values there are to compare.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// Cases that did not come to their end, with what stopped them.
    #[must_use]
    pub fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for ((case, family), keys) in &self.0 {
            for key in ["FAILED", "DIED"] {
                if let Some(why) = keys.get(key) {
                    broken.push(format!("{case}/{family} {key}: {why}"));
                }
            }
        }
        broken
    }

    /// Where `outsock` differs from this run.
    #[must_use]
    pub fn differences(&self, outsock: &Self) -> Vec<Difference> {
        let nothing = BTreeMap::new();
        let mut names: Vec<_> = self.0.keys().chain(outsock.0.keys()).collect();
        names.sort();
        names.dedup();
        let mut found = Vec::new();
        for name in names {
            let (one, other) =
                (self.0.get(name).unwrap_or(&nothing), outsock.0.get(name).unwrap_or(&nothing));
            let mut keys: Vec<_> = one.keys().chain(other.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let value = |keys: &BTreeMap<String, String>| {
                    keys.get(key).map_or_else(|| ABSENT.to_owned(), Clone::clone)
                };
                let (tcp, outsock) = (value(one), value(other));
                if tcp != outsock {
                    let (case, family) = name.clone();
                    found.push(Difference { case, family, key: key.clone(), tcp, outsock });
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_by_key() {
        let tcp = Observations::parse("a.b/v4 x=1 y=2\na.c/v4 z=3\nend").unwrap();
        let outsock = Observations::parse("a.b/v4 x=1 y=E w=9\nend\n").unwrap();
        let found: Vec<_> = tcp.differences(&outsock).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "a.b/v4 w: TCP -, outsock 9",
                "a.b/v4 y: TCP 2, outsock E",
                "a.c/v4 z: TCP 3, outsock -"
            ]
        );
        assert_eq!(tcp.count(), 3);
        assert!(tcp.differences(&tcp).is_empty());
    }

    #[test]
    fn a_run_that_broke_off_is_no_run() {
        assert!(Observations::parse("a.b/v4 x=1\n").is_err());
        assert!(Observations::parse("a.b/v4 x=1 x=2\nend\n").is_err());
        let broken = Observations::parse("a.b/v4 x=1 DIED=ALRM\nend\n").unwrap().broken();
        assert_eq!(broken, ["a.b/v4 DIED: ALRM"]);
    }
}
