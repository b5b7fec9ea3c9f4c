//! The `broadcaster` program: parses the command line, starts logging and calls [`broadcaster::app`].

use std::io::Write;
use std::process::ExitCode;

use broadcaster::capture::plan::NoInput;
use broadcaster::config::{Cli, Command};
use broadcaster::{app, doctor, log, publish};
use clap::Parser;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let is_help = !error.use_stderr();
            let _ = error.print();
            return if is_help { ExitCode::SUCCESS } else { ExitCode::from(USAGE) };
        }
    };
    let format = log::start(cli.publish.log);
    let result = match cli.command {
        Some(Command::Devices { json }) => {
            app::list_devices(json).and_then(|list| Ok(std::io::stdout().write_all(list.as_bytes())?))
        }
        Some(Command::Doctor(args)) => return examine(&args),
        None => match cli.publish.settings() {
            Ok(settings) => run(app::run(settings, format)),
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "error: {error}\n\nFor more information, try '--help'.");
                return ExitCode::from(USAGE);
            }
        },
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    tracing::error!("{error:#}");
    if error.is::<NoInput>() {
        return ExitCode::from(NO_INPUT);
    }
    match error.downcast_ref() {
        Some(publish::Error::Refused(_)) => ExitCode::from(REFUSED),
        _ => ExitCode::FAILURE,
    }
}

/// Prints the diagnosis; the exit code is a failure if any check failed.
fn examine(args: &doctor::DoctorArgs) -> ExitCode {
    let report = match run(doctor::examine(args)) {
        Ok(report) => report,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            return ExitCode::from(USAGE);
        }
    };
    let _ = std::io::stdout().write_all(report.render(args.json).as_bytes());
    if report.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(future);
    // A DNS lookup that is still running does not delay the exit.
    runtime.shutdown_background();
    result
}

/// `EX_USAGE`, `EX_NOINPUT` and `EX_NOPERM` of sysexits.h.
const USAGE: u8 = 64;
const NO_INPUT: u8 = 66;
const REFUSED: u8 = 77;
