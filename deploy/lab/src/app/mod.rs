//! The program `lab`: what each of its commands does.

pub mod cli;
mod control_socket;
mod latency_bounds;
mod privilege;
mod up;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::experiment::{self, Options};
use crate::load;
use crate::signals;
use crate::topology::Plan;
use cli::{Cli, Command};

/// The command line or a topology makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct Usage(anyhow::Error);

/// Does what is asked.
pub fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Up(up) => {
            let mut plan = topology(&up.topology)?;
            plan.seed = up.seed.unwrap_or(plan.seed);
            plan.emulator = up.links;
            privilege::obtain()?;
            up::run(&plan)
        }
        Command::Set(tell) => say(&control_socket::send(tell.pid, &format!("set {}", tell.words.join(" ")))?),
        Command::Tell(tell) => say(&control_socket::send(tell.pid, &tell.words.join(" "))?),
        Command::Run(run) => {
            let wanted = experiment::named(&run.name).map_err(Usage)?;
            privilege::obtain()?;
            let options = Options {
                quick: run.quick,
                seed: run.seed,
                links: run.links,
                out: run.out,
                programs: run.bin,
                keep: run.keep,
                rivals: run.rivals,
            };
            signals::on_signal(|| {
                crate::namespace::abandon();
                std::process::exit(INTERRUPTED);
            })?;
            experiment::run_all(&wanted, &options, &mut |text| drop(say(text)))
        }
        Command::List => say(&list()),
        Command::Load(asked) => {
            let summary = load::run(&load::Options {
                url: asked.url,
                protocol: asked.protocol,
                viewers: asked.viewers,
                ramp: Duration::from_secs(asked.ramp),
                seconds: Duration::from_secs(asked.seconds),
                pid: asked.pid,
            })?;
            say(&if asked.json { format!("{}\n", summary.to_json()) } else { summary.to_text() })?;
            let faults = summary.faults();
            ensure!(faults.is_empty(), "not every viewer got everything: {}", faults.join(", "));
            Ok(())
        }
        Command::Floor(floor) => {
            let plan = topology(&floor.topology)?;
            say(&latency_bounds::table(&plan, &floor).map_err(Usage)?)
        }
    }
}

/// What a failure ends the program with.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<Usage>() {
        USAGE
    } else if error.is::<experiment::Void>() {
        VOID
    } else {
        1
    }
}

/// A topology by its name or its file.
pub fn topology(wanted: &str) -> Result<Plan> {
    let shipped = TOPOLOGIES.iter().find(|(name, _)| *name == wanted);
    let plan = match shipped {
        Some((name, text)) => text.parse::<Plan>().with_context(|| format!("topology {name}")),
        None => Plan::read(Path::new(wanted)).with_context(|| {
            let names: Vec<&str> = TOPOLOGIES.iter().map(|(name, _)| *name).collect();
            format!("{wanted:?} is not one of {}, so it is taken for a file", names.join(", "))
        }),
    };
    plan.map_err(|error| Usage(error).into())
}

fn list() -> String {
    let mut text = "Experiments (lab run NAME):\n".to_owned();
    for experiment in experiment::ALL {
        text += &format!("  {:<12} {}\n", experiment.name, experiment.about);
    }
    text += "\nTopologies (lab up NAME, lab floor NAME):\n";
    for (name, source) in TOPOLOGIES {
        let about = source.parse::<Plan>().map(|plan| plan.about).unwrap_or_default();
        text += &format!("  {name:<12} {about}\n");
    }
    text
}

fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Those that come with the program.
pub const TOPOLOGIES: [(&str, &str); 4] = [
    ("paper-a", include_str!("../../topologies/paper-a.toml")),
    ("paper-b", include_str!("../../topologies/paper-b.toml")),
    ("periscope", include_str!("../../topologies/periscope.toml")),
    ("house", include_str!("../../topologies/dual-homed.toml")),
];

/// `EX_USAGE` of sysexits.h.
pub const USAGE: u8 = 64;

/// What shells give a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// A run that means nothing because the emulator was late.
const VOID: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_topology_is_one() {
        for (name, _) in TOPOLOGIES {
            assert!(!topology(name).unwrap().about.is_empty(), "{name}");
        }
        let error = topology("nowhere").unwrap_err();
        assert_eq!(exit_code(&error), USAGE);
        assert!(format!("{error:#}").contains("paper-a, paper-b"), "{error:#}");
        assert!(list().contains("paper-fig2"));
    }
}
