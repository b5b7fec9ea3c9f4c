//! Byte ranges (RFC 9110 §14). A single range is served; a request for several gets the whole body, which is always allowed.

use std::ops::Range;

/// The part of a body that a `Range` header selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RequestedRange {
    /// The whole body: no range, several ranges, or a malformed one.
    All,
    /// These bytes, not empty and within the body.
    Part(Range<u64>),
    /// A range that starts after the end.
    Unsatisfiable,
}

/// Parses a `Range` header for a body of `length` bytes.
pub(super) fn parse(header: Option<&str>, length: u64) -> RequestedRange {
    let Some(spec) = header.and_then(|h| h.trim().strip_prefix("bytes=")) else { return RequestedRange::All };
    let Some((first, last)) = spec.split_once('-').filter(|_| !spec.contains(',')) else { return RequestedRange::All };
    match (number(first), number(last)) {
        (Parsed::Number(first), Parsed::Number(last)) if first > last => RequestedRange::All,
        (Parsed::Number(first), _) if first >= length => RequestedRange::Unsatisfiable,
        (Parsed::Number(first), Parsed::Number(last)) => {
            RequestedRange::Part(first..last.saturating_add(1).min(length))
        }
        (Parsed::Number(first), Parsed::Empty) => RequestedRange::Part(first..length),
        (Parsed::Empty, Parsed::Number(0)) => RequestedRange::Unsatisfiable,
        (Parsed::Empty, Parsed::Number(_)) if length == 0 => RequestedRange::Unsatisfiable,
        (Parsed::Empty, Parsed::Number(suffix)) => RequestedRange::Part(length.saturating_sub(suffix)..length),
        _ => RequestedRange::All,
    }
}

enum Parsed {
    Empty,
    Number(u64),
    Nonsense,
}

fn number(text: &str) -> Parsed {
    match text.trim() {
        "" => Parsed::Empty,
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => Parsed::Number(digits.parse().unwrap_or(u64::MAX)),
        _ => Parsed::Nonsense,
    }
}

#[cfg(test)]
mod tests {
    use super::RequestedRange::{All, Part, Unsatisfiable};
    use super::*;

    #[test]
    fn parses_a_single_range() {
        let check = |header, expected| assert_eq!(parse(Some(header), 100), expected, "{header}");
        check("bytes=0-0", Part(0..1));
        check("bytes=10-19", Part(10..20));
        check("bytes=10-", Part(10..100));
        check("bytes=10-1000", Part(10..100));
        check("bytes=-10", Part(90..100));
        check("bytes=-1000", Part(0..100));
        check("bytes=99-99", Part(99..100));
        check("bytes=100-", Unsatisfiable);
        check("bytes=99999999999999999999999-", Unsatisfiable);
        check("bytes=-0", Unsatisfiable);
        for nonsense in
            ["", "bytes", "bytes=", "bytes=-", "bytes=5-2", "bytes=a-b", "bytes=1-2,4-5", "bytes=+1-2", "units=1-2"]
        {
            check(nonsense, All);
        }
        assert_eq!(parse(None, 100), All);
        assert_eq!(parse(Some("bytes=-1"), 0), Unsatisfiable);
    }
}
