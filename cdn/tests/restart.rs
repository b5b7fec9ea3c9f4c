//! A server that is killed and restarted on the same port: clients with an open relay connection receive a stateless reset (RFC 9000 §10.3), well
//! before the connection would time out.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/program.rs"]
mod program;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use net::relay::{Proof, Side, subscribe, transport, wire};
use net::trust::{Pin, tls};

/// A server on loopback, killed without a word when it is dropped.
struct Server(Child, SocketAddr, SocketAddr);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Starts a server and reads the addresses of its HTTP and relay listeners from its output.
fn start(data: &Path, relay: SocketAddr) -> Server {
    let mut command = program::cdn_at(&relay.to_string(), data);
    let mut child = command.args(["--log", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let listening = lines.map(Result::unwrap).find(|line| line.contains("\"listening\"")).unwrap();
    let listening: serde_json::Value = serde_json::from_str(&listening).unwrap();
    let address = |name: &str| listening[name].as_str().unwrap().parse().unwrap();
    Server(child, address("http"), address("relay"))
}

#[tokio::test]
async fn a_restart_resets_relay_connections_before_they_time_out() {
    let data = tempfile::tempdir().unwrap();
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    let first = start(data.path(), any);
    let (http, relay) = (first.1, first.2);
    let mut socket = TcpStream::connect(http).unwrap();
    socket.write_all(b"GET /api/v1/streams/live/watch HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let watch: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let pin: Pin = watch["relay"]["pin"].as_str().unwrap().parse().unwrap();

    let endpoint = quinn::Endpoint::client(any).unwrap();
    let mut config = tls::client_config(pin, wire::ALPN);
    config.transport_config(Arc::new(transport(Side::Client)));
    let connection = endpoint.connect_with(config, relay, tls::SERVER_NAME).unwrap().await.unwrap();
    let _idle = subscribe(connection.clone(), "live", Proof::None).await.unwrap();

    drop(first);
    let _second = start(data.path(), relay);
    let end = tokio::time::timeout(Duration::from_secs(60), connection.closed()).await.unwrap();
    assert!(matches!(end, quinn::ConnectionError::Reset), "{end}");
}
