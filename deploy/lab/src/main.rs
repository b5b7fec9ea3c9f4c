//! `lab`: emulated networks on one machine, experiments in them, a load generator, and lower bounds on latency.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use lab::app::{self, cli::Cli};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if is_help { 0 } else { app::USAGE });
        }
    };
    match app::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::from(app::exit_code(&error))
        }
    }
}
