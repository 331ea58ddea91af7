//! Configuration errors: file, line, key, and what to do.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A mistake in a configuration file, or a file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    path: PathBuf,
    /// Line, from 1, and the key on it.
    place: Option<(usize, Option<String>)>,
    message: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match &self.place {
            Some((line, Some(key))) => write!(f, ":{line}: {key}: {}", self.message),
            Some((line, None)) => write!(f, ":{line}: {}", self.message),
            None => write!(f, ": {}", self.message),
        }
    }
}

impl ConfigError {
    pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        let message = format!("cannot be read: {error}");
        Self { path: path.to_owned(), place: None, message }
    }

    pub(super) fn too_large(path: &Path) -> Self {
        let message = "is larger than a configuration may be (16 MiB)".to_owned();
        Self { path: path.to_owned(), place: None, message }
    }
}

/// A place in a configuration, for what is found wrong there later: a file that it names.
#[derive(Clone, Debug)]
pub(crate) struct Mark(ConfigError);

/// Settings that moved to another line are the same settings.
impl PartialEq for Mark {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Mark {}

impl Mark {
    /// A mistake at this place.
    pub(crate) fn error(&self, message: &str) -> ConfigError {
        ConfigError { message: message.to_owned(), ..self.0.clone() }
    }
}

/// The text that is being checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) text: &'a str,
    pub(super) path: &'a Path,
}

impl Place<'_> {
    /// A mistake at a span of the text.
    pub(super) fn at(self, span: Range<usize>, message: &str) -> ConfigError {
        let start = span.start.min(self.text.len());
        let before = self.text.get(..start).unwrap_or(self.text);
        let number = before.matches('\n').count() + 1;
        let line = self.text.lines().nth(number - 1).unwrap_or_default();
        let key = line
            .split_once('=')
            .map(|(key, _)| key.trim())
            .filter(|key| !key.is_empty() && !key.contains([' ', '"', '#']))
            .or_else(|| line.trim().strip_prefix('[').map(|_| line.trim()));
        ConfigError {
            path: self.path.to_owned(),
            place: Some((number, key.map(str::to_owned))),
            message: message.to_owned(),
        }
    }

    /// A span of the text, to remember.
    pub(super) fn mark(self, span: Range<usize>) -> Mark {
        Mark(self.at(span, ""))
    }

    /// A mistake that the TOML reader found.
    pub(super) fn toml_error(self, error: &toml::de::Error) -> ConfigError {
        match error.span() {
            Some(span) => self.at(span, error.message()),
            None => ConfigError {
                path: self.path.to_owned(),
                place: None,
                message: error.message().to_owned(),
            },
        }
    }
}
