//! Attribute lists (RFC 8216 §4.2): names, and values that are quoted or not. Commas within quotes do not separate.

use std::time::Duration;

use super::playlist::ByteRange;

/// The attributes of one tag, as slices of its line.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Attributes<'a> {
    /// Parses leniently; attributes over [`MAX_ATTRIBUTES`] are ignored.
    pub(super) fn parse(mut text: &'a str) -> Self {
        let mut found = Vec::new();
        while let Some((name, rest)) = text.split_once('=') {
            if found.len() >= MAX_ATTRIBUTES {
                break;
            }
            let (value, rest) = match rest.strip_prefix('"') {
                Some(rest) => rest.split_once('"').unwrap_or((rest, "")),
                None => rest.split_at(rest.find(',').unwrap_or(rest.len())),
            };
            found.push((name.trim(), value));
            text = rest.split_once(',').map_or("", |(_, rest)| rest);
        }
        Self(found)
    }

    /// The value, without its quotes.
    pub(super) fn value(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(found, _)| *found == name).map(|(_, value)| *value)
    }

    pub(super) fn is_yes(&self, name: &str) -> bool {
        self.value(name) == Some("YES")
    }

    pub(super) fn integer(&self, name: &str) -> Option<u64> {
        integer(self.value(name)?)
    }

    pub(super) fn seconds(&self, name: &str) -> Option<Duration> {
        seconds(self.value(name)?)
    }

    /// `after` is where a range without an offset starts.
    pub(super) fn byte_range(&self, name: &str, after: u64) -> Option<ByteRange> {
        byte_range(self.value(name)?, after)
    }
}

/// `length[@offset]`; without an offset the range starts at `after`.
pub(super) fn byte_range(text: &str, after: u64) -> Option<ByteRange> {
    let (length, offset) = match text.trim().split_once('@') {
        Some((length, offset)) => (length, offset.parse().ok()?),
        None => (text.trim(), after),
    };
    let length: u64 = length.parse().ok()?;
    // The end of the range must be a number.
    offset.checked_add(length)?;
    Some(ByteRange { length, offset })
}

/// A decimal integer of at most 2^53, so that sums do not overflow.
pub(super) fn integer(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|n| *n <= MAX_INTEGER)
}

/// Seconds with any number of decimals, to the microsecond.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.trim().parse().ok()?;
    let sane = (0.0..=MAX_SECONDS).contains(&seconds);
    sane.then(|| Duration::from_micros((seconds * 1e6).round() as u64))
}

/// Upper bound of attributes in a tag, more than any tag has.
const MAX_ATTRIBUTES: usize = 32;
/// The largest integer that JavaScript players represent exactly; no sequence number is larger.
const MAX_INTEGER: u64 = 1 << 53;
/// Bounds a duration in seconds, ten years, so that sums do not overflow.
const MAX_SECONDS: f64 = 3.2e8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_attribute_lists() {
        for (text, name, expected) in [
            ("A=1,B=2", "B", Some("2")),
            ("A=\"x,y=z\",B=2", "A", Some("x,y=z")),
            ("A=\"x,y=z\",B=2", "B", Some("2")),
            ("A=\"x\" ,B=2", "B", Some("2")),
            (" A=1, B=2", "B", Some("2")),
            ("A=\"unterminated,B=2", "A", Some("unterminated,B=2")),
            ("A=\"\",B=", "B", Some("")),
            ("A,B=2", "B", None),
            ("", "A", None),
            ("=,=", "", Some("")),
        ] {
            assert_eq!(Attributes::parse(text).value(name), expected, "{text}");
        }
    }

    #[test]
    fn parses_durations_and_byte_ranges() {
        for (text, expected) in [
            ("2", Some(2_000_000)),
            ("0.3335", Some(333_500)),
            ("-1", None),
            ("NaN", None),
            ("inf", None),
            ("1e300", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected.map(Duration::from_micros), "{text}");
        }
        for (text, expected) in
            [("5@7", Some((5, 7))), ("5", Some((5, 3))), ("5@", None), ("@5", None), ("18446744073709551615@1", None)]
        {
            assert_eq!(byte_range(text, 3).map(|r| (r.length, r.offset)), expected, "{text}");
        }
    }
}
