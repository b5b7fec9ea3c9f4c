//! Protocol violations that parsing finds. `SPEC.md` §3 to §5.

/// How the bytes of a peer violate the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The message ends inside the named structure.
    #[error("{0} is truncated")]
    Truncated(&'static str),
    /// A length or a count exceeds its bound.
    #[error("{what} of {value} exceeds the limit of {limit}")]
    Limit {
        /// The name of the field.
        what: &'static str,
        /// The value on the wire.
        value: u64,
        /// The largest value that is accepted.
        limit: u64,
    },
    /// A value that this version does not define.
    #[error("{what} {value} is not defined")]
    Unknown {
        /// The name of the field.
        what: &'static str,
        /// The value on the wire.
        value: u64,
    },
    /// A group has a unit before its first catalog.
    #[error("a unit arrived before any catalog")]
    NoCatalog,
    /// The named text is not UTF-8.
    #[error("{0} is not UTF-8")]
    Text(&'static str),
}
