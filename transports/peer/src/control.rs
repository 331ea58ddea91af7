//! Control: what two gateways tell each other beside their guests' streams.
//!
//! in:  bytes of a peer's control stream, or news of this gateway
//! out: [`Control`] messages, in order
//! owner: one stream each way per connection between two gateways
//! keeps: a message of a kind that a later version adds is passed over, not an error
//! bound: [`limits::CONTROL_BYTES_MAX`] per message
//!
//! On the wire: `kind u8, length u16, body`.

use std::io;

use outsock_vmrpc::wire::{Malformed, Reader};
use tokio::io::AsyncRead;

use crate::exchange::message;
use crate::limits;
use crate::open::with_prefix;

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// The first: which life of the gateway this is. Connections to an earlier life are dead.
    Hello {
        /// Drawn at random when the process starts.
        life: u64,
    },
    /// The gateway is about to end: open no new streams over this connection.
    Drain,
}

impl Control {
    /// The bytes.
    pub fn encode(self) -> Vec<u8> {
        match self {
            Self::Hello { life } => with_prefix(1, &life.to_le_bytes()),
            Self::Drain => with_prefix(2, &[]),
        }
    }

    fn decode(kind: u8, body: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut reader = Reader::new(body);
        let message = match kind {
            1 => {
                let life = u64::from(reader.u32()?) | u64::from(reader.u32()?) << 32;
                Self::Hello { life }
            }
            2 => Self::Drain,
            _ => return Ok(None),
        };
        reader.finish()?;
        Ok(Some(message))
    }

    /// Reads the next message that this version knows.
    ///
    /// # Errors
    /// The stream's; `InvalidData` where a message is malformed.
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        loop {
            let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
            let (kind, body) = message(stream, limits::CONTROL_BYTES_MAX)
                .await?
                .map_err(|length| invalid(format!("a control message of {length} bytes")))?;
            match Self::decode(kind, &body) {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(error) => return Err(invalid(error.to_string())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_come_in_order_and_unknown_ones_are_passed_over() {
        let hello = Control::Hello { life: u64::MAX - 5 };
        let bytes = [hello.encode(), with_prefix(77, b"later"), Control::Drain.encode()].concat();
        let mut stream = &bytes[..];
        assert_eq!(Control::read(&mut stream).await.unwrap(), hello);
        assert_eq!(Control::read(&mut stream).await.unwrap(), Control::Drain);
        let mut bad = &[1, 2, 0, 0, 0][..];
        let error = Control::read(&mut bad).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
