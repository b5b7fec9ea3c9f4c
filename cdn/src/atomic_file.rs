//! Private files of the data directory. A file is replaced atomically: after a crash it has the old or the new contents, never a part of
//! either. Nothing here follows a symbolic link that someone else has put in the place of a file.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Creates the directory of the file at `path`, and the directories above it, where they are missing: accessible by the owner only. The
/// permissions of an existing directory are the operator's choice.
///
/// # Errors
/// Those of the file system; the path is the directory's.
pub(crate) fn create_directory_of(path: &Path) -> Result<(), (PathBuf, io::Error)> {
    let directory = directory_of(path);
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| (directory.to_owned(), error))
}

/// Waits for the exclusive lock of the file at `path`, which is held until the result is dropped. The lock is that of a file beside it,
/// since the file itself is replaced, and which nobody but the owner can open, since who can open a file can lock it.
///
/// # Errors
/// Those of the file system, also if the lock file is a symbolic link.
pub(crate) fn lock(path: &Path) -> io::Result<File> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(path.with_file_name(name))?;
    file.lock()?;
    Ok(file)
}

/// Writes `contents` to `path`, readable by the owner only; creates or replaces the file. Of concurrent writers the last one wins. The new
/// file is created under a random name with `O_EXCL`, and renamed, which replaces a symbolic link instead of following it.
///
/// # Errors
/// Those of the file system.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let directory = directory_of(path);
    let mut file = NamedTempFile::new_in(directory)?;
    file.write_all(contents)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    // The directory entry must also survive a crash.
    File::open(directory)?.sync_all()
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_file_is_replaced_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.secret");
        for contents in ["a longer one", "short"] {
            replace(&path, contents.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), contents);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn new_directories_are_private_and_existing_ones_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("outer/data/a.secret");
        create_directory_of(&path).unwrap();
        assert_eq!((mode(path.parent().unwrap()), mode(&directory.path().join("outer"))), (0o700, 0o700));
        fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o750)).unwrap();
        create_directory_of(&path).unwrap();
        assert_eq!(mode(path.parent().unwrap()), 0o750);
        fs::write(directory.path().join("file"), "").unwrap();
        let (named, _) = create_directory_of(&directory.path().join("file/a.secret")).unwrap_err();
        assert_eq!(named, directory.path().join("file"));
    }

    #[test]
    fn symbolic_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, target) = (directory.path().join("a.secret"), directory.path().join("of-somebody-else"));
        fs::write(&target, "unchanged").unwrap();
        for name in ["a.secret", "a.secret.lock"] {
            symlink(&target, directory.path().join(name)).unwrap();
        }
        replace(&path, b"secret").unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(fs::read_to_string(&path).unwrap(), "secret");
        assert!(lock(&path).is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "unchanged");
    }

    #[test]
    fn one_holds_the_lock_at_a_time_and_nobody_else_can_open_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.toml");
        let held = lock(&path).unwrap();
        let file = directory.path().join("keys.toml.lock");
        assert_eq!(mode(&file), 0o600);
        assert!(File::open(&file).unwrap().try_lock().is_err());
        drop(held);
        assert!(File::open(&file).unwrap().try_lock().is_ok());
    }
}
