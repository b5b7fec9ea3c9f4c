//! The modules that a file declares, its imports (`use`), and the paths in its code. Items under `#[cfg(test)]` are ignored.

use crate::tokens::{Token, tokens};

/// The contents of a module: the file's own, or an inline one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// The inline module's name within the file, from the outermost; empty for the file's own.
    pub name: Vec<String>,
    /// `mod name;` in it.
    pub files: Vec<FileModule>,
    /// Leaves of the `use` declarations in it.
    pub imports: Vec<Import>,
    /// Paths of two names or more in its code.
    pub paths: Vec<Vec<String>>,
}

/// `mod name;`: a module in a separate file.
#[derive(Debug, PartialEq, Eq)]
pub struct FileModule {
    /// The module's name, without its path.
    pub name: String,
    /// The value of `#[path = "…"]`, if there is one.
    pub path: Option<String>,
}

/// One leaf of a `use` declaration.
#[derive(Debug, PartialEq, Eq)]
pub struct Import {
    /// The full path, without a final `self`; a glob ends in `*`.
    pub path: Vec<String>,
    /// The name that it has in this module.
    pub name: String,
    /// Whether it is a `pub use`, with any visibility.
    pub is_public: bool,
}

/// The modules of a file: its own first, then the inline ones in it.
pub fn modules(source: &str) -> Vec<Module> {
    let tokens = tokens(source);
    let mut modules = vec![Module::default()];
    Parser { tokens: &tokens, at: 0 }.module(&mut modules, 0);
    modules
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl<'a> Parser<'a> {
    /// Parses to the end of the module `into`: its closing brace, or the end of the file.
    fn module(&mut self, modules: &mut Vec<Module>, into: usize) {
        let (mut depth, mut is_public, mut path) = (0usize, false, None);
        while let Some(token) = self.tokens.get(self.at) {
            match token {
                Token::Symbol('#') => {
                    let attribute = self.attribute();
                    if is_for_tests(attribute) {
                        self.skip_item();
                    } else if let [Token::Name(name), Token::Symbol('='), Token::Text(text)] = attribute
                        && name == "path"
                    {
                        path = Some(text.clone());
                    } else {
                        // The attribute of a derive macro may name items.
                        Parser { tokens: attribute, at: 0 }.module(modules, into);
                    }
                    continue;
                }
                Token::Symbol('{') => depth += 1,
                Token::Symbol('}') if depth == 0 => return,
                Token::Symbol('}') => depth -= 1,
                Token::Name(name) if name == "pub" => {
                    self.at += 1;
                    is_public = true;
                    if self.peek_is(0, '(') {
                        self.skip_brackets();
                    }
                    continue;
                }
                Token::Name(name) if name == "use" && !self.peek_is(1, '<') => {
                    self.at += 1;
                    self.import_tree(&[], is_public, &mut modules[into].imports);
                }
                Token::Name(name) if name == "mod" => {
                    self.declaration(modules, into, path.take());
                }
                Token::Name(_) | Token::PathSeparator => {
                    let path = self.path();
                    if path.len() > 1 {
                        modules[into].paths.push(path);
                    }
                    is_public = false;
                    continue;
                }
                _ => {}
            }
            is_public = false;
            self.at += 1;
        }
    }

    /// `mod name;` or `mod name { … }`; stops at its last token.
    fn declaration(&mut self, modules: &mut Vec<Module>, into: usize, path: Option<String>) {
        let Some(name) = self.tokens.get(self.at + 1).and_then(Token::name).map(str::to_owned) else { return };
        self.at += 2;
        if self.peek_is(0, '{') {
            self.at += 1;
            let name = [&modules[into].name[..], &[name]].concat();
            modules.push(Module { name, ..Module::default() });
            let inner = modules.len() - 1;
            self.module(modules, inner);
        } else {
            modules[into].files.push(FileModule { name, path });
        }
    }

    /// Parses a use tree after `prefix`, up to the `;`, `,` or `}` that follows it.
    fn import_tree(&mut self, prefix: &[String], is_public: bool, imports: &mut Vec<Import>) {
        let mut path = prefix.to_vec();
        let mut name = None;
        while let Some(token) = self.tokens.get(self.at) {
            match token {
                Token::Symbol(';' | ',' | '}') => break,
                Token::Symbol('{') => {
                    self.at += 1;
                    while self.at < self.tokens.len() && !self.peek_is(0, '}') {
                        self.import_tree(&path, is_public, imports);
                        self.at += usize::from(self.peek_is(0, ','));
                    }
                    self.at += 1;
                    return;
                }
                Token::Symbol('*') => path.push("*".to_owned()),
                // An absolute path begins with another crate's name.
                Token::PathSeparator if path.is_empty() => path.push(String::new()),
                Token::Name(word) if word == "as" => {
                    self.at += 1;
                    name = self.tokens.get(self.at).and_then(Token::name).map(str::to_owned);
                }
                Token::Name(word) if word == "self" && !path.is_empty() => {}
                Token::Name(word) => path.push(word.clone()),
                _ => {}
            }
            self.at += 1;
        }
        if let Some(last) = path.last() {
            let name = name.unwrap_or_else(|| last.clone());
            imports.push(Import { path, name, is_public });
        }
    }

    /// Parses a path `a::b::c`, as long as names follow.
    fn path(&mut self) -> Vec<String> {
        let mut path = Vec::new();
        if self.tokens[self.at] == Token::PathSeparator {
            path.push(String::new());
        } else {
            path.extend(self.tokens[self.at].name().map(str::to_owned));
            self.at += 1;
        }
        while self.tokens.get(self.at) == Some(&Token::PathSeparator) {
            self.at += 1;
            let Some(name) = self.tokens.get(self.at).and_then(Token::name) else { break };
            path.push(name.to_owned());
            self.at += 1;
        }
        path
    }

    /// Parses `#[…]` or `#![…]` and returns the tokens in the brackets.
    fn attribute(&mut self) -> &'a [Token] {
        self.at += 1 + usize::from(self.peek_is(1, '!'));
        let start = self.at + 1;
        if self.peek_is(0, '[') {
            self.skip_brackets();
        }
        self.tokens.get(start..self.at.saturating_sub(1)).unwrap_or_default()
    }

    /// Skips the target of an attribute: an item with its braces or semicolon, or a field, variant or arm with its comma.
    fn skip_item(&mut self) {
        let mut is_item = false;
        while let Some(token) = self.tokens.get(self.at) {
            match token {
                Token::Symbol('#') => {
                    self.attribute();
                    continue;
                }
                Token::Symbol('(' | '[') => {
                    self.skip_brackets();
                    continue;
                }
                Token::Symbol('{') => {
                    self.skip_brackets();
                    // `use a::{b, c};` continues after the braces.
                    self.at += usize::from(self.peek_is(0, ';') || self.peek_is(0, ','));
                    return;
                }
                Token::Symbol(';') => {
                    self.at += 1;
                    return;
                }
                Token::Symbol(',') if !is_item => {
                    self.at += 1;
                    return;
                }
                Token::Symbol('}') => return,
                Token::Name(name) => is_item |= ITEMS.contains(&name.as_str()),
                _ => {}
            }
            self.at += 1;
        }
    }

    /// Skips a bracket and everything up to its closing bracket.
    fn skip_brackets(&mut self) {
        let mut depth = 0usize;
        while let Some(token) = self.tokens.get(self.at) {
            self.at += 1;
            match token {
                Token::Symbol('(' | '[' | '{') => depth += 1,
                Token::Symbol(')' | ']' | '}') => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }

    fn peek_is(&self, ahead: usize, symbol: char) -> bool {
        self.tokens.get(self.at + ahead).is_some_and(|token| token.is(symbol))
    }
}

/// `cfg(test)`, and `cfg(all(test, …))`; not `cfg(not(test))`.
fn is_for_tests(attribute: &[Token]) -> bool {
    let has = |word: &str| attribute.iter().any(|token| token.name() == Some(word));
    attribute.first().and_then(Token::name) == Some("cfg") && has("test") && !has("not") && !has("any")
}

/// Keywords that begin an item; a comma does not end an item.
const ITEMS: [&str; 11] =
    ["const", "enum", "fn", "impl", "mod", "static", "struct", "trait", "type", "use", "macro_rules"];

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(module: &Module) -> Vec<String> {
        module.paths.iter().map(|path| path.join("::")).collect()
    }

    fn imports(source: &str) -> Vec<String> {
        let shown = |import: &Import| {
            let public = if import.is_public { "pub " } else { "" };
            format!("{public}{} as {}", import.path.join("::"), import.name)
        };
        modules(source)[0].imports.iter().map(shown).collect()
    }

    #[test]
    fn nested_imports_are_flattened() {
        assert_eq!(
            imports("use super::{self, a::{B, C as D}, e::*};\npub(crate) use crate::f::g;\nuse ::lab::h;"),
            [
                "super as super",
                "super::a::B as B",
                "super::a::C as D",
                "super::e::* as *",
                "pub crate::f::g as g",
                "::lab::h as h"
            ]
        );
    }

    #[test]
    fn test_only_items_are_ignored() {
        let source = "
            #[cfg(test)] use crate::a::A;
            #[cfg(test)] use crate::{b, c};
            #[cfg(test)] #[path = \"x.rs\"] mod tests;
            #[cfg(all(test, unix))] mod more { use crate::d; fn f() { crate::e::f() } }
            #[cfg(test)] pub(crate) fn g<A, B>(a: [A; 2]) -> crate::h::H { crate::i::i() }
            struct S { #[cfg(test)] j: crate::j::J, #[error(crate::o::O)] k: crate::k::K }
            #[cfg(not(test))] use crate::l::L;
            fn m() { crate::m::M::new::<crate::n::N>() }";
        let modules = modules(source);
        assert_eq!(modules.len(), 1);
        assert_eq!(paths(&modules[0]), ["crate::o::O", "crate::k::K", "crate::m::M::new", "crate::n::N"]);
        assert_eq!(modules[0].imports.iter().map(|import| import.name.as_str()).collect::<Vec<_>>(), ["L"]);
        assert_eq!(modules[0].files, []);
    }

    #[test]
    fn file_and_inline_modules_are_distinguished() {
        let modules = modules(
            "mod a; #[path = \"b_of_linux.rs\"] pub mod b; mod c { mod d; fn e() { super::f::g() } } fn h() { i::j() }",
        );
        let module = |name: &str, path: Option<&str>| FileModule { name: name.into(), path: path.map(str::to_owned) };
        assert_eq!(modules[0].files, [module("a", None), module("b", Some("b_of_linux.rs"))]);
        assert_eq!((&modules[1].name[..], paths(&modules[1])), (&["c".to_owned()][..], vec!["super::f::g".to_owned()]));
        assert_eq!((modules[1].files.len(), paths(&modules[0])), (1, vec!["i::j".to_owned()]));
    }
}
