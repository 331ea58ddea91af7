//! What the workspace's text looks like to the rules in `tests/`.
//!
//! Enters: the workspace's files. Leaves: sources with their sizes, functions with their lengths, links.
//! Owner: each test. Invariant: only files that belong to the project are looked at: no build output,
//! nothing hidden but `.ci` and `.cargo`. Bound: the tree itself.
#![forbid(unsafe_code)]

mod markdown;
mod source;
mod tree;

pub use markdown::{Mention, code_spans, links};
pub use source::{Function, code_lines, functions};
pub use tree::{File, files, root};
