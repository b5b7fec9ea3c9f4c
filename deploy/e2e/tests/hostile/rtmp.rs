//! A minimal RTMP client that can send malformed messages; independent of the project's own RTMP code.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Result, bail};
use e2e::TIMEOUT;

/// A client whose handshake is done (RTMP 1.0 §5.2).
pub(crate) struct RawRtmpClient {
    pub(crate) stream: TcpStream,
}

impl RawRtmpClient {
    pub(crate) fn handshake(mut stream: TcpStream) -> Result<Self> {
        let mut hello = vec![0; 1537];
        hello[0] = 3;
        stream.write_all(&hello)?;
        let mut answer = vec![0; 3073];
        stream.read_exact(&mut answer)?;
        stream.write_all(&answer[1..1537])?;
        Ok(Self { stream })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// One message in chunks of 128 bytes.
    pub(crate) fn message(&mut self, chunk_stream: u32, kind: u8, stream: u32, body: &[u8]) -> Result<()> {
        let mut bytes = header(chunk_stream, 0, body.len() as u32, kind, stream);
        for (n, part) in body.chunks(128).enumerate() {
            if n > 0 {
                bytes.push(0xc0 | chunk_stream as u8);
            }
            bytes.extend(part);
        }
        self.send(&bytes)
    }

    pub(crate) fn connect(&mut self) -> Result<()> {
        let mut object = vec![3];
        object.extend(amf::property("app", &amf::string("live")));
        object.extend([0, 0, 9]);
        self.message(3, 20, 0, &command("connect", 1.0, &object))?;
        self.wait_for(b"NetConnection.Connect.Success").map(drop)
    }

    pub(crate) fn publish(&mut self, key: &str) -> Result<()> {
        self.connect()?;
        self.message(3, 20, 0, &command("createStream", 2.0, &[5]))?;
        let arguments = [vec![5], amf::string(key), amf::string("live")].concat();
        self.message(3, 20, 1, &command("publish", 3.0, &arguments))?;
        self.wait_for(b"NetStream.Publish.Start").map(drop)
    }

    pub(crate) fn play(&mut self, name: &str) -> Result<()> {
        self.connect()?;
        self.message(3, 20, 0, &command("createStream", 2.0, &[5]))?;
        self.message(3, 20, 1, &command("play", 3.0, &[vec![5], amf::string(name)].concat()))
    }

    /// Reads until `wanted` was received, and returns everything read.
    pub(crate) fn wait_for(&mut self, wanted: &[u8]) -> Result<Vec<u8>> {
        let deadline = Instant::now() + TIMEOUT;
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        while !super::contains(&said, wanted) {
            let n = self.stream.read(&mut buffer)?;
            said.extend_from_slice(&buffer[..n]);
            if n == 0 || Instant::now() > deadline {
                bail!(
                    "no {} in the server's response: {}",
                    String::from_utf8_lossy(wanted),
                    String::from_utf8_lossy(&said)
                );
            }
        }
        Ok(said)
    }
}

/// A type 0 chunk header (RTMP 1.0 §5.3.1).
pub(crate) fn header(chunk_stream: u32, timestamp: u32, length: u32, kind: u8, stream: u32) -> Vec<u8> {
    let mut bytes = match chunk_stream {
        0..64 => vec![chunk_stream as u8],
        64..320 => vec![0, (chunk_stream - 64) as u8],
        _ => vec![1, (chunk_stream - 64) as u8, ((chunk_stream - 64) >> 8) as u8],
    };
    bytes.extend(&timestamp.to_be_bytes()[1..]);
    bytes.extend(&length.to_be_bytes()[1..]);
    bytes.push(kind);
    bytes.extend(stream.to_le_bytes());
    bytes
}

/// The body of a command message: its name, its transaction, and `rest`.
pub(crate) fn command(name: &str, transaction: f64, rest: &[u8]) -> Vec<u8> {
    [&amf::string(name)[..], &amf::number(transaction), rest].concat()
}

/// Encoders of AMF0 values (AMF0 specification §2).
pub(crate) mod amf {
    pub(crate) fn string(text: &str) -> Vec<u8> {
        [&[2][..], &(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
    }

    pub(crate) fn number(value: f64) -> Vec<u8> {
        [&[0][..], &value.to_be_bytes()].concat()
    }

    pub(crate) fn property(name: &str, value: &[u8]) -> Vec<u8> {
        [&(name.len() as u16).to_be_bytes()[..], name.as_bytes(), value].concat()
    }
}
