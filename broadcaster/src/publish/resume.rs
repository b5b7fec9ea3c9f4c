//! Where to resume on a new connection. Pure.

use media::{Epoch, LiveWindow};
use net::rtmp::Resume;

/// What the server reported when the connection was made.
#[derive(Clone, Copy, Debug)]
pub struct ServerState<'a> {
    /// The units that it already has; `None` if it reported none.
    pub resume: Option<&'a Resume>,
    /// Whether it is a Nearcast server, which drops duplicate units.
    pub is_nearcast: bool,
}

/// The window position to send from; `None` to wait for the next GOP.
///
/// A server that knows this epoch gets the units that it lacks. A Nearcast server that does not, as after a restart, gets the whole window, so
/// that waiting viewers miss nothing. Any other server gets the newest GOP, since it would present older ones as live.
pub fn position(window: &LiveWindow, epoch: Epoch, server: ServerState<'_>) -> Option<u64> {
    match server.resume.filter(|resume| resume.epoch == epoch) {
        Some(resume) => {
            let first = window.first_missing(epoch, &resume.have);
            Some(first.map_or(window.next_position(), |entry| entry.position))
        }
        // Units before the broadcast's first IDR are its audio; units before the first IDR held belong to an incomplete GOP.
        None if server.is_nearcast && window.first_position() == 0 => window.join_position().and(Some(0)),
        None if server.is_nearcast => window.from(0).find(|entry| entry.starts_gop).map(|entry| entry.position),
        None => window.join_position(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use media::codec::{Codec, CodecConfig, Format};
    use media::live_window::Bounds;
    use media::{AccessUnit, Catalog, Timestamp, Track, TrackId};

    use super::*;

    /// Video at 0, 40 … 360 with IDRs at 0 and 200; sound 10 ms after each picture. Positions: v(40n) = 2n, a = 2n + 1.
    fn window() -> LiveWindow {
        let mut catalog = Catalog::new(Epoch(7));
        let format = Format::Video { width: 16, height: 16 };
        catalog.set_track(Track {
            id: TrackId::VIDEO,
            config: CodecConfig { codec: Codec::H264, record: Bytes::new(), format },
        });
        let catalog = Arc::new(catalog);
        let mut window = LiveWindow::new(Bounds { duration: Duration::from_secs(60), bytes: 1 << 20 });
        for n in 0..10 {
            for (track, dts, random_access) in
                [(TrackId::VIDEO, n * 40, n % 5 == 0), (TrackId::AUDIO, n * 40 + 10, true)]
            {
                let dts = Timestamp::from_millis(dts);
                let unit = AccessUnit {
                    epoch: Epoch(7),
                    track,
                    dts,
                    pts: dts,
                    random_access,
                    payload: Bytes::from_static(b"x"),
                };
                window.push(catalog.clone(), unit, None);
            }
        }
        window
    }

    #[track_caller]
    fn check(have: Option<(u64, &[(TrackId, i64)])>, is_nearcast: bool, expected: Option<u64>) {
        let resume = have.map(|(epoch, have)| Resume {
            epoch: Epoch(epoch),
            have: have.iter().map(|(track, dts)| (*track, Timestamp::from_millis(*dts))).collect(),
        });
        let server = ServerState { resume: resume.as_ref(), is_nearcast };
        assert_eq!(position(&window(), Epoch(7), server), expected, "{have:?}, nearcast {is_nearcast}");
    }

    #[test]
    fn publishing_resumes_at_the_unit_that_the_server_lacks() {
        const V: TrackId = TrackId::VIDEO;
        const A: TrackId = TrackId::AUDIO;
        check(Some((7, &[(V, 120), (A, 130)])), true, Some(8));
        check(Some((7, &[(V, 120), (A, 90)])), true, Some(7));
        check(Some((7, &[(V, 360), (A, 370)])), true, Some(20));
        check(Some((7, &[(V, 360)])), true, Some(1));
        check(Some((7, &[])), true, Some(0));
        check(Some((7, &[(V, -5), (A, -5)])), true, Some(0));
        // Another broadcast, or none: all that is held.
        check(Some((8, &[(V, 360), (A, 370)])), true, Some(0));
        check(None, true, Some(0));
        check(None, false, Some(10));
        let empty = LiveWindow::new(Bounds { duration: Duration::from_secs(1), bytes: 1 });
        assert_eq!(position(&empty, Epoch(7), ServerState { resume: None, is_nearcast: true }), None);
    }
}
