//! `viewer doctor`: checks this machine, its network, the server and the broadcaster as a viewer needs them, and says what to fix. Plays nothing.

use anyhow::Result;
use clap::Args;
use net::doctor::{self, Report, Role, Target};

use crate::sandbox;

/// Arguments of `viewer doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// The URL that does not play: a stream's page (http://HOST:8080/NAME; allows the most checks), rtmp://HOST/live/NAME, a playlist, or
    /// nearcast://HOST:PORT
    pub url: Option<String>,

    /// Print the checks as JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs all checks, which takes six seconds at most.
///
/// # Errors
/// If the URL cannot be parsed. The error does not show it, as it may hold a pairing code.
pub fn examine(args: &DoctorArgs) -> Result<Report> {
    let place = args.url.as_deref().map(|url| Target::parse(url, Role::Subscriber)).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut checks = vec![sandbox::check()];
    checks.extend(runtime.block_on(doctor::examine(place.as_ref(), Role::Subscriber, None)));
    // A name lookup that still runs must not keep the process alive.
    runtime.shutdown_background();
    Ok(Report::new(checks))
}
