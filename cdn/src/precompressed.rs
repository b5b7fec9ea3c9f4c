//! Text served to many clients: compressed once, with an entity tag of its content.

use std::io::Write;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

/// A text ready to serve: plain, compressed, and its tag. Cloning it copies no text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Precompressed {
    /// The text itself.
    pub plain: Bytes,
    /// The same with gzip (RFC 1952), if that is smaller.
    pub gzip: Option<Bytes>,
    /// Hash of the plain text in hexadecimal digits, for entity tags.
    pub tag: String,
}

impl Precompressed {
    /// Tags and compresses `plain`.
    pub fn new(plain: impl Into<Bytes>) -> Self {
        let plain = plain.into();
        let tag = HEXLOWER.encode(&Sha256::digest(&plain)[..TAG_BYTES]);
        Self { gzip: compress(&plain), plain, tag }
    }
}

fn compress(plain: &[u8]) -> Option<Bytes> {
    if plain.len() < WORTH_COMPRESSING {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plain).expect("writing to a Vec does not fail");
    let packed = encoder.finish().expect("writing to a Vec does not fail");
    (packed.len() < plain.len()).then(|| packed.into())
}

/// Minimum size in bytes: below it, the gzip header and decoding cost more than the bytes saved.
const WORTH_COMPRESSING: usize = 256;

/// Bytes of the hash in a tag: 64 bits distinguish the contents that one server serves under one URL.
const TAG_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn long_texts_are_compressed_and_tagged_by_content() {
        let long = Precompressed::new("#EXTINF:2.000,\n".repeat(100));
        let mut back = String::new();
        let packed = long.gzip.expect("a repetitive text shrinks");
        flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut back).unwrap();
        assert_eq!(back.as_bytes(), long.plain);
        assert_eq!(Precompressed::new("short").gzip, None);
        assert_eq!(Precompressed::new("a").tag, Precompressed::new("a").tag);
        assert_ne!(Precompressed::new("a").tag, Precompressed::new("b").tag);
    }
}
