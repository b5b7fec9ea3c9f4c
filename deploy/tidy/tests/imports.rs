//! There are no cyclic imports between files, so each file can be read after those that it depends on.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use tidy::circles::circles;
use tidy::imports::{Graph, graph};

#[test]
fn no_cyclic_imports() -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let mut faults = Vec::new();
    let mut files = 0;
    for root in roots(&workspace)? {
        let graph = graph(&root, &|file| std::fs::read_to_string(file).ok())?;
        files += graph.len();
        faults.extend(circles(&graph).iter().map(|circle| shown(&workspace, &graph, circle)));
    }
    ensure!(files > 100, "only {files} files were found");
    ensure!(faults.is_empty(), "{} circles of imports:\n{}", faults.len(), faults.join("\n"));
    Ok(())
}

#[test]
fn detects_an_import_cycle() -> Result<()> {
    let read = |file: &Path| {
        let source = match file.to_str()? {
            "src/lib.rs" => "mod hub; mod ingest; pub use hub::Hub;",
            "src/hub.rs" => "pub struct Hub; impl Hub { fn begin(&self) { crate::ingest::begin(self) } }",
            "src/ingest.rs" => "use crate::Hub; pub fn begin(hub: &Hub) {} #[cfg(test)] mod tests {}",
            _ => return None,
        };
        Some(source.to_owned())
    };
    let graph = graph(Path::new("src/lib.rs"), &read)?;
    let circles = circles(&graph);
    ensure!(circles.len() == 1, "{circles:?}");
    let shown = shown(Path::new("src"), &graph, &circles[0]);
    let expected = "hub.rs, which imports crate::ingest::begin from ingest.rs, which imports crate::Hub from hub.rs";
    ensure!(shown == expected, "{shown}");
    Ok(())
}

/// The root files of all crates of the workspace.
fn roots(workspace: &Path) -> Result<Vec<PathBuf>> {
    let mut roots = Vec::new();
    for folder in ["", "common", "deploy"] {
        for entry in std::fs::read_dir(workspace.join(folder))? {
            let sources = entry?.path().join("src");
            roots.extend(["lib.rs", "main.rs"].map(|name| sources.join(name)).into_iter().filter(|file| file.exists()));
        }
    }
    Ok(roots)
}

fn shown(folder: &Path, graph: &Graph, circle: &[PathBuf]) -> String {
    let name = |file: &Path| file.strip_prefix(folder).unwrap_or(file).display().to_string();
    let steps = circle.windows(2).map(|pair| format!("{} from {}", graph[&pair[0]][&pair[1]], name(&pair[1])));
    format!("{}, which imports {}", name(&circle[0]), steps.collect::<Vec<_>>().join(", which imports "))
}
