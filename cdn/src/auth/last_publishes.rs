//! When and from where each key was last used to publish: kept by the server in a file of its own, and shown by `cdn key list`.
//!
//! The key file stays that of `cdn key`, and this one that of the server, so that neither overwrites what the other has written. It is written at
//! most once per [`SAVE_INTERVAL`], however often publishers connect.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use media::WallClock;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::key_file::line_of;
use super::secret::KeyId;
use crate::atomic_file::{create_directory_of, lock, replace};

/// A publish that the server accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastPublish {
    /// When it was accepted.
    pub at: WallClock,
    /// The publisher's address.
    pub from: IpAddr,
}

/// The last publish with each key.
#[derive(Debug)]
pub struct LastPublishes {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    unsaved: BTreeMap<KeyId, LastPublish>,
    /// When the file was last written, or could not be.
    tried: Option<Instant>,
}

impl LastPublishes {
    /// For the file at `path`, which is not read before something is to be saved.
    pub fn new(path: PathBuf) -> Self {
        Self { path, state: Mutex::default() }
    }

    /// Reads the file at `path`; a missing one is empty.
    ///
    /// # Errors
    /// Those of the file system, and `InvalidData` if the file is damaged.
    pub fn read(path: &Path) -> io::Result<BTreeMap<KeyId, LastPublish>> {
        match std::fs::read_to_string(path) {
            Ok(text) => parse(&text).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        }
    }

    /// Records that a publish with a valid key was accepted.
    pub fn record(&self, key: KeyId, publish: LastPublish) {
        self.state.lock().unsaved.insert(key, publish);
    }

    /// Whether there is something to save and the last save was long enough ago.
    pub fn is_due(&self, now: Instant) -> bool {
        let state = self.state.lock();
        let is_early = |tried| now.saturating_duration_since(tried) < SAVE_INTERVAL;
        !state.unsaved.is_empty() && !state.tried.is_some_and(is_early)
    }

    /// Writes what is not saved to the file, beside what other servers with the same data have written. Blocks for as long as the disk takes. What
    /// could not be written is kept for the next time.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, now: Instant) -> io::Result<()> {
        let unsaved = {
            let mut state = self.state.lock();
            state.tried = Some(now);
            state.unsaved.clone()
        };
        if unsaved.is_empty() {
            return Ok(());
        }
        create_directory_of(&self.path).map_err(|(_, error)| error)?;
        let _lock = lock(&self.path)?;
        // A damaged file is replaced: nothing but this writes it.
        let mut all = match Self::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => BTreeMap::new(),
            read => read?,
        };
        for (key, publish) in &unsaved {
            if all.get(key).is_none_or(|saved| saved.at < publish.at) {
                all.insert(*key, *publish);
            }
        }
        replace(&self.path, render(&all).as_bytes())?;
        self.state.lock().unsaved.retain(|key, publish| unsaved.get(key) != Some(publish));
        Ok(())
    }
}

/// The file, with values as text, or as text and its place.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct File<S> {
    #[serde(default = "Vec::new")]
    key: Vec<Row<S>>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Row<S> {
    id: S,
    at: S,
    from: IpAddr,
}

fn parse(text: &str) -> Result<BTreeMap<KeyId, LastPublish>, String> {
    let file: File<Spanned<String>> = toml::from_str(text).map_err(|error| error.to_string())?;
    let row = |row: Row<Spanned<String>>| {
        let wrong = |at: &Spanned<String>, why: String| format!("line {}: {:?} {why}", line_of(text, at), at.get_ref());
        let id = row.id.get_ref().parse().map_err(|error| wrong(&row.id, format!("is no key's id: {error}")))?;
        let at = WallClock::from_rfc3339(row.at.get_ref()).ok_or_else(|| wrong(&row.at, "is not a time".to_owned()))?;
        Ok((id, LastPublish { at, from: row.from }))
    };
    file.key.into_iter().map(row).collect()
}

/// The latest first, and no more than [`MAX_KEYS`], since keys that were removed stay in the file.
fn render(publishes: &BTreeMap<KeyId, LastPublish>) -> String {
    let mut latest: Vec<_> = publishes.iter().collect();
    latest.sort_by_key(|(_, publish)| std::cmp::Reverse(publish.at));
    let row = |(id, publish): (&KeyId, &LastPublish)| Row {
        id: id.to_string(),
        at: publish.at.to_rfc3339(),
        from: publish.from,
    };
    let file = File { key: latest.into_iter().take(MAX_KEYS).map(row).collect() };
    format!("{HEADER}{}", toml::to_string(&file).expect("rows of strings are TOML"))
}

