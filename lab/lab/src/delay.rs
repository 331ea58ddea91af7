//! Delay: a link's delay and losses, made in user space.
//!
//! in: where peers' packets arrive and where they go; out: the same packets, later or not at all. Owner:
//! one thread per link, in the namespace of the site that dials. Kept: the thread's namespace is its
//! own affair, the process stays where it is. Bound: those of [`outsock_link`].

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use outsock_link::{Link, Quality};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::watch;

use crate::topology::LinkSpec;

/// A delayed link. Dropping it ends it.
#[derive(Debug)]
pub struct Delay {
    quality: Option<watch::Sender<Quality>>,
    thread: Option<JoinHandle<()>>,
}

impl Delay {
    /// Starts one in a namespace, or in the lab's own.
    ///
    /// # Errors
    /// The system's.
    pub fn start(
        namespace: Option<PathBuf>,
        at: SocketAddr,
        to: SocketAddr,
        quality: Quality,
    ) -> anyhow::Result<(Self, SocketAddr)> {
        let (sender, mut changes) = watch::channel(quality);
        let (said, started) = sync_channel(1);
        let work = move || {
            let start = async || -> anyhow::Result<Link> {
                if let Some(path) = &namespace {
                    let file = File::open(path)?;
                    move_into_link_name_space(
                        std::os::fd::AsFd::as_fd(&file),
                        Some(LinkNameSpaceType::Network),
                    )?;
                }
                Ok(Link::start(at, to, quality).await?)
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                match start().await {
                    Ok(link) => {
                        let _ = said.send(Ok(link.address()));
                        while changes.changed().await.is_ok() {
                            link.set(*changes.borrow_and_update());
                        }
                    }
                    Err(error) => {
                        let _ = said.send(Err(error));
                    }
                }
            });
        };
        let thread = std::thread::Builder::new().name("link".to_owned()).spawn(work)?;
        let address = started.recv().context("a link's thread ended")??;
        Ok((Self { quality: Some(sender), thread: Some(thread) }, address))
    }

    /// From now on packets fare like this.
    pub fn set(&self, quality: Quality) {
        if let Some(sender) = &self.quality {
            sender.send_replace(quality);
        }
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.quality = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, the message is on the screen.
            let _ = thread.join();
        }
    }
}

impl LinkSpec {
    /// What its delay does to packets.
    #[must_use]
    pub fn quality(&self) -> Quality {
        Quality {
            delay: Duration::from_millis(self.delay_ms.into()),
            loss_per_million: self.loss_per_million,
            ..Quality::default()
        }
    }

    /// In words; `isolated` when its sites have namespaces.
    #[must_use]
    pub fn describe(&self, isolated: bool) -> String {
        let mut parts = Vec::new();
        match (self.rate_mbit, isolated) {
            (Some(rate), true) => parts.push(format!("{rate} Mbit/s by the kernel")),
            (Some(_), false) => parts.push("no rate without namespaces".to_owned()),
            (None, _) => {}
        }
        if self.delay_ms > 0 {
            parts.push(format!("{} ms each way, made in user space", self.delay_ms));
        }
        if self.loss_per_million > 0 {
            parts.push(format!("{} of a million packets lost", self.loss_per_million));
        }
        if parts.is_empty() { "as it is".to_owned() } else { parts.join(", ") }
    }
}
