//! Errors of discovery itself. Finding nothing is not an error, nor is a network that drops multicast.

use std::io;

/// Why discovery cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// mdns-sd rejected an operation, or its thread has ended.
    #[error("mDNS, {during}: {source}")]
    Mdns {
        /// The operation that failed.
        during: &'static str,
        /// The error of mdns-sd.
        source: mdns_sd::Error,
    },
    /// A thread could not be started.
    #[error("cannot start the mDNS thread: {0}")]
    Thread(#[source] io::Error),
    /// The port to announce is 0, to which no viewer can connect.
    #[error("port 0 cannot be announced")]
    Port,
    /// The system provided no random bytes for a host name.
    #[error("cannot get random bytes for a host name")]
    Random,
    /// A [`Browser`](super::Browser) was started outside of a Tokio runtime.
    #[error("a browser needs a Tokio runtime with a timer")]
    NoRuntime,
    /// The text does not have the form of an instance name.
    #[error("{0:?} is not an instance name")]
    NotAnInstance(String),
    /// The mDNS thread did not answer in time.
    #[error("mDNS does not answer")]
    Silent,
}
