//! A publish key: 160 random bits, shown once, kept only as an id by which it is found and a salted hash.

use std::fmt;
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use rand::TryRng;
use rand::rngs::{SysError, SysRng};
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A publish key in the clear. It prints redacted.
#[derive(Clone)]
pub struct Secret(String);

/// Stored form of a key: salt, and SHA-256 of salt and key. The key is random, so a slow hash would add no security.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hash {
    pub(super) salt: [u8; 16],
    pub(super) digest: [u8; 32],
}

/// The first 48 bits of a hash of a key: where the keyring looks for it. It says nothing of the rest of the key. Its text is 12 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId([u8; 6]);

/// A text with the form of a key, as a client presented it. Whether it is one, only the keyring knows.
#[derive(Clone, Copy)]
pub struct PresentedKey<'a>(&'a str);

impl Secret {
    /// Generates a key with the system's random number generator.
    pub(super) fn generate() -> Result<Self, SysError> {
        let mut bytes = [0; 20];
        SysRng.try_fill_bytes(&mut bytes)?;
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        Ok(Self(PREFIX.chars().chain(digits.map(|d| char::from_digit(d.into(), 16).expect("four bits"))).collect()))
    }

    /// The key, as a client would present it.
    pub fn presented(&self) -> PresentedKey<'_> {
        PresentedKey(&self.0)
    }

    /// The key in the clear, as entered into an encoder.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub(super) fn hash(&self) -> Result<Hash, SysError> {
        let mut salt = [0; 16];
        SysRng.try_fill_bytes(&mut salt)?;
        Ok(Hash { salt, digest: digest(&salt, &self.0) })
    }
}

impl<'a> PresentedKey<'a> {
    /// Checks the form only: the prefix, and 40 lower-case hexadecimal digits. The cost does not depend on the length of `text`.
    pub fn parse(text: &'a str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX).filter(|digits| digits.len() == KEY_DIGITS)?;
        digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')).then_some(Self(text))
    }

    pub(super) fn id(self) -> KeyId {
        let hash: [u8; 32] = Sha256::new().chain_update(ID_DOMAIN).chain_update(self.0.as_bytes()).finalize().into();
        KeyId(*hash.first_chunk().expect("a hash is longer than an id"))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

/// A text is not 12 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of a key is 12 hexadecimal digits")]
pub struct InvalidKeyId;

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl FromStr for KeyId {
    type Err = InvalidKeyId;

    fn from_str(text: &str) -> Result<Self, InvalidKeyId> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| InvalidKeyId)?;
        bytes.try_into().map(Self).map_err(|_| InvalidKeyId)
    }
}

impl fmt::Debug for PresentedKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Hash {
    /// Whether this is the hash of `presented`. Takes constant time.
    pub(super) fn is_of(&self, presented: PresentedKey<'_>) -> bool {
        digest(&self.salt, presented.0).ct_eq(&self.digest).into()
    }
}

fn digest(salt: &[u8; 16], key: &str) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(key.as_bytes()).finalize().into()
}

/// Prefix of every key ("Nearcast key"), by which people and secret scanners recognise it.
pub(super) const PREFIX: &str = "nck_";
/// Digits after the prefix: 160 bits.
const KEY_DIGITS: usize = 40;
/// Separates the hash of an id from every other hash of a key.
const ID_DOMAIN: &[u8] = b"nearcast publish key id\0";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::StreamName;
    use super::*;

    #[test]
    fn keys_are_random_long_and_redacted() {
        let (a, b) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        assert_ne!(a.reveal(), b.reveal());
        assert_eq!(a.reveal().len(), 4 + 40);
        assert_eq!(format!("{a} {a:?}"), "*** ***");
    }

    #[test]
    fn hashes_are_salted() {
        let key = Secret::generate().unwrap();
        let (a, b) = (key.hash().unwrap(), key.hash().unwrap());
        assert_ne!(a, b);
        assert!(a.is_of(key.presented()) && b.is_of(key.presented()));
        assert!(!a.is_of(Secret::generate().unwrap().presented()));
    }

    #[test]
    fn only_the_form_of_a_key_is_a_presented_key() {
        let key = Secret::generate().unwrap();
        let good = key.reveal();
        assert_eq!(PresentedKey::parse(good).map(PresentedKey::id), Some(key.presented().id()));
        assert_eq!(format!("{:?}", key.presented()), "***");
        for wrong in [
            "",
            "live",
            PREFIX,
            &good[1..],
            &good[4..],
            &format!("{good} "),
            &format!("{good}0"),
            &good[..43],
            &format!("nck_{}", "A".repeat(40)),
            &format!("nck_{}", "é".repeat(20)),
            &"a".repeat(60_000),
        ] {
            assert!(PresentedKey::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn an_id_is_part_of_neither_the_key_nor_its_hash() {
        let key = Secret::generate().unwrap();
        let id = key.presented().id();
        assert_eq!(key.presented().id(), id);
        assert_ne!(id, Secret::generate().unwrap().presented().id());
        assert!(!key.reveal().contains(&id.to_string()));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(key.hash().unwrap().digest[..6], id.0);
    }

    proptest! {
        #[test]
        fn any_text_is_a_key_by_its_form_alone_and_no_key_is_a_name(
            text in prop_oneof!["\\PC{0,80}", "(nck_)?[0-9a-f]{36,44}", "nck_[0-9a-fA-F\u{e9} ]{40}", "nck_[0-9a-f]{40}"]
        ) {
            let digits = text.strip_prefix("nck_").unwrap_or_default();
            let has_form = digits.chars().count() == 40 && digits.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
            prop_assert_eq!(PresentedKey::parse(&text).is_some(), has_form);
            if let Ok(name) = text.parse::<StreamName>() {
                prop_assert!(!has_form && name.as_str() == text);
                prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#%:".contains(&byte)), "{}", text);
            }
        }
    }
}
