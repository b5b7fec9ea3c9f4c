//! The handshake (RTMP 1.0 §5.2): rml_rtmp's, behind a check of the first byte.
//!
//! Both plain and digest handshakes are answered. The peer's echo is not verified: widely used encoders get it wrong, and it proves
//! nothing. A step holds at most its packet and the bytes read together with it.

use rml_rtmp::handshake::{HandshakeProcessResult, PeerType};

use super::Error;

/// One end of a handshake in progress.
pub struct Handshake {
    inner: rml_rtmp::handshake::Handshake,
    first_byte_seen: bool,
}

impl Handshake {
    /// The server's end.
    pub fn server() -> Self {
        Self { inner: rml_rtmp::handshake::Handshake::new(PeerType::Server), first_byte_seen: false }
    }

    /// The client's end, and C0 + C1 to send.
    pub fn client() -> (Self, Vec<u8>) {
        let mut inner = rml_rtmp::handshake::Handshake::new(PeerType::Client);
        let opening = inner.generate_outbound_p0_and_p1().expect("a fresh handshake has its first packets");
        (Self { inner, first_byte_seen: false }, opening)
    }

    /// Takes bytes from the peer. Returns the bytes to send and, once the handshake is complete, the bytes received after it.
    ///
    /// # Errors
    /// [`Error::NotRtmp`] and [`Error::Version`], decided by the first byte.
    pub fn input(&mut self, bytes: &[u8]) -> Result<(Vec<u8>, Option<Vec<u8>>), Error> {
        if let (false, Some(first)) = (self.first_byte_seen, bytes.first()) {
            check_version(*first)?;
            self.first_byte_seen = true;
        }
        match self.inner.process_bytes(bytes) {
            Ok(HandshakeProcessResult::InProgress { response_bytes }) => Ok((response_bytes, None)),
            Ok(HandshakeProcessResult::Completed { response_bytes, remaining_bytes }) => {
                Ok((response_bytes, Some(remaining_bytes)))
            }
            Err(_) => Err(Error::Protocol { what: "the handshake is malformed" }),
        }
    }
}

fn check_version(first: u8) -> Result<(), Error> {
    match first {
        3 => Ok(()),
        b'G' | b'P' | b'H' | b'O' | b'D' | b'C' | b'T' => Err(Error::NotRtmp { protocol: "HTTP" }),
        0x16 | 0x80 => Err(Error::NotRtmp { protocol: "TLS" }),
        // RTMPE (6, 8, 9) and reserved versions.
        0..=31 => Err(Error::Version { version: first }),
        _ => Err(Error::NotRtmp { protocol: "something else" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_identifies_other_protocols() {
        let fails = |bytes: &[u8]| Handshake::server().input(bytes).unwrap_err().to_string();
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], "this is not RTMP: the peer speaks HTTP"),
            (b"\x16\x03\x01", "this is not RTMP: the peer speaks TLS"),
            (b"\xff", "this is not RTMP: the peer speaks something else"),
            (b"\x06", "the peer requests RTMP version 6; only version 3 is supported"),
            (b"\x00", "the peer requests RTMP version 0; only version 3 is supported"),
        ] {
            assert_eq!(fails(bytes), expected);
        }
    }

    #[test]
    fn a_plain_handshake_is_echoed_and_a_wrong_echo_is_accepted() {
        let mut server = Handshake::server();
        let mut c0c1 = vec![3];
        c0c1.extend((0..1536).map(|i| if i < 8 { 0 } else { (i % 251) as u8 }));
        let mut reply = Vec::new();
        // Byte by byte: the handshake must not depend on packet boundaries.
        for byte in &c0c1 {
            let (more, done) = server.input(&[*byte]).unwrap();
            reply.extend(more);
            assert!(done.is_none());
        }
        assert_eq!(reply.len(), 1 + 1536 + 1536);
        assert_eq!(reply[1537..], c0c1[1..], "S2 echoes C1");
        let mut c2 = vec![0; 1536];
        c2.extend(b"beyond");
        assert_eq!(server.input(&c2).unwrap(), (vec![], Some(b"beyond".to_vec())));
    }
}
