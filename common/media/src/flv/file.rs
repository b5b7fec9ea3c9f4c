//! FLV files: a header, then tags (Adobe FLV 10.1 §E.2, §E.3). The bodies are parsed in [`super`].

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Tag type of audio.
pub const AUDIO: u8 = 8;
/// Tag type of video.
pub const VIDEO: u8 = 9;
/// Tag type of script data: `onMetaData`, in AMF0.
pub const SCRIPT: u8 = 18;

/// A tag of a file (Adobe FLV 10.1 §E.4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// [`AUDIO`], [`VIDEO`] or [`SCRIPT`].
    pub kind: u8,
    /// Milliseconds, 32 bits that wrap: the RTMP timestamp.
    pub timestamp: u32,
    /// The body, without tag header.
    pub body: Bytes,
}

/// Why a file cannot be read further. The reader must not be used afterwards.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file does not start with an FLV header.
    #[error("not an FLV file")]
    NotFlv,
    /// The header states an impossible length.
    #[error("FLV header of {0} bytes")]
    Header(u32),
    /// A tag has an unknown type.
    #[error("byte {offset}: FLV tag type {kind}")]
    Tag {
        /// Position of the tag in the file, in bytes.
        offset: u64,
        /// Type of the tag.
        kind: u8,
    },
}

/// Reads a file incrementally. Holds at most one tag (16 MiB) and the rest of the last push.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: BytesMut,
    /// Position of the start of the buffer in the file.
    offset: u64,
    has_header: bool,
}

impl Reader {
    /// A reader at the start of a file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the file; returns the tags that they complete. An incomplete tag is no error.
    ///
    /// # Errors
    /// If the file is no FLV file, or a tag is malformed.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Tag>, Error> {
        self.buffer.extend_from_slice(bytes);
        let mut tags = Vec::new();
        if !self.has_header && !self.read_header()? {
            return Ok(tags);
        }
        while let Some(tag) = self.read_tag()? {
            tags.push(tag);
        }
        Ok(tags)
    }

    fn read_header(&mut self) -> Result<bool, Error> {
        let start = &self.buffer[..self.buffer.len().min(SIGNATURE.len())];
        if !SIGNATURE.starts_with(start) {
            return Err(Error::NotFlv);
        }
        let Some(mut length) = self.buffer.get(5..FILE_HEADER) else { return Ok(false) };
        let length = length.get_u32();
        if !(FILE_HEADER as u32..=MAX_FILE_HEADER).contains(&length) {
            return Err(Error::Header(length));
        }
        let length = length as usize;
        if self.buffer.len() < length {
            return Ok(false);
        }
        self.buffer.advance(length);
        self.offset += length as u64;
        self.has_header = true;
        Ok(true)
    }

    /// Reads the `PreviousTagSize` before a tag, and the tag: a file may end with or without the last `PreviousTagSize`.
    fn read_tag(&mut self) -> Result<Option<Tag>, Error> {
        let Some(mut head) = self.buffer.get(PREVIOUS_TAG_SIZE..PREVIOUS_TAG_SIZE + TAG_HEADER) else {
            return Ok(None);
        };
        let kind = head.get_u8();
        if !matches!(kind, AUDIO | VIDEO | SCRIPT) {
            return Err(Error::Tag { offset: self.offset + PREVIOUS_TAG_SIZE as u64, kind });
        }
        let size = head.get_uint(3) as usize;
        let timestamp = head.get_uint(3) as u32 | u32::from(head.get_u8()) << 24;
        let total = PREVIOUS_TAG_SIZE + TAG_HEADER + size;
        if self.buffer.len() < total {
            return Ok(None);
        }
        let mut body = self.buffer.split_to(total).freeze();
        body.advance(PREVIOUS_TAG_SIZE + TAG_HEADER);
        self.offset += total as u64;
        Ok(Some(Tag { kind, timestamp, body }))
    }
}

/// The file header. The flags are for information: players find tracks by their tags.
pub fn header(has_audio: bool, has_video: bool) -> Bytes {
    let mut out = BytesMut::with_capacity(FILE_HEADER + PREVIOUS_TAG_SIZE);
    out.put_slice(SIGNATURE);
    out.put_slice(&[1, u8::from(has_audio) << 2 | u8::from(has_video)]);
    out.put_u32(FILE_HEADER as u32);
    out.put_u32(0);
    out.freeze()
}

/// Appends a tag whose body is the concatenation of `parts` to `out`. Returns false, and appends nothing, for a body of 16 MiB or more, which
/// the format cannot express.
pub fn put_tag(out: &mut Vec<u8>, kind: u8, timestamp: u32, parts: &[&[u8]]) -> bool {
    let size: usize = parts.iter().map(|part| part.len()).sum();
    if size >= 1 << 24 {
        return false;
    }
    out.put_u8(kind);
    out.put_uint(size as u64, 3);
    out.put_uint(u64::from(timestamp & 0xff_ffff), 3);
    out.put_u8((timestamp >> 24) as u8);
    out.put_uint(0, 3); // stream id
    for part in parts {
        out.put_slice(part);
    }
    out.put_u32((TAG_HEADER + size) as u32);
    true
}

const SIGNATURE: &[u8] = b"FLV";
const FILE_HEADER: usize = 9;
const TAG_HEADER: usize = 11;
const PREVIOUS_TAG_SIZE: usize = 4;
/// Bounds the file header in bytes: longer than any writer's, as the format allows extensions.
const MAX_FILE_HEADER: u32 = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_that_is_not_flv_is_rejected() {
        assert_eq!(Reader::new().push(b"\0\0\0\x18ftyp"), Err(Error::NotFlv));
        assert_eq!(Reader::new().push(b"FLV\x01\x05\xff\0\0\0"), Err(Error::Header(0xff00_0000)));
        let mut file = header(true, true).to_vec();
        file.extend_from_slice(&[0; 11]);
        assert_eq!(Reader::new().push(&file), Err(Error::Tag { offset: 13, kind: 0 }));
        assert!(!put_tag(&mut Vec::new(), VIDEO, 0, &[&vec![0; 1 << 24]]));
    }

    proptest! {
        #[test]
        fn a_file_is_read_in_pieces_of_any_size(
            tags in prop::collection::vec((prop::sample::select(vec![AUDIO, VIDEO, SCRIPT]), any::<u32>(), prop::collection::vec(any::<u8>(), 0..50)), 0..10),
            bite in 1usize..40,
        ) {
            let mut file = header(true, false).to_vec();
            for (kind, timestamp, body) in &tags {
                let (first, second) = body.split_at(body.len() / 2);
                prop_assert!(put_tag(&mut file, *kind, *timestamp, &[first, second]));
            }
            let mut reader = Reader::new();
            let mut read = Vec::new();
            for bytes in file.chunks(bite) {
                read.extend(reader.push(bytes).unwrap());
            }
            let written: Vec<_> = tags.into_iter().map(|(kind, timestamp, body)| Tag { kind, timestamp, body: body.into() }).collect();
            prop_assert_eq!(read, written);
        }

        #[test]
        fn any_bytes_are_parsed_without_panic(start in any::<bool>(), bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = Reader::new();
            if start {
                reader.push(&header(true, true)).unwrap();
            }
            let _ = reader.push(&bytes);
        }
    }
}
