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
    command.args(arguments);
    for variable in ["DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "SDL_VIDEO_DRIVER", "RUST_LOG", "NEARCAST_KEY"] {
        command.env_remove(variable);
    }
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
    let (no_key, http_port) = (format!("rtmp://{}/live", cdn.rtmp), format!("rtmp://{}/live/key", cdn.http));
    let (tls, tls_playlist) = (format!("https://{}/live", cdn.http), format!("https://{}/live/index.m3u8", cdn.http));
    let (page, no_app) = (cdn.page_url("live"), cdn.rtmp_url("live").replace("/live/", "/lives/"));
    let page_at_rtmp = format!("http://{}/live", cdn.rtmp);
    let playlist_at_rtmp = format!("{page_at_rtmp}/index.m3u8");
    let rtmp_port = cdn.http.to_string();
    let in_use = ["--source", "test", "--lan-listen", &rtmp_port, right.as_str()];
    let holder = std::net::UdpSocket::bind(cdn.http)?;
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
        ("broadcaster", &in_use, &[], 71, "another program listens there"),
        ("broadcaster", &["--source", "test", "--lan-listen", "192.0.2.1:1", &right], &[], 71, "--lan-listen"),
        (
            "broadcaster",
            &["--source", "test", &no_key],
            &[],
            64,
            "the stream key is missing: set the variable NEARCAST_KEY",
        ),
        ("broadcaster", &["--source", "test", "rtmp://127.0.0.1"], &[("NEARCAST_KEY", "k")], 64, "has no application"),
        ("broadcaster", &["--source", "test", &http_port], &[], 69, "check the port"),
        ("cdn", &["--relay", "of"], &[], 64, "or `off`"),
        ("cdn", &["--rtmp", "192.0.2.1:1", "--data", "/nowhere"], &[], 71, "set rtmp.listen (--rtmp)"),
        ("viewer", &[&page], &[], 66, "there is no display"),
        ("viewer", &["ftp://127.0.0.1/live"], &[], 64, "must start with http://"),
        ("viewer", &["http://127.0.0.1/"], &[], 64, "name a stream"),
        ("viewer", &["nearcast://127.0.0.1:1"], &[], 64, "give the pairing code"),
        ("viewer", &["--headless", &tls], &[], 69, "try http:// instead of https://"),
        ("viewer", &["--headless", &tls_playlist], &[], 69, "try http:// instead of https://"),
        ("viewer", &["--headless", &no_app], &[], 69, "There is no such application. Play rtmp://HOST/live/NAME"),
        ("viewer", &["--headless", &no_stream], &[], 69, "has no stream named 'nowhere'"),
        ("viewer", &["--headless", &http_port], &[], 69, "the peer speaks HTTP"),
        ("viewer", &["--headless", &page_at_rtmp], &[], 69, "is RTMP; try rtmp://"),
        ("viewer", &["--headless", &playlist_at_rtmp], &[], 69, "is RTMP; try rtmp://"),
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
        ensure!(!text.contains("window opened"), "{name} {arguments:?} opened a window: {text}");
    }
    drop(holder);
    let log = cdn.process.err();
    ensure!(log.contains("player rejected: no such application; it is live"), "{log}");
    Ok(())
}

