//! Record: what the directory says of a node, signed by the node.
//!
//! in: bytes of anybody; out: a [`Record`] that its node has signed, for this network, not long ago.
//! Plain data. Kept: the same checks on what others put here and on what others answer; a record lies
//! only where its key or its certified name belongs; in a private network only members have records.
//! Bound: [`limits::RECORD_BYTES_MAX`].
//!
//! On the wire: `version u8, network 32, key 32, life u64, sequence u64, issued u64, lifetime u32,
//! count u8, addresses, count u8, services (text), certificate or none, load or none, signature 64`.

use outsock_peer::{Identity, PeerKey};
use outsock_vmrpc::wire::{Malformed, Reader, Writer};

use crate::address::Address;
use crate::authority::Authority;
use crate::certificate::{Certificate, CertificateError};
use crate::hello::{put_certificate, read_certificate};
use crate::limits;
use crate::network::{Locator, NetworkId};
use crate::signed;
use crate::time::UnixTime;

const VERSION: u8 = 1;
const KIND: &str = "record 1";

/// What a supernode carries, and could.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Nodes that hold a reservation.
    pub reservations: u16,
    /// How many may.
    pub reservations_max: u16,
    /// Connections that pass through.
    pub circuits: u16,
    /// How many may.
    pub circuits_max: u16,
    /// Bytes per second that pass through, averaged.
    pub bytes_per_second: u64,
    /// How many may.
    pub bytes_per_second_max: u64,
}

impl Load {
    /// The fullest of its resources, thousandths; 1000 and more = full.
    #[must_use]
    pub fn per_mille(&self) -> u16 {
        let part = |used: u64, max: u64| used.saturating_mul(1000).checked_div(max).unwrap_or(1000);
        let fullest = part(self.reservations.into(), self.reservations_max.into())
            .max(part(self.circuits.into(), self.circuits_max.into()))
            .max(part(self.bytes_per_second, self.bytes_per_second_max));
        u16::try_from(fullest.min(2000)).unwrap_or(2000)
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Of which network.
    pub network: NetworkId,
    /// Of whom.
    pub key: PeerKey,
    /// Which life of the node says so: drawn at random when its process starts. A record of one's own
    /// key with another life and a later moment is that of a second host with the same key.
    pub life: u64,
    /// Counts up with each new record of the node.
    pub sequence: u64,
    /// When it was made.
    pub issued: UnixTime,
    /// For how long it counts, seconds.
    pub lifetime_s: u32,
    /// Where the node can be reached, the best first.
    pub addresses: Vec<Address>,
    /// What it offers: what it says, not who may use it.
    pub services: Vec<String>,
    /// Its certificate, in a private network.
    pub certificate: Option<Certificate>,
    /// What it carries, if it is a supernode.
    pub supernode: Option<Load>,
}

/// What a record is looked at for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// This network.
    pub network: NetworkId,
    /// The place where it lies; `None` = it came from its node itself.
    pub at: Option<Locator>,
    /// The network's authority, if it is private.
    pub authority: Option<&'a Authority>,
}

/// Why bytes are no record that counts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Longer than any.
    #[error("a record of {0} bytes is too long, at most {max}", max = limits::RECORD_BYTES_MAX)]
    TooLong(usize),
    /// Another version.
    #[error("version {0} of records is not known here, only {VERSION}")]
    Version(u8),
    /// Not formed well.
    #[error("the record is none: {0}")]
    Malformed(#[from] Malformed),
    /// Not signed by the key that it is of.
    #[error("the record's signature is wrong")]
    Signature,
    /// Of another network.
    #[error("the record is of another network")]
    OtherNetwork,
    /// It lies where another key's or name's record belongs.
    #[error("the record of {0} lies in the wrong place")]
    Misplaced(PeerKey),
    /// From the future.
    #[error("the record was made at {from} and it is {now} here: is a clock wrong?")]
    Future {
        /// When it says it was made.
        from: UnixTime,
        /// Our clock.
        now: UnixTime,
    },
    /// Too old.
    #[error("the record ended at {end} and it is {now} here")]
    Expired {
        /// When.
        end: UnixTime,
        /// Our clock.
        now: UnixTime,
    },
    /// For longer than any.
    #[error(
        "a record counts for at most {max} s, this one would for {0}",
        max = limits::RECORD_LIFETIME_S_MAX
    )]
    Lifetime(u32),
    /// Not a member's.
    #[error("the record has no certificate of this network")]
    NoCertificate,
    /// A certificate that does not count, or another's.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// An older one of a node that has said something newer.
    #[error("the record has sequence {sequence}, and {newest} was seen")]
    Replayed {
        /// Its own.
        sequence: u64,
        /// The highest of its key.
        newest: u64,
    },
}

