//! The file of publish keys: an id and a salted hash of each, readable by its owner only, reloaded when it changes.
//!
//! A key is found by its id, so that the work does not depend on the number of keys.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use super::name::{InvalidName, StreamName};
use super::secret::{Hash, KeyId, PresentedKey, Secret};
use crate::atomic_file::{create_directory_of, lock, replace};

/// The publish keys of a server, one per stream.
#[derive(Debug)]
pub struct Keyring {
    path: PathBuf,
    loaded: RwLock<Loaded>,
    /// The unusable version of the file that the last reload found, if any, so that it is reported only once.
    refused: Mutex<Option<Option<Stamp>>>,
}

#[derive(Debug, Default)]
struct Loaded {
    keys: BTreeMap<StreamName, StoredKey>,
    by_id: BTreeMap<KeyId, StreamName>,
    stamp: Option<Stamp>,
}

/// What is stored of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StoredKey {
    id: KeyId,
    hash: Hash,
}

/// Identifies a version of the file. Writers replace the file, so each version has a new inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    modified: (i64, i64),
    len: u64,
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
    #[error("{path}: {source}")]
    Name {
        /// The key file.
        path: PathBuf,
        /// What is wrong.
        source: InvalidName,
    },
    /// The name already has a key.
    #[error("the stream {name} has a key; remove it first, or replace it with --replace")]
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

/// What changed in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Streams that now have a key.
    pub added: Vec<StreamName>,
    /// Streams whose key was removed.
    pub removed: Vec<StreamName>,
    /// Streams whose key was replaced.
    pub replaced: Vec<StreamName>,
}

impl Keyring {
    /// Reads the file at `path`. A missing file is an empty keyring.
    ///
    /// # Errors
    /// If the file cannot be read, or a line of it is malformed.
    pub fn open(path: PathBuf) -> Result<Self, Error> {
        let loaded = load(&path)?;
        Ok(Self { path, loaded: RwLock::new(loaded), refused: Mutex::default() })
    }

    /// The stream whose key `presented` is, found by the key's id: one comparison in constant time, whatever the number of keys.
    pub fn find(&self, presented: PresentedKey<'_>) -> Option<StreamName> {
        let loaded = self.loaded.read();
        let name = loaded.by_id.get(&presented.id())?;
        loaded.keys.get(name).is_some_and(|key| key.hash.is_of(presented)).then(|| name.clone())
    }

    /// The streams that have a key.
    pub fn names(&self) -> Vec<StreamName> {
        self.loaded.read().keys.keys().cloned().collect()
    }

    /// Whether a stream has a key.
    pub fn knows(&self, name: &str) -> bool {
        name.parse::<StreamName>().is_ok_and(|name| self.loaded.read().keys.contains_key(&name))
    }

    /// Generates a key for `name` and writes the file, which holds only a hash: the key cannot be read again.
    ///
    /// # Errors
    /// If the name is taken and `replace` is false; I/O errors of the file.
    pub fn create(&self, name: &StreamName, replace: bool) -> Result<Secret, Error> {
        let key = Secret::generate()?;
        let stored = StoredKey { id: key.presented().id(), hash: key.hash()? };
        self.change(|keys| {
            if keys.contains_key(name) && !replace {
                return Err(Error::Exists { name: name.clone() });
            }
            if keys.len() >= MAX_KEYS {
                return Err(Error::Full);
            }
            keys.insert(name.clone(), stored);
            Ok(())
        })?;
        Ok(key)
    }

    /// Removes the key of `name` and writes the file.
    ///
    /// # Errors
    /// If there is no such name; I/O errors of the file.
    pub fn remove(&self, name: &StreamName) -> Result<(), Error> {
        self.change(|keys| match keys.remove(name) {
            Some(_) => Ok(()),
            None => Err(Error::Missing { name: name.clone() }),
        })
    }

    /// Reads the file again if it changed. A damaged, missing or empty file leaves the keys unchanged and is reported as an error once. (Removing
    /// the last key writes a valid file without keys, so an empty file is an accident and must not end all streams.)
    ///
    /// # Errors
    /// If the file cannot be read, or a line of it is malformed; the keys stay as they were.
    pub fn reload(&self) -> Result<Changes, Error> {
        let stamp = stamp(&self.path)?;
        let mut refused = self.refused.lock();
        if stamp == self.loaded.read().stamp || *refused == Some(stamp) {
            return Ok(Changes::default());
        }
        *refused = Some(stamp);
        if stamp.is_none_or(|stamp| stamp.len == 0) {
            return Err(Error::Damaged { path: self.path.clone(), why: "the file is missing or empty".into() });
        }
        let new = load(&self.path)?;
        *refused = None;
        let mut loaded = self.loaded.write();
        let old = std::mem::replace(&mut *loaded, new);
        let mut changes = Changes::default();
        for (name, key) in &loaded.keys {
            match old.keys.get(name) {
                None => changes.added.push(name.clone()),
                Some(before) if before != key => changes.replaced.push(name.clone()),
                Some(_) => {}
            }
        }
        changes.removed = old.keys.into_keys().filter(|name| !loaded.keys.contains_key(name)).collect();
        Ok(changes)
    }

