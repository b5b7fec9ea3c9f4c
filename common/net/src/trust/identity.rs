//! The self-signed certificate of a broadcaster or a server, identified by its hash.
//!
//! An identity lasts for one broadcast or one server run and is never written to a disk. The certificate does not identify its owner: it has
//! a fixed name, no host, and fixed dates. It is not valid for browsers or any authority; peers use only its hash and its key.
//!
//! X.509 v3 (RFC 5280 §4.1), self-signed with ECDSA on P-256; the pin is SHA-256 (FIPS 180-4) of the whole DER certificate.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use ring::digest;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::error::{Error, thirty_two};

/// A self-signed certificate and its private key.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Generates a key and a certificate.
    ///
    /// # Errors
    /// [`Error::Certificate`] if the system provides no random bytes.
    pub fn generate() -> Result<Self, Error> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        // The validity stays at rcgen's widest default: no client checks it, and other dates would reveal when the broadcast began.
        let mut params = rcgen::CertificateParams::new([SERVER_NAME.to_owned()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, SERVER_NAME);
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { certificate, key: PrivateKeyDer::Pkcs8(key.serialize_der().into()) })
    }

    /// The hash that identifies the certificate.
    pub fn pin(&self) -> Pin {
        Pin::of(&self.certificate)
    }

    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("pin", &self.pin()).finish_non_exhaustive()
    }
}

/// SHA-256 of a DER-encoded certificate. Not a secret: any client that connects can compute it. It must come from a trusted source.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a DER-encoded certificate.
    pub fn of(certificate: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, certificate);
        Self(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// The 32 bytes of the hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Pin {
    fn from(hash: [u8; 32]) -> Self {
        Self(hash)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl FromStr for Pin {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        thirty_two(text).map(Self)
    }
}

/// The server name that clients send and every certificate carries: TLS requires one, and it must not identify the server.
pub const SERVER_NAME: &str = "nearcast";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_the_hash_in_lower_case_hex() {
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let pin = Pin::of(b"");
        assert_eq!(pin.to_string(), text);
        assert_eq!(text.parse::<Pin>().unwrap(), pin);
        assert_eq!(format!("{pin:?}"), format!("Pin({text})"));
        assert_eq!(Pin::from(*pin.as_bytes()), pin);
        let (upper, long, spaced) = (text.to_uppercase(), format!("{text}00"), format!(" {}", &text[1..]));
        let foreign = format!("{}é", &text[2..]);
        for wrong in ["", "00", &text[1..], &text[2..], &upper, &long, &spaced, &foreign] {
            assert!(matches!(wrong.parse::<Pin>(), Err(Error::Hex)), "{wrong}");
        }
    }

    #[test]
    fn each_identity_is_new_and_anonymous() {
        let (one, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        assert_ne!(one.pin(), other.pin());
        assert_eq!(one.pin(), Pin::of(&one.certificate()));
        // The fixed name is its subject, its issuer and its alternative name; the program that made it is not stated.
        let count = |text: &str| one.certificate.windows(text.len()).filter(|run| *run == text.as_bytes()).count();
        assert_eq!((count(SERVER_NAME), count("rcgen")), (3, 0));
        // Two certificates differ in key, serial number and signature only: the dates are the same.
        let dates = |identity: &Identity| {
            let der = identity.certificate.to_vec();
            let at = der.windows(9).position(|run| run.ends_with(b"000000Z")).unwrap();
            der[at..at + 40].to_vec()
        };
        assert_eq!(dates(&one), dates(&other));
    }

    #[test]
    fn debug_shows_the_pin_but_no_key() {
        let identity = Identity::generate().unwrap();
        assert_eq!(format!("{identity:?}"), format!("Identity {{ pin: {:?}, .. }}", identity.pin()));
    }
}
