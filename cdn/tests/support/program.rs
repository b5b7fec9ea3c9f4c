//! The server's binary on free loopback ports, for the tests and the bench of the whole program.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]

use std::path::Path;
use std::process::Command;

/// `cdn`, with its data in `data`, and no metrics.
pub fn cdn(data: &Path) -> Command {
    cdn_at("127.0.0.1:0", data)
}

/// The same, with the relay protocol at the address `relay`.
pub fn cdn_at(relay: &str, data: &Path) -> Command {
    let mut command = binary();
    command.args(["--rtmp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--relay", relay, "--metrics", "off", "--data"]);
    command.arg(data);
    command
}

/// `cdn` without any arguments.
pub fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_cdn"))
}
