//! The players: one thread, one poll, many sockets; each reads chunks and detects the last byte of each video frame.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::Address;
use crate::load::{MARK, nanos};

/// Players of one server.
pub(crate) struct Players {
    server: Address,
    poll: Poll,
    players: Vec<(TcpStream, Chunks)>,
    buffer: Vec<u8>,
    delays: Vec<f64>,
}

impl Players {
    pub(crate) fn start(server: Address) -> anyhow::Result<Self> {
        Ok(Self { server, poll: Poll::new()?, players: Vec::new(), buffer: vec![0; 256 << 10], delays: Vec::new() })
    }

    /// Connects `count` more players and starts their playback.
    pub(crate) fn join(&mut self, count: usize) -> anyhow::Result<()> {
        for _ in 0..count {
            let mut socket = std::net::TcpStream::connect(self.server)?;
            socket.set_read_timeout(Some(Duration::from_secs(10)))?;
            socket.set_nodelay(true)?;
            let mut hello = vec![0u8; 1 + 1536];
            hello[0] = 3;
            socket.write_all(&hello)?;
            let mut answer = vec![0u8; 1 + 2 * 1536];
            socket.read_exact(&mut answer).context("handshake")?;
            socket.write_all(&answer[1..1537])?;
            socket.write_all(&commands())?;
            let mut chunks = Chunks::default();
            while !chunks.plays {
                let count = socket.read(&mut self.buffer).context("play")?;
                if count == 0 {
                    bail!("the server refused a player");
                }
                chunks.read(&self.buffer[..count], &mut self.delays)?;
            }
            socket.set_nonblocking(true)?;
            let mut socket = TcpStream::from_std(socket);
            self.poll.registry().register(&mut socket, Token(self.players.len()), Interest::READABLE)?;
            self.players.push((socket, chunks));
        }
        Ok(())
    }

    /// Plays for `time`; returns the actual duration.
    pub(crate) fn run_for(&mut self, time: Duration) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let mut events = Events::with_capacity(1024);
        while let Some(left) = time.checked_sub(start.elapsed()) {
            self.poll.poll(&mut events, Some(left))?;
            for event in &events {
                let (socket, chunks) = &mut self.players[event.token().0];
                loop {
                    match socket.read(&mut self.buffer) {
                        Ok(0) => bail!("the server closed a player"),
                        Ok(count) => {
                            chunks.read(&self.buffer[..count], &mut self.delays)?;
                            // New bytes are a new event.
                            if count < self.buffer.len() {
                                break;
                            }
                        }
                        Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                        Err(e) => return Err(e.into()),
                    }
                }
            }
        }
        Ok(start.elapsed())
    }

    /// Discards the delays measured so far.
    pub(crate) fn forget(&mut self) {
        self.delays.clear();
    }

    /// Delays of all video frames of all players, in milliseconds, sorted.
    pub(crate) fn delays(&mut self) -> Vec<f64> {
        self.delays.sort_by(f64::total_cmp);
        std::mem::take(&mut self.delays)
    }
}

impl Drop for Players {
    fn drop(&mut self) {
        for (socket, _) in &self.players {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// `connect`, `createStream` and `play`, each in one chunk (RTMP 1.0 §7.2).
fn commands() -> Vec<u8> {
    let string = |text: &str| [&[2, 0, text.len() as u8], text.as_bytes()].concat();
    let number = |n: f64| [&[0][..], &n.to_be_bytes()].concat();
    let key = |text: &str| [&[0, text.len() as u8], text.as_bytes()].concat();
    let connect = [string("connect"), number(1.0), vec![3], key("app"), string("live"), vec![0, 0, 9]].concat();
    let create = [string("createStream"), number(2.0), vec![5]].concat();
    let play = [string("play"), number(3.0), vec![5], string("live")].concat();
    let message = |stream: u8, body: &[u8]| {
        assert!(body.len() <= 128, "one chunk");
        [&[3, 0, 0, 0, 0, 0, body.len() as u8, 20, stream, 0, 0, 0], body].concat()
    };
    [message(0, &connect), message(0, &create), message(1, &play)].concat()
}

/// Parses chunks (RTMP 1.0 §5.3) only as far as needed to find the ends of messages.
#[derive(Default)]
struct Chunks {
    chunk_size: Option<usize>,
    /// Bytes of an incomplete header.
    partial: Vec<u8>,
    streams: HashMap<u8, Message>,
    /// The chunk stream of the current chunk, and the number of bytes still missing of the chunk.
    current: Option<(u8, usize)>,
    /// Whether the server has sent `NetStream.Play.Start`.
    plays: bool,
}

#[derive(Default)]
struct Message {
    kind: u8,
    length: usize,
    received: usize,
    is_extended: bool,
    head: Vec<u8>,
}

impl Chunks {
    fn read(&mut self, mut bytes: &[u8], delays: &mut Vec<f64>) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            let Some((stream, missing)) = self.current else {
                self.partial.push(bytes[0]);
                bytes = &bytes[1..];
                self.header();
                continue;
            };
            let taken = missing.min(bytes.len());
            let message = self.streams.get_mut(&stream).expect("its header was read");
            let room = HEAD.saturating_sub(message.head.len());
            message.head.extend_from_slice(&bytes[..taken.min(room)]);
            message.received += taken;
            bytes = &bytes[taken..];
            self.current = (taken < missing).then_some((stream, missing - taken));
            if message.received == message.length {
                let message = std::mem::take(&mut message.head);
                self.message(stream, &message, delays)?;
            }
        }
        Ok(())
    }

    /// Parses `partial` if it is a complete header.
    fn header(&mut self) {
        let header = &self.partial;
        let (format, stream) = (header[0] >> 6, header[0] & 63);
        let message = self.streams.entry(stream).or_default();
        let size = 1 + [11, 7, 3, 0][usize::from(format)];
        if header.len() < size {
            return;
        }
        if format < 3 {
            message.is_extended = header[1..4] == [0xff; 3];
        }
        if header.len() < size + if message.is_extended { 4 } else { 0 } {
            return;
        }
        if format < 2 {
            message.length = usize::from(header[4]) << 16 | usize::from(header[5]) << 8 | usize::from(header[6]);
            message.kind = header[7];
        }
        if message.received >= message.length || format < 3 {
            message.received = 0;
            message.head.clear();
        }
        let missing = (message.length - message.received).min(self.chunk_size.unwrap_or(128));
        self.current = Some((stream, missing));
        self.partial.clear();
    }

    fn message(&mut self, stream: u8, head: &[u8], delays: &mut Vec<f64>) -> anyhow::Result<()> {
        match self.streams[&stream].kind {
            1 => self.chunk_size = Some(u32::from_be_bytes(head[..4].try_into()?) as usize),
            9 if head.len() >= 26 && head[10..18] == MARK[..] => {
                let sent = u64::from_be_bytes(head[18..26].try_into()?);
                delays.push((nanos() - sent) as f64 / 1e6);
            }
            20 => self.plays |= head.windows(PLAYS.len()).any(|w| w == PLAYS),
            _ => {}
        }
        Ok(())
    }
}

const PLAYS: &[u8] = b"NetStream.Play.Start";
/// Bytes kept of a message: enough for a frame's time and a status.
const HEAD: usize = 256;