/// A key on the wire.
pub(crate) fn key(reader: &mut Reader<'_>) -> Result<PeerKey, Malformed> {
    Ok(PeerKey::new(reader.array()?))
}

fn service(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_.".contains(&c);
    !text.is_empty() && text.len() <= limits::SERVICE_BYTES_MAX && text.bytes().all(plain)
}

impl Record {
    /// The bytes, signed.
    ///
    /// # Errors
    /// The record says more than fits; or it is not the identity's.
    pub fn sign(&self, identity: &Identity) -> Result<Vec<u8>, RecordError> {
        if self.key != identity.key() {
            return Err(RecordError::Signature);
        }
        if self.addresses.len() > limits::ADDRESSES_MAX
            || self.services.len() > limits::SERVICES_MAX
            || !self.addresses.iter().all(Address::is_possible)
            || !self.services.iter().all(|name| service(name))
        {
            return Err(Malformed("too many or bad addresses or services").into());
        }
        if self.lifetime_s > limits::RECORD_LIFETIME_S_MAX {
            return Err(RecordError::Lifetime(self.lifetime_s));
        }
        let bytes = signed::seal(KIND, self.body(), identity);
        let fits = bytes.len() <= limits::RECORD_BYTES_MAX;
        if fits { Ok(bytes) } else { Err(RecordError::TooLong(bytes.len())) }
    }

    fn body(&self) -> Vec<u8> {
        let count = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
        let mut writer = Writer::new()
            .u8(VERSION)
            .raw(self.network.as_bytes())
            .raw(self.key.as_bytes())
            .u64(self.life)
            .u64(self.sequence)
            .u64(self.issued.0)
            .u32(self.lifetime_s)
            .u8(count(self.addresses.len()));
        writer = self.addresses.iter().fold(writer, |writer, address| address.put(writer));
        writer = writer.u8(count(self.services.len()));
        writer = self.services.iter().fold(writer, |writer, name| writer.text(name));
        writer = put_certificate(writer, self.certificate.as_ref());
        match self.supernode {
            None => writer.u8(0),
            Some(load) => writer
                .u8(1)
                .u16(load.reservations)
                .u16(load.reservations_max)
                .u16(load.circuits)
                .u16(load.circuits_max)
                .u64(load.bytes_per_second)
                .u64(load.bytes_per_second_max),
        }
        .finish()
    }

    /// Reads a record that counts: signed by its node, for this network, in this place, now.
    ///
    /// # Errors
    /// It does not count.
    pub fn check(bytes: &[u8], wanted: &Wanted<'_>, now: UnixTime) -> Result<Self, RecordError> {
        if bytes.len() > limits::RECORD_BYTES_MAX {
            return Err(RecordError::TooLong(bytes.len()));
        }
        let (body, signature) = signed::split(bytes).ok_or(Malformed("ends early"))?;
        let record = Self::read(body)?;
        if record.network != wanted.network {
            return Err(RecordError::OtherNetwork);
        }
        if wanted.at.is_some_and(|at| !record.belongs_to(at)) {
            return Err(RecordError::Misplaced(record.key));
        }
        if record.lifetime_s > limits::RECORD_LIFETIME_S_MAX {
            return Err(RecordError::Lifetime(record.lifetime_s));
        }
        if record.issued.is_future(now) {
            return Err(RecordError::Future { from: record.issued, now });
        }
        let end = record.end();
        if end.has_passed(now) {
            return Err(RecordError::Expired { end, now });
        }
        if !signed::holds(KIND, body, signature, record.key) {
            return Err(RecordError::Signature);
        }
        if let Some(authority) = wanted.authority {
            let certificate = record.certificate.as_ref().ok_or(RecordError::NoCertificate)?;
            authority.check(certificate, now)?;
        }
        Ok(record)
    }

