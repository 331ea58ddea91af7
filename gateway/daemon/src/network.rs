//! Network: the authority of a private network, in a folder.
//!
//! in: what the command line asks; out: a key, certificates, a list of revocations. Owner: whoever holds
//! the folder; no gateway reads it. Kept: what was certified is written down before it is printed, so a
//! name is never given to two keys; files are replaced whole, the key never. Bound:
//! [`limits::MEMBERS_FILE_BYTES_MAX`].
//!
//! In the folder: `authority.key`; `members`, a line `issued lifetime key name` for each certificate;
//! `revocations`, the signed list.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, bail};
use outsock_overlay_core::replace::replace;
use outsock_overlay_core::{Certificate, Label, Revocations, UnixTime, armor};
use outsock_peer::{Identity, PeerKey};
use serde::Serialize;

use crate::cli::NetworkCommand;
use crate::limits;

const KEY: &str = "authority.key";
const MEMBERS: &str = "members";
const REVOCATIONS: &str = "revocations";

/// A certificate that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    issued: UnixTime,
    lifetime_s: u64,
    key: PeerKey,
    name: Label,
}

/// Where a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Standing {
    Valid,
    Expired,
    Revoked,
}

impl Member {
    fn standing(&self, revocations: &Revocations, now: UnixTime) -> Standing {
        let revoked = revocations.of(self.key).is_some_and(|at| self.issued <= at);
        let end = self.issued.after_s(self.lifetime_s);
        match (revoked, end.has_passed(now)) {
            (true, _) => Standing::Revoked,
            (false, true) => Standing::Expired,
            (false, false) => Standing::Valid,
        }
    }

    fn line(&self) -> String {
        format!("{} {} {} {}\n", self.issued.0, self.lifetime_s, self.key, self.name)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        let issued = UnixTime(fields.next()?.parse().ok()?);
        let lifetime_s = fields.next()?.parse().ok()?;
        let key = fields.next()?.parse().ok()?;
        let name = Label::parse(fields.next()?).ok()?;
        fields.next().is_none().then_some(Self { issued, lifetime_s, key, name })
    }
}

/// Does what the command line asks.
pub(crate) fn run(command: &NetworkCommand) -> anyhow::Result<()> {
    let now = UnixTime::from(SystemTime::now());
    match command {
        NetworkCommand::Init { folder } => println!("{}", init(folder)?),
        NetworkCommand::Sign { folder, name, key, days } => {
            let certificate = sign(folder, name, *key, u64::from(*days) * 86_400, now)?;
            eprintln!("{name} belongs to the network until {}", certificate.end());
            print!("{}", armor::wrap(armor::CERTIFICATE, &certificate.encode()));
        }
        NetworkCommand::Revoke { folder, member } => {
            let list = revoke(folder, member, now)?;
            let path = folder.join(REVOCATIONS);
            eprintln!("{member} is revoked; give {} to the gateways", path.display());
            print!("{}", armor::wrap(armor::REVOCATIONS, &list.encode()));
        }
        NetworkCommand::Show { folder, json } => show(folder, *json, now)?,
    }
    Ok(())
}

fn init(folder: &Path) -> anyhow::Result<PeerKey> {
    let authority = Identity::create(&folder.join(KEY))?;
    let list = Revocations::sign(&authority, 1, std::collections::BTreeMap::new())?;
    write_revocations(folder, &list)?;
    Ok(authority.key())
}

