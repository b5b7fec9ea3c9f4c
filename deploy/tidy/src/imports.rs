//! The import graph of one crate's files.
//!
//! A file imports from another if its code outside tests names an item of it, by `use` or in a path. A re-exported item (`pub use`) counts for
//! the file that defines it; a re-export or a `mod` declaration is not an import. Names built by macros, and methods called on a value, are not
//! detected.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::items::{Import, Module, modules};

/// For each file, the files that it imports from, each with one name that it imports.
pub type Graph = BTreeMap<PathBuf, BTreeMap<PathBuf, String>>;

/// A module's path in its crate; empty for the root.
type Name = Vec<String>;

/// The graph of the crate whose root file (`lib.rs`, `main.rs`) is `root`. `read` returns the text of a file, if it exists. Fails if a declared
/// module has no file.
pub fn graph(root: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Result<Graph> {
    let mut tree = Tree { nodes: BTreeMap::new(), read };
    let folder = root.parent().context("a file is in a folder")?;
    tree.load(&Vec::new(), root, folder)?;
    let mut graph = Graph::new();
    for (module, node) in &tree.nodes {
        let imports = graph.entry(node.file.clone()).or_default();
        let private = node.imports.iter().filter(|import| !import.is_public).map(|import| &import.path);
        for path in private.chain(&node.paths) {
            let Some(target) = tree.resolve(module, path, MOST_STEPS) else { continue };
            let file = &tree.nodes[&target].file;
            if *file != node.file {
                imports.entry(file.clone()).or_insert_with(|| path.join("::"));
            }
        }
    }
    Ok(graph)
}

/// All modules of a crate.
struct Tree<'a> {
    nodes: BTreeMap<Name, Node>,
    read: &'a dyn Fn(&Path) -> Option<String>,
}

struct Node {
    file: PathBuf,
    imports: Vec<Import>,
    paths: Vec<Vec<String>>,
}

impl Tree<'_> {
    /// Adds the modules of `file`, and recursively the modules that it declares, whose files are in `folder`.
    fn load(&mut self, name: &Name, file: &Path, folder: &Path) -> Result<()> {
        let source = (self.read)(file).with_context(|| format!("no file {}", file.display()))?;
        for Module { name: inline, files, imports, paths } in modules(&source) {
            let module = [&name[..], &inline].concat();
            let inner = inline.iter().fold(folder.to_owned(), |folder, name| folder.join(name));
            for declared in files {
                let beside = file.parent().context("a file is in a folder")?;
                let at = match declared.path {
                    Some(path) => beside.join(path),
                    None => self
                        .find(&inner, &declared.name)
                        .with_context(|| format!("no file of `mod {};` in {}", declared.name, file.display()))?,
                };
                self.load(
                    &[&module[..], std::slice::from_ref(&declared.name)].concat(),
                    &at,
                    &inner.join(&declared.name),
                )?;
            }
            if self.nodes.insert(module.clone(), Node { file: file.to_owned(), imports, paths }).is_some() {
                bail!("module {} is declared twice", module.join("::"));
            }
        }
        Ok(())
    }

    /// `name.rs` or `name/mod.rs` in `folder` (The Rust Reference, "Module source filenames").
    fn find(&self, folder: &Path, name: &str) -> Option<PathBuf> {
        let files = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
        files.into_iter().find(|file| (self.read)(file).is_some())
    }

    /// The module that defines the item that `path` names in `module`; `None` if another crate defines it.
    fn resolve(&self, module: &Name, path: &[String], steps: usize) -> Option<Name> {
        let mut at = module.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => (at, rest) = (Name::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {
                while let Some(("super", after)) = rest.split_first().map(|(first, after)| (first.as_str(), after)) {
                    at.pop()?;
                    rest = after;
                }
            }
            first if !self.nodes.contains_key(&child(module, first)) => return None,
            _ => {}
        }
        for (n, name) in rest.iter().enumerate() {
            if self.nodes.contains_key(&child(&at, name)) {
                at.push(name.clone());
                continue;
            }
            return Some(self.defines(&at, &rest[n..], steps).unwrap_or(at));
        }
        Some(at)
    }

    /// Follows the re-exports of `module` to the module that defines the first name of `rest`; `None` if that is `module` itself, or another crate.
    fn defines(&self, module: &Name, rest: &[String], steps: usize) -> Option<Name> {
        let steps = steps.checked_sub(1)?;
        let exports = || self.nodes[module].imports.iter().filter(|import| import.is_public);
        if let Some(import) = exports().find(|import| import.name == rest[0]) {
            return self.resolve(module, &[&import.path, &rest[1..]].concat(), steps);
        }
        // A glob lists no names: it includes this name if the module that it refers to declares or re-exports it.
        exports().filter(|import| import.name == "*").find_map(|import| {
            let from = self.resolve(module, &import.path[..import.path.len() - 1], steps)?;
            if self.nodes.contains_key(&child(&from, &rest[0])) {
                return self.resolve(&from, &[&["self".to_owned()], rest].concat(), steps);
            }
            self.defines(&from, rest, steps)
        })
    }
}

