//! What the three commands share besides media and networks: exit codes, texts of errors, signals, log filters, manual pages and shell completions.
//!
//! It knows nothing of streams; each command states its own options, settings and codes.
#![forbid(unsafe_code)]

pub mod error_text;
pub mod exit;
pub mod log_filter;
pub mod reference;
pub mod signals;

pub use error_text::with_causes;
pub use exit::Exit;
