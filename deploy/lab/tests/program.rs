//! Tests of the program `lab`: a network starts, executes commands and is removed, however it ends; invalid arguments are rejected before anything is
//! created.
//!
//! They need root and `ip`. Links are tested in tests/links.rs, topology files in src/topology/tests.rs.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use lab::Topology;
use lab::namespace::DIRECTORY;
use probe::{Echo, TIMEOUT, ping, socket};
use rustix::process::{Pid, Signal, kill_process};

#[allow(dead_code, reason = "shared by the tests in this folder")]
mod probe;

/// A running `lab up`.
struct Up {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Up {
    fn start() -> Up {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lab"))
            .args(["up", "paper-a", "--seed", "7"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut up = Up { child, input: Some(input), output };
        let line = up.line("up as process");
        assert!(line.contains("seed 7"), "{line}");
        up
    }

    /// The next line of its output that contains `wanted`.
    fn line(&mut self, wanted: &str) -> String {
        let mut said = String::new();
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended without {wanted:?}: {said}");
            if line.contains(wanted) {
                return line;
            }
            said += &line;
        }
    }

    fn namespaces(&self) -> usize {
        namespaces(self.child.id())
    }

    fn send(&self, words: &[&str]) -> Output {
        let pid = self.child.id().to_string();
        Command::new(env!("CARGO_BIN_EXE_lab")).args(["send", "--pid", &pid]).args(words).output().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

fn namespaces(pid: u32) -> usize {
    let mine = format!("nc{pid}-");
    let names = std::fs::read_dir(DIRECTORY).unwrap().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with(&mine)).count()
}

fn lab(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lab")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn commands_come_from_stdin_and_other_processes_until_quit() {
    let mut up = Up::start();
    assert_eq!(up.namespaces(), 5, "three hosts, the switch and the wire");
    writeln!(up.input.as_ref().unwrap(), "set cdn:a-to-b rate=2M loss=1% jitter=normal:3ms").unwrap();
    let line = up.line("cdn:a-to-b");
    assert!(line.contains("rate=2M delay=30ms jitter=\"normal 3ms\" loss=1%"), "{line}");
    let said = up.send(&["set", "cdn", "delay=40ms"]);
    let said = text(&said.stdout);
    assert!(said.contains("cdn:a-to-b rate=2M delay=40ms") && said.contains("cdn:b-to-a rate=4M delay=40ms"), "{said}");
    // An invalid command changes nothing, not even by its valid settings.
    for (words, expected) in [
        (&["set", "cdn", "delay=1ms", "dealy=2ms"][..], "do you mean \"delay\"?"),
        (&["set", "cdn:a-to-c", "delay=1ms"], "a-to-b or b-to-a"),
        (&["set", "wan", "delay=1ms"], "there are: broadcaster, cdn, viewer"),
        (&["set", "cdn", "loss=2"], "loss 2 is not a probability"),
        (&["set", "cdn"], "delay=30ms"),
        (&["cut"], "help"),
    ] {
        let refused = up.send(words);
        assert_eq!(refused.status.code(), Some(1), "{words:?}");
        assert!(text(&refused.stderr).contains(expected), "{words:?}: {}", text(&refused.stderr));
    }
    let shown = text(&up.send(&["show"]).stdout);
    assert_eq!(shown.matches("delay=40ms").count(), 2, "{shown}");
    for words in [&["cut", "viewer"][..], &["heal", "viewer"], &["isolate", "viewer"], &["join", "viewer"], &["stats"]]
    {
        let done = up.send(words);
        assert!(done.status.success(), "{words:?}: {}", text(&done.stderr));
    }
    writeln!(up.input.as_ref().unwrap(), "quit").unwrap();
    assert!(up.child.wait().unwrap().success());
    assert_eq!(up.namespaces(), 0);
    assert!(text(&up.send(&["show"]).stderr).contains("no such network is up"));
}

#[test]
fn ctrl_c_removes_the_network_and_end_of_input_does_not() {
    let mut up = Up::start();
    // The end of standard input does not end it: there may have been no input at all.
    drop(up.input.take());
    assert!(up.send(&["show"]).status.success());
    up.signal(Signal::INT);
    assert!(up.child.wait().unwrap().success());
    assert_eq!(up.namespaces(), 0);
}

#[test]
fn the_next_start_removes_namespaces_of_a_killed_process() {
    let mut killed = Up::start();
    let pid = killed.child.id();
    killed.signal(Signal::KILL);
    killed.child.wait().unwrap();
    // The start of another test may have removed them first.
    let mut next = Up::start();
    assert_eq!(namespaces(pid), 0);
    assert_eq!(next.namespaces(), 5);
    writeln!(next.input.as_ref().unwrap(), "quit").unwrap();
    assert!(next.child.wait().unwrap().success());
}

#[test]
fn invalid_arguments_are_rejected_before_anything_is_made() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[[host]]\nname = \"a\"\nadress = \"10.1.1.1\"\n").unwrap();
    let path = file.path().to_str().unwrap();
    for (arguments, expected) in [
        (&["up", path][..], "unknown field `adress`"),
        (&["up", "/nowhere.toml"], "read the topology /nowhere.toml"),
        (&["run", "nothing"], "there are: paper-fig2"),
        (&["bound", "paper-a", "--to", "nobody"], "there are: broadcaster, viewer, cdn"),
        (&["bound", "paper-a", "--payload", "0"], "1 to 65535"),
        (&["run", "comparison", "--server", "x"], "NAME=COMMAND"),
        (&[], "Usage"),
    ] {
        let refused = lab(arguments);
        assert_eq!(refused.status.code(), Some(64), "{arguments:?}");
        assert!(text(&refused.stderr).contains(expected), "{arguments:?}: {}", text(&refused.stderr));
    }
    assert!(text(&lab(&["--help"]).stdout).contains("Needs Linux"));
    let bounds = text(&lab(&["bound", "paper-a"]).stdout);
    for figure in ["93.4", "147.3", "99.2", "206.9", "27.6", "81.5", "36.3", "144.0"] {
        assert!(bounds.contains(figure), "{figure}: {bounds}");
    }
    let json: serde_json::Value = serde_json::from_slice(&lab(&["bound", "paper-b", "--json"]).stdout).unwrap();
    assert!((json["bound_ms"]["peer"][0].as_f64().unwrap() - 20.6).abs() < 0.05, "{json}");
}

#[test]
fn isolated_ports_reach_all_ports_but_each_other() {
    let topology: Topology = include_str!("../topologies/paper-a.toml").parse().unwrap();
    let built = topology.build().unwrap();
    let [broadcaster, viewer, cdn] = ["broadcaster", "viewer", "cdn"].map(|name| built.host(name).unwrap());
    let (echo, server) = (Echo::start(broadcaster), Echo::start(cdn));
    let probe: UdpSocket = socket(viewer, 0);
    assert!(ping(&probe, echo.address, 1).is_some());
    for link in ["broadcaster", "viewer"] {
        built.isolate(link, true).unwrap();
    }
    probe.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
    assert_eq!(ping(&probe, echo.address, 2), None);
    probe.set_read_timeout(Some(TIMEOUT)).unwrap();
    assert!(ping(&probe, server.address, 3).is_some());
    built.isolate("viewer", false).unwrap();
    assert!(ping(&probe, echo.address, 4).is_some());
    assert!(built.isolate("nothing", true).unwrap_err().to_string().contains("there are: broadcaster, cdn, viewer"));
    assert!(Path::new(DIRECTORY).join(viewer.namespace_name()).exists());
}
