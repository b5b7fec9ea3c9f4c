//! The signals of a long-running command: SIGINT and SIGTERM end it in order, SIGHUP reloads what can change.
//!
//! The kernel also sends SIGHUP when the terminal is closed, and then the command ends in order. Neither kills silently.

use std::io::{self, IsTerminal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// End in order; the reason is the name of the signal, for the log.
    Stop(&'static str),
    /// Reload the configuration.
    Reload,
}

/// The handlers of the signals; from their installation on, these signals no longer end the process.
#[derive(Debug)]
pub struct Signals {
    #[cfg(unix)]
    unix: Unix,
}

#[cfg(unix)]
#[derive(Debug)]
struct Unix {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    /// Whether standard error was a terminal when the command began.
    had_terminal: bool,
}

impl Signals {
    /// Installs the handlers. Call it within a tokio runtime.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub fn new() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let unix = Unix {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                hangup: signal(SignalKind::hangup())?,
                had_terminal: io::stderr().is_terminal(),
            };
            Ok(Self { unix })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for the next signal. Cancel safe.
    pub async fn next(&mut self) -> Request {
        #[cfg(unix)]
        {
            let unix = &mut self.unix;
            tokio::select! {
                _ = unix.terminate.recv() => Request::Stop("SIGTERM"),
                _ = unix.interrupt.recv() => Request::Stop("SIGINT"),
                // A terminal that was closed is no terminal any more: its ioctls fail.
                _ = unix.hangup.recv() => match unix.had_terminal && !io::stderr().is_terminal() {
                    true => Request::Stop("the terminal was closed"),
                    false => Request::Reload,
                },
            }
        }
        #[cfg(not(unix))]
        {
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
            Request::Stop("Ctrl-C")
        }
    }

    /// Waits for a signal that ends the command, and returns its name. A request to reload is logged: the command has nothing to reload.
    /// Cancel safe.
    pub async fn stop(&mut self) -> &'static str {
        loop {
            match self.next().await {
                Request::Stop(signal) => return signal,
                Request::Reload => tracing::warn!(
                    "SIGHUP: there is no configuration file to reload; all options are on the command line and need a restart"
                ),
            }
        }
    }
}
