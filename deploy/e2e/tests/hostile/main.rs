//! Hostile input to the real server: it responds with an error or disconnects in time and logs the reason, its memory does not grow, and another stream
//! is unaffected throughout.

mod rtmp;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::{Broadcaster, Cdn, TIMEOUT, TestEnv, Viewer, until};

use rtmp::{RawRtmpClient, amf, command};

/// A server under attack, with a live stream that a viewer watches before, during and after the attack.
struct AttackedServer {
    cdn: Cdn,
    /// The stream key for attacks that publish.
    other_key: String,
    broadcaster: Broadcaster,
    viewer: Viewer,
    memory_kib: u64,
    _env: TestEnv,
}

impl AttackedServer {
    fn start() -> Result<Self> {
        let env = TestEnv::new()?;
        let (key, other_key) = (Cdn::key(&env, "live")?, Cdn::key(&env, "other")?);
        let config = env.path("cdn.toml");
        // Shorter than the default, to shorten the test.
        std::fs::write(&config, format!("[rtmp]\nhandshake_timeout = \"{}s\"\n", HANDSHAKE.as_secs()))?;
        // Requests for missing streams are only logged at debug level.
        let options = ["--config", config.to_str().context("a path")?, "--log-level", "info,cdn=debug"];
        let cdn = Cdn::start(&env, &options)?;
        let mut viewer = Viewer::start(&env, &cdn.rtmp_url("live"), &[])?;
        let broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
        viewer.wait_pictures(60, TIMEOUT)?;
        let memory_kib = cdn.process.memory_kib()?;
        Ok(Self { cdn, other_key, broadcaster, viewer, memory_kib, _env: env })
    }

    fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.cdn.rtmp)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(stream)
    }

    /// A client whose handshake is done.
    fn client(&self) -> Result<RawRtmpClient> {
        RawRtmpClient::handshake(self.connect()?)
    }

    /// A client that publishes as the other stream.
    fn publisher(&self) -> Result<RawRtmpClient> {
        let mut client = self.client()?;
        client.publish(&self.other_key)?;
        Ok(client)
    }

    /// Waits for a log line with each of these reasons.
    fn ensure_logged(&self, reasons: &[&str]) -> Result<()> {
        for reason in reasons {
            until(TIMEOUT, &format!("a line of the log that says {reason:?}"), || {
                let log = self.cdn.process.log();
                Ok(log.lines().any(|line| line.starts_with('{') && line.contains(reason)).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Ends the attack. Fails unless the server runs, the viewer lost no frame, and memory is back to normal.
    fn finish(mut self) -> Result<()> {
        ensure!(self.cdn.process.running()?, "the server ended");
        ensure!(self.broadcaster.process.running()?, "the broadcaster ended");
        ensure!(!self.cdn.process.log().contains("panicked"), "something in the server panicked");
        let seen = self.viewer.pictures()?;
        self.viewer.wait_pictures(seen + 30, TIMEOUT)?;
        self.viewer.finish()?.ensure_unbroken(60)?;
        let cdn = &self.cdn;
        let grown = || -> Result<u64> { Ok(cdn.process.memory_kib()?.saturating_sub(self.memory_kib)) };
        until(TIMEOUT, &format!("memory to be back within {} MiB", GROWTH_KIB >> 10), || {
            Ok((grown()? < GROWTH_KIB).then_some(()))
        })
        .with_context(|| format!("grown by {:?} KiB from {}", grown(), self.memory_kib))
    }
}

#[test]
fn noise_and_other_protocols() -> Result<()> {
    let server = AttackedServer::start()?;
    let mut noise = Noise(7);
    for round in 0..40 {
        let mut stream = server.connect()?;
        let bytes: Vec<u8> = match round % 4 {
            0 => noise.take(64 << 10).collect(),
            1 => [3].into_iter().chain(noise.take(64 << 10)).collect(),
            2 => b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n".repeat(200),
            _ => vec![round as u8; 64 << 10],
        };
        // The server may disconnect while data is still being sent.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        hangs_up(&mut stream)?;
    }
    // A valid handshake, then noise instead of chunks.
    for _ in 0..40 {
        let mut client = server.client()?;
        let _ = client.send(&noise.take(256 << 10).collect::<Vec<u8>>());
        let _ = client.stream.shutdown(Shutdown::Write);
        hangs_up(&mut client.stream)?;
    }
    server.ensure_logged(&[
        "this is not RTMP: the peer speaks HTTP",
        "this is not RTMP: the peer speaks something else",
        "the peer requests RTMP version",
        "which needs a preceding chunk",
    ])?;
    server.finish()
}

#[test]
fn truncated_handshakes_and_silent_sockets() -> Result<()> {
    let server = AttackedServer::start()?;
    let mut silent = Vec::new();
    for length in [0, 1, 2, 9, 1536, 1537, 1538, 3072] {
        let bytes: Vec<u8> = [3].into_iter().chain(std::iter::repeat(0)).take(length).collect();
        // One connection closes midway, one stays silent, one is reset.
        let mut closing = server.connect()?;
        closing.write_all(&bytes)?;
        closing.shutdown(Shutdown::Write)?;
        hangs_up(&mut closing)?;
        drop({
            let mut reset = server.connect()?;
            reset.write_all(&bytes)?;
            reset
        });
        let mut quiet = server.connect()?;
        quiet.write_all(&bytes)?;
        silent.push(quiet);
    }
    // More connections than any client opens, all at once.
    for _ in 0..150 {
        silent.push(server.connect()?);
    }
    // Slowly trickling bytes must not extend the deadline.
    let mut trickle = server.connect()?;
    let begun = Instant::now();
    let mut gone = false;
    while begun.elapsed() < TIMEOUT && !gone {
        gone = trickle.write_all(&[3]).is_err() || closed_now(&mut trickle)?;
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(gone, "a byte every 100 ms kept the handshake open beyond its deadline");
    for stream in &mut silent {
        hangs_up(stream)?;
    }
    server.ensure_logged(&[
        "no publish or play within 5s",
        "the peer closed the connection while we waited for publish or play",
    ])?;
    server.finish()
}

#[test]
fn out_of_range_message_lengths_and_chunk_sizes() -> Result<()> {
    let server = AttackedServer::start()?;
    // A message of 16 MiB minus one of every type, and as many of its bytes as the server reads.
    for kind in [1, 3, 8, 9, 15, 17, 18, 20, 22, 99] {
        let mut client = server.client()?;
        let mut flood = || -> Result<()> {
            client.send(&rtmp::header(3, 0, 0xff_ffff, kind, 0))?;
            for _ in 0..(4 << 20) / 128 {
                client.send(&[0; 128])?;
                client.send(&[0xc3])?;
            }
            Ok(())
        };
        let _ = flood();
        let _ = client.stream.shutdown(Shutdown::Write);
        hangs_up(&mut client.stream).with_context(|| format!("message type {kind}"))?;
    }
    // Set Chunk Size: 0, 1, the largest, and with its reserved bit set.
    for size in [0u32, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
        for _ in 0..10 {
            let mut client = server.client()?;
            let _ = client.message(2, 1, 0, &size.to_be_bytes());
            let _ = client.message(3, 20, 0, &command("connect", 1.0, &[]));
            let _ = client.send(&rtmp::header(3, 0, 0xff_ffff, 20, 0));
            let _ = client.send(&vec![0; 256 << 10]);
            let _ = client.stream.shutdown(Shutdown::Write);
            hangs_up(&mut client.stream).with_context(|| format!("chunk size {size:#x}"))?;
        }
    }
    // Many chunk streams, each with a message that never completes.
    for _ in 0..5 {
        let mut client = server.client()?;
        for id in 64..2000u32 {
            let mut chunk = rtmp::header(id, 0, 0xf_ffff, 9, 1);
            chunk.extend([0; 128]);
            if client.send(&chunk).is_err() {
                break;
            }
        }
        let _ = client.stream.shutdown(Shutdown::Write);
        hangs_up(&mut client.stream)?;
    }
    server.ensure_logged(&[
        "announces 16777215 bytes; the limit is",
        "the peer sets a chunk size of 0;",
        "the peer sets a chunk size of 2147483648;",
        "connect: it has no command object",
    ])?;
    server.finish()
}

#[test]
fn malformed_and_deeply_nested_commands() -> Result<()> {
    let server = AttackedServer::start()?;
    let nested_objects: Vec<u8> = [3, 0, 1, b'a'].repeat(5_000);
    let nested_arrays: Vec<u8> = [10, 0, 0, 0, 1].repeat(4_000);
    let nested_ecma: Vec<u8> = [8, 0, 0, 0, 1, 0, 1, b'a'].repeat(2_500);
    let shapes: Vec<(u8, Vec<u8>)> = vec![
        (20, nested_objects.clone()),
        (20, command("connect", 1.0, &nested_objects)),
        (20, command("connect", 1.0, &nested_arrays)),
        (20, command("connect", 1.0, &nested_ecma)),
        (18, nested_objects),
        // A type 17 message begins with a format byte, followed by a command.
        (17, vec![0]),
        (17, vec![]),
        (17, vec![3]),
        (18, amf::string("@setDataFrame")),
        (18, vec![]),
        (20, vec![]),
        (20, amf::string("connect")),
        (20, amf::number(1.0)),
        (20, vec![2, 0xff, 0xff, b'x']),
        (20, vec![12, 0xff, 0xff, 0xff, 0xff]),
        (20, vec![10, 0xff, 0xff, 0xff, 0xff]),
        (20, vec![8, 0xff, 0xff, 0xff, 0xff, 0, 1, b'a']),
        (20, command("connect", f64::NAN, &amf::string("not an object"))),
        (20, command("publish", 0.0, &[5])),
        (20, command("play", f64::INFINITY, &[])),
        (20, command("nonsense", 9.0, &[5])),
        (4, vec![]),
        (4, vec![0, 6]),
        (5, vec![0]),
        (6, vec![0; 4]),
        (2, vec![]),
        (3, vec![0xff; 3]),
        (22, vec![0xff; 10]),
        (22, vec![9, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for (kind, body) in &shapes {
        // As the first message, and after a good `connect`.
        for connected in [false, true] {
            let mut client = server.client()?;
            if connected {
                client.connect()?;
            }
            let _ = client.message(3, *kind, 0, body);
            let _ = client.stream.shutdown(Shutdown::Write);
            hangs_up(&mut client.stream)
                .with_context(|| format!("type {kind}, {} bytes, connected: {connected}", body.len()))?;
        }
    }
    // Endless `createStream`.
    let mut client = server.client()?;
    client.connect()?;
    let begun = Instant::now();
    let create = command("createStream", 2.0, &[5]);
    while client.message(3, 20, 0, &create).is_ok() && begun.elapsed() < TIMEOUT {}
    ensure!(begun.elapsed() < TIMEOUT, "createStream was answered endlessly");
    server.ensure_logged(&[
        "is nested deeper than",
        "a command: AMF0 ends inside a value, at byte",
        "it does not begin with a name",
        "an AMF3 command is not AMF0 within",
        "a control message of type",
        "play: it has no name",
        "publish: it has no name",
        "an aggregate message ends inside a tag",
        "the limit of 8 message streams",
    ])?;
    server.finish()
}

#[test]
fn publishing_malformed_media() -> Result<()> {
    let server = AttackedServer::start()?;
    let mut noise = Noise(11);
    for round in 0..60u32 {
        // Data and aggregate messages may end the connection before other messages are parsed: every other round omits them.
        let kinds = if round % 2 == 0 { [8, 9, 18, 22] } else { [8, 9, 8, 9] };
        let mut client = server.publisher().with_context(|| format!("round {round}"))?;
        let _ = (|| -> Result<()> {
            for n in 0..200 {
                let length = noise.next().unwrap_or(0) as usize * 8;
                let mut body: Vec<u8> = noise.take(length).collect();
                // Half of them begin like valid tags, so that more than the first byte is parsed.
                if let Some(first) = body.first_mut().filter(|_| n % 2 == 0) {
                    *first = [0x17, 0x27, 0xaf, 0x90, 0x91, 0x95, 0x96, 0x1c][n / 2 % 8];
                }
                client.message(4, kinds[n % 4], 1, &body)?;
            }
            Ok(())
        })();
        let _ = client.stream.shutdown(Shutdown::Write);
        hangs_up(&mut client.stream)?;
    }
    // Valid, but often mishandled: an audio message between two chunks of a video message.
    let mut client = server.publisher()?;
    let mut bytes = rtmp::header(6, 0, 200, 9, 1);
    bytes.extend([0x27; 128]);
    bytes.extend(rtmp::header(4, 0, 4, 8, 1));
    bytes.extend([0xaf, 1, 0x21, 0x10]);
    bytes.push(0xc6);
    bytes.extend([0; 72]);
    client.send(&bytes)?;
    server.ensure_logged(&[
        "an aggregate message ends inside a tag",
        "is not supported",
        "has no decoder configuration yet",
    ])?;
    server.finish()
}

#[test]
fn requests_for_missing_streams_and_files() -> Result<()> {
    let server = AttackedServer::start()?;
    for path in [
        "/nowhere/index.m3u8",
        "/nowhere/media.m3u8",
        "/nowhere/init-0.mp4",
        "/live/seg-999999.m4s",
        "/live/seg-x.m4s",
        "/live/init-77.mp4",
    ] {
        let answer = server.cdn.get(path)?;
        ensure!(answer.status == 404, "{path}: {}", answer.status);
        ensure!(answer.body.len() < 4096, "{path}: an answer of {} bytes", answer.body.len());
    }
    let long = format!("/{}/index.m3u8", "a".repeat(30_000));
    for path in [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/live/../../keys.toml",
        "/assets/../../Cargo.toml",
        "/\u{7f}",
        "/live/seg--1.m4s",
        &long,
    ] {
        let status = server.cdn.get(path).map(|answer| answer.status);
        ensure!(!matches!(status, Ok(200 | 500..)), "{path:.40}: {status:?}");
    }
    // Incomplete requests, and endless headers.
    let mut slow: Vec<TcpStream> = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(server.cdn.http)?;
        stream.write_all(b"GET /live HTTP/1.1\r\nHost: x\r\nX-A: ")?;
        slow.push(stream);
    }
    let mut endless = TcpStream::connect(server.cdn.http)?;
    endless.set_write_timeout(Some(TIMEOUT))?;
    endless.write_all(b"GET / HTTP/1.1\r\n")?;
    let mut sent = 0;
    while sent < 16 << 20 && endless.write_all(&b"X-Header: value value value\r\n".repeat(100)).is_ok() {
        sent += 2_900;
    }
    ensure!(sent < 16 << 20, "16 MiB of headers were read");

    // By RTMP: rejected at once with the reason.
    let mut client = server.client()?;
    client.play("nowhere")?;
    let said = client.wait_for(b"NetStream.Play.")?;
    ensure!(
        contains(&said, b"NetStream.Play.StreamNotFound"),
        "not rejected with StreamNotFound: {}",
        String::from_utf8_lossy(&said)
    );
    server.ensure_logged(&["player rejected: no such stream", "HTTP request for an unknown stream"])?;
    server.finish()
}

/// Reads until the server disconnects. Fails if it does not within its deadline.
fn hangs_up(stream: &mut TcpStream) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    let mut buffer = [0; 16 << 10];
    stream.set_read_timeout(Some(TIMEOUT))?;
    while Instant::now() < deadline {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => break,
            // Reset: disconnected with unread bytes.
            Err(_) => return Ok(()),
        }
    }
    bail!("the server kept the connection for more than {:?}", TIMEOUT)
}

fn closed_now(stream: &mut TcpStream) -> Result<bool> {
    stream.set_read_timeout(Some(Duration::from_millis(1)))?;
    let mut buffer = [0; 4096];
    Ok(match stream.read(&mut buffer) {
        Ok(n) => n == 0,
        Err(e) => !matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
    })
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Reproducible noise: xorshift.
struct Noise(u64);

impl Iterator for &mut Noise {
    type Item = u8;
    fn next(&mut self) -> Option<u8> {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Some((self.0 >> 32) as u8)
    }
}

impl Noise {
    fn next(&mut self) -> Option<u8> {
        Iterator::next(&mut &mut *self)
    }

    fn take(&mut self, count: usize) -> impl Iterator<Item = u8> {
        Iterator::take(self, count)
    }
}

/// The server's handshake timeout in this test: enough for valid handshakes, and short enough to wait for the end of stalled ones.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Tolerated growth of memory, KiB: the live stream fills its own windows meanwhile (30 s of less than 1 Mbit/s, as units and as segments). The attacks send
/// hundreds of MiB.
const GROWTH_KIB: u64 = 32 << 10;
