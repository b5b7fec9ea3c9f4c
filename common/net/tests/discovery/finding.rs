//! Which broadcasters are found, how fast, and when their absence is detected (RFC 6762 §5.2, §8.3, §10).

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use net::discovery::{Announcer, AnnouncerOptions, Event, Interfaces, NameMatcher};

use super::testbed::{Family, Testbed};
use super::{A, B, NOW, PORT, announce, browse, clock, found, lost, name, next, quiet};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finds_and_loses_a_broadcaster_over_ipv4() {
    let Some(testbed) = Testbed::new(2, Family::V4) else { return };
    let (_, clock) = clock();
    let mut first = browse(&testbed, 2, |_| {});
    quiet(&mut first, 300).await;
    let begun = Instant::now();
    let announcer = announce(&testbed, 1, A, &clock);
    let addresses = found(&mut first, &name(&A, 0), 1).await;
    println!("IPv4, viewer started first: found after {:?}", begun.elapsed());
    assert_eq!(addresses, [format!("{}:{PORT}", Testbed::v4(1)).parse().unwrap()]);
    assert!(first.has_heard().await.unwrap());

    // The second announcement follows after one second; a browser that starts after it has to query.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    while !announcer.announced() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let begun = Instant::now();
    let mut second = browse(&testbed, 2, |_| {});
    found(&mut second, &name(&A, 0), 1).await;
    println!("IPv4, broadcaster started first: found after {:?}", begun.elapsed());

    let begun = Instant::now();
    announcer.stop().await;
    println!("stop() took {:?}", begun.elapsed());
    lost(&mut first, &name(&A, 0)).await;
    lost(&mut second, &name(&A, 0)).await;
    println!("IPv4, goodbye: lost after {:?}", begun.elapsed());
    quiet(&mut first, 500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finds_a_broadcaster_over_ipv6_link_local_with_its_scope() {
    let Some(testbed) = Testbed::new(2, Family::V6) else { return };
    let (_, clock) = clock();
    let mut browser = browse(&testbed, 2, |_| {});
    quiet(&mut browser, 300).await;
    let begun = Instant::now();
    let announcer = announce(&testbed, 1, A, &clock);
    let addresses = found(&mut browser, &name(&A, 0), 1).await;
    println!("IPv6 link-local, viewer started first: found after {:?}", begun.elapsed());
    let SocketAddr::V6(address) = addresses[0] else { panic!("{addresses:?}") };
    assert_eq!((address.ip().to_string(), address.port()), (Testbed::v6(1), PORT));
    // The viewer's own interface index, in hexadecimal, from the second column of the kernel's table.
    let interfaces = testbed.on(2, || std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap());
    let line = interfaces.lines().find(|line| line.ends_with("lan0")).unwrap();
    let index = u32::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
    assert_eq!(address.scope_id(), index);

    let begun = Instant::now();
    let mut second = browse(&testbed, 2, |_| {});
    assert_eq!(found(&mut second, &name(&A, 0), 1).await, addresses);
    println!("IPv6 link-local, broadcaster started first: found after {:?}", begun.elapsed());

    let begun = Instant::now();
    drop(announcer);
    println!("drop took {:?}", begun.elapsed());
    lost(&mut browser, &name(&A, 0)).await;
    println!("IPv6, goodbye: lost after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_ipv4_and_ipv6_addresses_together() {
    let Some(testbed) = Testbed::new(2, Family::Dual) else { return };
    let (_, clock) = clock();
    let mut browser = browse(&testbed, 2, |_| {});
    let begun = Instant::now();
    let _announcer = announce(&testbed, 1, A, &clock);
    let addresses = found(&mut browser, &name(&A, 0), 2).await;
    println!("IPv4 and IPv6: both found after {:?}", begun.elapsed());
    assert!(addresses[0].is_ipv4() && addresses[1].is_ipv6(), "{addresses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_time_slot_rotates_the_name() {
    let Some(testbed) = Testbed::new(2, Family::Dual) else { return };
    let (seconds, clock) = clock();
    let mut browser = browse(&testbed, 2, |_| {});
    let announcer = announce(&testbed, 1, A, &clock);
    found(&mut browser, &name(&A, 0), 2).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;

    let begun = Instant::now();
    seconds.fetch_add(600, Ordering::Relaxed);
    found(&mut browser, &name(&A, 1), 2).await;
    println!("new slot: new name found after {:?}", begun.elapsed());
    lost(&mut browser, &name(&A, 0)).await;
    println!("new slot: old name lost after {:?}", begun.elapsed());
    // The old name's second goodbye must not remove the new name's addresses.
    quiet(&mut browser, 2500).await;
    let wanted = NameMatcher::new(&A);
    assert!(wanted.matches(&name(&A, 1), NOW), "for a viewer whose clock is late too");
    announcer.stop().await;
    lost(&mut browser, &name(&A, 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn distinguishes_two_broadcasters() {
    let Some(testbed) = Testbed::new(3, Family::V4) else { return };
    let (_, clock) = clock();
    let mut everyone = browse(&testbed, 3, |_| {});
    let mut only_b = browse(&testbed, 3, |options| options.matchers = vec![NameMatcher::new(&B)]);
    let _a = announce(&testbed, 1, A, &clock);
    let b = announce(&testbed, 2, B, &clock);

    let mut both = Vec::new();
    for _ in 0..2 {
        let Event::Found { instance, addresses, .. } = next(&mut everyone).await else { panic!() };
        both.push((instance, addresses[0].ip().to_string()));
    }
    both.sort_unstable();
    let mut expected = vec![(name(&A, 0), Testbed::v4(1)), (name(&B, 0), Testbed::v4(2))];
    expected.sort_unstable();
    assert_eq!(both, expected);
    let (a_wanted, b_wanted) = (NameMatcher::new(&A), NameMatcher::new(&B));
    for (instance, ip) in &both {
        assert_eq!(a_wanted.matches(instance, NOW), *ip == Testbed::v4(1));
        assert_eq!(b_wanted.matches(instance, NOW), *ip == Testbed::v4(2));
    }
    assert_eq!(found(&mut only_b, &name(&B, 0), 1).await[0].ip().to_string(), Testbed::v4(2));
    b.stop().await;
    lost(&mut everyone, &name(&B, 0)).await;
    lost(&mut only_b, &name(&B, 0)).await;
    quiet(&mut everyone, 500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_detects_a_disconnected_broadcaster() {
    let Some(testbed) = Testbed::new(2, Family::Dual) else { return };
    let (_, clock) = clock();
    let mut browser = browse(&testbed, 2, |_| {});
    let _announcer = announce(&testbed, 1, A, &clock);
    found(&mut browser, &name(&A, 0), 2).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;

    browser.verify(&name(&A, 0)).unwrap();
    quiet(&mut browser, 3500).await;

    testbed.plug(1, "down");
    quiet(&mut browser, 1000).await;
    let begun = Instant::now();
    browser.verify(&name(&A, 0)).unwrap();
    lost(&mut browser, &name(&A, 0)).await;
    println!("silence: lost {:?} after verify()", begun.elapsed());

    testbed.plug(1, "up");
    let begun = Instant::now();
    found(&mut browser, &name(&A, 0), 2).await;
    println!("plugged in again: found after {:?}", begun.elapsed());
    assert!(browser.verify("not a name").is_err());
    browser.verify(&name(&B, 0)).unwrap();
    quiet(&mut browser, 2500).await;

    // Query again at once, instead of after the first delay.
    testbed.plug(1, "down");
    browser.verify(&name(&A, 0)).unwrap();
    lost(&mut browser, &name(&A, 0)).await;
    testbed.plug(1, "up");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let begun = Instant::now();
    browser.refresh();
    found(&mut browser, &name(&A, 0), 2).await;
    println!("plugged in again: found {:?} after refresh()", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announces_on_a_network_that_comes_up_later() {
    let Some(testbed) = Testbed::new(2, Family::V4) else { return };
    let (_, clock) = clock();
    testbed.plug(1, "down");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let announcer = announce(&testbed, 1, A, &clock);
    let mut browser = browse(&testbed, 2, |_| {});
    quiet(&mut browser, 2000).await;
    assert!(!announcer.announced());
    let begun = Instant::now();
    testbed.plug(1, "up");
    found(&mut browser, &name(&A, 0), 1).await;
    println!("late network: found after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn detects_dropped_multicast_without_an_error() {
    let Some(testbed) = Testbed::new(3, Family::Dual) else { return };
    let (_, clock) = clock();
    testbed.drop_multicast_to(2);
    let _announcer = announce(&testbed, 1, A, &clock);
    let mut deaf = browse(&testbed, 2, |options| options.survey = true);
    // It looks for another broadcast, so it finds none, but it receives mDNS answers.
    let mut hearing = browse(&testbed, 3, |options| {
        options.survey = true;
        options.matchers = vec![NameMatcher::new(&B)];
    });
    tokio::join!(quiet(&mut deaf, 3000), quiet(&mut hearing, 3000));
    assert!(!deaf.has_heard().await.unwrap());
    assert!(hearing.has_heard().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uses_only_the_configured_interfaces() {
    let Some(testbed) = Testbed::new(2, Family::V4) else { return };
    let (_, clock) = clock();
    let _announcer = announce(&testbed, 1, A, &clock);
    let named = |name: &str| Interfaces::Named(vec![name.to_owned()]);
    let (right, wrong) = (named("lan0"), named("lan1"));
    let mut seeing = browse(&testbed, 2, |options| options.interfaces = right);
    let mut blind = browse(&testbed, 2, |options| options.interfaces = wrong);
    found(&mut seeing, &name(&A, 0), 1).await;
    quiet(&mut blind, 2000).await;

    // Within one host over loopback, as other tests use it.
    let both = named("lo");
    let (here, there) = (both.clone(), both);
    let _inside = testbed.on(2, move || {
        let mut options = AnnouncerOptions::default();
        (options.interfaces, options.loopback, options.clock) = (here, true, clock);
        Announcer::start(&B, PORT, options).unwrap()
    });
    let begun = Instant::now();
    let mut inside = browse(&testbed, 2, |options| (options.interfaces, options.loopback) = (there, true));
    let Event::Found { instance, addresses, .. } = next(&mut inside).await else { panic!() };
    println!("loopback: found after {:?}", begun.elapsed());
    assert_eq!(instance, name(&B, 0));
    assert!(addresses.iter().all(|address| address.ip().is_loopback()), "{addresses:?}");
    quiet(&mut seeing, 500).await;
}
