//! Messages of a publisher that cannot be read: how many are tolerated, and what the publisher is told when it is refused. Pure: time is a parameter.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use command::LogLimiter;
use media::catalog::MAX_TRACKS;
use media::{TrackId, flv};

use super::reader::Error;

/// Counts the messages of one publisher that cannot be read.
#[derive(Debug)]
pub(super) struct UnreadableMessages {
    in_a_row: u32,
    log: LogLimiter<String>,
    undecodable: BTreeMap<TrackId, Undecodable>,
}

/// A track that sends media without a decoder configuration, or that is one too many.
#[derive(Clone, Copy, Debug)]
struct Undecodable {
    since: Instant,
    newest: Instant,
}

impl Default for UnreadableMessages {
    fn default() -> Self {
        let log = LogLimiter::new(|count, error: &String| {
            tracing::warn!(error, count, "skipped messages that cannot be read");
        });
        Self { in_a_row: 0, log, undecodable: BTreeMap::new() }
    }
}

impl UnreadableMessages {
    /// Notes that a message could be read.
    pub(super) fn end_row(&mut self) {
        self.in_a_row = 0;
    }

    /// Counts a message and logs it. Returns why the publisher must be refused, if it must: because nothing
    /// that it sends can be read, or because one of its tracks can never be decoded, which its viewers would notice and it would not.
    pub(super) fn count(&mut self, error: &Error, now: Instant) -> Option<String> {
        self.in_a_row += 1;
        self.log.note(now, error.to_string());
        match error {
            Error::TooManyEpochs(_) => return Some(error.to_string()),
            Error::Body(error @ (flv::Error::NoConfiguration(track) | flv::Error::TooManyTracks(track))) => {
                let seen = self.undecodable.entry(*track).or_insert(Undecodable { since: now, newest: now });
                if now.saturating_duration_since(seen.newest) > MAX_UNDECODABLE {
                    seen.since = now;
                }
                seen.newest = now;
                if now.saturating_duration_since(seen.since) >= MAX_UNDECODABLE {
                    let kind = if track.is_video() { "video" } else { "audio" };
                    return Some(match error {
                        flv::Error::TooManyTracks(_) => format!(
                            "The {kind} track {track} is one too many: the server accepts {MAX_TRACKS} tracks. The encoder must send fewer."
                        ),
                        _ => format!(
                            "The {kind} track {track} has no decoder configuration. The encoder must send its sequence header before the \
                             media; restarting the encoder may help."
                        ),
                    });
                }
            }
            Error::Body(_) => {}
        }
        (self.in_a_row >= MAX_IN_A_ROW).then(|| format!("No message of the stream can be read: {error}."))
    }
}

/// How long a track may send media that cannot be decoded. Encoders that repeat its configuration send it with every IDR.
const MAX_UNDECODABLE: Duration = Duration::from_secs(10);
/// Unreadable messages in a row after which a publisher is refused. With an unsupported codec it sends some 80 per second; a damaged stream recovers
/// within a GOP.
const MAX_IN_A_ROW: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    const UNCONFIGURED: Error = Error::Body(flv::Error::NoConfiguration(TrackId::AUDIO));
    const UNSUPPORTED: Error = Error::Body(flv::Error::FourCc { fourcc: *b"vvc1" });

    #[test]
    fn a_track_without_configuration_is_refused_though_others_can_be_read() {
        let (mut unreadable, start) = (UnreadableMessages::default(), Instant::now());
        let mut refused = None;
        for millis in (0u64..20_000).step_by(20) {
            unreadable.end_row();
            if let Some(reason) = unreadable.count(&UNCONFIGURED, start + Duration::from_millis(millis)) {
                refused = Some((millis, reason));
                break;
            }
        }
        let (millis, reason) = refused.unwrap();
        assert_eq!(millis, 10_000);
        assert!(reason.contains("audio track a0") && reason.contains("sequence header"), "{reason}");
    }

    #[test]
    fn a_publisher_of_too_many_tracks_is_refused_with_the_limit() {
        const ONE_TOO_MANY: Error = Error::Body(flv::Error::TooManyTracks(TrackId { index: 16, ..TrackId::VIDEO }));
        let (mut unreadable, start) = (UnreadableMessages::default(), Instant::now());
        assert_eq!(unreadable.count(&ONE_TOO_MANY, start), None);
        let near = unreadable.count(&ONE_TOO_MANY, start + Duration::from_secs(9));
        let reason = unreadable.count(&ONE_TOO_MANY, start + Duration::from_secs(10)).unwrap();
        assert_eq!(near, None);
        assert!(reason.contains("video track v16") && reason.contains("16 tracks"), "{reason}");
    }

    #[test]
    fn a_track_that_lacks_its_configuration_for_a_moment_is_kept() {
        let (mut unreadable, start) = (UnreadableMessages::default(), Instant::now());
        // Each time the encoder changes its codec, media precedes the sequence header.
        for hour in 0..5 {
            for millis in (0..8000).step_by(20) {
                unreadable.end_row();
                let now = start + Duration::from_secs(hour * 3600) + Duration::from_millis(millis);
                assert_eq!(unreadable.count(&UNCONFIGURED, now), None);
            }
        }
    }

    #[test]
    fn a_stream_of_which_nothing_can_be_read_is_refused_with_the_reason() {
        let (mut unreadable, now) = (UnreadableMessages::default(), Instant::now());
        for _ in 0..900 {
            assert_eq!(unreadable.count(&UNSUPPORTED, now), None);
        }
        unreadable.end_row();
        let refused = (1..).find_map(|n| unreadable.count(&UNSUPPORTED, now).map(|reason| (n, reason)));
        assert_eq!(
            refused,
            Some((1000, "No message of the stream can be read: codec vvc1 is not supported.".to_owned()))
        );
    }
}
