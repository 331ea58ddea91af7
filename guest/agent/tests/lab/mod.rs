//! A stand-in gateway and commands run before it.
#![allow(dead_code, clippy::unwrap_used)]

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::stand_in::Gateway;

pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_outsock");

pub(crate) struct Lab {
    pub(crate) gateway: Gateway,
    pub(crate) directory: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let gateway = Gateway::start(&directory.path().join("gateway"));
        Self { gateway, directory }
    }

    pub(crate) fn outsock(&self, command: &[&str]) -> Command {
        let mut outsock = Command::new(AGENT);
        outsock.args(["run", "--gateway", &self.gateway.option(), "--"]).args(command);
        outsock
    }
}

/// Waits for a condition; the tests below wait for processes, whose time is not theirs to set.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A server that accepts and says nothing; its port.
pub(crate) fn silent_server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port.to_string())
}

pub(crate) const CONNECT: &str = "
import errno, socket, sys, time
def connect(host, port):
    s = socket.socket()
    code = s.connect_ex((host, int(port)))
    return s, errno.errorcode.get(code, 'ok')
";
