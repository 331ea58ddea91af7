//! Hello: the first message each way on every connection between nodes.
//!
//! in: the bytes that a peer sent first, and the key that the connection has proved; out: admitted, or
//! why not. Owner: the transport, which serves nothing before. Kept: a certificate counts only for the
//! connection's own key; without the right one there is no connection, over whichever carrier. What is
//! said about a refusal holds no secret. Bound: [`limits::HELLO_BYTES_MAX`].
//!
//! On the wire: `version u8, network 32, revocations u64, (0 | 1 length u16 certificate)`.

use outsock_peer::PeerKey;
use outsock_vmrpc::wire::{Malformed, Reader, Writer};

use crate::authority::Authority;
use crate::certificate::{Certificate, CertificateError};
use crate::limits;
use crate::name::Label;
use crate::network::NetworkId;
use crate::time::UnixTime;

const VERSION: u8 = 1;

/// The message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The sender's network.
    pub network: NetworkId,
    /// The sequence of its list of revocations; 0 = it has none.
    pub revocations: u64,
    /// Its certificate, in a private network.
    pub certificate: Option<Certificate>,
}

/// A peer that belongs to the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Its certified name, in a private network.
    pub name: Option<Label>,
    /// The sequence of its list of revocations: a higher one is asked for, a lower one is sent ours.
    pub revocations: u64,
}

/// Why a peer does not belong to the network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another version.
    #[error("version {0} of the overlay is not spoken here, only {VERSION}")]
    Version(u8),
    /// Not formed well.
    #[error("its first message is none: {0}")]
    Malformed(#[from] Malformed),
    /// Another network.
    #[error("it belongs to another network")]
    OtherNetwork,
    /// Nothing says that it is a member.
    #[error("it has no certificate: `outsock-gateway network sign` makes one")]
    NoCertificate,
    /// Of another node.
    #[error("it shows the certificate of another key, {0}")]
    OtherKey(PeerKey),
    /// It does not count.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl Hello {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let writer = Writer::new().u8(VERSION).raw(self.network.as_bytes()).u64(self.revocations);
        put_certificate(writer, self.certificate.as_ref()).finish()
    }

    /// Reads one. The certificate's signature holds then, no more.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refused> {
        if bytes.len() > limits::HELLO_BYTES_MAX {
            return Err(Malformed("too long").into());
        }
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(Refused::Version(version));
        }
        let network = NetworkId::new(reader.array()?);
        let revocations = reader.u64()?;
        let certificate = read_certificate(&mut reader)?;
        reader.finish()?;
        let certificate = certificate.map(Certificate::decode).transpose()?;
        Ok(Self { network, revocations, certificate })
    }
}

pub(crate) fn put_certificate(writer: Writer, certificate: Option<&Certificate>) -> Writer {
    let Some(certificate) = certificate else { return writer.u8(0) };
    let bytes = certificate.encode();
    writer.u8(1).u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX)).raw(&bytes)
}

pub(crate) fn read_certificate<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, Malformed> {
    match reader.u8()? {
        0 => Ok(None),
        1 => {
            let length = usize::from(reader.u16()?);
            Ok(Some(reader.bytes(length)?))
        }
        _ => Err(Malformed("neither a certificate nor none")),
    }
}

/// Which network a node belongs to, and with what right.
#[derive(Clone, Debug)]
pub struct Membership {
    network: NetworkId,
    authority: Option<Authority>,
    own: Option<Certificate>,
}

impl Membership {
    /// Of an open network.
    #[must_use]
    pub fn open(name: &str) -> Self {
        Self { network: NetworkId::open(name), authority: None, own: None }
    }

