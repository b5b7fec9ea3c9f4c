//! Rust source as tokens: names, text, `::` and single characters. Comments, numbers and white space are omitted.
//!
//! This is not a complete lexer (The Rust Reference, "Tokens"): it distinguishes only what is needed to find names.

/// One token of Rust source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// An identifier or keyword, without `r#`.
    Name(String),
    /// The contents of a string literal, escapes as written.
    Text(String),
    /// The path separator `::`.
    PathSeparator,
    /// Any other character.
    Symbol(char),
}

impl Token {
    /// Whether it is this character.
    pub fn is(&self, symbol: char) -> bool {
        *self == Token::Symbol(symbol)
    }

    /// The identifier or keyword, if it is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Token::Name(name) => Some(name),
            _ => None,
        }
    }
}

/// Tokenises `source`. An unterminated comment or literal ends with the source.
pub fn tokens(source: &str) -> Vec<Token> {
    let mut reader = Reader { rest: source };
    std::iter::from_fn(|| reader.next_token()).collect()
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn next_token(&mut self) -> Option<Token> {
        loop {
            self.rest = self.rest.trim_start();
            let first = self.rest.chars().next()?;
            if self.rest.starts_with("//") {
                self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
            } else if self.rest.starts_with("/*") {
                self.skip_block_comment();
            } else if first.is_ascii_digit() {
                // `1.0` is two words and a dot, none of which is a name.
                let word = self.word();
                self.skip(word.len());
            } else if let Some(text) = self.raw_text() {
                return Some(Token::Text(text));
            } else if first.is_alphabetic() || first == '_' {
                return Some(self.name_or_text());
            } else if first == '"' {
                self.skip(1);
                return Some(Token::Text(self.quoted('"')));
            } else if first == '\'' {
                self.character_or_lifetime();
            } else if self.rest.starts_with("::") {
                self.skip(2);
                return Some(Token::PathSeparator);
            } else {
                self.skip(first.len_utf8());
                return Some(Token::Symbol(first));
            }
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn word(&self) -> &'a str {
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        &self.rest[..end.unwrap_or(self.rest.len())]
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 0;
        while !self.rest.is_empty() {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if self.rest.starts_with("*/") {
                depth -= 1;
                self.skip(2);
                if depth == 0 {
                    return;
                }
            } else {
                self.skip(self.rest.chars().next().map_or(0, char::len_utf8));
            }
        }
    }

    /// A raw string `r"…"`, `r#"…"#`, also with the prefix `b` or `c`.
    fn raw_text(&mut self) -> Option<String> {
        let after = self.rest.trim_start_matches(['b', 'c']);
        let after = (self.rest.len() - after.len() <= 1).then_some(after)?.strip_prefix('r')?;
        let hashes = after.len() - after.trim_start_matches('#').len();
        let text = after[hashes..].strip_prefix('"')?;
        let close = format!("\"{}", "#".repeat(hashes));
        let end = text.find(&close).unwrap_or(text.len());
        self.rest = text.get(end + close.len()..).unwrap_or_default();
        Some(text[..end].to_owned())
    }

    fn name_or_text(&mut self) -> Token {
        let word = self.word();
        self.skip(word.len());
        match word {
            "b" | "c" if self.rest.starts_with('"') => {
                self.skip(1);
                Token::Text(self.quoted('"'))
            }
            "b" if self.rest.starts_with('\'') => {
                self.skip(1);
                Token::Text(self.quoted('\''))
            }
            "r" if self.rest.starts_with('#') => {
                self.skip(1);
                self.name_or_text()
            }
            _ => Token::Name(word.to_owned()),
        }
    }

    /// The text up to the closing `quote`, which is consumed too.
    fn quoted(&mut self, quote: char) -> String {
        let mut escaped = false;
        let end = self.rest.char_indices().find(|(_, c)| {
            let closes = *c == quote && !escaped;
            escaped = *c == '\\' && !escaped;
            closes
        });
        let (text, rest) = match end {
            Some((at, _)) => (&self.rest[..at], &self.rest[at + quote.len_utf8()..]),
            None => (self.rest, ""),
        };
        self.rest = rest;
        text.to_owned()
    }

    fn character_or_lifetime(&mut self) {
        self.skip(1);
        let mut characters = self.rest.chars();
        let (first, second) = (characters.next(), characters.next());
        if first == Some('\\') || second == Some('\'') {
            self.quoted('\'');
        } else {
            self.skip(self.word().len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(source: &str) -> String {
        let shown = tokens(source).into_iter().map(|token| match token {
            Token::Name(name) => name,
            Token::Text(text) => format!("<{text}>"),
            Token::PathSeparator => "::".to_owned(),
            Token::Symbol(symbol) => symbol.to_string(),
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn names_are_distinguished_from_text_and_comments() {
        for (source, expected) in [
            ("use crate::a::B;", "use crate :: a :: B ;"),
            ("a // crate::b\n/* crate::c /* d */ e */ f", "a f"),
            (r#"x("crate::a \" b", 'c', '\'', '"', b'"', b"d")"#, r#"x ( <crate::a \" b> , , , , <"> , <d> )"#),
            ("r#\"crate::a \" b\"# r\"c\\\" br#\"d\"# r#type", "<crate::a \" b> <c\\> <d> type"),
            ("fn f<'a>(x: &'a str) -> 1.5e3", "fn f < > ( x : & str ) - > ."),
            ("/* open", ""),
            ("\"open", "<open>"),
        ] {
            assert_eq!(shown(source), expected, "{source}");
        }
    }
}
