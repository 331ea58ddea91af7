//! Records: what counts, and all that does not.

use proptest::prelude::*;

use super::*;
use crate::address::Carrier;
use crate::name::Label;
use crate::testing::{NOW, authority, certified, open_record};

fn wanted(record: &Record) -> Wanted<'static> {
    let at = Some(record.network.locator_of_key(record.key));
    Wanted { network: record.network, at, authority: None }
}

fn node() -> (Identity, Record) {
    let identity = Identity::from_seed([1; 32]).unwrap();
    let record = open_record(&identity, NetworkId::open("lab"));
    (identity, record)
}

#[test]
fn a_record_leads_back() {
    let (identity, record) = node();
    let bytes = record.sign(&identity).unwrap();
    assert_eq!(Record::check(&bytes, &wanted(&record), NOW), Ok(record));
}

#[test]
fn poison_is_refused() {
    let (identity, record) = node();
    let wanted = wanted(&record);
    let check = |bytes: &[u8]| Record::check(bytes, &wanted, NOW);
    let good = record.sign(&identity).unwrap();
    // Unsigned, and signed by another.
    assert_eq!(check(&[&good[..good.len() - 64], &[0; 64]].concat()), Err(RecordError::Signature));
    let thief = Identity::from_seed([2; 32]).unwrap();
    assert_eq!(record.sign(&thief), Err(RecordError::Signature));
    assert_eq!(check(&signed::seal(KIND, record.body(), &thief)), Err(RecordError::Signature));
    // Too large, for too long, too old, too new: signed by the right key each.
    assert_eq!(check(&vec![0; 65 * 1024]), Err(RecordError::TooLong(65 * 1024)));
    let sealed = |record: Record| signed::seal(KIND, record.body(), &identity);
    let huge = Record { lifetime_s: u32::MAX, ..record.clone() };
    assert_eq!(check(&sealed(huge)), Err(RecordError::Lifetime(u32::MAX)));
    let old = Record { issued: UnixTime(NOW.0 - 10_000), lifetime_s: 60, ..record.clone() };
    assert!(matches!(check(&sealed(old)), Err(RecordError::Expired { .. })));
    let new = Record { issued: NOW.after_s(7200), ..record.clone() };
    let error = check(&sealed(new)).unwrap_err();
    assert!(error.to_string().contains("clock"), "{error}");
    let early = Record { issued: NOW.after_s(299), ..record.clone() };
    assert!(check(&sealed(early)).is_ok(), "clocks differ a little");
    // Of another network, and another's place.
    let foreign = Record { network: NetworkId::open("other"), ..record.clone() };
    assert_eq!(check(&sealed(foreign)), Err(RecordError::OtherNetwork));
    let at = Some(record.network.locator_of_key(thief.key()));
    let misplaced = Record::check(&good, &Wanted { at, ..wanted }, NOW);
    assert_eq!(misplaced, Err(RecordError::Misplaced(record.key)));
    let version = [&[9], &good[1..]].concat();
    assert_eq!(check(&version), Err(RecordError::Version(9)));
}

#[test]
fn in_a_private_network_only_members_have_records() {
    let (root, trust) = authority();
    let identity = Identity::from_seed([3; 32]).unwrap();
    let record = certified(&root, &identity, "osaka");
    let name = Label::parse("osaka").unwrap();
    let network = trust.network();
    let at = |at| Wanted { network, at: Some(at), authority: Some(&trust) };
    let bytes = record.sign(&identity).unwrap();
    for place in record.locators() {
        assert_eq!(Record::check(&bytes, &at(place), NOW), Ok(record.clone()));
    }
    let kyoto = at(network.locator_of_name(&Label::parse("kyoto").unwrap()));
    assert_eq!(Record::check(&bytes, &kyoto, NOW), Err(RecordError::Misplaced(record.key)));
    let plain = Record { certificate: None, ..record.clone() }.sign(&identity).unwrap();
    let by_key = at(network.locator_of_key(record.key));
    assert_eq!(Record::check(&plain, &by_key, NOW), Err(RecordError::NoCertificate));
    // A certificate that somebody else made for the name, in the right place.
    let foreign = Identity::from_seed([77; 32]).unwrap();
    let forged = Certificate::sign(&foreign, identity.key(), name, NOW, 600).unwrap();
    let forged = Record { certificate: Some(forged), ..record }.sign(&identity).unwrap();
    let by_name = at(network.locator_of_name(&Label::parse("osaka").unwrap()));
    assert!(matches!(
        Record::check(&forged, &by_name, NOW),
        Err(RecordError::Certificate(CertificateError::OtherAuthority(_)))
    ));
}

