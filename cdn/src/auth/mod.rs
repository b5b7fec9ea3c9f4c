//! Authorisation of publishers: stream names, publish keys, the file that holds the keys' hashes, and the count of failures.

mod failures;
mod keyring;
mod name;
mod secret;

pub use failures::{AuthFailures, FailureReport, INTERVAL, LIMIT};
pub use keyring::{Changes, Error, Keyring};
pub use name::{InvalidName, StreamName};
pub use secret::{PresentedKey, Secret};
