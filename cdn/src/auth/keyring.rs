//! The publish keys of a server: found by their ids, changed by `cdn key`, reloaded when their file changes, and ended when their time is over.
//!
//! A key is found by its id, so that the work does not depend on the number of keys. Only `cdn key`, and a server that has no key yet, write the file.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use media::WallClock;
use parking_lot::{Mutex, RwLock};

use super::key_file::{Error, MAX_KEYS, Stamp, StoredKey, StoredKeys, load, render, stamp};
use super::name::StreamName;
use super::secret::{KeyId, PresentedKey, Secret};
use crate::atomic_file::{create_directory_of, lock, replace};

/// The publish keys of a server: one per stream, and beside it those that were rotated and have not ended.
#[derive(Debug)]
pub struct Keyring {
    path: PathBuf,
    loaded: RwLock<Loaded>,
    /// The unusable version of the file that the last reload found, if any, so that it is reported only once.
    refused: Mutex<Option<Option<Stamp>>>,
}

#[derive(Debug, Default)]
struct Loaded {
    keys: StoredKeys,
    stamp: Option<Stamp>,
}

/// A key that may publish a stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValidKey {
    /// The stream that it may publish.
    pub stream: StreamName,
    /// Where it stands in the key file, also after a reload.
    pub id: KeyId,
}

/// What is known of a key that is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// The key and its stream.
    pub key: ValidKey,
    /// When it was created; unknown for keys of old files.
    pub created: Option<WallClock>,
    /// When it ends, if it was rotated.
    pub valid_until: Option<WallClock>,
}

/// What changed in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Streams that now have a key.
    pub added: Vec<StreamName>,
    /// Streams whose keys were removed.
    pub removed: Vec<StreamName>,
    /// Streams that had a key and have another one.
    pub replaced: Vec<StreamName>,
}

impl Keyring {
    /// Reads the file at `path`. A missing file is an empty keyring.
    ///
    /// # Errors
    /// If the file cannot be read, or a line of it is malformed.
    pub fn open(path: PathBuf) -> Result<Self, Error> {
        let (keys, stamp) = load(&path)?;
        Ok(Self { path, loaded: RwLock::new(Loaded { keys, stamp }), refused: Mutex::default() })
    }

    /// The key that `presented` is, found by its id: one comparison in constant time, whatever the number of keys.
    pub fn find(&self, presented: PresentedKey<'_>, now: WallClock) -> Option<ValidKey> {
        let (loaded, id) = (self.loaded.read(), presented.id());
        let key = loaded.keys.get(&id).filter(|key| key.is_valid(now) && key.hash.is_of(presented))?;
        Some(ValidKey { stream: key.stream.clone(), id })
    }

    /// Whether a key that was found before is still valid.
    pub fn is_valid(&self, key: &ValidKey, now: WallClock) -> bool {
        self.loaded.read().keys.get(&key.id).is_some_and(|stored| stored.stream == key.stream && stored.is_valid(now))
    }

    /// The streams that have a key, in order.
    pub fn names(&self) -> Vec<StreamName> {
        streams(&self.loaded.read().keys).into_iter().cloned().collect()
    }

    /// The keys that are valid, in the order of the streams; of one stream, the key without an end first, and then the one that ends last.
    pub fn list(&self, now: WallClock) -> Vec<KeyInfo> {
        let loaded = self.loaded.read();
        let valid = loaded.keys.iter().filter(|(_, key)| key.is_valid(now));
        let info = |(id, key): (&KeyId, &StoredKey)| {
            let StoredKey { stream, created, valid_until, .. } = key.clone();
            KeyInfo { key: ValidKey { stream, id: *id }, created, valid_until }
        };
        let mut list: Vec<KeyInfo> = valid.map(info).collect();
        let end = |key: &KeyInfo| std::cmp::Reverse(key.valid_until.map_or(i64::MAX, WallClock::as_micros));
        list.sort_by(|a, b| (&a.key.stream, end(a)).cmp(&(&b.key.stream, end(b))));
        list
    }

