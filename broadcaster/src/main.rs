//! The `broadcaster` program: parses the command line, starts logging and calls [`broadcaster::app`].

use std::io::Write;
use std::process::ExitCode;

use broadcaster::config::{Cli, Command};
use broadcaster::{app, doctor, exit, log};
use clap::{CommandFactory, Parser};
use command::Exit;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Success }.into();
        }
    };
    let format = match log::start(cli.publish.log) {
        Ok(format) => format,
        Err(error) => return wrong_usage(&format!("RUST_LOG: {error}")),
    };
    let result = match cli.command {
        Some(Command::Devices { json }) => app::list_devices(json).and_then(|list| print(&list)),
        Some(Command::Doctor(args)) => return examine(&args),
        Some(Command::PairingCode) => print(&format!("{}\n", net::trust::Code::generate())),
        Some(Command::Reference(reference)) => reference.run(Cli::command()).map_err(Into::into),
        None => match cli.publish.settings() {
            Ok(settings) => run(app::run(settings, format)),
            Err(error) => return wrong_usage(&error.to_string()),
        },
    };
    log::finish();
    let Err(error) = result else { return Exit::Success.into() };
    tracing::error!("{}", command::with_causes(error.chain()));
    exit::exit_of(&error).into()
}

/// Prints the diagnosis; the exit code is a failure if any check failed.
fn examine(args: &doctor::DoctorArgs) -> ExitCode {
    match run(doctor::examine(args)) {
        Ok(report) => {
            let _ = print(&report.render(args.json));
            if report.has_failed() { Exit::Failure } else { Exit::Success }.into()
        }
        Err(error) => wrong_usage(&command::with_causes(error.chain())),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn wrong_usage(error: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {error}\n\nFor more information, try '--help'.");
    Exit::Usage.into()
}

fn run<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(future);
    // A DNS lookup that is still running does not delay the exit.
    runtime.shutdown_background();
    result
}
