//! The cost of sending one stream to many RTMP players, compared to the floor: plain writes of a shared buffer.
//!
//! `cargo bench -p cdn --bench fanout -- [--viewers 1,100,500] [--seconds 8] [--rounds 2] [--engines uring,epoll] [--nginx]`
//!
//! The server is a child process pinned to one core; publisher and players are threads of this process on another. The load is that of the
//! published comparisons: 30 video and 47 audio units per second, 1.08 Mbit/s. Each video frame carries its send time, so delay is measured from
//! the publisher's write to the player's read of the last byte. Floor and server alternate, because machines are noisy; the ratio is the result.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

mod floor;
mod hub_cost;
mod load;
mod players;
mod process;
#[path = "../../tests/support/program.rs"]
mod program;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;

use load::Publisher;
use players::Players;
use process::{Server, pin_to};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if arguments.first().is_some_and(|a| a == "--floor") {
        return floor::run();
    }
    let value = |name: &str, default: &str| {
        let at = arguments.iter().position(|a| a == name);
        at.and_then(|at| arguments.get(at + 1)).cloned().unwrap_or(default.to_owned())
    };
    let viewers: Vec<usize> =
        value("--viewers", "1,100,500").split(',').map(str::parse).collect::<Result<_, _>>().context("--viewers")?;
    let seconds = Duration::from_secs_f64(value("--seconds", "8").parse().context("--seconds")?);
    let rounds: usize = value("--rounds", "2").parse().context("--rounds")?;
    let engines = value("--engines", "uring,epoll");

    raise_file_limit()?;
    hub_cost::run();
    println!();
    println!(
        "{:<18} {:>7} {:>9} {:>7} {:>8} {:>8} {:>9} {:>7}",
        "server", "viewers", "ms/v-s", "/floor", "p50 ms", "p99 ms", "KB/viewer", "lost"
    );
    for count in viewers {
        for _ in 0..rounds {
            let floor = measure(Server::floor()?, count, seconds)?;
            floor.print("floor", count, &floor);
            for engine in engines.split(',') {
                measure(Server::cdn(engine)?, count, seconds)?.print(&format!("cdn {engine}"), count, &floor);
            }
            if arguments.iter().any(|a| a == "--nginx") {
                measure(Server::nginx()?, count, seconds)?.print("nginx-rtmp", count, &floor);
            }
        }
    }
    Ok(())
}

/// Results of one run of one server.
struct Figures {
    /// Server CPU milliseconds per second and viewer.
    cpu: f64,
    p50: f64,
    p99: f64,
    /// Kilobytes of resident memory per viewer.
    memory: f64,
    /// Video frames that players did not receive, summed over all players.
    lost: u64,
}

impl Figures {
    fn print(&self, name: &str, viewers: usize, floor: &Self) {
        let ratio = self.cpu / floor.cpu;
        let Self { cpu, p50, p99, memory, lost } = self;
        println!("{name:<18} {viewers:>7} {cpu:>9.3} {ratio:>7.2} {p50:>8.2} {p99:>8.2} {memory:>9.1} {lost:>7}");
    }
}

fn measure(server: Server, count: usize, seconds: Duration) -> anyhow::Result<Figures> {
    pin_to(process::LOAD_CORE)?;
    // Players connect before the publisher and wait, so that all start alike; the first one warms up one-time state.
    let mut players = Players::start(server.address)?;
    players.join(1)?;
    let before = server.resident_bytes()?;
    players.join(count - 1)?;
    let publisher = Publisher::start(server.address, &server.key)?;
    players.run_for(WARM_UP)?;
    players.forget();
    let (cpu, sent) = (server.cpu()?, publisher.pictures());
    let took = players.run_for(seconds)?;
    let (cpu, sent) = (server.cpu()? - cpu, publisher.pictures() - sent);
    let after = server.resident_bytes()?;
    let delays = players.delays();
    publisher.stop();
    let at = |q: f64| delays.get(((delays.len() as f64 - 1.0) * q) as usize).copied().unwrap_or(f64::NAN);
    // The last frame may still be in transit.
    let expected = sent.saturating_sub(1) * count as u64;
    Ok(Figures {
        cpu: cpu.as_secs_f64() * 1e3 / took.as_secs_f64() / count as f64,
        p50: at(0.5),
        p99: at(0.99),
        memory: after.saturating_sub(before) as f64 / 1024.0 / (count - 1).max(1) as f64,
        lost: expected.saturating_sub(delays.len() as u64),
    })
}

fn raise_file_limit() -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// Address of a server.
type Address = SocketAddr;

/// Time for congestion windows and allocators to settle.
const WARM_UP: Duration = Duration::from_secs(2);
