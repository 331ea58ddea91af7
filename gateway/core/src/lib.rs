//! The sans-IO core of the outsock gateway.
#![forbid(unsafe_code)]
pub mod address;
pub mod connection;
pub mod credit;
pub mod deadlines;
pub mod limits;
pub mod muxer;
pub mod packet;
pub mod route;
mod tokens;
