//! The messages of a publisher: media, metadata, and Nearcast's own properties and commands.
//!
//! `onMetaData` carries `nearcastEpoch` (16 hex digits), `nearcastClock` (wall-clock time of PTS 0, in µs since the Unix epoch) and
//! `nearcastDts` (a recent DTS, in ms). `onStatus` answers a publisher with `nearcastEpoch` and `nearcastHave`, which state where to resume.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use media::Epoch;
use media::access_unit::TrackId;
use media::catalog::Value;
use media::time::{Timestamp, WallClock};

use super::gap::Gap;
use super::publisher_timing::PublisherTiming;
use super::track_name::parse_track;
use crate::trust::{Pin, PublicKey};

/// One message of a publisher to its subscribers.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Message type 8: an FLV audio tag body (RTMP 1.0 §7.1.4).
    Audio {
        /// DTS in milliseconds, modulo 2^32.
        timestamp: u32,
        /// The FLV tag body.
        body: Bytes,
    },
    /// Message type 9: an FLV video tag body (RTMP 1.0 §7.1.5).
    Video {
        /// DTS in milliseconds, modulo 2^32.
        timestamp: u32,
        /// The FLV tag body.
        body: Bytes,
    },
    /// A data message `onMetaData` (RTMP 1.0 §7.1.2).
    Metadata(Metadata),
    /// `nearcastPeer`: where viewers on the publisher's network find it. Addressed to the server, which passes it to admitted viewers only.
    Peer(PeerAdvertisement),
    /// `nearcastTiming`: when units passed the publisher's stages. Addressed to the server, which has answered it.
    Timing(PublisherTiming),
    /// `nearcastGap`: the next units do not follow the previous ones. Sent by a Nearcast broadcaster to the server, and by the server to a viewer.
    Gap(Gap),
    /// The publisher ended its stream (`FCUnpublish`, `deleteStream`, `closeStream`), or the server did (`StreamEOF`,
    /// `NetStream.Play.UnpublishNotify`). More may follow on the same connection.
    EndOfStream,
}

/// `onMetaData`, with Nearcast's keys as fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// The scalar properties, unknown keys included, without Nearcast's own keys.
    pub values: media::catalog::Metadata,
    /// `nearcastEpoch`: the publisher's timestamps are the exact DTS of this broadcast.
    pub epoch: Option<Epoch>,
    /// `nearcastClock`: wall-clock time of PTS 0.
    pub clock: Option<WallClock>,
    /// `nearcastDts`: the DTS of a unit near this message. Following 32-bit RTMP timestamps are unwrapped near it, so that a receiver that
    /// joins late counts the same wraps, one every 49.7 days.
    pub dts: Option<Timestamp>,
}

impl Metadata {
    /// Extracts Nearcast's keys from `values`. Malformed ones are dropped: a third-party publisher may relay keys that it does not understand.
    ///
    /// An epoch is valid only together with a clock or a DTS that is a number. FFmpeg copies metadata from its input to its output with
    /// numbers as strings and restarts timestamps at zero, so its output is no longer the broadcast of that epoch.
    pub fn from_values(mut values: media::catalog::Metadata) -> Self {
        let mut number = |key| match values.remove(key) {
            Some(Value::Number(number)) if number.is_finite() && number.abs() < 9.0e18 => Some(number as i64),
            _ => None,
        };
        // A double holds microseconds exactly until the year 2255.
        let clock = number(CLOCK_KEY).map(WallClock::from_micros);
        let dts = number(DTS_KEY).filter(|dts| dts.unsigned_abs() <= MAX_DTS).map(Timestamp::from_millis);
        let is_first_hand = clock.is_some() || dts.is_some();
        let epoch = match values.remove(EPOCH_KEY) {
            Some(Value::String(text)) if is_first_hand => text.parse().ok(),
            _ => None,
        };
        Self { values, epoch, clock, dts }
    }

    /// All keys, Nearcast's own included.
    pub fn to_values(&self) -> media::catalog::Metadata {
        let mut values = self.values.clone();
        if let Some(epoch) = self.epoch {
            values.insert(EPOCH_KEY.into(), Value::String(epoch.to_string()));
        }
        if let Some(clock) = self.clock {
            values.insert(CLOCK_KEY.into(), Value::Number(clock.as_micros() as f64));
        }
        if let Some(dts) = self.dts {
            values.insert(DTS_KEY.into(), Value::Number(dts.as_millis() as f64));
        }
        values
    }
}

