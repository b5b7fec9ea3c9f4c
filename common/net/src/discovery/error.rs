//! Errors of discovery itself. Finding nothing is not an error, nor is a network that drops multicast.

use std::io;

/// Why discovery cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// mDNS refuses, or its thread has ended.
    #[error("mDNS, {during}: {source}")]
    Mdns {
        /// The operation that failed.
        during: &'static str,
        /// The error of mdns-sd.
        source: mdns_sd::Error,
    },
    /// A thread cannot be started.
    #[error("a thread for mDNS: {0}")]
    Thread(#[source] io::Error),
    /// Port 0, to which nobody can connect.
    #[error("port 0 cannot be announced")]
    Port,
    /// The system gives no random bytes for a host name.
    #[error("no random bytes for a host name")]
    Random,
    /// A [`Browser`](super::Browser) is started outside of a Tokio runtime.
    #[error("a browser needs a Tokio runtime with a timer")]
    NoRuntime,
    /// A text that does not have the form of an instance name.
    #[error("{0:?} is not an instance name")]
    NotAnInstance(String),
    /// mDNS's thread does not answer in time.
    #[error("mDNS does not answer")]
    Silent,
}
