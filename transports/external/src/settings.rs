//! Settings: which program, and what it is told.
//!
//! Plain values.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::limits;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalSettings {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Started in its place, with the program and its arguments behind: what closes descriptors and
    /// changes users before it becomes the program. May be empty.
    pub launcher: Vec<OsString>,
    /// The transport's name in the contract, such as `obfs4`.
    pub method: String,
    /// What each connection says to the far end (a bridge line's `key=value`).
    pub options: Vec<(String, String)>,
    /// Options of a listener.
    pub server_options: Vec<(String, String)>,
    /// Where it may keep files. Made if missing.
    pub state: PathBuf,
    /// It closes each direction on its own.
    pub half_close: bool,
    /// It passes resets on as resets.
    pub reset: bool,
    /// What it sends is encrypted.
    pub encrypted: bool,
    /// How long it may take to start.
    pub start_time: Duration,
}

impl ExternalSettings {
    /// A program for one method, with the cautious defaults.
    pub fn new(program: PathBuf, method: String, state: PathBuf) -> Self {
        Self {
            program,
            arguments: Vec::new(),
            launcher: Vec::new(),
            method,
            options: Vec::new(),
            server_options: Vec::new(),
            state,
            half_close: false,
            reset: false,
            encrypted: false,
            start_time: limits::START_TIME,
        }
    }
}

/// Whether the process is to dial or to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Client,
    /// Listens there, and hands what comes to a socket of ours.
    Server {
        at: SocketAddr,
        to: SocketAddr,
    },
}

/// `key=value;key=value` as the contract wants it (pt-spec, 3.5).
///
/// ```
/// use outsock_transport_external::arguments;
/// let pairs = [("cert".to_owned(), "a=b;c".to_owned()), ("iat-mode".to_owned(), "0".to_owned())];
/// assert_eq!(arguments(&pairs), r"cert=a\=b\;c;iat-mode=0");
/// ```
pub fn arguments(pairs: &[(String, String)]) -> String {
    let escape = |text: &str| {
        let mut out = String::new();
        for letter in text.chars() {
            if matches!(letter, '\\' | ';' | '=') {
                out.push('\\');
            }
            out.push(letter);
        }
        out
    };
    let pairs = pairs.iter().map(|(key, value)| format!("{}={}", escape(key), escape(value)));
    pairs.collect::<Vec<_>>().join(";")
}
