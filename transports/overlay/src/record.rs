//! Record: where a gateway is, signed by itself.
//!
//! in:  the node's own addresses; bytes that anyone put into the directory
//! out: bytes to put there; a checked [`Record`], or why the bytes are none
//! owner: nobody; plain values
//! keeps: a record says nothing about any key but its signer's, is of one network, and ends. The moment is
//!        an argument
//! bound: [`limits::RECORD_BYTES_MAX`], [`limits::ADDRESSES_MAX`], [`limits::RECORD_LIFETIME_MAX`]
//!
//! On the wire, integers little-endian, a text with its length as u16 before it: `version u8, network
//! text, key 32, issued u64 (ms since 1970), lifetime u32 (s), count u8, addresses text ..., signature
//! 64` (Ed25519 over a fixed text and all that is before it).

use std::time::Duration;

use libp2p::identity::{Keypair, PublicKey, ed25519};
use libp2p::kad::RecordKey;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use outsock_peer::PeerKey;
use outsock_vmrpc::wire::{Malformed, Reader, Writer};

use crate::key::peer_id;
use crate::limits;

const VERSION: u8 = 1;
const CONTEXT: &[u8] = b"outsock overlay record\n";
const SIGNATURE_BYTES: usize = 64;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose.
    pub key: PeerKey,
    /// When it was signed, milliseconds since 1970. Of two, the later one holds.
    pub issued_ms: u64,
    /// How long it holds.
    pub lifetime: Duration,
    /// Where the gateway is.
    pub(crate) addresses: Vec<Multiaddr>,
}

/// Why bytes are no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Longer than any.
    #[error("a record of {0} bytes is too long")]
    TooLong(usize),
    /// Not formed well.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Of another version.
    #[error("a record of version {0}, only {VERSION} is known")]
    Version(u8),
    /// Of another network.
    #[error("a record of another network")]
    OtherNetwork,
    /// Kept where another key's belongs.
    #[error("a record of another key")]
    OtherKey,
    /// The signature is not the key's.
    #[error("the signature is wrong")]
    Signature,
    /// Signed in the future: a clock is wrong.
    #[error("signed {0} s in the future: one of the clocks is wrong")]
    Future(u64),
    /// Over.
    #[error("it ended {0} s ago")]
    Expired(u64),
    /// It would hold too long.
    #[error("a lifetime of {0} s is too long")]
    Lifetime(u32),
    /// An address that cannot be one.
    #[error("an address is none")]
    Address,
}

impl Record {
    /// Its addresses, as texts.
    pub fn addresses(&self) -> impl Iterator<Item = String> + '_ {
        self.addresses.iter().map(ToString::to_string)
    }

    /// Its place in the directory.
    pub(crate) fn place(network: &str, key: &PeerKey) -> RecordKey {
        RecordKey::new(&[b"outsock/1/", network.as_bytes(), b"/", key.as_bytes()].concat())
    }

    /// The bytes. Addresses beyond the limit are left out.
    pub(crate) fn sign(
        network: &str,
        keypair: &Keypair,
        addresses: &[Multiaddr],
        now_ms: u64,
    ) -> Option<Vec<u8>> {
        let public = keypair.public().try_into_ed25519().ok()?;
        let addresses = &addresses[..addresses.len().min(limits::ADDRESSES_MAX)];
        let writer = Writer::new().u8(VERSION).text(network).raw(&public.to_bytes());
        let writer = put_u64(writer, now_ms);
        let seconds = u32::try_from(limits::RECORD_LIFETIME.as_secs()).ok()?;
        let writer = writer.u32(seconds).u8(u8::try_from(addresses.len()).ok()?);
        let texts = addresses.iter().map(ToString::to_string);
        let body = texts.fold(writer, |writer, text| writer.text(&text)).finish();
        let signature = keypair.sign(&[CONTEXT, &body].concat()).ok()?;
        Some([body, signature].concat())
    }

    /// Looks at bytes that were found, or are to be kept, at `place`.
    pub(crate) fn check(
        bytes: &[u8],
        network: &str,
        place: &RecordKey,
        now_ms: u64,
    ) -> Result<Self, RecordError> {
        if bytes.len() > limits::RECORD_BYTES_MAX {
            return Err(RecordError::TooLong(bytes.len()));
        }
        let length = bytes.len().checked_sub(SIGNATURE_BYTES);
        let length = length.ok_or(RecordError::Malformed(Malformed("too short")))?;
        let (body, signature) = bytes.split_at(length);
        let mut reader = Reader::new(body);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        if reader.text(limits::NETWORK_BYTES_MAX)? != network {
            return Err(RecordError::OtherNetwork);
        }
        let raw: [u8; 32] =
            reader.bytes(32)?.try_into().map_err(|_| Malformed("a key has 32 bytes"))?;
        let key = PeerKey::new(raw);
        if Self::place(network, &key) != *place {
            return Err(RecordError::OtherKey);
        }
        let public =
            ed25519::PublicKey::try_from_bytes(&raw).map_err(|_| RecordError::Signature)?;
        let signed = [CONTEXT, body].concat();
        if !PublicKey::from(public).verify(&signed, signature) {
            return Err(RecordError::Signature);
        }
        let issued_ms = u64::from(reader.u32()?) | u64::from(reader.u32()?) << 32;
        let seconds = reader.u32()?;
        let lifetime = Duration::from_secs(seconds.into());
        holds(issued_ms, lifetime, now_ms)?;
        if lifetime > limits::RECORD_LIFETIME_MAX {
            return Err(RecordError::Lifetime(seconds));
        }
        let addresses = addresses(&mut reader, &key)?;
        reader.finish()?;
        Ok(Self { key, issued_ms, lifetime, addresses })
    }
}