    /// Generates a key for `name` and writes the file, which holds only a hash: the key cannot be read again. With `replace`, the keys that the
    /// stream has are removed.
    ///
    /// # Errors
    /// If the stream has a key and `replace` is false; I/O errors of the file.
    pub fn create(&self, name: &StreamName, replace: bool) -> Result<Secret, Error> {
        self.add(name, |keys| {
            if has_key(keys, name) && !replace {
                return Err(Error::Exists { name: name.clone() });
            }
            keys.retain(|_, key| key.stream != *name);
            Ok(())
        })
    }

    /// Generates another key for `name` and writes the file. The keys that the stream has end after `overlap`, if they do not end before.
    ///
    /// # Errors
    /// If the stream has no key; I/O errors of the file.
    pub fn rotate(&self, name: &StreamName, overlap: Duration) -> Result<Secret, Error> {
        let end = after(net::clock::now(), overlap);
        self.add(name, |keys| {
            if !has_key(keys, name) {
                return Err(Error::Missing { name: name.clone() });
            }
            for key in keys.values_mut().filter(|key| key.stream == *name) {
                key.valid_until = Some(key.valid_until.map_or(end, |earlier| earlier.min(end)));
            }
            Ok(())
        })
    }

    /// Removes the keys of `name` and writes the file.
    ///
    /// # Errors
    /// If there is no such name; I/O errors of the file.
    pub fn remove(&self, name: &StreamName) -> Result<(), Error> {
        self.change(|keys| {
            if !has_key(keys, name) {
                return Err(Error::Missing { name: name.clone() });
            }
            keys.retain(|_, key| key.stream != *name);
            Ok(())
        })
    }

    /// Forgets the keys whose end is over at `now`, and returns them.
    pub fn expire(&self, now: WallClock) -> Vec<ValidKey> {
        if self.loaded.read().keys.values().all(|key| key.is_valid(now)) {
            return Vec::new();
        }
        let ended = self.loaded.write().keys.extract_if(.., |_, key| !key.is_valid(now)).collect::<Vec<_>>();
        ended.into_iter().map(|(id, key)| ValidKey { stream: key.stream, id }).collect()
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
        let (keys, stamp) = load(&self.path)?;
        *refused = None;
        let mut loaded = self.loaded.write();
        let changes = Changes::between(&loaded.keys, &keys);
        *loaded = Loaded { keys, stamp };
        Ok(changes)
    }

    /// Generates a key for `name` and adds it to the file after `edit`.
    fn add(&self, name: &StreamName, edit: impl FnOnce(&mut StoredKeys) -> Result<(), Error>) -> Result<Secret, Error> {
        let key = Secret::generate()?;
        let (stream, created) = (name.clone(), Some(net::clock::now()));
        let stored = StoredKey { stream, hash: key.hash()?, created, valid_until: None };
        self.change(|keys| {
            edit(keys)?;
            if keys.len() >= MAX_KEYS {
                return Err(Error::Full);
            }
            keys.insert(key.presented().id(), stored);
            Ok(())
        })?;
        Ok(key)
    }

    /// Reads, changes and writes the file under an exclusive lock. Keys that have ended are left out.
    fn change(&self, edit: impl FnOnce(&mut StoredKeys) -> Result<(), Error>) -> Result<(), Error> {
        create_directory_of(&self.path).map_err(|(path, source)| Error::Io { path, source })?;
        let io = |source| Error::Io { path: self.path.clone(), source };
        let _lock = lock(&self.path).map_err(io)?;
        let (mut keys, _) = load(&self.path)?;
        edit(&mut keys)?;
        let now = net::clock::now();
        keys.retain(|_, key| key.is_valid(now));
        replace(&self.path, render(&keys).as_bytes()).map_err(io)?;
        let stamp = stamp(&self.path)?;
        *self.loaded.write() = Loaded { keys, stamp };
        Ok(())
    }
}

impl Changes {
    fn between(old: &StoredKeys, new: &StoredKeys) -> Self {
        let (had, has) = (streams(old), streams(new));
        let only_in = |a: &BTreeSet<&StreamName>, b| a.difference(b).map(|&name| name.clone()).collect();
        let is_known = |id: &KeyId, key: &StoredKey| {
            old.get(id).is_some_and(|known| (&known.stream, &known.hash) == (&key.stream, &key.hash))
        };
        let others = new.iter().filter(|(id, key)| had.contains(&key.stream) && !is_known(id, key));
        let replaced: BTreeSet<&StreamName> = others.map(|(_, key)| &key.stream).collect();
        Self {
            added: only_in(&has, &had),
            removed: only_in(&had, &has),
            replaced: replaced.into_iter().cloned().collect(),
        }
    }
}

