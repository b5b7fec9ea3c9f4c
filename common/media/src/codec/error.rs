//! Why a configuration record, or a header within a stream, cannot be read.

/// Why a configuration record, or a header within a stream, can not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It ends too soon.
    #[error("{what} is cut short")]
    Truncated {
        /// The structure.
        what: &'static str,
    },
    /// A value that the specification forbids, or that Nearcast does not carry.
    #[error("{what}: {value} is not supported")]
    Unsupported {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A structure that must be there is not.
    #[error("{what} is missing")]
    Missing {
        /// The structure.
        what: &'static str,
    },
}
