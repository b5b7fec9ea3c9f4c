//! Log levels and filters, strict: `tracing` itself takes any word that is no level for the name of a module, and then logs nothing.

use tracing_subscriber::EnvFilter;

/// The text is no level and no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{directive:?} is no log level: use {}, or a filter such as info,cdn::egress=debug", LEVELS.join(", "))]
pub struct InvalidFilter {
    directive: String,
}

/// Parses a level (`info`), or levels of modules after one (`warn,cdn::egress=debug`), separated by commas.
///
/// # Errors
/// [`InvalidFilter`] with the part that has no level.
pub fn parse(text: &str) -> Result<EnvFilter, InvalidFilter> {
    let invalid = |directive: &str| InvalidFilter { directive: directive.to_owned() };
    for directive in text.split(',') {
        // The last `=`, since a span's fields may have one: `[conn{id=7}]=debug`.
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level).trim();
        if !LEVELS.iter().any(|known| level.eq_ignore_ascii_case(known)) {
            return Err(invalid(directive));
        }
    }
    EnvFilter::builder().parse(text).map_err(|_| invalid(text))
}

/// The filter of the variable `RUST_LOG`, or `default` if it is unset or empty.
///
/// # Errors
/// [`InvalidFilter`] as of [`parse`].
pub fn from_environment(default: &str) -> Result<EnvFilter, InvalidFilter> {
    match std::env::var_os(VARIABLE) {
        Some(text) if !text.is_empty() => parse(&text.to_string_lossy()),
        _ => parse(default),
    }
}

/// The environment variable that [`from_environment`] reads.
pub const VARIABLE: &str = "RUST_LOG";

/// The levels, from none to all events.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_level_is_refused_with_the_list() {
        for text in ["info", "INFO", "off", "warn,cdn::egress=debug", "cdn=trace,info", "info,[conn{id=7}]=debug"] {
            assert!(parse(text).is_ok(), "{text}");
        }
        for (text, named) in [
            ("verbose", "verbose"),
            ("", ""),
            ("inof", "inof"),
            ("info,cdn", "cdn"),
            ("info,", ""),
            ("info,cdn=loud", "cdn=loud"),
            ("6", "6"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{named:?} is no log level")), "{text}: {error}");
            assert!(error.contains("off, error, warn, info, debug, trace"), "{error}");
        }
    }
}
