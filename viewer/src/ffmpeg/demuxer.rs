//! Demuxes MPEG transport streams (ISO/IEC 13818-1) of older HLS servers, one segment at a time, into access units.
//!
//! FFmpeg parses the container; payloads are converted to the forms that [`AccessUnit`](media::AccessUnit) demands.

use std::io::Cursor;

use bytes::Bytes;
use ffmpeg::codec::{Id, packet::Packet};
use ffmpeg::format::context::StreamIo;
use ffmpeg_next as ffmpeg;
use media::codec::{Codec, CodecConfig, aac, h264, hevc};
use media::{Timestamp, Track, TrackId, TrackKind};

use super::Error;

/// A unit of a transport stream, with unwrapped timestamps.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The track: the first of its kind has index 0.
    pub track: TrackId,
    /// Decoding time, unwrapped, in whole milliseconds.
    pub dts: Timestamp,
    /// Presentation time, unwrapped, in whole milliseconds.
    pub pts: Timestamp,
    /// Whether decoding can start here.
    pub random_access: bool,
    /// Length-prefixed NAL units for H.264 and HEVC, raw frames for audio.
    pub payload: Bytes,
}

/// Reads the segments of one rendition in order, and unwraps their 33-bit timestamps.
#[derive(Debug, Default)]
pub struct TsReader {
    /// The last DTS, in ticks of 90 kHz, unwrapped.
    last: Option<i64>,
}

impl TsReader {
    /// Reads a complete segment: the tracks that it describes, and its units in the order of the file.
    ///
    /// # Errors
    /// If FFmpeg cannot parse it.
    pub fn segment(&mut self, segment: Bytes) -> Result<(Vec<Track>, Vec<Unit>), Error> {
        let io = StreamIo::from_read_seek(Cursor::new(segment)).map_err(Error::call("open the segment"))?;
        // FFmpeg chooses the demuxer by the content, which a server chooses: a session description or a playlist would make it open sockets.
        let mut options = ffmpeg::Dictionary::new();
        options.set("format_whitelist", "mpegts");
        options.set("protocol_whitelist", "none");
        let mut input = ffmpeg::format::input_from_stream(io, Some("segment.ts"), Some(options))
            .map_err(Error::call("read the segment"))?;
        let mut tracks: Vec<Option<(TrackId, Codec)>> = Vec::new();
        let mut described = Vec::new();
        for stream in input.streams() {
            let parameters = stream.parameters();
            let codec = match parameters.id() {
                Id::H264 => Some((TrackKind::Video, Codec::H264)),
                Id::HEVC => Some((TrackKind::Video, Codec::Hevc)),
                Id::AAC => Some((TrackKind::Audio, Codec::Aac)),
                Id::MP3 => Some((TrackKind::Audio, Codec::Mp3)),
                _ => None,
            };
            let track = codec.map(|(kind, codec)| {
                let index = tracks.iter().flatten().filter(|(id, _): &&(TrackId, Codec)| id.kind == kind).count();
                (TrackId { kind, index: u8::try_from(index).unwrap_or(u8::MAX) }, codec)
            });
            if let Some((id, codec)) = track {
                // SAFETY: the parameters are alive; extradata is null or as long as stated.
                let extradata = unsafe {
                    let raw = &*parameters.as_ptr();
                    let size = usize::try_from(raw.extradata_size).unwrap_or(0);
                    if raw.extradata.is_null() { &[] } else { std::slice::from_raw_parts(raw.extradata, size) }
                };
                described.extend(config(codec, extradata).map(|config| Track { id, config }));
            }
            tracks.push(track);
        }
        let mut units = Vec::new();
        loop {
            let mut packet = Packet::empty();
            match packet.read(&mut input) {
                Ok(()) => {}
                Err(ffmpeg::Error::Eof) => break,
                Err(source) => return Err(Error::Call { doing: "read the segment", source }),
            }
            let Some(Some((track, codec))) = tracks.get(packet.stream()) else { continue };
            let (Some(data), Some(pts)) = (packet.data(), packet.pts().or(packet.dts())) else { continue };
            let dts = packet.dts().unwrap_or(pts);
            let composition = (pts - dts) / TICKS;
            let dts = Timestamp::from_millis(self.unwrap(dts).div_euclid(TICKS));
            let (payload, adts) = match codec {
                Codec::H264 => (h264::annexb_to_length_prefixed(data), None),
                Codec::Hevc => (hevc::annexb_to_length_prefixed(data), None),
                Codec::Aac => match aac::strip_adts(Bytes::copy_from_slice(data)) {
                    Ok((config, payload)) => (payload, config),
                    Err(_) => continue,
                },
                _ => (Bytes::copy_from_slice(data), None),
            };
            // A transport stream describes audio in its frames only.
            if !described.iter().any(|t| t.id == *track) {
                let config = match (codec, adts) {
                    (Codec::Aac, Some(adts)) => {
                        adts.build().and_then(|record| CodecConfig::from_record(Codec::Aac, record)).ok()
                    }
                    (Codec::Mp3, _) => CodecConfig::mp3(&payload).ok(),
                    _ => None,
                };
                described.extend(config.map(|config| Track { id: *track, config }));
            }
            let random_access = match codec {
                Codec::H264 => h264::is_idr(&payload),
                Codec::Hevc => hevc::is_irap(&payload),
                _ => true,
            };
            let pts = Timestamp::from_millis(dts.as_millis() + composition);
            units.push(Unit { track: *track, dts, pts, random_access, payload });
        }
        Ok((described, units))
    }

    /// The next segment is after a discontinuity: its timestamps are not related to the last ones.
    pub fn restart(&mut self) {
        self.last = None;
    }

    fn unwrap(&mut self, ticks: i64) -> i64 {
        let unwrapped = match self.last {
            // Of all values equal modulo 2^33, the nearest to the last one.
            Some(last) => last + (ticks - last + WRAP / 2).rem_euclid(WRAP) - WRAP / 2,
            None => ticks,
        };
        self.last = Some(unwrapped);
        unwrapped
    }
}

fn config(codec: Codec, extradata: &[u8]) -> Option<CodecConfig> {
    let record = match codec {
        Codec::H264 => h264::avcc_from_annexb_extradata(extradata).ok()?,
        Codec::Hevc => hevc::hvcc_from_annexb_extradata(extradata).ok()?,
        _ => return None,
    };
    CodecConfig::from_record(codec, record).ok()
}

/// Ticks of the 90 kHz clock in a millisecond.
const TICKS: i64 = 90;
/// The clock has 33 bits (ISO/IEC 13818-1 §2.4.3.7).
const WRAP: i64 = 1 << 33;

#[cfg(test)]
mod tests {
    use super::*;

    /// Formats that name addresses: FFmpeg would open them.
    #[test]
    fn only_a_transport_stream_is_read() {
        super::super::init().unwrap();
        let description = "G\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n";
        let playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://127.0.0.1:9/s.ts\n#EXT-X-ENDLIST\n";
        for content in [description, playlist, "ffconcat version 1.0\nfile '/dev/zero'\n"] {
            let content = Bytes::copy_from_slice(content.as_bytes());
            assert!(TsReader::default().segment(content.clone()).is_err(), "{content:?}");
        }
    }

    #[test]
    fn timestamps_are_unwrapped_at_33_bits() {
        let mut reader = TsReader::default();
        assert_eq!(reader.unwrap(WRAP - 100), WRAP - 100);
        assert_eq!(reader.unwrap(50), WRAP + 50);
        assert_eq!(reader.unwrap(WRAP - 50), WRAP - 50);
        reader.restart();
        assert_eq!(reader.unwrap(7), 7);
    }
}
