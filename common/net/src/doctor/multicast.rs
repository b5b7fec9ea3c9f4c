//! Checks of multicast DNS: whether this host's announcements are received, and whether other hosts answer.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::machine::Networks;
use super::report::Check;
use crate::discovery::{self, Announcer, AnnouncerOptions, Browser, BrowserOptions, Event, NameMatcher};

/// The broadcasters that were found: addresses by instance name.
pub type LanBroadcasters = BTreeMap<String, Vec<SocketAddr>>;

/// When the check announces a service, under a random name and for two seconds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announce {
    /// Always, for a broadcaster: viewers must be able to find it.
    Always,
    /// If no host answers, to distinguish an empty network from one that drops multicast.
    IfSilent,
}

/// Listens, announces a service, and listens for it. Sends what it finds to `lan_broadcasters` as soon as possible.
pub async fn check(announce: Announce, lan_broadcasters: oneshot::Sender<LanBroadcasters>) -> Vec<Check> {
    let options = BrowserOptions { survey: true, ..BrowserOptions::default() };
    let mut browser = match Browser::start(options) {
        Ok(browser) => browser,
        Err(error) => return vec![no_mdns(&error)],
    };
    let mut found = LanBroadcasters::new();
    collect(&mut browser, LISTEN, &mut found, |_| false).await;
    let heard = match browser.has_heard().await {
        Ok(heard) => heard,
        Err(error) => return vec![no_mdns(&error)],
    };
    // Nothing receives this if no server was named.
    let _ = lan_broadcasters.send(found.clone());
    let heard_itself = match announce {
        Announce::IfSilent if heard => None,
        _ => match announce_and_hear(&mut browser).await {
            Ok(heard_itself) => Some(heard_itself),
            Err(error) => return vec![no_mdns(&error)],
        },
    };
    let mut checks: Vec<Check> = heard_itself.map(|(announced, echo)| out(announced, echo)).into_iter().collect();
    let hears_itself = heard_itself.is_some_and(|(_, echo)| echo.is_some());
    checks.push(into(heard, &found, hears_itself, &Networks::own()));
    checks
}

fn out(announced: bool, echo: Option<Duration>) -> Check {
    match (announced, echo) {
        (_, Some(after)) => {
            Check::ok("mDNS out", format!("announced, and received by this machine after {} ms", after.as_millis()))
                .with("heard_after_ms", after.as_millis() as f64)
        }
        (true, None) => Check::warn(
            "mDNS out",
            "announced, but not received even by this machine",
            "allow UDP 5353 to and from 224.0.0.251 and ff02::fb in this machine's firewall: sudo ufw allow 5353/udp. Until then, viewers \
             get the broadcaster's address only from the server",
        ),
        (false, None) => Check::warn(
            "mDNS out",
            "no interface could send the announcement",
            "use a network whose interface is up and supports multicast (`ip -d link` shows MULTICAST; VPNs and containers often do not)",
        ),
    }
}

fn into(heard: bool, found: &LanBroadcasters, hears_itself: bool, own: &Networks) -> Check {
    let is_own = |addresses: &[SocketAddr]| addresses.iter().any(|address| own.is_own(address.ip()));
    let others: Vec<String> = found
        .values()
        .filter(|addresses| !is_own(addresses))
        .filter_map(|addresses| addresses.first())
        .map(ToString::to_string)
        .collect();
    let shown = others[..others.len().min(MAX_LISTED)].join(", ");
    let found = match (others.len(), found.len()) {
        (0, 0) => "mDNS answers are received, but no broadcaster is found".to_owned(),
        (0, _) => "this machine's own broadcaster is found, and no other".to_owned(),
        (1, _) => format!("found a broadcaster at {shown}"),
        (count, _) => format!("found {count} broadcasters: {shown}"),
    };
    let count = others.len() as f64;
    match (heard, hears_itself) {
        (true, _) => Check::ok("mDNS in", found).with("broadcasters", count),
        (false, true) => Check::warn(
            "mDNS in",
            "no other host answers: the network has none with mDNS, or it drops multicast",
            "if there are any: turn off client isolation (guest mode) and IGMP snooping without a querier in the access point or switch; \
             or give the broadcaster's address: viewer --peer HOST:PORT",
        ),
        (false, false) => Check::warn(
            "mDNS in",
            "no mDNS is received, not even this machine's own",
            "allow inbound UDP 5353 in this machine's firewall: sudo ufw allow 5353/udp; \
             or give the broadcaster's address: viewer --peer HOST:PORT",
        ),
    }
}