#[test]
fn the_later_one_wins_whoever_asks_first() {
    let (root, _) = authority();
    let (one, other) = ([4; 32], [5; 32]).map_identities();
    let first = certified(&root, &one, "osaka");
    let second = Record { sequence: first.sequence + 1, ..first.clone() };
    assert!(second.supersedes(&first) && !first.supersedes(&second));
    // The authority gave the name to another key later: that one's it is, with whatever sequence.
    let mut moved = certified(&root, &other, "osaka");
    let name = Label::parse("osaka").unwrap();
    let later = Certificate::sign(&root, other.key(), name, NOW.after_s(5), 600).unwrap();
    moved.certificate = Some(later);
    moved.sequence = 0;
    assert!(moved.supersedes(&second) && !second.supersedes(&moved));
}

trait MapIdentities {
    fn map_identities(self) -> (Identity, Identity);
}

impl MapIdentities for ([u8; 32], [u8; 32]) {
    fn map_identities(self) -> (Identity, Identity) {
        (Identity::from_seed(self.0).unwrap(), Identity::from_seed(self.1).unwrap())
    }
}

#[test]
fn a_second_host_with_our_key_is_seen() {
    let (_, own) = node();
    assert!(!own.is_a_twins(&own));
    let before = Record { life: 9, issued: UnixTime(own.issued.0 - 60), ..own.clone() };
    assert!(!before.is_a_twins(&own), "our own life before the restart");
    let twin = Record { life: 9, issued: own.issued.after_s(60), ..own.clone() };
    assert!(twin.is_a_twins(&own));
}

#[test]
fn load_is_that_of_the_fullest_resource() {
    let load = Load { reservations: 64, reservations_max: 128, ..Load::default() };
    assert_eq!(load.per_mille(), 1000, "without circuits it is full");
    let load = Load { circuits_max: 10, bytes_per_second_max: 1, ..load };
    assert_eq!(load.per_mille(), 500);
    assert_eq!(Load { bytes_per_second: u64::MAX, ..load }.per_mille(), 2000);
}

fn addresses() -> impl Strategy<Value = Vec<Address>> {
    let carrier = prop_oneof![Just(Carrier::Tcp), Just(Carrier::Quic), Just(Carrier::Peer)];
    let relay = proptest::option::of(any::<[u8; 32]>().prop_map(PeerKey::new));
    let address = (carrier, any::<std::net::SocketAddr>(), relay);
    let address = address.prop_map(|(carrier, mut at, relay)| {
        if let std::net::SocketAddr::V6(v6) = &mut at {
            v6.set_flowinfo(0);
        }
        Address { carrier, at, relay }
    });
    let address = address.prop_filter("a host's", Address::is_possible);
    proptest::collection::vec(address, 0..=limits::ADDRESSES_MAX)
}

proptest! {
    #[test]
    fn every_record_leads_back_and_its_prefixes_do_not(
        addresses in addresses(), services in proptest::collection::vec("[a-z0-9._-]{1,20}", 0..9),
        life: u64, sequence: u64, load in proptest::option::of(any::<[u16; 4]>()),
    ) {
        let (identity, record) = node();
        let supernode = load.map(|[a, b, c, d]| Load {
            reservations: a, reservations_max: b, circuits: c, circuits_max: d,
            bytes_per_second: life, bytes_per_second_max: sequence,
        });
        let record = Record { addresses, services, life, sequence, supernode, ..record };
        let bytes = record.sign(&identity).unwrap();
        prop_assert_eq!(Record::check(&bytes, &wanted(&record), NOW), Ok(record.clone()));
        prop_assert!(Record::check(&bytes[..bytes.len() - 1], &wanted(&record), NOW).is_err());
        prop_assert!(Record::check(&[&bytes[..], &[0]].concat(), &wanted(&record), NOW).is_err());
    }

    /// Also where the signature is right: a member can be hostile.
    #[test]
    fn any_body_is_a_record_or_an_error(mut body in proptest::collection::vec(any::<u8>(), 0..400), known: bool) {
        let (identity, record) = node();
        if known {
            let start = record.body();
            let count = body.len().min(90);
            body[..count].copy_from_slice(&start[..count]);
        }
        let bytes = signed::seal(KIND, body, &identity);
        let _ = Record::check(&bytes, &wanted(&record), NOW);
    }

    #[test]
    fn one_changed_byte_is_seen(at in 0_usize..1000, change in 1_u8..) {
        let (identity, record) = node();
        let mut bytes = record.sign(&identity).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= change;
        prop_assert!(Record::check(&bytes, &wanted(&record), NOW).is_err());
    }
}
