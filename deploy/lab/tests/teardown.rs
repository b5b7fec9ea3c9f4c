//! Tests of the lifetime of namespaces: programs and closures run inside, dropping removes everything, and namespaces of dead processes are removed.
//!
//! They need root and `ip`. Links are tested in tests/links.rs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lab::namespace::{DIRECTORY, sweep};
use lab::{HomeNetwork, HomeNetworkConfig, Network, Shape};

fn names_beginning(prefix: &str) -> BTreeSet<String> {
    let names = std::fs::read_dir(DIRECTORY).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(prefix)).collect()
}

#[test]
fn dropping_a_network_leaves_no_namespace_and_no_process() {
    let home =
        HomeNetwork::build(&HomeNetworkConfig { seed: 1, lan: Some(Shape::default()), wan: Shape::default() }).unwrap();
    // `nc<pid>-<serial>-`: other tests of this process have other serials.
    let name = home.cdn.namespace_name();
    let prefix = name.strip_suffix("cdn").unwrap().to_owned();
    assert_eq!(names_beginning(&prefix).len(), 7, "five hosts, the switch and the wire");
    let mut sleeper = home.cdn.command("sleep").arg("600").spawn().unwrap();
    drop(home);
    assert_eq!(names_beginning(&prefix), BTreeSet::new());
    assert!(!sleeper.wait().unwrap().success(), "it was killed");
}

#[test]
fn hosts_and_links_may_outlive_the_network() {
    let mut network = Network::new(1).unwrap();
    let (a, b) = (network.host("a").unwrap(), network.host("b").unwrap());
    let ends = (a.at(Ipv4Addr::new(10, 1, 1, 1)), b.at(Ipv4Addr::new(10, 1, 1, 2)));
    let link = network.link("link", ends.0, ends.1, [Shape::default(); 2]).unwrap();
    drop(network);
    assert!(link.blackhole().is_err());
    assert!(link.stats().a_to_b.received < 10);
    assert!(!Path::new(DIRECTORY).join(a.namespace_name()).exists());
}

#[test]
fn a_partially_built_network_is_removed() {
    let mut network = Network::new(1).unwrap();
    let a = network.host("a").unwrap();
    assert!(network.host("a").is_err(), "the name is taken");
    assert!(network.host("A b").is_err(), "not a name");
    let b = network.host("b").unwrap();
    let outside = network.cable(a.at(Ipv4Addr::new(192, 168, 1, 1)), b.at(Ipv4Addr::new(10, 1, 1, 2)));
    assert!(outside.unwrap_err().to_string().contains("10.0.0.0/8"));
    let name = a.namespace_name().to_owned();
    assert!(Path::new(DIRECTORY).join(&name).exists());
    drop(network);
    assert!(!Path::new(DIRECTORY).join(&name).exists());
}

#[test]
fn sweep_removes_namespaces_of_dead_processes_only() {
    let mut dead = Command::new("true").spawn().unwrap();
    let pid = dead.id();
    dead.wait().unwrap();
    let left_over = format!("nc{pid}-0-viewer");
    let living = format!("nc{}-0-viewer", std::os::unix::process::parent_id());
    let foreign = format!("blue{}", std::process::id());
    let run = |arguments: &[&str]| assert!(Command::new("ip").args(arguments).status().unwrap().success());
    for name in [&left_over, &living, &foreign] {
        run(&["netns", "add", name]);
    }
    // A program of the dead process that still runs there.
    let mut orphan = Command::new("ip").args(["netns", "exec", &left_over, "sleep", "600"]).spawn().unwrap();
    let inside = |path: PathBuf| std::fs::metadata(path).map(|m| std::os::unix::fs::MetadataExt::ino(&m)).unwrap();
    while inside(format!("/proc/{}/ns/net", orphan.id()).into()) != inside(Path::new(DIRECTORY).join(&left_over)) {
        std::thread::yield_now();
    }
    let removed = sweep().unwrap();
    let remaining = names_beginning("");
    for name in [&living, &foreign] {
        run(&["netns", "delete", name]);
    }
    // Another test's start may have removed it first.
    assert!(removed.is_empty() || removed.contains(&left_over), "{removed:?}");
    assert!(!remaining.contains(&left_over));
    assert!(remaining.contains(&living) && remaining.contains(&foreign));
    assert!(!orphan.wait().unwrap().success());
}

#[test]
fn commands_run_in_the_namespace_with_the_callers_stdio() {
    let mut network = Network::new(1).unwrap();
    let host = network.host("alone").unwrap();
    let mut child = host
        .command("cat")
        .arg("-")
        .arg("/proc/self/net/dev")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"from the caller\n").unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(said.starts_with("from the caller\n"), "{said}");
    let interfaces: Vec<_> = said.lines().skip(3).filter_map(|line| line.split_once(':')).map(|l| l.0.trim()).collect();
    assert_eq!(interfaces, ["lo"]);
}

#[test]
fn closures_run_in_the_namespace_and_their_sockets_stay_in_it() {
    let mut network = Network::new(1).unwrap();
    let (a, b) = (network.host("a").unwrap(), network.host("b").unwrap());
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 4433)).unwrap();
    // The same port twice: each namespace has its own loopback.
    let (first, _second) = (a.run(bind).unwrap(), b.run(bind).unwrap());
    let to = first.local_addr().unwrap();
    a.run(|| std::net::TcpStream::connect(to).unwrap()).unwrap();
    first.accept().unwrap();
    // No route to the outside.
    let outside = a.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", "192.0.2.1:9")).unwrap();
    assert!(outside.is_err());
    let panic = std::panic::catch_unwind(|| a.run(|| panic!("inside"))).unwrap_err();
    assert_eq!(*panic.downcast_ref::<&str>().unwrap(), "inside");
}