    /// Reads, changes and writes the file under an exclusive lock.
    fn change(
        &self,
        edit: impl FnOnce(&mut BTreeMap<StreamName, StoredKey>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        create_directory_of(&self.path).map_err(|(path, source)| Error::Io { path, source })?;
        let io = |source| Error::Io { path: self.path.clone(), source };
        let _lock = lock(&self.path).map_err(io)?;
        let mut keys = load(&self.path)?.keys;
        edit(&mut keys)?;
        replace(&self.path, render(&keys).as_bytes()).map_err(io)?;
        let stamp = stamp(&self.path)?;
        *self.loaded.write() = Loaded::new(keys, stamp);
        Ok(())
    }
}

impl Loaded {
    fn new(keys: BTreeMap<StreamName, StoredKey>, stamp: Option<Stamp>) -> Self {
        let by_id = keys.iter().map(|(name, key)| (key.id, name.clone())).collect();
        Self { keys, by_id, stamp }
    }
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    #[serde(default)]
    key: Vec<KeyEntry>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    name: String,
    id: String,
    salt: String,
    sha256: String,
}

fn load(path: &Path) -> Result<Loaded, Error> {
    let stamp = stamp(path)?;
    if stamp.is_none() {
        return Ok(Loaded::default());
    }
    let damaged = |why: String| Error::Damaged { path: path.into(), why };
    let text = fs::read_to_string(path).map_err(|source| Error::Io { path: path.into(), source })?;
    let document: KeyFile = toml::from_str(&text).map_err(|e| damaged(e.to_string()))?;
    if document.key.len() > MAX_KEYS {
        return Err(Error::Full);
    }
    let (mut keys, mut ids) = (BTreeMap::new(), BTreeSet::new());
    for row in document.key {
        let name: StreamName = row.name.parse().map_err(|source| Error::Name { path: path.into(), source })?;
        let id = unhex(&row.id).ok_or_else(|| damaged(format!("the id of {name} is not 12 hex digits")))?;
        let salt = unhex(&row.salt).ok_or_else(|| damaged(format!("the salt of {name} is not 32 hex digits")))?;
        let digest = unhex(&row.sha256).ok_or_else(|| damaged(format!("the hash of {name} is not 64 hex digits")))?;
        if !ids.insert(KeyId(id)) {
            return Err(damaged(format!("another key has the id of {name}")));
        }
        if keys.insert(name.clone(), StoredKey { id: KeyId(id), hash: Hash { salt, digest } }).is_some() {
            return Err(damaged(format!("{name} is there twice")));
        }
    }
    Ok(Loaded::new(keys, stamp))
}

fn stamp(path: &Path) -> Result<Option<Stamp>, Error> {
    match fs::metadata(path) {
        Ok(m) => Ok(Some(Stamp { inode: m.ino(), modified: (m.mtime(), m.mtime_nsec()), len: m.len() })),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { path: path.into(), source }),
    }
}

fn render(keys: &BTreeMap<StreamName, StoredKey>) -> String {
    let row = |(name, key): (&StreamName, &StoredKey)| KeyEntry {
        name: name.to_string(),
        id: HEXLOWER.encode(&key.id.0),
        salt: HEXLOWER.encode(&key.hash.salt),
        sha256: HEXLOWER.encode(&key.hash.digest),
    };
    let document = KeyFile { key: keys.iter().map(row).collect() };
    format!("{HEADER}{}", toml::to_string(&document).expect("rows of strings are TOML"))
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok()
}

const HEADER: &str =
    "# Publish keys of this server: ids and salted SHA-256. Written by `cdn key`; the keys themselves are nowhere.\n\n";