/// How viewers on a broadcaster's own network find its relay; sent by the broadcaster to its server.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerAdvertisement {
    /// The pin of the relay's certificate.
    pub pin: Pin,
    /// The secret from which the mDNS instance names are derived.
    pub secret: [u8; 16],
    /// The addresses at which the relay listens; at most [`MAX_PEER_ADDRESSES`].
    pub addresses: Vec<SocketAddr>,
}

/// Redacts the secret, with which any host could recognise the broadcaster on its network.
impl fmt::Debug for PeerAdvertisement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerAdvertisement")
            .field("pin", &self.pin)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl PeerAdvertisement {
    /// The properties of `nearcastPeer`, all strings.
    pub(crate) fn to_properties(&self) -> [(&'static str, String); 3] {
        let secret = HEXLOWER.encode(&self.secret);
        let addresses: Vec<String> = self.addresses.iter().map(SocketAddr::to_string).collect();
        [("pin", self.pin.to_string()), ("secret", secret), ("addresses", addresses.join(","))]
    }

    /// Parses the properties; invalid addresses are left out.
    pub(crate) fn from_properties<'a>(property: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let secret = HEXLOWER.decode(property("secret")?.as_bytes()).ok()?.try_into().ok()?;
        let addresses = property("addresses").unwrap_or_default().split(',');
        let addresses = addresses.filter_map(|address| address.parse().ok()).take(MAX_PEER_ADDRESSES).collect();
        Some(Self { pin: property("pin")?.parse().ok()?, secret, addresses })
    }
}

/// What a broadcaster needs to verify the tickets of viewers that its server admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketIssuer {
    /// The name under which viewers play the stream.
    pub stream: String,
    /// The public key that verifies the server's tickets.
    pub key: PublicKey,
}

/// The position at which a reconnecting publisher resumes: what the server holds of its broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The last broadcast of the stream.
    pub epoch: Epoch,
    /// The last DTS of each track that the server holds; at most [`media::catalog::MAX_TRACKS`].
    pub have: Vec<(TrackId, Timestamp)>,
}

impl Resume {
    /// Parses `nearcastEpoch` and `nearcastHave`. Tracks that do not parse are left out: their units are sent again and dropped as duplicates.
    pub fn parse(epoch: &str, have: &str) -> Option<Self> {
        let have = have.split(',').take(media::catalog::MAX_TRACKS).filter_map(|entry| {
            let (track, dts) = entry.trim().split_once('=')?;
            Some((parse_track(track)?, Timestamp::from_millis(dts.parse().ok()?)))
        });
        Some(Self { epoch: epoch.parse().ok()?, have: have.collect() })
    }

    /// The value of `nearcastHave`: tracks and DTS in milliseconds, as in `v0=12345,a0=12360`.
    pub fn have_text(&self) -> String {
        let entries: Vec<String> = self.have.iter().map(|(t, dts)| format!("{t}={}", dts.as_millis())).collect();
        entries.join(",")
    }
}

impl fmt::Display for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {}", self.epoch, self.have_text())
    }
}

