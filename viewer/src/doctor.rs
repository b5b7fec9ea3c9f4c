//! `viewer doctor`: what of this machine, its network, the server and the broadcaster works for a viewer, and what to fix. Plays nothing.

use anyhow::Result;
use clap::Args;
use net::doctor::{self, Report, Role, Target};

/// What to look at.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// What does not play: a stream's page (http://HOST:8080/NAME tells most), rtmp://HOST/live/NAME, a playlist, or
    /// nearcast://HOST:PORT
    pub url: Option<String>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Looks. Six seconds at most.
///
/// # Errors
/// If the URL is none: without showing it, in case it holds a code.
pub fn examine(ask: &DoctorArgs) -> Result<Report> {
    let place = ask.url.as_deref().map(|url| Target::parse(url, Role::Subscriber)).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let checks = runtime.block_on(doctor::examine(place.as_ref(), Role::Subscriber, None));
    // A name that is still being looked up does not keep the process.
    runtime.shutdown_background();
    Ok(Report::new(checks))
}
