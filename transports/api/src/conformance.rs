//! Conformance: the suite that every transport runs, one call from its own `tests/conformance.rs`.
//!
//! in:  a [`Setup`]: a dialer, a listener, fresh addresses, and what failures it can stage
//! out: a [`Report`]; each case is printed with its time, or with the reason why it did not run
//! owner: the test's thread; [`run`] makes a tokio runtime of its own
//! keeps: a case that did not run is printed and counted, never passed over in silence
//! bound: [`limits::CASE_TIME_MAX`] per case; the data sizes are in [`limits`]
//!
//! The capabilities of the transport decide which cases apply. A transport whose kind of socket
//! cannot do what its capabilities promise in general says so in [`Setup::exception`].
//!
//! ```no_run
//! use std::sync::Arc;
//! use async_trait::async_trait;
//! use outsock_transport::conformance::{self, Setup, Staging};
//! use outsock_transport::{Destination, Transport};
//!
//! #[derive(Debug)]
//! struct Loopback(Arc<dyn Transport>);
//!
//! #[async_trait]
//! impl Setup for Loopback {
//!     fn dialer(&self) -> &dyn Transport {
//!         &*self.0
//!     }
//!     fn listener(&self) -> &dyn Transport {
//!         &*self.0
//!     }
//!     fn listen_at(&self) -> Destination {
//!         Destination::Address("127.0.0.1:0".parse().expect("an address"))
//!     }
//!     async fn refuses(&self) -> Staging {
//!         Staging::at(Destination::Address("127.0.0.1:1".parse().expect("an address")))
//!     }
//! }
//!
//! # fn my_transport() -> Arc<dyn Transport> { unimplemented!() }
//! # fn main() { // in a test: #[test] fn conformance() {
//! let report = conformance::run("mine over loopback", || async { Loopback(my_transport()) });
//! assert_eq!(report.not_staged.len(), 2); // unreachable and timed out
//! # }
//! ```

mod dialling;
mod ends;
mod halves;
mod reset;
mod transfer;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::limits::conformance as limits;
use crate::transport::{Destination, DialRequest, Listener, Transport};

/// What a transport fills in: two ends, and the failures that it can stage.
#[async_trait]
pub trait Setup: Send + Sync + 'static {
    /// The transport that dials.
    fn dialer(&self) -> &dyn Transport;

    /// The transport that listens: the same value, or the peer gateway's.
    fn listener(&self) -> &dyn Transport;

    /// Where to listen; called for each listener, so either a port of 0 or a fresh name.
    fn listen_at(&self) -> Destination;

    /// What the dialer dials to reach a listener.
    fn dial_at(&self, listener: &dyn Listener) -> Destination {
        listener.local()
    }

    /// A whole request for that; override it to fill in fields that a transport cannot do without.
    fn request(&self, destination: Destination) -> DialRequest {
        DialRequest { timeout: limits::DIAL_TIME_MAX, ..DialRequest::to(destination) }
    }

    /// A destination whose host answers that nobody listens.
    async fn refuses(&self) -> Staging {
        Staging::missing("the set-up stages no refusal")
    }

    /// A destination that cannot be reached.
    async fn unreachable(&self) -> Staging {
        Staging::missing("the set-up stages no unreachable host")
    }

    /// A destination that never answers.
    async fn times_out(&self) -> Staging {
        Staging::missing("the set-up stages no silent host")
    }

    /// Bytes that may lie between a writer and a peer that does not read, over all buffers.
    fn buffered_bytes_max(&self) -> u64 {
        limits::BUFFERED_BYTES_MAX
    }

    /// Why a case does not apply although the capabilities say so; by the case's name.
    fn exception(&self, case: &str) -> Option<String> {
        let _ = case;
        None
    }
}

/// A staged failure, or what is missing to stage it.
#[derive(Debug)]
pub enum Staging {
    /// Ready to be dialled.
    Ready(Staged),
    /// Cannot be staged on this machine, and why.
    Missing(String),
}

