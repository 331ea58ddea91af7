//! Connection: one guest socket as a pure state machine.
//!
//! in: what the guest's packets and the host's end say ([`Input`]); out: the next state and the
//! [`Effects`] owed to both sides. No I/O, no clock, no payload. Owner: the muxer of one guest.
//!
//! ```text
//!            REQUEST                announced              dial ok
//!   (none) ----------> Parked ------------------> Dialing ---------> Open { guest, host }
//!                        |  late                     |  dial failed     |  both halves closed,
//!                        v                           v                  v  RST, host reset
//!                      Gone <---------------------- Gone <------------ Gone
//! ```
//!
//! A connection that the host opens waits in Calling for the guest's RESPONSE, and is then Open.
//!
//! Half-close is two halves that never look at each other: `guest` is what the guest still sends,
//! `host` what the far side still sends. Keeps: whatever the guest sends, its connection ends in
//! `Gone` or stays served; nothing else changes.

use crate::packet::{Op, Shutdown};

/// What the guest still sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuestHalf {
    /// Bytes may come.
    Sending,
    /// SHUTDOWN(SEND) came; bytes from before may still wait for the far side.
    Finishing,
    /// The far side has every byte and our FIN.
    Finished,
}

/// What the far side still sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostHalf {
    /// Bytes may come.
    Sending,
    /// Its FIN came, and went on to the guest.
    Finished,
    /// The guest does not want any more (SHUTDOWN(RCV)): nothing is read from the far side.
    Unwanted,
}

/// The state of a connection that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// REQUEST came, its token is not announced yet. Only a deadline or an announcement moves it.
    Parked,
    /// The token is known and the host dials. The guest waits; it may not send.
    Dialing,
    /// REQUEST went to the guest: the host opens this one.
    Calling,
    /// Both ends stand.
    Open {
        /// From guest to host.
        guest: GuestHalf,
        /// From host to guest.
        host: HostHalf,
    },
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// A packet from the guest (an RW inside its credit).
    Packet(Op),
    /// SHUTDOWN of both halves at once, which is what a guest's kernel sends at close(), while bytes
    /// of the far side had not been read: TCP resets then (RFC 2525, 2.17).
    ClosedUnread,
    /// An RW beyond its credit, or a packet whose length does not fit its chain.
    Malformed,
    /// The token was announced.
    Announced,
    /// The dial succeeded; the host's end is attached.
    DialOk,
    /// The dial failed.
    DialFailed,
    /// The far side's FIN.
    HostFinished,
    /// The far side reset the connection, or the way to it broke.
    HostReset,
    /// After [`HostAction::FinishWrite`]: every byte and the FIN are on their way.
    Flushed,
    /// The deadline of the state passed.
    Late,
}

/// What must be done with the host's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostAction {
    /// Nothing.
    None,
    /// Take the payload of this RW.
    Write,
    /// Send FIN after the bytes that wait, then report [`Input::Flushed`].
    FinishWrite,
    /// The connection is gone: send what waits, then FIN, then forget the end.
    CloseAfterFlush,
    /// The connection is gone: reset the far side (or cancel the dial) and forget the end.
    Abort,
}

/// Which packet the guest is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owed {
    /// None.
    Nothing,
    /// RESPONSE.
    Response,
    /// RST.
    Rst,
    /// SHUTDOWN(SEND): the far side's FIN.
    ShutdownSend,
    /// CREDIT_UPDATE.
    CreditUpdate,
}

/// What follows from an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Effects {
    /// The next state; `None` = Gone.
    pub next: Option<State>,
    /// For the host's end.
    pub host: HostAction,
    /// For the guest.
    pub owed: Owed,
}

impl State {
    /// Just opened.
    pub const OPEN: Self = Self::Open { guest: GuestHalf::Sending, host: HostHalf::Sending };

    /// The table: every state and every input. No arm covers a pair that nobody thought of.
    #[must_use]
    pub fn on(self, input: Input) -> Effects {
        match self {
            Self::Parked | Self::Dialing => self.before_open(input),
            Self::Calling => Self::calling(input),
            Self::Open { guest, host } => Self::open(guest, host, input),
        }
    }

    fn before_open(self, input: Input) -> Effects {
        match input {
            Input::Packet(op) => match op {
                Op::Rst => gone(HostAction::Abort, Owed::Nothing),
                // Counters only; nothing can be owed yet.
                Op::CreditUpdate | Op::CreditRequest => stay(self),
                // A program called shutdown() while connecting (Linux: vsock_shutdown()), which is the
                // end of the attempt, as it is with TCP.
                Op::Shutdown(_) => gave_up(),
                // Linux sends none of these before RESPONSE, not even when the socket is closed.
                Op::Request | Op::Response | Op::Rw => misbehaved(),
            },
            Input::ClosedUnread => gave_up(),
            Input::Malformed => misbehaved(),
            Input::Announced => stay(Self::Dialing),
            Input::DialOk => {
                Effects { next: Some(Self::OPEN), host: HostAction::None, owed: Owed::Response }
            }
            Input::DialFailed => gone(HostAction::None, Owed::Rst),
            Input::Late => match self {
                Self::Parked => gone(HostAction::None, Owed::Rst),
                // The transport has its own patience; DialOk or DialFailed is sure to come.
                Self::Dialing | Self::Calling | Self::Open { .. } => stay(self),
            },
            // There is no end yet that could say so.
            Input::HostFinished | Input::HostReset | Input::Flushed => stay(self),
        }
    }

