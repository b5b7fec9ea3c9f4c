//! `cdn key …`: creates, lists, rotates and removes publish keys. The server may run meanwhile: it reads the key file when it changes, and writes
//! only the file of last publishes, which this command only reads.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use cdn::auth::{Error, KeyId, KeyInfo, Keyring, LastPublish, LastPublishes, StreamName};
use clap::Subcommand;
use media::WallClock;
use serde::Serialize;

use crate::data_paths::DataPaths;

/// Management of publish keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyAction {
    /// Create a key for the stream NAME and print it; it is not shown again.
    New {
        /// Name under which the stream is played.
        name: StreamName,
        /// Replace the keys that the stream has; a publisher that uses one is disconnected.
        #[arg(long)]
        replace: bool,
        /// Where the key file is.
        #[command(flatten)]
        paths: DataPaths,
    },
    /// List the keys, with when they were created, last used, and when they end.
    ///
    /// "unknown" is what a version before this one did not store. A running server writes the last use at most once a minute.
    List {
        /// Print as JSON.
        #[arg(long)]
        json: bool,
        /// Where the key file is.
        #[command(flatten)]
        paths: DataPaths,
    },
    /// Create another key for the stream NAME and print it; the old one stays valid for a while.
    Rotate {
        /// Name of the stream.
        name: StreamName,
        /// How long the old key stays valid: 30m, 24h, 7d. A publisher that still uses it then is disconnected.
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = overlap)]
        overlap: Duration,
        /// Where the key file is.
        #[command(flatten)]
        paths: DataPaths,
    },
    /// Remove the keys of the stream NAME; its publisher and its players are disconnected.
    Remove {
        /// Name of the stream.
        name: StreamName,
        /// Where the key file is.
        #[command(flatten)]
        paths: DataPaths,
    },
}

impl KeyAction {
    /// Executes the command; prints to standard output.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        match self {
            Self::New { name, replace, paths } => {
                let options = paths.as_options();
                let keys = open(paths)?.keys;
                let had_key = keys.names().contains(&name);
                writeln!(out, "{}", keys.create(&name, replace).map_err(|error| advised(error, &options))?.reveal())?;
                if replace && !had_key {
                    eprintln!("cdn: the stream {name} had no key to replace: this is its first one.");
                }
            }
            Self::List { json, paths } => {
                let Data { keys, last_publishes: file } = open_existing(paths)?;
                let publishes = LastPublishes::read(&file).unwrap_or_else(|error| {
                    eprintln!("cdn: the last use of the keys is unknown: {}: {error}", file.display());
                    BTreeMap::new()
                });
                let rows: Vec<Row> = keys.list(net::clock::now()).iter().map(|key| Row::of(key, &publishes)).collect();
                match json {
                    true => writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?,
                    false => out.write_all(table(&rows).as_bytes())?,
                }
            }
            Self::Rotate { name, overlap, paths } => {
                let options = paths.as_options();
                let keys = open_existing(paths)?.keys;
                writeln!(out, "{}", keys.rotate(&name, overlap).map_err(|error| advised(error, &options))?.reveal())?;
                let old = keys.list(net::clock::now()).into_iter().filter(|info| info.key.stream == name);
                if let Some(end) = old.filter_map(|info| info.valid_until).max() {
                    eprintln!("The old key of {name} is valid until {}.", minutes(&end.to_rfc3339()));
                }
            }
            Self::Remove { name, paths } => {
                let options = paths.as_options();
                open_existing(paths)?.keys.remove(&name).map_err(|error| advised(error, &options))?;
            }
        }
        Ok(())
    }
}

/// The server's data, as far as it is about keys.
struct Data {
    keys: Keyring,
    last_publishes: PathBuf,
}

fn open(paths: DataPaths) -> anyhow::Result<Data> {
    let config = paths.load(|_| {})?;
    // Before this process becomes another user, whose directory by convention is another.
    let (keys, last_publishes) = (config.keys_file(), config.last_publishes_file());
    become_owner(&config.data_directory());
    Ok(Data { keys: Keyring::open(keys).context("cannot open the keys")?, last_publishes })
}

/// Opens the data of keys that exist: a wrong directory would look like one without keys.
fn open_existing(paths: DataPaths) -> anyhow::Result<Data> {
    let options = paths.as_options();
    let file = paths.clone().load(|_| {})?.keys_file();
    match std::fs::metadata(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = file.parent().filter(|directory| !directory.as_os_str().is_empty());
            let what = match directory.filter(|directory| !directory.exists()) {
                Some(directory) => format!("there is no directory {}", directory.display()),
                None => format!("there is no key file {}", file.display()),
            };
            let fix = format!(
                "give the server's data directory with --data, or create the first key with `cdn key new NAME{options}`"
            );
            Err(io::Error::new(error.kind(), format!("{what}: {fix}")).into())
        }
        // Whoever cannot read it is told when it is opened.
        _ => open(paths),
    }
}

/// The error with the command that helps, for the data that `options` name.
fn advised(error: Error, options: &str) -> anyhow::Error {
    match &error {
        Error::Exists { name } => anyhow::anyhow!(
            "{error}; replace it with `cdn key rotate {name}{options}`, or at once with `cdn key new {name} --replace{options}`"
        ),
        Error::Missing { name } => anyhow::anyhow!(
            "{error}; `cdn key list{options}` shows the streams that have one, and `cdn key new {name}{options}` creates one"
        ),
        _ => error.into(),
    }
}