#[test]
fn a_wrong_pairing_code_ends_the_viewer_and_a_full_broadcaster_does_not() -> Result<()> {
    let env = TestEnv::new()?;
    let codes = [(); 2].map(|()| run("broadcaster", &["pairing-code"], &[]));
    let [right, wrong] = codes.map(|code| code.map(|code| String::from_utf8_lossy(&code.stdout).trim().to_owned()));
    let (right, wrong) = (right?, wrong?);
    let options = ["--lan-listen", "127.0.0.1:0", "--no-mdns", "--pairing-code", &right, "--max-lan-viewers", "1"];
    let options = [&Broadcaster::SMALL[..], &options].concat();
    let broadcaster = Broadcaster::start(&env, "rtmp://127.0.0.1:1/live/key", &options)?;
    let address = until(TIMEOUT, "the address in the log", || {
        let log = broadcaster.process.err();
        let line = log.lines().find(|line| line.contains("LAN viewers can pair without a server")).map(str::to_owned);
        let event = line.map(|line| serde_json::from_str::<serde_json::Value>(&line)).transpose()?;
        Ok(event.and_then(|event| Some(format!("nearcast://{}", event["fields"]["address"].as_str()?))))
    })?;
    let output = run("viewer", &["--headless", "--pairing-code", &wrong, &address], &[])?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(77), "{:?}: {text}", output.status);
    ensure!(text.contains("the pairing code is wrong") && !text.contains("Denied"), "{text}");
    // The broadcaster has several addresses, and not all of them can be reached from here.
    let addresses = format!("{},{}", address.replace("nearcast://", "nearcast://127.0.0.1:1,"), "127.0.0.1:2");
    let output = run("viewer", &["--headless", "--pairing-code", &wrong, &addresses], &[])?;
    ensure!(output.status.code() == Some(77), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    ensure!(!text.contains(&right) && !text.contains(&wrong), "a code is shown: {text}");

    let mut first = Viewer::start(&env, &address, &["--pairing-code", &right])?;
    first.wait_pictures(10, TIMEOUT)?;
    let mut second = Viewer::start(&env, &address, &["--pairing-code", &right])?;
    until(TIMEOUT, "the second viewer to be told that the broadcaster is full", || {
        ensure!(second.process.running()?, "it ended: {}", second.process.err());
        Ok(second.process.err().contains("at its limit of LAN viewers").then_some(()))
    })?;
    first.finish()?;
    second.wait_pictures(10, TIMEOUT)?;
    second.finish()?;
    let log = until(TIMEOUT, "the viewers to leave", || {
        let log = broadcaster.process.err();
        Ok((log.matches("a LAN viewer disconnected").count() == 2).then_some(log))
    })?;
    ensure!(log.contains("\"reason\":\"it left\""), "{log}");
    Ok(())
}

#[test]
fn the_log_says_in_words_why_a_publisher_left() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let mut first = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    cdn.wait_live("live")?;
    let mut second = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    until(TIMEOUT, "the first to be thrown out", || Ok((!first.process.running()?).then_some(())))?;
    second.stop()?;
    let log = until(TIMEOUT, "both ends in the log", || {
        let log = cdn.process.err();
        Ok((log.matches("publisher disconnected").count() == 2).then_some(log))
    })?;
    for reason in ["another publisher took over with the same key", "it unpublished"] {
        ensure!(log.contains(&format!("\"reason\":\"{reason}\"")), "no {reason}: {log}");
    }
    Ok(())
}

