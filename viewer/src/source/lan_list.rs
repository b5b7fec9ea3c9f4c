//! Who broadcasts on this network, where there is no server to ask: `viewer --lan`.
//!
//! Names there say nothing to strangers, so all that can be told is that somebody broadcasts, and where. The code on its screen opens
//! it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use net::discovery::{self, Browser, BrowserOptions, Event};
use tokio::time::{Instant, timeout_at};

/// Listens for [`LISTEN_TIME`], and gives the addresses of each broadcaster by its name of the moment.
///
/// # Errors
/// Where no mDNS can be had.
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

/// For people.
pub fn render_broadcasters(found: &BTreeMap<String, Vec<SocketAddr>>) -> String {
    if found.is_empty() {
        return "Nobody broadcasts on this network, or it does not pass mDNS on (`viewer doctor` tells more).\n"
            .to_owned();
    }
    let mut text = String::new();
    for (instance, addresses) in found {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        text += &format!("{instance}  {}\n", addresses.join("  "));
    }
    text + "Watch with the code on the broadcaster's screen: viewer nearcast://HOST:PORT --pairing-code CODE\n"
}

/// A responder answers within 120 ms (RFC 6762 §6), and once more if that was lost.
const LISTEN_TIME: Duration = Duration::from_millis(1500);
