//! Reads and writes AMF0 (Adobe's *Action Message Format AMF 0*): rml_amf0 behind a guard.
//!
//! rml_amf0 recurses as deep as its input does, allocates what a length field states, accepts truncated strings, and refuses dates and long
//! strings. So [`guard`] first walks the message without recursion, bounds it, and rewrites unsupported types into supported ones.

mod error;
mod guard;

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use bytes::Bytes;
use media::catalog::{Metadata, Value as Scalar};

pub use error::{Error, MAX_DEPTH, MAX_VALUES};
pub use guard::guard;
pub use rml_amf0::Amf0Value as Value;

/// Reads the values of a message. ECMA arrays and typed objects become objects; dates become numbers, references null.
///
/// # Errors
/// If the bytes are malformed, or exceed a bound.
pub fn decode(bytes: &[u8]) -> Result<Vec<Value>, Error> {
    let guarded = guard(bytes)?;
    rml_amf0::deserialize(&mut guarded.as_slice()).map_err(|_| Error::Shape("AMF0 is malformed"))
}

/// Writes a message. [`Error`] if a string is longer than 65,535 bytes.
///
/// # Errors
/// If a string is longer than AMF0 can state.
pub fn encode(values: Vec<Value>) -> Result<Bytes, Error> {
    rml_amf0::serialize(&values).map(Bytes::from).map_err(|_| Error::Unencodable)
}

/// An object with these properties.
pub fn object<const N: usize>(properties: [(&str, Value); N]) -> Value {
    Value::Object(properties.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// An object whose properties are all strings.
pub fn texts(properties: impl IntoIterator<Item = (&'static str, String)>) -> Value {
    Value::Object(properties.into_iter().map(|(key, text)| (key.to_owned(), string(text))).collect())
}

/// A string value.
pub fn string(text: impl Into<String>) -> Value {
    Value::Utf8String(text.into())
}

/// `onMetaData` with an ECMA array, the form that every player reads.
///
/// # Errors
/// If a string is longer than AMF0 can state.
pub fn encode_metadata(metadata: &Metadata) -> Result<Bytes, Error> {
    let properties: HashMap<_, _> = metadata
        .iter()
        .map(|(key, value)| {
            let value = match value {
                Scalar::Number(n) => Value::Number(*n),
                Scalar::Boolean(b) => Value::Boolean(*b),
                Scalar::String(s) => Value::Utf8String(s.clone()),
            };
            (key.clone(), value)
        })
        .filter(|(key, _)| !key.is_empty())
        .collect();
    let count = u32::try_from(properties.len()).map_err(|_| Error::Unencodable)?;
    let name = rml_amf0::serialize(&vec![string("onMetaData")]).map_err(|_| Error::Unencodable)?;
    let object = rml_amf0::serialize(&vec![Value::Object(properties)]).map_err(|_| Error::Unencodable)?;
    // rml_amf0 writes objects only. An ECMA array is the same with another marker and a count (AMF0 §2.10).
    Ok([&name, &[guard::ECMA_ARRAY][..], &count.to_be_bytes(), &object[1..]].concat().into())
}

/// The scalars of an object; objects, arrays and nulls in it are dropped.
pub fn scalars(value: Value) -> Metadata {
    let Value::Object(properties) = value else { return Metadata::new() };
    let scalar = |(key, value)| {
        let value = match value {
            Value::Number(n) => Scalar::Number(n),
            Value::Boolean(b) => Scalar::Boolean(b),
            Value::Utf8String(s) => Scalar::String(s),
            _ => return None,
        };
        Some((key, value))
    };
    properties.into_iter().filter_map(scalar).collect()
}
