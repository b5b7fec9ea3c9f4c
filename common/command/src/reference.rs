//! Manual pages and shell completions, made from the same definitions as `--help`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Command, Subcommand};
use clap_complete::Shell;

/// The subcommands that print a command's own reference.
#[derive(Clone, Debug, Subcommand)]
pub enum Reference {
    /// Print the completions of this command for a shell; source them, or put them where the shell finds them.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the manual pages of this command and its subcommands into a directory, as NAME.1.
    Manual {
        /// The directory; it is created if it does not exist.
        directory: PathBuf,
    },
}

impl Reference {
    /// Prints or writes the reference of `command`.
    ///
    /// # Errors
    /// If the output cannot be written; the error names it.
    pub fn run(&self, mut command: Command) -> io::Result<()> {
        match self {
            Self::Completions { shell } => {
                let name = command.get_name().to_owned();
                // In memory first: the generator panics on a closed pipe.
                let mut text = Vec::new();
                clap_complete::generate(*shell, &mut command, name, &mut text);
                io::stdout().lock().write_all(&text)
            }
            Self::Manual { directory } => {
                std::fs::create_dir_all(directory).map_err(|error| named(directory, &error))?;
                for (name, page) in pages(command)? {
                    let path = directory.join(name);
                    std::fs::write(&path, page).map_err(|error| named(&path, &error))?;
                }
                Ok(())
            }
        }
    }
}

/// The manual pages of `command` and all its subcommands, by file name: `cdn.1`, `cdn-key-new.1`.
fn pages(command: Command) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    let mut waiting = vec![command];
    while let Some(command) = waiting.pop() {
        waiting.extend(command.get_subcommands().filter(|inner| !inner.is_hide_set()).cloned());
        let page = clap_mangen::Man::new(command);
        let mut text = Vec::new();
        page.render(&mut text)?;
        pages.push((page.get_filename(), text));
    }
    pages.sort();
    Ok(pages)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subcommand_has_a_manual_page() {
        let new = Command::new("new").about("Create a key").arg(clap::Arg::new("NAME"));
        let command = Command::new("cdn").about("A server").subcommand(Command::new("key").subcommand(new));
        let pages = pages(command).unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["cdn-key-new.1", "cdn-key.1", "cdn.1"]);
        let text = String::from_utf8(pages[0].1.clone()).unwrap();
        assert!(text.contains("Create a key") && text.contains(".SH SYNOPSIS"), "{text}");
    }
}
