//! Identity: a gateway's own Ed25519 key and the file that keeps it.
//!
//! in:  a PEM file (PKCS#8, `openssl pkey` reads it), or the system's random numbers
//! out: an [`Identity`]: the public key, the DER form that TLS signs with, keys derived from it
//! owner: the process; the secret is never printed, not even by `Debug`
//! keeps: a file that others may read is refused; a file that exists is never overwritten
//! bound: [`limits::KEY_FILE_BYTES_MAX`]

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::key::PeerKey;
use crate::limits;

/// PKCS#8 of an Ed25519 key, up to the 32 bytes of the seed (RFC 8410, 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("cannot use the key file {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// It is there already.
    #[error("{0} exists already, and a key is never overwritten: remove it first if you mean it")]
    Exists(PathBuf),
    /// Others may read it.
    #[error("others may read the key file {path} (mode {mode:04o}): chmod 600 {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It holds something else.
    #[error("{0} holds no Ed25519 key: make one with `outsock-gateway keygen`")]
    NoKey(PathBuf),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
}

/// A gateway's secret key.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    seed: [u8; 32],
    key: PeerKey,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.key).finish()
    }
}

impl Identity {
    /// A new one.
    pub fn generate() -> Result<Self, IdentityError> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| IdentityError::NoRandom)?;
        Self::from_seed(seed).ok_or(IdentityError::NoRandom)
    }

    /// The key of a seed: for tests, and for who keeps keys elsewhere.
    pub fn from_seed(seed: [u8; 32]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).ok()?;
        let key = PeerKey::new(pair.public_key().as_ref().try_into().ok()?);
        Some(Self { seed, key })
    }

    /// Reads a key file.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let failed = |source| IdentityError::File { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Open { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.take(limits::KEY_FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
        Self::from_pem(&text).ok_or_else(|| IdentityError::NoKey(path.to_owned()))
    }

    /// Makes a key and its file, with mode 0600, and its folder where that is missing.
    pub fn create(path: &Path) -> Result<Self, IdentityError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => IdentityError::Exists(path.to_owned()),
            _ => IdentityError::File { path: path.to_owned(), source },
        };
        let identity = Self::generate()?;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        file.write_all(identity.to_pem().as_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        Ok(identity)
    }

    /// The public half.
    pub fn key(&self) -> PeerKey {
        self.key
    }

    /// The secret in PKCS#8, for a TLS library.
    pub fn to_pkcs8(&self) -> Vec<u8> {
        [&PKCS8_PREFIX[..], &self.seed].concat()
    }

    /// The seed, for libraries that have a form of their own (an overlay's keypair).
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// Signs a message (Ed25519, RFC 8032).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let pair = Ed25519KeyPair::from_seed_unchecked(&self.seed);
        let pair = pair.expect("the seed made this identity's key");
        let mut signature = [0; 64];
        signature.copy_from_slice(pair.sign(message).as_ref());
        signature
    }

    /// A key for another use: the same after a restart, and it says nothing about the secret.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &self.seed);
        let tag = ring::hmac::sign(&key, purpose.as_bytes());
        let mut derived = [0; 32];
        derived.copy_from_slice(tag.as_ref());
        derived
    }

    fn to_pem(&self) -> String {
        format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", BASE64.encode(self.to_pkcs8()))
    }

    fn from_pem(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once(PEM_BEGIN)?;
        let (body, _) = rest.split_once(PEM_END)?;
        let plain: String = body.split_ascii_whitespace().collect();
        let der = BASE64.decode(plain).ok()?;
        // A later form (RFC 5958) has the public key behind the seed: it follows from it.
        let seed = if let Some(rest) = der.strip_prefix(&PKCS8_PREFIX[..]) {
            rest.get(..32)?
        } else {
            let inner = der.windows(4).position(|w| w == [0x04, 0x22, 0x04, 0x20])?;
            let is_ed25519 = der.get(..inner)?.windows(3).any(|w| w == [0x2b, 0x65, 0x70]);
            is_ed25519.then_some(())?;
            der.get(inner + 4..inner + 36)?
        };
        Self::from_seed(seed.try_into().ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_is_private_and_leads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/gateway.key");
        let made = Identity::create(&path).unwrap();
        assert_eq!(Identity::load(&path).unwrap(), made);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert!(matches!(Identity::create(&path), Err(IdentityError::Exists(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Identity::load(&path).unwrap_err().to_string();
        assert!(error.contains("0640") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_key_is_the_one_of_its_seed() {
        // RFC 8032, 7.1, test 1.
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let bytes = |text: &str| -> [u8; 32] {
            let byte = |at: usize| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap();
            std::array::from_fn(byte)
        };
        let identity = Identity::from_seed(bytes(seed)).unwrap();
        assert_eq!(identity.key().as_bytes(), &bytes(public));
        assert_eq!(Identity::from_pem(&identity.to_pem()), Some(identity.clone()));
        assert!(!format!("{identity:?}").contains("9d61"));
        assert_ne!(identity.derive("one"), identity.derive("other"));
    }

    #[test]
    fn what_is_no_key_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let missing = Identity::load(&path).unwrap_err();
        assert!(matches!(missing, IdentityError::File { .. }), "{missing}");
        for text in ["", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
        {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let error = Identity::load(&path).unwrap_err();
            assert!(matches!(error, IdentityError::NoKey(_)), "{error}");
        }
    }
}
