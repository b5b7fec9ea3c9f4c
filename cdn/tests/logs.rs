//! The server continues if its logs are not read.
#![allow(clippy::unwrap_used)]

#[path = "support/program.rs"]
mod program;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

#[test]
fn a_full_log_pipe_does_not_block_the_server() {
    let data = tempfile::tempdir().unwrap();
    let mut command = program::cdn(data.path());
    command.args(["--log", "json", "--log-level", "trace"]);
    let mut server = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let listening = lines.map(Result::unwrap).find(|line| line.contains("\"listening\"")).unwrap();
    let listening: serde_json::Value = serde_json::from_str(&listening).unwrap();
    let address = listening["http"].as_str().unwrap();

    let ask = || -> std::io::Result<String> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    };
    // Each request writes some hundred bytes of trace; a pipe holds 64 KiB, and takes no line that does not fit.
    let failed = (0..1000).find_map(|n| match ask() {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => None,
        other => Some(format!("request {n}: {other:?}")),
    });
    server.kill().unwrap();
    let mut logged = Vec::new();
    server.stderr.take().unwrap().read_to_end(&mut logged).unwrap();
    server.wait().unwrap();
    assert_eq!(failed, None);
    assert!(logged.len() > 60_000, "the pipe was never full: {} bytes", logged.len());
}
