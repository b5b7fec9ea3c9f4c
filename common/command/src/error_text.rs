//! The text of an error with its causes.

use std::error::Error;

/// An error and its causes, from the outermost to the innermost, each once: many errors end with the text of their cause.
pub fn with_causes<'a>(chain: impl IntoIterator<Item = &'a (dyn Error + 'static)>) -> String {
    let mut text = String::new();
    for error in chain {
        let error = error.to_string();
        if text.is_empty() {
            text = error;
        } else if !text.ends_with(&error) {
            text.push_str(": ");
            text.push_str(&error);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Caused(&'static str, Option<Box<Caused>>);

    impl fmt::Display for Caused {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Caused {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn each_cause_is_stated_once() {
        for (texts, expected) in [
            (&["cannot open a"][..], "cannot open a"),
            (&["cannot open a", "no such file"], "cannot open a: no such file"),
            (
                &["cannot start", "cannot open a: no such file", "no such file"],
                "cannot start: cannot open a: no such file",
            ),
            (&["a: b: c", "b: c", "c"], "a: b: c"),
        ] {
            let error = texts.iter().rev().fold(None, |cause, text| Some(Box::new(Caused(text, cause)))).unwrap();
            let first: &(dyn Error + 'static) = &*error;
            let chain = std::iter::successors(Some(first), |&error| error.source());
            assert_eq!(with_causes(chain), expected);
        }
    }
}
