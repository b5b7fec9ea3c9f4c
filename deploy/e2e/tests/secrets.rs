//! Stream keys appear in no log at any level, no page and no response, and are not stored on disk.

use std::path::Path;

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
    let loud = |command: &mut std::process::Command| {
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

/// Searches every file of the test: logs, keys, configuration.
fn search(directory: &Path, key: &str) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            search(&path, key)?;
            continue;
        }
        let text = std::fs::read(&path)?;
        let line =
            String::from_utf8_lossy(&text).lines().find(|line| line.contains(key)).map(|line| line.replace(key, "KEY"));
        ensure!(line.is_none(), "the stream key is in {}: {}", path.display(), line.unwrap_or_default());
    }
    Ok(())
}
