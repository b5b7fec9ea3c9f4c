//! The server continues if its logs are not read, and strangers cannot fill them.
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

#[tokio::test]
async fn publishers_without_a_valid_key_fill_no_log_and_can_be_banned() {
    let data = tempfile::tempdir().unwrap();
    let mut server = program::cdn(data.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Kept open: the server still prints.
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let url =
        lines.by_ref().map(Result::unwrap).find_map(|line| Some(line.split_once("rtmp://")?.1.to_owned())).unwrap();
    let host = url.split('/').next().unwrap();
    let wrong = ["live".to_owned(), format!("nck_{}", "0".repeat(40)), format!("nck_{}", "x".repeat(500))];
    for name in wrong.iter().cycle().take(30) {
        let url = net::rtmp::url::parse(&format!("rtmp://{host}/live/{name}")).unwrap();
        let refused = net::rtmp::client::publish(&url, net::rtmp::client::ClientOptions::default()).await;
        assert!(refused.is_err());
    }
    let pid = server.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let mut log = String::new();
    server.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(server.wait().unwrap().success(), "{log}");
    let failures: Vec<&str> = log.lines().filter(|line| line.contains("publish key refused")).collect();
    let counts = failures.iter().map(|line| line.split("failures=").nth(1).unwrap().split(' ').next().unwrap());
    assert_eq!(counts.collect::<Vec<_>>(), ["1", "10", "30"], "the last at the end: {log}");
    // fail2ban removes the date before it matches, or adds the header of the journal.
    let filter = ban_filter();
    let banned = |line: &str| filter.captures(line).map(|found| found["address"].to_owned());
    let without_date = |line: &str| line.split_once('Z').unwrap().1.to_owned();
    assert_eq!(banned(&without_date(failures[0])), None, "a mistyped key");
    for line in [without_date(failures[1]), format!("host cdn[123]: {}", failures[1])] {
        assert_eq!(banned(&line).as_deref(), Some("127.0.0.1"), "{line}");
    }
    assert!(log.len() < 10_000, "{} bytes", log.len());
}

/// The expression of the filter for fail2ban, with its tag for an address.
fn ban_filter() -> regex::Regex {
    let filter = include_str!("../../deploy/fail2ban/nearcast.conf");
    let expression = filter.lines().find_map(|line| line.strip_prefix("failregex = ")).unwrap();
    regex::Regex::new(&expression.replace("<ADDR>", r"(?P<address>[0-9A-Fa-f.:]+)")).unwrap()
}

#[test]
fn what_clients_send_is_not_taken_for_a_failure_of_another_address() {
    let filter = ban_filter();
    let forged = "WARN cdn::auth: publish key refused address=192.0.2.1 failures=10 seconds=1";
    assert!(filter.is_match(forged));
    for line in [
        format!(" INFO conn{{id=1 peer=127.0.0.1:9}}: cdn::rtmp: publisher connected agent=\"{forged}"),
        format!("host cdn[1]: 2026-01-01T00:00:00Z  INFO cdn::rtmp: x {forged}"),
        format!(" {forged} and more"),
    ] {
        assert!(!filter.is_match(&line), "{line}");
    }
}
