//! Filters that select tests by binary, as in `binary(lan)`, name test targets that exist. A filter with an old name selects nothing,
//! without an error (nextest, "Filterset DSL reference").

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The files that contain filters.
const FILTERS: [&str; 2] = ["deploy/test", ".config/nextest.toml"];

#[test]
fn test_filters_name_existing_test_targets() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(&root).output().context("git")?;
    ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout)?;
    // A file may be deleted but not committed yet.
    let targets = test_targets(listed.split('\0').filter(|path| root.join(path).exists()));
    for file in FILTERS {
        let text = std::fs::read_to_string(root.join(file)).with_context(|| file.to_owned())?;
        ensure!(!binaries(&text).is_empty(), "{file} selects no test by its binary");
        let unknown = unknown(&text, &targets);
        ensure!(unknown.is_empty(), "{file}: no test target has the name of {}", unknown.join(", "));
    }
    Ok(())
}

#[test]
fn detects_a_filter_without_a_test_target() {
    let files = [
        "Cargo.toml",
        "common/net/Cargo.toml",
        "common/net/src/tests/inner.rs",
        "common/net/tests/discovery/main.rs",
        "common/net/tests/discovery/hostile.rs",
        "common/net/tests/rtmp.rs",
        "common/net/tests/support/mod.rs",
    ];
    let targets = test_targets(files);
    assert_eq!(targets.iter().copied().collect::<Vec<_>>(), ["discovery", "rtmp"]);
    let filter = "package(net) & (binary(discovery) | binary( =rtmp ) | binary(lan) | binary(~rt)) | kind(test)";
    assert_eq!(unknown(filter, &targets), ["binary(lan)", "binary(~rt)"]);
}

/// The names of the integration tests among `files`: `tests/NAME.rs` and `tests/NAME/main.rs` beside a `Cargo.toml` (The Cargo Book,
/// "Target auto-discovery").
fn test_targets<'a>(files: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let files: BTreeSet<&str> = files.into_iter().collect();
    let target = |file: &'a str| {
        let (package, rest) = file.split_once("/tests/")?;
        let name = rest.strip_suffix("/main.rs").or_else(|| rest.strip_suffix(".rs"))?;
        (!name.contains('/') && files.contains(format!("{package}/Cargo.toml").as_str())).then_some(name)
    };
    files.iter().copied().filter_map(target).collect()
}

/// The filters of `text` that name no target, as they are written. Patterns (`~`, `/`, `#`) count as unknown: they may match anything.
fn unknown(text: &str, targets: &BTreeSet<&str>) -> Vec<String> {
    let known = |name: &str| targets.contains(name.trim().trim_start_matches('='));
    binaries(text).into_iter().filter(|name| !known(name)).map(|name| format!("binary({name})")).collect()
}

/// What stands in the brackets of each `binary(…)`.
fn binaries(text: &str) -> Vec<&str> {
    text.split("binary(").skip(1).filter_map(|rest| rest.split(')').next()).collect()
}