fn no_mdns(error: &discovery::Error) -> Check {
    let fix = "allow this program to share UDP 5353 with other responders; until then, only the server reports the broadcaster's address";
    Check::warn("mDNS", format!("cannot start: {error}"), fix)
}

/// Whether the announcement was sent, and after which time this host received it.
async fn announce_and_hear(browser: &mut Browser) -> Result<(bool, Option<Duration>), discovery::Error> {
    let secret: [u8; discovery::name::SECRET_LEN] = rand::random();
    let wanted = NameMatcher::new(&secret);
    // A port that is bound here, so that a viewer that tries it does not reach another program.
    let held = UdpSocket::bind(("0.0.0.0", 0)).and_then(|socket| Ok((socket.local_addr()?.port(), socket)));
    let port = held.as_ref().map_or(FALLBACK_PORT, |(port, _)| *port);
    let started = Instant::now();
    let options = AnnouncerOptions::default();
    let now = options.clock.unix_seconds();
    let announcer = Announcer::start(&secret, port, options)?;
    let is_ours = |instance: &str| wanted.matches(instance, now);
    let echo = collect(browser, LISTEN, &mut LanBroadcasters::new(), is_ours).await;
    // The announcer updates its state once a second.
    while !announcer.announced() && echo.is_none() && started.elapsed() < LISTEN {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let announced = announcer.announced() || echo.is_some();
    announcer.stop().await;
    Ok((announced, echo.map(|at| at - started)))
}

/// Collects broadcasters for `time`, or until one matches; returns when that was.
async fn collect(
    browser: &mut Browser,
    time: Duration,
    found: &mut LanBroadcasters,
    is_looked_for: impl Fn(&str) -> bool,
) -> Option<Instant> {
    let until = Instant::now() + time;
    while let Ok(Some(event)) = timeout_at(until, browser.next()).await {
        match event {
            Event::Found { instance, .. } | Event::Changed { instance, .. } if is_looked_for(&instance) => {
                return Some(Instant::now());
            }
            Event::Found { instance, addresses, .. } | Event::Changed { instance, addresses, .. } => {
                found.insert(instance, addresses);
            }
            Event::Lost { instance } => drop(found.remove(&instance)),
        }
    }
    None
}

/// How long to wait for answers: a responder answers within 120 ms (RFC 6762 §6), and again if that was lost; an announcement is sent twice,
/// one second apart (§8.3).
const LISTEN: Duration = Duration::from_millis(1500);
/// Bounds the names in a line of output.
const MAX_LISTED: usize = 3;
/// The port of the discard service (RFC 863), which is harmless.
const FALLBACK_PORT: u16 = 9;

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    #[test]
    fn multicast_findings_are_classified() {
        let echo = Some(Duration::from_millis(3));
        for (announced, echo, wanted) in [
            (true, echo, Status::Ok),
            (false, echo, Status::Ok),
            (true, None, Status::Warn),
            (false, None, Status::Warn),
        ] {
            assert_eq!(out(announced, echo).status(), wanted);
        }
        let own = Networks::default();
        let found = |address: &str| LanBroadcasters::from([("x".to_owned(), vec![address.parse().unwrap()])]);
        for (heard, found, hears_itself, words, wanted) in [
            (true, found("192.0.2.7:4444"), false, "found a broadcaster at 192.0.2.7:4444", Status::Ok),
            (true, found("127.0.0.1:4444"), true, "this machine's own", Status::Ok),
            (true, LanBroadcasters::new(), false, "no broadcaster is found", Status::Ok),
            (false, LanBroadcasters::new(), true, "no other host answers", Status::Warn),
            (false, LanBroadcasters::new(), false, "no mDNS is received", Status::Warn),
        ] {
            let check = into(heard, &found, hears_itself, &own);
            assert!(check.status() == wanted && format!("{check:?}").contains(words), "{check:?}");
        }
    }
}
