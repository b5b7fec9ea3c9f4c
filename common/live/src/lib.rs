//! A live stream in memory, as the broadcaster and the server hold it: one writer, any number of readers.
//!
//! It knows access units, positions and wall-clock times, but no protocol, no publisher's session and no clock: the caller decides who may
//! write, and instants are parameters.
#![forbid(unsafe_code)]

mod stream;
mod wakers;

pub use stream::{LiveStream, Progress, Pushed};
pub use wakers::{Interest, WakerGuard};
