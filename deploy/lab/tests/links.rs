//! Tests of emulated links on real interfaces: delay, rate, loss, black hole, cut, multicast.
//!
//! They need root and `ip`, create their own namespaces, and send nothing outside them. Exact timing is tested without interfaces in
//! src/link/pipe_tests.rs, cleanup in tests/teardown.rs.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lab::{Direction, HomeNetwork, HomeNetworkConfig, Host, Link, Network, Priority, Shape};
use probe::{Echo, TIMEOUT, median_rtt, ms, ping, settles, socket};

mod probe;

/// One test at a time: concurrent tests would distort each other's timing.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two hosts on one emulated link, with the addresses resolved.
fn pair(seed: u64, shape: Shape) -> (Network, Host, Host, Arc<Link>) {
    let mut network = Network::new(seed).unwrap();
    let a = network.host("a").unwrap();
    let b = network.host("b").unwrap();
    let ends = (a.at(Ipv4Addr::new(10, 1, 1, 1)), b.at(Ipv4Addr::new(10, 1, 1, 2)));
    let link = network.link("pair", ends.0, ends.1, [shape; 2]).unwrap();
    let echo = Echo::start(&b);
    ping(&socket(&a, 0), echo.address, 0).expect("the first exchange");
    drop(echo);
    (network, a, b, link)
}

#[test]
fn round_trips_take_the_configured_delays() {
    let _alone = alone();
    let lan = Shape { delay: ms(8), ..Shape::default() };
    let wan = Shape { delay: ms(30), rate: Some(4_000_000), ..Shape::default() };
    let home = HomeNetwork::build(&HomeNetworkConfig { seed: 1, lan: Some(lan), wan }).unwrap();
    assert_eq!(home.wan.priority(), Some(Priority::RealTime));
    settles(&home.network, "LAN, two links of 8 ms", ms(32), ms(33), || {
        median_rtt(&home.broadcaster, &home.viewer1, 40)
    });
    // 4 bytes of payload with UDP, IP and Ethernet headers.
    let expected = ms(2 * (8 + 30)) + 2 * wan.serialisation(46);
    settles(&home.network, "CDN over 8 ms and 30 ms", expected, expected + ms(1), || {
        median_rtt(&home.viewer2, &home.cdn, 25)
    });
}

#[test]
fn a_cable_and_an_unshaped_link_add_almost_no_delay() {
    let _alone = alone();
    let home = HomeNetwork::build(&HomeNetworkConfig { seed: 1, lan: None, wan: Shape::default() }).unwrap();
    settles(&home.network, "two cables", ms(0), ms(1), || median_rtt(&home.broadcaster, &home.viewer1, 200));
    settles(&home.network, "cables, router, link", ms(0), ms(1), || median_rtt(&home.viewer1, &home.cdn, 200));
}

#[test]
fn serialisation_time_is_length_over_rate() {
    let _alone = alone();
    let shape = Shape { rate: Some(4_000_000), ..Shape::default() };
    let (network, a, b, _link) = pair(1, shape);
    let (sender, receiver) = (socket(&a, 0), socket(&b, 0));
    let to = receiver.local_addr().unwrap();
    let time = |count| {
        let start = Instant::now();
        (0..count).for_each(|_| assert!(sender.send_to(&[0; 1458 - HEADERS], to).is_ok()));
        (0..count).for_each(|_| assert!(receiver.recv(&mut [0; 2048]).is_ok()));
        start.elapsed()
    };
    let expected = shape.serialisation(1458);
    assert_eq!(expected, Duration::from_micros(2916));
    settles(&network, "one frame of 1458 bytes at 4 Mbit/s", expected, expected + ms(1), || time(1));
    settles(&network, "50 of them in a row", 50 * expected, 50 * expected + ms(2), || time(50));
}

#[test]
fn tcp_fills_the_rate_with_whole_frames() {
    let _alone = alone();
    let shape = Shape { rate: Some(20_000_000), delay: ms(5), ..Shape::default() };
    let (network, a, b, link) = pair(1, shape);
    let address = b.address().unwrap();
    let listener = b.run(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
    let to = listener.local_addr().unwrap();
    // A full frame is 1514 bytes with 1448 of payload. The sender takes some round trips to fill the link.
    let expected = shape.serialisation(TCP_BYTES / 1448 * 1514);
    settles(&network, "TCP at 20 Mbit/s", expected, expected + expected / 20 + ms(100), || {
        let mut sender = a.run(|| TcpStream::connect_timeout(&to, TIMEOUT).unwrap()).unwrap();
        let mut receiver = listener.accept().unwrap().0;
        receiver.set_read_timeout(Some(TIMEOUT)).unwrap();
        let (mut buffer, mut received) = (vec![0; 65_536], 0);
        let start = Instant::now();
        let writer = thread::spawn(move || sender.write_all(&vec![7; TCP_BYTES]).unwrap());
        while received < TCP_BYTES {
            received += receiver.read(&mut buffer).unwrap();
        }
        writer.join().unwrap();
        start.elapsed()
    });
    // A frame above the interface's size is counted here.
    assert_eq!(link.stats().a_to_b.emulator_drops, 0);
}

/// Sends `count` numbered datagrams from `a` to `b`, and returns the numbers received.
fn arrivals(a: &Host, b: &Host, count: u32) -> BTreeSet<u32> {
    let (sender, receiver) = (socket(a, 0), socket(b, 0));
    let to = receiver.local_addr().unwrap();
    let mut numbers = BTreeSet::new();
    let mut buffer = [0; 4];
    // In batches that fit the receiving socket; an end marker is repeated until it arrives, so that no timeout is needed.
    receiver.set_read_timeout(Some(ms(20))).unwrap();
    for batch in (0..count).collect::<Vec<_>>().chunks(100) {
        for number in batch {
            sender.send_to(&number.to_be_bytes(), to).unwrap();
        }
        'batch: for _ in 0..1000 {
            sender.send_to(&u32::MAX.to_be_bytes(), to).unwrap();
            while receiver.recv(&mut buffer).is_ok() {
                match u32::from_be_bytes(buffer) {
                    u32::MAX => break 'batch,
                    number => drop(numbers.insert(number)),
                }
            }
        }
    }
    numbers
}

