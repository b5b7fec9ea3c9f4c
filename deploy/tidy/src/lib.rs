//! Rules of the source tree that no compiler checks. The rules are in `tests/`; this library reads what they need.
//!
//! | module | holds |
//! | --- | --- |
//! | [`tokens`] | Rust source as tokens, without comments |
//! | [`items`] | the modules, imports and paths of one file, without what only tests see |
//! | [`imports`] | the files of one crate and which of them import from which |
//! | [`circles`] | the circles in such a graph |
//!
//! It depends on nothing of the workspace, so that it is built and run before anything else is.

pub mod circles;
pub mod imports;
pub mod items;
pub mod tokens;
