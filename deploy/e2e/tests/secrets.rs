//! Stream keys, tickets and the secrets of the LAN path appear in no log at any level. Keys appear in no page and no response either, and are not
//! stored on disk.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use e2e::{Broadcaster, Cdn, TIMEOUT, TestEnv, Viewer};

#[test]
fn stream_keys_appear_in_no_log_page_or_file() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let config = env.path("cdn.toml");
    std::fs::write(&config, "[log]\nlevel = \"trace\"\n")?;
    let mut cdn = Cdn::start(&env, &["--config", &config.display().to_string()])?;
    let mut viewer = Viewer::start(&env, &cdn.rtmp_url("live"), &[])?;
    let loud = |command: &mut Command| {
        command.env("RUST_LOG", "trace");
    };
    let options = [&Broadcaster::SMALL[..], &["--stats", "json"]].concat();
    let mut broadcaster = Broadcaster::start_with(&env, &cdn.publish_url(&key), &options, loud)?;
    viewer.wait_pictures(60, TIMEOUT)?;
    let mut seen = vec![
        ("the page", cdn.get("/live")?.text()),
        ("the list", cdn.get("/")?.text()),
        ("the API", cdn.stream("live")?.to_string()),
    ];
    // A wrong key may be a mistyped right one, so it is equally secret.
    let wrong = format!("{key}x");
    let mut refused = Broadcaster::start_with(&env, &cdn.publish_url(&wrong), &options, loud)?;
    refused.process.exit(TIMEOUT)?;
    // When the server restarts, both ends log connection details.
    cdn.restart(&env)?;
    let before = viewer.pictures()?;
    viewer.wait_pictures(before + 30, TIMEOUT)?;
    viewer.finish()?;
    broadcaster.process.interrupt();
    broadcaster.process.exit(TIMEOUT)?;
    cdn.process.terminate();
    cdn.process.exit(TIMEOUT)?;
    seen.extend([
        ("the broadcaster's log", broadcaster.process.log()),
        ("the refused one's log", refused.process.log()),
    ]);
    for (place, text) in &seen {
        ensure!(!text.contains(&key), "the stream key is in {place}");
    }
    search(env.directory(), &key)
}

#[test]
fn tickets_and_secrets_of_the_lan_path_appear_in_no_log() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let mut cdn = Cdn::start(&env, &["--log-level", "trace"])?;
    let lan = ["--lan-listen", "127.0.0.1:0", "--no-mdns", "--stats", "json"];
    let loud = |command: &mut Command| {
        command.env("RUST_LOG", "trace");
    };
    let options = [&Broadcaster::SMALL[..], &lan].concat();
    let mut broadcaster = Broadcaster::start_with(&env, &cdn.publish_url(&key), &options, loud)?;
    cdn.wait_live("live")?;
    let mut command = Command::new(e2e::program("viewer")?);
    loud(&mut command);
    let mut viewer = Viewer::start_command(&env, command, &cdn.page_url("live"), &[])?;
    e2e::until(TIMEOUT, "the viewer to be admitted by the broadcaster", || {
        Ok(broadcaster.process.log().contains("a LAN viewer connected").then_some(()))
    })?;
    let info: serde_json::Value = serde_json::from_str(&cdn.get("/api/v1/streams/live/watch")?.text())?;
    let of_peer = |what: &str| info["peer"][what].as_str().map(str::to_owned).unwrap_or_default();
    let (secret, ticket) = (of_peer("secret"), of_peer("ticket"));
    ensure!(secret.len() == 32 && ticket.starts_with(TICKET_START), "{info}");
    let shown = viewer.pictures()?;
    viewer.wait_pictures(shown + 30, TIMEOUT)?;
    viewer.finish()?;
    broadcaster.process.interrupt();
    broadcaster.process.exit(TIMEOUT)?;
    cdn.process.terminate();
    cdn.process.exit(TIMEOUT)?;
    for (name, process) in [("cdn", &cdn.process), ("broadcaster", &broadcaster.process), ("viewer", &viewer.process)] {
        ensure!(process.log().contains("TRACE"), "{name} did not log at the lowest level");
    }
    for secret in [&secret, &key, TICKET_START] {
        search(env.directory(), secret)?;
    }
    Ok(())
}

/// How every ticket for the stream `live` begins: version 1, length 4 and the name, in base64.
const TICKET_START: &str = "AQRsaXZl";

/// Searches every file of the test: logs, keys, configuration.
fn search(directory: &Path, key: &str) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            search(&path, key)?;
            continue;
        }
        let text = std::fs::read(&path)?;
        let line = String::from_utf8_lossy(&text)
            .lines()
            .find(|line| line.contains(key))
            .map(|line| line.replace(key, "SECRET"));
        ensure!(line.is_none(), "the secret is in {}: {}", path.display(), line.unwrap_or_default());
    }
    Ok(())
}
