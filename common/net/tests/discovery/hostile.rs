//! Interference by other hosts on the LAN, by accident or on purpose: the viewer still finds the right broadcaster.
//!
//! Packets are built by hand (RFC 1035 §4, RFC 6762 §18). That a forged address is not trusted is tested with the transport, not here.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mdns_sd::{ServiceDaemon, ServiceInfo};
use net::discovery::{Announcer, AnnouncerOptions, Event, NameMatcher};

use super::testbed::{Family, Testbed};
use super::{A, B, PATIENCE, PORT, announce, browse, clock, found, lost, name, next, quiet};

/// Sends each packet by multicast from a machine, in batches that fit a socket's buffer.
fn send(testbed: &Testbed, machine: u32, packets: Vec<Vec<u8>>) {
    testbed.on(machine, move || {
        let socket = UdpSocket::bind((Testbed::v4(machine).as_str(), 0)).unwrap();
        for packet in packets {
            socket.send_to(&packet, "224.0.0.251:5353").unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

/// A socket of a machine that receives all mDNS packets of its network.
fn listen(testbed: &Testbed, machine: u32) -> UdpSocket {
    testbed.on(machine, move || {
        let socket = UdpSocket::bind("0.0.0.0:5353").unwrap();
        let own = Testbed::v4(machine).parse().unwrap();
        socket.join_multicast_v4(&"224.0.0.251".parse().unwrap(), &own).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    })
}

/// A name's labels, which must not be longer than 63 bytes each.
fn labels(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn record(name: &str, kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = labels(name);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&1_u16.to_be_bytes());
    bytes.extend_from_slice(&ttl.to_be_bytes());
    bytes.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn response(answers: &[Vec<u8>]) -> Vec<u8> {
    let mut packet = vec![0, 0, 0x84, 0, 0, 0];
    packet.extend_from_slice(&u16::try_from(answers.len()).unwrap().to_be_bytes());
    packet.extend_from_slice(&[0; 4]);
    packet.extend(answers.iter().flatten());
    packet
}

fn pointer(instance: &str, ttl: u32) -> Vec<u8> {
    record("_nearcast._udp.local", 12, ttl, &labels(&format!("{instance}._nearcast._udp.local")))
}

/// The records that announce an instance, at an unused address.
fn announcement(instance: &str) -> Vec<u8> {
    let full = format!("{instance}._nearcast._udp.local");
    let mut server = vec![0, 0, 0, 0, 0, 9];
    server.extend(labels("nobody.local"));
    response(&[
        pointer(instance, 4500),
        record(&full, 33, 120, &server),
        record(&full, 16, 4500, b"\x03v=1"),
        record("nobody.local", 1, 120, &[10, 77, 0, 99]),
    ])
}

/// Announcements of two thousand instances that do not exist.
fn flood() -> Vec<Vec<u8>> {
    let letters =
        |number: usize| format!("{number:04}").bytes().map(|digit| char::from(digit - b'0' + b'a')).collect::<String>();
    (0..2000).map(|number| announcement(&format!("aaaaaaaaaaaa{}", letters(number)))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_announcement_reveals_only_that_a_broadcaster_exists() {
    let Some(testbed) = Testbed::new(2, Family::V4) else { return };
    let (_, clock) = clock();
    let stranger = listen(&testbed, 2);
    announce(&testbed, 1, A, &clock).stop().await;
    let mut packet = [0; 2000];
    let length = stranger.recv(&mut packet).unwrap();
    let text = packet[..length].escape_ascii().to_string();
    println!("an announcement, {length} bytes: {text}");
    for said in ["_nearcast", "_udp", "local", r"\x03v=1", &name(&A, 0)] {
        assert!(text.contains(said), "{said}");
    }
    let machine = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let kept = [machine.trim().to_owned(), A[..4].escape_ascii().to_string(), std::env::consts::OS.to_owned()];
    for kept in kept.iter().filter(|kept| !kept.is_empty()) {
        assert!(!text.contains(kept), "{kept}");
    }
    // A name of 16 characters, a host name of 16, and four record headers: there is room for nothing else.
    assert!(length < 160, "{length}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ignores_malformed_packets_and_records() {
    let Some(testbed) = Testbed::new(3, Family::V4) else { return };
    let (_, clock) = clock();
    let mut browser = browse(&testbed, 2, |_| {});
    let garbage = (0..200_usize).map(|size| (0..size).map(|at| (at * 31 + size * 7) as u8).collect()).collect();
    send(&testbed, 3, garbage);
    let whole = announcement("aaaaaaaaaaaaaaaa");
    send(&testbed, 3, (0..whole.len()).map(|size| whole[..size].to_vec()).collect());
    let daemon = testbed.on(3, || {
        let daemon = ServiceDaemon::new().unwrap();
        let table =
            [("Living testbed", 1, "v", "1"), ("bbbbbbbbbbbbbbbb", 0, "v", "1"), ("cccccccccccccccc", 1, "v", "one")];
        for (instance, port, key, value) in table {
            let service = "_nearcast._udp.local.";
            let info = ServiceInfo::new(service, instance, "x.local.", (), port, &[(key, value)][..]).unwrap();
            daemon.register(info.enable_addr_auto()).unwrap();
        }
        daemon
    });
    quiet(&mut browser, 3000).await;
    assert!(browser.has_heard().await.unwrap());
    let _announcer = announce(&testbed, 1, A, &clock);
    found(&mut browser, &name(&A, 0), 1).await;
    daemon.shutdown().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_does_not_displace_wanted_instances() {
    let Some(testbed) = Testbed::new(3, Family::V4) else { return };
    let (_, clock) = clock();
    let mut everyone = browse(&testbed, 2, |_| {});
    let mut wanting = browse(&testbed, 2, |options| options.matchers = vec![NameMatcher::new(&A)]);
    let begun = Instant::now();
    send(&testbed, 3, flood());
    println!("a flood of 2000 instances took {:?}", begun.elapsed());
    let begun = Instant::now();
    let _announcer = announce(&testbed, 1, A, &clock);
    found(&mut wanting, &name(&A, 0), 1).await;
    println!("after a flood: found after {:?}", begun.elapsed());
    let mut told = BTreeSet::new();
    while told.len() < 64 {
        let Event::Found { instance, .. } = next(&mut everyone).await else { panic!() };
        told.insert(instance);
    }
    quiet(&mut everyone, 1000).await;
}

#[test]
fn recovers_from_missed_events() {
    let Some(testbed) = Testbed::new(3, Family::V4) else { return };
    let testbed = Arc::new(testbed);
    let shared = Arc::clone(&testbed);
    testbed.on(2, move || runtime().block_on(miss_events_during_a_flood(&shared)));
}

/// A runtime on the calling thread only, for a viewer that restarts mDNS: the restart runs in the namespace of the runtime's thread.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn miss_events_during_a_flood(testbed: &Testbed) {
    let (_, clock) = clock();
    let mut browser = browse(testbed, 2, |options| options.matchers = vec![NameMatcher::new(&A), NameMatcher::new(&B)]);
    let _a = announce(testbed, 1, A, &clock);
    let b = announce(testbed, 1, B, &clock);
    let mut both = BTreeSet::new();
    for _ in 0..2 {
        let Event::Found { instance, .. } = next(&mut browser).await else { panic!() };
        both.insert(instance);
    }
    assert_eq!(both, BTreeSet::from([name(&A, 0), name(&B, 0)]));

    // The runtime's thread waits for the end of the flood; meanwhile a broadcaster leaves.
    send(testbed, 3, flood());
    drop(b);
    std::thread::sleep(Duration::from_millis(1500));
    let begun = Instant::now();
    lost(&mut browser, &name(&B, 0)).await;
    println!("after missed events: the stopped broadcaster is lost after {:?}", begun.elapsed());
    quiet(&mut browser, 1000).await;
    let b = announce(testbed, 1, B, &clock);
    found(&mut browser, &name(&B, 0), 1).await;
    browser.verify(&name(&B, 0)).unwrap();
    b.stop().await;
    lost(&mut browser, &name(&B, 0)).await;
}

#[test]
fn a_cache_filled_by_others_is_cleared_without_events() {
    let Some(testbed) = Testbed::new(3, Family::V4) else { return };
    let testbed = Arc::new(testbed);
    let shared = Arc::clone(&testbed);
    testbed.on(2, move || runtime().block_on(fill_the_cache_with_a_flood(&shared)));
}

async fn fill_the_cache_with_a_flood(testbed: &Testbed) {
    let (_, clock) = clock();
    let mut browser = browse(testbed, 2, |options| options.matchers = vec![NameMatcher::new(&A), NameMatcher::new(&B)]);
    let _a = announce(testbed, 1, A, &clock);
    found(&mut browser, &name(&A, 0), 1).await;
    for part in flood().chunks(100) {
        // In parts, so that no events are missed.
        send(testbed, 3, part.to_vec());
        quiet(&mut browser, 20).await;
    }
    // Long enough that the cache is counted and stale instances would be lost.
    quiet(&mut browser, 18_000).await;
    let _b = announce(testbed, 1, B, &clock);
    found(&mut browser, &name(&B, 0), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovers_from_a_forged_goodbye() {
    let Some(testbed) = Testbed::new(3, Family::V4) else { return };
    let (_, clock) = clock();
    let mut browser = browse(&testbed, 2, |_| {});
    let _announcer = announce(&testbed, 1, A, &clock);
    found(&mut browser, &name(&A, 0), 1).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    // If an announcement follows the forged goodbye within one second, no event is reported (RFC 6762 §10.1): forge it again.
    let mut told = None;
    for _ in 0..5 {
        send(&testbed, 3, vec![response(&[pointer(&name(&A, 0), 0)])]);
        told = tokio::time::timeout(Duration::from_secs(3), browser.next()).await.ok().flatten();
        if told.is_some() {
            break;
        }
    }
    assert_eq!(told, Some(Event::Lost { instance: name(&A, 0) }));
    let begun = Instant::now();
    found(&mut browser, &name(&A, 0), 1).await;
    println!("forged goodbye: found again after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follows_a_broadcaster_that_restarts_after_a_crash() {
    let Some(testbed) = Testbed::new(2, Family::V4) else { return };
    let (_, clock) = clock();
    let mut browser = browse(&testbed, 2, |_| {});
    let announcer = announce(&testbed, 1, A, &clock);
    found(&mut browser, &name(&A, 0), 1).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    // Its goodbye is not received, as if it had been killed.
    testbed.plug(1, "down");
    drop(announcer);
    tokio::time::sleep(Duration::from_millis(500)).await;
    testbed.plug(1, "up");
    let begun = Instant::now();
    let _again = testbed.on(1, move || {
        let mut options = AnnouncerOptions::default();
        options.clock = clock;
        Announcer::start(&A, PORT + 1, options).unwrap()
    });
    loop {
        match next(&mut browser).await {
            Event::Changed { addresses, .. } if addresses[0].port() == PORT + 1 => break,
            Event::Changed { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    println!("crashed and back on another port: followed after {:?}", begun.elapsed());
    // The expiry of the old records does not remove the new ones.
    quiet(&mut browser, 3000).await;
    assert!(browser.verify(&name(&B, 0)).is_ok());
}

/// An answer of which only the pointers are received: mdns-sd asks for the rest by name, and lists what it knows (RFC 6762 §7.1). It does so for every
/// broadcast alike, so that the network does not learn which one a viewer looks for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_after_a_partial_answer_are_the_same_whichever_broadcast_is_wanted() {
    let Some(testbed) = Testbed::new(4, Family::V4) else { return };
    let (_, clock) = clock();
    let stranger = listen(&testbed, 4);
    let names = [name(&A, 0), name(&B, 0)];
    let [mut wants_a, mut wants_b] = [(2, A), (3, B)].map(|(machine, secret)| {
        browse(&testbed, machine, move |options| {
            options.matchers = vec![NameMatcher::new(&secret)];
        })
    });
    // Past the delay of the first query.
    tokio::time::sleep(Duration::from_millis(300)).await;
    send(&testbed, 1, vec![response(&names.each_ref().map(|name| pointer(name, 4500)))]);
    quiet(&mut wants_a, 5000).await;
    stranger.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut packet = [0; 2000];
    let mut queries = [BTreeSet::new(), BTreeSet::new()];
    while let Ok((length, from)) = stranger.recv_from(&mut packet) {
        let viewer = [2, 3].iter().position(|machine| from.ip().to_string() == Testbed::v4(*machine));
        let Some(queries) = viewer.map(|viewer| &mut queries[viewer]) else { continue };
        let text = packet[..length].escape_ascii().to_string();
        let named = names.each_ref().map(|name| text.matches(name.as_str()).count());
        queries.insert(named);
    }
    println!("names in the queries of two viewers: {queries:?}");
    assert!(queries[0].iter().any(|named| *named != [0, 0]), "no query names anything, so this shows nothing");
    assert_eq!(queries[0], queries[1]);
    let _announcers = [announce(&testbed, 1, A, &clock), announce(&testbed, 1, B, &clock)];
    found(&mut wants_a, &names[0], 1).await;
    found(&mut wants_b, &names[1], 1).await;
}
