//! VM RPC as a C library. `include/outsock_rpc.h` is its documentation.
//!
//! in: pointers and lengths of a C caller; out: return values, and pointers that the caller gives
//! back. Owner: the caller, as the header says. Kept: nothing of Rust crosses the boundary, no panic
//! does (`extern "C"` aborts). The unsafe code is in [`sys`].
#![deny(unsafe_code)]

mod error;
#[allow(unsafe_code, reason = "the C boundary")]
mod sys;
