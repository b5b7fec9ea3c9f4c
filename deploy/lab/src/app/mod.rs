//! The commands of the program `lab`.

pub mod cli;
mod control_socket;
mod latency_bounds;
mod output;
mod privilege;
mod up;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::experiment::{self, Options};
use crate::load;
use crate::signals;
use crate::topology::Topology;
use cli::{Cli, Command};
use output::print;

/// An invalid command line or topology.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct UsageError(anyhow::Error);

/// Executes the command line.
pub fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Up(up) => {
            let mut topology = topology(&up.topology)?;
            topology.seed = up.seed.unwrap_or(topology.seed);
            topology.emulator = up.links;
            privilege::obtain()?;
            up::run(&topology)
        }
        Command::Set(send) => print(&control_socket::send(send.pid, &format!("set {}", send.words.join(" ")))?),
        Command::Send(send) => print(&control_socket::send(send.pid, &send.words.join(" "))?),
        Command::Run(run) => {
            let wanted = experiment::select(&run.name).map_err(UsageError)?;
            privilege::obtain()?;
            let options = Options {
                quick: run.quick,
                seed: run.seed,
                links: run.links,
                out: run.out,
                programs: run.bin,
                keep: run.keep,
                other_servers: run.other_servers,
            };
            signals::on_signal(|| {
                crate::namespace::abandon();
                std::process::exit(INTERRUPTED);
            })?;
            experiment::run_all(&wanted, &options, &mut |text| drop(print(text)))
        }
        Command::List => print(&list()),
        Command::Load(args) => {
            let summary = load::run(&load::Options {
                url: args.url,
                protocol: args.protocol,
                viewers: args.viewers,
                ramp: Duration::from_secs(args.ramp),
                duration: Duration::from_secs(args.duration),
                pid: args.pid,
            })?;
            print(&if args.json { format!("{}\n", summary.to_json()) } else { summary.to_text() })?;
            let faults = summary.faults();
            ensure!(faults.is_empty(), "not every viewer received everything: {}", faults.join(", "));
            Ok(())
        }
        Command::Bound(args) => {
            let topology = topology(&args.topology)?;
            print(&latency_bounds::table(&topology, &args).map_err(UsageError)?)
        }
    }
}

/// The exit code for an error.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<UsageError>() {
        USAGE
    } else if error.is::<experiment::InvalidRun>() {
        INVALID
    } else {
        1
    }
}

/// A shipped topology by name, or one in a TOML file.
pub fn topology(wanted: &str) -> Result<Topology> {
    let shipped = TOPOLOGIES.iter().find(|(name, _)| *name == wanted);
    let topology = match shipped {
        Some((name, text)) => text.parse::<Topology>().with_context(|| format!("topology {name}")),
        None => Topology::read(Path::new(wanted)).with_context(|| {
            let names: Vec<&str> = TOPOLOGIES.iter().map(|(name, _)| *name).collect();
            format!("{wanted:?} is none of {}, so it is read as a file", names.join(", "))
        }),
    };
    topology.map_err(|error| UsageError(error).into())
}

fn list() -> String {
    let mut text = "Experiments (lab run NAME):\n".to_owned();
    for experiment in experiment::ALL {
        text += &format!("  {:<12} {}\n", experiment.name, experiment.about);
    }
    text += "\nTopologies (lab up NAME, lab bound NAME):\n";
    for (name, source) in TOPOLOGIES {
        let about = source.parse::<Topology>().map(|topology| topology.about).unwrap_or_default();
        text += &format!("  {name:<12} {about}\n");
    }
    text
}

/// The topologies that are built into the program, by name.
pub const TOPOLOGIES: [(&str, &str); 4] = [
    ("paper-a", include_str!("../../topologies/paper-a.toml")),
    ("paper-b", include_str!("../../topologies/paper-b.toml")),
    ("periscope", include_str!("../../topologies/periscope.toml")),
    ("dual-homed", include_str!("../../topologies/dual-homed.toml")),
];

/// `EX_USAGE` of sysexits.h.
pub const USAGE: u8 = 64;

/// The exit code by which shells report SIGINT.
const INTERRUPTED: i32 = 130;

/// Exit code of an invalid run: the emulator missed its deadlines.
const INVALID: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_topology_parses() {
        for (name, _) in TOPOLOGIES {
            assert!(!topology(name).unwrap().about.is_empty(), "{name}");
        }
        let error = topology("nowhere").unwrap_err();
        assert_eq!(exit_code(&error), USAGE);
        assert!(format!("{error:#}").contains("paper-a, paper-b"), "{error:#}");
        assert!(list().contains("paper-fig2"));
    }
}
