//! Writes commands and control messages (RTMP 1.0 §5.4, §7.1, §7.2).

use bytes::{BufMut, BytesMut};

use crate::rtmp::amf::{self, Value};
use crate::rtmp::chunk::{self, kind};

/// Appends a command on the command chunk stream. `arguments` are the command object and the values after it.
///
/// A command with a string over 65,535 bytes cannot be encoded and is not sent, so the peer gets no answer.
pub(crate) fn command(
    out: &mut BytesMut,
    chunk_size: u32,
    message_stream: u32,
    name: &str,
    transaction: f64,
    arguments: impl IntoIterator<Item = Value>,
) {
    let mut values = vec![amf::string(name), Value::Number(transaction)];
    values.extend(arguments);
    if let Ok(body) = amf::encode(values) {
        chunk::write(out, chunk_size, COMMAND_CHUNK_STREAM, kind::COMMAND, message_stream, 0, &body);
    }
}

/// The information object of `onStatus` and of `_error`.
pub(crate) struct Status<'a> {
    level: &'a str,
    code: &'a str,
    description: &'a str,
    more: Vec<(&'a str, Value)>,
}

impl<'a> Status<'a> {
    /// `level` is `status`, `warning` or `error`.
    pub(crate) fn new(level: &'a str, code: &'a str, description: &'a str) -> Self {
        Self { level, code, description, more: Vec::new() }
    }

    /// Adds a property.
    pub(crate) fn with(mut self, key: &'a str, value: Value) -> Self {
        self.more.push((key, value));
        self
    }

    /// The information object as an AMF0 value.
    pub(crate) fn into_value(self) -> Value {
        let own = [("level", self.level), ("code", self.code), ("description", self.description)];
        let own = own.into_iter().map(|(key, text)| (key, amf::string(text)));
        Value::Object(own.chain(self.more).map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// Appends an `onStatus` (RTMP 1.0 §7.2.2).
    pub(crate) fn write(self, out: &mut BytesMut, chunk_size: u32, message_stream: u32) {
        command(out, chunk_size, message_stream, "onStatus", 0.0, [Value::Null, self.into_value()]);
    }
}

/// Appends a protocol control message of one number (RTMP 1.0 §5.4).
pub(crate) fn control(out: &mut BytesMut, chunk_size: u32, kind: u8, number: u32) {
    chunk::write(out, chunk_size, CONTROL_CHUNK_STREAM, kind, 0, 0, &number.to_be_bytes());
}

/// Appends Set Peer Bandwidth with the dynamic limit type (RTMP 1.0 §5.4.5).
pub(crate) fn peer_bandwidth(out: &mut BytesMut, chunk_size: u32, window: u32) {
    let [a, b, c, d] = window.to_be_bytes();
    chunk::write(out, chunk_size, CONTROL_CHUNK_STREAM, kind::PEER_BANDWIDTH, 0, 0, &[a, b, c, d, 2]);
}

/// Appends a user control message (RTMP 1.0 §7.1.7).
pub(crate) fn user_control(out: &mut BytesMut, chunk_size: u32, event: u16, numbers: &[u32]) {
    let mut body = BytesMut::with_capacity(2 + 4 * numbers.len());
    body.put_u16(event);
    numbers.iter().for_each(|n| body.put_u32(*n));
    chunk::write(out, chunk_size, CONTROL_CHUNK_STREAM, kind::USER_CONTROL, 0, 0, &body);
}

/// The property `key` of an object; `None` for other values.
pub(crate) fn property<'v>(object: &'v Value, key: &str) -> Option<&'v Value> {
    match object {
        Value::Object(properties) => properties.get(key),
        _ => None,
    }
}

/// The text of a string value.
pub(crate) fn text(value: Option<&Value>) -> Option<&str> {
    match value {
        Some(Value::Utf8String(text)) => Some(text),
        _ => None,
    }
}

/// The number of a numeric value.
pub(crate) fn number(value: Option<&Value>) -> Option<f64> {
    match value {
        Some(Value::Number(number)) => Some(*number),
        _ => None,
    }
}

// User control event types (RTMP 1.0 §7.1.7).
pub(crate) const STREAM_BEGIN: u16 = 0;
pub(crate) const STREAM_EOF: u16 = 1;
pub(crate) const SET_BUFFER_LENGTH: u16 = 3;
pub(crate) const PING_REQUEST: u16 = 6;
pub(crate) const PING_RESPONSE: u16 = 7;

/// The chunk stream of protocol control messages (RTMP 1.0 §5.3.1.1).
const CONTROL_CHUNK_STREAM: u8 = 2;
/// The chunk stream of commands and their answers; it never carries media.
const COMMAND_CHUNK_STREAM: u8 = 3;
/// `capsEx` (Enhanced RTMP v2, "Enhancing NetConnection connect Command"), what both sides announce: multitrack (1 << 1) and ModEx (1 << 2). Not
/// reconnect requests (1 << 0), and not `TimestampNanoOffset` (1 << 3): it is parsed, but timestamps are whole milliseconds.
pub(super) const CAPS_EX: f64 = 6.0;
