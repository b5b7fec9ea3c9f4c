//! Thirty-two bytes as 64 lower-case hexadecimal digits, one text for each value. Not a general hex codec (RFC 4648 §8 allows more).

use std::fmt;

use super::Error;

pub(super) fn write(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

pub(super) fn parse(text: &str) -> Result<[u8; 32], Error> {
    // Pairs of bytes, not of characters: whatever is not ASCII fails as a digit.
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(Error::Hex) };
    let pairs: &[[u8; 2]; 32] = pairs.try_into().map_err(|_| Error::Hex)?;
    let mut bytes = [0; 32];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Ok(bytes)
}

fn digit(character: u8) -> Result<u8, Error> {
    match character {
        b'0'..=b'9' => Ok(character - b'0'),
        b'a'..=b'f' => Ok(character - b'a' + 10),
        _ => Err(Error::Hex),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_for_each_value() {
        let text = "00ff".repeat(16);
        assert_eq!(parse(&text).unwrap()[..4], [0, 255, 0, 255]);
        let upper = text.to_uppercase();
        let long = format!("{text}00");
        let spaced = format!(" {}", &text[1..]);
        let foreign = format!("{}é", &text[2..]);
        for wrong in ["", "00", &text[1..], &text[2..], &upper, &long, &spaced, &foreign] {
            assert!(matches!(parse(wrong), Err(Error::Hex)), "{wrong}");
        }
    }
}
