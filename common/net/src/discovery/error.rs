//! What goes wrong with discovery itself. That nothing is found, or that a network drops multicast, is not here: it is no error.

use std::io;

/// Why discovery does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// mDNS refuses, or its thread has ended.
    #[error("mDNS, {during}: {source}")]
    Mdns {
        /// What was being done.
        during: &'static str,
        /// mdns-sd's reason.
        source: mdns_sd::Error,
    },
    /// A thread cannot be started.
    #[error("a thread for mDNS: {0}")]
    Thread(#[source] io::Error),
    /// A port of zero: nobody could connect there.
    #[error("port 0 cannot be announced")]
    Port,
    /// The system gives no random bytes for a host name.
    #[error("no random bytes for a host name")]
    Random,
    /// A [`Browser`](super::Browser) is started outside of a Tokio runtime.
    #[error("a browser needs a Tokio runtime with a timer")]
    NoRuntime,
    /// A text that is no instance name at all.
    #[error("{0:?} is not an instance name")]
    NotAnInstance(String),
    /// mDNS's thread does not answer in time.
    #[error("mDNS does not answer")]
    Silent,
}
