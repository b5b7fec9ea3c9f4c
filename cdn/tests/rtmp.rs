//! RTMP with ffmpeg and ffprobe. The server runs in this process, except in tests of flags, logs and signals, which run the `cdn` command.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/program.rs"]
mod program;
mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use cdn::config::FanoutEngine;
use media::TrackId;
use support::{Server, within};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;

/// A running `cdn`.
struct Cdn {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
    rtmp: String,
    key: String,
    /// Reads its log, so that the pipe does not fill up.
    log: JoinHandle<String>,
    data: tempfile::TempDir,
}

impl Cdn {
    async fn start(flags: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let key = cdn_key(data.path(), "live").await;
        let (mut child, out, rtmp) = spawn(data.path(), flags).await;
        let mut stderr = child.stderr.take().unwrap();
        let log = tokio::spawn(async move {
            let mut log = String::new();
            stderr.read_to_string(&mut log).await.unwrap();
            log
        });
        Self { child, out, rtmp, key, log, data }
    }

    /// Stops it with SIGTERM and returns its log.
    async fn stop(mut self) -> String {
        interrupt(&self.child, "TERM").await;
        let status = within(self.child.wait()).await.unwrap();
        let log = within(self.log).await.unwrap();
        assert!(status.success(), "{log}");
        assert_eq!(within(self.out.next_line()).await.unwrap(), None);
        drop(self.data);
        log
    }
}

async fn interrupt(child: &Child, signal: &str) {
    let pid = child.id().expect("it runs").to_string();
    assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().await.unwrap().success());
}

async fn spawn(data: &Path, flags: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>, String) {
    let mut child = Command::from(program::cdn(data))
        .args(["--log", "json", "--log-level", "trace"])
        .args(flags)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within(out.next_line()).await.unwrap().expect("it prints its addresses");
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(event["event"], "listening");
    let rtmp = event["rtmp"].as_str().unwrap().to_owned();
    (child, out, rtmp)
}

