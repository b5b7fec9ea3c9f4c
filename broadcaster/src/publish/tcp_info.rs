//! What the kernel knows of the push's connection: `TCP_INFO` (tcp(7)). Other platforms than Linux tell nothing.

use std::time::Duration;

use net::rtmp::client::Publisher;

/// A part of `struct tcp_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TcpInfo {
    /// The smoothed RTT.
    pub(super) rtt: Duration,
    /// Bytes that the server's host has acknowledged.
    pub(super) acknowledged: u64,
    /// Bytes in the socket that were not sent yet; `None` before kernel 4.6.
    pub(super) unsent: Option<u32>,
}

/// Asks the kernel; `None` if the connection is none of TCP, or the kernel is older than 4.1 and does not count.
#[cfg(target_os = "linux")]
pub(super) fn read(publisher: &Publisher) -> Option<TcpInfo> {
    use std::os::fd::AsRawFd;

    let mut info = [0u8; 148];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the socket is open as long as it is borrowed, and the kernel writes `length` bytes at most.
    let result = unsafe {
        libc::getsockopt(
            publisher.socket()?.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    (result == 0).then(|| parse(&info[..(length as usize).min(info.len())])).flatten()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn read(_: &Publisher) -> Option<TcpInfo> {
    None
}

/// Fields of `struct tcp_info` (linux/tcp.h), which only grows at its end.
#[cfg(target_os = "linux")]
fn parse(info: &[u8]) -> Option<TcpInfo> {
    let rtt = u32::from_ne_bytes(*info.get(RTT..)?.first_chunk()?);
    let acknowledged = u64::from_ne_bytes(*info.get(BYTES_ACKED..)?.first_chunk()?);
    let unsent = info.get(NOTSENT_BYTES..).and_then(|rest| rest.first_chunk()).map(|bytes| u32::from_ne_bytes(*bytes));
    Some(TcpInfo { rtt: Duration::from_micros(rtt.into()), acknowledged, unsent })
}

/// The offset of `tcpi_rtt`, in microseconds.
#[cfg(target_os = "linux")]
const RTT: usize = 68;
/// The offset of `tcpi_bytes_acked`.
#[cfg(target_os = "linux")]
const BYTES_ACKED: usize = 120;
/// The offset of `tcpi_notsent_bytes`.
#[cfg(target_os = "linux")]
const NOTSENT_BYTES: usize = 144;

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_linux_puts_them() {
        let mut info = [0u8; 148];
        info[68..72].copy_from_slice(&1500u32.to_ne_bytes());
        info[120..128].copy_from_slice(&7_000_000_000u64.to_ne_bytes());
        info[144..148].copy_from_slice(&9000u32.to_ne_bytes());
        let expected = TcpInfo { rtt: Duration::from_micros(1500), acknowledged: 7_000_000_000, unsent: Some(9000) };
        assert_eq!(parse(&info), Some(expected));
        assert_eq!(parse(&info[..136]), Some(TcpInfo { unsent: None, ..expected }));
        assert_eq!(parse(&info[..104]), None, "an old kernel");
    }
}
