//! Count: how many tests passed, failed and were skipped, by what they print.
//!
//! in: lines of test programs; out: sums. Owner: the test command. Kept: both forms are read, that of
//! Rust's own harness (`test result: ...`) and the plain one (`N passed, N failed, N skipped`).

use std::fmt;

/// The sums.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: Vec<String>,
    pub(crate) failures: Vec<String>,
    /// Skipped tests whose reason was printed where they were skipped.
    skipped_elsewhere: u64,
}

impl Count {
    pub(crate) fn pass(&mut self) {
        self.passed += 1;
    }

    pub(crate) fn fail(&mut self, reason: String) {
        self.failed += 1;
        self.failures.push(reason);
    }

    pub(crate) fn skip(&mut self, reason: String) {
        self.skipped.push(reason);
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
        self.failures.extend(other.failures);
        self.skipped_elsewhere += other.skipped_elsewhere;
    }

    fn skipped(&self) -> u64 {
        self.skipped_elsewhere + self.skipped.len() as u64
    }

    /// Takes in one line of a test program's output.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            if name.1.starts_with("FAILED") {
                self.failures.push(name.0.to_owned());
            } else if let Some(reason) = name.1.strip_prefix("SKIPPED: ") {
                self.skipped.push(format!("{}: {reason}", name.0));
                self.skipped_elsewhere = self.skipped_elsewhere.wrapping_sub(1);
            }
            return;
        }
        let Some(counts) = counts(line) else { return };
        self.passed += counts[0];
        self.failed += counts[1];
        self.skipped_elsewhere = self.skipped_elsewhere.wrapping_add(counts[2]);
    }
}

/// `[passed, failed, skipped]` if `line` is a closing line.
fn counts(line: &str) -> Option<[u64; 3]> {
    let (text, separator) = match line.strip_prefix("test result: ") {
        Some(rest) => (rest.split_once(". ")?.1, "; "),
        None => (line, ", "),
    };
    let mut counts = [0; 3];
    let mut parts = text.split(separator);
    for (place, word) in [(0, "passed"), (1, "failed")] {
        counts[place] = parts.next()?.strip_suffix(word)?.trim().parse().ok()?;
    }
    if let Some(skipped) = parts.next() {
        let number = skipped.strip_suffix("skipped").or_else(|| skipped.strip_suffix("ignored"))?;
        counts[2] = number.trim().parse().ok()?;
    }
    Some(counts)
}

impl fmt::Display for Count {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, .. } = self;
        write!(formatter, "{passed} passed, {failed} failed, {} skipped", self.skipped())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_counted() {
        let mut count = Count::default();
        for line in [
            "running 3 tests",
            "test a ... ok",
            "test b ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s",
            "test uml-7.2/ssh ... SKIPPED: no sshd",
            "5 passed, 0 failed, 1 skipped",
            "7 passed, 0 failed",
            "12 passed over there",
        ] {
            count.read(line);
        }
        assert_eq!(count.to_string(), "13 passed, 1 failed, 2 skipped");
        assert_eq!(count.failures, ["b"]);
        assert_eq!(count.skipped, ["uml-7.2/ssh: no sshd"]);
    }
}
