//! Ioctls on one network interface of one namespace: up, down, and offloads off.
//!
//! `ip` creates interfaces ([`crate::network`]). Ioctls are used where the time of a change matters (a link cut during a run) or where `ip`
//! cannot do it (offloads, without the program ethtool). rustix knows neither `ifreq` nor these ioctls, so that they are libc's.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// An interface, by name, in the namespace that the opening thread was in. The name is looked up on every
/// call; the namespace is fixed by the control socket, so calls may come from any thread.
#[derive(Debug)]
pub(crate) struct Interface {
    control: OwnedFd,
    name: String,
}

impl Interface {
    /// Opens a control socket in the calling thread's namespace. The interface need not exist yet.
    ///
    /// Fails when `name` is empty, too long for the kernel, or no socket can be made.
    pub(crate) fn open(name: &str) -> Result<Interface> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            bail!("interface name {name:?} is not 1 to {} bytes", libc::IFNAMSIZ - 1);
        }
        let control = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .context("make a control socket")?;
        Ok(Interface { control, name: name.to_owned() })
    }

    /// Sets the interface up; on a veth end whose peer is up too, both get carrier.
    pub(crate) fn up(&self) -> Result<()> {
        self.set_flag(libc::IFF_UP, true)
    }

    /// Sets the interface down; on a veth end, the peer loses carrier as if the cable were pulled.
    pub(crate) fn down(&self) -> Result<()> {
        self.set_flag(libc::IFF_UP, false)
    }

    /// Waits until the kernel considers the interface operational (up and with carrier), or not. It updates that state asynchronously, and a
    /// bridge forwards through a port only then.
    ///
    /// Fails after [`CARRIER_TIMEOUT`].
    pub(crate) fn await_running(&self, running: bool) -> Result<()> {
        let deadline = Instant::now() + CARRIER_TIMEOUT;
        loop {
            // Reading the link state makes kernels since 6.9 update it at once rather than up to a second later; on older ones the wait is
            // longer.
            let _ = self.ethtool(GET_LINK, 0);
            if (self.flags()? & libc::IFF_RUNNING != 0) == running {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("{} has {} carrier after {CARRIER_TIMEOUT:?}", self.name, if running { "no" } else { "still" });
            }
            // The ioctl has no way to wait, and a netlink listener would be more code than it saves.
            thread::sleep(CARRIER_POLL);
        }
    }

    /// Turns off checksum and segmentation offloads, so that every frame on the wire has its real size and a
    /// valid checksum, as it has on a wire. A feature the kernel does not know is off already.
    pub(crate) fn offloads_off(&self) -> Result<()> {
        for (command, feature) in OFFLOADS {
            match self.ethtool(command, 0) {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                other => other.with_context(|| format!("turn off {feature} on {}", self.name))?,
            }
        }
        Ok(())
    }

    fn ethtool(&self, command: u32, data: u32) -> io::Result<()> {
        let mut value = EthtoolValue { command, data };
        let mut request = self.request();
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        self.ioctl(libc::SIOCETHTOOL, &mut request)
    }

    fn set_flag(&self, flag: i32, on: bool) -> Result<()> {
        let flags = self.flags()?;
        let mut request = self.request();
        // The kernel's field is 16 bits wide; the flags above that cannot be set this way.
        request.ifr_ifru.ifru_flags = (if on { flags | flag } else { flags & !flag }) as libc::c_short;
        self.ioctl(libc::SIOCSIFFLAGS as libc::c_ulong, &mut request)
            .with_context(|| format!("set {} {}", self.name, if on { "up" } else { "down" }))
    }

    fn flags(&self) -> Result<i32> {
        let mut request = self.request();
        self.ioctl(libc::SIOCGIFFLAGS as libc::c_ulong, &mut request)
            .with_context(|| format!("read the flags of {}", self.name))?;
        // SAFETY: a successful SIOCGIFFLAGS has written the flags member of the union.
        Ok(i32::from(unsafe { request.ifr_ifru.ifru_flags }))
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: ifreq is a C structure of integers, arrays and pointers, for which all zeros is valid.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *to = from as libc::c_char;
        }
        request
    }

    fn ioctl(&self, number: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: every number used here takes an ifreq, which `request` points to for the whole call; what
        // its data member points to, if anything, lives in the caller's frame.
        match unsafe { libc::ioctl(self.control.as_raw_fd(), number as _, request as *mut libc::ifreq) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The kernel's `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// What [`Interface::offloads_off`] turns off, by the set commands of linux/ethtool.h. Segmentation comes
/// before checksums, on which it depends, and checksums before scatter-gather.
const OFFLOADS: [(u32, &str); 6] = [
    (0x1f, "TCP segmentation offload"),
    (0x24, "generic segmentation offload"),
    (0x2c, "generic receive offload"),
    (0x17, "transmit checksum offload"),
    (0x15, "receive checksum offload"),
    (0x19, "scatter-gather"),
];

/// The command of linux/ethtool.h that reads whether there is a link.
const GET_LINK: u32 = 0x0a;

/// Longest wait for an interface to become operational or to cease to be. The kernel may put such a change off
/// for a second; the rest is for a busy machine.
const CARRIER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the state is read meanwhile: short against the change, which takes milliseconds at best.
const CARRIER_POLL: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_longer_than_ifnamsiz_are_rejected() {
        assert!(Interface::open("").is_err());
        assert!(Interface::open("sixteen-letters-").is_err());
    }

    #[test]
    fn a_missing_interface_is_an_error_that_names_it() {
        let error = Interface::open("nosuchif0").unwrap().up().unwrap_err();
        assert!(format!("{error:#}").contains("nosuchif0"));
    }
}