fn child(module: &Name, name: &str) -> Name {
    [&module[..], &[name.to_owned()]].concat()
}

/// Maximum length of a chain of re-exports, which bounds cycles.
const MOST_STEPS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// `file: imported, imported` for each file of a made-up crate that imports anything.
    fn shown(files: &[(&str, &str)]) -> Vec<String> {
        let read = |file: &Path| {
            files.iter().find(|(name, _)| Path::new(name) == file).map(|(_, source)| (*source).to_owned())
        };
        let graph = graph(Path::new("lib.rs"), &read).unwrap();
        let names = |imports: &BTreeMap<PathBuf, String>| {
            imports.keys().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
        };
        let importing = graph.iter().filter(|(_, imports)| !imports.is_empty());
        importing.map(|(file, imports)| format!("{}: {}", file.display(), names(imports))).collect()
    }

    #[test]
    fn imports_resolve_to_the_defining_file() {
        let tree = [
            ("lib.rs", "mod a; pub mod b; pub use b::Inner; mod c;"),
            ("a.rs", "use crate::Inner; fn f() -> crate::b::Other { crate::c::g() }"),
            ("b/mod.rs", "mod deep; mod wide; pub use deep::Inner; pub(crate) use self::wide::*; pub struct Other;"),
            ("b/deep.rs", "pub struct Inner; use super::Shared;"),
            ("b/wide.rs", "mod far; pub use far::Shared;"),
            ("b/wide/far.rs", "pub struct Shared; use std::fmt::Debug; use serde::Serialize;"),
            ("c.rs", "pub fn g() { super::a::h(); self::k() } fn k() {}"),
        ];
        assert_eq!(shown(&tree), ["a.rs: b/deep.rs, b/mod.rs, c.rs", "b/deep.rs: b/wide/far.rs", "c.rs: a.rs"]);
    }

    #[test]
    fn a_parent_imports_from_a_child_that_its_code_names() {
        let tree = [("lib.rs", "mod a; mod b; use b::B; fn f() { a::g() }"), ("a.rs", ""), ("b.rs", "")];
        assert_eq!(shown(&tree), ["lib.rs: a.rs, b.rs"]);
        let tree = [("lib.rs", "mod a; mod b { pub(super) fn g() { super::a::h() } } pub use a::A;"), ("a.rs", "")];
        assert_eq!(shown(&tree), ["lib.rs: a.rs"]);
    }

    #[test]
    fn cyclic_re_exports_terminate() {
        let tree =
            [("lib.rs", "mod a; mod b; mod c;"), ("a.rs", "pub use super::b::X;"), ("b.rs", "pub use super::a::X;")];
        assert_eq!(shown(&[&tree[..], &[("c.rs", "use crate::a::X;")]].concat()).len(), 1);
    }
}
