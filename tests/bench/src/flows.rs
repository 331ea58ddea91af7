//! Flows: many streams at once in one virtual guest, one of which may stop being read.

use std::io::Write;
use std::time::Instant;

use anyhow::Result;
use outsock_virtual_guest::{Connection, Content, Running};

use crate::case::{Direction, real};
use crate::contestant::VirtualContestant;
use crate::protocol::{Purpose, Volume};

/// Messages of flows: what programs write.
const MESSAGE_BYTES: u32 = 65_536;
/// More than fits into all the buffers on the way.
const ENDLESS_BYTES: u64 = 1 << 40;

/// A flow whose reader has stopped. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Stalled {
    _connection: Connection,
    _sending: Option<Running>,
}

/// Starts a flow that nobody reads: from the guest, the server does not; to it, the guest does not.
pub(crate) fn stall(guest: &VirtualContestant<'_>, direction: Direction) -> Result<Stalled> {
    let mut connection = guest.connect()?;
    let sending = match direction {
        Direction::Out => {
            connection.write_all(&[Purpose::Stall.byte()])?;
            Some(connection.start_send(ENDLESS_BYTES, MESSAGE_BYTES as usize, Content::Copied))
        }
        Direction::In => {
            let volume = Volume { bytes: ENDLESS_BYTES, message: MESSAGE_BYTES };
            volume.send(Purpose::Source, &mut connection)?;
            None
        }
    };
    Ok(Stalled { _connection: connection, _sending: sending })
}

/// Moves so many flows at once to their end; bytes per second of all together.
pub(crate) fn throughput(
    guest: &VirtualContestant<'_>,
    direction: Direction,
    count: usize,
    bytes: u64,
) -> Result<f64> {
    let volume = Volume { bytes, message: MESSAGE_BYTES };
    let connections = (0..count).map(|_| guest.connect()).collect::<Result<Vec<Connection>>>()?;
    let began = Instant::now();
    let mut running = Vec::with_capacity(count);
    for mut connection in &connections {
        running.push(match direction {
            Direction::Out => {
                volume.send(Purpose::Sink, &mut connection)?;
                connection.start_send(bytes, MESSAGE_BYTES as usize, Content::Copied)
            }
            Direction::In => {
                volume.send(Purpose::Source, &mut connection)?;
                connection.start_receive(Some(bytes), Content::Copied)
            }
        });
    }
    for flow in running {
        flow.wait()?;
    }
    Ok(real(bytes * count as u64) / began.elapsed().as_secs_f64())
}
