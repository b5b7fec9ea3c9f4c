//! The programs as their operator uses them: exit codes, signals, pairing codes, metrics, and the help that the README promises.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Broadcaster, Cdn, ClipSpec, NumberedClip, TIMEOUT, TestEnv, Viewer, program, until};
use rustix::process::Signal;

/// Runs a program to its end without the environment's settings.
fn run(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Output> {
    let mut command = Command::new(program(name)?);
    command.args(arguments).env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY").env_remove("RUST_LOG");
    Ok(command.envs(variables.iter().copied()).output()?)
}

#[test]
fn exit_codes_tell_the_cause() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let (right, wrong_app) = (cdn.publish_url(&key), cdn.publish_url(&key).replace("/live/", "/lives/"));
    let (wrong_key, no_stream) = (cdn.publish_url("nck_wrong"), cdn.page_url("nowhere"));
    let no_log = ["--source", "test", "--unit-log", "/nowhere/log", right.as_str()];
    for (name, arguments, variables, code, says) in [
        (
            "broadcaster",
            &["--source", "test", &right.replace("rtmp:", "rtmps:")][..],
            &[][..],
            64,
            "rtmps:// (RTMP over TLS) is not supported",
        ),
        ("broadcaster", &["--source", "test", &right], &[("RUST_LOG", "loud")], 64, "\"loud\" is no log level"),
        ("broadcaster", &["--pairing-code", "0000-0000-0000-0000", &right], &[], 64, "too easy to guess"),
        ("broadcaster", &["--source", "screen", &right], &[], 66, "this session has no display to capture"),
        ("broadcaster", &["--source", "screen:64999", &right], &[], 66, "there is no display `:64999` here"),
        (
            "broadcaster",
            &["--source", "screen", &right],
            &[("DISPLAY", ":64998")],
            66,
            "there is no display `:64998` here",
        ),
        ("broadcaster", &["--source", "file:/nowhere.mp4", &right], &[], 66, "/nowhere.mp4"),
        (
            "broadcaster",
            &["--source", "test", &wrong_app],
            &[],
            69,
            "There is no such application. Publish to rtmp://HOST/live",
        ),
        ("broadcaster", &["--source", "test", &wrong_key], &[], 77, "The stream key is not valid"),
        (
            "broadcaster",
            &["--source", "test", "--lan-listen", "192.0.2.1:1", &right],
            &[],
            71,
            "cannot listen for LAN viewers at 192.0.2.1:1",
        ),
        ("broadcaster", &no_log, &[], 73, "cannot create the unit log"),
        ("viewer", &["--headless", &no_stream], &[], 69, "has no stream named 'nowhere'"),
        (
            "viewer",
            &["--headless", "rtmps://127.0.0.1/live/live"],
            &[],
            64,
            "rtmps:// (RTMP over TLS) is not supported",
        ),
        ("viewer", &["--headless", "--record", "/nowhere/x.mp4", &no_stream], &[], 73, "/nowhere/x.mp4"),
        ("viewer", &["--headless", &no_stream], &[("RUST_LOG", "viewer")], 64, "\"viewer\" is no log level"),
    ] {
        let output = run(name, arguments, variables)?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(code), "{name} {arguments:?}: {:?}, not {code}: {text}", output.status);
        ensure!(text.contains(says), "{name} {arguments:?}: {text}");
        ensure!(text.matches("(os error").count() <= 1, "{name} {arguments:?} states the cause twice: {text}");
        ensure!(!text.contains(&key), "a key is shown: {text}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_captured_or_encoded_interrupts_no_broadcast() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let url = cdn.publish_url(&key);
    let mut live = Broadcaster::start(&env, &url, &Broadcaster::SMALL)?;
    cdn.wait_live("live")?;
    let clip = NumberedClip::encode(&env, "clip.mp4", ClipSpec { count: 25, ..ClipSpec::default() })?;
    let file = format!("file:{}", clip.path.display());
    let broken = env.path("broken.mp4");
    std::fs::write(&broken, std::fs::read(&clip.path)?.split_at(100).0)?;
    let broken = format!("file:{}", broken.display());
    for (options, code, says) in [
        (&["--source", "test", "--encoder", "nosuch"][..], 64, "no video encoder `nosuch`"),
        (&["--source", "test", "--encoder", "aac"], 64, "which work here: "),
        (&["--source", "test", "--encoder", "mpeg2video"], 64, "libx264"),
        (&["--source", "test", "--encoder", "h264_nvenc"], 66, "which work here: "),
        (&["--source", "test", "--encoder", "h264_vaapi"], 66, "libx264"),
        (&["--source", "test", "--encoder", "libx264", "--preset", "nosuch"], 64, "--preset"),
        (&["--source", &file, "--encoder", "h264_nvenc"], 66, "libx264"),
        (&["--source", &file, "--encoder", "libx264", "--preset", "nosuch"], 64, "--preset"),
        (&["--source", &broken], 66, "broken.mp4"),
        (&["--source", "test", "--audio", "alsa:nosuch"], 66, "nosuch"),
        (&["--source", "test", "--audio-codec", "opus", "--audio-bitrate", "100M"], 64, "--audio-bitrate"),
        (&["--source", &file, "--audio", "tone", "--audio-codec", "opus", "--audio-bitrate", "100M"], 64, "Opus"),
    ] {
        let output = run("broadcaster", &[options, &[&url]].concat(), &[])?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(code), "{options:?}: {:?}, not {code}: {text}", output.status);
        ensure!(text.contains(says), "{options:?}: {text}");
        ensure!(!text.contains("connected"), "{options:?} connected before it failed: {text}");
    }
    ensure!(live.process.running()?, "the live broadcast was interrupted: {}", live.process.err());
    live.stop()
}