fn streams(keys: &StoredKeys) -> BTreeSet<&StreamName> {
    keys.values().map(|key| &key.stream).collect()
}

fn has_key(keys: &StoredKeys, name: &StreamName) -> bool {
    keys.values().any(|key| key.stream == *name)
}

fn after(now: WallClock, wait: Duration) -> WallClock {
    WallClock::from_micros(now.as_micros().saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    fn name(text: &str) -> StreamName {
        text.parse().unwrap()
    }

    fn ring() -> (tempfile::TempDir, Keyring) {
        let directory = tempfile::tempdir().unwrap();
        let ring = Keyring::open(directory.path().join("data/keys.toml")).unwrap();
        (directory, ring)
    }

    /// The stream that the key is of, `later` from now.
    fn stream_of(ring: &Keyring, key: &Secret, later: Duration) -> Option<StreamName> {
        let found = ring.find(key.presented(), after(net::clock::now(), later))?;
        assert!(ring.is_valid(&found, net::clock::now()));
        assert!(!ring.is_valid(&ValidKey { stream: name("another"), ..found.clone() }, net::clock::now()));
        Some(found.stream)
    }

    fn now_of(ring: &Keyring, key: &Secret) -> Option<StreamName> {
        stream_of(ring, key, Duration::ZERO)
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_key_resolves_to_its_stream_only() {
        let (_directory, ring) = ring();
        let (a, b) = (ring.create(&name("a"), false).unwrap(), ring.create(&name("b"), false).unwrap());
        assert_eq!(now_of(&ring, &a), Some(name("a")));
        assert_eq!(now_of(&ring, &b), Some(name("b")));
        assert_eq!(now_of(&ring, &Secret::generate().unwrap()), None);
        assert_eq!(ring.names(), [name("a"), name("b")]);
    }

    #[test]
    fn the_file_is_private_and_holds_hashes_only() {
        let (_directory, ring) = ring();
        let key = ring.create(&name("a"), false).unwrap();
        let text = fs::read_to_string(&ring.path).unwrap();
        assert!(!text.contains(key.reveal()) && !text.contains(&key.reveal()[4..]), "{text}");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&ring.path), mode(ring.path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(now_of(&Keyring::open(ring.path.clone()).unwrap(), &key), Some(name("a")));
    }

    #[test]
    fn a_stream_has_one_key() {
        let (_directory, ring) = ring();
        let old = ring.create(&name("a"), false).unwrap();
        assert!(matches!(ring.create(&name("a"), false), Err(Error::Exists { .. })));
        let new = ring.create(&name("a"), true).unwrap();
        assert_eq!((now_of(&ring, &old), now_of(&ring, &new)), (None, Some(name("a"))));
        ring.remove(&name("a")).unwrap();
        assert!(matches!(ring.remove(&name("a")), Err(Error::Missing { .. })));
        assert_eq!(now_of(&ring, &new), None);
    }

    #[test]
    fn a_rotated_key_is_valid_until_the_overlap_is_over() {
        let (_directory, ring) = ring();
        assert!(matches!(ring.rotate(&name("a"), HOUR), Err(Error::Missing { .. })));
        let old = ring.create(&name("a"), false).unwrap();
        let other = ring.create(&name("b"), false).unwrap();
        let new = ring.rotate(&name("a"), HOUR).unwrap();
        for ring in [&ring, &Keyring::open(ring.path.clone()).unwrap()] {
            assert_eq!(ring.expire(net::clock::now()), []);
            for (later, is_old_valid) in [(Duration::ZERO, true), (HOUR * 9 / 10, true), (HOUR, false)] {
                assert_eq!(stream_of(ring, &old, later), is_old_valid.then(|| name("a")), "{later:?}");
                assert_eq!(stream_of(ring, &new, later), Some(name("a")), "{later:?}");
                assert_eq!(stream_of(ring, &other, later), Some(name("b")), "{later:?}");
                let listed = ring.list(after(net::clock::now(), later));
                let listed: Vec<_> = listed.iter().map(|info| (info.key.id, info.valid_until.is_some())).collect();
                let mut expected = vec![(new.presented().id(), false), (old.presented().id(), true)];
                expected.truncate(if is_old_valid { 2 } else { 1 });
                assert_eq!(listed, [&expected[..], &[(other.presented().id(), false)]].concat());
            }
        }
        let ended = ring.expire(after(net::clock::now(), HOUR));
        assert_eq!(ended, [ValidKey { stream: name("a"), id: old.presented().id() }]);
        assert_eq!(now_of(&ring, &old), None);
        assert_eq!(ring.expire(after(net::clock::now(), HOUR)), [], "it is reported once");
    }

    #[test]
    fn after_the_shortest_overlap_only_the_newest_key_is_valid() {
        let (_directory, ring) = ring();
        let first = ring.create(&name("a"), false).unwrap();
        let second = ring.rotate(&name("a"), HOUR).unwrap();
        let third = ring.rotate(&name("a"), HOUR * 2).unwrap();
        let valid = |later| [&first, &second, &third].map(|key| stream_of(&ring, key, later).is_some());
        assert_eq!(valid(HOUR / 2), [true, true, true]);
        assert_eq!(valid(HOUR), [false, true, true], "a later rotation extends no key");
        ring.rotate(&name("a"), Duration::ZERO).unwrap();
        assert_eq!(valid(Duration::ZERO), [false, false, false]);
        let text = fs::read_to_string(&ring.path).unwrap();
        assert_eq!(text.matches("[[key]]").count(), 1, "{text}");
    }

    #[test]
    fn a_key_of_a_file_without_dates_works_and_can_be_rotated() {
        let (_directory, ring) = ring();
        let old = ring.create(&name("a"), false).unwrap();
        let text = fs::read_to_string(&ring.path).unwrap();
        let is_old = |line: &&str| !line.starts_with("created");
        fs::write(&ring.path, text.lines().filter(is_old).collect::<Vec<_>>().join("\n")).unwrap();
        let ring = Keyring::open(ring.path.clone()).unwrap();
        assert_eq!(now_of(&ring, &old), Some(name("a")));
        let new = ring.rotate(&name("a"), HOUR).unwrap();
        assert_eq!((now_of(&ring, &old), now_of(&ring, &new)), (Some(name("a")), Some(name("a"))));
        let dates: Vec<_> = ring.list(net::clock::now()).iter().map(|info| info.created.is_some()).collect();
        assert_eq!(dates, [true, false]);
    }

    #[test]
    fn changes_by_another_process_are_reloaded() {
        let (_directory, ring) = ring();
        for stream in ["a", "b", "d"] {
            ring.create(&name(stream), false).unwrap();
        }
        assert_eq!(ring.reload().unwrap(), Changes::default());
        let other = Keyring::open(ring.path.clone()).unwrap();
        let c = other.create(&name("c"), false).unwrap();
        let b = other.create(&name("b"), true).unwrap();
        let d = other.rotate(&name("d"), HOUR).unwrap();
        other.remove(&name("a")).unwrap();
        let changes = ring.reload().unwrap();
        let expected =
            Changes { added: vec![name("c")], removed: vec![name("a")], replaced: vec![name("b"), name("d")] };
        assert_eq!(changes, expected);
        for (key, stream) in [(&b, "b"), (&c, "c"), (&d, "d")] {
            assert_eq!(now_of(&ring, key), Some(name(stream)));
        }
        fs::write(&ring.path, "key = 1").unwrap();
        assert!(matches!(ring.reload(), Err(Error::Damaged { .. })));
        assert_eq!(ring.reload().unwrap(), Changes::default(), "it is reported once");
        assert_eq!(now_of(&ring, &c), Some(name("c")));
    }

    #[test]
    fn a_file_that_is_missing_or_empty_removes_no_stream() {
        let (_directory, ring) = ring();
        let key = ring.create(&name("a"), false).unwrap();
        let good = fs::read_to_string(&ring.path).unwrap();
        let check = |ring: &Keyring| {
            assert!(matches!(ring.reload(), Err(Error::Damaged { .. })));
            assert_eq!(now_of(ring, &key), Some(name("a")));
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
        assert_eq!(now_of(&ring, &key), None);
    }
}