fn sign(
    folder: &Path,
    name: &str,
    key: PeerKey,
    lifetime_s: u64,
    now: UnixTime,
) -> anyhow::Result<Certificate> {
    let authority = Identity::load(&folder.join(KEY))?;
    let name = Label::parse(name).with_context(|| format!("{name:?}"))?;
    if name.key().is_some_and(|own| own != key) {
        bail!("{name} is the text of another key");
    }
    let (mut members, revocations) = (members(folder)?, revocations(folder)?);
    let is_valid = |member: &&Member| member.standing(&revocations, now) == Standing::Valid;
    let valid = members.iter().filter(is_valid);
    if let Some(other) = valid.clone().find(|it| it.name == name && it.key != key) {
        bail!(
            "{name} is the name of {}: `network revoke` it first, if the name is to go to another",
            other.key
        );
    }
    if let Some(other) = valid.clone().find(|it| it.key == key && it.name != name) {
        bail!("this key is called {} already, and a gateway has one name", other.name);
    }
    // A certificate of the very second of its revocation would be void.
    let after = revocations.of(key).map_or(0, |at| at.0 + 1);
    let issued = UnixTime(now.0.max(after));
    let certificate = Certificate::sign(&authority, key, name.clone(), issued, lifetime_s)?;
    members.retain(|it| it.key != key || it.name != name);
    members.push(Member { issued, lifetime_s, key, name });
    let text: String = members.iter().map(Member::line).collect();
    if text.len() as u64 > limits::MEMBERS_FILE_BYTES_MAX {
        bail!("the network is full: {} has too many lines", folder.join(MEMBERS).display());
    }
    write(folder, MEMBERS, &text)?;
    Ok(certificate)
}

fn revoke(folder: &Path, member: &str, now: UnixTime) -> anyhow::Result<Revocations> {
    let authority = Identity::load(&folder.join(KEY))?;
    let (members, revocations) = (members(folder)?, revocations(folder)?);
    let known: Vec<_> = members
        .iter()
        .filter(|it| it.name.as_str() == member || it.key.to_string() == member)
        .collect();
    let is_valid = |it: &&&Member| it.standing(&revocations, now) == Standing::Valid;
    let Some(it) = known.iter().find(is_valid).or_else(|| known.last()) else {
        bail!("the network has no member {member}: `network show` lists them");
    };
    let mut revoked = revocations.entries().clone();
    // One whose last certificate has ended needs no entry any more.
    let last_end = |key: &PeerKey| {
        members.iter().filter(|it| it.key == *key).map(|it| it.issued.after_s(it.lifetime_s)).max()
    };
    revoked.retain(|key, _| last_end(key).is_none_or(|end| !end.has_passed(now)));
    revoked.insert(it.key, now.max(it.issued));
    let list = Revocations::sign(&authority, revocations.sequence + 1, revoked)?;
    write_revocations(folder, &list)?;
    Ok(list)
}

fn show(folder: &Path, json: bool, now: UnixTime) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Line {
        name: String,
        key: String,
        until_s: u64,
        standing: Standing,
    }
    let authority = Identity::load(&folder.join(KEY))?;
    let revocations = revocations(folder)?;
    let lines: Vec<_> = members(folder)?
        .iter()
        .map(|it| Line {
            name: it.name.to_string(),
            key: it.key.to_string(),
            until_s: it.issued.after_s(it.lifetime_s).0,
            standing: it.standing(&revocations, now),
        })
        .collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
        return Ok(());
    }
    println!("authority {}", authority.key());
    for line in lines {
        let until = UnixTime(line.until_s);
        let standing = match line.standing {
            Standing::Valid => "valid until",
            Standing::Expired => "ended at",
            Standing::Revoked => "revoked, was to end at",
        };
        println!("{:<20} {}  {standing} {until}", line.name, line.key);
    }
    Ok(())
}

