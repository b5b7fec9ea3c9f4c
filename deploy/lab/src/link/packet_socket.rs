//! The packet socket at one end of an emulated link, and the clock that its timestamps are converted to.
//!
//! It moves whole Ethernet frames between the kernel and a buffer; [`super::pipe`] decides what happens to them.
//!
//! rustix has neither the options of packet(7), nor `sockaddr_ll`, nor `SCM_TIMESTAMPNS`: these calls are libc's.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::time::{ClockId, clock_gettime};

/// A raw packet socket bound to one interface: it receives every frame that arrives there, for any address, and none that leaves there.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    fd: OwnedFd,
    kernel_drops: AtomicU64,
}

/// A frame that [`PacketSocket::receive`] put in the buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// Bytes, including the Ethernet header. Larger than the buffer if the frame was truncated.
    pub(crate) length: usize,
    /// When the kernel received the frame, on the clock of [`monotonic`].
    pub(crate) at: u64,
}

impl PacketSocket {
    /// Opens a socket on `interface` in the calling thread's namespace: non-blocking, promiscuous, with
    /// buffers of [`SOCKET_BUFFER`] and kernel timestamps.
    ///
    /// Fails when there is no such interface, or without CAP_NET_RAW and CAP_NET_ADMIN.
    pub(crate) fn open(interface: &str) -> Result<PacketSocket> {
        // Protocol 0 receives nothing until bind names the interface, so no frame of another one slips in.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None).context("make a packet socket")?;
        let index = name_to_index(&fd, interface).with_context(|| format!("find interface {interface}"))?;
        let promiscuous = libc::packet_mreq {
            mr_ifindex: index as i32,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        set_option(&fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32).context("ignore outgoing frames")?;
        for (what, force, ask) in [
            ("receive buffer", libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
            ("send buffer", libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
        ] {
            // The root of a user namespace cannot force the size and gets at most the machine's limit; frames dropped for it are counted.
            set_option(&fd, libc::SOL_SOCKET, force, &SOCKET_BUFFER)
                .or_else(|_| set_option(&fd, libc::SOL_SOCKET, ask, &SOCKET_BUFFER))
                .context(what)?;
        }
        set_option(&fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1i32).context("receive timestamps")?;
        set_option(&fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &promiscuous).context("promiscuous mode")?;
        // SAFETY: sockaddr_ll is a C structure of integers and arrays, for which all zeros is valid.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as i32;
        let size = mem::size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address and its size describe a live sockaddr_ll.
        if unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size) } != 0 {
            return Err(io::Error::last_os_error()).with_context(|| format!("bind to interface {interface}"));
        }
        Ok(PacketSocket { fd, kernel_drops: AtomicU64::new(0) })
    }

    /// Receives the next frame without waiting; `None` when there is none. Fails once with `NetworkDown` when the interface went down.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // Aligned for the control message headers that the kernel writes.
        let mut control = [0u64; 16];
        // SAFETY: msghdr is a C structure of integers and pointers, for which all zeros is valid.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = mem::size_of_val(&control) as _;
        // SAFETY: the message points to `part`, which points to `buffer`, and to `control`, each with its true
        // size, and all outlive the call.
        let length = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, libc::MSG_TRUNC) };
        if length < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
        }
        let (now, wall) = (monotonic(), clock(ClockId::Realtime));
        // The timestamp is wall-clock time. Its age is transferred to the monotonic clock; an impossible age comes from a step of the wall
        // clock, and the frame then counts as just received.
        let age = stamp(&message).and_then(|stamp| wall.checked_sub(stamp)).filter(|age| *age <= MAX_AGE);
        Ok(Some(Received { length: length as usize, at: now - age.unwrap_or(0).min(now) }))
    }

    /// Sends one frame, without waiting.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and length are those of a live slice.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), libc::MSG_DONTWAIT) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Frames that the kernel has dropped so far because this socket's buffer was full.
    pub(crate) fn kernel_drops(&self) -> u64 {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut size = mem::size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: the option writes one tpacket_stats, whose true size is given; reading resets the kernel's.
        let outcome = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut size,
            )
        };
        let new = if outcome == 0 { u64::from(statistics.tp_drops) } else { 0 };
        self.kernel_drops.fetch_add(new, Ordering::Relaxed) + new
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Nanoseconds of CLOCK_MONOTONIC, on which all times of the emulator are.
pub(crate) fn monotonic() -> u64 {
    clock(ClockId::Monotonic)
}

fn clock(id: ClockId) -> u64 {
    let time = clock_gettime(id);
    nanoseconds(time.tv_sec, time.tv_nsec)
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> u64 {
    seconds as u64 * 1_000_000_000 + nanoseconds as u64
}

/// The kernel's receive timestamp among the control messages, wall time in nanoseconds.
fn stamp(message: &libc::msghdr) -> Option<u64> {
    // SAFETY: `message` was filled in by recvmsg, and the control buffer it points to is still live.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a header inside the control buffer.
        let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        if level == libc::SOL_SOCKET && kind == libc::SCM_TIMESTAMPNS {
            // SAFETY: the data of this kind of message is a timespec, not necessarily aligned.
            let time = unsafe { libc::CMSG_DATA(header).cast::<libc::timespec>().read_unaligned() };
            return Some(nanoseconds(time.tv_sec, time.tv_nsec));
        }
        // SAFETY: as for CMSG_FIRSTHDR; `header` is a header of this message.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    None
}

fn set_option<T>(fd: &OwnedFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let size = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and size are those of a live `T`, which every caller gives as the option takes it.
    match unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (value as *const T).cast(), size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Kernel buffer of each socket and direction, bytes: including the kernel's overhead it holds about 3,000 full frames, 30 ms at 1 Gbit/s, longer
/// than the thread is ever delayed in a valid run.
const SOCKET_BUFFER: i32 = 8 << 20;

/// Maximum plausible age of a frame when it is read, nanoseconds: a thread that was delayed for longer has invalidated the run anyway.
const MAX_AGE: u64 = 5_000_000_000;
