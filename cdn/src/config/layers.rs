//! The layers of the configuration, their precedence, and where each value comes from, so that an error names the place to correct.
//!
//! The crates figment and config are not used: with either, a variable such as `NEARCAST_HUB_GRACE_AFTER_UNPUBLISH` needs a custom table to
//! separate section and key, figment's errors lose the line of the file, and both add a second TOML parser.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IntoDeserializer;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::Config;
use super::keys::{PREFIX, keys, variable};

/// What is wrong with a configuration, where, and what is right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {reason}")]
    Read {
        /// Path of the configuration file.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{at}: {why}")]
    Syntax {
        /// Place in the file.
        at: Origin,
        /// The parser's reason.
        why: String,
    },
    /// A key of the file or a variable names no setting.
    #[error("{at}: {name} is not a setting{}", suggest(.nearest.as_deref()))]
    Unknown {
        /// Place in the file, or the variable.
        at: Origin,
        /// The key with its section, or the variable.
        name: String,
        /// The setting whose name is most similar, if one is similar.
        nearest: Option<String>,
    },
    /// A value has the wrong type, cannot be parsed, or is out of range.
    #[error("{at}: {key}: {why}")]
    Value {
        /// Where the value comes from.
        at: Origin,
        /// The key, with its section.
        key: String,
        /// The requirement, in words.
        why: String,
    },
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The defaults.
    Default,
    /// A place in a file; line and column count from 1, columns in characters.
    File {
        /// Path of the file.
        path: PathBuf,
        /// Line.
        line: usize,
        /// Column.
        column: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A flag.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("defaults"),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Variable(_) => f.write_str("environment"),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

/// Loads and checks the configuration: defaults, then `file` if there is one, then variables of `environment`, then `overrides`.
///
/// # Errors
/// [`Error`] with the key and its origin.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    overrides: impl FnOnce(&mut Config),
) -> Result<Config, Error> {
    let layers = match file {
        Some(path) => Layers::new().file(path)?,
        None => Layers::new(),
    };
    layers.environment(environment.into_iter())?.finish(overrides)
}

/// The defaults, overridden by the layers added so far.
#[derive(Clone, Debug)]
pub struct Layers {
    settings: Table,
    /// By key with section; the others are defaults.
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    /// The defaults without other layers.
    pub fn new() -> Self {
        Self { settings: Config::default().to_table(), origins: BTreeMap::new() }
    }

    /// Adds a file as the next layer.
    ///
    /// # Errors
    /// If the file cannot be read, is no TOML, or has an unknown setting or a wrong value.
    pub fn file(self, path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|reason| Error::Read { path: path.into(), reason })?;
        self.text(&text, path)
    }

    /// Adds the text of a file as the next layer; errors name `path`.
    ///
    /// # Errors
    /// If the text is no TOML, or has an unknown setting or a wrong value.
    pub fn text(mut self, text: &str, path: &Path) -> Result<Self, Error> {
        let at = |span: Range<usize>| position(text, path, span.start);
        let syntax = |error: toml::de::Error| Error::Syntax {
            at: at(error.span().unwrap_or_default()),
            why: error.message().to_owned(),
        };
        let parsed = DeTable::parse(text).map_err(syntax)?.into_inner();
        for (key, value) in parsed {
            let (key_at, key) = (at(key.span()), key.into_inner());
            let value_at = at(value.span());
            let is_section = self.settings.get(key.as_ref()).is_some_and(Value::is_table);
            match value.get_ref() {
                DeValue::Table(section) if is_section => {
                    for (inner, value) in section.clone() {
                        let (inner_at, value_at) = (at(inner.span()), at(value.span()));
                        self.set(&format!("{key}.{}", inner.get_ref()), to_value(value), inner_at, value_at)?;
                    }
                }
                _ if is_section => {
                    let why = format!("is a section: write [{key}], and its settings on the lines below");
                    return Err(Error::Value { at: value_at, key: key.into_owned(), why });
                }
                _ => self.set(&key, to_value(value), key_at, value_at)?,
            }
        }
        Ok(self)
    }

    /// Adds environment variables as the next layer: `NEARCAST_RTMP_LISTEN` is `rtmp.listen`. Commas separate the items of a list.
    ///
    /// # Errors
    /// If a variable names no setting, or has a wrong value.
    pub fn environment(mut self, variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Self, Error> {
        let keys = keys(&self.settings);
        let sections: Vec<String> = self.sections().map(variable).collect();
        for (name, text) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
            let at = Origin::Variable(name.to_owned());
            let Some(key) = keys.iter().find(|key| variable(key) == name) else {
                // Nearcast's other programs have their own variables. Only those that begin with one of our sections are typos.
                if sections.iter().any(|s| name.strip_prefix(s.as_str()).is_some_and(|rest| rest.starts_with('_'))) {
                    let nearest = nearest(name, keys.iter().map(|key| variable(key)));
                    return Err(Error::Unknown { at, name: name.into(), nearest });
                }
                continue;
            };
            let wrong = |why: &str| Error::Value { at: at.clone(), key: name.to_owned(), why: why.to_owned() };
            let text = text.to_str().ok_or_else(|| wrong("must be UTF-8"))?;
            let value = match self.slot(key) {
                Some(Value::Integer(_)) => Value::Integer(text.parse().map_err(|_| wrong("must be a whole number"))?),
                Some(Value::Boolean(_)) => Value::Boolean(text.parse().map_err(|_| wrong("must be true or false"))?),
                Some(Value::Array(_)) => {
                    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                    Value::Array(items.map(|item| Value::String(item.into())).collect())
                }
                _ => Value::String(text.into()),
            };
            self.set(key, value, at.clone(), at)?;
        }
        Ok(self)
    }

    /// The checked configuration, with `flags` as the last layer.
    ///
    /// # Errors
    /// If a value is out of range, or settings contradict each other.
    pub fn finish(mut self, flags: impl FnOnce(&mut Config)) -> Result<Config, Error> {
        let mut config = Config::deserialize(self.settings).expect("each value was checked when it was set");
        let before = config.clone();
        flags(&mut config);
        for key in before.changes(&config) {
            self.origins.insert(key, Origin::CommandLine);
        }
        match config.check() {
            Ok(()) => Ok(config),
            Err((key, why)) => {
                let at = self.origins.remove(key).unwrap_or(Origin::Default);
                let key = if let Origin::Variable(name) = &at { name.clone() } else { key.to_owned() };
                Err(Error::Value { at, key, why })
            }
        }
    }

    /// Sets one setting; `key_at` and `value_at` are where its name and its value stand.
    fn set(&mut self, key: &str, value: Value, key_at: Origin, value_at: Origin) -> Result<(), Error> {
        let known = keys(&self.settings);
        let Some(slot) = self.slot(key) else {
            let nearest = nearest(key, known.into_iter().chain(self.sections().map(str::to_owned)));
            return Err(Error::Unknown { at: key_at, name: key.to_owned(), nearest });
        };
        // A port or a count may be written without quotes; the setting's own parser judges it.
        let value = match (&*slot, value) {
            (Value::String(_), Value::Integer(number)) => Value::String(number.to_string()),
            (_, value) => value,
        };
        let old = std::mem::replace(slot, value);
        let kind = (!old.same_type(slot)).then(|| required_kind(&old));
        let checked = Config::deserialize(self.settings.clone()).map_err(|error| {
            let name = if let Origin::Variable(name) = &value_at { name.clone() } else { key.to_owned() };
            let why = kind.map_or_else(|| error.message().trim().to_owned(), str::to_owned);
            Error::Value { at: value_at.clone(), key: name, why }
        });
        checked?;
        self.origins.insert(key.to_owned(), value_at);
        Ok(())
    }

    fn slot(&mut self, key: &str) -> Option<&mut Value> {
        let slot = match key.split_once('.') {
            Some((section, key)) => self.settings.get_mut(section)?.as_table_mut()?.get_mut(key)?,
            None => self.settings.get_mut(key)?,
        };
        (!slot.is_table()).then_some(slot)
    }

    fn sections(&self) -> impl Iterator<Item = &str> {
        self.settings.iter().filter(|(_, value)| value.is_table()).map(|(key, _)| key.as_str())
    }
}

impl Default for Layers {
    fn default() -> Self {
        Self::new()
    }
}

fn position(text: &str, path: &Path, offset: usize) -> Origin {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Origin::File {
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}

/// The name of `known` that is most similar to `name`, if one is similar enough to be meant.
fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    known
        .map(|known| (strsim::normalized_damerau_levenshtein(name, &known), known))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

fn suggest(nearest: Option<&str>) -> String {
    nearest.map_or("; deploy/cdn.toml lists all settings".to_owned(), |nearest| format!("; did you mean {nearest}?"))
}

fn to_value(value: Spanned<DeValue<'_>>) -> Value {
    Value::deserialize(value.into_deserializer()).expect("every TOML value is a Value")
}

/// What a value of the type of `default` must be, in words.
fn required_kind(default: &Value) -> &'static str {
    match default {
        Value::Boolean(_) => "must be true or false",
        Value::Integer(_) => "must be a whole number",
        Value::Array(_) => "must be a list of strings: [\"…\", \"…\"]",
        _ => "must be a string, in quotes",
    }
}

/// Similarity from which a name is taken for a misspelling, from 0 to 1.
const SIMILAR: f64 = 0.7;
