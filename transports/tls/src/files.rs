//! Files: certificates and keys in PEM form.
//!
//! in: paths; out: what rustls takes, or an error that names the file and never shows what is in it.
//! Bound: [`limits::PEM_BYTES_MAX`].

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::limits;
use crate::settings::{Identity, Roots, Setting, SetupError};

fn read(path: &Path, setting: Setting) -> Result<Vec<u8>, SetupError> {
    let wrong = |why: String| SetupError::new(setting, format!("{}: {why}", path.display()));
    let file =
        std::fs::File::open(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let mut bytes = Vec::new();
    let read = file.take(limits::PEM_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > limits::PEM_BYTES_MAX {
        return Err(wrong("is larger than 4 MiB".to_owned()));
    }
    Ok(bytes)
}

fn certificates(path: &Path, setting: Setting) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let bytes = read(path, setting)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => {
            let message = format!("{}: has no CERTIFICATE in PEM form", path.display());
            Err(SetupError::new(setting, message))
        }
        Err(_) => {
            let message = format!("{}: is broken PEM", path.display());
            Err(SetupError::new(setting, message))
        }
    }
}

/// A certificate that fits its key.
pub(crate) fn identity(identity: &Identity) -> Result<Arc<CertifiedKey>, SetupError> {
    let chain = certificates(&identity.certificate, Setting::Certificate)?;
    let at = identity.key.display();
    let wrong = |why: &str| SetupError::new(Setting::Key, format!("{at}: {why}"));
    let key = PrivateKeyDer::from_pem_slice(&read(&identity.key, Setting::Key)?)
        .map_err(|_| wrong("has no private key in PEM form, or an encrypted one"))?;
    let provider = rustls::crypto::ring::default_provider();
    match CertifiedKey::from_der(chain, key, &provider) {
        Ok(certified) => Ok(Arc::new(certified)),
        Err(rustls::Error::InconsistentKeys(_)) => Err(wrong("is not the key of the certificate")),
        Err(_) => Err(wrong("is a key of a kind that is not supported, or the certificate is")),
    }
}

/// Authorities of some files.
pub(crate) fn file_roots<'a>(
    paths: impl Iterator<Item = &'a Path>,
    setting: Setting,
) -> Result<RootCertStore, SetupError> {
    let mut store = RootCertStore::empty();
    for path in paths {
        for certificate in certificates(path, setting)? {
            store.add(certificate).map_err(|error| {
                SetupError::new(setting, format!("{}: {error}", path.display()))
            })?;
        }
    }
    Ok(store)
}

/// Authorities of files and of the system.
pub(crate) fn roots(roots: &[Roots]) -> Result<RootCertStore, SetupError> {
    let files = roots.iter().filter_map(|roots| match roots {
        Roots::File(path) => Some(path.as_path()),
        Roots::System => None,
    });
    let mut store = file_roots(files, Setting::Roots)?;
    if roots.contains(&Roots::System) {
        let found = rustls_native_certs::load_native_certs();
        let (added, _) = store.add_parsable_certificates(found.certs);
        if added == 0 {
            let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
            let message = format!(
                "this system has no CA certificates{why}: install ca-certificates, or name a file"
            );
            return Err(SetupError::new(Setting::Roots, message));
        }
    }
    Ok(store)
}
