//! Broadcasters and viewers on a LAN of network namespaces, not on the host's own network: shared code of the tests (RFC 6762, RFC 6763).
//!
//! Each test takes seconds: mDNS caches and goodbyes are slow. The tests need root; without it they report that they are skipped. They print
//! the times to discovery:
//! `cargo test --test discovery -- --nocapture`.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests too")]
#![expect(clippy::print_stdout, reason = "the tests print discovery times")]

mod finding;
mod hostile;
mod testbed;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use net::discovery::{Announcer, AnnouncerOptions, Browser, BrowserOptions, Clock, Event, instance_name, slot_at};
use testbed::Testbed;

const A: [u8; 16] = [0xa; 16];
const B: [u8; 16] = [0xb; 16];
const PORT: u16 = 4433;
const NOW: u64 = 1_800_000_000;
/// The deadline for events that take one or two seconds on an idle host.
const PATIENCE: Duration = Duration::from_secs(60);

/// A clock that stands still until the test changes it.
fn clock() -> (Arc<AtomicU64>, Clock) {
    let seconds = Arc::new(AtomicU64::new(NOW));
    let read = Arc::clone(&seconds);
    (seconds, Clock::from_fn(move || read.load(Ordering::Relaxed)))
}

fn name(secret: &[u8; 16], slots_ahead: u64) -> String {
    instance_name(secret, slot_at(NOW) + slots_ahead)
}

fn announce(testbed: &Testbed, machine: u32, secret: [u8; 16], clock: &Clock) -> Announcer {
    let clock = clock.clone();
    testbed.on(machine, move || {
        let mut options = AnnouncerOptions::default();
        options.clock = clock;
        Announcer::start(&secret, PORT, options).unwrap()
    })
}

fn browse(testbed: &Testbed, machine: u32, set: impl FnOnce(&mut BrowserOptions) + Send + 'static) -> Browser {
    testbed.on(machine, move || {
        let mut options = BrowserOptions::default();
        options.clock = clock().1;
        set(&mut options);
        Browser::start(options).unwrap()
    })
}

async fn next(browser: &mut Browser) -> Event {
    tokio::time::timeout(PATIENCE, browser.next()).await.expect("an event in time").expect("mDNS continues")
}

/// Waits until `instance` has `expected` addresses; returns them.
async fn found(browser: &mut Browser, instance: &str, expected: usize) -> Vec<SocketAddr> {
    loop {
        match next(browser).await {
            Event::Found { instance: is, addresses, version } | Event::Changed { instance: is, addresses, version } => {
                assert_eq!((is.as_str(), version), (instance, 1));
                if addresses.len() == expected {
                    return addresses;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn lost(browser: &mut Browser, instance: &str) {
    assert_eq!(next(browser).await, Event::Lost { instance: instance.to_owned() });
}

async fn quiet(browser: &mut Browser, milliseconds: u64) {
    if let Ok(event) = tokio::time::timeout(Duration::from_millis(milliseconds), browser.next()).await {
        panic!("{event:?}");
    }
}
