//! `cdn`: the server's command: flags, logs, signals and output. The server itself is the library.

mod announce;
mod cli;
mod data_paths;
mod key_command;
mod process;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use cdn::config::{Config, LogFormat};
use cdn::reload::Reloader;
use cdn::{ListenError, Server};
use clap::FromArgMatches;
use command::Exit;
use command::signals::{Request, Signals};
use tokio_util::sync::CancellationToken;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use announce::announce;
use cli::{Cli, Command, Flags};
use process::raise_file_limit;

fn main() -> ExitCode {
    let parsed = Cli::definition().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Success }.into();
        }
    };
    let result = match cli.command {
        Some(Command::Key { action }) => action.run(),
        Some(Command::Reference(reference)) => reference.run(Cli::definition()).map_err(Into::into),
        None => run(cli.flags),
    };
    let Err(error) = result else { return Exit::Success.into() };
    eprintln!("cdn: {}", command::with_causes(error.chain()));
    exit_of(&error).into()
}

/// Runs a server until a signal.
fn run(flags: Flags) -> anyhow::Result<()> {
    net::clock::set_test_offset(flags.clock_offset.saturating_mul(1000));
    let config = flags.clone().load()?;
    let (set_filter, _logs) = start_logs(&config)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(serve(config, flags, set_filter));
    // Do not wait for tasks that have not ended by now.
    runtime.shutdown_background();
    result
}

/// Runs a server until a signal; a second signal ends it at once.
async fn serve(config: Config, flags: Flags, set_filter: SetFilter) -> anyhow::Result<()> {
    raise_file_limit(config.rtmp.max_connections + config.http.max_connections);
    // Before the addresses are printed, since a supervisor may send a signal right after.
    let mut signals = Signals::new()?;
    let server = Server::bind(config).await?;
    announce(&server, &flags.paths.as_options())?;
    let mut reloader = server.reloader();
    let shutdown = CancellationToken::new();
    let mut run = std::pin::pin!(server.run(shutdown.cancelled()));
    loop {
        tokio::select! {
            result = &mut run => return result,
            request = signals.next() => match request {
                Request::Reload => reload(flags.clone(), &mut reloader, &set_filter),
                Request::Stop(signal) => {
                    tracing::info!(signal, "stopping");
                    break;
                }
            },
        }
    }
    shutdown.cancel();
    loop {
        tokio::select! {
            result = &mut run => return result,
            request = signals.next() => {
                if let Request::Stop(signal) = request {
                    tracing::warn!(signal, "stopped at once");
                    return Ok(());
                }
            }
        }
    }
}

/// Reads the configuration again and applies what can change. An error changes nothing.
fn reload(flags: Flags, reloader: &mut Reloader, set_filter: &SetFilter) {
    let loaded = flags.load().map_err(anyhow::Error::from);
    let filter = loaded.and_then(|config| Ok((command::log_filter::parse(&config.log.level)?, config)));
    let (filter, config) = match filter {
        Ok(loaded) => loaded,
        Err(error) => {
            let error = command::with_causes(error.chain());
            return tracing::error!("not reloaded, the running configuration stays in force: {error}");
        }
    };
    raise_file_limit(config.rtmp.max_connections + config.http.max_connections);
    let done = reloader.apply(&config);
    set_filter(filter);
    let applied = (!done.applied.is_empty()).then(|| done.applied.join(", "));
    tracing::info!(applied, "reloaded");
    if !done.needs_restart.is_empty() {
        tracing::warn!(settings = done.needs_restart.join(", "), "these settings changed and need a restart");
    }
}

/// Replaces the filter of the log.
type SetFilter = Box<dyn Fn(EnvFilter)>;

/// Logs until the guard is dropped. A separate thread writes the lines, and lines are dropped when [`LOG_LINES`] wait, so that a blocked reader
/// does not block the server.
fn start_logs(config: &Config) -> anyhow::Result<(SetFilter, WorkerGuard)> {
    let filter = command::log_filter::parse(&config.log.level).context("log.level")?;
    let is_terminal = std::io::stderr().is_terminal();
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(LOG_LINES).finish(std::io::stderr());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(is_terminal);
    let logs = logs.log_internal_errors(false);
    // An error of a handle means that the subscriber is gone, and with it the log.
    let set_filter: SetFilter = match config.log.format {
        LogFormat::Text => {
            let logs = logs.with_filter_reloading();
            let handle = logs.reload_handle();
            logs.init();
            Box::new(move |filter| drop(handle.reload(filter)))
        }
        LogFormat::Json => {
            let logs = logs.json().with_filter_reloading();
            let handle = logs.reload_handle();
            logs.init();
            Box::new(move |filter| drop(handle.reload(filter)))
        }
    };
    Ok((set_filter, guard))
}

fn exit_of(error: &anyhow::Error) -> Exit {
    use cdn::config::{Error, Origin};
    if let Some(error) = error.downcast_ref::<Error>() {
        return match error {
            Error::Value { at: Origin::CommandLine, .. } => Exit::Usage,
            _ => Exit::Configuration,
        };
    }
    if error.is::<ListenError>() {
        Exit::System
    } else if error.chain().any(|cause| cause.is::<std::io::Error>()) {
        Exit::CannotCreate
    } else {
        Exit::Failure
    }
}

/// Maximum number of waiting log lines: some megabytes, more than a burst of connections logs.
const LOG_LINES: usize = 16_384;
