//! Rules of the source tree that the compiler does not check. The rules are in `tests/`; this library parses the source for them.
//!
//! | module | holds |
//! | --- | --- |
//! | [`tokens`] | Rust source as tokens, without comments |
//! | [`items`] | the modules, imports and paths of one file, without test code |
//! | [`imports`] | the import graph of one crate's files |
//! | [`circles`] | the cycles in such a graph |
//!
//! It depends on no other crate of the workspace, so that it can run before the others are built.

pub mod circles;
pub mod imports;
pub mod items;
pub mod tokens;
