//! The server's command as its operator uses it: signals, exit codes, the configuration file, and where its data is.
#![allow(clippy::unwrap_used)]

#[path = "support/program.rs"]
mod program;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A running server with its log.
struct Running {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    http: String,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening = lines.map(Result::unwrap).find(|line| line.contains("\"listening\"")).unwrap();
        let listening: serde_json::Value = serde_json::from_str(&listening).unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log, http: listening["http"].as_str().unwrap().to_owned() }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Reads the log up to the next line that has `text`.
    fn logged(&mut self, text: &str) -> String {
        let mut line = String::new();
        while self.log.read_line(&mut line).unwrap() > 0 {
            if line.contains(text) {
                return line;
            }
            line.clear();
        }
        panic!("the log ended without {text:?}");
    }

    fn get(&self, path: &str) -> String {
        let mut socket = TcpStream::connect(&self.http).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the command to its end.
fn run(arguments: &[&str], variables: &[(&str, &Path)]) -> Output {
    let mut command = program::binary();
    command.env_clear().args(arguments).envs(variables.iter().copied());
    command.output().unwrap()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

#[test]
fn sighup_reloads_what_can_change_and_names_the_rest() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("cdn.toml");
    fs::write(&file, "public_host = 'one.example'\n").unwrap();
    let mut server = Running::start(program::cdn(data.path()).args(["--log", "json", "--config"]).arg(&file));
    assert!(server.get("/api/v1/streams").contains("rtmp://one.example:"));

    fs::write(&file, "public_host = 'two.example'\n[log]\nlevel = 'debug'\n[hls]\nlow_latency = false\n").unwrap();
    server.signal(Signal::HUP);
    let line = server.logged("\"reloaded\"");
    assert!(line.contains("public_host") && line.contains("log.level"), "{line}");
    let line = server.logged("need a restart");
    assert!(line.contains("hls.low_latency") && !line.contains("public_host"), "{line}");
    assert!(server.get("/api/v1/streams").contains("rtmp://two.example:"));
    server.signal(Signal::HUP);
    let line = server.logged("\"reloaded\"");
    assert!(!line.contains("applied"), "nothing changed: {line}");
    // At level info this event is not logged.
    server.get("/nothing/index.m3u8");
    server.logged("HTTP request for an unknown stream");

    fs::write(&file, "public_host = 'three.example'\nlisten = 1\n").unwrap();
    server.signal(Signal::HUP);
    let line = server.logged("not reloaded");
    assert!(line.contains("cdn.toml:2:1: listen is not a setting"), "{line}");
    assert!(server.get("/api/v1/streams").contains("rtmp://two.example:"));

    server.signal(Signal::TERM);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_server_whose_terminal_is_closed_ends_in_order() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let data = tempfile::tempdir().unwrap();
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let open = || {
        use std::os::unix::fs::OpenOptionsExt;
        File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(&name).unwrap()
    };
    let mut command = program::cdn(data.path());
    let mut child = command.args(["--log", "json"]).stdout(Stdio::piped()).stderr(open()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("\"listening\"")));
    // Its terminal is there: it reloads, and goes on.
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    let mut screen = BufReader::new(File::from(terminal));
    let mut line = String::new();
    while !line.contains("\"reloaded\"") {
        line.clear();
        assert!(screen.read_line(&mut line).unwrap() > 0);
    }
    drop(command);
    drop(screen);
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_exit_code_tells_the_cause_and_the_error_is_printed_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cdn.toml");
    fs::write(&file, "[rtmp]\nlisten = ':1'\nlissen = ':2'\n").unwrap();
    let blocked = directory.path().join("blocked");
    fs::write(&blocked, "").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let data = directory.path().join("data");
    let (file, data, blocked) = (file.to_str().unwrap(), data.to_str().unwrap(), blocked.join("data"));
    for (arguments, expected, says) in [
        (&["--rtmp", "here"][..], 64, "\"here\" is no address to listen on"),
        (&["--colour"], 64, "unexpected argument '--colour'"),
        (&["--config", file], 78, "cdn.toml:3:1: rtmp.lissen is not a setting; did you mean rtmp.listen?"),
        (&["--config", "/nowhere.toml"], 78, "cannot read the configuration file /nowhere.toml"),
        (&["--log-level", "loud"], 64, "command line: log.level: \"loud\" is no log level: use off, error, warn"),
        (&["key", "list", "--config", file], 78, "did you mean rtmp.listen?"),
        (
            &["--data", data, "--http", ":0", "--relay", "off", "--metrics", "off", "--rtmp", &taken],
            71,
            "cannot listen on 127.0.0.1:",
        ),
        (&["key", "new", "live", "--data", blocked.to_str().unwrap()], 73, "blocked"),
    ] {
        let output = run(arguments, &[]);
        let text = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(code(&output), Some(expected), "{arguments:?}: {text}");
        assert_eq!(text.matches(says).count(), 1, "{arguments:?}: {text}");
        assert!(text.matches("(os error").count() <= 1, "the cause is printed twice: {text}");
    }
    for arguments in [["--help"].as_slice(), &["--version"], &["completions", "bash"]] {
        let output = run(arguments, &[]);
        assert_eq!((code(&output), output.stderr.as_slice()), (Some(0), &b""[..]), "{arguments:?}");
    }
}

