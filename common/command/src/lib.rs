//! What the three commands share besides media and networks: exit codes, texts of errors, signals, log filters and limits, manual
//! pages and shell completions.
//!
//! It knows nothing of streams; each command states its own options, settings and codes.
#![forbid(unsafe_code)]

pub mod error_text;
pub mod exit;
pub mod log_filter;
pub mod log_limiter;
pub mod reference;
pub mod signals;

pub use error_text::with_causes;
pub use exit::Exit;
pub use log_limiter::LogLimiter;
