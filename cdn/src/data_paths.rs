//! The options that say where the configuration, the data and the keys are: those of the server and of `cdn key`.

use std::path::PathBuf;

use cdn::config::{self, Config};
use clap::Args;

/// Paths of the configuration, the data and the keys.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DataPaths {
    /// Configuration file; deploy/cdn.toml lists every setting.
    #[arg(long, value_name = "FILE", env = "NEARCAST_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Directory for persistent data.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// File of publish keys.
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
}

impl DataPaths {
    /// The configuration of file and environment, with `flags` over it.
    pub(crate) fn load(self, flags: impl FnOnce(&mut Config)) -> Result<Config, config::Error> {
        cdn::load(self.config.as_deref(), std::env::vars_os(), |config| {
            set(&mut config.data, self.data);
            set(&mut config.keys, self.keys);
            flags(config);
        })
    }
}

/// Replaces `slot` by the value of an option that is given.
pub(crate) fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}