#[test]
fn the_server_and_the_key_commands_have_the_same_data() {
    let home = tempfile::tempdir().unwrap();
    let is_root = rustix::process::geteuid().is_root();
    // Root's directory is the machine's.
    let directory = if is_root { home.path().join("data") } else { home.path().join("xdg/nearcast") };
    let xdg = home.path().join("xdg");
    let mut variables = vec![("XDG_DATA_HOME", xdg.as_path())];
    if is_root {
        variables.push(("NEARCAST_DATA", &directory));
    }
    assert_eq!(code(&run(&["key", "new", "talk"], &variables)), Some(0));
    assert!(directory.join("keys.toml").exists());
    let mut command = program::binary();
    command.env_clear().envs(variables.iter().copied());
    let ports =
        ["--rtmp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--relay", "off", "--metrics", "off", "--log", "json"];
    let server = Running::start(command.args(ports));
    assert!(server.get("/api/v1/streams").contains("\"talk\""));
}

/// The text of an output that succeeded.
fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn keys_are_listed_with_dates_and_those_of_old_files_are_unknown() {
    let data = tempfile::tempdir().unwrap();
    let variables = [("NEARCAST_DATA", data.path())];
    let old = "[[key]]\nname = 'old'\nid = '0123456789ab'\nsalt = '00112233445566778899aabbccddeeff'\n\
        sha256 = '00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff'\n";
    fs::write(data.path().join("keys.toml"), old).unwrap();
    assert!(text(&run(&["key", "new", "new"], &variables)).starts_with("nck_"));
    let list = text(&run(&["key", "list"], &variables));
    let rows: Vec<Vec<&str>> = list.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert!(rows.len() == 2 && rows[0][0] == "new" && rows[0][1].ends_with('Z') && rows[0][2] == "never", "{list}");
    assert_eq!(rows[1], ["old", "unknown", "unknown"]);

    let rotated = run(&["key", "rotate", "old", "--overlap", "30m"], &variables);
    assert!(text(&rotated).starts_with("nck_"));
    assert!(String::from_utf8_lossy(&rotated.stderr).starts_with("The old key of old is valid until 2"));
    let list: Vec<serde_json::Value> =
        serde_json::from_str(&text(&run(&["key", "list", "--json"], &variables))).unwrap();
    let fields = list
        .iter()
        .map(|key| (key["stream"].as_str().unwrap(), key["created"].is_string(), key["valid_until"].is_string()));
    assert_eq!(fields.collect::<Vec<_>>(), [("new", true, false), ("old", true, false), ("old", false, true)]);
    assert_eq!((&list[2]["id"], &list[2]["last_publish"]), (&"0123456789ab".into(), &serde_json::Value::Null));

    for (arguments, expected, says) in [
        (&["key", "rotate", "none"][..], 1, "the stream none has no key"),
        (&["key", "rotate", "old", "--overlap", "2years"], 64, "at most 365d"),
        (&["key", "rotate", "old", "--overlap", "soon"], 64, "is no duration: 30m, 24h, 7d"),
        (&["key", "new", "old"], 1, "cdn key rotate old"),
    ] {
        let output = run(arguments, &variables);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(code(&output) == Some(expected) && error.contains(says), "{arguments:?}: {error}");
    }
    fs::write(data.path().join("last-publishes.toml"), "key = 1").unwrap();
    let output = run(&["key", "list"], &variables);
    assert!(String::from_utf8_lossy(&output.stderr).contains("the last use of the keys is unknown: "), "{output:?}");
    assert_eq!(text(&output).lines().count(), 4);
}

#[test]
fn the_first_key_is_in_the_data_directory_of_the_user() {
    use std::os::unix::process::CommandExt;
    let home = tempfile::tempdir().unwrap();
    // A user that is not root can find the program only where that user may look.
    let program = home.path().join("cdn");
    fs::copy(program::binary().get_program(), &program).unwrap();
    let mut command = Command::new(program);
    command.env_clear().env("HOME", home.path()).current_dir(home.path());
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(home.path(), Some(65_534), Some(65_534)).unwrap();
        command.uid(65_534).gid(65_534);
    }
    let ports =
        ["--rtmp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--relay", "off", "--metrics", "off", "--log", "json"];
    let _server = Running::start(command.args(ports));
    let data = home.path().join(".local/share/nearcast");
    assert!(data.join("keys.toml").exists() && data.join("first.key").exists());
    assert!(!home.path().join("first.key").exists());
}

#[test]
fn as_root_the_key_commands_write_files_of_the_data_directorys_owner() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(data.path(), Some(65_534), Some(65_534)).unwrap();
    assert_eq!(code(&run(&["key", "new", "talk"], &[("NEARCAST_DATA", data.path())])), Some(0));
    let keys = fs::metadata(data.path().join("keys.toml")).unwrap();
    assert_eq!((keys.uid(), keys.gid(), keys.mode() & 0o777), (65_534, 65_534, 0o600));
}
