//! The checks that `broadcaster doctor` and `viewer doctor` share: this machine ([`machine`]), the network's multicast ([`multicast`])
//! and a server ([`server`]), and their [`Report`].
//!
//! Every check has a deadline; all of them together take at most six seconds. None shows a key, a ticket, a secret or a pairing code; only
//! host and port of a URL are shown.

pub mod machine;
pub mod multicast;
pub mod server;

mod clock;
mod http;
mod peer;
mod probe;
mod report;
mod role;

use tokio::sync::oneshot;

use crate::listen::ListenAddress;

pub use report::{Check, Report, Status};
pub use role::Role;
pub use server::Target;

/// Checks this machine, its network and `target`. UDP is tested at `listen`, or at any free port. Takes at most six seconds.
pub async fn examine(target: Option<&Target>, role: Role, listen: Option<ListenAddress>) -> Vec<Check> {
    let (tell, lan_broadcasters) = oneshot::channel();
    let announce = match role {
        Role::Publisher => multicast::Announce::Always,
        Role::Subscriber => multicast::Announce::IfSilent,
    };
    let server = async {
        match target {
            Some(target) => server::check(target, role, lan_broadcasters).await,
            None => Vec::new(),
        }
    };
    let (udp, mdns, server) = tokio::join!(machine::udp(listen), multicast::check(announce, tell), server);
    [machine::interfaces(), udp].into_iter().chain(mdns).chain(server).collect()
}
