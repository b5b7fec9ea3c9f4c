//! `lab up`: a network that stays until it is asked to go.

use std::io::BufRead;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{SyncSender, sync_channel};

use anyhow::Result;

use super::control_socket;
use super::output::print;
use crate::link::{Emulator, Priority};
use crate::signals;
use crate::topology::Topology;
use crate::topology::commands::HELP;

enum Event {
    Line(String),
    Command(UnixStream),
    End,
}

/// Makes the network, carries out commands, and takes it down at `quit`, Ctrl-C or SIGTERM.
pub(super) fn run(topology: &Topology) -> Result<()> {
    let (events, received) = sync_channel(EVENTS);
    let on_signal = events.clone();
    // Before any thread is made, so that none of them takes the signal instead.
    signals::on_signal(move || drop(on_signal.send(Event::End)))?;
    let built = topology.build()?;
    let control = control_socket::ControlSocket::listen()?;
    let seed = topology.seed;
    print(&format!(
        "{}\n{HELP}\nup as process {}, seed {seed}; Ctrl-C takes it down\n",
        built.describe(),
        std::process::id()
    ))?;
    for link in built.links.values() {
        if let Some(priority) = link.priority().filter(|priority| *priority != Priority::RealTime) {
            let name = link.name();
            eprintln!(
                "lab: link {name} has no real-time priority ({priority:?}): it will be late when the machine is busy"
            );
        }
    }
    if built.links.values().any(|link| link.emulator() == Emulator::Netem) {
        eprintln!(
            "lab: by netem: what is random follows no seed, queues are counted in frames; --links userspace knows both"
        );
    }
    listen(&control, events.clone())?;
    read_lines(events);
    for event in received {
        match event {
            Event::End => break,
            Event::Line(line) if line.trim() == "quit" => break,
            Event::Line(line) => match built.command(&line) {
                Ok(said) => print(&said)?,
                Err(error) => eprintln!("lab: {error:#}"),
            },
            Event::Command(stream) => {
                let outcome = control_socket::read_command(&stream).and_then(|line| built.command(&line));
                // Who asked and left needs no answer.
                let _ = control_socket::reply(stream, &outcome);
            }
        }
    }
    Ok(())
}

fn read_lines(events: SyncSender<Event>) {
    std::thread::spawn(move || {
        // The end of the input is not the end of the network: it may never have had one.
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if events.send(Event::Line(line)).is_err() {
                return;
            }
        }
    });
}

fn listen(control: &control_socket::ControlSocket, events: SyncSender<Event>) -> Result<()> {
    let listener = control.listener.try_clone()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if events.send(Event::Command(stream)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Commands that wait.
const EVENTS: usize = 16;