#[test]
fn sighup_ends_neither_broadcaster_nor_viewer() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let mut broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    cdn.wait_live("live")?;
    let mut viewer = Viewer::start(&env, &cdn.rtmp_url("live"), &["--log", "json"])?;
    viewer.wait_pictures(10, TIMEOUT)?;
    for process in [&mut broadcaster.process, &mut viewer.process] {
        process.signal(Signal::HUP);
        until(TIMEOUT, "SIGHUP to be logged", || {
            Ok(process.err().contains("SIGHUP: there is no configuration file").then_some(()))
        })?;
    }
    let before = viewer.pictures()?;
    viewer.wait_pictures(before + 30, TIMEOUT)?;
    viewer.finish()?;
    broadcaster.process.terminate();
    broadcaster.process.success(TIMEOUT)
}

#[test]
fn without_a_terminal_the_pairing_code_is_logged_unless_it_is_set() -> Result<()> {
    let env = TestEnv::new()?;
    let code = String::from_utf8(run("broadcaster", &["pairing-code"], &[])?.stdout)?.trim().to_owned();
    let url = "rtmp://127.0.0.1:1/live/key";
    for (variables, shown) in [(vec![], None), (vec![("NEARCAST_PAIRING_CODE", code.as_str())], Some(code.as_str()))] {
        let options = [&Broadcaster::SMALL[..], &["--lan-listen", "127.0.0.1:0", "--no-mdns"]].concat();
        let mut broadcaster = Broadcaster::start_with(&env, url, &options, |command| {
            command.envs(variables);
        })?;
        let log = until(TIMEOUT, "the code in the log", || {
            ensure!(broadcaster.process.running()?, "it ended");
            let log = broadcaster.process.err();
            Ok(log.lines().find(|line| line.contains("LAN viewers can pair without a server")).map(str::to_owned))
        })?;
        let event: serde_json::Value = serde_json::from_str(&log)?;
        let field = |name: &str| event["fields"][name].as_str().map(str::to_owned).with_context(|| log.clone());
        // A code that the operator set is known to the operator.
        ensure!(shown.is_none_or(|code| !broadcaster.process.err().contains(code)), "{log}");
        let code = shown.map_or_else(|| field("pairing_code"), |code| Ok(code.to_owned()))?;
        let address = format!("nearcast://{}", field("address")?);
        let mut viewer = Viewer::start(&env, &address, &["--pairing-code", &code])?;
        viewer.wait_pictures(10, TIMEOUT)?;
        viewer.finish()?;
    }
    Ok(())
}

