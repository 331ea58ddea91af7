//! Floor: the newest sequence that was seen of each key.
//!
//! in: records that count; out: whether each is older than one seen before. Owner: the transport. Kept:
//! an old record that has not expired does not come back when the newer one is gone. Bound:
//! [`limits::FLOOR_KEYS_MAX`]; keys are forgotten when no older record of theirs can count any more.

use std::collections::{BTreeSet, HashMap};

use outsock_peer::PeerKey;

use crate::limits;
use crate::record::{Record, RecordError};
use crate::time::UnixTime;

/// See the module.
#[derive(Debug, Default)]
pub struct Floor {
    newest: HashMap<PeerKey, (u64, UnixTime)>,
    by_time: BTreeSet<(UnixTime, PeerKey)>,
}

impl Floor {
    /// Looks at a record that counts otherwise.
    ///
    /// # Errors
    /// A newer one was seen.
    pub fn pass(&mut self, record: &Record, now: UnixTime) -> Result<(), RecordError> {
        let (key, sequence) = (record.key, record.sequence);
        if let Some((newest, at)) = self.newest.get(&key).copied() {
            if sequence < newest {
                return Err(RecordError::Replayed { sequence, newest });
            }
            self.by_time.remove(&(at, key));
        }
        self.newest.insert(key, (sequence, now));
        self.by_time.insert((now, key));
        self.forget(now);
        Ok(())
    }

    fn forget(&mut self, now: UnixTime) {
        let keep_s = u64::from(limits::RECORD_LIFETIME_S_MAX) + 2 * limits::SKEW_S;
        while let Some((at, key)) = self.by_time.first().copied() {
            if now.since_s(at) <= keep_s && self.newest.len() <= limits::FLOOR_KEYS_MAX {
                return;
            }
            self.by_time.remove(&(at, key));
            self.newest.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use outsock_peer::Identity;

    use super::*;
    use crate::network::NetworkId;
    use crate::testing::{NOW, open_record};

    #[test]
    fn an_older_record_does_not_come_back() {
        let node = Identity::from_seed([1; 32]).unwrap();
        let record = |sequence| Record { sequence, ..open_record(&node, NetworkId::open("lab")) };
        let mut floor = Floor::default();
        assert_eq!(floor.pass(&record(5), NOW), Ok(()));
        assert_eq!(floor.pass(&record(5), NOW), Ok(()), "the same again");
        let replayed = RecordError::Replayed { sequence: 4, newest: 5 };
        assert_eq!(floor.pass(&record(4), NOW), Err(replayed));
        assert_eq!(floor.pass(&record(6), NOW), Ok(()));
        assert_eq!((floor.newest.len(), floor.by_time.len()), (1, 1));
    }

    #[test]
    fn many_keys_are_bounded() {
        let node = Identity::from_seed([1; 32]).unwrap();
        let record = open_record(&node, NetworkId::open("lab"));
        let mut floor = Floor::default();
        for number in 0..limits::FLOOR_KEYS_MAX as u64 + 10 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            let record = Record { key: PeerKey::new(key), ..record.clone() };
            floor.pass(&record, NOW.after_s(number / 1000)).unwrap();
        }
        assert_eq!(floor.newest.len(), limits::FLOOR_KEYS_MAX);
        assert_eq!(floor.by_time.len(), limits::FLOOR_KEYS_MAX);
    }
}
