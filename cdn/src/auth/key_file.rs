//! The format of the key file: a row for each key, with the stream that it may publish.
//!
//! Each stream has one key without an end. A stream whose key was rotated also has the earlier ones, each with the time of its end.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use media::WallClock;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::name::{InvalidName, StreamName};
use super::secret::{Hash, KeyId};

/// What is stored of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredKey {
    pub(super) stream: StreamName,
    pub(super) hash: Hash,
    /// Unknown for keys of versions that did not store it.
    pub(super) created: Option<WallClock>,
    /// When the key ends, if it was rotated.
    pub(super) valid_until: Option<WallClock>,
}

/// The keys of a file by their ids.
pub(super) type StoredKeys = BTreeMap<KeyId, StoredKey>;

impl StoredKey {
    pub(super) fn is_valid(&self, now: WallClock) -> bool {
        self.valid_until.is_none_or(|end| now < end)
    }
}

/// Identifies a version of the file. Writers replace the file, so each version has a new inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    modified: (i64, i64),
    pub(super) len: u64,
}

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The key file, or its directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is damaged.
    #[error("{path}: {why}")]
    Damaged {
        /// The key file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A name in the file is not a valid stream name.
    #[error("{path}: line {line}: {source}")]
    Name {
        /// The key file.
        path: PathBuf,
        /// Where the name is, from 1.
        line: usize,
        /// What is wrong.
        source: InvalidName,
    },
    /// The name already has a key.
    #[error("the stream {name} has a key")]
    Exists {
        /// Name of the stream that already has a key.
        name: StreamName,
    },
    /// The name has no key.
    #[error("the stream {name} has no key")]
    Missing {
        /// Name of the stream that has no key.
        name: StreamName,
    },
    /// The maximum number of keys is reached.
    #[error("the limit of {MAX_KEYS} keys is reached")]
    Full,
    /// The system's random number generator failed.
    #[error("cannot get random numbers: {0}")]
    Random(#[from] rand::rngs::SysError),
}

/// The file, with values as text, or as text and its place.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct KeyFile<S> {
    #[serde(default = "Vec::new")]
    key: Vec<Row<S>>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Row<S> {
    name: S,
    id: S,
    salt: S,
    sha256: S,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<S>,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_until: Option<S>,
}

/// Reads the file; a missing one has no keys and no stamp.
pub(super) fn load(path: &Path) -> Result<(StoredKeys, Option<Stamp>), Error> {
    let stamp = stamp(path)?;
    if stamp.is_none() {
        return Ok(Default::default());
    }
    let text = fs::read_to_string(path).map_err(|source| Error::Io { path: path.into(), source })?;
    Ok((parse(&text, path)?, stamp))
}

fn parse(text: &str, path: &Path) -> Result<StoredKeys, Error> {
    let document: KeyFile<Spanned<String>> =
        toml::from_str(text).map_err(|e| Error::Damaged { path: path.into(), why: e.to_string() })?;
    let damaged = |at: &Spanned<String>, why: String| Error::Damaged {
        path: path.into(),
        why: format!("line {}: {why}", line_of(text, at)),
    };
    if document.key.len() > MAX_KEYS {
        return Err(Error::Full);
    }
    let (mut keys, mut has_lasting) = (StoredKeys::new(), BTreeMap::new());
    for row in document.key {
        let name = row.name.get_ref().parse();
        let stream: StreamName =
            name.map_err(|source| Error::Name { path: path.into(), line: line_of(text, &row.name), source })?;
        let id = row.id.get_ref().parse();
        let id = id.map_err(|_| damaged(&row.id, format!("the id of {stream} is not 12 hex digits")))?;
        let salt = unhex(row.salt.get_ref());
        let salt = salt.ok_or_else(|| damaged(&row.salt, format!("the salt of {stream} is not 32 hex digits")))?;
        let digest = unhex(row.sha256.get_ref());
        let digest =
            digest.ok_or_else(|| damaged(&row.sha256, format!("the hash of {stream} is not 64 hex digits")))?;
        let time = |field: &str, stated: Option<&Spanned<String>>| {
            let parse = |at: &Spanned<String>| {
                WallClock::from_rfc3339(at.get_ref())
                    .ok_or_else(|| damaged(at, format!("{field} of {stream} is not a time: {:?}", at.get_ref())))
            };
            stated.map(parse).transpose()
        };
        let created = time("created", row.created.as_ref())?;
        let valid_until = time("valid_until", row.valid_until.as_ref())?;
        let (_, lasting) = has_lasting.entry(stream.clone()).or_insert_with(|| (row.name.clone(), false));
        if valid_until.is_none() && std::mem::replace(lasting, true) {
            return Err(damaged(&row.name, format!("two keys of {stream} have no valid_until")));
        }
        let key = StoredKey { stream, hash: Hash { salt, digest }, created, valid_until };
        if let Some(other) = keys.insert(id, key) {
            return Err(damaged(&row.id, format!("another key has the id of that of {}", other.stream)));
        }
    }
    match has_lasting.into_iter().find(|(_, (_, has_lasting))| !has_lasting) {
        Some((stream, (at, _))) => {
            Err(damaged(&at, format!("each key of {stream} has a valid_until; one must have none")))
        }
        None => Ok(keys),
    }
}

/// The line of `text` that a value is in, from 1.
pub(super) fn line_of(text: &str, value: &Spanned<String>) -> usize {
    1 + text.bytes().take(value.span().start).filter(|byte| *byte == b'\n').count()
}

pub(super) fn stamp(path: &Path) -> Result<Option<Stamp>, Error> {
    match fs::metadata(path) {
        Ok(m) => Ok(Some(Stamp { inode: m.ino(), modified: (m.mtime(), m.mtime_nsec()), len: m.len() })),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { path: path.into(), source }),
    }
}

