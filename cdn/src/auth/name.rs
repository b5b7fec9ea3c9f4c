//! Stream names: public, part of every URL, never a key.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// A stream name: 1 to 64 characters of `A-Z a-z 0-9 - _ .`, starting with a letter or digit, and not a path that the server uses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct StreamName(String);

/// Why a text is not a stream name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// Too short or too long.
    #[error("a stream's name has 1 to {MAX_LEN} characters, not {len}")]
    Length {
        /// Its length in characters.
        len: usize,
    },
    /// A character that URLs would have to escape.
    #[error(
        "a stream's name is made of A-Z a-z 0-9 - _ . and starts with a letter or digit: {found:?} is not allowed there"
    )]
    Character {
        /// The first such character.
        found: char,
    },
    /// A name that has another meaning in URLs.
    #[error("{name:?} is reserved: it is another path on this server")]
    Reserved {
        /// The name, as given.
        name: String,
    },
    /// A name that looks like a key.
    #[error("a stream's name must not look like a publish key")]
    Key,
}

impl StreamName {
    /// The name as it appears in URLs.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StreamName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if !(1..=MAX_LEN).contains(&text.len()) {
            return Err(InvalidName::Length { len: text.chars().count() });
        }
        let is_allowed = |(at, c): &(usize, char)| c.is_ascii_alphanumeric() || (*at > 0 && "-_.".contains(*c));
        if let Some((_, found)) = text.char_indices().find(|c| !is_allowed(c)) {
            return Err(InvalidName::Character { found });
        }
        if RESERVED.contains(&text.to_ascii_lowercase().as_str()) {
            return Err(InvalidName::Reserved { name: text.into() });
        }
        if text.starts_with(super::secret::PREFIX) {
            return Err(InvalidName::Key);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Maximum length: fits a path segment, a log line and a file name.
const MAX_LEN: usize = 64;
/// First path segments that the HTTP server uses or may use in the future.
const RESERVED: &[&str] =
    &["api", "assets", "chat", "favicon.ico", "healthz", "metrics", "readyz", "robots.txt", "static", "whep", "whip"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_url_safe_and_not_reserved() {
        for good in ["live", "a", "Room-1_b.c", "0", &"x".repeat(64)] {
            assert_eq!(good.parse::<StreamName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", ".hidden", "a/b", "a b", "é", "api", "HealthZ", "nck_abc", "a?b", "../x", &"x".repeat(65)]
        {
            assert!(bad.parse::<StreamName>().is_err(), "{bad}");
        }
    }
}
