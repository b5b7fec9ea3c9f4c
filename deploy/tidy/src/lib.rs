//! Rules of the source tree that no compiler checks. The rules are in `tests/`.
//!
//! It depends on nothing of the workspace, so that it is built and run before anything else is.