/// Clocks may differ by [`limits::CLOCK_SKEW_MAX`].
fn holds(issued_ms: u64, lifetime: Duration, now_ms: u64) -> Result<(), RecordError> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let skew = millis(limits::CLOCK_SKEW_MAX);
    if issued_ms > now_ms.saturating_add(skew) {
        return Err(RecordError::Future((issued_ms - now_ms) / 1000));
    }
    let end = issued_ms.saturating_add(millis(lifetime));
    if now_ms > end.saturating_add(skew) {
        return Err(RecordError::Expired((now_ms - end) / 1000));
    }
    Ok(())
}

fn addresses(reader: &mut Reader<'_>, key: &PeerKey) -> Result<Vec<Multiaddr>, RecordError> {
    let count = usize::from(reader.u8()?);
    if count > limits::ADDRESSES_MAX {
        return Err(RecordError::Address);
    }
    let mut addresses = Vec::new();
    for _ in 0..count {
        let text = reader.text(limits::ADDRESS_BYTES_MAX)?;
        let address: Multiaddr = text.parse().map_err(|_| RecordError::Address)?;
        addresses.push(of_peer(address, peer_id(key).ok_or(RecordError::Address)?));
    }
    Ok(addresses)
}

/// The address, with whose it is at the end.
pub(crate) fn of_peer(address: Multiaddr, peer: PeerId) -> Multiaddr {
    match address.iter().last() {
        Some(Protocol::P2p(last)) if last == peer => address,
        _ => address.with(Protocol::P2p(peer)),
    }
}

fn put_u64(writer: Writer, value: u64) -> Writer {
    let half = |shift: u32| u32::try_from(value >> shift & 0xffff_ffff).unwrap_or(u32::MAX);
    writer.u32(half(0)).u32(half(32))
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;
    const HOUR: u64 = 3_600_000;

    fn signed(seed: u8) -> (Vec<u8>, PeerKey) {
        let keypair = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
        let at = ["/ip4/192.0.2.1/tcp/7448".parse().unwrap()];
        let key = crate::key::peer_key(&keypair.public().to_peer_id()).unwrap();
        (Record::sign("net", &keypair, &at, NOW).unwrap(), key)
    }

    fn check(bytes: &[u8], key: &PeerKey, now: u64) -> Result<Record, RecordError> {
        Record::check(bytes, "net", &Record::place("net", key), now)
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let (bytes, key) = signed(1);
        let record = check(&bytes, &key, NOW).unwrap();
        assert_eq!((record.key, record.issued_ms), (key, NOW));
        let at: Vec<_> = record.addresses().collect();
        assert_eq!(at, [format!("/ip4/192.0.2.1/tcp/7448/p2p/{key}")]);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let (bytes, key) = signed(1);
        for at in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(check(&bad, &key, NOW).is_err(), "bit {at}");
        }
        for end in 0..bytes.len() {
            assert!(check(&bytes[..end], &key, NOW).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn what_is_not_the_keys_own_is_refused() {
        let ((bytes, key), (others, _)) = (signed(1), signed(2));
        assert_eq!(check(&others, &key, NOW), Err(RecordError::OtherKey));
        let place = Record::place("other", &key);
        assert_eq!(Record::check(&bytes, "other", &place, NOW), Err(RecordError::OtherNetwork));
        // Another's signature under our key.
        let mut forged = bytes.clone();
        let at = forged.len() - SIGNATURE_BYTES;
        forged[at..].copy_from_slice(&others[others.len() - SIGNATURE_BYTES..]);
        assert_eq!(check(&forged, &key, NOW), Err(RecordError::Signature));
        let long = vec![0; limits::RECORD_BYTES_MAX + 1];
        assert_eq!(check(&long, &key, NOW), Err(RecordError::TooLong(long.len())));
    }

    #[test]
    fn clocks_may_differ_a_little() {
        let (bytes, key) = signed(1);
        assert!(check(&bytes, &key, NOW - 4 * 60_000).is_ok());
        assert_eq!(check(&bytes, &key, NOW - 2 * HOUR), Err(RecordError::Future(7200)));
        assert!(check(&bytes, &key, NOW + HOUR).is_ok());
        assert_eq!(check(&bytes, &key, NOW + 3 * HOUR), Err(RecordError::Expired(7200)));
    }
}
