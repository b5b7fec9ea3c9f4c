//! Parsers for the values of command-line options: picture sizes, frame rates, bitrates and durations. Pure.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use net::trust::Code;

/// `WIDTHxHEIGHT` in pixels: even numbers from 16 to [`MAX_SIDE`].
pub(crate) fn size(text: &str) -> Result<(u32, u32), String> {
    let parsed = text.split_once(['x', 'X']).and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    let even = |n: u32| (16..=MAX_SIDE).contains(&n) && n.is_multiple_of(2);
    parsed
        .filter(|(w, h)| even(*w) && even(*h))
        .ok_or_else(|| format!("WIDTHxHEIGHT, such as 1280x720; even numbers from 16 to {MAX_SIDE}"))
}

/// Frames per second from 0.1 to [`MAX_FPS`], as a number or a fraction.
pub(crate) fn fps(text: &str) -> Result<f64, String> {
    let parsed = match text.split_once('/') {
        Some((num, den)) => num.parse::<f64>().ok().zip(den.parse::<f64>().ok()).map(|(num, den)| num / den),
        None => text.parse::<f64>().ok(),
    };
    parsed.filter(|fps| (0.1..=MAX_FPS).contains(fps)).ok_or_else(|| "such as 30, 29.97 or 30000/1001".to_owned())
}

/// Bits per second from 8k to 1000M; `k` and `M` are powers of ten.
pub(crate) fn bitrate(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match &text[digits.len()..] {
        "" => 1.0,
        "k" | "K" => 1e3,
        "m" | "M" => 1e6,
        _ => f64::NAN,
    };
    let bits = f64::from_str(digits).unwrap_or(f64::NAN) * scale;
    if (8e3..=1e9).contains(&bits) { Ok(bits as u64) } else { Err("bits per second, such as 2500k or 6M".into()) }
}

/// A pairing code of 80 bits that are not obviously chosen by hand.
pub(crate) fn pairing_code(text: &str) -> Result<Code, String> {
    let code: Code = text.parse().map_err(|_| {
        "16 letters and digits without I, L, O and U, such as 0123-4567-89AB-CDEF; dashes do not count".to_owned()
    })?;
    let digits: BTreeSet<char> = code.to_string().chars().filter(|c| *c != '-').collect();
    // 16 random digits of 32 have fewer than 7 different ones once in a million.
    if digits.len() < MIN_DIFFERENT_DIGITS {
        return Err("too easy to guess: use one that `broadcaster pairing-code` prints".into());
    }
    Ok(code)
}

/// A duration from 100 ms to [`MAX_DURATION`]: seconds, or with a unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    parsed
        .filter(|d| (Duration::from_millis(100)..=MAX_DURATION).contains(d))
        .ok_or_else(|| "such as 2s or 500ms; at most 10 minutes".into())
}

/// H.264 level 6.2 ends at 8192 × 4320; more is a typing error.
const MAX_SIDE: u32 = 8192;
/// Timestamps are whole milliseconds; frames closer than that would share one.
const MAX_FPS: f64 = 240.0;
/// Longer GOPs and windows are typing errors.
const MAX_DURATION: Duration = Duration::from_secs(600);
/// Different digits that a pairing code has at least.
const MIN_DIFFERENT_DIGITS: usize = 7;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pairing_code_is_as_long_as_a_random_one_and_not_obvious() {
        for (text, accepted) in [
            ("0123-4567-89AB-CDEF", true),
            ("0123456789abcdef", true),
            ("0123-4567-89AB-CDE", false),
            ("0123-4567-89AB-CDEF-G", false),
            ("0123-4567-89AB-CDEU", false),
            ("0000-0000-0000-0000", false),
            ("1234-1234-1234-1234", false),
            ("secret", false),
            ("", false),
        ] {
            assert_eq!(pairing_code(text).is_ok(), accepted, "{text}");
        }
        for _ in 0..1000 {
            let code = Code::generate().to_string();
            assert!(pairing_code(&code).is_ok(), "{code}");
        }
    }
}