    fn read(body: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(body);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let network = NetworkId::new(reader.array()?);
        let key = key(&mut reader)?;
        let (life, sequence) = (reader.u64()?, reader.u64()?);
        let (issued, lifetime_s) = (UnixTime(reader.u64()?), reader.u32()?);
        let mut addresses = Vec::new();
        for _ in 0..bounded(reader.u8()?, limits::ADDRESSES_MAX)? {
            addresses.push(Address::read(&mut reader)?);
        }
        let mut services = Vec::new();
        for _ in 0..bounded(reader.u8()?, limits::SERVICES_MAX)? {
            let name = reader.text(limits::SERVICE_BYTES_MAX)?;
            if !service(name) {
                return Err(Malformed("bad service").into());
            }
            services.push(name.to_owned());
        }
        let certificate = read_certificate(&mut reader)?.map(Certificate::decode).transpose()?;
        if certificate.as_ref().is_some_and(|certificate| certificate.key != key) {
            return Err(RecordError::NoCertificate);
        }
        let supernode = match reader.u8()? {
            0 => None,
            1 => Some(Load {
                reservations: reader.u16()?,
                reservations_max: reader.u16()?,
                circuits: reader.u16()?,
                circuits_max: reader.u16()?,
                bytes_per_second: reader.u64()?,
                bytes_per_second_max: reader.u64()?,
            }),
            _ => return Err(Malformed("neither a load nor none").into()),
        };
        reader.finish()?;
        Ok(Self {
            network,
            key,
            life,
            sequence,
            issued,
            lifetime_s,
            addresses,
            services,
            certificate,
            supernode,
        })
    }

    fn belongs_to(&self, at: Locator) -> bool {
        let named = self.certificate.as_ref();
        at == self.network.locator_of_key(self.key)
            || named.is_some_and(|named| at == self.network.locator_of_name(&named.name))
    }

    /// Where it is put: under its key, and under its name where that is certified.
    #[must_use]
    pub fn locators(&self) -> Vec<Locator> {
        let named = self.certificate.iter().map(|it| self.network.locator_of_name(&it.name));
        std::iter::once(self.network.locator_of_key(self.key)).chain(named).collect()
    }

    /// When it ends.
    #[must_use]
    pub fn end(&self) -> UnixTime {
        self.issued.after_s(self.lifetime_s.into())
    }

    /// Which of two records that count wins in one place: of one node, the later one; of two nodes that
    /// were certified for one name, the one that was certified later.
    #[must_use]
    pub fn supersedes(&self, other: &Self) -> bool {
        if self.key == other.key {
            return self.sequence > other.sequence;
        }
        let rank = |record: &Self| (record.certificate.as_ref().map(|it| it.issued), record.key);
        rank(self) > rank(other)
    }

    /// Whether this record of our own key was made by another host.
    #[must_use]
    pub fn is_a_twins(&self, own: &Self) -> bool {
        self.key == own.key && self.life != own.life && self.issued > own.issued
    }
}

fn bounded(count: u8, max: usize) -> Result<usize, Malformed> {
    let count = usize::from(count);
    if count <= max { Ok(count) } else { Err(Malformed("too many addresses or services")) }
}

#[cfg(test)]
mod tests;
