//! The names of settings: keys with their sections, and environment variables.

use toml::{Table, Value};

/// The name of the environment variable of a setting: `NEARCAST_RTMP_LISTEN` for `rtmp.listen`.
pub fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

/// All keys of settings, with their sections, in the order of the table. Sections are not nested.
pub(super) fn keys(settings: &Table) -> Vec<String> {
    let of = |(key, value): (&String, &Value)| match value {
        Value::Table(section) => section.keys().map(|inner| format!("{key}.{inner}")).collect(),
        _ => vec![key.clone()],
    };
    settings.iter().flat_map(of).collect()
}

/// The value of a key; `None` if there is no such setting.
pub(super) fn value<'a>(settings: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        Some((section, key)) => settings.get(section)?.get(key),
        None => settings.get(key),
    }
}

/// What the names of all variables begin with.
pub(super) const PREFIX: &str = "NEARCAST_";