const HEADER: &str = "# The last publish with each key. Written by the server; `cdn key list` shows it.\n\n";
/// How often the file is written at most.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum number of keys in the file, as in the key file.
const MAX_KEYS: usize = super::key_file::MAX_KEYS;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    fn id(n: u64) -> KeyId {
        format!("{n:012x}").parse().unwrap()
    }

    fn publish(second: i64, from: &str) -> LastPublish {
        LastPublish { at: WallClock::from_micros(second * 1_000_000), from: from.parse().unwrap() }
    }

    #[test]
    fn the_last_publish_of_each_key_is_in_a_private_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data/last-publishes.toml");
        let publishes = LastPublishes::new(path.clone());
        assert_eq!(LastPublishes::read(&path).unwrap(), BTreeMap::new());
        publishes.record(id(1), publish(10, "192.0.2.1"));
        publishes.record(id(1), publish(20, "192.0.2.2"));
        publishes.record(id(2), publish(30, "2001:db8::1"));
        publishes.save(Instant::now()).unwrap();
        let expected = BTreeMap::from([(id(1), publish(20, "192.0.2.2")), (id(2), publish(30, "2001:db8::1"))]);
        assert_eq!(LastPublishes::read(&path).unwrap(), expected);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_file_is_written_at_once_and_then_once_per_interval() {
        let directory = tempfile::tempdir().unwrap();
        let publishes = LastPublishes::new(directory.path().join("last-publishes.toml"));
        let start = Instant::now();
        let mut writes = 0;
        // A publisher that connects ten times per second.
        for tenth in 0..6000 {
            let now = start + Duration::from_millis(100 * tenth);
            publishes.record(id(1), publish(tenth as i64, "192.0.2.1"));
            if publishes.is_due(now) {
                publishes.save(now).unwrap();
                writes += 1;
                assert!(!publishes.is_due(now + SAVE_INTERVAL), "nothing is left to save");
            }
        }
        assert_eq!(writes, 10);
    }

    #[test]
    fn servers_with_one_data_directory_keep_what_the_others_have_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("last-publishes.toml");
        let servers = [0, 1].map(|_| LastPublishes::new(path.clone()));
        servers[0].record(id(1), publish(20, "192.0.2.1"));
        servers[1].record(id(1), publish(10, "192.0.2.2"));
        servers[1].record(id(2), publish(10, "192.0.2.2"));
        for server in &servers {
            server.save(Instant::now()).unwrap();
        }
        let expected = BTreeMap::from([(id(1), publish(20, "192.0.2.1")), (id(2), publish(10, "192.0.2.2"))]);
        assert_eq!(LastPublishes::read(&path).unwrap(), expected);
    }

    #[test]
    fn what_could_not_be_written_is_written_later_and_a_damaged_file_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data/last-publishes.toml");
        let publishes = LastPublishes::new(path.clone());
        publishes.record(id(1), publish(10, "192.0.2.1"));
        std::fs::write(directory.path().join("data"), "").unwrap();
        let start = Instant::now();
        publishes.save(start).unwrap_err();
        assert!(!publishes.is_due(start) && publishes.is_due(start + SAVE_INTERVAL));
        std::fs::remove_file(directory.path().join("data")).unwrap();
        std::fs::create_dir(directory.path().join("data")).unwrap();
        for damaged in ["key = 1", "[[key]]\nid = 'x'\nat = '2026-11-22T13:01:33Z'\nfrom = '::1'", "[[key]]\nid = '1"] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(LastPublishes::read(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        publishes.save(start).unwrap();
        assert_eq!(LastPublishes::read(&path).unwrap(), BTreeMap::from([(id(1), publish(10, "192.0.2.1"))]));
    }

    #[test]
    fn the_file_is_bounded_and_keeps_the_latest() {
        let many = (0..MAX_KEYS as u64 + 5).map(|n| (id(n), publish(n as i64, "192.0.2.1"))).collect();
        let kept = parse(&render(&many)).unwrap();
        assert_eq!((kept.len(), kept.contains_key(&id(4)), kept.contains_key(&id(5))), (MAX_KEYS, false, true));
    }

    proptest! {
        /// Whatever is done to a file, reading it is an error, or it has no other ids than it states, and they survive being written.
        #[test]
        fn a_file_that_was_changed_is_an_error_or_says_what_it_states(
            edits in prop::collection::vec((any::<Index>(), 0..24usize, "[ -~\\n\u{e9}]{0,24}"), 0..5)
        ) {
            let good = BTreeMap::from([(id(1), publish(20, "192.0.2.2")), (id(2), publish(30, "2001:db8::1"))]);
            let mut text: Vec<char> = render(&good).chars().collect();
            for (at, removed, added) in &edits {
                let at = at.index(text.len() + 1);
                let end = (at + removed).min(text.len());
                text.splice(at..end, added.chars());
            }
            let text: String = text.into_iter().collect();
            match parse(&text) {
                Err(error) => prop_assert!(!edits.is_empty() && !error.is_empty()),
                Ok(publishes) => {
                    prop_assert!(publishes.keys().all(|id| text.to_lowercase().contains(&id.to_string())), "{}", text);
                    prop_assert_eq!(parse(&render(&publishes)).unwrap(), publishes);
                }
            }
        }
    }
}
