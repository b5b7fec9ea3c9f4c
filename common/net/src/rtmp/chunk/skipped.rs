//! Messages beyond their bound that are read and dropped: the connection goes on without them.

use super::kind;

/// A message that was not held because it is longer than the bound for its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The message type ID.
    pub kind: u8,
    /// Its length in bytes.
    pub length: usize,
    /// The name that a data message begins with, such as `onMetaData`; empty if it has none.
    pub name: String,
    /// How many messages were skipped, this one included.
    pub count: u64,
}

/// Whether the connection makes sense without a message of this type.
///
/// What data messages, shared objects and messages of unknown types say is known without them, or not needed. A control message changes
/// how the next chunk is read, a command waits for its effect, and the pictures after a lost one refer to it: without these, what follows
/// would be read, done or shown wrongly, and nobody would be told.
pub(super) fn may_be_skipped(message_kind: u8) -> bool {
    let is_control =
        matches!(message_kind, kind::SET_CHUNK_SIZE..=kind::PEER_BANDWIDTH) && message_kind != kind::USER_CONTROL;
    let is_command = matches!(message_kind, kind::COMMAND | kind::COMMAND_AMF3);
    let is_media = matches!(message_kind, kind::AUDIO | kind::VIDEO | kind::AGGREGATE);
    !is_control && !is_command && !is_media
}

/// The name in the beginning of a data message.
pub(super) fn name(message_kind: u8, beginning: &[u8]) -> String {
    let rest = match (message_kind, beginning.split_first()) {
        (kind::DATA, _) => beginning,
        (kind::DATA_AMF3, Some((0, rest))) => rest,
        _ => return String::new(),
    };
    // `@setDataFrame` says that the next string is the name.
    let text = match string(rest) {
        Some((b"@setDataFrame", rest)) => string(rest),
        found => found,
    };
    let text = String::from_utf8_lossy(text.map_or(&[], |(text, _)| text));
    text.chars().filter(|c| !c.is_control()).collect()
}

/// An AMF0 string at the front, as far as it is there, and what follows it.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk()?;
    let [2, high, low] = *head else { return None };
    Some(rest.split_at(usize::from(u16::from_be_bytes([high, low])).min(rest.len())))
}

/// Bytes that are held of a skipped message: enough for its name.
pub(super) const BEGINNING: usize = 64;
