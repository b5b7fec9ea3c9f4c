//! A publish key: 160 random bits, shown once, kept only as a salted hash.

use std::fmt;

use rand::TryRng;
use rand::rngs::{SysError, SysRng};
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

impl Secret {
    /// Generates a key with the system's random number generator.
    pub(super) fn generate() -> Result<Self, SysError> {
        let mut bytes = [0; 20];
        SysRng.try_fill_bytes(&mut bytes)?;
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        Ok(Self(PREFIX.chars().chain(digits.map(|d| char::from_digit(d.into(), 16).expect("four bits"))).collect()))
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
    pub(super) fn is_of(&self, presented: &str) -> bool {
        digest(&self.salt, presented).ct_eq(&self.digest).into()
    }
}

fn digest(salt: &[u8; 16], key: &str) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(key.as_bytes()).finalize().into()
}

/// Prefix of every key ("Nearcast key"), by which people and secret scanners recognise it.
pub(super) const PREFIX: &str = "nck_";

#[cfg(test)]
mod tests {
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
        assert!(a.is_of(key.reveal()) && b.is_of(key.reveal()));
        assert!(!a.is_of("") && !a.is_of(&key.reveal()[1..]));
    }
}
