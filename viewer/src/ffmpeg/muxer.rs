//! Muxing of access units into a file or a pipe, without re-encoding.

use std::collections::BTreeMap;
use std::io::{Seek, Write};

use ffmpeg::codec::packet::Packet;
use ffmpeg::format::context::{Output, StreamIo};
use ffmpeg_next as ffmpeg;
use media::{AccessUnit, Track, TrackId};

use super::{Error, MILLISECONDS, parameters};

/// A container format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// ISO/IEC 14496-12, in fragments, so that a recording that is cut off still plays.
    Mp4,
    /// Matroska; live in pipes, with one cluster a picture.
    Matroska,
    /// FLV (Adobe Flash Video File Format 10.1), with Enhanced RTMP's codecs as far as FFmpeg has them.
    Flv,
    /// MPEG transport stream.
    MpegTs,
}

impl Container {
    /// By a file name's extension, in any case; `None` if it is unknown.
    pub fn from_extension(extension: &str) -> Option<Self> {
        match extension.to_ascii_lowercase().as_str() {
            "mp4" | "m4v" | "m4a" => Some(Self::Mp4),
            "mkv" | "mka" => Some(Self::Matroska),
            "flv" => Some(Self::Flv),
            "ts" => Some(Self::MpegTs),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::Matroska => "matroska",
            Self::Flv => "flv",
            Self::MpegTs => "mpegts",
        }
    }

    fn options(self, live: bool, has_video: bool) -> ffmpeg::Dictionary<'static> {
        let mut options = ffmpeg::Dictionary::new();
        match self {
            // Without an edit list: timestamps stay as they were broadcast.
            Self::Mp4 => {
                options.set("movflags", "frag_keyframe+empty_moov+default_base_moof");
                if !has_video {
                    // Audio has no key frames to cut at: it would be one fragment, written at the end.
                    options.set("frag_duration", FRAGMENT);
                }
            }
            Self::Matroska if live => {
                options.set("live", "1");
                // One cluster a picture, so that a player does not wait for the next one.
                options.set("cluster_time_limit", "1");
            }
            Self::Flv if live => options.set("flvflags", "no_duration_filesize"),
            _ => {}
        }
        options
    }
}

/// Writes tracks into one container.
pub struct Muxer {
    output: Output,
    streams: BTreeMap<TrackId, usize>,
}

impl Muxer {
    /// Opens a container in a file.
    ///
    /// # Errors
    /// [`Error::NotInContainer`] if it cannot hold a track's codec.
    pub fn to_file<W: Write + Seek + Send + 'static>(
        file: W,
        container: Container,
        tracks: &[Track],
    ) -> Result<Self, Error> {
        let io = StreamIo::from_write_seek(file).map_err(Error::call("open the file"))?;
        Self::new(io, container, tracks, false)
    }

    /// Opens a container in a pipe: nothing is rewritten, and every unit is flushed at once.
    ///
    /// # Errors
    /// [`Error::NotInContainer`] if it cannot hold a track's codec.
    pub fn to_pipe<W: Write + Send + 'static>(pipe: W, container: Container, tracks: &[Track]) -> Result<Self, Error> {
        let io = StreamIo::from_write(pipe).map_err(Error::call("open the pipe"))?;
        Self::new(io, container, tracks, true)
    }

    fn new(io: StreamIo, container: Container, tracks: &[Track], live: bool) -> Result<Self, Error> {
        let mut output = ffmpeg::format::output_to_stream(io, None, Some(container.name()))
            .map_err(Error::call("open the container"))?;
        let mut streams = BTreeMap::new();
        for track in tracks {
            let no_codec: Option<ffmpeg::Codec> = None;
            let mut stream = output.add_stream(no_codec).map_err(Error::call("add a track"))?;
            stream.set_parameters(parameters(&track.config));
            stream.set_time_base(MILLISECONDS);
            streams.insert(track.id, stream.index());
        }
        // SAFETY: the context is alive and ours; the field is a plain number.
        unsafe {
            // FFmpeg 5.1 marks FLAC in MP4 as experimental, but its specification is final and widely supported.
            (*output.as_mut_ptr()).strict_std_compliance = ffmpeg::ffi::FF_COMPLIANCE_EXPERIMENTAL;
        }
        if live {
            // SAFETY: the context is alive and ours; the field is a plain number.
            unsafe {
                (*output.as_mut_ptr()).flush_packets = 1;
            }
        }
        let options = container.options(live, tracks.iter().any(|track| track.id.is_video()));
        if let Err(source) = output.write_header_with(options) {
            let odd = tracks.iter().find(|track| !can_hold(container, track));
            return Err(match odd {
                Some(track) => Error::NotInContainer { container: container.name(), codec: track.config.codec.name() },
                None => Error::Call { doing: "write the container's header", source },
            });
        }
        Ok(Self { output, streams })
    }

    /// Writes a unit with `offset` milliseconds added to its timestamps. Units of other tracks than those announced are ignored.
    ///
    /// # Errors
    /// If the file or pipe cannot be written, or the timestamps do not rise.
    pub fn write(&mut self, unit: &AccessUnit, offset: i64) -> Result<(), Error> {
        let Some(index) = self.streams.get(&unit.track) else { return Ok(()) };
        let mut packet = Packet::copy(&unit.payload);
        packet.set_stream(*index);
        packet.set_dts(Some(unit.dts.as_millis() + offset));
        packet.set_pts(Some(unit.pts.as_millis() + offset));
        packet.set_position(-1);
        if unit.random_access {
            packet.set_flags(ffmpeg::packet::Flags::KEY);
        }
        let time_base = self.output.stream(*index).map_or(MILLISECONDS, |stream| stream.time_base());
        packet.rescale_ts(MILLISECONDS, time_base);
        packet.write_interleaved(&mut self.output).map_err(Error::call("write a unit"))
    }

    /// Writes the container's trailer.
    ///
    /// # Errors
    /// If the file or pipe cannot be written.
    pub fn finish(mut self) -> Result<(), Error> {
        self.output.write_trailer().map_err(Error::call("finish the container"))
    }
}

/// Microseconds of audio that an audio-only recording loses at most when it is cut off.
const FRAGMENT: &str = "2000000";

fn can_hold(container: Container, track: &Track) -> bool {
    let Ok(name) = std::ffi::CString::new(container.name()) else { return false };
    // SAFETY: the name is a C string, and what is returned is static or null.
    unsafe {
        let format = ffmpeg::ffi::av_guess_format(name.as_ptr(), std::ptr::null(), std::ptr::null());
        !format.is_null() && ffmpeg::ffi::avformat_query_codec(format, super::id(track.config.codec).into(), 0) == 1
    }
}
