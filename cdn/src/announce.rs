//! The command's output at start-up: the server's addresses, and the first key, which is shown only here, and only on a terminal. Where the output
//! goes elsewhere, others may read it (a journal, the logs of a container): the key is written to a file, which is named.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use cdn::Server;
use cdn::auth::StreamName;
use cdn::config::LogFormat;

/// Prints to standard output: a few lines for people, or JSON events where logs are JSON.
///
/// `options` are those by which `cdn key` finds the data of this server.
pub(crate) fn announce(server: &Server, options: &str) -> anyhow::Result<()> {
    let (config, addresses, first_key) = (server.config(), server.addresses(), server.first_key());
    let mut out = std::io::stdout().lock();
    let key_file = if out.is_terminal() { None } else { server.save_first_key()? };
    if config.log.format == LogFormat::Json {
        if let Some((name, key)) = first_key {
            let mut event = serde_json::json!({"event": "first_key", "stream": name.as_str()});
            match &key_file {
                Some(file) => event["file"] = file.display().to_string().into(),
                None => event["key"] = key.reveal().into(),
            }
            writeln!(out, "{event}")?;
        }
        let (rtmp, http) = (addresses.rtmp.to_string(), addresses.http.to_string());
        let relay = addresses.relay.map(|address| address.to_string());
        let event = serde_json::json!({"event": "listening", "rtmp": rtmp, "http": http, "relay": relay});
        writeln!(out, "{event}")?;
        return Ok(out.flush()?);
    }
    let host = |bound: &SocketAddr| match config.public_host.as_str() {
        "" => show_host(bound.ip()),
        host => host.to_owned(),
    };
    let with_port = |bound: &SocketAddr, usual: u16| match bound.port() {
        port if port == usual => host(bound),
        port => format!("{}:{port}", host(bound)),
    };
    let (rtmp, pages) = (with_port(&addresses.rtmp, 1935), with_port(&addresses.http, 80));
    let app = &config.rtmp.app;
    let name = first_key.map(|(name, _)| name.clone()).or_else(|| server.keys().names().into_iter().next());
    let name = name.as_ref().map_or("NAME", StreamName::as_str);
    writeln!(out, "Nearcast cdn {}\n", env!("CARGO_PKG_VERSION"))?;
    match first_key {
        Some((_, key)) => {
            let shown = match &key_file {
                Some(file) => format!("the content of {}", file.display()),
                None => key.reveal().to_owned(),
            };
            writeln!(out, "In OBS, Settings, Stream:")?;
            writeln!(out, "  Service     Custom...\n  Server      rtmp://{rtmp}/{app}\n  Stream Key  {shown}\n")?;
            let once = match key_file {
                Some(_) => "Delete that file once the key is in the encoder.",
                None => "The key is shown only once.",
            };
            writeln!(out, "{once} To replace the key: cdn key new {name} --replace{options}\n")?;
        }
        None => {
            writeln!(
                out,
                "Publish to rtmp://{rtmp}/{app} with a stream key. To create one: cdn key new NAME{options}\n"
            )?;
        }
    }
    writeln!(out, "Watch at\n  http://{pages}/{name}\n  rtmp://{rtmp}/{app}/{name}\n")?;
    Ok(out.flush()?)
}

/// An address that other machines can use: the bound one, or for an unspecified address this machine's outgoing one.
fn show_host(bound: IpAddr) -> String {
    let reachable = || {
        // Connecting a UDP socket sends nothing. The address is from a documentation range (RFC 5737).
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect("192.0.2.1:9").ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let shown = if bound.is_unspecified() { reachable() } else { Some(bound) };
    match shown.filter(|ip| !ip.is_unspecified()) {
        Some(IpAddr::V6(v6)) => format!("[{v6}]"),
        Some(v4) => v4.to_string(),
        None => "localhost".into(),
    }
}
