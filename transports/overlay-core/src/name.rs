//! Name: what a site is called, and who may be called so.
//!
//! in: the label before `.peer`, petnames of the configuration, records of the directory; out: the one
//! key that the name means here. Plain data. Kept: nobody gets a name by being first. A name is a
//! petname of this gateway's configuration; or the key itself, written as a label; or certified by the
//! network's authority. In this order, and nothing else is a name. Bound: [`limits::PETNAMES_MAX`].

use std::collections::BTreeMap;
use std::fmt;

use outsock_peer::PeerKey;

use crate::limits;
use crate::network::{Locator, NetworkId};
use crate::record::Record;

/// Base32 (RFC 4648) in lower case: domain names have no case, and a PeerId does.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// 32 bytes in base32, without padding.
const KEY_CHARACTERS: usize = 52;

/// One part of a domain name: 1 to 63 of a-z, 0-9 and '-', with no '-' at an end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(String);

impl Label {
    /// Reads one; upper case is lower case, as in DNS.
    ///
    /// # Errors
    /// The text is no label.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let text = text.to_ascii_lowercase();
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let fine = (1..=63).contains(&text.len())
            && text.bytes().all(plain)
            && !text.starts_with('-')
            && !text.ends_with('-')
            // What every gateway calls itself.
            && text != "local";
        if fine { Ok(Self(text)) } else { Err(NameError::NoLabel) }
    }

    /// The label that is this key.
    ///
    /// ```
    /// use outsock_overlay_core::Label;
    /// use outsock_peer::PeerKey;
    /// let key = PeerKey::new([7; 32]);
    /// let label = Label::of_key(key);
    /// assert_eq!(label.as_str().len(), 52);
    /// assert_eq!(label.key(), Some(key));
    /// assert_eq!(Label::parse("osaka")?.key(), None);
    /// # Ok::<(), outsock_overlay_core::NameError>(())
    /// ```
    #[must_use]
    pub fn of_key(key: PeerKey) -> Self {
        let mut text = String::with_capacity(KEY_CHARACTERS);
        let (mut bits, mut count) = (0_u32, 0);
        for byte in key.as_bytes().iter().chain([&0]) {
            bits = bits << 8 | u32::from(*byte);
            count += 8;
            while count >= 5 && text.len() < KEY_CHARACTERS {
                count -= 5;
                text.push(char::from(BASE32[(bits >> count & 31) as usize]));
            }
        }
        Self(text)
    }

    /// The key that this label is, if it is one.
    #[must_use]
    pub fn key(&self) -> Option<PeerKey> {
        if self.0.len() != KEY_CHARACTERS {
            return None;
        }
        let mut bytes = Vec::with_capacity(32);
        let (mut bits, mut count) = (0_u32, 0);
        for letter in self.0.bytes() {
            let value = BASE32.iter().position(|known| *known == letter)?;
            bits = (bits << 5 | u32::try_from(value).ok()?) & 0xffff;
            count += 5;
            if count >= 8 {
                count -= 8;
                bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
            }
        }
        let key = PeerKey::new(bytes.try_into().ok()?);
        // One spelling per key: no bit behind the last one is set.
        (Self::of_key(key) == *self).then_some(key)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a name means nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a part of a domain name.
    #[error("a site's name is 1 to 63 of a-z, 0-9 and '-', not \"local\"")]
    NoLabel,
    /// A petname that would hide a key.
    #[error("{0} is the text of a key, so it cannot be the name of another")]
    IsKey(Label),
    /// Two petnames are the same.
    #[error("{0} is the name of two keys")]
    Twice(Label),
    /// More than a gateway can have.
    #[error("more than {} names", limits::PETNAMES_MAX)]
    TooMany,
    /// Another key has the name.
    #[error("{name} belongs to {owner}, not to {claimant}")]
    Taken {
        /// The name.
        name: Label,
        /// Whose it is.
        owner: PeerKey,
        /// Who said it was his.
        claimant: PeerKey,
    },
    /// Nothing certifies it.
    #[error("{claimant} claims the name {name} without a certificate for it")]
    NotCertified {
        /// The name.
        name: Label,
        /// Who claims it.
        claimant: PeerKey,
    },
    /// This network has no authority, so the name can be nobody's.
    #[error(
        "{0} is nobody's name: this network has no authority, so a name is a [[peer]]'s or a key"
    )]
    NoAuthority(Label),
}

/// What to do about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It is this key; its record is at the key's place.
    Known(PeerKey),
    /// The directory knows, at this place: [`Names::accept`] what is found there.
    Ask(Locator),
}

/// The names that mean somebody at this gateway.
#[derive(Clone, Debug)]
pub struct Names {
    network: NetworkId,
    has_authority: bool,
    petnames: BTreeMap<Label, PeerKey>,
}

impl Names {
    /// From the configuration's petnames.
    ///
    /// # Errors
    /// A petname is given twice, or looks like a key.
    pub fn new(
        network: NetworkId,
        has_authority: bool,
        petnames: impl IntoIterator<Item = (Label, PeerKey)>,
    ) -> Result<Self, NameError> {
        let mut names = Self { network, has_authority, petnames: BTreeMap::new() };
        for (label, key) in petnames {
            if label.key().is_some_and(|own| own != key) {
                return Err(NameError::IsKey(label));
            }
            if names.petnames.len() >= limits::PETNAMES_MAX {
                return Err(NameError::TooMany);
            }
            if names.petnames.insert(label.clone(), key).is_some_and(|other| other != key) {
                return Err(NameError::Twice(label));
            }
        }
        Ok(names)
    }

