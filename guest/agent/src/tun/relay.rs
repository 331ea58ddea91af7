//! Relay: packets of the TUN device to messages of the channel, and back.
//!
//! in: packets that programs send, messages of the gateway; out: the same on the other side, and ICMP
//! errors for what does not go on. Owner: a thread of the supervisor's process. Kept: the relay keeps
//! no flows: a packet says all that the gateway needs, and its answer all that the guest needs; while
//! there is no channel any more every datagram is answered with an error, at once. Bounds: those of the channel
//! and of [`Fragments`].

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use outsock_vmrpc::Errno;
use outsock_vmrpc::datagram::{FlowKey, Message};

use super::channel::Channel;
use super::fragments::Fragments;
use super::interface::Interface;
use super::packet::{Content, Packet};
use super::{Event, answer};
use crate::dial::Dialer;
use crate::mailbox::Mailbox;
use crate::sys::poll::{Epoll, READABLE, WRITABLE};
use crate::sys::tun::HEADER_BYTES;
use crate::{limits, log};

const FROM_TUN: u64 = 0;
const FROM_MAILBOX: u64 = 1;
const FROM_CHANNEL: u64 = 2;

/// See the module.
#[derive(Debug)]
pub(super) struct Relay {
    interface: Interface,
    dialer: Arc<dyn Dialer>,
    events: Mailbox<Event>,
    poll: Epoll,
    channel: Option<Channel>,
    /// Until when packets wait for the first channel: a program starts a moment before there is one.
    patience: Option<Instant>,
    fragments: Fragments,
    /// What the device and the channel are watched for.
    watched: (u32, u32),
}

impl Relay {
    pub(super) fn new(
        interface: Interface,
        dialer: Arc<dyn Dialer>,
        events: Mailbox<Event>,
    ) -> io::Result<Self> {
        let poll = Epoll::new()?;
        poll.add(interface.file.as_fd(), 0, FROM_TUN)?;
        poll.add(events.as_fd(), READABLE, FROM_MAILBOX)?;
        let fragments = Fragments::default();
        let patience = Some(Instant::now() + limits::CHANNEL_FIRST);
        let watched = (0, 0);
        Ok(Self { interface, dialer, events, poll, channel: None, patience, fragments, watched })
    }

    /// Serves until it is told to stop.
    pub(super) fn run(mut self) -> io::Result<()> {
        self.search()?;
        let mut buffer = vec![0; HEADER_BYTES + limits::TUN_PACKET_BYTES];
        loop {
            let left = self.patience.map(|until| until.saturating_duration_since(Instant::now()));
            for event in self.poll.wait(left)? {
                match event.data {
                    FROM_TUN => self.read_packets(&mut buffer),
                    FROM_MAILBOX => {
                        for event in self.events.take_all() {
                            match event {
                                Event::Opened(channel) => self.resume(*channel)?,
                                Event::Refused => self.patience = None,
                                Event::Lost => {
                                    self.patience = None;
                                    self.lose();
                                }
                                Event::Stop => return Ok(()),
                            }
                        }
                    }
                    _ => self.read_messages(),
                }
            }
            self.flush();
            if self.patience.is_some_and(|until| until <= Instant::now()) {
                self.patience = None;
            }
            self.watch()?;
        }
    }

    fn search(&self) -> io::Result<()> {
        Channel::search(Arc::clone(&self.dialer), self.interface.v6, self.events.clone())
    }

    fn resume(&mut self, channel: Channel) -> io::Result<()> {
        self.poll.add(channel.as_fd(), READABLE, FROM_CHANNEL)?;
        self.watched.1 = READABLE;
        self.channel = Some(channel);
        self.patience = None;
        Ok(())
    }

    fn lose(&mut self) {
        let Some(channel) = self.channel.take() else { return };
        let _ = self.poll.delete(channel.as_fd());
        self.watched.1 = 0;
        log::note(format_args!("the channel for datagrams is gone"));
        if let Err(error) = self.search() {
            log::say(format_args!("cannot look for a channel for datagrams any more: {error}"));
        }
    }

    fn flush(&mut self) {
        let outcome = self.channel.as_mut().map_or(Ok(()), Channel::flush);
        if let Err(error) = outcome {
            log::note(format_args!("the channel for datagrams breaks: {error}"));
            self.lose();
        }
    }

