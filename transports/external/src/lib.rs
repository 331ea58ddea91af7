//! External: a transport in a process of its own, kind `"external"`, by the contract of Tor's pluggable
//! transports, version 1 (pt-spec): obfs4proxy, snowflake, lyrebird, or thirty lines of Python.
//!
//! in:  destinations by address, which the process dials in its own way; an address to listen on
//! out: streams whose ends are as honest as the process says it is ([`ExternalSettings::half_close`],
//!      [`ExternalSettings::reset`]), and a reset where the process dies
//! owner: one process for all connections of a transport, one for each listener; a task watches over each
//! keeps: no connection ever leaves by another way when the process is gone; the process has nothing of
//!        the gateway's: no descriptor, no environment, a folder of its own
//! bound: [`limits`]
//!
//! The process starts with the first connection. When it dies it starts again, with growing pauses, in
//! which dials fail with `ENETDOWN`.
//!
//! A pluggable transport is a tunnel: its far end leads everything to one place. Over it, TLS gives honest
//! ends (`encrypt = "tls"`), and a SOCKS5 proxy at its far end gives any destination.
#![forbid(unsafe_code)]

mod contract;
mod guard;
pub mod limits;
mod listener;
mod process;
mod settings;
mod supervisor;
mod transport;

pub use settings::{ExternalSettings, arguments};
pub use transport::External;
