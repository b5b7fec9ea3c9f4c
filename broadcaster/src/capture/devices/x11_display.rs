//! Whether an X11 display can be connected to, asked before anything is captured: FFmpeg reports a missing one as an input/output error.
//!
//! Display names are `[HOST]:NUMBER[.SCREEN]` (X(7)); FFmpeg's x11grab appends `+X,Y`.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Connects to the X server of `display` and disconnects.
///
/// # Errors
/// If the name is none of a display, or nothing answers there.
pub(super) fn connect(display: &str) -> io::Result<()> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "the name of a display is [HOST]:NUMBER");
    let (host, number) = parse(display).ok_or_else(wrong)?;
    if host.is_empty() || host == "unix" {
        let path = format!("/tmp/.X11-unix/X{number}");
        return local(&path);
    }
    let addresses = (host, X11_PORT.checked_add(number).ok_or_else(wrong)?).to_socket_addrs()?;
    let mut result = Err(wrong());
    for address in addresses {
        result = TcpStream::connect_timeout(&address, TIMEOUT).map(drop);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// By the socket's file, or by its name in Linux' abstract namespace, which Xlib tries first.
fn local(path: &str) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::SocketAddr;
        if UnixStream::connect_addr(&SocketAddr::from_abstract_name(path)?).is_ok() {
            return Ok(());
        }
    }
    UnixStream::connect(path).map(drop)
}

/// The host, which may be empty, and the number of a display.
fn parse(display: &str) -> Option<(&str, u16)> {
    let (host, rest) = display.rsplit_once(':')?;
    let number = rest.split(['.', '+']).next()?;
    Some((host, number.parse().ok()?))
}

/// TCP port of display 0 (X(7)).
const X11_PORT: u16 = 6000;
/// An X server on another host answers within a round trip.
const TIMEOUT: Duration = Duration::from_secs(5);

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
        if let Some(number) = port.checked_sub(X11_PORT) {
            connect(&format!("127.0.0.1:{number}")).unwrap();
            drop(server);
            assert!(connect(&format!("127.0.0.1:{number}")).is_err());
        }
    }
}
