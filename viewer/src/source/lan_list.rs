//! `viewer --lan`: lists the broadcasters on this network by mDNS, without a server.
//!
//! Their mDNS names reveal nothing, so the list has addresses only. The pairing code on a broadcaster's screen opens its stream.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use net::discovery::{self, Browser, BrowserOptions, Event};
use tokio::time::{Instant, timeout_at};

/// Browses for 1.5 s, and returns the addresses of each broadcaster by its current mDNS instance name.
///
/// # Errors
/// If mDNS cannot be used on this machine.
pub async fn list_broadcasters() -> Result<BTreeMap<String, Vec<SocketAddr>>, discovery::Error> {
    let mut browser = Browser::start(BrowserOptions::default())?;
    let until = Instant::now() + LISTEN_TIME;
    let mut found = BTreeMap::new();
    while let Ok(Some(event)) = timeout_at(until, browser.next()).await {
        match event {
            Event::Found { instance, addresses, .. } | Event::Changed { instance, addresses, .. } => {
                found.insert(instance, addresses);
            }
            Event::Lost { instance } => drop(found.remove(&instance)),
            _ => {}
        }
    }
    Ok(found)
}

/// The list as text, with a hint on how to watch.
pub fn render_broadcasters(found: &BTreeMap<String, Vec<SocketAddr>>) -> String {
    if found.is_empty() {
        return "No broadcaster found on this network, or it does not forward mDNS (`viewer doctor` checks that).\n"
            .to_owned();
    }
    let mut text = String::new();
    for (instance, addresses) in found {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        text += &format!("{instance}  {}\n", addresses.join("  "));
    }
    text + "Watch with the pairing code on the broadcaster's screen: viewer nearcast://HOST:PORT --pairing-code CODE\n"
}

/// A responder answers within 120 ms (RFC 6762 §6); this allows for a repeated query.
const LISTEN_TIME: Duration = Duration::from_millis(1500);
