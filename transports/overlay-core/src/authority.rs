//! Authority: whose word counts in a private network.
//!
//! in: certificates and lists of revocations; out: whether they count now. Owner: the transport; one per
//! network. Kept: a list of revocations only ever gives way to a newer one. Bound: the list's.

use outsock_peer::PeerKey;

use crate::certificate::{Certificate, CertificateError};
use crate::network::NetworkId;
use crate::revocations::{Revocations, RevocationsError};
use crate::time::UnixTime;

/// A network's authority, as its members know it.
#[derive(Clone, Debug)]
pub struct Authority {
    key: PeerKey,
    revocations: Option<Revocations>,
}

impl Authority {
    /// By its key.
    #[must_use]
    pub fn new(key: PeerKey) -> Self {
        Self { key, revocations: None }
    }

    /// Its network.
    #[must_use]
    pub fn network(&self) -> NetworkId {
        NetworkId::private(self.key)
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> PeerKey {
        self.key
    }

    /// Whether a certificate counts now.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, certificate: &Certificate, now: UnixTime) -> Result<(), CertificateError> {
        if certificate.authority != self.key {
            return Err(CertificateError::OtherAuthority(certificate.authority));
        }
        if self.revocations.as_ref().is_some_and(|list| list.voids(certificate)) {
            return Err(CertificateError::Revoked);
        }
        if certificate.issued.is_future(now) {
            return Err(CertificateError::Future { from: certificate.issued, now });
        }
        let end = certificate.end();
        if end.has_passed(now) {
            return Err(CertificateError::Expired { end, now });
        }
        Ok(())
    }

    /// Takes a list of revocations; whether it was news.
    ///
    /// # Errors
    /// It is another authority's.
    pub fn revoke(&mut self, list: Revocations) -> Result<bool, RevocationsError> {
        if list.authority != self.key {
            return Err(RevocationsError::OtherAuthority(list.authority));
        }
        let newer = self.revocations.as_ref().is_none_or(|old| old.sequence < list.sequence);
        if newer {
            self.revocations = Some(list);
        }
        Ok(newer)
    }

    /// The newest list that came.
    #[must_use]
    pub fn revocations(&self) -> Option<&Revocations> {
        self.revocations.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use outsock_peer::Identity;
    use proptest::prelude::*;

    use super::*;
    use crate::limits;
    use crate::name::Label;
    use crate::testing::{NOW, authority};

    fn certificate(root: &Identity, issued: UnixTime, lifetime_s: u64) -> Certificate {
        let name = Label::parse("osaka").unwrap();
        Certificate::sign(root, PeerKey::new([9; 32]), name, issued, lifetime_s).unwrap()
    }

    #[test]
    fn a_certificate_counts_in_its_time_and_its_network() {
        let (root, trust) = authority();
        let good = certificate(&root, NOW, 3600);
        assert_eq!(Certificate::decode(&good.encode()), Ok(good.clone()));
        assert_eq!(trust.check(&good, NOW), Ok(()));
        // Five minutes either way are a clock's own; two hours or two days are named.
        assert_eq!(trust.check(&good, UnixTime(NOW.0 - 300)), Ok(()));
        assert_eq!(trust.check(&good, NOW.after_s(3600 + 300)), Ok(()));
        let early = trust.check(&good, UnixTime(NOW.0 - 7200)).unwrap_err().to_string();
        assert!(early.contains("clock"), "{early}");
        let late = trust.check(&good, NOW.after_s(2 * 86_400)).unwrap_err();
        assert!(matches!(late, CertificateError::Expired { .. }), "{late}");
        let foreign = Identity::from_seed([77; 32]).unwrap();
        let error = trust.check(&certificate(&foreign, NOW, 3600), NOW).unwrap_err();
        assert_eq!(error, CertificateError::OtherAuthority(foreign.key()));
        let name = Label::parse("osaka").unwrap();
        let long = Certificate::sign(&root, root.key(), name, NOW, u64::MAX);
        assert_eq!(long, Err(CertificateError::Lifetime));
    }

    #[test]
    fn a_revoked_key_is_out_until_it_is_certified_anew() {
        let (root, mut trust) = authority();
        let old = certificate(&root, NOW, 86_400);
        let list = |sequence, at: Option<UnixTime>| {
            let revoked = at.map(|at| BTreeMap::from([(old.key, at)])).unwrap_or_default();
            Revocations::sign(&root, sequence, revoked).unwrap()
        };
        assert_eq!(trust.revoke(list(2, Some(NOW))), Ok(true));
        assert_eq!(trust.check(&old, NOW), Err(CertificateError::Revoked));
        // An older list does not bring it back.
        assert_eq!(trust.revoke(list(1, None)), Ok(false));
        assert_eq!(trust.check(&old, NOW), Err(CertificateError::Revoked));
        assert_eq!(trust.check(&certificate(&root, NOW.after_s(1), 60), NOW), Ok(()));
        let foreign = Identity::from_seed([77; 32]).unwrap();
        let theirs = Revocations::sign(&foreign, 9, BTreeMap::new()).unwrap();
        assert!(trust.revoke(theirs).is_err());
    }

    #[test]
    fn the_largest_list_fits() {
        let (root, _) = authority();
        let key = |number: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            PeerKey::new(bytes)
        };
        let full: BTreeMap<_, _> = (0..limits::REVOKED_MAX).map(|n| (key(n), NOW)).collect();
        let list = Revocations::sign(&root, 1, full.clone()).unwrap();
        assert_eq!(Revocations::decode(&list.encode()), Ok(list));
        let mut more = full;
        more.insert(key(limits::REVOKED_MAX), NOW);
        assert_eq!(Revocations::sign(&root, 1, more), Err(RevocationsError::Full));
    }

    proptest! {
        #[test]
        fn any_bytes_are_something_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Certificate::decode(&bytes).is_err());
            prop_assert!(Revocations::decode(&bytes).is_err());
        }

        #[test]
        fn one_changed_byte_is_seen(at in 0_usize..300, change in 1_u8..) {
            let (root, _) = authority();
            let list = Revocations::sign(&root, 3, BTreeMap::from([(root.key(), NOW)])).unwrap();
            for mut bytes in [certificate(&root, NOW, 60).encode(), list.encode()] {
                let at = at % bytes.len();
                bytes[at] ^= change;
                prop_assert!(Certificate::decode(&bytes).is_err());
                prop_assert!(Revocations::decode(&bytes).is_err());
            }
        }
    }
}
