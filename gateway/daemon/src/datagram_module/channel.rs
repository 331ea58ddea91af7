//! Channel: one agent's stream of messages.
//!
//! in: messages of the guest; out: messages to it. Owner: one task, which also owns its flows' tasks;
//! all end when the stream does. Kept: a stream that breaks the protocol is reset. Bound: one read's
//! bytes and one message in, the outbox out.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use outsock_device::BridgeStream;
use outsock_vmrpc::datagram::{FlowKey, Message, Messages, Open};
use outsock_vmrpc::host::Caller;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::flows::{Admitted, Flows};
use super::outbox::Outbox;
use super::published::Published;
use crate::limits;
use crate::socket_module::{GuestSockets, Sockets};

/// What the flows of a channel share.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) sockets: Arc<Sockets>,
    pub(super) guest: Arc<GuestSockets>,
    pub(super) caller: Caller,
    pub(super) outbox: Outbox,
    pub(super) published: Published,
}

impl Channel {
    pub(super) fn new(
        sockets: Arc<Sockets>,
        guest: Arc<GuestSockets>,
        caller: Caller,
    ) -> Arc<Self> {
        Arc::new(Self {
            sockets,
            guest,
            caller,
            outbox: Outbox::default(),
            published: Published::default(),
        })
    }

    /// Serves the stream until it ends.
    pub(super) async fn run(self: Arc<Self>, stream: BridgeStream, open: Open) {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let read = async {
            let mut flows = Flows::new(Arc::clone(&self));
            let mut messages = Messages::default();
            let mut piece = vec![0; limits::CHANNEL_READ_BYTES];
            loop {
                let length = reader.read(&mut piece).await?;
                if length == 0 {
                    return Ok(());
                }
                messages.push(&piece[..length]);
                while let Some(message) = messages.next().map_err(io::Error::other)? {
                    self.pass_on(&mut flows, &message).await;
                }
                tokio::task::coop::consume_budget().await;
            }
        };
        let write = async {
            let mut bytes = Vec::new();
            loop {
                bytes = self.outbox.take(bytes).await;
                writer.write_all(&bytes).await?;
            }
        };
        let ended: io::Result<()> = tokio::select! {
            ended = read => ended,
            ended = write => ended,
            () = self.published.run(&self, &open) => Ok(()),
        };
        if let Err(error) = ended {
            tracing::debug!(guest = %self.caller.guest, %error, "a channel of datagrams broke");
        }
    }

    /// Passes a guest's message on, or answers it.
    async fn pass_on(&self, flows: &mut Flows, message: &Message<'_>) {
        let (key, payload) = match *message {
            Message::Datagram { from, to, payload } => {
                (FlowKey::Udp { guest: from, far: to }, payload)
            }
            Message::Echo { from, to, identifier, payload } => {
                (FlowKey::Echo { guest: from, far: to, identifier }, payload)
            }
            // Nothing of ours fails in the guest.
            Message::Failed { .. } => return,
        };
        if let Some(throttle) = self.guest.throttle() {
            throttle.pass(payload.len()).await;
        }
        if let Some(sent) = self.published.answer(&key, payload) {
            let datagrams = &self.guest.datagrams;
            let counter = if sent.is_ok() { &datagrams.sent } else { &datagrams.dropped };
            counter.fetch_add(1, Relaxed);
            return;
        }
        match flows.admit(key) {
            Ok(Admitted(flow)) => flow.send(self, payload),
            Err(limit) => {
                self.guest.datagrams.refused.fetch_add(1, Relaxed);
                self.guest.counters.refused_by_limit.fetch_add(1, Relaxed);
                if let Some(left_out) = self.guest.log.admit() {
                    let guest = &self.caller.guest;
                    tracing::warn!(%guest, %limit, left_out, "datagrams refused");
                }
                self.tell(&Message::Failed { flow: key, errno: limit.errno() });
            }
        }
    }

    /// Puts a message into the outbox, or counts it.
    pub(super) fn tell(&self, message: &Message<'_>) {
        let datagrams = &self.guest.datagrams;
        match (self.outbox.put(message), message) {
            (true, Message::Datagram { .. } | Message::Echo { .. }) => {
                datagrams.received.fetch_add(1, Relaxed);
            }
            (true, Message::Failed { .. }) => {}
            (false, _) => {
                datagrams.dropped.fetch_add(1, Relaxed);
            }
        }
    }
}
