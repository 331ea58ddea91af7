//! What gateways are to each other: identities, and the protocol of one stream between peers.
//!
//! Every transport between gateways (QUIC now, an overlay later) uses this crate, so that a guest's
//! connection looks the same over each: one [`Open`] header, one [`Reply`], then bytes, then an
//! honest end of each half.
//!
//! | Module | What it holds |
//! |---|---|
//! | [`key`], [`identity`] | who a gateway is: an Ed25519 key, its file, its text |
//! | [`open`], [`reply`] | the two messages that begin a stream |
//! | [`exchange`] | how they travel: read and written with limits |
//! | [`control`] | what two gateways tell each other beside their guests' streams |
//! | [`framed`] | ends of streams over carriers that cannot tell a reset from an end |
//! | [`limits`] | every bound |
#![forbid(unsafe_code)]

pub mod control;
pub mod exchange;
pub mod framed;
pub mod identity;
pub mod key;
pub mod limits;
pub mod open;
pub mod reply;

pub use control::Control;
pub use exchange::{ExchangeError, accept, ask};
pub use framed::Framed;
pub use identity::{Identity, IdentityError};
pub use key::{BadKey, PeerKey};
pub use open::{Open, OpenError, StreamKind, Target};
pub use reply::{Bound, Refusal, Reply};
