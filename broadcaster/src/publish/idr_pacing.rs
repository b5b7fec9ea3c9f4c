//! Paces a pushed IDR when a LAN viewer shares the bottleneck.
//!
//! Two copies of an IDR occupy a slow link for longer than a frame interval, so the viewer's copy of the next frame would queue behind the
//! push's IDR. So the kernel paces that IDR over one and a half frame intervals (`SO_MAX_PACING_RATE`, socket(7)), during which the link
//! sends the viewer's copy first. On other platforms than Linux nothing is paced.

use std::time::Duration;

use media::live_window::Entry;
use net::rtmp::client::Publisher;

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
            rate(entry.unit.payload.len(), interval)
        });
        if rate.is_some() || self.is_spread {
            self.is_spread = rate.is_some();
            set(publisher, rate);
        }
    }
}

/// Pacing rate in bytes per second.
fn rate(bytes: usize, interval: Duration) -> u32 {
    let time = interval.mul_f64(PICTURES).min(LONGEST);
    ((bytes as f64 / time.as_secs_f64()) as u32).max(LEAST)
}

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

/// Frame intervals that an IDR is paced over.
const PICTURES: f64 = 1.5;
/// Upper bound of the time that an IDR is paced over.
const LONGEST: Duration = Duration::from_millis(60);
/// Minimum pacing rate in bytes per second.
const LEAST: u32 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idr_is_paced_over_one_and_a_half_frame_intervals() {
        assert_eq!(rate(10_000, Duration::from_millis(33)), 202_020);
        assert_eq!(rate(10_000, Duration::from_millis(16)), 416_666);
        assert_eq!(rate(6_000, Duration::from_secs(1)), 100_000, "bounded for low frame rates");
        assert_eq!(rate(10, Duration::from_millis(33)), LEAST);
    }
}
