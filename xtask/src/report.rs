//! Report: lines with the elapsed time.
//!
//! in: what is being done; out: lines on standard output. Owner: the command. Kept: long silences do
//! not happen while something reports; a flood is thinned out. Bound: one line per
//! [`DETAIL_INTERVAL`] of details.

use std::io::Write;
use std::time::{Duration, Instant};

/// Details (a compiler's hundred crates, say) are shown at most this often.
const DETAIL_INTERVAL: Duration = Duration::from_secs(2);

/// Who tells the user what goes on.
#[derive(Debug)]
pub(crate) struct Report {
    began: Instant,
    detailed: Option<Instant>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), detailed: None }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// A step of the work.
    pub(crate) fn step(&self, text: impl AsRef<str>) {
        self.line(text.as_ref());
    }

    /// A detail of a step; most of many are left out.
    pub(crate) fn detail(&mut self, text: &str) {
        let now = Instant::now();
        let text = text.trim();
        if text.is_empty() || self.detailed.is_some_and(|last| now < last + DETAIL_INTERVAL) {
            return;
        }
        self.detailed = Some(now);
        self.line(&format!("  {text}"));
    }

    fn line(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        // A reader that went away does not stop the work.
        let _ = writeln!(out, "[{:6.1} s] {text}", self.began.elapsed().as_secs_f32());
        let _ = out.flush();
    }
}

/// A text with two spaces before each line.
pub(crate) fn indented(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("    {line}\n")).collect()
}
