//! Where a reconnecting player resumes: `nearcastEpoch=HEX&nearcastAfter=v0:12345` in the query of its play name.

use media::{Epoch, LiveWindow, Timestamp, TrackId};
use net::rtmp::Resume;

/// The last unit of one track that a player has received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResumePoint {
    epoch: Epoch,
    track: TrackId,
    dts: Timestamp,
}

impl ResumePoint {
    /// Parses the query of a play name. `None` if the parameters are missing or malformed.
    pub(crate) fn from_query(query: &[(String, String)]) -> Option<Self> {
        let value = |name| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        // The syntax of a publisher's resume point, but with a colon, which needs no escape in a URL's query.
        let after = value("nearcastAfter")?.replacen(':', "=", 1);
        let Resume { epoch, have } = Resume::parse(value("nearcastEpoch")?, &after)?;
        have.first().map(|(track, dts)| Self { epoch, track: *track, dts: *dts })
    }

    /// The position to start from; `None` for the live edge, if the window no longer holds units that connect to the player's last one.
    ///
    /// Playback resumes at the start of the GOP of the last unit that the player has. The player receives that unit again and so knows that nothing
    /// is missing. If the window holds nothing of the broadcast, as after a restart of this server, playback resumes with the next unit, unless
    /// another broadcast is on air.
    pub(crate) fn position(&self, window: &LiveWindow, is_on_air: bool) -> Option<u64> {
        let mut is_held = false;
        let mut known = None;
        let mut new = None;
        for entry in window.from(0).filter(|entry| entry.unit.epoch == self.epoch) {
            is_held = true;
            if entry.unit.track == self.track {
                let side = if entry.unit.dts <= self.dts { &mut known } else { &mut new };
                // The last unit that the player has, and the first that it lacks.
                if entry.unit.dts <= self.dts || side.is_none() {
                    *side = Some(entry.position);
                }
            }
        }
        match known {
            // If that GOP's start was evicted: from the next GOP, without an overlap.
            Some(known) => {
                window.gop_start(known).or_else(|| window.gop_start(new.unwrap_or_else(|| window.next_position())))
            }
            None if is_held || (is_on_air && window.join_position().is_some()) => None,
            None => Some(window.next_position()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use media::codec::{Codec, CodecConfig, Format};
    use media::live_window::Bounds;
    use media::{AccessUnit, Catalog, Track};

    use super::*;

    #[test]
    fn a_resume_point_is_read_from_a_query() {
        let after = |epoch: &str, after: &str| {
            ResumePoint::from_query(&[("nearcastEpoch".into(), epoch.into()), ("nearcastAfter".into(), after.into())])
        };
        let good = after("00000000000000ff", "v0:12345").unwrap();
        assert_eq!(good, ResumePoint { epoch: Epoch(255), track: TrackId::VIDEO, dts: Timestamp::from_millis(12345) });
        for (epoch, at) in
            [("ff", "v0:1"), ("00000000000000ff", "v0"), ("00000000000000ff", "x0:1"), ("00000000000000ff", "v0:x")]
        {
            assert_eq!(after(epoch, at), None, "{epoch} {at}");
        }
        assert_eq!(ResumePoint::from_query(&[]), None);
    }

    /// Video frames `from..to` of each epoch, 40 ms apart, every fifth an IDR, with audio 10 ms after each. Two positions per frame.
    fn window(pictures: &[(u64, std::ops::Range<i64>)], millis: u64) -> LiveWindow {
        let mut window = LiveWindow::new(Bounds { duration: Duration::from_millis(millis), bytes: 1 << 20 });
        for (epoch, pictures) in pictures {
            let mut catalog = Catalog::new(Epoch(*epoch));
            let format = Format::Video { width: 16, height: 16 };
            let config = CodecConfig { codec: Codec::H264, record: Bytes::new(), format };
            catalog.set_track(Track { id: TrackId::VIDEO, config });
            let catalog = Arc::new(catalog);
            for n in pictures.clone() {
                for (track, dts, random_access) in
                    [(TrackId::VIDEO, n * 40, n % 5 == 0), (TrackId::AUDIO, n * 40 + 10, true)]
                {
                    let (dts, payload) = (Timestamp::from_millis(dts), Bytes::from_static(b"x"));
                    let unit = AccessUnit { epoch: Epoch(*epoch), track, dts, pts: dts, random_access, payload };
                    window.push(catalog.clone(), unit, None);
                }
            }
        }
        window
    }

    #[test]
    fn a_player_resumes_at_the_gop_of_its_last_unit() {
        let check = |window: &LiveWindow, is_on_air, dts, expected| {
            let after = ResumePoint { epoch: Epoch(7), track: TrackId::VIDEO, dts: Timestamp::from_millis(dts) };
            assert_eq!(after.position(window, is_on_air), expected, "{dts}");
        };
        let all = window(&[(7, 0..20)], 60_000);
        for (dts, expected) in [
            // In the middle of a GOP: from its start.
            (240, Some(10)),
            (279, Some(10)),
            // The first new unit is an IDR: the GOP before it shows that nothing is missing.
            (360, Some(10)),
            (400, Some(20)),
            // The player has all units, or is ahead of the window.
            (760, Some(30)),
            (9999, Some(30)),
            (-1, None),
        ] {
            check(&all, true, dts, expected);
            check(&all, false, dts, expected);
        }
        // The player's last unit was evicted.
        let late = window(&[(7, 0..40)], 400);
        assert!(late.first_position() > 30);
        check(&late, true, 240, None);
        // Another broadcast is in between or follows.
        let two = window(&[(7, 0..10), (8, 0..10)], 60_000);
        check(&two, true, 120, Some(0));
        check(&two, true, 360, Some(10));
    }

    #[test]
    fn a_player_waits_for_its_broadcast_if_the_window_lacks_it() {
        let check = |window: &LiveWindow, is_on_air, expected| {
            let after = ResumePoint { epoch: Epoch(7), track: TrackId::VIDEO, dts: Timestamp::from_millis(120) };
            assert_eq!(after.position(window, is_on_air), expected);
        };
        let empty = window(&[], 1000);
        let other = window(&[(8, 0..10)], 60_000);
        let unjoinable = window(&[(8, 1..4)], 60_000);
        check(&empty, false, Some(0));
        check(&empty, true, Some(0));
        check(&other, false, Some(20));
        check(&other, true, None);
        check(&unjoinable, true, Some(6));
        // The window holds only later units of the broadcast, so there is no reason to wait.
        check(&window(&[(7, 5..10)], 60_000), true, None);
    }
}
