//! A `resolver` host module for the stand-in.
//!
//! | Name | Answer |
//! |---|---|
//! | `*.peer` A, AAAA | 198.51.100.1, 2001:db8::1 |
//! | `big.peer` TXT | 3000 bytes |
//! | `lost.peer` | none: the call fails with EIO |
//! | `slow.peer` | a second later |
//! | any other | NXDOMAIN |

use std::time::Duration;

use outsock_vmrpc::host::{CallError, Caller, HostModule};
use outsock_vmrpc::resolver::{self, QueryRequest};
use outsock_vmrpc::{Errno, ModuleName, Version, VersionRange};

pub(super) struct ResolverModule;

#[async_trait::async_trait]
impl HostModule for ResolverModule {
    fn name(&self) -> ModuleName {
        resolver::NAME.parse().unwrap()
    }

    fn versions(&self) -> VersionRange {
        resolver::VERSIONS
    }

    async fn call(
        &self,
        _: &Caller,
        _: Version,
        _: u32,
        arguments: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        let request = QueryRequest::decode(&arguments)?;
        let (name, kind, end) =
            question(&request.message).ok_or(CallError::Errno(Errno::EINVAL))?;
        match name.as_str() {
            "lost.peer" => return Err(CallError::Errno(Errno::EIO)),
            "slow.peer" => tokio::time::sleep(Duration::from_secs(1)).await,
            _ => {}
        }
        let data = match (kind, name.as_str()) {
            (1, _) => Some(vec![198, 51, 100, 1]),
            (28, _) => Some([&[0x20, 1, 0x0d, 0xb8][..], &[0; 11], &[1]].concat()),
            (16, "big.peer") => Some([&[250][..], &[b'x'; 250]].concat().repeat(12)),
            _ => None,
        };
        let exists = name.ends_with(".peer");
        let mut answer = head(&request.message[..end], if exists { 0 } else { 3 });
        if let Some(data) = data.filter(|_| exists) {
            answer[7] = 1;
            answer.extend([0xc0, 12, 0, u8::try_from(kind).unwrap(), 0, 1, 0, 0, 0, 5]);
            answer.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            answer.extend(data);
        }
        if answer.len() > usize::from(request.answer_bytes_max) {
            answer = head(&request.message[..end], 0);
            answer[2] |= 2; // TC
        }
        Ok(answer)
    }
}

/// Header with QR, RD, RA, one question, and the question.
fn head(query: &[u8], code: u8) -> Vec<u8> {
    let mut head = vec![query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, 0, 0, 0, 0, 0];
    head.extend(&query[12..]);
    head
}

/// Name, type, and where the question ends.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    const QR: u8 = 0x80;
    if query.get(2)? & QR != 0 {
        return None;
    }
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    Some((labels.join("."), kind, at + 4))
}
