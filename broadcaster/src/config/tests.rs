//! Valid and invalid command lines.

use super::*;

fn settings(args: &[&str]) -> Result<BroadcastSettings, String> {
    let cli = Cli::try_parse_from([&["broadcaster"], args].concat()).map_err(|error| error.to_string())?;
    cli.publish.settings().map_err(|error| error.to_string())
}

#[track_caller]
fn refused(args: &[&str], because: &str) {
    let error = settings(args).expect_err("must be refused");
    assert!(error.contains(because), "{args:?}: {error}");
}

const URL: &str = "rtmp://127.0.0.1/live/secret";

#[test]
fn a_url_alone_is_a_valid_command_line() {
    let s = settings(&[URL]).unwrap();
    assert_eq!((s.source, s.audio, s.capture.burn_in), (Source::Auto, Audio::Auto, None));
    assert_eq!(
        (s.capture.video.encoder, s.capture.video.gop.is_none(), s.capture.video.bframes),
        (EncoderChoice::Auto, true, 0)
    );
    assert_eq!(s.window, Bounds { duration: Duration::from_secs(20), bytes: 128 << 20 });
}

#[test]
fn options_are_parsed() {
    let s =
        settings(&["--size", "160x120", "--fps", "5", "--bitrate", "2.5M", "--gop", "500ms", "--bframes", "2", URL])
            .unwrap();
    assert_eq!(
        (s.capture.video.size, s.capture.video.fps, s.capture.video.bitrate),
        (Some((160, 120)), Some(5.0), Some(2_500_000))
    );
    assert_eq!((s.capture.video.gop, s.capture.video.bframes), (Some(Duration::from_millis(500)), 2));
    assert_eq!(settings(&["--source", "test", "--burn-in=false", URL]).unwrap().capture.burn_in, Some(false));
    assert_eq!(settings(&["--source", "screen", "--burn-in", URL]).unwrap().capture.burn_in, Some(true));
    assert_eq!(settings(&["--duration", "1.5", URL]).unwrap().run_for, Some(Duration::from_millis(1500)));
}

#[test]
fn invalid_options_are_rejected() {
    refused(&[], "required");
    refused(&["http://x/live/key"], "URL");
    refused(&["--loop", URL], "--loop needs");
    refused(&["--encoder", "copy", URL], "--encoder copy needs");
    refused(&["--encoder", "copy", "--source", "file:a.mp4", "--burn-in", URL], "--burn-in needs");
    refused(&["--encoder", "copy", "--source", "file:a.mp4", "--gop", "1s", URL], "excludes the other Video options");
    refused(&["--intra-refresh", "--bframes", "1", URL], "exclude");
    refused(&["--size", "1280", URL], "WIDTHxHEIGHT");
    refused(&["--size", "1281x720", URL], "even");
    refused(&["--fps", "0", URL], "such as 30");
    refused(&["--fps", "NaN", URL], "such as 30");
    refused(&["--bitrate", "fast", URL], "bits per second");
    refused(&["--bitrate", "1", URL], "bits per second");
    refused(&["--bitrate", "2é", URL], "bits per second");
    refused(&["--gop", "1h", URL], "10 minutes");
    refused(&["--window", "0.5", URL], "at least 1s");
    refused(&["--duration=-1", URL], "seconds");
    refused(&["--source", "tape", URL], "not a source");
}

#[test]
fn the_stream_key_follows_the_app() {
    for (url, key, expected) in [
        ("rtmp://h/live", Some("k"), "rtmp://h/live/k"),
        ("rtmp://h/live/", Some("k"), "rtmp://h/live/k"),
        ("rtmp://h/live?a=b", Some("k"), "rtmp://h/live/k?a=b"),
        ("rtmp://h/live/k", None, "rtmp://h/live/k"),
        ("rtmp://h/live/k", Some(""), "rtmp://h/live/k"),
    ] {
        assert_eq!(with_key(url, key), expected);
    }
}

#[test]
fn the_stream_key_prints_redacted() {
    let s = settings(&[URL]).unwrap();
    assert!(!format!("{} {:?}", s.url, s).contains("secret"));
}

#[test]
fn the_help_is_well_formed() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}
