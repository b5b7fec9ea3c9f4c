//! Why a configuration record, or a header within a stream, cannot be read.

/// Why a configuration record, or a header within a stream, cannot be read. The input is at fault; a retry with the same bytes does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The structure ends too soon.
    #[error("{what} is truncated")]
    Truncated {
        /// Name of the structure.
        what: &'static str,
    },
    /// A value that the specification forbids, or that Nearcast does not carry.
    #[error("{what}: {value} is not supported")]
    Unsupported {
        /// Name of the field.
        what: &'static str,
        /// The value that was read.
        value: u64,
    },
    /// A mandatory structure is missing.
    #[error("{what} is missing")]
    Missing {
        /// Name of the structure.
        what: &'static str,
    },
}