async fn cdn_key(data: &Path, name: &str) -> String {
    let output =
        Command::from(program::binary()).args(["key", "new", name, "--data"]).arg(data).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn ffmpeg(arguments: &str) -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin"]).args(arguments.split_whitespace());
    command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(mut command: Command) -> String {
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await.expect("it hangs").unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Packets of a file: stream kind, PTS, DTS, hash of the data.
async fn packets(file: &Path) -> Vec<String> {
    let mut probe = Command::new("ffprobe");
    probe.args(["-v", "error", "-show_packets", "-show_data_hash", "md5", "-of", "csv=p=0"]);
    probe.args(["-show_entries", "packet=codec_type,pts,dts,data_hash"]).arg(file);
    run(probe).await.lines().map(str::to_owned).collect()
}

/// Encodes a file, publishes it with `-c copy`, and plays it with `-c copy` into another, from the first packet on. Every packet must arrive
/// bit-exact, with its PTS and DTS.
async fn there_and_back(encode: &str) {
    let server = Server::start(FanoutEngine::Auto, |_| {}).await;
    let files = tempfile::tempdir().unwrap();
    let (sent, received) = (files.path().join("sent.flv"), files.path().join("received.flv"));
    let mut make = ffmpeg(encode);
    make.arg(&sent);
    run(make).await;
    // The player connects first and waits.
    let mut play = ffmpeg(&format!("-i rtmp://{}/live/live -c copy -copyts", server.rtmp));
    let mut player = play.arg(&received).spawn().unwrap();
    let mut publish = Command::new("ffmpeg");
    publish.args(["-v", "error", "-nostdin", "-re", "-i"]).arg(&sent).args(["-c", "copy", "-f", "flv"]);
    publish.arg(format!("rtmp://{}/live/{}", server.rtmp, server.key("live")));
    run(publish).await;
    // The stream, and the play with it, ends some seconds after the publisher unpublished.
    assert!(within(player.wait()).await.unwrap().success());
    let (sent, received) = (packets(&sent).await, packets(&received).await);
    assert!(sent.len() > 50);
    assert_eq!(received, sent);
    server.stopped().await;
}

const PICTURES: &str = "-f lavfi -i testsrc2=size=320x180:rate=25:duration=4";
const TONE: &str = "-f lavfi -i sine=frequency=440:duration=4";

#[tokio::test(flavor = "multi_thread")]
async fn h264_with_b_frames_and_aac_passes_unchanged() {
    there_and_back(&format!("{PICTURES} {TONE} -pix_fmt yuv420p -c:v libx264 -preset veryfast -bf 3 -g 25 -c:a aac"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn video_alone_passes_unchanged() {
    there_and_back(&format!("{PICTURES} -pix_fmt yuv420p -c:v libx264 -preset ultrafast -tune zerolatency -g 25"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn audio_alone_passes_unchanged() {
    there_and_back(&format!("{TONE} -c:a aac")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_in_mid_stream_starts_at_an_idr() {
    let server = Server::start(FanoutEngine::Auto, |_| {}).await;
    let url = format!("rtmp://{}/live/{}", server.rtmp, server.key("live"));
    let encode =
        "-re -f lavfi -i testsrc2=size=320x180:rate=25 -pix_fmt yuv420p -c:v libx264 -preset ultrafast -g 25 -f flv";
    let mut publisher = ffmpeg(encode).arg(&url).spawn().unwrap();
    let mut probe = Command::new("ffprobe");
    probe.args(["-v", "error", "-show_entries", "packet=flags", "-of", "csv=p=0", "-read_intervals", "%+1"]);
    let flags = run({
        probe.arg(format!("rtmp://{}/live/live", server.rtmp));
        probe
    })
    .await;
    assert!(flags.starts_with("K_"), "it starts at an IDR: {flags}");
    publisher.kill().await.unwrap();
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_publisher_takes_over_at_once() {
    let server = Server::start(FanoutEngine::Auto, |_| {}).await;
    let url = format!("rtmp://{}/live/{}", server.rtmp, server.key("live"));
    let encode =
        "-re -f lavfi -i testsrc2=size=320x180:rate=25 -pix_fmt yuv420p -c:v libx264 -preset ultrafast -g 25 -f flv";
    let files = tempfile::tempdir().unwrap();
    let received = files.path().join("received.flv");
    let mut play = ffmpeg(&format!("-i rtmp://{}/live/live -c copy -copyts -t 6", server.rtmp));
    let mut player = play.arg(&received).spawn().unwrap();
    let mut first = ffmpeg(encode).arg(&url).spawn().unwrap();
    let mut probe = Command::new("ffprobe");
    probe
        .args(["-v", "error", "-read_intervals", "%+0.5", "-show_packets"])
        .arg(format!("rtmp://{}/live/live", server.rtmp));
    run(probe).await;
    let mut second = ffmpeg(encode).arg(&url).spawn().unwrap();
    let status = within(first.wait()).await.unwrap();
    assert!(!status.success(), "the first publisher is disconnected");
    assert!(within(player.wait()).await.unwrap().success());
    second.kill().await.unwrap();
    // The players' clock continues: no DTS is below the one before.
    let dts: Vec<i64> =
        packets(&received).await.iter().map(|p| p.split(',').nth(2).unwrap().parse().unwrap()).collect();
    assert!(dts.len() > 50 && dts.windows(2).all(|pair| pair[0] < pair[1]), "{dts:?}");
    server.stopped().await;
}

#[tokio::test]
async fn keys_are_accepted_in_all_their_places_and_never_logged() {
    let cdn = Cdn::start(&[]).await;
    let encode = "-f lavfi -i sine=duration=0.5 -c:a aac -f flv";
    let (rtmp, key) = (&cdn.rtmp, &cdn.key);
    for (url, is_let_in) in [
        (format!("rtmp://{rtmp}/live/{key}"), true),
        (format!("rtmp://{rtmp}/live/{key}?some=thing"), true),
        (format!("rtmp://{rtmp}/live/live?key={key}"), true),
        (format!("rtmp://{rtmp}/live/other?key={key}"), false),
        (format!("rtmp://{rtmp}/app/{key}"), false),
        (format!("rtmp://{rtmp}/live/live"), false),
        (format!("rtmp://{rtmp}/live/{}x", key), false),
        (format!("rtmp://{rtmp}/live/{}", &key[..20]), false),
    ] {
        let output = within(ffmpeg(encode).arg(&url).output()).await.unwrap();
        assert_eq!(output.status.success(), is_let_in, "{url}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // A key created while the server runs is valid at once.
    let new = cdn_key(cdn.data.path(), "second").await;
    let output = within(ffmpeg(encode).arg(format!("rtmp://{rtmp}/live/{new}")).output()).await.unwrap();
    assert!(output.status.success());
    // Playing by the key instead of the name.
    let mut probe = Command::new("ffprobe");
    let output = within(probe.arg(format!("rtmp://{rtmp}/live/{key}")).output()).await.unwrap();
    assert!(!output.status.success());
    let (key, random) = (key.clone(), new[4..].to_owned());
    let log = cdn.stop().await;
    assert!(log.contains("publisher rejected"), "{log}");
    assert!(!log.contains(&key[4..]) && !log.contains(&key[..20]) && !log.contains(&random), "a key is in the log");
}

#[tokio::test]
async fn a_rotated_key_publishes_until_the_overlap_is_over() {
    let cdn = Cdn::start(&[]).await;
    let url = |key: &str| format!("rtmp://{}/live/{key}", cdn.rtmp);
    let cdn_key = async |arguments: &[&str]| {
        let mut command = Command::from(program::binary());
        run({
            command.arg("key").args(arguments).arg("--data").arg(cdn.data.path());
            command
        })
        .await
    };
    let list =
        async || -> Vec<serde_json::Value> { serde_json::from_str(&cdn_key(&["list", "--json"]).await).unwrap() };
    let listed = list().await;
    assert!(listed.len() == 1 && listed[0]["created"].is_string() && listed[0]["last_publish"].is_null(), "{listed:?}");

    let old = cdn.key.clone();
    let new = cdn_key(&["rotate", "live", "--overlap", "6s"]).await.trim().to_owned();
    let listed = list().await;
    assert!(listed.len() == 2 && listed[0]["valid_until"].is_null() && listed[1]["valid_until"].is_string());
    let endless = "-re -f lavfi -i sine -c:a aac -f flv";
    let mut publisher = ffmpeg(endless).arg(url(&old)).spawn().unwrap();
    within(async {
        // Written while the server runs, and by a process of its own.
        while list().await.get(1).is_none_or(|key| key["last_publish"]["from"] != "127.0.0.1") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(publisher.try_wait().unwrap().is_none(), "the old key is valid and in use");
    let ended = within(publisher.wait()).await.unwrap();
    assert!(!ended.success(), "its publisher is disconnected at the end");
    let publish = "-f lavfi -i sine=duration=0.5 -c:a aac -f flv";
    for (key, is_let_in) in [(&old, false), (&new, true)] {
        let output = within(ffmpeg(publish).arg(url(key)).output()).await.unwrap();
        assert_eq!(output.status.success(), is_let_in, "{}", String::from_utf8_lossy(&output.stderr));
    }
    let before = list().await;
    assert_eq!((before.len(), &before[0]["valid_until"]), (1, &serde_json::Value::Null));
    let Cdn { child, log, data, .. } = cdn;
    interrupt(&child, "TERM").await;
    let log = within(log).await.unwrap();
    assert!(log.contains("rotated key ended") && !log.contains(&new[4..]) && !log.contains(&old[4..]), "{log}");
    // What was not written yet is written at the end.
    let mut command = Command::from(program::binary());
    let text = run({
        command.args(["key", "list", "--data"]).arg(data.path());
        command
    })
    .await;
    assert!(text.contains("LAST PUBLISH") && text.contains("127.0.0.1"), "{text}");
}

/// Starts `command` and returns it with its output, and what that was up to the URLs.
async fn first_start(mut command: Command) -> (Child, Lines<BufReader<ChildStdout>>, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut text = String::new();
    while !text.contains("/live/live") {
        text += &within(out.next_line()).await.unwrap().expect("it prints the URLs");
        text.push('\n');
    }
    for words in ["Service     Custom...", "Server      rtmp://127.0.0.1:", "Stream Key  "] {
        assert!(text.contains(words), "{text}");
    }
    (child, out, text)
}

#[tokio::test]
async fn the_first_start_makes_a_key_and_writes_it_to_a_private_file() {
    let data = tempfile::tempdir().unwrap();
    let (mut child, _out, text) = first_start(program::cdn(data.path()).into()).await;
    let file = data.path().join("first.key");
    assert!(text.contains(&format!("Stream Key  the content of {}", file.display())), "{text}");
    let key = std::fs::read_to_string(&file).unwrap();
    assert!(key.starts_with("nck_") && key.ends_with('\n') && !text.contains("nck_"), "{text}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // It is the key of the stream `live`.
    let rtmp = text.lines().find_map(|line| line.trim().strip_prefix("rtmp://")?.strip_suffix("/live/live")).unwrap();
    let url = net::rtmp::url::parse(&format!("rtmp://{rtmp}/live/{}", key.trim())).unwrap();
    within(net::rtmp::client::publish(&url, net::rtmp::client::ClientOptions::default())).await.unwrap();
    // The second signal ends it at once, even with open connections.
    interrupt(&child, "INT").await;
    assert!(within(child.wait()).await.unwrap().success());
    // No later start writes it again.
    std::fs::remove_file(&file).unwrap();
    let mut child = Command::from(program::cdn(data.path()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    while !within(out.next_line()).await.unwrap().unwrap().contains("/live/live") {}
    assert!(!file.exists());
}

#[tokio::test]
async fn the_first_key_is_shown_on_a_terminal_and_nowhere_else() {
    let data = tempfile::tempdir().unwrap();
    let cdn = program::cdn(data.path());
    // script(1) runs it on a terminal of its own and copies what is shown there.
    let words = std::iter::once(cdn.get_program()).chain(cdn.get_args());
    let command = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect::<Vec<_>>().join(" ");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]).stdin(Stdio::null());
    let (_child, _out, text) = first_start(script).await;
    assert!(text.contains("Stream Key  nck_") && text.contains("shown only once"), "{text}");
    assert!(!data.path().join("first.key").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn players_get_sound_at_once_and_pictures_from_an_idr_on() {
    for engine in [FanoutEngine::Epoll, FanoutEngine::Uring] {
        let server = Server::start(engine, |_| {}).await;
        let key = server.key("live");
        let mut early = server.play("live").await.unwrap();
        let mut publisher = server.publish(&key).await.unwrap();
        let (video, audio) = (support::video(), support::audio());
        publisher.send_track(0, &video).await.unwrap();
        publisher.send_track(0, &audio).await.unwrap();
        let mut late = None;
        for millis in (0..300).step_by(20) {
            publisher.send_unit(&audio, &support::sound(1, millis)).await.unwrap();
            assert_eq!(early.times(1).await, [(TrackId::AUDIO, millis)]);
            match &mut late {
                None => late = Some(server.play("live").await.unwrap()),
                Some(late) if millis > 100 => assert_eq!(late.next().await.unwrap().track, TrackId::AUDIO),
                Some(_) => {}
            }
        }
        for (millis, is_idr) in [(300, false), (340, true), (380, false)] {
            publisher.send_unit(&video, &support::picture(1, millis, is_idr, 100)).await.unwrap();
        }
        for player in [Some(early), late].into_iter().flatten() {
            let mut player = player;
            let mut pictures = Vec::new();
            while pictures.len() < 2 {
                let unit = player.next().await.unwrap();
                let times = [Some(unit.dts), player.predecessor].map(|dts| dts.map(media::Timestamp::as_millis));
                pictures.extend(unit.track.is_video().then_some(times));
            }
            let expected = [[Some(340), Some(300)], [Some(380), Some(340)]];
            assert_eq!(pictures, expected, "the DTS of each picture and of its predecessor, which was withheld");
        }
        server.stopped().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn players_get_all_sound_before_an_idr_that_ends_a_long_gop() {
    for engine in [FanoutEngine::Epoll, FanoutEngine::Uring] {
        let server = Server::start(engine, |config| config.hub.buffer_window = Duration::from_secs(1)).await;
        let key = server.key("live");
        let mut player = server.play("live").await.unwrap();
        let mut publisher = server.publish(&key).await.unwrap();
        let (video, audio) = (support::video(), support::audio());
        publisher.send_track(0, &video).await.unwrap();
        publisher.send_track(0, &audio).await.unwrap();
        // Pictures at 0, 100, 200 …; between them the sound arrives at once, just before the next picture.
        let mut expected = Vec::new();
        for millis in (0..3000).step_by(100) {
            let is_idr = millis % 1500 == 0;
            publisher.send_unit(&video, &support::picture(1, millis, is_idr, 100)).await.unwrap();
            expected.push((TrackId::VIDEO, millis));
            assert_eq!(player.times(expected.len()).await, expected);
            expected.clear();
            for millis in (millis..millis + 100).step_by(20) {
                publisher.send_unit(&audio, &support::sound(1, millis)).await.unwrap();
                expected.push((TrackId::AUDIO, millis));
            }
        }
        server.stopped().await;
    }
}