    /// Watches the device while there is room for its packets, the channel for room while it has none.
    fn watch(&mut self) -> io::Result<()> {
        let full = self.channel.as_ref().is_some_and(Channel::is_full);
        let tun = if full || self.patience.is_some() { 0 } else { READABLE };
        if tun != self.watched.0 {
            self.poll.modify(self.interface.file.as_fd(), tun, FROM_TUN)?;
            self.watched.0 = tun;
        }
        if let Some(channel) = &self.channel {
            let wanted = READABLE | if channel.is_waiting() { WRITABLE } else { 0 };
            if wanted != self.watched.1 {
                self.poll.modify(channel.as_fd(), wanted, FROM_CHANNEL)?;
                self.watched.1 = wanted;
            }
        }
        Ok(())
    }

    fn read_packets(&mut self, buffer: &mut [u8]) {
        for _ in 0..limits::TUN_BATCH {
            if self.channel.as_ref().is_some_and(Channel::is_full) {
                return;
            }
            // Fails when there is no more, or the interface is down: then there will be none.
            let Ok(length) = self.interface.file.read(buffer) else { return };
            self.pass_on(&buffer[..length]);
        }
    }

    /// Passes a packet on, or answers it.
    fn pass_on(&mut self, bytes: &[u8]) {
        let Some((header, bytes)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return };
        let Some(packet) = Packet::parse(bytes) else { return };
        let whole;
        let body = match packet.fragment {
            None => packet.body,
            Some(fragment) => match self.fragments.take(&packet, fragment) {
                Some(bytes) => {
                    whole = bytes;
                    &whole
                }
                None => return,
            },
        };
        let whole_packet = Packet { body, ..packet };
        match whole_packet.content(body) {
            Content::Silent => {}
            Content::Other => self.answer(answer::prohibited(&packet)),
            Content::Datagram { from, to, payload } => self.datagrams(header, from, to, payload),
            Content::Echo { identifier, payload } => match &mut self.channel {
                Some(channel) => {
                    let (from, to) = (packet.from, packet.to);
                    channel.put(&Message::Echo { from, to, identifier, payload });
                }
                None => {
                    let flow = FlowKey::Echo { guest: packet.from, far: packet.to, identifier };
                    self.answer(answer::failed(flow, Errno::ENETUNREACH));
                }
            },
        }
    }

    /// One datagram, or as many as the kernel has left together.
    fn datagrams(
        &mut self,
        header: &[u8; HEADER_BYTES],
        from: SocketAddr,
        to: SocketAddr,
        payload: &[u8],
    ) {
        const GSO_UDP: u8 = 5;
        let Some(channel) = &mut self.channel else {
            let flow = FlowKey::Udp { guest: from, far: to };
            return self.answer(answer::failed(flow, Errno::ENETUNREACH));
        };
        let segment = usize::from(u16::from_ne_bytes([header[4], header[5]]));
        if header[1] == GSO_UDP && segment != 0 {
            for payload in payload.chunks(segment) {
                channel.put(&Message::Datagram { from, to, payload });
            }
        } else {
            channel.put(&Message::Datagram { from, to, payload });
        }
    }

    fn read_messages(&mut self) {
        let file = &self.interface.file;
        let show = |message: &Message<'_>| {
            let packet = match *message {
                Message::Datagram { from, to, payload } => answer::datagram(from, to, payload),
                Message::Echo { from, to, identifier, payload } => {
                    answer::echo(from, to, identifier, payload)
                }
                Message::Failed { flow, errno } => answer::failed(flow, errno),
            };
            if let Some(packet) = packet {
                // What the guest's kernel does not take is lost, as on any network.
                let _ = (&*file).write(&packet);
            }
        };
        let outcome = self.channel.as_mut().map_or(Ok(()), |channel| channel.read(show));
        if let Err(error) = outcome {
            log::note(format_args!("the channel for datagrams ends: {error}"));
            self.lose();
        }
    }

    fn answer(&self, packet: Option<Vec<u8>>) {
        if let Some(packet) = packet {
            // As above.
            let _ = (&self.interface.file).write(&packet);
        }
    }
}