/// A destination that fails, with what keeps it so.
pub struct Staged {
    /// What to dial.
    pub destination: Destination,
    keep: Box<dyn Any + Send>,
}

impl fmt::Debug for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staged").field("destination", &self.destination).finish_non_exhaustive()
    }
}

impl Staging {
    /// Staged by itself.
    pub fn at(destination: Destination) -> Self {
        Self::holding(destination, ())
    }

    /// Staged as long as `keep` lives (a listener with a full backlog, a namespace).
    pub fn holding(destination: Destination, keep: impl Any + Send) -> Self {
        Self::Ready(Staged { destination, keep: Box::new(keep) })
    }

    /// Not staged; `what` says what is missing.
    pub fn missing(what: impl Into<String>) -> Self {
        Self::Missing(what.into())
    }
}

/// What ran.
#[derive(Debug, Default)]
pub struct Report {
    /// Cases that passed.
    pub passed: Vec<&'static str>,
    /// Cases that do not apply to this transport, with the reason.
    pub not_applicable: Vec<(&'static str, String)>,
    /// Cases that failed, with their message; [`run`] panics instead of returning any.
    pub failed: Vec<(&'static str, String)>,
    /// Cases that this machine or this set-up could not stage, with what is missing.
    pub not_staged: Vec<(&'static str, String)>,
}

/// How a case ended that did not panic.
enum Outcome {
    Passed,
    NotStaged(String),
}

type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// What a case needs beside a connection.
#[derive(Clone, Copy)]
enum Need {
    Listener,
    HalfClose,
    Reset,
}

struct Case {
    name: &'static str,
    needs: &'static [Need],
    start: fn(Arc<dyn Setup>) -> Running,
}

macro_rules! cases {
    ($($module:ident::$name:ident needs [$($need:ident)*];)*) => {
        &[$(Case {
            name: stringify!($name),
            needs: &[$(Need::$need),*],
            start: |setup| Box::pin(async move { $module::$name(&*setup).await.into() }),
        }),*]
    };
}

/// Every case, in the order in which they run: what the later ones rest on comes first.
const CASES: &[Case] = cases! {
    transfer::echo needs [Listener];
    transfer::socket_is_nonblocking_and_closed_on_exec needs [Listener];
    transfer::one_byte_writes needs [Listener];
    transfer::big_transfers_both_ways needs [Listener];
    halves::dialer_closes_its_half_first needs [Listener HalfClose];
    halves::listener_closes_its_half_first needs [Listener HalfClose];
    halves::both_halves_close needs [Listener];
    transfer::close_flushes_to_a_slow_reader needs [Listener];
    transfer::close_flushes_what_nobody_read_yet needs [Listener];
    transfer::backpressure_reaches_the_dialer needs [Listener];
    transfer::backpressure_reaches_the_listener needs [Listener];
    reset::dialer_resets needs [Listener Reset];
    reset::listener_resets needs [Listener Reset];
    reset::dialer_resets_in_mid_transfer needs [Listener Reset];
    reset::listener_resets_in_mid_transfer needs [Listener Reset];
    reset::reading_dialer_resets_the_writer needs [Listener Reset];
    reset::reading_listener_resets_the_writer needs [Listener Reset];
    reset::reset_after_a_half_close needs [Listener HalfClose Reset];
    reset::dropped_unfinished_dialer_is_a_reset needs [Listener Reset];
    reset::dropped_unfinished_listener_is_a_reset needs [Listener Reset];
    reset::dropped_after_the_far_end_finished_is_a_reset needs [Listener HalfClose Reset];
    dialling::concurrent_dials needs [Listener];
    dialling::cancelled_dial_leaves_nothing needs [Listener];
    dialling::cancelled_accept_loses_nothing needs [Listener];
    dialling::dropped_listener_is_closed needs [Listener];
    dialling::unsupported_destinations needs [];
    dialling::refused needs [];
    dialling::unreachable needs [];
    dialling::timed_out needs [];
};

impl From<()> for Outcome {
    fn from((): ()) -> Self {
        Self::Passed
    }
}

impl Need {
    /// Why the need is not met.
    fn unmet(self, setup: &dyn Setup) -> Option<&'static str> {
        let (dialer, listener) = (setup.dialer().capabilities(), setup.listener().capabilities());
        match self {
            Self::Listener if !listener.listens => Some("the transport does not listen"),
            Self::HalfClose if !(dialer.half_close && listener.half_close) => {
                Some("the transport does not close halves on their own")
            }
            Self::Reset if !(dialer.reset && listener.reset) => {
                Some("the transport carries no reset")
            }
            Self::Listener | Self::HalfClose | Self::Reset => None,
        }
    }
}

/// Runs every case that applies against the set-up that `make` builds inside the suite's runtime.
/// `title` names the transport in what is printed.
///
/// # Panics
///
/// When a case failed, after all have run, with the message of each.
pub fn run<S: Setup, F: Future<Output = S>>(title: &str, make: impl FnOnce() -> F) -> Report {
    let started = Instant::now();
    let report = examine(|_| true, |case, text| say(title, case, text), make);
    let sum = format!(
        "{} passed, {} failed, {} could not be staged, {} do not apply, {}",
        report.passed.len(),
        report.failed.len(),
        report.not_staged.len(),
        report.not_applicable.len(),
        in_ms(started.elapsed())
    );
    say(title, "sum", &sum);
    let failed: Vec<_> =
        report.failed.iter().map(|(case, message)| format!("{case}: {message}")).collect();
    assert!(failed.is_empty(), "{title} does not conform:\n{}", failed.join("\n"));
    report
}

/// Runs the chosen cases and tells each outcome; nothing is printed and no failure panics. For
/// tests of the suite itself, and for one case while a transport is being written.
pub fn examine<S: Setup, F: Future<Output = S>>(
    chosen: impl Fn(&str) -> bool,
    mut tell: impl FnMut(&str, &str),
    make: impl FnOnce() -> F,
) -> Report {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a tokio runtime for the suite");
    let mut report = Report::default();
    runtime.block_on(async {
        let setup: Arc<dyn Setup> = Arc::new(make().await);
        for case in CASES.iter().filter(|case| chosen(case.name)) {
            let text = report.add(case, &setup).await;
            tell(case.name, &text);
        }
    });
    // A case that hangs may have left a blocking task; the report must come all the same.
    runtime.shutdown_timeout(limits::AT_ONCE);
    report
}

impl Report {
    /// Runs a case, if it applies, and says how it ended.
    async fn add(&mut self, case: &Case, setup: &Arc<dyn Setup>) -> String {
        let unmet = || case.needs.iter().find_map(|need| need.unmet(&**setup)).map(String::from);
        if let Some(reason) = unmet().or_else(|| setup.exception(case.name)) {
            let text = format!("does not apply: {reason}");
            self.not_applicable.push((case.name, reason));
            return text;
        }
        let started = Instant::now();
        match run_case(case, Arc::clone(setup)).await {
            Ok(Outcome::Passed) => {
                self.passed.push(case.name);
                format!("ok, {}", in_ms(started.elapsed()))
            }
            Ok(Outcome::NotStaged(missing)) => {
                let text = format!("NOT RUN: {missing}");
                self.not_staged.push((case.name, missing));
                text
            }
            Err(message) => {
                let text = format!("FAILED: {message}");
                self.failed.push((case.name, message));
                text
            }
        }
    }
}

async fn run_case(case: &Case, setup: Arc<dyn Setup>) -> Result<Outcome, String> {
    let mut task = tokio::spawn((case.start)(setup));
    match tokio::time::timeout(limits::CASE_TIME_MAX, &mut task).await {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(error)) => {
            let panic = error.into_panic();
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Err(text.unwrap_or_else(|| "panicked without a message".to_owned()))
        }
        Err(_) => {
            task.abort();
            Err(format!("no end after {}", in_ms(limits::CASE_TIME_MAX)))
        }
    }
}

/// Prints past the capture of the test harness: what did not run must be seen in a green run too.
fn say(title: &str, case: &str, text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "conformance {title}: {case}: {text}");
}

fn in_ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