#[test]
fn metrics_pass_promtool_and_count_lan_viewers() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let metrics = listener.local_addr()?;
    drop(listener);
    let cdn = Cdn::start(&env, &["--metrics", &metrics.to_string()])?;
    let options = [&Broadcaster::SMALL[..], &["--lan-listen", "127.0.0.1:0", "--no-mdns"]].concat();
    let broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &options)?;
    cdn.wait_segment("live")?;
    let log = broadcaster.process.err();
    let line = log.lines().find(|line| line.contains("can pair without a server")).context("no pairing code")?;
    let event: serde_json::Value = serde_json::from_str(line)?;
    let field = |name: &str| event["fields"][name].as_str().with_context(|| line.to_owned());
    let lan = format!("nearcast://{}", field("address")?);
    let mut viewers = [
        Viewer::start(&env, &lan, &["--pairing-code", field("pairing_code")?])?,
        Viewer::start(&env, &cdn.rtmp_url("live"), &[])?,
        Viewer::start(&env, &cdn.page_url("live"), &["--transport", "ll-hls"])?,
    ];
    for viewer in &mut viewers {
        viewer.wait_pictures(10, TIMEOUT)?;
    }
    let wanted = [
        "nearcast_stream_lan_viewers{stream=\"live\"} 1",
        "nearcast_stream_viewers{stream=\"live\",protocol=\"rtmp\"} 1",
        "nearcast_stream_delay_seconds_count{",
        "process_cpu_seconds_total ",
        "process_resident_memory_bytes ",
        "process_open_fds ",
        "process_max_fds ",
        "process_start_time_seconds ",
    ];
    let text = until(Duration::from_secs(90), "all metrics", || {
        let text = e2e::get(metrics, "/metrics")?.text();
        Ok(wanted.iter().all(|line| text.contains(&format!("\n{line}"))).then_some(text))
    })?;
    let mut check = Command::new("promtool");
    check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut check = check.spawn().context("promtool, of the package prometheus")?;
    check.stdin.take().context("no input")?.write_all(text.as_bytes())?;
    let output = check.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
    Ok(())
}

/// The rows of a table in the README: cells without backquotes.
fn table(readme: &str, heading: &str) -> Result<Vec<Vec<String>>> {
    let (_, section) = readme.split_once(heading).with_context(|| format!("no {heading}"))?;
    let rows =
        section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|')).skip(2);
    let cells =
        |row: &str| row.trim_matches('|').split('|').map(|cell| cell.replace('`', "").trim().to_owned()).collect();
    Ok(rows.map(cells).collect())
}

#[test]
fn help_is_what_the_readme_says() -> Result<()> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md"))?;
    let programs = ["cdn", "broadcaster", "viewer"];
    let help = |name: &str| -> Result<String> {
        let output = run(name, &["--help"], &[])?;
        Ok(String::from_utf8(output.stdout)?.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let texts: Vec<String> = programs.iter().map(|name| help(name)).collect::<Result<_>>()?;

    // Exit codes: a row for each, with the meaning of each program, or nothing where it does not exit so.
    let codes = table(&readme, "### Exit codes")?;
    for (at, (name, text)) in programs.iter().zip(&texts).enumerate() {
        let (_, listed) = text.split_once("Exit codes: ").with_context(|| format!("{name} lists no codes"))?;
        let wanted: Vec<String> = codes
            .iter()
            .filter(|row| !row[at + 1].is_empty())
            .map(|row| format!("{} {}", row[0], row[at + 1]))
            .collect();
        ensure!(listed == wanted.join(" "), "{name} says: {listed}\nREADME: {}", wanted.join(" "));
    }

    // Variables that are not settings of cdn, whose own test compares them with deploy/cdn.toml.
    for row in table(&readme, "### Environment")? {
        for (name, text) in programs.iter().zip(&texts) {
            let expected = row[1].split(", ").any(|program| program == *name);
            let has = text.split(|c: char| !c.is_ascii_uppercase() && c != '_').any(|word| word == row[0]);
            ensure!(has == expected, "{name} --help and README differ about {}", row[0]);
        }
    }
    Ok(())
}

#[test]
fn each_program_writes_its_manual_and_completions() -> Result<()> {
    let env = TestEnv::new()?;
    for (name, pages) in [
        ("cdn", &["cdn.1", "cdn-key.1", "cdn-key-new.1", "cdn-key-rotate.1"][..]),
        ("broadcaster", &["broadcaster.1", "broadcaster-doctor.1", "broadcaster-devices.1"]),
        ("viewer", &["viewer.1", "viewer-doctor.1"]),
    ] {
        let directory = env.path("man");
        let output = run(name, &["manual", &directory.display().to_string()], &[])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for page in pages {
            let text = std::fs::read_to_string(directory.join(page)).with_context(|| (*page).to_owned())?;
            ensure!(text.contains(".SH SYNOPSIS"), "{page}: {text}");
        }
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let output = run(name, &["completions", shell], &[])?;
            ensure!(output.status.success() && output.stdout.len() > 500, "{name} completions {shell}");
        }
        let script = run(name, &["completions", "bash"], &[])?.stdout;
        let mut bash = Command::new("bash").args(["-n", "/dev/stdin"]).stdin(Stdio::piped()).spawn()?;
        bash.stdin.take().context("no input")?.write_all(&script)?;
        ensure!(bash.wait()?.success(), "bash cannot read the completions of {name}");
    }
    Ok(())
}
