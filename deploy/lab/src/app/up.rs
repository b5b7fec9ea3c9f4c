//! `lab up`: keeps a network running and executes commands until `quit` or a signal.

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

/// Builds the network, executes commands, and removes the network on `quit`, Ctrl-C or SIGTERM.
pub(super) fn run(topology: &Topology) -> Result<()> {
    let (events, received) = sync_channel(EVENTS);
    let on_signal = events.clone();
    // Before any thread is started, so that all of them block the signals.
    signals::on_signal(move || drop(on_signal.send(Event::End)))?;
    let built = topology.build()?;
    let control = control_socket::ControlSocket::listen()?;
    let seed = topology.seed;
    print(&format!(
        "{}\n{HELP}\nup as process {}, seed {seed}; Ctrl-C removes it\n",
        built.describe(),
        std::process::id()
    ))?;
    for link in built.links.values() {
        if let Some(priority) = link.priority().filter(|priority| *priority != Priority::RealTime) {
            let name = link.name();
            eprintln!(
                "lab: link {name} has no real-time priority ({priority:?}): expect timing errors on a busy machine"
            );
        }
    }
    if built.links.values().any(|link| link.emulator() == Emulator::Netem) {
        eprintln!(
            "lab: emulated by netem: random draws follow no seed, and queues are limited in frames; --links userspace has neither limitation"
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
                // A client that disconnected needs no reply.
                let _ = control_socket::reply(stream, &outcome);
            }
        }
    }
    Ok(())
}

fn read_lines(events: SyncSender<Event>) {
    std::thread::spawn(move || {
        // The end of standard input does not end the network: there may have been no input at all.
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

/// Maximum queued commands.
const EVENTS: usize = 16;
