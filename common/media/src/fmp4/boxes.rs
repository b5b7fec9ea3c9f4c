//! Boxes: iterates over complete boxes in memory, reads their numbers, and writes a box around its content (ISO/IEC 14496-12 §4.2).

use mp4_atom::BufMut;

use super::Error;

/// The location of an error: the top-level box and its position in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct BoxLocation {
    pub(super) kind: [u8; 4],
    pub(super) at: u64,
}

impl BoxLocation {
    pub(super) fn malformed(self, what: &'static str) -> Error {
        Error::Malformed { what, kind: self.kind.escape_ascii().to_string(), at: self.at }
    }
}

/// The boxes in `body`, one after the other. Fewer than eight bytes at the end are padding, as QuickTime writes it.
pub(super) fn children(
    mut body: &[u8],
    location: BoxLocation,
) -> impl Iterator<Item = Result<([u8; 4], &[u8]), Error>> {
    std::iter::from_fn(move || {
        if body.len() < 8 {
            return None;
        }
        let Some((kind, content, rest)) = first(body) else {
            body = &[];
            return Some(Err(location.malformed("a box that is longer than what holds it")));
        };
        body = rest;
        Some(Ok((kind, content)))
    })
}

/// The content of the first child of this kind.
pub(super) fn child(body: &[u8], wanted: [u8; 4], location: BoxLocation) -> Result<Option<&[u8]>, Error> {
    for found in children(body, location) {
        let (kind, content) = found?;
        if kind == wanted {
            return Ok(Some(content));
        }
    }
    Ok(None)
}

/// The content of the box that this path leads to.
pub(super) fn descendant<'a>(
    body: &'a [u8],
    path: &[&[u8; 4]],
    location: BoxLocation,
) -> Result<Option<&'a [u8]>, Error> {
    let mut body = body;
    for kind in path {
        match child(body, **kind, location)? {
            Some(content) => body = content,
            None => return Ok(None),
        }
    }
    Ok(Some(body))
}

/// The first box: its type, its content, and the bytes after it.
fn first(bytes: &[u8]) -> Option<([u8; 4], &[u8], &[u8])> {
    let header = Header::read(bytes)?;
    let size = match header.size {
        Some(size) => usize::try_from(size).ok()?,
        None => bytes.len(),
    };
    let content = bytes.get(header.length..size)?;
    Some((header.kind, content, &bytes[size..]))
}

/// The header of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: [u8; 4],
    /// Length of the header itself: 8 or 16 bytes.
    pub(super) length: usize,
    /// Size of the whole box, at least `length`; `None` for one that extends to the end of the file.
    pub(super) size: Option<u64>,
}

impl Header {
    /// `None` if there are not enough bytes, or if the size is impossible: [`Header::is_complete`] distinguishes the two.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let kind = array(bytes, 4)?;
        let (length, size) = match u32::from_be_bytes(array(bytes, 0)?) {
            0 => (8, None),
            1 => (16, Some(u64::from_be_bytes(array(bytes, 8)?))),
            size => (8, Some(u64::from(size))),
        };
        size.is_none_or(|size| size >= length as u64).then_some(Self { kind, length, size })
    }

    /// Whether `bytes` hold a whole header.
    pub(super) fn is_complete(bytes: &[u8]) -> bool {
        bytes.len() >= 16 || (bytes.len() >= 8 && bytes[..4] != [0, 0, 0, 1])
    }
}

/// The `N` bytes at `at`.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The big-endian number at `at`.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// The big-endian number at `at`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

/// The big-endian number at `at`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_be_bytes)
}

/// Writes a box around what `content` writes.
pub(super) fn write_box(
    out: &mut Vec<u8>,
    kind: &[u8; 4],
    content: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0]);
    out.extend_from_slice(kind);
    content(out)?;
    let size = u32::try_from(out.len() - start).map_err(|_| Error::TooLarge { bytes: out.len() - start })?;
    out.set_slice(start, &size.to_be_bytes());
    Ok(())
}

/// `sample_depends_on` = 2: the sample depends on no other.
pub(super) const INDEPENDENT: u32 = 0x0200_0000;
/// `sample_depends_on` = 1, and `sample_is_non_sync_sample`.
pub(super) const DEPENDENT: u32 = 0x0101_0000;
/// `sample_is_non_sync_sample`: decoding cannot start at the sample (ISO/IEC 14496-12 §8.8.3.1).
pub(super) const NON_SYNC: u32 = 0x0001_0000;
