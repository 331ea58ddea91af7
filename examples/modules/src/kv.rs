//! `kv`, versions 1 and 2: texts by name, one store per guest. Version 2 adds [`COUNT`].

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use outsock_vmrpc::host::{CallError, Caller, HostModule};
use outsock_vmrpc::wire::{Malformed, Reader, Writer};
use outsock_vmrpc::{Errno, ModuleName, Version, VersionRange};

/// The module's name.
pub const NAME: &str = "kv";
/// Its versions.
pub const VERSIONS: VersionRange = match VersionRange::new(Version(1), Version(2)) {
    Some(versions) => versions,
    None => VersionRange::only(Version(2)),
};

/// Function 1: arguments [`pair`] of key and value. No result.
pub const PUT: u32 = 1;
/// Function 2: arguments: the key; the result is its value. ENOENT where there is none.
pub const GET: u32 = 2;
/// Function 3: arguments: the key. ENOENT where there is none.
pub const DELETE: u32 = 3;
/// Function 4, version 2: how many keys there are, 32 bits.
pub const COUNT: u32 = 4;

/// Keys of one guest.
const KEYS_MAX: usize = 10_000;

/// Key and value as arguments of [`PUT`]: the key with 16 bits of length before it, then the value.
pub fn pair(key: &str, value: &[u8]) -> Vec<u8> {
    Writer::new().text(key).raw(value).finish()
}

/// The store.
#[derive(Debug, Default)]
pub struct Kv {
    stores: Mutex<HashMap<String, HashMap<String, Vec<u8>>>>,
}

fn text(bytes: &[u8]) -> Result<&str, CallError> {
    std::str::from_utf8(bytes).map_err(|_| CallError::BadArguments)
}

fn parse(arguments: &[u8]) -> Result<(&str, &[u8]), Malformed> {
    let key = Reader::new(arguments).text(usize::from(u16::MAX))?;
    Ok((key, &arguments[2 + key.len()..]))
}

#[async_trait::async_trait]
impl HostModule for Kv {
    fn name(&self) -> ModuleName {
        NAME.parse().unwrap_or_else(|error| unreachable!("a constant: {error}"))
    }

    fn versions(&self) -> VersionRange {
        VERSIONS
    }

    async fn call(
        &self,
        caller: &Caller,
        version: Version,
        function: u32,
        arguments: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let store = stores.entry(caller.guest.to_string()).or_default();
        let missing = CallError::Errno(Errno::ENOENT);
        match function {
            PUT => {
                let (key, value) = parse(&arguments)?;
                if store.len() >= KEYS_MAX && !store.contains_key(key) {
                    return Err(CallError::Errno(Errno::ENOBUFS));
                }
                store.insert(key.to_owned(), value.to_vec());
                Ok(Vec::new())
            }
            GET => store.get(text(&arguments)?).cloned().ok_or(missing),
            DELETE => store.remove(text(&arguments)?).map(|_| Vec::new()).ok_or(missing),
            COUNT if version >= Version(2) => {
                let count = u32::try_from(store.len()).unwrap_or(u32::MAX);
                Ok(count.to_le_bytes().to_vec())
            }
            _ => Err(CallError::NoSuchFunction),
        }
    }
}
