//! The sans-IO core of the outsock gateway.
#![forbid(unsafe_code)]
pub mod address;
pub mod packet;
