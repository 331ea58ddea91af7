//! Gate: who may be in a private network with this gateway.
//!
//! in: the authority's key and the files of `[overlay]`; out: the overlay's gate. Owner: the overlay, and
//! the daemon that reads the revocations anew at a reload. Kept: a list of revocations that cannot be
//! read leaves the one in force. Bound: [`limits::MEMBERSHIP_FILE_BYTES_MAX`].

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, bail};
use outsock_overlay_core::{Authority, Certificate, Membership, Revocations, UnixTime, armor};
use outsock_peer::PeerKey;
use outsock_transport_overlay::Gate;

use crate::config::Private;
use crate::limits;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Members(Arc<Mutex<Membership>>);

fn now() -> UnixTime {
    SystemTime::now().into()
}

impl Members {
    /// Reads the files; this gateway has to be a member itself.
    pub(crate) fn load(private: &Private, key: PeerKey) -> anyhow::Result<Self> {
        let path = &private.certificate_file;
        let bytes = armored(path, armor::CERTIFICATE)?;
        let shown = || format!("{}", path.display());
        let certificate = Certificate::decode(&bytes).with_context(shown)?;
        let authority = Authority::new(private.authority);
        let member = Membership::private(authority, certificate, key, now()).with_context(shown)?;
        let members = Self(Arc::new(Mutex::new(member)));
        members.read_revocations(private)?;
        Ok(members)
    }

    fn lock(&self) -> MutexGuard<'_, Membership> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the list of revocations, if there is one.
    pub(crate) fn read_revocations(&self, private: &Private) -> anyhow::Result<()> {
        let Some(path) = &private.revocations_file else { return Ok(()) };
        let bytes = armored(path, armor::REVOCATIONS)?;
        let list = Revocations::decode(&bytes).with_context(|| format!("{}", path.display()))?;
        if let Some(authority) = self.lock().authority_mut() {
            authority.revoke(list).with_context(|| format!("{}", path.display()))?;
        }
        Ok(())
    }
}

impl Gate for Members {
    fn hello(&self) -> Vec<u8> {
        self.lock().hello().encode()
    }

    fn admit(&self, hello: &[u8], key: &PeerKey) -> Result<(), String> {
        let admitted = self.lock().admit(hello, *key, now());
        admitted.map(drop).map_err(|refused| refused.to_string())
    }
}

fn armored(path: &Path, kind: &str) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let mut text = String::new();
    let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
    let mut file = file.take(limits::MEMBERSHIP_FILE_BYTES_MAX);
    file.read_to_string(&mut text).with_context(|| format!("cannot read {shown}"))?;
    let Some(bytes) = armor::unwrap(kind, &text) else { bail!("{shown} has no {kind} in it") };
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use outsock_overlay_core::Label;
    use outsock_peer::Identity;

    use super::*;

    fn identity(seed: u8) -> Identity {
        Identity::from_seed([seed; 32]).unwrap()
    }

    fn member(folder: &Path, root: &Identity, seed: u8, name: &str) -> (Private, PeerKey) {
        let key = identity(seed).key();
        let name = Label::parse(name).unwrap();
        let certificate = Certificate::sign(root, key, name.clone(), now(), 3600).unwrap();
        let file = folder.join(name.as_str());
        std::fs::write(&file, armor::wrap(armor::CERTIFICATE, &certificate.encode())).unwrap();
        let revocations = folder.join("revocations");
        let list = Revocations::sign(root, 1, BTreeMap::new()).unwrap();
        std::fs::write(&revocations, armor::wrap(armor::REVOCATIONS, &list.encode())).unwrap();
        let private = Private {
            authority: root.key(),
            certificate_file: file,
            revocations_file: Some(revocations),
        };
        (private, key)
    }

    #[test]
    fn members_admit_each_other_until_one_is_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let root = identity(100);
        let (private, key) = member(folder.path(), &root, 1, "tokyo");
        let (other, other_key) = member(folder.path(), &root, 2, "osaka");
        let tokyo = Members::load(&private, key).unwrap();
        let osaka = Members::load(&other, other_key).unwrap();
        assert_eq!(tokyo.admit(&osaka.hello(), &other_key), Ok(()));
        assert!(tokyo.admit(&osaka.hello(), &key).is_err(), "another's certificate");
        assert!(tokyo.admit(b"lab", &other_key).is_err(), "an open network's word");
        let list = Revocations::sign(&root, 2, BTreeMap::from([(other_key, now())])).unwrap();
        let path = private.revocations_file.clone().unwrap();
        std::fs::write(&path, armor::wrap(armor::REVOCATIONS, &list.encode())).unwrap();
        tokyo.read_revocations(&private).unwrap();
        let refused = tokyo.admit(&osaka.hello(), &other_key).unwrap_err();
        assert!(refused.contains("revoked"), "{refused}");
        std::fs::write(&path, "nonsense").unwrap();
        assert!(tokyo.read_revocations(&private).is_err());
        assert!(tokyo.admit(&osaka.hello(), &other_key).is_err(), "the old list stays");
    }

    #[test]
    fn who_is_no_member_does_not_start() {
        let folder = tempfile::tempdir().unwrap();
        let (private, key) = member(folder.path(), &identity(100), 1, "tokyo");
        let foreign = Private { authority: identity(101).key(), ..private.clone() };
        assert!(Members::load(&foreign, key).is_err());
        assert!(Members::load(&private, identity(9).key()).is_err());
        let missing = Private { certificate_file: folder.path().join("none"), ..private };
        assert!(Members::load(&missing, key).is_err());
    }
}
