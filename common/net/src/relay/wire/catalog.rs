//! The encoding of a catalog. Pure. `SPEC.md` §5.2.

use bytes::{BufMut, Bytes, BytesMut};
use media::catalog::{MAX_TRACKS, Metadata, Value};
use media::codec::{Codec, CodecConfig, Format, MAX_RECORD};
use media::{Catalog, Epoch, Track, WallClock};

use super::coding::{
    array, bounded, byte, bytes, put_bytes, put_signed, put_varint, signed, text, track, track_byte, varint,
};
use super::error::Error;

/// Appends a catalog.
pub(super) fn encode(out: &mut BytesMut, catalog: &Catalog) {
    out.put_u64(catalog.epoch.0);
    out.put_u8(u8::from(catalog.clock.is_some()));
    if let Some(clock) = catalog.clock {
        put_signed(out, clock.as_micros());
    }
    put_varint(out, catalog.tracks.len() as u64);
    for Track { id, config } in &catalog.tracks {
        out.put_u8(track_byte(*id));
        out.put_slice(&config.codec.fourcc());
        let (a, b) = match config.format {
            Format::Video { width, height } => (width, height),
            Format::Audio { sample_rate, channels } => (sample_rate, u32::from(channels)),
        };
        put_varint(out, a.into());
        put_varint(out, b.into());
        put_bytes(out, &config.record);
    }
    let metadata = || catalog.metadata.iter().filter(|(key, value)| fits(key, value)).take(MAX_METADATA as usize);
    put_varint(out, metadata().count() as u64);
    for (key, value) in metadata() {
        put_bytes(out, key.as_bytes());
        match value {
            Value::Number(number) => {
                out.put_u8(0);
                out.put_f64(*number);
            }
            Value::Boolean(is) => out.put_u8(1 + u8::from(*is)),
            Value::String(text) => {
                out.put_u8(3);
                put_bytes(out, text.as_bytes());
            }
        }
    }
}

/// Decodes a catalog as [`encode`] writes it. Tracks of unknown codecs are left out; their units are ignored.
pub(super) fn decode(body: &mut Bytes) -> Result<Catalog, Error> {
    let mut catalog = Catalog::new(Epoch(u64::from_be_bytes(array(body, "an epoch")?)));
    if byte(body, "a clock")? != 0 {
        catalog.clock = Some(WallClock::from_micros(signed(body)?));
    }
    for _ in 0..bounded(body, "number of tracks", MAX_TRACKS as u64)? {
        let id = track(byte(body, "a track")?);
        let fourcc: [u8; 4] = array(body, "a codec")?;
        let (a, b) = (bounded(body, "format", u64::from(u32::MAX))? as u32, varint(body)?);
        let record = bytes(body, "decoder configuration", MAX_RECORD as u64)?;
        let Some(codec) = Codec::from_fourcc(fourcc).filter(|codec| codec.is_video() == id.is_video()) else {
            continue;
        };
        let format = if codec.is_video() {
            Format::Video { width: a, height: u32::try_from(b).unwrap_or(u32::MAX) }
        } else {
            Format::Audio { sample_rate: a, channels: u16::try_from(b).unwrap_or(u16::MAX) }
        };
        // A copy, because the catalog outlives the receive buffer.
        let record = Bytes::copy_from_slice(&record);
        catalog.set_track(Track { id, config: CodecConfig { codec, record, format } });
    }
    let mut metadata = Metadata::new();
    for _ in 0..bounded(body, "number of metadata", MAX_METADATA)? {
        let key = text(body, "a metadata key", MAX_TEXT)?;
        let value = match byte(body, "a metadata value")? {
            0 => Value::Number(f64::from_bits(u64::from_be_bytes(array(body, "a number")?))),
            is @ (1 | 2) => Value::Boolean(is == 2),
            3 => Value::String(text(body, "a metadata text", MAX_TEXT)?),
            other => return Err(Error::Unknown { what: "kind of metadata", value: other.into() }),
        };
        metadata.insert(key, value);
    }
    catalog.metadata = metadata;
    Ok(catalog)
}

fn fits(key: &str, value: &Value) -> bool {
    let len = match value {
        Value::String(text) => text.len(),
        Value::Number(_) | Value::Boolean(_) => 0,
    };
    key.len().max(len) as u64 <= MAX_TEXT
}

/// Bounds the metadata of one broadcast: real ones have about twenty entries.
const MAX_METADATA: u64 = 256;
/// Bounds a key or a text, in bytes: the bound of ingest on all metadata.
const MAX_TEXT: u64 = 8 << 10;
