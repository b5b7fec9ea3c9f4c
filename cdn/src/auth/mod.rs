//! Who may publish: names of streams, publish keys, and the file that holds their hashes.

mod keyring;
mod name;
mod secret;

pub use keyring::{Changes, Error, Keyring};
pub use name::{InvalidName, StreamName};
pub use secret::Secret;
