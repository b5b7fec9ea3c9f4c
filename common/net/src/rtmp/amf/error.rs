//! How an AMF0 message is invalid.

/// Why an AMF0 message cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The message ends inside a value.
    #[error("AMF0 ends inside a value, at byte {at}")]
    Truncated {
        /// Offset in the message, in bytes.
        at: usize,
    },
    /// A type marker that is not defined or not allowed here (an object end outside of objects, AMF3).
    #[error("AMF0 has marker {marker:#04x} at byte {at}")]
    Marker {
        /// The type marker (AMF0 §2.1).
        marker: u8,
        /// Offset in the message, in bytes.
        at: usize,
    },
    /// Values are nested deeper than [`MAX_DEPTH`].
    #[error("AMF0 is nested deeper than {MAX_DEPTH}, at byte {at}")]
    Depth {
        /// Offset in the message, in bytes.
        at: usize,
    },
    /// The message has more than [`MAX_VALUES`] values.
    #[error("AMF0 has more than {MAX_VALUES} values, at byte {at}")]
    Values {
        /// Offset in the message, in bytes.
        at: usize,
    },
    /// A property without a name.
    #[error("AMF0 has a property without a name, at byte {at}")]
    Name {
        /// Offset in the message, in bytes.
        at: usize,
    },
    /// A string longer than 65,535 bytes cannot be sent.
    #[error("a string is too long for AMF0")]
    Unencodable,
    /// The values do not have the form of the command.
    #[error("{0}")]
    Shape(&'static str),
}

/// Bounds the nesting: real messages have three levels.
pub const MAX_DEPTH: usize = 16;
/// Bounds the values of one message, the values of properties included: real metadata has fewer than fifty.
pub const MAX_VALUES: usize = 1024;
