//! Paces a pushed IDR when a LAN viewer shares the bottleneck.
//!
//! The kernel paces it (`SO_MAX_PACING_RATE`, socket(7)) at [`idr_rate`]. On other platforms than Linux nothing is paced.

use std::time::Duration;

use media::live_window::Entry;
use net::rtmp::client::Publisher;

use crate::uplink::idr_rate;

/// The pacing state of one connection.
#[derive(Debug, Default)]
pub(super) struct IdrPacer {
    is_spread: bool,
}

impl IdrPacer {
    /// Call before each frame is pushed. `is_narrow`: a viewer's packets queue before the link.
    pub(super) fn before(&mut self, entry: &Entry, is_narrow: bool, publisher: &Publisher) {
        let rate = entry.predecessor_dts.filter(|_| is_narrow && entry.unit.random_access).map(|after| {
            let interval =
                Duration::from_millis(entry.unit.dts.as_millis().saturating_sub(after.as_millis()).max(1) as u64);
            (idr_rate(entry.unit.payload.len(), interval).as_bits_per_second() / 8.0) as u32
        });
        if rate.is_some() || self.is_spread {
            self.is_spread = rate.is_some();
            set(publisher, rate);
        }
    }
}

/// `rate` is in bytes per second; `None` for no pacing.
#[cfg(target_os = "linux")]
fn set(publisher: &Publisher, rate: Option<u32>) {
    use std::os::fd::AsRawFd;

    let Some(socket) = publisher.socket() else { return };
    let rate = rate.unwrap_or(u32::MAX);
    // SAFETY: the socket is open as long as it is borrowed, and the option is a u32 that is there for the whole call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            std::ptr::from_ref(&rate).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if result != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "cannot pace the push (SO_MAX_PACING_RATE)");
    }
}

#[cfg(not(target_os = "linux"))]
fn set(_: &Publisher, _: Option<u32>) {}
