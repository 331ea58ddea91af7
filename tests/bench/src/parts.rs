//! Parts: what is compared with what, and what was promised.

use outsock_virtual_guest::Layout;

pub(crate) mod calls;
pub(crate) mod idle;
pub(crate) mod names;
pub(crate) mod peer;
pub(crate) mod quic;
pub(crate) mod rpc;
pub(crate) mod rules;
pub(crate) mod stalled;
pub(crate) mod streams;
pub(crate) mod uml;
pub(crate) mod ways;

/// A name for a guest in the gateway's configuration, and its CID.
pub(crate) fn guest_of(layout: &Layout, index: u64) -> (String, u64) {
    let name = layout.name.replace([' ', '.'], "-");
    (name, FIRST_CID + index)
}

/// CIDs below are the specification's own.
const FIRST_CID: u64 = 3;
