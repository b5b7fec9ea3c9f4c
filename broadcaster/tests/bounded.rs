//! `--duration` ends a broadcast whose server is unreachable, with a failure.
#![allow(clippy::unwrap_used, reason = "a test that fails shows where")]

use std::time::Duration;

use broadcaster::app;
use broadcaster::config::Cli;
use broadcaster::log::LogFormat;
use clap::Parser;

#[tokio::test]
async fn an_unreachable_server_ends_the_broadcast_with_a_failure() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("short.mp4");
    let made = std::process::Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25", "-t", "1", "-pix_fmt", "yuv420p"])
        .arg(&path)
        .status();
    assert!(made.expect("the tests need the ffmpeg program").success());
    // The port is closed again.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("rtmp://{free}/live/key");
    for source in [format!("file:{}", path.display()), "test".to_owned()] {
        let command = ["broadcaster", "--source", &source, "--duration", "0.5", &url];
        let settings = Cli::try_parse_from(command).unwrap().publish.settings().unwrap();
        let run = tokio::time::timeout(Duration::from_secs(60), app::run(settings, LogFormat::Json));
        let error = run.await.expect("it must end by itself").unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(app::Error::NothingSent)), "{source}: {error:#}");
    }
}
