//! Rule: the conditions under which a connection goes one way, and how a question meets them.
//!
//! in: a [`Query`]; out: a match, or the first condition that fails ([`Mismatch`]). Plain data.
//! Kept: an address of the host or its neighbourhood is opened only by a rule whose own network
//! lies inside the protected range.

use std::fmt;
use std::net::IpAddr;

use outsock_vmrpc::Errno;

use super::cidr::Cidr;
use super::condition::Condition;
use super::pattern::{DomainPattern, Glob, GuestPattern, UserPattern};
use super::ports::PortRange;
use super::protect::protected_range;

/// The number that the daemon gave a transport or a group of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WayId(pub u16);

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Dial this way.
    Via(WayId),
    /// Refuse with this errno.
    Refuse(Errno),
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// A byte stream.
    Tcp,
    /// Datagrams.
    Udp,
    /// ICMP echo. Its port is 0, so a rule that names ports does not speak of it.
    Icmp,
}

impl std::str::FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "icmp" => Ok(Self::Icmp),
            _ => Err(format!("{text:?} is not a protocol: write tcp, udp or icmp")),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        })
    }
}

/// One question: who wants to go where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// The guest, known from its device.
    pub guest: &'a str,
    /// Its tags in the configuration.
    pub tags: &'a [String],
    /// The program, as the guest asserts; `None` where it says nothing.
    pub program: Option<&'a str>,
    /// The user's number, as the guest asserts.
    pub user_id: Option<u32>,
    /// The user's name, as the guest asserts.
    pub user_name: Option<&'a str>,
    /// What is spoken.
    pub protocol: Protocol,
    /// The name, where one is known: canonical ([`super::canonical_name`]).
    pub name: Option<&'a str>,
    /// The address, where one is known: canonical ([`super::canonical`]).
    pub address: Option<IpAddr>,
    /// The address is one of the host's own, or carries one.
    pub own: bool,
    /// The destination port.
    pub port: u16,
}

impl<'a> Query<'a> {
    /// A TCP connection of a guest to a port, and nothing else known.
    pub fn tcp(guest: &'a str, port: u16) -> Self {
        Self {
            guest,
            tags: &[],
            program: None,
            user_id: None,
            user_name: None,
            protocol: Protocol::Tcp,
            name: None,
            address: None,
            own: false,
            port,
        }
    }

    /// The protected range that the address lies in.
    pub fn protected(&self) -> Option<Cidr> {
        let address = self.address?;
        if self.own { Some(Cidr::host(address)) } else { protected_range(address) }
    }
}

/// One rule. Empty conditions accept everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The guests.
    pub guests: Condition<GuestPattern>,
    /// The programs in the guest: what the guest says, so no fence against a hostile one.
    pub programs: Condition<Glob>,
    /// The users in the guest: what the guest says, too.
    pub users: Condition<UserPattern>,
    /// The protocol; `None` = every one.
    pub protocol: Option<Protocol>,
    /// The networks of the destination's address.
    pub to: Condition<Cidr>,
    /// The destination's name.
    pub domains: Condition<DomainPattern>,
    /// Its port.
    pub ports: Condition<PortRange>,
    /// What then.
    pub action: RuleAction,
}

/// The first condition of a rule that a connection does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Another protocol.
    Protocol,
    /// Another port.
    Port,
    /// Another guest.
    Guest,
    /// Another name.
    Domain,
    /// There is no name to compare.
    NameUnknown,
    /// Another program, or none was said.
    Program,
    /// Another user, or none was said.
    User,
    /// There is no address to compare (yet).
    AddressUnknown,
    /// Another network.
    Address,
    /// The address is the host's or its neighbourhood's, and the rule does not name its range.
    Protected(Cidr),
}

impl Rule {
    /// A rule that accepts everything.
    pub fn all(action: RuleAction) -> Self {
        Self {
            guests: Condition::default(),
            programs: Condition::default(),
            users: Condition::default(),
            protocol: None,
            to: Condition::default(),
            domains: Condition::default(),
            ports: Condition::default(),
            action,
        }
    }

    /// Whether the rule speaks of this connection. `protected` is [`Query::protected`].
    pub fn check(&self, query: &Query<'_>, protected: Option<Cidr>) -> Result<(), Mismatch> {
        if self.protocol.is_some_and(|protocol| protocol != query.protocol) {
            return Err(Mismatch::Protocol);
        }
        if !self.ports.accepts(|range| range.contains(query.port)) {
            return Err(Mismatch::Port);
        }
        if !self.guests.accepts(|guest| guest.matches(query.guest, query.tags)) {
            return Err(Mismatch::Guest);
        }
        match query.name {
            None if !self.domains.accepts_unknown() => return Err(Mismatch::NameUnknown),
            Some(name) if !self.domains.accepts(|domain| domain.matches(name)) => {
                return Err(Mismatch::Domain);
            }
            None | Some(_) => {}
        }
        let program = match query.program {
            None => self.programs.accepts_unknown(),
            Some(program) => self.programs.accepts(|glob| glob.matches(program)),
        };
        if !program {
            return Err(Mismatch::Program);
        }
        if !self.users.accepts(|user| is_user(user, query)) {
            return Err(Mismatch::User);
        }
        self.check_address(query.address, protected)
    }

    fn check_address(
        &self,
        address: Option<IpAddr>,
        protected: Option<Cidr>,
    ) -> Result<(), Mismatch> {
        let Some(ip) = address else {
            return if self.to.is_empty() { Ok(()) } else { Err(Mismatch::AddressUnknown) };
        };
        if !self.to.accepts(|net| net.contains(ip)) {
            return Err(Mismatch::Address);
        }
        // A refusal needs no care; only what opens the host must say so itself.
        match (self.action, protected) {
            (RuleAction::Via(_), Some(range)) => {
                let named = |net: &Cidr| net.contains(ip) && range.covers(net);
                let opened = self.to.any.iter().any(named);
                if opened { Ok(()) } else { Err(Mismatch::Protected(range)) }
            }
            (RuleAction::Via(_), None) | (RuleAction::Refuse(_), _) => Ok(()),
        }
    }

    /// Whether the rule picks connections of this guest by this name.
    pub fn names(&self, guest: &str, tags: &[String], name: &str) -> bool {
        !self.domains.any.is_empty()
            && self.domains.accepts(|domain| domain.matches(name))
            && self.guests.accepts(|pattern| pattern.matches(guest, tags))
    }
}

fn is_user(user: &UserPattern, query: &Query<'_>) -> bool {
    match user {
        UserPattern::Id(id) => query.user_id == Some(*id),
        UserPattern::Name(glob) => query.user_name.is_some_and(|name| glob.matches(name)),
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol => f.write_str("another protocol"),
            Self::Port => f.write_str("another port"),
            Self::Guest => f.write_str("another guest"),
            Self::Domain => f.write_str("another domain"),
            Self::NameUnknown => f.write_str("asks for a domain, and no name is known"),
            Self::Program => f.write_str("another program, or none was said"),
            Self::User => f.write_str("another user, or none was said"),
            Self::AddressUnknown => f.write_str("asks for a network, and no address is known"),
            Self::Address => f.write_str("another network"),
            Self::Protected(range) => {
                write!(f, "covers it, but {range} is protected: only `to` inside it opens it")
            }
        }
    }
}
