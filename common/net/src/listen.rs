//! The address of a listener, as users write it, and the sockets bound to it.
//!
//! A port alone listens on all addresses of the machine, IPv6 and IPv4, by one dual-stack socket. Its IPv4 peers have IPv4-mapped addresses
//! (RFC 4291 §2.5.5.2): use [`canonical`] wherever an address is compared, counted or shown.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use socket2::{Domain, Protocol, Socket, Type};

/// Where a listener listens: `1935` or `:1935` for a port on all addresses, `127.0.0.1:1935` or `[::1]:1935` for one address. Port 0 lets the
/// system choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// This port on all IPv6 and IPv4 addresses.
    AnyAddress(u16),
    /// This address only. An unspecified address (`0.0.0.0`, `[::]`) means all addresses of its family.
    Address(SocketAddr),
}

/// The text is neither a port nor an address with a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no address to listen on: write a port (1935 or :1935), or an address and a port (127.0.0.1:1935, [::1]:1935)"
)]
pub struct InvalidListenAddress {
    text: String,
}

impl ListenAddress {
    /// The port; 0 for one that the system chooses.
    pub fn port(self) -> u16 {
        match self {
            Self::AnyAddress(port) => port,
            Self::Address(address) => address.port(),
        }
    }

    /// The one address that it names; `None` for all addresses.
    pub fn specific(self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) if !address.ip().is_unspecified() => Some(address),
            _ => None,
        }
    }

    /// What to do where this address cannot be bound, for errors that say so: who has it, or which there are.
    pub fn advice(self, error: &io::Error) -> String {
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("another program listens there; `ss -lntup 'sport = :{}'` shows which", self.port())
            }
            io::ErrorKind::AddrNotAvailable => {
                "this machine has no such address; `ip address` lists those that it has, and a port alone listens on all"
                    .to_owned()
            }
            io::ErrorKind::PermissionDenied if self.port() < FIRST_FREE_PORT => {
                format!("ports below {FIRST_FREE_PORT} need root or CAP_NET_BIND_SERVICE")
            }
            _ => "check the address".to_owned(),
        }
    }

    /// Binds a TCP socket and listens. The socket is non-blocking, and a restarted server can bind it again at once.
    ///
    /// # Errors
    /// If the address is not this machine's, in use, or not permitted.
    pub fn bind_tcp(self) -> io::Result<TcpListener> {
        self.bind(|address, dual_stack| {
            let socket = socket(address, Type::STREAM, Protocol::TCP, dual_stack)?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        })
    }

    /// Binds a UDP socket, which is non-blocking.
    ///
    /// # Errors
    /// If the address is not this machine's, in use, or not permitted.
    pub fn bind_udp(self) -> io::Result<UdpSocket> {
        self.bind(|address, dual_stack| {
            let socket = socket(address, Type::DGRAM, Protocol::UDP, dual_stack)?;
            socket.bind(&address.into())?;
            Ok(socket.into())
        })
    }

    fn bind<S>(self, bind: impl Fn(SocketAddr, bool) -> io::Result<S>) -> io::Result<S> {
        match self {
            Self::Address(address) => bind(address, false),
            Self::AnyAddress(port) => match bind((Ipv6Addr::UNSPECIFIED, port).into(), true) {
                // The kernel has no IPv6.
                Err(error) if is_without_ipv6(&error) => bind((Ipv4Addr::UNSPECIFIED, port).into(), false),
                bound => bound,
            },
        }
    }
}

impl FromStr for ListenAddress {
    type Err = InvalidListenAddress;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = text.strip_prefix(':').unwrap_or(text);
        let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let parsed =
            if is_port { port.parse().ok().map(Self::AnyAddress) } else { text.parse().ok().map(Self::Address) };
        parsed.ok_or_else(|| InvalidListenAddress { text: text.to_owned() })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyAddress(port) => write!(f, ":{port}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl Serialize for ListenAddress {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// The address without IPv4-mapped IPv6: `::ffff:192.0.2.1` is `192.0.2.1`.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol, dual_stack: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if dual_stack {
        // The system's default is a sysctl.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether the error says that this machine has no IPv6, so that IPv4 alone is meant.
fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EAFNOSUPPORT)) || error.kind() == io::ErrorKind::AddrNotAvailable
}

