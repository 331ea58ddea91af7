//! The `resolver` host module: DNS for guests.
//!
//! in: DNS messages ([`outsock_vmrpc::resolver`] is the contract); out: DNS messages. It is
//! registered like any user's module. Owner: the caller's VM RPC stream runs each call as a task.
//! Kept: a name that a route of this guest picks by domain gets a synthetic address and nothing
//! that leads past it; other names are the host's resolvers' business. Bounds:
//! [`limits::QUERIES_PER_GUEST_MAX`], [`limits::QUERIES_PER_SECOND`].

mod answer;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use outsock_core::route::canonical_name;
use outsock_vmrpc::host::{CallError, Caller, HostModule};
use outsock_vmrpc::resolver::{self, QueryRequest};
use outsock_vmrpc::{Errno, ModuleName, Version, VersionRange};

use crate::config::{Guest, Resolve};
use crate::names::{Found, Names};
use crate::policy::Policy;
use crate::seen::Seen;
use crate::socket_module::Sockets;
use crate::upstream::{LookupError, address};
use crate::{clock, limits};
use answer::Question;

/// The module itself.
#[derive(Debug)]
pub(crate) struct ResolverModule(pub(crate) Arc<Sockets>);

#[async_trait::async_trait]
impl HostModule for ResolverModule {
    fn name(&self) -> ModuleName {
        resolver::NAME.parse().unwrap_or_else(|error| unreachable!("a constant: {error}"))
    }

    fn versions(&self) -> VersionRange {
        resolver::VERSIONS
    }

    async fn call(
        &self,
        caller: &Caller,
        _: Version,
        function: u32,
        arguments: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        match function {
            resolver::QUERY => {
                let request = QueryRequest::decode(&arguments)?;
                self.query(caller, &request).await.map_err(CallError::Errno)
            }
            _ => Err(CallError::NoSuchFunction),
        }
    }
}

impl ResolverModule {
    async fn query(&self, caller: &Caller, request: &QueryRequest) -> Result<Vec<u8>, Errno> {
        if request.message.len() > outsock_vmrpc::limits::DNS_QUERY_BYTES_MAX {
            return Err(Errno::EMSGSIZE);
        }
        let question = answer::read(&request.message).ok_or(Errno::EINVAL)?;
        let guest = self.0.guest(caller)?;
        let _place = guest.admit_query().ok_or_else(|| {
            if let Some(left_out) = guest.log.admit() {
                tracing::warn!(guest = %caller.guest, left_out, "too many DNS queries");
            }
            Errno::EAGAIN
        })?;
        let policy = self.0.policy();
        let reply = match question {
            Ok(question) => match policy.guest(&caller.guest) {
                Some(settings) => {
                    let desk =
                        Desk { policy: &policy, names: &self.0.names, seen: &guest.seen, settings };
                    desk.answer(&question).await
                }
                None => question.code(ResponseCode::Refused),
            },
            Err(reply) => reply,
        };
        answer::write(&reply, request.answer_bytes_max).ok_or(Errno::EIO)
    }
}

/// What one question is answered from.
struct Desk<'a> {
    policy: &'a Policy,
    names: &'a Names,
    seen: &'a Seen,
    settings: &'a Guest,
}

impl Desk<'_> {
    async fn answer(&self, question: &Question) -> Message {
        if self.settings.resolve == Resolve::None {
            return question.code(ResponseCode::Refused);
        }
        if let Some(reply) = self.reverse(question) {
            return reply;
        }
        let name = canonical_name(&question.name().to_ascii());
        let Settings { routes, guest, tags } = self.settings();
        let by_name = name.filter(|name| routes.routes_by_name(guest, tags, name));
        match by_name {
            Some(name) => self.synthetic(question, &name).await,
            None if self.settings.resolve == Resolve::Routed => {
                question.code(ResponseCode::Refused)
            }
            None => self.forward(question).await,
        }
    }

    fn settings(&self) -> Settings<'_> {
        Settings {
            routes: &self.policy.config.routes,
            guest: &self.settings.name,
            tags: &self.settings.tags,
        }
    }

    /// A name that a route picks: its addresses are the pool's.
    async fn synthetic(&self, question: &Question, name: &str) -> Message {
        let kind = question.kind();
        match kind {
            RecordType::A | RecordType::AAAA => {}
            // Hints in these would lead past the rule.
            RecordType::HTTPS | RecordType::SVCB | RecordType::ANY => {
                return question.code(ResponseCode::NoError);
            }
            // The name is there, whatever the host's resolvers know of it.
            _ if self.settings.resolve == Resolve::Routed => {
                return question.code(ResponseCode::NoError);
            }
            _ => {
                let mut reply = self.forward(question).await;
                if reply.metadata.response_code == ResponseCode::NXDomain {
                    reply.metadata.response_code = ResponseCode::NoError;
                }
                return reply;
            }
        }
        match self.names.assign(name, &self.settings.name) {
            Ok(addresses) => {
                let data = match kind {
                    RecordType::A => RData::A(addresses.v4.into()),
                    _ => RData::AAAA(addresses.v6.into()),
                };
                let owner = question.name().clone();
                let ttl = limits::SYNTHETIC_TTL_SECONDS;
                question.records([Record::from_rdata(owner, ttl, data)])
            }
            Err(error) => {
                tracing::debug!(guest = self.settings.name, name, %error, "no synthetic address");
                question.code(ResponseCode::ServFail)
            }
        }
    }

    /// The name of a synthetic address. No resolver of the host is asked about the pool.
    fn reverse(&self, question: &Question) -> Option<Message> {
        let found = self.names.find(question.reverse()?);
        match found {
            Found::Outside => None,
            Found::Unassigned => Some(question.code(ResponseCode::NXDomain)),
            Found::Name(name) if question.kind() == RecordType::PTR => {
                Some(question.pointer(&name))
            }
            Found::Name(_) => Some(question.code(ResponseCode::NoError)),
        }
    }

    async fn forward(&self, question: &Question) -> Message {
        match self.policy.upstream.lookup(question.name().clone(), question.kind()).await {
            Ok(lookup) => {
                let told: Vec<_> = lookup
                    .answers()
                    .iter()
                    .filter_map(|record| Some((address(&record.data)?, record.ttl)))
                    .collect();
                if let Some(name) = canonical_name(&question.name().to_ascii()) {
                    self.seen.note(&name, &told, clock::now());
                }
                question.passed_on(&lookup)
            }
            Err(LookupError::Negative(none)) => question.negative(*none),
            Err(LookupError::Failed(why)) => {
                tracing::debug!(guest = self.settings.name, name = %question.name(), why, "no answer");
                question.code(ResponseCode::ServFail)
            }
        }
    }
}

struct Settings<'a> {
    routes: &'a outsock_core::route::RouteTable,
    guest: &'a str,
    tags: &'a [String],
}
