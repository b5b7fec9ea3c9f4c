//! Walks an AMF0 message without recursion and rewrites it in the subset that rml_amf0 reads safely.

use super::error::{Error, MAX_DEPTH, MAX_VALUES};

/// Checks `bytes` against the bounds. The result contains only numbers, booleans, strings, null, undefined, objects, and strict arrays
/// with correct counts; every string is UTF-8; nothing is truncated.
///
/// # Errors
/// If the bytes are cut short, malformed, or exceed a bound.
pub fn guard(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut walk = Walk { bytes, at: 0, out: Vec::with_capacity(bytes.len()), open: Vec::new(), values: 0 };
    while walk.step()? {}
    Ok(walk.out)
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    out: Vec<u8>,
    /// The containers of the next value, outermost first; at most [`MAX_DEPTH`].
    open: Vec<Open>,
    values: usize,
}

enum Open {
    /// An object, or an ECMA array, whose end marker some encoders omit.
    Object { may_lack_end: bool },
    /// A strict array, with the number of elements left.
    Array(u32),
}

impl<'a> Walk<'a> {
    /// Handles one value or one end marker. False at the end of the message.
    fn step(&mut self) -> Result<bool, Error> {
        match self.open.last_mut() {
            None if self.at == self.bytes.len() => return Ok(false),
            None => {}
            Some(Open::Array(0)) => {
                self.open.pop();
                return Ok(true);
            }
            Some(Open::Array(left)) => *left -= 1,
            Some(Open::Object { may_lack_end: true }) if self.at == self.bytes.len() => {
                self.out.extend([0, 0, OBJECT_END]);
                self.open.pop();
                return Ok(true);
            }
            Some(Open::Object { .. }) => {
                let at = self.at;
                let length = self.number(2)? as usize;
                if length == 0 {
                    if self.take(1)? != [OBJECT_END] {
                        return Err(Error::Name { at });
                    }
                    self.out.extend([0, 0, OBJECT_END]);
                    self.open.pop();
                    return Ok(true);
                }
                let name = self.take(length)?;
                self.write_text(name);
            }
        }
        self.value()?;
        Ok(true)
    }

    fn value(&mut self) -> Result<(), Error> {
        let at = self.at;
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(Error::Values { at });
        }
        let marker = self.take(1)?[0];
        match marker {
            NUMBER => self.copy(NUMBER, 8),
            BOOLEAN => {
                let value = self.take(1)?[0];
                self.out.extend([BOOLEAN, u8::from(value != 0)]);
                Ok(())
            }
            STRING => self.text(2),
            LONG_STRING | XML => self.text(4),
            NULL | UNDEFINED => {
                self.out.push(marker);
                Ok(())
            }
            UNSUPPORTED => {
                self.out.push(NULL);
                Ok(())
            }
            REFERENCE => {
                self.take(2)?;
                self.out.push(NULL);
                Ok(())
            }
            DATE => {
                // Milliseconds since the epoch, and a time zone that the specification reserves.
                self.copy(NUMBER, 8)?;
                self.take(2).map(drop)
            }
            OBJECT => self.enter(at, Open::Object { may_lack_end: false }),
            TYPED_OBJECT => {
                let class = self.number(2)? as usize;
                self.take(class)?;
                self.enter(at, Open::Object { may_lack_end: false })
            }
            ECMA_ARRAY => {
                // The count is only a hint and often wrong.
                self.take(4)?;
                self.enter(at, Open::Object { may_lack_end: true })
            }
            STRICT_ARRAY => {
                let count = self.number(4)?;
                if count as usize > MAX_VALUES - self.values {
                    return Err(Error::Values { at });
                }
                self.enter(at, Open::Array(count))
            }
            _ => Err(Error::Marker { marker, at }),
        }
    }

    fn enter(&mut self, at: usize, open: Open) -> Result<(), Error> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Error::Depth { at });
        }
        match open {
            Open::Object { .. } => self.out.push(OBJECT),
            Open::Array(count) => {
                self.out.push(STRICT_ARRAY);
                self.out.extend(count.to_be_bytes());
            }
        }
        self.open.push(open);
        Ok(())
    }

    fn text(&mut self, length_bytes: usize) -> Result<(), Error> {
        let length = self.number(length_bytes)? as usize;
        let text = self.take(length)?;
        self.out.push(STRING);
        self.write_text(text);
        Ok(())
    }

    /// Writes a 16-bit length and the text, converted to UTF-8 and cut to the largest length.
    fn write_text(&mut self, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        let text = &text[..text.floor_char_boundary(usize::from(u16::MAX))];
        self.out.extend((text.len() as u16).to_be_bytes());
        self.out.extend(text.as_bytes());
    }

    fn copy(&mut self, marker: u8, length: usize) -> Result<(), Error> {
        let bytes = self.take(length)?;
        self.out.push(marker);
        self.out.extend(bytes);
        Ok(())
    }

    fn number(&mut self, length: usize) -> Result<u32, Error> {
        Ok(self.take(length)?.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..length).ok_or(Error::Truncated { at: self.bytes.len() })?;
        self.at += length;
        Ok(taken)
    }
}

// AMF0 §2.1.
const NUMBER: u8 = 0x00;
const BOOLEAN: u8 = 0x01;
const STRING: u8 = 0x02;
const OBJECT: u8 = 0x03;
const NULL: u8 = 0x05;
const UNDEFINED: u8 = 0x06;
const REFERENCE: u8 = 0x07;
pub(super) const ECMA_ARRAY: u8 = 0x08;
const OBJECT_END: u8 = 0x09;
const STRICT_ARRAY: u8 = 0x0a;
const DATE: u8 = 0x0b;
const LONG_STRING: u8 = 0x0c;
const UNSUPPORTED: u8 = 0x0d;
const XML: u8 = 0x0f;
const TYPED_OBJECT: u8 = 0x10;
