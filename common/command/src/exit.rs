//! Exit codes by cause, so that a script or a service manager can tell a typing error from a server that is away. The numbers are those of
//! sysexits.h.

use std::process::ExitCode;

/// Why a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was told, or a signal ended it in order.
    Success,
    /// A failure that has no code of its own.
    Failure,
    /// The command line is wrong (`EX_USAGE`).
    Usage,
    /// A device, a display or a file to read does not exist or does not work (`EX_NOINPUT`).
    NoInput,
    /// The server cannot be reached, or does not have the application or the stream (`EX_UNAVAILABLE`).
    Unavailable,
    /// The system refuses a resource: an address that is in use, a thread (`EX_OSERR`).
    System,
    /// A file or a directory cannot be written (`EX_CANTCREAT`).
    CannotCreate,
    /// The peer rejects the stream key, the ticket or the pairing code (`EX_NOPERM`).
    NotPermitted,
    /// The configuration file or an environment variable is wrong (`EX_CONFIG`).
    Configuration,
}

impl Exit {
    /// The number that the process returns.
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 64,
            Self::NoInput => 66,
            Self::Unavailable => 69,
            Self::System => 71,
            Self::CannotCreate => 73,
            Self::NotPermitted => 77,
            Self::Configuration => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The section of a command's help that lists its codes.
pub fn help(codes: &[(Exit, &str)]) -> String {
    let mut text = "Exit codes:\n".to_owned();
    for (exit, meaning) in codes {
        let mut line = format!("  {:>2} ", exit.code());
        for word in meaning.split(' ') {
            if line.trim_start_matches('\n').len() + 1 + word.len() > WIDTH {
                text += &line;
                line = "\n     ".to_owned();
            }
            line.push(' ');
            line.push_str(word);
        }
        text += &line;
        text.push('\n');
    }
    text
}

/// Columns of the help of a command.
const WIDTH: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_listed_one_a_line() {
        let text = help(&[(Exit::Success, "success"), (Exit::Usage, "the command line is wrong")]);
        assert_eq!(text, "Exit codes:\n   0  success\n  64  the command line is wrong\n");
        let long = help(&[(Exit::NoInput, "word ".repeat(17).trim_end())]);
        let words = "word ".repeat(15);
        assert_eq!(long, format!("Exit codes:\n  66  {}\n      word word\n", words.trim_end()));
    }
}
