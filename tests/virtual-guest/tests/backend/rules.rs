//! What the backend's ports are for, and which rules it can break.

/// What a connection to a port is for.
pub mod port {
    /// Sends everything back; mirrors half-close.
    pub const ECHO: u32 = 7;
    /// Takes everything.
    pub const DISCARD: u32 = 9;
    /// Sends the pattern, as much as credit allows, until the guest stops it.
    pub const SOURCE: u32 = 19;
    /// Never answers.
    pub const SILENT: u32 = 20;
    /// Sends a megabyte of pattern, then SHUTDOWN of both halves.
    pub const MEGABYTE: u32 = 21;
    /// Sends three bytes, then RST.
    pub const RESETS: u32 = 22;
    /// Never answers SHUTDOWN with RST.
    pub const LINGERS: u32 = 23;
    /// Does not take what it is sent: credit runs out.
    pub const STALLS: u32 = 24;
    /// Breaks the rule of that number on the first data packet.
    pub const BREAKS: u32 = 100;
}

/// Rules that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Breach {
    UsedTwice,
    UsedMadeUp,
    UsedTooLong,
    LengthMismatch,
    WrongCid,
    NeverOpened,
    AfterRst,
    BeyondCredit,
    ManyPackets,
    FwdCntAhead,
    FwdCntBack,
    SecondResponse,
    DataAfterShutdown,
    BadOp,
    EmptyRw,
    OutsideBuffer,
}

pub const BREACHES: [Breach; 16] = [
    Breach::UsedTwice,
    Breach::UsedMadeUp,
    Breach::UsedTooLong,
    Breach::LengthMismatch,
    Breach::WrongCid,
    Breach::NeverOpened,
    Breach::AfterRst,
    Breach::BeyondCredit,
    Breach::ManyPackets,
    Breach::FwdCntAhead,
    Breach::FwdCntBack,
    Breach::SecondResponse,
    Breach::DataAfterShutdown,
    Breach::BadOp,
    Breach::EmptyRw,
    Breach::OutsideBuffer,
];