    /// What to do about a name.
    ///
    /// # Errors
    /// It can be nobody's.
    pub fn look(&self, label: &Label) -> Result<Look, NameError> {
        if let Some(key) = self.petnames.get(label).copied().or_else(|| label.key()) {
            return Ok(Look::Known(key));
        }
        if self.has_authority {
            Ok(Look::Ask(self.network.locator_of_name(label)))
        } else {
            Err(NameError::NoAuthority(label.clone()))
        }
    }

    /// Whether a record, valid by itself, is that of a name's owner; then the owner.
    ///
    /// # Errors
    /// Another key's name, or nobody's.
    pub fn accept(&self, label: &Label, record: &Record) -> Result<PeerKey, NameError> {
        let claimant = record.key;
        match self.look(label)? {
            Look::Known(owner) if owner == claimant => Ok(owner),
            Look::Known(owner) => Err(NameError::Taken { name: label.clone(), owner, claimant }),
            Look::Ask(_) => {
                let certified = record.certificate.as_ref();
                let fits = certified.is_some_and(|it| it.key == claimant && it.name == *label);
                let error = NameError::NotCertified { name: label.clone(), claimant };
                if fits { Ok(claimant) } else { Err(error) }
            }
        }
    }

    /// What to call a key in front of people: its petname, or the key.
    #[must_use]
    pub fn show(&self, key: PeerKey) -> String {
        let petname = self.petnames.iter().find(|(_, known)| **known == key);
        petname.map_or_else(|| key.to_string(), |(label, _)| label.to_string())
    }
}

#[cfg(test)]
mod tests {
    use outsock_peer::Identity;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{NOW, authority, certified, open_record};

    fn label(text: &str) -> Label {
        Label::parse(text).unwrap()
    }

    #[test]
    fn a_petname_goes_before_a_certified_name_and_nobody_is_first() {
        let (root, trust) = authority();
        let one = Identity::from_seed([1; 32]).unwrap();
        let other = Identity::from_seed([2; 32]).unwrap();
        let names = |petnames: Vec<_>| Names::new(trust.network(), true, petnames).unwrap();
        let record = certified(&root, &one, "osaka");
        let squatter = certified(&root, &other, "kyoto");
        let plain = names(Vec::new());
        assert_eq!(
            plain.look(&label("osaka")),
            Ok(Look::Ask(trust.network().locator_of_name(&label("osaka"))))
        );
        assert_eq!(plain.accept(&label("osaka"), &record), Ok(one.key()));
        assert!(matches!(
            plain.accept(&label("osaka"), &squatter),
            Err(NameError::NotCertified { .. })
        ));
        let petnames = names(vec![(label("osaka"), other.key())]);
        assert_eq!(petnames.look(&label("osaka")), Ok(Look::Known(other.key())));
        assert!(matches!(petnames.accept(&label("osaka"), &record), Err(NameError::Taken { .. })));
        assert_eq!(petnames.accept(&label("osaka"), &squatter), Ok(other.key()));
        let by_key = Label::of_key(one.key());
        assert_eq!(plain.accept(&by_key, &record), Ok(one.key()));
        assert!(matches!(plain.accept(&by_key, &squatter), Err(NameError::Taken { .. })));
        let _ = NOW;
    }

    #[test]
    fn without_an_authority_a_name_is_a_petname_or_a_key() {
        let one = Identity::from_seed([1; 32]).unwrap();
        let network = NetworkId::open("lab");
        let names = Names::new(network, false, [(label("osaka"), one.key())]).unwrap();
        assert_eq!(names.look(&label("osaka")), Ok(Look::Known(one.key())));
        assert_eq!(names.look(&label("kyoto")), Err(NameError::NoAuthority(label("kyoto"))));
        let record = open_record(&one, network);
        assert_eq!(names.accept(&label("osaka"), &record), Ok(one.key()));
        assert!(names.accept(&label("kyoto"), &record).is_err());
        assert_eq!(names.show(one.key()), "osaka");
    }

    #[test]
    fn a_petname_hides_no_key() {
        let (one, other) = (PeerKey::new([1; 32]), PeerKey::new([2; 32]));
        let hides = Names::new(NetworkId::open("lab"), false, [(Label::of_key(one), other)]);
        assert!(matches!(hides, Err(NameError::IsKey(_))));
        let twice = [(label("a"), one), (label("a"), other)];
        assert!(matches!(
            Names::new(NetworkId::open("lab"), false, twice),
            Err(NameError::Twice(_))
        ));
    }

    proptest! {
        #[test]
        fn a_keys_label_leads_back_and_has_one_spelling(bytes: [u8; 32], text in "[a-z2-7]{52}") {
            let key = PeerKey::new(bytes);
            prop_assert_eq!(Label::of_key(key).key(), Some(key));
            let other = label(&text);
            if let Some(key) = other.key() {
                prop_assert_eq!(Label::of_key(key), other);
            }
        }

        #[test]
        fn any_text_is_a_label_or_an_error(text in ".{0,70}") {
            if let Ok(label) = Label::parse(&text) {
                prop_assert!(label.as_str().len() <= 63);
                let _ = label.key();
            }
        }
    }
}
