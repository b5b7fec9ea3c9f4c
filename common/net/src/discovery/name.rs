//! Instance names that only holders of a broadcast's secret can compute, a different one for each time slot.
//!
//! An instance name is the first label of a service instance name (RFC 6763 §4.1.1), at most 63 bytes; here it has 16. Pure: the caller
//! passes the time.

use ring::hmac;

/// The instance name of a broadcast in a slot: 16 characters of lower-case base32 (RFC 4648 §6, `a`–`z` and `2`–`7`).
///
/// They are the first 10 bytes of HMAC-SHA256 under `secret` of `"nearcast-mdns-v1"` and the slot's 8 big-endian bytes.
#[must_use]
pub fn instance_name(secret: &[u8; SECRET_LEN], slot: u64) -> String {
    NameMatcher::new(secret).name(slot)
}

/// The number of the slot that contains `unix_seconds` (since 1970-01-01 UTC).
#[must_use]
pub fn slot_at(unix_seconds: u64) -> u64 {
    unix_seconds / SLOT_SECONDS
}

/// Computes and recognises the names of one broadcast from its secret.
#[derive(Clone)]
pub struct NameMatcher {
    key: hmac::Key,
}

impl NameMatcher {
    /// Matches the names of the broadcast that has `secret`.
    #[must_use]
    pub fn new(secret: &[u8; SECRET_LEN]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    /// The name in `slot`, as [`instance_name`].
    #[must_use]
    pub fn name(&self, slot: u64) -> String {
        let mut message = [0; LABEL.len() + size_of::<u64>()];
        let (label, number) = message.split_at_mut(LABEL.len());
        label.copy_from_slice(LABEL);
        number.copy_from_slice(&slot.to_be_bytes());
        let tag = hmac::sign(&self.key, &message);
        base32(tag.as_ref().iter().take(NAME_BYTES).copied())
    }

    /// Whether `instance`, the first label alone, is a name of this broadcast at `unix_seconds`: of that slot, the one before or the one after.
    ///
    /// Adjacent slots count because clocks differ and records outlive their slot in caches. A match does not authenticate the announcer:
    /// every host on the LAN has received the name.
    #[must_use]
    pub fn matches(&self, instance: &str, unix_seconds: u64) -> bool {
        let slot = slot_at(unix_seconds);
        let last = slot.saturating_add(SLOTS_AROUND);
        (slot.saturating_sub(SLOTS_AROUND)..=last).any(|slot| self.name(slot) == instance)
    }
}

impl std::fmt::Debug for NameMatcher {
    /// Omits the secret, which must not appear in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NameMatcher").finish_non_exhaustive()
    }
}

/// Whether `label` could be an [`instance_name`]: the right length and alphabet, in lower case.
#[must_use]
pub fn is_instance_name(label: &str) -> bool {
    label.len() == NAME_LEN && label.bytes().all(|byte| ALPHABET.contains(&byte))
}

/// Lower-case base32 without padding. A last group of fewer than five bits is filled with zeros (RFC 4648 §6).
pub(super) fn base32(bytes: impl IntoIterator<Item = u8>) -> String {
    let mut text = String::with_capacity(NAME_LEN);
    let (mut held, mut bits) = (0_u32, 0_u32);
    for byte in bytes {
        held = (held << 8) | u32::from(byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(digit(held >> bits));
        }
        // At most four bits remain, so the next byte fits.
        held &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(digit(held << (5 - bits)));
    }
    text
}

fn digit(value: u32) -> char {
    char::from(ALPHABET[(value & 31) as usize])
}

/// The length of a broadcast's secret in bytes: 128 bits.
pub const SECRET_LEN: usize = 16;

/// The length of a slot in seconds: short, so that a name reveals little about a broadcaster's habits, but long compared with the TTL of a
/// record, two minutes.
pub const SLOT_SECONDS: u64 = 600;

/// Adjacent slots that match: a clock may be wrong by up to ten minutes.
const SLOTS_AROUND: u64 = 1;

/// Domain separation of this use of the secret.
const LABEL: &[u8; 16] = b"nearcast-mdns-v1";

/// Bytes of the HMAC in a name: 80 bits, so that names do not collide, and a multiple of five bits.
pub(super) const NAME_BYTES: usize = 10;

/// Characters of a name, of five bits each.
const NAME_LEN: usize = NAME_BYTES * 8 / 5;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    #[test]
    fn base32_matches_rfc_4648() {
        let table =
            [("", ""), ("f", "my"), ("fo", "mzxq"), ("foo", "mzxw6"), ("foob", "mzxw6yq"), ("foobar", "mzxw6ytboi")];
        for (plain, coded) in table {
            assert_eq!(base32(plain.bytes()), coded);
        }
        assert_eq!(base32([0xff; 10]), "7777777777777777");
    }

    #[test]
    fn names_match_another_implementation() {
        // Computed with Python's hmac and base64 modules.
        let table = NAMES_ELSEWHERE;
        for (secret, slot, name) in table {
            assert_eq!(instance_name(&secret, slot), name, "slot {slot}");
            assert!(is_instance_name(name));
        }
    }

    #[test]
    fn slots_are_ten_minutes() {
        for (seconds, slot) in
            [(0, 0), (599, 0), (600, 1), (1_199, 1), (1_700_000_000, 2_833_333), (u64::MAX, u64::MAX / 600)]
        {
            assert_eq!(slot_at(seconds), slot);
        }
    }

    #[test]
    fn a_name_matches_in_its_slot_and_the_two_around() {
        let wanted = NameMatcher::new(&SECRET);
        let now = 1_700_000_000;
        for (slots_ahead, expected) in [(-2_i64, false), (-1, true), (0, true), (1, true), (2, false)] {
            let name = instance_name(&SECRET, slot_at(now).checked_add_signed(slots_ahead).unwrap());
            assert_eq!(wanted.matches(&name, now), expected, "{slots_ahead} slots ahead");
        }
        let other = instance_name(&[7; 16], slot_at(now));
        assert!(!wanted.matches(&other, now));
        for nonsense in ["", "a", "AAAAAAAAAAAAAAAA"] {
            assert!(!wanted.matches(nonsense, now));
        }
    }

    #[test]
    fn extreme_times_do_not_overflow() {
        let wanted = NameMatcher::new(&SECRET);
        assert!(wanted.matches(&instance_name(&SECRET, 0), 0));
        assert!(wanted.matches(&instance_name(&SECRET, u64::MAX / 600), u64::MAX));
    }

    #[test]
    fn malformed_names_are_rejected() {
        let good = "abcdefghijklmn27";
        assert!(is_instance_name(good));
        for bad in [
            "",
            "abcdefghijklmn2",
            "abcdefghijklmn277",
            "Abcdefghijklmn27",
            "abcdefghijklmn21",
            "abcdefghijklm.27",
            "abcdefghijklmé7",
        ] {
            assert!(!is_instance_name(bad), "{bad}");
        }
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        assert_eq!(format!("{:?}", NameMatcher::new(&SECRET)), "NameMatcher { .. }");
    }

    const NAMES_ELSEWHERE: [([u8; 16], u64, &str); 4] = [
        (SECRET, 0, "3obwwtoibci6byvu"),
        (SECRET, 2833333, "aaglui6lza356sms"),
        ([0xff; 16], 1, "s2lqvbnsaiumn5he"),
        (SECRET, u64::MAX, "ohu33cjbqnm4tzpk"),
    ];
}