fn read(folder: &Path, name: &str) -> anyhow::Result<Option<String>> {
    let path = folder.join(name);
    let mut text = String::new();
    let read = File::open(&path)
        .and_then(|file| file.take(limits::MEMBERS_FILE_BYTES_MAX).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = folder.join(name);
    replace(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

fn write_revocations(folder: &Path, list: &Revocations) -> anyhow::Result<()> {
    write(folder, REVOCATIONS, &armor::wrap(armor::REVOCATIONS, &list.encode()))
}

fn members(folder: &Path) -> anyhow::Result<Vec<Member>> {
    let text = read(folder, MEMBERS)?.unwrap_or_default();
    let parse = |(number, line): (usize, &str)| {
        let path = folder.join(MEMBERS);
        let place = || format!("{} line {}: no member", path.display(), number + 1);
        Member::parse(line).with_context(place)
    };
    text.lines().enumerate().map(parse).collect()
}

fn revocations(folder: &Path) -> anyhow::Result<Revocations> {
    let path = folder.join(REVOCATIONS);
    let text = read(folder, REVOCATIONS)?;
    // Without its list the network would forget whom it has revoked.
    let text = text.with_context(|| format!("{} is missing", path.display()))?;
    let bytes = armor::unwrap(armor::REVOCATIONS, &text);
    let bytes = bytes.with_context(|| format!("{} holds no revocations", path.display()))?;
    Revocations::decode(&bytes).with_context(|| format!("{}", path.display()))
}

#[cfg(test)]
mod tests {
    use outsock_overlay_core::Authority;

    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000);
    const DAY_S: u64 = 86_400;

    fn network() -> (tempfile::TempDir, Authority) {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(init(folder.path()).unwrap());
        (folder, authority)
    }

    fn key(seed: u8) -> PeerKey {
        Identity::from_seed([seed; 32]).unwrap().key()
    }

    #[test]
    fn a_member_is_certified_revoked_and_certified_anew() {
        let (folder, mut authority) = network();
        let folder = folder.path();
        let first = sign(folder, "osaka", key(1), DAY_S, NOW).unwrap();
        assert_eq!(authority.check(&first, NOW), Ok(()));
        let list = revoke(folder, "osaka", NOW).unwrap();
        assert_eq!(authority.revoke(list.clone()), Ok(true));
        assert!(authority.check(&first, NOW).is_err());
        assert_eq!(revocations(folder).unwrap(), list);
        let second = sign(folder, "osaka", key(1), DAY_S, NOW).unwrap();
        assert_eq!(authority.check(&second, NOW), Ok(()), "in the same second");
    }

    #[test]
    fn a_name_is_one_keys_until_it_is_free() {
        let (folder, _) = network();
        let folder = folder.path();
        sign(folder, "osaka", key(1), DAY_S, NOW).unwrap();
        sign(folder, "osaka", key(1), 2 * DAY_S, NOW).unwrap();
        assert_eq!(members(folder).unwrap().len(), 1, "renewed");
        let error = sign(folder, "osaka", key(2), DAY_S, NOW).unwrap_err().to_string();
        assert!(error.contains("network revoke"), "{error}");
        assert!(sign(folder, "kyoto", key(1), DAY_S, NOW).is_err(), "one name each");
        assert!(sign(folder, Label::of_key(key(1)).as_str(), key(2), DAY_S, NOW).is_err());
        sign(folder, "osaka", key(2), DAY_S, NOW.after_s(3 * DAY_S)).unwrap();
        revoke(folder, &key(2).to_string(), NOW.after_s(3 * DAY_S)).unwrap();
        sign(folder, "osaka", key(3), DAY_S, NOW.after_s(3 * DAY_S)).unwrap();
        assert!(revoke(folder, "kobe", NOW).is_err());
    }

    #[test]
    fn a_network_is_never_overwritten_and_damage_is_named() {
        let (folder, _) = network();
        let folder = folder.path();
        assert!(init(folder).is_err());
        sign(folder, "osaka", key(1), DAY_S, NOW).unwrap();
        std::fs::write(folder.join(MEMBERS), "nonsense\n").unwrap();
        let error = sign(folder, "kobe", key(2), DAY_S, NOW).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
        std::fs::remove_file(folder.join(REVOCATIONS)).unwrap();
        std::fs::write(folder.join(MEMBERS), "").unwrap();
        let error = sign(folder, "kobe", key(2), DAY_S, NOW).unwrap_err().to_string();
        assert!(error.contains("is missing"), "{error}");
    }
}
