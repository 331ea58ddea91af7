//! Two host modules as they would be in a crate of their own: a key-value store and a ticker.
//!
//! The programs in `src/bin` are the processes that serve them, and programs for guests that use them.
//! A gateway in one process with such a module would `Registry::register_hm` it instead.
#![forbid(unsafe_code)]

pub mod kv;
pub mod serve;
pub mod ticker;
pub mod way;