    /// Of a private one, with this node's own certificate.
    ///
    /// # Errors
    /// The certificate does not count: every peer would refuse it.
    pub fn private(
        authority: Authority,
        own: Certificate,
        key: PeerKey,
        now: UnixTime,
    ) -> Result<Self, Refused> {
        authority.check(&own, now)?;
        if own.key != key {
            return Err(Refused::OtherKey(own.key));
        }
        Ok(Self { network: authority.network(), authority: Some(authority), own: Some(own) })
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// Its authority, if it is private.
    #[must_use]
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// The same, to take a list of revocations.
    pub fn authority_mut(&mut self) -> Option<&mut Authority> {
        self.authority.as_mut()
    }

    /// This node's certificate.
    #[must_use]
    pub fn certificate(&self) -> Option<&Certificate> {
        self.own.as_ref()
    }

    /// What this node says first.
    #[must_use]
    pub fn hello(&self) -> Hello {
        let list = self.authority.as_ref().and_then(Authority::revocations);
        Hello {
            network: self.network,
            revocations: list.map_or(0, |list| list.sequence),
            certificate: self.own.clone(),
        }
    }

    /// Whether a peer belongs to the network: by its first message and the key that the connection proved.
    ///
    /// # Errors
    /// Why it does not.
    pub fn admit(&self, hello: &[u8], key: PeerKey, now: UnixTime) -> Result<Admitted, Refused> {
        let hello = Hello::decode(hello)?;
        if hello.network != self.network {
            return Err(Refused::OtherNetwork);
        }
        let Some(authority) = &self.authority else {
            return Ok(Admitted { name: None, revocations: 0 });
        };
        let certificate = hello.certificate.ok_or(Refused::NoCertificate)?;
        if certificate.key != key {
            return Err(Refused::OtherKey(certificate.key));
        }
        authority.check(&certificate, now)?;
        Ok(Admitted { name: Some(certificate.name), revocations: hello.revocations })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use outsock_peer::Identity;
    use proptest::prelude::*;

    use super::*;
    use crate::revocations::Revocations;
    use crate::testing::{NOW, authority};

    fn member(root: &Identity, trust: &Authority, seed: u8) -> (PeerKey, Membership) {
        let key = Identity::from_seed([seed; 32]).unwrap().key();
        let name = Label::parse(&format!("site{seed}")).unwrap();
        let own = Certificate::sign(root, key, name, NOW, 3600).unwrap();
        (key, Membership::private(trust.clone(), own, key, NOW).unwrap())
    }

    #[test]
    fn no_certificate_no_handshake() {
        let (root, trust) = authority();
        let (_, own) = member(&root, &trust, 1);
        let (key, peer) = member(&root, &trust, 2);
        let hello = peer.hello();
        let admitted = own.admit(&hello.encode(), key, NOW).unwrap();
        assert_eq!(admitted.name, Some(Label::parse("site2").unwrap()));
        // Another's certificate.
        let thief = PeerKey::new([5; 32]);
        assert_eq!(own.admit(&hello.encode(), thief, NOW), Err(Refused::OtherKey(key)));
        let without = Hello { certificate: None, ..hello.clone() };
        assert_eq!(own.admit(&without.encode(), key, NOW), Err(Refused::NoCertificate));
        let other = Membership::open("lab").hello();
        assert_eq!(own.admit(&other.encode(), key, NOW), Err(Refused::OtherNetwork));
        let foreign = Identity::from_seed([77; 32]).unwrap();
        let forged =
            Certificate::sign(&foreign, key, Label::parse("site2").unwrap(), NOW, 60).unwrap();
        let forged = Hello { certificate: Some(forged), ..hello.clone() };
        assert!(matches!(own.admit(&forged.encode(), key, NOW), Err(Refused::Certificate(_))));
        assert!(matches!(
            own.admit(&hello.encode(), key, NOW.after_s(86_400)),
            Err(Refused::Certificate(CertificateError::Expired { .. }))
        ));
        assert_eq!(Membership::open("lab").admit(&other.encode(), thief, NOW).unwrap().name, None);
    }

    #[test]
    fn revocations_are_asked_for_by_their_sequence() {
        let (root, trust) = authority();
        let (_, mut own) = member(&root, &trust, 1);
        let (key, peer) = member(&root, &trust, 2);
        let list = Revocations::sign(&root, 7, BTreeMap::from([(key, NOW)])).unwrap();
        assert_eq!(own.authority_mut().unwrap().revoke(list), Ok(true));
        assert_eq!(own.hello().revocations, 7);
        let refused = own.admit(&peer.hello().encode(), key, NOW).unwrap_err();
        assert_eq!(refused, Refused::Certificate(CertificateError::Revoked));
        assert!(!refused.to_string().contains("12D3"), "{refused}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), known: bool) {
            let (root, trust) = authority();
            let (key, own) = member(&root, &trust, 1);
            if known {
                let start = own.hello().encode();
                let count = bytes.len().min(41);
                bytes[..count].copy_from_slice(&start[..count]);
            }
            prop_assert!(own.admit(&bytes, key, NOW).is_err());
        }
    }
}