/// Carries the epoch in `onMetaData`, in `onStatus` and in a play name's query.
pub(crate) const EPOCH_KEY: &str = "nearcastEpoch";
/// Carries the wall-clock time of PTS 0 in `onMetaData`.
pub(crate) const CLOCK_KEY: &str = "nearcastClock";
/// Carries a recent DTS in `onMetaData`, in milliseconds.
pub(crate) const DTS_KEY: &str = "nearcastDts";
/// Tells a server where viewers on the publisher's network find it.
pub(crate) const PEER_COMMAND: &str = "nearcastPeer";
/// Tells a server when units passed the publisher's stages.
pub(crate) const TIMING_COMMAND: &str = "nearcastTiming";
/// Answers [`TIMING_COMMAND`] with the server's clock.
pub(crate) const CLOCK_COMMAND: &str = "nearcastClock";
/// States the predecessors of the next units.
pub(crate) const GAP_COMMAND: &str = "nearcastGap";
/// Carries the name under which a stream is played, in `onStatus`.
pub(crate) const STREAM_KEY: &str = "nearcastStream";
/// Carries the public key that verifies tickets, in `onStatus`.
pub(crate) const TICKETS_KEY: &str = "nearcastTickets";
/// Bounds the advertised addresses: IPv4 and IPv6 of a host's interfaces. A viewer tries each of them.
pub const MAX_PEER_ADDRESSES: usize = 16;
/// Bounds a stated DTS, in milliseconds: what a double holds exactly, 285,000 years.
const MAX_DTS: u64 = 1 << 53;
/// Carries [`Resume::have_text`] in `onStatus`.
pub(crate) const HAVE_KEY: &str = "nearcastHave";
/// Present and true in the `connect` answer of a Nearcast server.
pub(crate) const SERVER_KEY: &str = "nearcast";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resume_position_round_trips() {
        let resume = Resume {
            epoch: Epoch(0xabc),
            have: vec![(TrackId::VIDEO, Timestamp::from_millis(12345)), (TrackId::AUDIO, Timestamp::from_millis(-21))],
        };
        assert_eq!(resume.have_text(), "v0=12345,a0=-21");
        assert_eq!(Resume::parse("0000000000000abc", &resume.have_text()), Some(resume));
        assert_eq!(Resume::parse("zzz", "v0=1"), None);
        let partial = Resume::parse("0000000000000abc", "v0=1,x,=,v=3,a0=x,v256=1,é0=4,a1=9").unwrap();
        assert_eq!(partial.have_text(), "v0=1,a1=9");
    }

    #[test]
    fn a_peer_advertisement_round_trips() {
        let addresses = vec!["192.0.2.1:4444".parse().unwrap(), "[2001:db8::1]:4444".parse().unwrap()];
        let offer = PeerAdvertisement { pin: Pin::of(b"certificate"), secret: *b"0123456789abcdef", addresses };
        let properties = offer.to_properties();
        let property = |key: &str| properties.iter().find(|(name, _)| *name == key).map(|(_, text)| text.as_str());
        assert_eq!(PeerAdvertisement::from_properties(property), Some(offer.clone()));
        assert!(!format!("{offer:?}").contains("3031"), "the secret is shown");
        for (key, bad) in [("pin", "x"), ("secret", "zz"), ("secret", "é123456789abcdef0123456789abcde")] {
            let property = |name: &str| if name == key { Some(bad) } else { property(name) };
            assert_eq!(PeerAdvertisement::from_properties(property), None, "{key}");
        }
        let odd = |name: &str| if name == "addresses" { Some("x,192.0.2.1:1,,") } else { property(name) };
        assert_eq!(PeerAdvertisement::from_properties(odd).map(|offer| offer.addresses.len()), Some(1));
    }

    #[test]
    fn metadata_keys_round_trip() {
        let metadata = Metadata {
            values: [("encoder".to_owned(), Value::String("x".into()))].into(),
            epoch: Some(Epoch(7)),
            clock: Some(WallClock::from_micros(1_795_352_493_250_123)),
            dts: Some(Timestamp::from_millis((1 << 32) + 5)),
        };
        assert_eq!(Metadata::from_values(metadata.to_values()), metadata);
        let clockless = Metadata { clock: None, ..metadata };
        assert_eq!(Metadata::from_values(clockless.to_values()), clockless);
        let odd = [(EPOCH_KEY.to_owned(), Value::Number(1.0)), (CLOCK_KEY.to_owned(), Value::Number(f64::NAN))].into();
        assert_eq!(Metadata::from_values(odd), Metadata::default());
        let far = [(DTS_KEY.to_owned(), Value::Number(1.0e17))].into();
        assert_eq!(Metadata::from_values(far), Metadata::default());
    }

    #[test]
    fn a_relayed_epoch_is_ignored() {
        let metadata = Metadata {
            epoch: Some(Epoch(7)),
            clock: Some(WallClock::from_micros(1_795_352_493_250_123)),
            dts: Some(Timestamp::ZERO),
            ..Metadata::default()
        };
        // As `ffmpeg -i rtmp://… -c copy -f flv rtmp://…` relays it.
        let relayed = metadata.to_values().into_iter().map(|(key, value)| match value {
            Value::Number(number) => (key, Value::String(format!("{number:.0}"))),
            other => (key, other),
        });
        assert_eq!(Metadata::from_values(relayed.collect()), Metadata::default());
    }
}
