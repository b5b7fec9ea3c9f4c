//! Finds cycles in a graph of imports.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use crate::imports::Graph;

/// One shortest cycle of each strongly connected set of files: its files in import order, the first repeated at the end. The cycles share no
/// file, so at least as many imports must be removed.
pub fn circles(graph: &Graph) -> Vec<Vec<PathBuf>> {
    let mut seen = BTreeSet::new();
    let mut circles = Vec::new();
    for file in graph.keys() {
        if seen.contains(file) {
            continue;
        }
        let tied = tied(graph, file);
        let shortest = tied.iter().filter_map(|file| circle_through(graph, file)).min_by_key(Vec::len);
        circles.extend(shortest);
        seen.extend(tied);
    }
    circles
}

/// The strongly connected set of `file`: files that it reaches and that reach it, including itself.
fn tied(graph: &Graph, file: &Path) -> BTreeSet<PathBuf> {
    let reached = reached(graph, file);
    let back = |other: &PathBuf| reaches(graph, other, file);
    reached.into_iter().filter(back).chain([file.to_owned()]).collect()
}

fn reaches(graph: &Graph, from: &Path, to: &Path) -> bool {
    reached(graph, from).contains(to)
}

/// Files reachable from `file` by one or more imports.
fn reached(graph: &Graph, file: &Path) -> BTreeSet<PathBuf> {
    let mut reached = BTreeSet::new();
    let mut next = vec![file];
    while let Some(file) = next.pop() {
        for imported in graph.get(file).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(imported.clone()) {
                next.push(imported);
            }
        }
    }
    reached
}

/// The shortest cycle through `file`.
fn circle_through(graph: &Graph, file: &Path) -> Option<Vec<PathBuf>> {
    let mut from = BTreeMap::new();
    let mut next = VecDeque::from([file]);
    while let Some(at) = next.pop_front() {
        for imported in graph.get(at).into_iter().flat_map(BTreeMap::keys) {
            if imported == file {
                // Follow `from` from the end back to the start, which has no entry.
                let mut circle = vec![file.to_owned()];
                let mut before = at;
                while before != file {
                    circle.push(before.to_owned());
                    before = from[before];
                }
                circle.push(file.to_owned());
                circle.reverse();
                return Some(circle);
            }
            if !from.contains_key(imported.as_path()) {
                from.insert(imported.as_path(), at);
                next.push_back(imported);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(edges: &[(&str, &[&str])]) -> Vec<String> {
        let graph = edges.iter().map(|(file, imports)| {
            (PathBuf::from(file), imports.iter().map(|import| (PathBuf::from(import), String::new())).collect())
        });
        let names =
            |circle: Vec<PathBuf>| circle.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(" ");
        circles(&graph.collect()).into_iter().map(names).collect()
    }

    #[test]
    fn each_cycle_set_is_reported_by_its_shortest_cycle() {
        assert_eq!(shown(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &["d"]), ("d", &[])]), [""; 0]);
        assert_eq!(shown(&[("a", &["b"]), ("b", &["a"])]), ["a b a"]);
        assert_eq!(shown(&[("a", &["b"]), ("b", &["c"]), ("c", &["a", "d"]), ("d", &["c"])]), ["c d c"]);
        assert_eq!(
            shown(&[("a", &["b"]), ("b", &["a", "c"]), ("c", &["d"]), ("d", &["e"]), ("e", &["c"])]),
            ["a b a", "c d e c"]
        );
    }
}
