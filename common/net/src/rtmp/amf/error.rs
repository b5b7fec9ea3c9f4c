//! What AMF0 from a peer violates.

/// What is wrong with an AMF0 message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Ends inside a value.
    #[error("AMF0 ends inside a value, at byte {at}")]
    Truncated {
        /// Offset in the message.
        at: usize,
    },
    /// A type marker that does not exist, or that makes no sense here (an object end outside of objects, AMF3).
    #[error("AMF0 has marker {marker:#04x} at byte {at}")]
    Marker {
        /// The marker.
        marker: u8,
        /// Offset in the message.
        at: usize,
    },
    /// Deeper than [`MAX_DEPTH`].
    #[error("AMF0 is nested deeper than {MAX_DEPTH}, at byte {at}")]
    Depth {
        /// Offset in the message.
        at: usize,
    },
    /// More than [`MAX_VALUES`].
    #[error("AMF0 has more than {MAX_VALUES} values, at byte {at}")]
    Values {
        /// Offset in the message.
        at: usize,
    },
    /// A property without a name.
    #[error("AMF0 has a property without a name, at byte {at}")]
    Name {
        /// Offset in the message.
        at: usize,
    },
    /// A string longer than 65,535 bytes cannot be sent.
    #[error("a string is too long for AMF0")]
    Unencodable,
    /// The shape is not that of the command.
    #[error("{0}")]
    Shape(&'static str),
}

/// Nesting that is read: real messages have three levels.
pub const MAX_DEPTH: usize = 16;
/// Values in one message, keys' values included: real metadata has fewer than fifty.
pub const MAX_VALUES: usize = 1024;