/// Maximum number of keys: bounds the file and the memory.
const MAX_KEYS: usize = 10_000;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn name(text: &str) -> StreamName {
        text.parse().unwrap()
    }

    fn ring() -> (tempfile::TempDir, Keyring) {
        let directory = tempfile::tempdir().unwrap();
        let ring = Keyring::open(directory.path().join("data/keys.toml")).unwrap();
        (directory, ring)
    }

    #[test]
    fn a_key_resolves_to_its_stream_only() {
        let (_directory, ring) = ring();
        let (a, b) = (ring.create(&name("a"), false).unwrap(), ring.create(&name("b"), false).unwrap());
        assert_eq!(ring.find(a.presented()), Some(name("a")));
        assert_eq!(ring.find(b.presented()), Some(name("b")));
        let unknown = Secret::generate().unwrap();
        assert_eq!(ring.find(unknown.presented()), None);
        assert!(ring.knows("a") && !ring.knows("c") && !ring.knows("../a"));
    }

    #[test]
    fn the_file_is_private_and_holds_hashes_only() {
        let (_directory, ring) = ring();
        let key = ring.create(&name("a"), false).unwrap();
        let text = fs::read_to_string(&ring.path).unwrap();
        assert!(!text.contains(key.reveal()) && !text.contains(&key.reveal()[4..]), "{text}");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&ring.path), mode(ring.path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(Keyring::open(ring.path.clone()).unwrap().find(key.presented()), Some(name("a")));
    }

    #[test]
    fn a_stream_has_one_key() {
        let (_directory, ring) = ring();
        let old = ring.create(&name("a"), false).unwrap();
        assert!(matches!(ring.create(&name("a"), false), Err(Error::Exists { .. })));
        let new = ring.create(&name("a"), true).unwrap();
        assert_eq!((ring.find(old.presented()), ring.find(new.presented())), (None, Some(name("a"))));
        ring.remove(&name("a")).unwrap();
        assert!(matches!(ring.remove(&name("a")), Err(Error::Missing { .. })));
        assert_eq!(ring.find(new.presented()), None);
    }

    #[test]
    fn changes_by_another_process_are_reloaded() {
        let (_directory, ring) = ring();
        ring.create(&name("a"), false).unwrap();
        ring.create(&name("b"), false).unwrap();
        assert_eq!(ring.reload().unwrap(), Changes::default());
        let other = Keyring::open(ring.path.clone()).unwrap();
        let c = other.create(&name("c"), false).unwrap();
        let b = other.create(&name("b"), true).unwrap();
        other.remove(&name("a")).unwrap();
        let changes = ring.reload().unwrap();
        assert_eq!(changes, Changes { added: vec![name("c")], removed: vec![name("a")], replaced: vec![name("b")] });
        assert_eq!((ring.find(c.presented()), ring.find(b.presented())), (Some(name("c")), Some(name("b"))));
        fs::write(&ring.path, "key = 1").unwrap();
        assert!(matches!(ring.reload(), Err(Error::Damaged { .. })));
        assert_eq!(ring.reload().unwrap(), Changes::default(), "it is reported once");
        assert_eq!(ring.find(c.presented()), Some(name("c")));
    }

    #[test]
    fn a_file_that_is_missing_or_empty_removes_no_stream() {
        let (_directory, ring) = ring();
        let key = ring.create(&name("a"), false).unwrap();
        let good = fs::read_to_string(&ring.path).unwrap();
        let check = |ring: &Keyring| {
            assert!(matches!(ring.reload(), Err(Error::Damaged { .. })));
            assert_eq!(ring.find(key.presented()), Some(name("a")));
        };
        fs::remove_file(&ring.path).unwrap();
        check(&ring);
        fs::write(&ring.path, "").unwrap();
        check(&ring);
        fs::write(&ring.path, &good).unwrap();
        assert_eq!(ring.reload().unwrap(), Changes::default());
        fs::remove_file(&ring.path).unwrap();
        check(&ring);
        // Removing the last key is accepted, since it leaves a valid file.
        fs::write(&ring.path, &good).unwrap();
        Keyring::open(ring.path.clone()).unwrap().remove(&name("a")).unwrap();
        assert_eq!(ring.reload().unwrap().removed, [name("a")]);
        assert_eq!(ring.find(key.presented()), None);
    }

    #[test]
    fn damaged_files_are_rejected() {
        let (_directory, ring) = ring();
        ring.create(&name("a"), false).unwrap();
        let good = fs::read_to_string(&ring.path).unwrap();
        for (from, to) in [
            ("sha256 = \"", "sha256 = \"é"),
            ("id = \"", "id = \"0"),
            ("salt", "pepper"),
            ("\"a\"", "\"../a\""),
            ("[[key]]", "[["),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(bad, good);
            fs::write(&ring.path, bad).unwrap();
            assert!(Keyring::open(ring.path.clone()).is_err(), "{to}");
        }
    }

    #[test]
    fn two_keys_with_one_id_are_rejected() {
        let (_directory, ring) = ring();
        for stream in ["a", "b"] {
            ring.create(&name(stream), false).unwrap();
        }
        let text = fs::read_to_string(&ring.path).unwrap();
        let ids: Vec<&str> = text.lines().filter(|line| line.starts_with("id = ")).collect();
        fs::write(&ring.path, text.replace(ids[1], ids[0])).unwrap();
        assert!(matches!(Keyring::open(ring.path.clone()), Err(Error::Damaged { .. })));
    }
}