/// Connections that wait to be accepted: a burst of players that return after an outage.
const BACKLOG: i32 = 4096;
/// Lower ports need a privilege (capabilities(7)).
const FIRST_FREE_PORT: u16 = 1024;
/// "Address family not supported by protocol"; the standard library has no name for it.
#[cfg(target_os = "linux")]
const EAFNOSUPPORT: i32 = 97;
#[cfg(not(target_os = "linux"))]
const EAFNOSUPPORT: i32 = 47;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn an_address_that_cannot_be_bound_is_told_with_what_to_do() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = holder.local_addr().unwrap();
        for (address, advice) in [
            (taken.to_string(), format!("`ss -lntup 'sport = :{}'`", taken.port())),
            ("192.0.2.1:5000".to_owned(), "`ip address`".to_owned()),
        ] {
            let address: ListenAddress = address.parse().unwrap();
            let error = address.bind_tcp().unwrap_err();
            assert!(address.advice(&error).contains(&advice), "{address} {error}: {}", address.advice(&error));
        }
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(ListenAddress::AnyAddress(80).advice(&denied).contains("CAP_NET_BIND_SERVICE"));
    }

    #[test]
    fn a_port_alone_means_all_addresses() {
        for (text, expected, shown) in [
            ("1935", Some(ListenAddress::AnyAddress(1935)), ":1935"),
            (":1935", Some(ListenAddress::AnyAddress(1935)), ":1935"),
            (":0", Some(ListenAddress::AnyAddress(0)), ":0"),
            ("0.0.0.0:1", Some(ListenAddress::Address(([0, 0, 0, 0], 1).into())), "0.0.0.0:1"),
            ("[::1]:1", Some(ListenAddress::Address((Ipv6Addr::LOCALHOST, 1).into())), "[::1]:1"),
            ("", None, ""),
            (":", None, ""),
            (":65536", None, ""),
            ("-1", None, ""),
            ("+1", None, ""),
            ("here:1", None, ""),
            ("127.0.0.1", None, ""),
        ] {
            let parsed = text.parse::<ListenAddress>().ok();
            assert_eq!(parsed, expected, "{text}");
            assert_eq!(parsed.map_or_else(String::new, |address| address.to_string()), shown);
        }
    }

    #[test]
    fn a_port_alone_is_reached_by_ipv4_and_ipv6() {
        let listener = ListenAddress::AnyAddress(0).bind_tcp().unwrap();
        listener.set_nonblocking(false).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut addresses: Vec<SocketAddr> = vec![(Ipv4Addr::LOCALHOST, port).into()];
        // A machine without IPv6 has no such loopback address.
        if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            addresses.push((Ipv6Addr::LOCALHOST, port).into());
        }
        for address in addresses {
            let mut client = TcpStream::connect(address).unwrap();
            let (mut server, peer) = listener.accept().unwrap();
            assert_eq!(canonical(peer), client.local_addr().unwrap());
            client.write_all(b"x").unwrap();
            let mut byte = [0];
            server.read_exact(&mut byte).unwrap();
        }
        let udp = ListenAddress::AnyAddress(0).bind_udp().unwrap();
        let port = udp.local_addr().unwrap().port();
        udp.set_nonblocking(false).unwrap();
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", ("127.0.0.1", port)).unwrap();
        assert_eq!(udp.recv_from(&mut [0]).unwrap().0, 1);
    }

    /// The backlog that the kernel reports for a listening socket, as `ss` prints it.
    fn backlog(port: u16) -> i32 {
        let output =
            std::process::Command::new("ss").args(["-Hltn", "sport", "=", &format!(":{port}")]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().nth(2).unwrap_or_else(|| panic!("{port} is not in {text:?}")).parse().unwrap()
    }

    #[test]
    fn a_burst_of_clients_fits_into_the_backlog() {
        let system = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
        for address in ["127.0.0.1:0", "0"] {
            let listener = address.parse::<ListenAddress>().unwrap().bind_tcp().unwrap();
            assert_eq!(backlog(listener.local_addr().unwrap().port()), BACKLOG.min(system), "{address}");
        }
    }
}
