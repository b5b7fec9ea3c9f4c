//! The layers of the configuration, and their precedence.
//!
//! The crates figment and config are not used: with either, a variable such as `NEARCAST_HUB_GRACE_AFTER_UNPUBLISH` needs a custom table to
//! separate section and key, figment's errors lose the line of the file, and both add a second TOML parser. Without them, `merge` and `find`
//! below suffice.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::Config;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Path of the configuration file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path}: {source}")]
    Syntax {
        /// Path of the configuration file.
        path: PathBuf,
        /// Line, column and reason.
        source: Box<toml::de::Error>,
    },
    /// A key is unknown, or its value has the wrong type.
    #[error("{from}: {source}")]
    Shape {
        /// The file, or the name of the variable.
        from: String,
        /// The key and the reason.
        source: Box<toml::de::Error>,
    },
    /// A variable named like a section of the configuration names no setting.
    #[error("the environment variable {name} is not a setting; deploy/cdn.toml lists all settings")]
    UnknownVariable {
        /// Name of the variable.
        name: String,
    },
    /// A variable's value cannot be parsed.
    #[error("the environment variable {name} must be {expected}")]
    Variable {
        /// Name of the variable.
        name: String,
        /// What the value must be, in words.
        expected: &'static str,
    },
    /// A value out of range.
    #[error("{key} {why}")]
    Value {
        /// The key, with its section.
        key: &'static str,
        /// The requirement, in words.
        why: &'static str,
    },
}

/// Loads and checks the configuration: defaults, then `file` if there is one, then variables of `environment`, then `overrides`.
///
/// # Errors
/// [`Error`] with the key and its source.
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
}

impl Layers {
    /// The defaults without other layers.
    pub fn new() -> Self {
        let settings = Table::try_from(Config::default()).expect("the defaults are TOML: a test checks this");
        Self { settings }
    }

    /// Adds a file as the next layer.
    ///
    /// # Errors
    /// If the file cannot be read, is no TOML, or has an unknown setting or a wrong value.
    pub fn file(self, path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
        self.text(&text, path)
    }

    /// Adds the text of a file as the next layer; errors name `path`.
    ///
    /// # Errors
    /// If the text is no TOML, or has an unknown setting or a wrong value.
    pub fn text(mut self, text: &str, path: &Path) -> Result<Self, Error> {
        let table: Table =
            text.parse().map_err(|source| Error::Syntax { path: path.into(), source: Box::new(source) })?;
        merge(&mut self.settings, table);
        self.shape(|| path.display().to_string())?;
        Ok(self)
    }

    /// Adds environment variables as the next layer: `NEARCAST_RTMP_LISTEN` is `rtmp.listen`. Commas separate the items of a list.
    ///
    /// # Errors
    /// If a variable names no setting, or has a wrong value.
    pub fn environment(mut self, variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Self, Error> {
        let sections: Vec<String> =
            self.settings.iter().filter(|(_, v)| v.is_table()).map(|(k, _)| variable(&[k])).collect();
        for (name, text) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
            let Some(slot) = find(&mut self.settings, name) else {
                // Nearcast's other programs have their own variables. Only those that begin with one of our sections are typos.
                if sections.iter().any(|s| name.strip_prefix(s.as_str()).is_some_and(|rest| rest.starts_with('_'))) {
                    return Err(Error::UnknownVariable { name: name.into() });
                }
                continue;
            };
            let wrong = |expected| Error::Variable { name: name.into(), expected };
            let text = text.to_str().ok_or(wrong("UTF-8"))?;
            *slot = match slot {
                Value::Integer(_) => Value::Integer(text.parse().map_err(|_| wrong("a whole number"))?),
                Value::Array(_) => {
                    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                    Value::Array(items.map(|item| Value::String(item.into())).collect())
                }
                Value::Boolean(_) => Value::Boolean(text.parse().map_err(|_| wrong("true or false"))?),
                _ => Value::String(text.into()),
            };
            self.shape(|| name.to_owned())?;
        }
        Ok(self)
    }

    /// The checked configuration, with `flags` as the last layer.
    ///
    /// # Errors
    /// If settings contradict each other.
    pub fn finish(self, flags: impl FnOnce(&mut Config)) -> Result<Config, Error> {
        let mut config = self.shape(|| "defaults".to_owned())?;
        flags(&mut config);
        config.check()?;
        Ok(config)
    }

    fn shape(&self, from: impl FnOnce() -> String) -> Result<Config, Error> {
        Config::deserialize(self.settings.clone())
            .map_err(|source| Error::Shape { from: from(), source: Box::new(source) })
    }
}

impl Default for Layers {
    fn default() -> Self {
        Self::new()
    }
}

fn merge(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => merge(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// The setting for the variable `name`. Sections are not nested.
fn find<'a>(settings: &'a mut Table, name: &str) -> Option<&'a mut Value> {
    settings.iter_mut().find_map(|(key, value)| match value {
        Value::Table(section) => section.iter_mut().find(|(inner, _)| variable(&[key, inner]) == name).map(|(_, v)| v),
        value => (variable(&[key]) == name).then_some(value),
    })
}

fn variable(path: &[&str]) -> String {
    format!("{PREFIX}{}", path.join("_").to_ascii_uppercase())
}

const PREFIX: &str = "NEARCAST_";
