//! Where persistent data is if no setting says so, by the convention of the platform.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// `/var/lib/nearcast` for root (Filesystem Hierarchy Standard 3.0 §5.8); for other users `nearcast` in `$XDG_DATA_HOME`, or in
/// `~/.local/share` where that is not set (XDG Base Directory Specification 0.8).
pub(super) fn by_convention() -> PathBuf {
    of(rustix::process::geteuid().is_root(), std::env::var_os("XDG_DATA_HOME"), std::env::home_dir())
}

fn of(is_root: bool, xdg: Option<OsString>, home: Option<PathBuf>) -> PathBuf {
    if is_root {
        return PathBuf::from("/var/lib/nearcast");
    }
    // "All paths set in these environment variables must be absolute. If […] a relative path […] ignore it."
    let xdg = xdg.map(PathBuf::from).filter(|path| path.is_absolute());
    let share = || home.filter(|home| home.is_absolute()).map(|home| home.join(".local/share"));
    // A user without a home, as in some containers, has the working directory.
    xdg.or_else(share).unwrap_or_else(|| Path::new(".").to_owned()).join("nearcast")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_platform_says_where_data_is() {
        for (is_root, xdg, home, expected) in [
            (true, Some("/x"), Some("/root"), "/var/lib/nearcast"),
            (false, Some("/x"), Some("/home/u"), "/x/nearcast"),
            (false, Some("x"), Some("/home/u"), "/home/u/.local/share/nearcast"),
            (false, Some(""), Some("/home/u"), "/home/u/.local/share/nearcast"),
            (false, None, Some("/home/u"), "/home/u/.local/share/nearcast"),
            (false, None, None, "./nearcast"),
        ] {
            let found = of(is_root, xdg.map(OsString::from), home.map(PathBuf::from));
            assert_eq!(found, Path::new(expected), "{is_root} {xdg:?} {home:?}");
        }
    }
}
