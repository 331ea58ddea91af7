//! Policy: everything that a reload replaces, as one value.
//!
//! in: a checked configuration, and the policy before it; out: transports that dial, groups that
//! check, rules. Shared and never changed: who began under one policy ends under it, and a reload
//! is one swap. Kept: transports, groups and resolvers that a reload did not change live on, with
//! what they know. Bound: two policies' worth while calls end.

use std::collections::HashMap;
use std::sync::Arc;

use outsock_core::route::WayId;
use outsock_transport_tls::Acceptor;

use crate::config::{Config, ConfigError, Guest, TlsServerConfig};
use crate::encrypt::Encryption;
use crate::group::LiveGroup;
use crate::peers::Peers;
use crate::registry::{NamedTransport, Transports, Way};
use crate::upstream::Upstream;

/// See the module.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) config: Config,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) peers: Arc<Peers>,
    transports: Transports,
    groups: Vec<Arc<LiveGroup>>,
    /// By rule.
    encryptions: Vec<Option<Arc<Encryption>>>,
    /// By publish.
    acceptors: Vec<Option<Acceptor>>,
    guests: HashMap<String, usize>,
}

impl Policy {
    /// Builds a policy; `before` is the one that it will replace. The files that the configuration names
    /// are read here.
    pub(crate) fn build(config: Config, before: Option<&Self>) -> Result<Arc<Self>, ConfigError> {
        let peers = before.map(|before| Arc::clone(&before.peers));
        let peers = peers.unwrap_or_else(|| Peers::offline(&config));
        Self::build_with(config, before, peers)
    }

    /// The same with connections to peers.
    pub(crate) fn build_with(
        config: Config,
        before: Option<&Self>,
        peers: Arc<Peers>,
    ) -> Result<Arc<Self>, ConfigError> {
        let tls = config.route_details.iter().map(|detail| detail.tls.as_ref());
        let encryptions =
            tls.map(|tls| tls.map(Encryption::new).transpose()).collect::<Result<_, _>>()?;
        let tls = config.publishes.iter().map(|publish| publish.tls.as_ref());
        let acceptors = tls
            .map(|tls| tls.map(TlsServerConfig::acceptor).transpose())
            .collect::<Result<_, _>>()?;
        let before_transports = before.map(|before| &before.transports);
        let transports = Transports::build(&config.transports, before_transports, &peers)?;
        let upstream = before
            .filter(|before| before.config.names.nameservers == config.names.nameservers)
            .map(|before| Arc::clone(&before.upstream));
        let upstream =
            upstream.unwrap_or_else(|| Arc::new(Upstream::new(&config.names.nameservers)));
        let groups = config
            .groups
            .iter()
            .map(|group| {
                let members = group.members.iter().filter_map(|at| transports.at(*at)).collect();
                let old = before.into_iter().flat_map(|before| &before.groups);
                LiveGroup::start(group, members, Arc::clone(&upstream), old)
            })
            .collect();
        let names = config.guests.iter().map(|guest| guest.name.clone());
        let guests = names.zip(0..).collect();
        Ok(Arc::new(Self {
            config,
            upstream,
            peers,
            transports,
            groups,
            encryptions,
            acceptors,
            guests,
        }))
    }

    /// A guest's settings.
    pub(crate) fn guest(&self, name: &str) -> Option<&Guest> {
        self.config.guests.get(*self.guests.get(name)?)
    }

    /// What a rule's number stands for.
    pub(crate) fn way(&self, id: WayId) -> Option<Way<'_>> {
        let at = usize::from(id.0);
        match self.transports.at(at) {
            Some(member) => Some(Way::Transport(member)),
            None => self.groups.get(at.checked_sub(self.transports.len())?).map(Way::Group),
        }
    }

    /// A transport by its place in the configuration.
    pub(crate) fn transport(&self, at: usize) -> Option<NamedTransport> {
        self.transports.at(at)
    }

    /// How a rule encrypts.
    pub(crate) fn encryption(&self, rule: usize) -> Option<&Arc<Encryption>> {
        self.encryptions.get(rule)?.as_ref()
    }

    /// How a publish ends TLS.
    pub(crate) fn acceptor(&self, publish: usize) -> Option<&Acceptor> {
        self.acceptors.get(publish)?.as_ref()
    }

    /// The groups.
    pub(crate) fn groups(&self) -> &[Arc<LiveGroup>] {
        &self.groups
    }
}
