//! Authorisation of publishers: stream names, publish keys, and the file that holds the keys' hashes.

mod keyring;
mod name;
mod secret;

pub use keyring::{Changes, Error, Keyring};
pub use name::{InvalidName, StreamName};
pub use secret::Secret;
