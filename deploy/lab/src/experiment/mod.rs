//! Experiments: Nearcast's real programs in made networks, measured, and what came of it as JSON, CSV and a figure.
//!
//! An experiment is a function from a [`Testbed`] to an [`Outcome`]; what all have in common is here: where results go, what is
//! noted of the machine, and whether the run counts.

mod bad_network;
mod comparison;
mod fanout;
mod handover;
mod intra_refresh;
mod latency_breakdown;
mod options;
mod outcome;
mod paper;
mod periscope;
mod pictures;
mod probe;
mod server_load;
mod testbed;
mod trace_reader;

use std::fmt;

use anyhow::{Context, Result, bail, ensure};

pub use options::Options;
use outcome::Outcome;
use testbed::Testbed;

/// An experiment.
#[derive(Debug)]
pub struct Experiment {
    /// What it is called.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    run: fn(&Testbed) -> Result<Outcome>,
}

/// All of them, in the order in which they are run.
pub const ALL: &[Experiment] = &[
    Experiment {
        name: "paper-fig2",
        about: "links of 4 Mbit/s: delay per picture through the CDN and straight from the broadcaster, beside pings",
        run: paper::figure_2,
    },
    Experiment { name: "paper-fig3", about: "the same with links of 100 and 10 Mbit/s", run: paper::figure_3 },
    Experiment {
        name: "handover",
        about: "the direct link fails in every way, and the CDN too: what each change of path costs two viewers",
        run: handover::run,
    },
    Experiment {
        name: "fanout-lan",
        about: "one to eight viewers on the broadcaster's network: delay of each, and what the links carry",
        run: fanout::run,
    },
    Experiment {
        name: "intra-refresh",
        about: "links of 4 Mbit/s: IDRs every two seconds against pictures that are refreshed column by column",
        run: intra_refresh::run,
    },
    Experiment {
        name: "bad-network",
        about: "loss, bursts, jitter and a narrowed uplink: start-up, delay and stalls on each path by itself",
        run: bad_network::run,
    },
    Experiment {
        name: "comparison",
        about: "the same stream through Nearcast's server, nginx-rtmp and others: RTMP delay and what a viewer costs",
        run: comparison::run,
    },
    Experiment {
        name: "periscope",
        about: "where the time goes by RTMP, relay, LL-HLS and HLS, beside IMC 2016's; the server's load of 100 to 500 viewers",
        run: periscope::run,
    },
];

/// The run was made and written down, but the emulator did not keep time.
#[derive(Debug)]
pub struct InvalidRun(String);

impl fmt::Display for InvalidRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidRun {}

/// The experiment of that name, or all for `all`. Fails with the names that there are.
pub fn select(name: &str) -> Result<Vec<&'static Experiment>> {
    let found: Vec<_> = ALL.iter().filter(|experiment| name == "all" || experiment.name == name).collect();
    if found.is_empty() {
        let names: Vec<&str> = ALL.iter().map(|experiment| experiment.name).collect();
        bail!("there is no experiment {name:?}; there are: {}, and all", names.join(", "));
    }
    Ok(found)
}

/// Runs them one after the other and writes what came of each. Fails at the first that cannot be run; with [`InvalidRun`] at the end if
/// one of them does not count.
pub fn run_all(wanted: &[&Experiment], options: &Options, print: &mut dyn FnMut(&str)) -> Result<()> {
    std::fs::create_dir_all(&options.out).with_context(|| format!("make {}", options.out.display()))?;
    let (mut invalid, mut faults) = (Vec::new(), Vec::new());
    let _alone = crate::machine_lock::lock_machine()?;
    for experiment in wanted {
        print(&format!("{}: {}\n", experiment.name, experiment.about));
        let testbed = Testbed::new(experiment.name, options)?;
        let outcome = (experiment.run)(&testbed).with_context(|| format!("experiment {}", experiment.name))?;
        print(&outcome.to_text());
        for path in outcome.write(experiment.name, options)? {
            print(&format!("  wrote {}\n", path.display()));
        }
        faults.extend(outcome.faults.iter().map(|fault| format!("{}: {fault}", experiment.name)));
        if let Some(why) = &outcome.invalid {
            invalid.push(format!("{}: {why}", experiment.name));
        }
    }
    ensure!(faults.is_empty(), "what must never be was seen: {}", faults.join("; "));
    if invalid.is_empty() { Ok(()) } else { Err(InvalidRun(invalid.join("; ")).into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_experiment_lists_the_known_ones() {
        assert_eq!(select("all").unwrap().len(), ALL.len());
        assert_eq!(select("paper-fig2").unwrap()[0].name, "paper-fig2");
        let error = select("paper").unwrap_err().to_string();
        assert!(error.contains("paper-fig2, paper-fig3"), "{error}");
    }
}
