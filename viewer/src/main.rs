//! `viewer`: plays a live stream in a window, a recording, or another player.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use command::{Exit, log_filter};
use tracing::error;
use viewer::config::{Command, Config, LogFormat};

fn main() -> ExitCode {
    let config = match Config::try_parse() {
        Ok(config) => config,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Success }.into();
        }
    };
    if let Some(Command::Reference(reference)) = &config.command {
        return match reference.run(Config::command()) {
            Ok(()) => Exit::Success.into(),
            Err(error) => failed(&error.to_string(), Exit::CannotCreate),
        };
    }
    let is_terminal = std::io::stderr().is_terminal();
    // A terminal has the status line: only warnings and errors go between.
    let filter = match log_filter::from_environment(if is_terminal { "warn" } else { "info" }) {
        Ok(filter) => filter,
        Err(error) => return failed(&format!("{}: {error}", log_filter::VARIABLE), Exit::Usage),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_terminal);
    // A line that cannot be written must not end the task that logs it: `tracing` would print that, and panic.
    let log = log.log_internal_errors(false);
    match config.log {
        Some(LogFormat::Json) => log.json().init(),
        None if !is_terminal => log.json().init(),
        _ => log.with_target(false).init(),
    }
    if let Some(Command::Doctor(args)) = &config.command {
        return doctor(args);
    }
    match viewer::app::run(&config) {
        Ok(()) => Exit::Success.into(),
        Err(error) => {
            error!("{}", command::with_causes(error.chain()));
            viewer::app::exit_of(&error).into()
        }
    }
}

/// Prints the checks; the exit code is 1 if any failed.
fn doctor(args: &viewer::doctor::DoctorArgs) -> ExitCode {
    match viewer::doctor::examine(args) {
        Ok(report) => {
            let _ = std::io::stdout().write_all(report.render(args.json).as_bytes());
            if report.has_failed() { Exit::Failure } else { Exit::Success }.into()
        }
        Err(error) => failed(&command::with_causes(error.chain()), Exit::Usage),
    }
}

fn failed(error: &str, exit: Exit) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {error}");
    exit.into()
}
