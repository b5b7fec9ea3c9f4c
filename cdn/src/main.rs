//! `cdn`: the server's command: flags, logs, signals and output. The server itself is the library.

mod announce;
mod cli;
mod process;

use std::io::IsTerminal;
use std::process::ExitCode;

use cdn::Server;
use cdn::config::{Config, LogFormat};
use clap::Parser;
use tokio_util::sync::CancellationToken;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use announce::announce;
use cli::{Cli, Command};
use process::{Signals, raise_file_limit};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Command::Key { action }) = cli.command {
        return action.run().map_or_else(|error| fail(&error, 1), |()| ExitCode::SUCCESS);
    }
    net::clock::set_test_offset(cli.flags.clock_offset.saturating_mul(1000));
    let config = match cli.flags.load() {
        Ok(config) => config,
        Err(error) => return fail(&error.into(), EX_USAGE),
    };
    let _logs = match EnvFilter::try_new(&config.log.level) {
        Ok(filter) => start_logs(&config, filter),
        Err(error) => return fail(&anyhow::Error::new(error).context("log.level"), EX_USAGE),
    };
    let run = || {
        let runtime = tokio::runtime::Runtime::new()?;
        let result = runtime.block_on(serve(config));
        // Do not wait for tasks that have not ended by now.
        runtime.shutdown_background();
        result
    };
    run().map_or_else(|error: anyhow::Error| fail(&error, 1), |()| ExitCode::SUCCESS)
}

/// Runs a server until a signal; a second signal ends it at once.
async fn serve(config: Config) -> anyhow::Result<()> {
    raise_file_limit(config.rtmp.max_connections + config.http.max_connections);
    // Before the addresses are printed, since a supervisor may send a signal right after.
    let mut signals = Signals::new()?;
    let server = Server::bind(config).await?;
    announce(&server)?;
    let shutdown = CancellationToken::new();
    let mut run = std::pin::pin!(server.run(shutdown.cancelled()));
    tokio::select! {
        result = &mut run => return result,
        signal = signals.next() => tracing::info!(signal, "stopping"),
    }
    shutdown.cancel();
    tokio::select! {
        result = run => result,
        signal = signals.next() => {
            tracing::warn!(signal, "stopped at once");
            Ok(())
        }
    }
}

/// Logs until the guard is dropped. A separate thread writes the lines, and lines are dropped when [`LOG_LINES`] wait, so that a blocked reader
/// does not block the server.
fn start_logs(config: &Config, filter: EnvFilter) -> WorkerGuard {
    let is_terminal = std::io::stderr().is_terminal();
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(LOG_LINES).finish(std::io::stderr());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(is_terminal);
    match config.log.format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    guard
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("cdn: {error:#}");
    ExitCode::from(code)
}

/// Maximum number of waiting log lines: some megabytes, more than a burst of connections logs.
const LOG_LINES: usize = 16_384;

/// The configuration is wrong (sysexits.h).
const EX_USAGE: u8 = 64;