    fn calling(input: Input) -> Effects {
        match input {
            Input::Packet(op) => match op {
                Op::Response => stay(Self::OPEN),
                // Nobody listens there.
                Op::Rst => gone(HostAction::Abort, Owed::Nothing),
                Op::CreditUpdate | Op::CreditRequest => stay(Self::Calling),
                // Linux sends none of these before RESPONSE.
                Op::Shutdown(_) | Op::Request | Op::Rw => misbehaved(),
            },
            Input::ClosedUnread | Input::Malformed => misbehaved(),
            // The guest does not answer, or nobody waits for its answer any more.
            Input::Late | Input::HostReset => gone(HostAction::Abort, Owed::Rst),
            Input::Announced
            | Input::DialOk
            | Input::DialFailed
            | Input::HostFinished
            | Input::Flushed => stay(Self::Calling),
        }
    }

    fn open(guest: GuestHalf, host: HostHalf, input: Input) -> Effects {
        let now = Self::Open { guest, host };
        match input {
            Input::Packet(op) => match op {
                Op::Rw => match guest {
                    GuestHalf::Sending => effects(now, HostAction::Write, Owed::Nothing),
                    GuestHalf::Finishing | GuestHalf::Finished => misbehaved(),
                },
                Op::CreditUpdate => stay(now),
                Op::CreditRequest => effects(now, HostAction::None, Owed::CreditUpdate),
                Op::Shutdown(flags) => Self::shutdown(guest, host, flags),
                // The guest's kernel has no such socket any more.
                Op::Rst => gone(HostAction::Abort, Owed::Nothing),
                Op::Request | Op::Response => misbehaved(),
            },
            Input::ClosedUnread => gave_up(),
            Input::Malformed => misbehaved(),
            Input::HostFinished => match host {
                HostHalf::Sending => effects(
                    Self::Open { guest, host: HostHalf::Finished },
                    HostAction::None,
                    Owed::ShutdownSend,
                ),
                HostHalf::Finished | HostHalf::Unwanted => stay(now),
            },
            Input::HostReset => gone(HostAction::Abort, Owed::Rst),
            Input::Flushed => match guest {
                GuestHalf::Finishing => stay(Self::Open { guest: GuestHalf::Finished, host }),
                GuestHalf::Sending | GuestHalf::Finished => stay(now),
            },
            // The token served its purpose, and an open connection may idle for ever.
            Input::Announced | Input::DialOk | Input::DialFailed | Input::Late => stay(now),
        }
    }

    fn shutdown(guest: GuestHalf, host: HostHalf, flags: Shutdown) -> Effects {
        let finishes = flags.send && guest == GuestHalf::Sending;
        let guest = if finishes { GuestHalf::Finishing } else { guest };
        let host = if flags.rcv { HostHalf::Unwanted } else { host };
        match (guest, host) {
            // The guest has closed and waits for an RST; the far side still gets every byte.
            (GuestHalf::Finishing | GuestHalf::Finished, HostHalf::Unwanted) => {
                gone(HostAction::CloseAfterFlush, Owed::Rst)
            }
            (
                GuestHalf::Sending | GuestHalf::Finishing | GuestHalf::Finished,
                HostHalf::Sending | HostHalf::Finished,
            )
            | (GuestHalf::Sending, HostHalf::Unwanted) => {
                let action = if finishes { HostAction::FinishWrite } else { HostAction::None };
                effects(Self::Open { guest, host }, action, Owed::Nothing)
            }
        }
    }
}

fn stay(next: State) -> Effects {
    effects(next, HostAction::None, Owed::Nothing)
}

fn effects(next: State, host: HostAction, owed: Owed) -> Effects {
    Effects { next: Some(next), host, owed }
}

fn gone(host: HostAction, owed: Owed) -> Effects {
    Effects { next: None, host, owed }
}

/// The guest wants nothing of the connection any more, not even that its bytes arrive.
fn gave_up() -> Effects {
    gone(HostAction::Abort, Owed::Rst)
}

/// The guest broke the protocol: this connection dies, alone.
fn misbehaved() -> Effects {
    gone(HostAction::Abort, Owed::Rst)
}

#[cfg(test)]
#[path = "connection/tests.rs"]
mod tests;
