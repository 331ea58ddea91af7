//! The guest's console: its last bytes, kept for the error that may need them.
//!
//! Enters: what kernel, init and monitor print. Leaves: text. The reading thread owns the pipe.
//! Invariant: the pipe is always drained, so a guest never stops because nobody reads. Bound:
//! [`CONSOLE_BYTES_MAX`].

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::{CONSOLE_BYTES_MAX, CONSOLE_LINES_IN_ERROR};

/// A handle to the kept text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Console {
    kept: Arc<Mutex<VecDeque<u8>>>,
}

impl Console {
    /// Reads `source` to its end in a thread of its own, with a copy of everything in `log`.
    pub(crate) fn drain(source: impl Read + Send + 'static, log: Option<File>) -> io::Result<Self> {
        let console = Self::default();
        let reader = console.clone();
        std::thread::Builder::new()
            .name("guest-console".to_owned())
            .spawn(move || reader.read_all(source, log))?;
        Ok(console)
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_all(&self, mut source: impl Read, mut log: Option<File>) {
        let mut chunk = [0; 4096];
        loop {
            let count = match source.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            if log.as_mut().is_some_and(|log| log.write_all(&chunk[..count]).is_err()) {
                // A full disk must not stop the guest.
                log = None;
            }
            let mut kept = self.kept();
            kept.extend(&chunk[..count]);
            let surplus = kept.len().saturating_sub(CONSOLE_BYTES_MAX);
            kept.drain(..surplus);
        }
    }

    /// Everything kept, without carriage returns.
    pub(crate) fn text(&self) -> String {
        let bytes: Vec<u8> = self.kept().iter().copied().filter(|byte| *byte != b'\r').collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last lines, for an error message.
    pub(crate) fn tail(&self) -> String {
        let text = self.text();
        // What led to a panic stands before it; the trace after it is of the panic itself.
        let end = text
            .find("Kernel panic")
            .map_or(text.len(), |at| text[at..].find('\n').map_or(text.len(), |n| at + n));
        let lines: Vec<&str> = text[..end].lines().filter(|line| !line.trim().is_empty()).collect();
        if lines.is_empty() {
            return "  (the console is empty)".to_owned();
        }
        let from = lines.len().saturating_sub(CONSOLE_LINES_IN_ERROR);
        lines[from..].iter().map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_bytes_are_kept() {
        let console = Console::default();
        let mut text = vec![b'x'; CONSOLE_BYTES_MAX];
        text.extend_from_slice(b"\r\nlast line\r\n");
        console.read_all(text.as_slice(), None);
        assert_eq!(console.kept().len(), CONSOLE_BYTES_MAX);
        assert!(console.tail().ends_with("  | last line"), "{}", console.tail());
        let panicked = Console::default();
        panicked.read_all(&b"cause\nKernel panic - not syncing\n trace\n"[..], None);
        assert_eq!(panicked.tail(), "  | cause\n  | Kernel panic - not syncing");
        assert_eq!(Console::default().tail(), "  (the console is empty)");
    }
}
