//! Experiments: Nearcast's programs measured in emulated networks; results are written as JSON, CSV and a figure.
//!
//! An experiment is a function from a `Testbed` to an `Outcome`. This module has the list of experiments and runs them.

mod bad_network;
mod comparison;
mod cross_traffic;
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

/// An experiment that `lab run` knows.
#[derive(Debug)]
pub struct Experiment {
    /// The name on the command line and of the result files.
    pub name: &'static str,
    /// A one-line description for `lab list`.
    pub about: &'static str,
    run: fn(&Testbed) -> Result<Outcome>,
}

/// All experiments, in the order in which `lab run all` runs them.
pub const ALL: &[Experiment] = &[
    Experiment {
        name: "paper-fig2",
        about: "links of 4 Mbit/s: latency of each frame via the CDN and directly from the broadcaster, compared with pings",
        run: paper::figure_2,
    },
    Experiment { name: "paper-fig3", about: "the same with links of 100 and 10 Mbit/s", run: paper::figure_3 },
    Experiment {
        name: "handover",
        about: "path switches of two viewers when the direct link or the CDN fails: delay and freeze of each",
        run: handover::run,
    },
    Experiment {
        name: "fanout-lan",
        about: "one to eight LAN viewers: latency of each, and load of the links",
        run: fanout::run,
    },
    Experiment {
        name: "intra-refresh",
        about: "links of 4 Mbit/s: latency with an IDR every two seconds and with intra refresh",
        run: intra_refresh::run,
    },
    Experiment {
        name: "bad-network",
        about: "loss, bursts, jitter, a slow uplink, a longer route and cross traffic: startup, latency and freezes of each path by itself",
        run: bad_network::run,
    },
    Experiment {
        name: "comparison",
        about: "Nearcast's server, nginx-rtmp and others: RTMP latency and CPU time per viewer",
        run: comparison::run,
    },
    Experiment {
        name: "periscope",
        about: "latency breakdown of RTMP, relay, LL-HLS and HLS, compared with IMC 2016; server load with 100 to 500 viewers",
        run: periscope::run,
    },
];

/// The run finished and its results were written, but they are invalid: the emulator missed its deadlines.
#[derive(Debug)]
pub struct InvalidRun(String);

impl fmt::Display for InvalidRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidRun {}

/// The experiment of that name, or all of them for `all`. The error lists the names.
pub fn select(name: &str) -> Result<Vec<&'static Experiment>> {
    let found: Vec<_> = ALL.iter().filter(|experiment| name == "all" || experiment.name == name).collect();
    if found.is_empty() {
        let names: Vec<&str> = ALL.iter().map(|experiment| experiment.name).collect();
        bail!("there is no experiment {name:?}; there are: {}, and all", names.join(", "));
    }
    Ok(found)
}

/// Runs the experiments one after the other and writes the results of each. Fails at the first that cannot be run, at the end if one had a
/// fault, and with [`InvalidRun`] if one was invalid.
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
    ensure!(faults.is_empty(), "faults: {}", faults.join("; "));
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
