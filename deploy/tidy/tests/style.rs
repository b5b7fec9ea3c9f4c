//! Style rules that the compiler does not check: file names, module docs, file length, forbidden markers.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Every tracked file with this extension, and its text.
fn files(extension: &str) -> Result<Vec<(PathBuf, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(&root).output().context("git")?;
    ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout)?;
    let mut files = Vec::new();
    for name in names.split('\0').filter(|name| name.ends_with(extension)) {
        // A file may be deleted but not committed yet.
        if let Ok(text) = std::fs::read_to_string(root.join(name)) {
            files.push((PathBuf::from(name), text));
        }
    }
    ensure!(!files.is_empty(), "git knows no *{extension}");
    Ok(files)
}

fn check(extension: &str, fault: impl Fn(&Path, &str) -> Option<String>) -> Result<()> {
    let faults: Vec<String> = files(extension)?
        .iter()
        .filter_map(|(path, text)| fault(path, text).map(|fault| format!("{}: {fault}", path.display())))
        .collect();
    ensure!(faults.is_empty(), "\n{}", faults.join("\n"));
    Ok(())
}

#[test]
fn every_source_file_has_module_docs() -> Result<()> {
    check(".rs", |_, text| (!text.starts_with("//! ")).then(|| "does not open with //!".into()))
}

#[test]
fn no_file_has_a_meaningless_name() -> Result<()> {
    check(".rs", |path, _| {
        let name = path.file_stem()?.to_str()?;
        ["utils", "util", "helpers", "helper", "define", "types", "manager", "common", "misc"]
            .contains(&name)
            .then(|| "says nothing by its name".into())
    })
}

#[test]
fn no_file_is_too_long() -> Result<()> {
    check(".rs", |path, text| {
        if path.components().any(|part| ["tests", "tests.rs", "benches"].iter().any(|name| part.as_os_str() == *name)) {
            return None;
        }
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        (lines > LONGEST)
            .then(|| format!("{lines} lines without its tests, and {LONGEST} is where a file is taken apart"))
    })
}

#[test]
fn no_ignored_tests_and_no_todo_markers() -> Result<()> {
    // Concatenated, so that this file does not contain the markers.
    let words = [
        ["#[ig", "nore"].concat(),
        ["todo", "!("].concat(),
        ["unimplemented", "!("].concat(),
        ["dbg", "!("].concat(),
        ["FIX", "ME"].concat(),
        ["X", "XX:"].concat(),
    ];
    check(".rs", |_, text| words.iter().find(|word| text.contains(word.as_str())).map(|word| format!("has {word}")))
}

#[test]
fn every_crate_inherits_the_workspace_lints() -> Result<()> {
    check("Cargo.toml", |_, text| {
        (text.contains("[package]") && !text.contains("[lints]\nworkspace = true"))
            .then(|| "lacks [lints] workspace = true".into())
    })
}

#[test]
fn the_core_forbids_unsafe_code() -> Result<()> {
    check("common/media/src/lib.rs", |_, text| {
        (!text.contains("#![forbid(unsafe_code)]")).then(|| "lacks #![forbid(unsafe_code)]".into())
    })
}

#[test]
fn no_trailing_whitespace() -> Result<()> {
    for extension in [".rs", ".md", ".toml"] {
        check(extension, |_, text| {
            let line = text.lines().position(|line| line.ends_with([' ', '\t']))?;
            Some(format!("line {} ends in white space", line + 1))
        })?;
    }
    Ok(())
}

/// STYLE: 100 to 350 lines, think at 500.
const LONGEST: usize = 500;