#[test]
fn loss_rate_matches_its_probability() {
    let _alone = alone();
    let (network, a, b, link) = pair(11, Shape::default());
    link.set(Direction::AToB, Shape { loss: 0.3, ..Shape::default() }).unwrap();
    let arrived = arrivals(&a, &b, 5000).len();
    eprintln!("loss of 30%: {arrived} of 5000 arrived; {}", network.lateness());
    // Four standard deviations are 130.
    assert!(arrived.abs_diff(3500) < 130, "{arrived}");
    let counts = link.stats().a_to_b;
    assert!((counts.lost as f64 / counts.received as f64 - 0.3).abs() < 0.026, "{counts:?}");
    assert_eq!(link.stats().improper_drops(), 0);
    assert_eq!(link.shape(Direction::BToA), Shape::default());
}

#[test]
fn the_same_seed_loses_the_same_datagrams() {
    let _alone = alone();
    let run = |seed| {
        let (_network, a, b, link) = pair(seed, Shape::default());
        link.set(Direction::AToB, Shape { loss: 0.2, ..Shape::default() }).unwrap();
        arrivals(&a, &b, 100)
    };
    // A frame that the kernel sends by itself, such as an ARP request, shifts the draws of all later frames by one.
    assert!((0..ATTEMPTS).any(|_| run(5) == run(5)), "{:?} and {:?}", run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn a_black_hole_drops_every_frame_until_healed() {
    let _alone = alone();
    let (_network, a, b, link) = pair(1, Shape { delay: ms(2), ..Shape::default() });
    let echo = Echo::start(&b);
    let socket = socket(&a, 0);
    assert!(ping(&socket, echo.address, 1).is_some());
    link.blackhole().unwrap();
    socket.set_read_timeout(Some(ms(100))).unwrap();
    assert_eq!(ping(&socket, echo.address, 2), None);
    assert!(!link_state(&a).contains("NO-CARRIER"));
    assert!(link.stats().a_to_b.link_down_drops >= 1);
    link.heal().unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    assert!(ping(&socket, echo.address, 3).is_some());
    // Datagrams sent meanwhile remain lost.
    assert_eq!(ping(&socket, echo.address, 4).map(|_| ()), Some(()));
}

/// The output of `ip link show eth0` in the host.
fn link_state(host: &Host) -> String {
    let output = host.command("ip").args(["link", "show", "eth0"]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_cut_removes_the_carrier_and_healing_restores_it() {
    let _alone = alone();
    let (_network, a, b, link) = pair(1, Shape { delay: ms(2), ..Shape::default() });
    let echo = Echo::start(&b);
    let socket = socket(&a, 0);
    for round in 0..2 {
        let start = Instant::now();
        link.cut().unwrap();
        eprintln!("cut took {:?}", start.elapsed());
        assert!(link_state(&a).contains("NO-CARRIER") && link_state(&b).contains("NO-CARRIER"));
        socket.set_read_timeout(Some(ms(100))).unwrap();
        assert_eq!(ping(&socket, echo.address, 10 + round), None);
        let start = Instant::now();
        link.heal().unwrap();
        eprintln!("heal took {:?}", start.elapsed());
        assert!(!link_state(&a).contains("NO-CARRIER"));
        // Addresses are resolved again, as after plugging in a cable.
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        assert!(ping(&socket, echo.address, 20 + round).is_some());
    }
}

#[test]
fn multicast_reaches_only_the_lan() {
    let _alone = alone();
    for lan in [None, Some(Shape { delay: ms(8), ..Shape::default() })] {
        let home = HomeNetwork::build(&HomeNetworkConfig { seed: 1, lan, wan: Shape::default() }).unwrap();
        let group = Ipv4Addr::new(224, 0, 0, 251);
        let member = |host: &Host| {
            let address = host.address().unwrap();
            let socket = host.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5353)).unwrap()).unwrap();
            socket.join_multicast_v4(&group, &address).unwrap();
            socket.set_read_timeout(Some(TIMEOUT)).unwrap();
            socket
        };
        let members = home.lan_hosts().map(member);
        let beyond = member(&home.cdn);
        let mut buffer = [0; 64];
        for (i, sender) in members.iter().enumerate() {
            sender.set_multicast_loop_v4(false).unwrap();
            sender.send_to(b"who is there", (group, 5353)).unwrap();
            for (j, receiver) in members.iter().enumerate() {
                if i != j {
                    let (length, from) = receiver.recv_from(&mut buffer).unwrap();
                    assert_eq!(&buffer[..length], b"who is there");
                    assert_eq!(from, SocketAddr::from((home.lan_hosts()[i].address().unwrap(), 5353)));
                }
            }
        }
        // The link to the CDN keeps order, so anything sent before this datagram would be read before it.
        members[0].send_to(b"unicast", (home.cdn.address().unwrap(), 5353)).unwrap();
        let length = beyond.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"unicast");
    }
}

/// Maximum attempts of a pair of runs.
const ATTEMPTS: u32 = 5;

/// Ethernet, IPv4 and UDP headers, bytes.
const HEADERS: usize = 14 + 20 + 8;

/// About a second at 20 Mbit/s.
const TCP_BYTES: usize = 2_400_000;
