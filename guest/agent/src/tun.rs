//! Tun: UDP and ping of the whole guest, by a TUN device that the agent owns.
//!
//! Datagrams have no connect() to intercept: a program sends to many places by one socket, and no call
//! of it may cost a trap. So they go as packets into a device, which the agent reads: the gateway gets
//! datagrams (never packets), with both ends. What is neither UDP nor an echo request is answered at
//! once with ICMP "administratively prohibited": it neither leaks nor hangs.
//!
//! in: a dialer, and which packets shall come ([`Reach`]); out: nothing to be asked for. Owner: a thread
//! of the supervisor's process. Kept: the device stands before the command starts; one agent has it at
//! a time, and another one takes it over when that one ends. Bound: `channel`, `fragments`.
//!
//! | Module | What it holds |
//! |---|---|
//! | `interface` | the device, its addresses, the routes into it |
//! | `packet`, `fragments` | what a program wants to send |
//! | `answer` | packets for the guest |
//! | `channel` | messages to and from the gateway |
//! | `relay` | the loop between the two |

mod answer;
mod channel;
mod fragments;
mod interface;
mod packet;
mod relay;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;

pub(crate) use interface::Reach;

use crate::dial::Dialer;
use crate::mailbox::Mailbox;
use crate::{limits, log, sys};
use channel::Channel;
use interface::Interface;
use relay::Relay;

/// What the relay's thread is told.
#[derive(Debug)]
enum Event {
    /// The gateway has a channel for us.
    Opened(Box<Channel>),
    /// It has none for us.
    Refused,
    /// The gateway is gone.
    Lost,
    /// The agent ends.
    Stop,
}

/// The device and its thread. Dropping it takes the device away.
#[derive(Debug)]
pub(crate) struct Tun {
    events: Mailbox<Event>,
    thread: Option<JoinHandle<()>>,
}

impl Tun {
    /// Makes the device.
    pub(crate) fn start(reach: Reach, dialer: Arc<dyn Dialer>) -> io::Result<Self> {
        let events = Mailbox::new()?;
        let interface = match Interface::new(reach) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => None,
            outcome => Some(outcome?),
        };
        let told = events.clone();
        let serve = move || {
            let interface = match interface {
                Some(interface) => Ok(Some(interface)),
                None => wait_for_device(reach, &told),
            };
            let relayed = interface.and_then(|interface| match interface {
                Some(interface) => Relay::new(interface, dialer, told)?.run(),
                None => Ok(()),
            });
            if let Err(error) = relayed {
                log::say(format_args!("UDP and ping are not outsourced any more: {error}"));
            }
        };
        let thread = std::thread::Builder::new().name("tun".to_owned()).spawn(serve)?;
        Ok(Self { events, thread: Some(thread) })
    }

    /// The gateway is gone, as others have noticed.
    pub(crate) fn lose_gateway(&self) {
        self.events.post(Event::Lost);
    }
}

impl Drop for Tun {
    fn drop(&mut self) {
        self.events.post(Event::Stop);
        if let Some(thread) = self.thread.take() {
            // It has said why if it panicked.
            let _ = thread.join();
        }
    }
}

/// Another agent has the device, and serves the whole guest: waits until it ends. `None`: this one
/// ends first.
fn wait_for_device(reach: Reach, told: &Mailbox<Event>) -> io::Result<Option<Interface>> {
    loop {
        sys::poll::wait_for(told.as_fd(), sys::poll::READABLE, limits::TUN_RETRY)?;
        if told.take_all().iter().any(|event| matches!(event, Event::Stop)) {
            return Ok(None);
        }
        match Interface::new(reach) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            outcome => return outcome.map(Some),
        }
    }
}