/// As root, works as the owner of the data directory from here on, so that the service can read the files that this command writes.
fn become_owner(data: &Path) {
    use rustix::thread::{set_thread_gid, set_thread_uid};
    let Ok(owner) = rustix::fs::stat(data) else { return };
    if rustix::process::geteuid().is_root() && owner.st_uid != 0 {
        let (uid, gid) = (rustix::fs::Uid::from_raw(owner.st_uid), rustix::fs::Gid::from_raw(owner.st_gid));
        let _ = set_thread_gid(gid).and_then(|()| set_thread_uid(uid));
    }
}

/// What is listed of a key. Times are RFC 3339, in UTC.
#[derive(Debug, Serialize)]
struct Row {
    stream: StreamName,
    id: KeyId,
    /// `None` if it is unknown.
    created: Option<String>,
    /// `None` if there was none, or if it is unknown.
    last_publish: Option<Publish>,
    /// `None` if the key has no end.
    valid_until: Option<String>,
}

#[derive(Debug, Serialize)]
struct Publish {
    at: String,
    from: std::net::IpAddr,
}

impl Row {
    fn of(info: &KeyInfo, publishes: &BTreeMap<KeyId, LastPublish>) -> Self {
        let publish = publishes.get(&info.key.id);
        Self {
            stream: info.key.stream.clone(),
            id: info.key.id,
            created: info.created.map(WallClock::to_rfc3339),
            last_publish: publish.map(|publish| Publish { at: publish.at.to_rfc3339(), from: publish.from }),
            valid_until: info.valid_until.map(WallClock::to_rfc3339),
        }
    }

    fn cells(&self) -> [String; COLUMNS.len()] {
        let (last, from) = match (&self.last_publish, &self.created) {
            (Some(publish), _) => (minutes(&publish.at), publish.from.to_string()),
            // Whoever stored when the key was created would have stored its use.
            (None, Some(_)) => ("never".to_owned(), String::new()),
            (None, None) => ("unknown".to_owned(), String::new()),
        };
        let created = self.created.as_deref().map_or("unknown".to_owned(), minutes);
        [self.stream.to_string(), created, last, from, self.valid_until.as_deref().map(minutes).unwrap_or_default()]
    }
}

/// The rows below a heading, in columns as wide as their widest cell.
fn table(rows: &[Row]) -> String {
    let mut lines = vec![COLUMNS.map(str::to_owned)];
    lines.extend(rows.iter().map(Row::cells));
    let mut text = String::new();
    for line in &lines {
        let mut padded = String::new();
        for (column, cell) in line.iter().enumerate() {
            let width = lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
            padded += &format!("{cell:<width$}  ");
        }
        text += padded.trim_end();
        text.push('\n');
    }
    text
}

/// A time of RFC 3339 to the minute: `2026-11-22T13:01Z`.
fn minutes(time: &str) -> String {
    format!("{}Z", time.get(..16).unwrap_or(time))
}

fn overlap(text: &str) -> Result<Duration, String> {
    let overlap =
        humantime::parse_duration(text).map_err(|_| format!("{text:?} is no duration: 30m, 24h, 7d, or 0s"))?;
    if overlap > MAX_OVERLAP {
        return Err(format!("{text} is too long: at most {}d", MAX_OVERLAP.as_secs() / 86_400));
    }
    Ok(overlap)
}

const COLUMNS: [&str; 5] = ["STREAM", "CREATED", "LAST PUBLISH", "FROM", "VALID UNTIL"];
/// Maximum time for which an old key stays valid: a year. More would be no rotation.
const MAX_OVERLAP: Duration = Duration::from_secs(365 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlap_is_at_most_a_year() {
        for (text, expected) in
            [("24h", Some(86_400)), ("0s", Some(0)), ("365d", Some(365 * 86_400)), ("366d", None), ("1", None)]
        {
            assert_eq!(overlap(text).ok(), expected.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn a_list_of_usual_keys_fits_80_columns() {
        let text = |minute| format!("2026-11-22T13:{minute:02}:33.250Z");
        let publish = |from: &str| Some(Publish { at: text(2), from: from.parse().unwrap() });
        let row = |stream: &str, created, last_publish, valid_until| {
            let (stream, id) = (stream.parse().unwrap(), "0123456789ab".parse().unwrap());
            Row { stream, id, created, last_publish, valid_until }
        };
        let rows = [
            row("live", Some(text(1)), publish("192.0.2.1"), None),
            row("live", None, publish("2001:db8::1"), Some(text(3))),
            row("old", None, None, None),
            row("talk", Some(text(1)), None, None),
        ];
        let expected = "\
STREAM  CREATED            LAST PUBLISH       FROM         VALID UNTIL
live    2026-11-22T13:01Z  2026-11-22T13:02Z  192.0.2.1
live    unknown            2026-11-22T13:02Z  2001:db8::1  2026-11-22T13:03Z
old     unknown            unknown
talk    2026-11-22T13:01Z  never
";
        assert_eq!(table(&rows), expected);
        assert!(expected.lines().all(|line| line.len() <= 80));
    }
}
