//! `viewer`: plays a live stream in a window, a recording, or another player.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use tracing::error;
use tracing_subscriber::EnvFilter;
use viewer::config::{Command, Config, LogFormat};

fn main() -> ExitCode {
    let config = match Config::try_parse() {
        Ok(config) => config,
        Err(error) => {
            let _ = error.print();
            let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if is_help { ExitCode::SUCCESS } else { ExitCode::from(USAGE) };
        }
    };
    let is_terminal = std::io::stderr().is_terminal();
    // A terminal has the status line: only warnings and errors go between.
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(if is_terminal { "warn" } else { "info" }));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_terminal);
    match config.log {
        Some(LogFormat::Json) => log.json().init(),
        None if !is_terminal => log.json().init(),
        _ => log.with_target(false).init(),
    }
    if let Some(Command::Doctor(args)) = &config.command {
        return doctor(args);
    }
    match viewer::app::run(&config) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            error!("nothing was played");
            ExitCode::FAILURE
        }
        Err(error) => {
            error!("{error:#}");
            ExitCode::from(if viewer::app::is_usage(&error) { USAGE } else { 1 })
        }
    }
}

/// Prints the checks; the exit code is 1 if any failed.
fn doctor(args: &viewer::doctor::DoctorArgs) -> ExitCode {
    match viewer::doctor::examine(args) {
        Ok(report) => {
            let _ = std::io::stdout().write_all(report.render(args.json).as_bytes());
            if report.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            error!("{error:#}");
            ExitCode::from(USAGE)
        }
    }
}

/// `EX_USAGE` of sysexits.h.
const USAGE: u8 = 64;