/// The contents of the file, in the order of the streams.
pub(super) fn render(keys: &StoredKeys) -> String {
    let row = |(id, key): (&KeyId, &StoredKey)| Row {
        name: key.stream.to_string(),
        id: id.to_string(),
        salt: HEXLOWER.encode(&key.hash.salt),
        sha256: HEXLOWER.encode(&key.hash.digest),
        created: key.created.map(WallClock::to_rfc3339),
        valid_until: key.valid_until.map(WallClock::to_rfc3339),
    };
    let mut document = KeyFile { key: keys.iter().map(row).collect() };
    document.key.sort_by(|a, b| a.name.cmp(&b.name));
    format!("{HEADER}{}", toml::to_string(&document).expect("rows of strings are TOML"))
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok()
}

const HEADER: &str =
    "# Publish keys of this server: ids and salted SHA-256. Written by `cdn key`; the keys themselves are nowhere.\n\n";
/// Maximum number of keys: bounds the file and the memory.
pub(super) const MAX_KEYS: usize = 10_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    const GOOD: &str = r#"
        [[key]]
        name = "a"
        id = "0123456789ab"
        salt = "00112233445566778899aabbccddeeff"
        sha256 = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
        created = "2026-11-22T13:01:33.250Z"

        [[key]]
        name = "a"
        id = "0123456789ac"
        salt = "00112233445566778899aabbccddeeff"
        sha256 = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
        valid_until = "2026-11-23T13:01:33.250Z"
    "#;

    fn parsed(text: &str) -> Result<StoredKeys, String> {
        parse(text, Path::new("keys.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_is_read() {
        let keys = parsed(GOOD).unwrap();
        let fields: Vec<_> = keys.values().map(|key| (key.created.is_some(), key.valid_until.is_some())).collect();
        assert_eq!(fields, [(true, false), (false, true)]);
        assert_eq!(parsed(&render(&keys)).unwrap(), keys);
        assert_eq!(parsed("").unwrap(), StoredKeys::new());
    }

    #[test]
    fn damaged_files_are_rejected_with_the_reason() {
        for (from, to, says) in [
            (
                "\n        sha256 = \"",
                "\n        sha256 = \"é",
                "keys.toml: line 6: the hash of a is not 64 hex digits",
            ),
            ("id = \"", "id = \"0", "keys.toml: line 4: the id of a is not 12 hex digits"),
            ("salt = \"", "salt = \"0", "keys.toml: line 5: the salt of a is not 32 hex digits"),
            ("salt", "pepper", "unknown field `pepper`"),
            ("\"a\"", "\"../a\"", "keys.toml: line 3: a stream's name"),
            ("[[key]]", "[[", "TOML parse error"),
            ("ab\"", "ac\"", "keys.toml: line 11: another key has the id"),
            ("created = \"2026", "created = \"some", "keys.toml: line 7: created of a is not a time: \"some-11-22"),
            (
                "        valid_until = \"2026-11-23T13:01:33.250Z\"\n",
                "",
                "keys.toml: line 10: two keys of a have no valid_until",
            ),
            ("created", "valid_until", "keys.toml: line 3: each key of a has a valid_until"),
        ] {
            let bad = GOOD.replace(from, to);
            assert_ne!(bad, GOOD);
            let error = parsed(&bad).unwrap_err();
            assert!(error.contains(says), "{says}: {error}");
        }
    }

    proptest! {
        /// Whatever is done to a file, it is rejected by name, or its keys are those that it states, and survive being written.
        #[test]
        fn a_file_that_was_changed_is_rejected_or_says_what_it_states(
            edits in prop::collection::vec((any::<Index>(), 0..24usize, "[ -~\\n\u{e9}]{0,24}"), 1..5)
        ) {
            let mut text: Vec<char> = GOOD.chars().collect();
            for (at, removed, added) in edits {
                let at = at.index(text.len() + 1);
                let end = (at + removed).min(text.len());
                text.splice(at..end, added.chars());
            }
            let text: String = text.into_iter().collect();
            match parsed(&text) {
                Err(error) => prop_assert!(error.starts_with("keys.toml: "), "{}", error),
                Ok(keys) => {
                    for (id, key) in &keys {
                        let stated = text.to_lowercase();
                        prop_assert!(stated.contains(&id.to_string()) && text.contains(key.stream.as_str()));
                    }
                    prop_assert_eq!(parsed(&render(&keys)).unwrap(), keys);
                }
            }
        }
    }
}
