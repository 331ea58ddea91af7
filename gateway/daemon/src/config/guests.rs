//! Guests: who is served, and how much of the host each may use.
//!
//! in: the `[[guest]]` tables; out: checked [`Guest`]s, whose names, CIDs and sockets are unique.
//! Bound: [`limits::GUESTS_MAX`].

use std::path::{Path, PathBuf};

use outsock_core::address::Cid;

use super::error::{ConfigError, Place};
use super::raw;
use crate::limits;

/// One guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    pub(crate) name: String,
    pub(crate) cid: Cid,
    pub(crate) socket: PathBuf,
    pub(crate) tags: Vec<String>,
    pub(crate) resolve: Resolve,
    pub(crate) limits: GuestLimits,
    pub(crate) vsock: VsockSockets,
}

/// Unix sockets by which the host reaches the guest's vsock ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VsockSockets {
    /// For programs of the guest that listen with SOCK_STREAM.
    pub(crate) stream: Option<PathBuf>,
    /// For those that listen with SOCK_SEQPACKET.
    pub(crate) seqpacket: Option<PathBuf>,
}

impl VsockSockets {
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.stream.iter().chain(&self.seqpacket).map(PathBuf::as_path)
    }
}

impl Guest {
    /// Whether two tables mean the same device.
    pub(crate) fn is_same_device(&self, other: &Self) -> bool {
        self.name == other.name && self.cid == other.cid && self.socket == other.socket
    }

    /// Whether two tables cannot be served at the same time.
    pub(crate) fn collides_with(&self, other: &Self) -> bool {
        self.name == other.name || self.cid == other.cid || self.socket == other.socket
    }
}

pub(super) fn check(raw: &[raw::Guest], place: Place<'_>) -> Result<Vec<Guest>, ConfigError> {
    let mut guests: Vec<Guest> = Vec::new();
    if let Some(extra) = raw.get(limits::GUESTS_MAX) {
        return Err(place.at(extra.name.span(), "too many guests for one gateway"));
    }
    for guest in raw {
        let name = guest.name.get_ref();
        if name.is_empty() || name.len() > 64 || name.chars().any(|c| c.is_control() || c == '/') {
            let message =
                "a guest's name has 1 to 64 characters, without '/' or control characters";
            return Err(place.at(guest.name.span(), message));
        }
        let cid = Cid(*guest.cid.get_ref());
        if !(Cid::GUEST_MIN..=Cid::GUEST_MAX).contains(&cid) {
            let message = format!("a guest's cid is {} to {}", Cid::GUEST_MIN, Cid::GUEST_MAX);
            return Err(place.at(guest.cid.span(), &message));
        }
        for other in &guests {
            let twice = |what| format!("guest {:?} has the same {what}", other.name);
            if other.name == *name {
                return Err(place.at(guest.name.span(), &twice("name")));
            }
            if other.cid == cid {
                return Err(place.at(guest.cid.span(), &twice("cid")));
            }
            if other.socket == *guest.socket.get_ref() {
                return Err(place.at(guest.socket.span(), &twice("socket")));
            }
        }
        let new = one(guest, name, cid, place)?;
        for path in [&guest.vsock_socket, &guest.vsock_seqpacket_socket].into_iter().flatten() {
            let taken = |other: &Guest| {
                other.socket == *path.get_ref()
                    || other.vsock.paths().any(|its| its == path.get_ref())
            };
            let twice = new.vsock.paths().filter(|its| its == path.get_ref()).count() > 1;
            if twice || new.socket == *path.get_ref() || guests.iter().any(taken) {
                return Err(place.at(path.span(), "this path is another socket of a guest"));
            }
        }
        guests.push(new);
    }
    Ok(guests)
}

fn one(guest: &raw::Guest, name: &str, cid: Cid, place: Place<'_>) -> Result<Guest, ConfigError> {
    for tag in &guest.tags {
        let text = tag.get_ref();
        if text.is_empty() || text.len() > 64 || text.contains(['*', '?', '!', ':']) {
            let message = "a tag has 1 to 64 characters, without '*', '?', '!' or ':'";
            return Err(place.at(tag.span(), message));
        }
    }
    let bytes = guest.bytes_per_second_max.as_ref();
    if let Some(zero) = bytes.filter(|bytes| *bytes.get_ref() == 0) {
        let message = "no byte at all could pass: leave the key away for no limit";
        return Err(place.at(zero.span(), message));
    }
    Ok(Guest {
        name: name.to_owned(),
        cid,
        socket: guest.socket.get_ref().clone(),
        tags: guest.tags.iter().map(|tag| tag.get_ref().clone()).collect(),
        resolve: guest.resolve.0,
        vsock: VsockSockets {
            stream: guest.vsock_socket.as_ref().map(|path| path.get_ref().clone()),
            seqpacket: guest.vsock_seqpacket_socket.as_ref().map(|path| path.get_ref().clone()),
        },
        limits: GuestLimits {
            connections_max: guest.connections_max,
            connects_per_second_max: guest.connects_per_second_max,
            bytes_per_second_max: bytes.map(|bytes| *bytes.get_ref()),
        },
    })
}

/// What a guest may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestLimits {
    /// Connections at the same time, dials under way included.
    pub(crate) connections_max: u64,
    /// Connects per second, over any longer stretch of time.
    pub(crate) connects_per_second_max: u64,
    /// Payload bytes per second, both directions together; `None` = no limit.
    pub(crate) bytes_per_second_max: Option<u64>,
}

/// What names a guest may resolve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolve {
    /// All.
    All,
    /// Those that a route picks by name.
    Routed,
    /// None.
    None,
}

impl std::str::FromStr for Resolve {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "routed" => Ok(Self::Routed),
            "none" => Ok(Self::None),
            _ => Err(format!("{text:?} is none of: all, routed, none")),
        }
    }
}
