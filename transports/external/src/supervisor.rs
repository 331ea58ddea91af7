//! Supervisor: keeps one process running, as long as somebody wants it.
//!
//! in: settings and a mode; out: where it is ready now, or why it is not
//! owner: a task of its own; it ends, and the process with it, when the supervisor is dropped
//! keeps: between two runs there is a pause that grows while the program keeps failing
//! bound: one process; [`limits::PAUSE_FIRST`] to [`limits::PAUSE_MAX`]

use outsock_transport::DialError;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::limits;
use crate::process::{self, Ready};
use crate::settings::{ExternalSettings, Mode};

#[derive(Clone, Debug)]
enum State {
    Starting,
    Ready(Ready),
    /// It died or did not start; it will be tried again.
    Down(String),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Supervisor {
    state: watch::Receiver<State>,
    /// Dropping it ends the task.
    _stop: watch::Sender<()>,
}

impl Supervisor {
    /// Starts the process. Must be called within a tokio runtime.
    pub(crate) fn start(settings: ExternalSettings, mode: Mode) -> Self {
        let (sender, state) = watch::channel(State::Starting);
        let (stop, stopped) = watch::channel(());
        tokio::spawn(keep_running(settings, mode, sender, stopped));
        Self { state, _stop: stop }
    }

    /// Where the process is ready: at once, or after its start. Between two runs it is not waited for.
    pub(crate) async fn ready(&self) -> Result<Ready, String> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, State::Starting)).await;
        match settled.as_deref() {
            Ok(State::Ready(ready)) if !ready.life.is_over() => Ok(ready.clone()),
            Ok(State::Down(why)) => Err(why.clone()),
            Ok(State::Ready(_) | State::Starting) | Err(_) => Err("ended".to_owned()),
        }
    }

    /// Where it is ready at this moment.
    pub(crate) fn now(&self) -> Option<Ready> {
        match &*self.state.borrow() {
            State::Ready(ready) => Some(ready.clone()),
            State::Starting | State::Down(_) => None,
        }
    }

    /// The same, for a dial.
    pub(crate) async fn ready_to_dial(&self) -> Result<Ready, DialError> {
        self.ready().await.map_err(|_| DialError::NetworkDown)
    }
}

async fn keep_running(
    settings: ExternalSettings,
    mut mode: Mode,
    state: watch::Sender<State>,
    mut stopped: watch::Receiver<()>,
) {
    let mut pause = limits::PAUSE_FIRST;
    let external = settings.method.clone();
    loop {
        let begun = Instant::now();
        let started = tokio::select! {
            started = process::start(&settings, &mode) => started,
            // A start that is given up kills what it started.
            _ = stopped.changed() => return,
        };
        let why = match started {
            Ok(mut running) => {
                let at = running.ready.at;
                tracing::info!(external, %at, arguments = running.ready.arguments, "ready");
                if let Mode::Server { at: listens, .. } = &mut mode {
                    // The next run listens where this one was told to.
                    *listens = at;
                }
                state.send_replace(State::Ready(running.ready.clone()));
                tokio::select! {
                    why = running.ended() => why,
                    _ = stopped.changed() => return running.stop().await,
                }
            }
            Err(why) => why,
        };
        if begun.elapsed() > limits::STABLE {
            pause = limits::PAUSE_FIRST;
        }
        tracing::warn!(external, why, pause_ms = pause.as_millis(), "down; it will start again");
        state.send_replace(State::Down(why));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopped.changed() => return,
        }
        pause = (pause * 2).min(limits::PAUSE_MAX);
        // Who dials now waits for this start.
        state.send_replace(State::Starting);
    }
}
