//! The options that say where the configuration, the data and the keys are: those of the server and of `cdn key`.

use std::path::{Path, PathBuf};

use cdn::config::{self, Config};
use clap::Args;

/// Paths of the configuration, the data and the keys.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DataPaths {
    /// Configuration file; deploy/cdn.toml lists every setting.
    #[arg(long, value_name = "FILE", env = "NEARCAST_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
    /// Directory for persistent data.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// File of publish keys.
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
}

impl DataPaths {
    /// These options as a shell reads them, each after a space, so that a command that is suggested means the same data in any directory.
    pub(crate) fn as_options(&self) -> String {
        let options = [("--config", &self.config), ("--data", &self.data), ("--keys", &self.keys)];
        let given = options.into_iter().filter_map(|(option, path)| Some((option, path.as_deref()?)));
        given.map(|(option, path)| format!(" {option} {}", quoted(path))).collect()
    }

    /// The configuration of file and environment, with `flags` over it.
    pub(crate) fn load(self, flags: impl FnOnce(&mut Config)) -> Result<Config, config::Error> {
        cdn::load(self.config.as_deref(), std::env::vars_os(), |config| {
            set(&mut config.data, self.data);
            set(&mut config.keys, self.keys);
            flags(config);
        })
    }
}

/// The path from the root, in quotes where a shell would take it apart.
fn quoted(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if path.chars().all(is_plain) { path } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

/// Replaces `slot` by the value of an option that is given.
pub(crate) fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggested_commands_name_the_data_that_was_given() {
        for (path, expected) in [("/srv/a", " --data /srv/a"), ("/srv/it's my", r" --data '/srv/it'\''s my'")] {
            let paths = DataPaths { data: Some(path.into()), ..DataPaths::default() };
            assert_eq!(paths.as_options(), expected);
        }
        assert_eq!(DataPaths::default().as_options(), "");
        let relative = DataPaths { keys: Some("k.toml".into()), ..DataPaths::default() };
        assert!(relative.as_options().starts_with(" --keys /"), "{}", relative.as_options());
    }
}