#[test]
fn key_commands_say_what_to_do_for_the_same_data() -> Result<()> {
    let env = TestEnv::new()?;
    let (data, empty) = (env.path("other data"), env.path("nothing"));
    let (data, empty) = (data.display().to_string(), empty.display().to_string());
    let key = |arguments: &[&str], data: &str| -> Result<(Option<i32>, String)> {
        let output = run("cdn", &[&["key"], arguments, &["--data", data]].concat(), &[])?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    ensure!(key(&["new", "live", "--replace"], &data)?.1.contains("had no key to replace"), "nothing is said");
    ensure!(key(&["new", "live", "--replace"], &data)? == (Some(0), String::new()), "something is said");
    for (arguments, advice) in [
        (&["new", "live"][..], format!("`cdn key rotate live --data '{data}'`")),
        (&["rotate", "talk"], format!("`cdn key list --data '{data}'`")),
        (&["remove", "talk"], format!("`cdn key new talk --data '{data}'`")),
    ] {
        let (code, text) = key(arguments, &data)?;
        ensure!(code == Some(1) && text.contains(&advice), "{arguments:?}: {code:?} {text}");
    }
    for arguments in [&["list"][..], &["rotate", "live"], &["remove", "live"]] {
        let (code, text) = key(arguments, &empty)?;
        ensure!(
            code == Some(73) && text.contains(&format!("there is no directory {empty}")),
            "{arguments:?}: {code:?} {text}"
        );
        ensure!(!Path::new(&empty).exists(), "{arguments:?} made the directory");
    }
    Ok(())
}

#[test]
fn help_and_diagnoses_fit_80_columns() -> Result<()> {
    for (name, subcommands) in [
        ("cdn", &[&[][..], &["key"], &["key", "new"], &["key", "list"], &["manual"]][..]),
        ("broadcaster", &[&[][..], &["doctor"], &["devices"]]),
        ("viewer", &[&[][..], &["doctor"]]),
    ] {
        for subcommand in subcommands {
            for flag in ["-h", "--help"] {
                let output =
                    run(name, &[subcommand, &[flag][..]].concat(), &[("NEARCAST_CONFIG", "/nowhere/cdn.toml")])?;
                let text = String::from_utf8(output.stdout)?;
                let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > 80).collect();
                ensure!(wide.is_empty() && !text.is_empty(), "{name} {subcommand:?} {flag}: {wide:#?}");
                ensure!(
                    !text.contains("=]") && !text.contains("/nowhere"),
                    "{name} {subcommand:?} shows a variable's value"
                );
            }
        }
    }
    for name in ["broadcaster", "viewer"] {
        let text = String::from_utf8(run(name, &["doctor"], &[])?.stdout)?;
        // A word, such as an address, is not taken apart.
        let is_too_wide = |line: &&str| line.chars().count() > 80 && line.trim().contains(' ');
        let wide: Vec<&str> = text.lines().filter(is_too_wide).collect();
        ensure!(wide.is_empty() && !text.is_empty(), "{name} doctor: {wide:#?}");
    }
    Ok(())
}

#[test]
fn a_closed_log_does_not_keep_a_program_from_ending() -> Result<()> {
    for (name, arguments) in [
        ("viewer", &["--headless", "http://127.0.0.1:1/live"][..]),
        ("broadcaster", &["--source", "test", "--no-lan", "rtmp://127.0.0.1:1/live/key"]),
    ] {
        let mut child =
            Command::new(program(name)?).args(arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let mut log = std::io::BufReader::new(child.stderr.take().context("no log")?);
        std::io::BufRead::read_line(&mut log, &mut String::new())?;
        drop(log);
        // Some lines are lost by now.
        std::thread::sleep(Duration::from_secs(1));
        let id = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(id, Signal::TERM)?;
        let ended = until(TIMEOUT, "it to end", || Ok(child.try_wait()?));
        let _ = child.kill();
        ended.with_context(|| name.to_owned())?;
    }
    Ok(())
}

#[test]
fn a_viewer_that_reached_no_server_until_its_duration_ended_says_why() -> Result<()> {
    let output = run("viewer", &["--headless", "--duration", "1", "http://127.0.0.1:1/live"], &[])?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(69), "{:?}: {text}", output.status);
    let last = text.lines().last().unwrap_or_default();
    ensure!(last.contains("nothing was played: reconnecting: ") && last.contains("Connection refused"), "{text}");
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
        (&["--source", "test", "--preset", "nosuch"], 64, "--preset"),
        (&["--source", &file, "--encoder", "h264_nvenc"], 66, "libx264"),
        (&["--source", &file, "--encoder", "libx264", "--preset", "nosuch"], 64, "--preset"),
        (&["--source", &broken], 66, "broken.mp4"),
        (&["--source", "test", "--audio", "alsa:nosuch"], 66, "nosuch"),
        (&["--source", &file, "--encoder", "copy", "--audio", "alsa:nosuch"], 66, "nosuch"),
        (&["--source", &file, "--audio", "alsa:nosuch"], 66, "nosuch"),
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
