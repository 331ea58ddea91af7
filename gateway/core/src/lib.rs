//! The sans-IO core of the outsock gateway.
#![forbid(unsafe_code)]
pub mod address;
pub mod bucket;
pub mod connection;
pub mod credit;
pub mod deadlines;
pub mod group;
pub mod limits;
pub mod muxer;
pub mod packet;
pub mod pool;
pub mod route;
mod tokens;
