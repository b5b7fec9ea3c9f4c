//! Authorisation of publishers: stream names, publish keys, the file that holds the keys' hashes, and the last use of each key.

mod key_file;
mod keyring;
mod last_publishes;
mod name;
mod secret;

pub use key_file::Error;
pub use keyring::{Changes, KeyInfo, Keyring, ValidKey};
pub use last_publishes::{LastPublish, LastPublishes};
pub use name::{InvalidName, StreamName};
pub use secret::{InvalidKeyId, KeyId, PresentedKey, Secret};
