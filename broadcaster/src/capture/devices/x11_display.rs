//! Whether an X11 display can be connected to, asked before anything is captured: FFmpeg reports a missing one as an input/output error.
//!
//! Display names are `[HOST]:NUMBER[.SCREEN]` (X(7)); FFmpeg's x11grab appends `+X,Y`.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

/// Connects to the X server of `display`, waits for its answer and disconnects. No step waits longer than [`TIMEOUT`]: a server that
/// hangs keeps its socket, and Xlib would wait for it without end.
///
/// # Errors
/// If the name is none of a display, or nothing answers there.
pub(super) fn connect(display: &str) -> io::Result<()> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "the name of a display is [HOST]:NUMBER");
    let (host, number) = parse(display).ok_or_else(wrong)?;
    if host.is_empty() || host == "unix" {
        let path = format!("/tmp/.X11-unix/X{number}");
        return await_answer(local(&path)?);
    }
    let addresses = (host, X11_PORT.checked_add(number).ok_or_else(wrong)?).to_socket_addrs()?;
    let mut result = Err(wrong());
    for address in addresses {
        result = TcpStream::connect_timeout(&address, TIMEOUT).and_then(|stream| {
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            await_answer(stream)
        });
        if result.is_ok() {
            break;
        }
    }
    result
}

/// By the socket's file, or by its name in Linux' abstract namespace, which Xlib tries first.
fn local(path: &str) -> io::Result<Socket> {
    #[cfg(target_os = "linux")]
    if let Ok(socket) = local_to(&format!("\0{path}")) {
        return Ok(socket);
    }
    local_to(path)
}

/// The standard library waits without end where a server's queue of connections is full.
fn local_to(path: &str) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    socket.connect(&SockAddr::unix(path)?).map_err(in_words)?;
    Ok(socket)
}

/// Asks the server for a connection without authorisation, and waits for the first byte of what it says: yes, no, or which authorisation it
/// wants (X Window System Protocol, "Connection Setup"). One that closes the connection instead, as that of `ssh -X` does, is there too.
fn await_answer(mut stream: impl Read + Write) -> io::Result<()> {
    let result = stream.write_all(&SETUP).and_then(|()| stream.read(&mut [0]).map(drop));
    match result.map_err(in_words) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(error),
        _ => Ok(()),
    }
}

fn in_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            let text = format!("its X server does not answer within {} s", TIMEOUT.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, text)
        }
        _ => error,
    }
}

/// The host, which may be empty, and the number of a display.
fn parse(display: &str) -> Option<(&str, u16)> {
    let (host, rest) = display.rsplit_once(':')?;
    let number = rest.split(['.', '+']).next()?;
    Some((host, number.parse().ok()?))
}

/// TCP port of display 0 (X(7)).
const X11_PORT: u16 = 6000;
/// An X server on another host answers within a round trip; one on a busy machine may take a while.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Little-endian, protocol 11.0, no authorisation.
const SETUP: [u8; 12] = [b'l', 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_are_parsed() {
        for (display, expected) in [
            (":0", Some(("", 0))),
            (":99.0+10,20", Some(("", 99))),
            ("host:1.0", Some(("host", 1))),
            ("::1:2", Some(("::1", 2))),
            ("unix:3", Some(("unix", 3))),
            ("0", None),
            (":x", None),
            ("", None),
        ] {
            assert_eq!(parse(display), expected, "{display}");
        }
    }

    #[test]
    fn a_display_that_nobody_serves_is_an_error() {
        assert!(connect(":64999").is_err());
        assert_eq!(connect("here").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let Some(number) = port.checked_sub(X11_PORT) else { return };
        let display = format!("127.0.0.1:{number}");
        let answering = std::thread::spawn(move || {
            // "Failed": it does not know us, but it is there; and without a word.
            for answer in [&[0][..], &[]] {
                let (mut client, _) = server.accept().unwrap();
                let mut setup = [0; SETUP.len()];
                client.read_exact(&mut setup).unwrap();
                client.write_all(answer).unwrap();
            }
        });
        connect(&display).unwrap();
        connect(&display).unwrap();
        answering.join().unwrap();
        assert!(connect(&display).is_err());
    }

    #[test]
    fn a_server_that_hangs_is_not_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("X1");
        // It accepts no connection: the first wait in its queue, and the rest for a place in that.
        let server = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        server.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        server.listen(0).unwrap();
        let path = path.to_str().unwrap();
        let mut waiting = local_to(path).unwrap();
        waiting.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        for error in [await_answer(&mut waiting).unwrap_err(), local_to(path).unwrap_err()] {
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        }
    }
}
