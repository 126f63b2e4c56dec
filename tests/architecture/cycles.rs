//! Measure 1: cycles between the files of `src`, and between its top-level modules.
//!
//! A file uses another if a path in it leads there. `crate::`, `super::`, `self::`, grouped
//! imports, names of child modules and imported names are resolved. A name that a module imports
//! leads to the file that defines it. So re-exports are followed. What a module uses of the files
//! below it is left out, and so are tests.

use std::collections::{BTreeMap, BTreeSet};

use crate::figure::{Figure, hold};
use crate::imports::{Uses, uses};
use crate::tree::{Text, sources};

/// Who uses whom: by file, or by top-level module.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// All modules that are files, by their path from the crate's root.
struct Modules {
    by_path: BTreeMap<Vec<String>, Module>,
}

struct Module {
    file: String,
    uses: Uses,
}

/// A path from the root of the crate, `lib.rs` being the empty one.
fn module_path(file: &str) -> Vec<String> {
    let stem = file.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    if stem == "lib" { Vec::new() } else { stem.split('/').map(str::to_owned).collect() }
}

impl Modules {
    fn read(files: &[Text]) -> Self {
        let mut by_path = BTreeMap::new();
        for file in files.iter().filter(|file| file.path != "src/main.rs") {
            let module = Module { file: file.path.clone(), uses: uses(&file.text) };
            by_path.insert(module_path(&file.path), module);
        }
        Self { by_path }
    }

    /// A path from the crate's root, for a path that is written in `module`; `None` where it leads
    /// out of the crate.
    fn absolute(&self, module: &[String], path: &[String], depth: usize) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let mut start = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.to_vec(),
            "super" => module.split_last()?.1.to_vec(),
            name => {
                let mut child = module.to_vec();
                child.push(name.to_owned());
                if self.by_path.contains_key(&child) {
                    child
                } else {
                    let import = self.by_path.get(module)?.uses.names.get(name)?;
                    // `use a; … a::b`: the import of `a` itself is no import of anything here.
                    if depth == 0 || import.first().is_some_and(|start| start == name) {
                        return None;
                    }
                    self.absolute(module, import, depth - 1)?
                }
            }
        };
        let ups = rest.iter().take_while(|part| *part == "super").count();
        start.truncate(start.len().checked_sub(ups)?);
        start.extend(rest[ups..].iter().cloned());
        Some(start)
    }

    /// The file that a path from the root leads to, through the imports of the modules on the way.
    fn file(&self, path: &[String], depth: usize) -> Option<Vec<String>> {
        let length =
            (0..=path.len()).rev().find(|length| self.by_path.contains_key(&path[..*length]))?;
        let (module, rest) = path.split_at(length);
        let Some(name) = rest.first() else { return Some(module.to_vec()) };
        let import = self.by_path.get(module)?.uses.names.get(name);
        if let Some(import) = import
            && depth > 0
            && let Some(mut target) = self.absolute(module, import, depth)
            && target != path
        {
            target.extend(rest[1..].iter().cloned());
            return self.file(&target, depth - 1);
        }
        Some(module.to_vec())
    }

    fn graph(&self) -> Graph {
        let mut graph = Graph::new();
        for (path, module) in &self.by_path {
            let used = graph.entry(module.file.clone()).or_default();
            for written in &module.uses.paths {
                let Some(absolute) = self.absolute(path, written, DEPTH) else { continue };
                let Some(target) = self.file(&absolute, DEPTH) else { continue };
                if !target.starts_with(path) {
                    used.insert(self.by_path[&target].file.clone());
                }
            }
        }
        graph
    }
}

/// How many imports of imports are followed.
const DEPTH: usize = 8;

/// The groups of two or more nodes that reach each other.
fn cycles(graph: &Graph) -> Vec<BTreeSet<String>> {
    let mut reach = BTreeMap::new();
    for node in graph.keys() {
        reach.insert(node, reached(graph, node));
    }
    let mut found = BTreeSet::new();
    for (node, ahead) in &reach {
        let mut group = ahead.clone();
        group.retain(|other| reach.get(other).is_some_and(|others| others.contains(*node)));
        if group.len() > 1 {
            found.insert(group);
        }
    }
    found.into_iter().collect()
}

fn reached(graph: &Graph, from: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![from];
    while let Some(node) = open.pop() {
        for next in graph.get(node).into_iter().flatten() {
            if found.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    found
}

/// The uses inside one cycle, one a line.
fn inside(graph: &Graph, cycle: &BTreeSet<String>) -> String {
    let mut lines = Vec::new();
    for from in cycle {
        let mut to = graph.get(from).cloned().unwrap_or_default();
        to.retain(|other| other != from && cycle.contains(other));
        lines.push(format!("{from} -> {}", Vec::from_iter(to).join(", ")));
    }
    lines.join("\n      ")
}

fn by_top_module(graph: &Graph) -> Graph {
    let mut tops = Graph::new();
    for (from, used) in graph {
        let Some(top) = module_path(from).into_iter().next() else { continue };
        let mut others: BTreeSet<String> =
            used.iter().filter_map(|to| module_path(to).into_iter().next()).collect();
        others.remove(&top);
        tops.entry(top).or_default().append(&mut others);
    }
    tops
}

/// The figures of some sources.
pub(crate) fn figures_of(files: &[Text]) -> Vec<Figure> {
    let graph = Modules::read(files).graph();
    let tops = by_top_module(&graph);
    let file_cycles = cycles(&graph);
    let named: Vec<String> = file_cycles.iter().map(|cycle| inside(&graph, cycle)).collect();
    let in_cycles: Vec<String> = file_cycles.into_iter().flatten().collect();
    vec![
        Figure::count(
            "cycles between top-level modules",
            cycles(&tops).iter().map(|cycle| inside(&tops, cycle)).collect(),
        ),
        Figure::count("cycles between files", named),
        Figure::count("files in a cycle", in_cycles),
    ]
}

/// The figures of the tree.
pub(crate) fn figures() -> Vec<Figure> {
    figures_of(sources())
}

#[test]
fn cycles_stay_within_their_limits() {
    hold(&figures());
}

#[cfg(test)]
mod tests {
    use super::figures_of;
    use crate::tree::Text;

    fn file_and_top_cycles(files: &[[&str; 2]]) -> [usize; 3] {
        let texts: Vec<Text> = files
            .iter()
            .map(|[path, text]| Text { path: format!("src/{path}.rs"), text: (*text).to_owned() })
            .collect();
        let figures = figures_of(&texts);
        [figures[1].places.len(), figures[2].places.len(), figures[0].places.len()]
    }

    #[test]
    fn a_cycle_of_files_is_noticed_however_it_is_written() {
        for (used, using) in [
            ("use crate::a::y::Y;", "use crate::a::x::X;"),
            ("use super::{y::Y};", "use super::x::X;"),
            ("use crate::a::{y};", "fn f() { super::x::go() }"),
            ("use super::y;", "fn f() -> u8 { vec![super::x::go()][0] }"),
            ("use super::Y;", "use super::x::X;"),
            ("use super::super::b; fn f() -> b::Z { }", "use super::x::X;"),
        ] {
            let files = [
                ["lib", ""],
                ["a/mod", "mod x; mod y; pub use y::Y;"],
                ["a/x", used],
                ["a/y", using],
                ["b", "pub use crate::a::y::Z;"],
            ];
            assert_eq!(file_and_top_cycles(&files)[0], 1, "{used} {using}");
        }
    }

    #[test]
    fn a_parent_may_use_its_child_and_a_child_its_parent() {
        assert_eq!(
            file_and_top_cycles(&[
                ["a/mod", "mod x; use x::X; fn f() {}"],
                ["a/x", "use super::f;"]
            ]),
            [0, 0, 0]
        );
    }

    #[test]
    fn a_cycle_of_top_level_modules_is_noticed() {
        let files = [
            ["a/mod", ""],
            ["a/x", "use crate::b::y::Y;"],
            ["b/mod", "use crate::a::f;"],
            ["b/y", ""],
        ];
        assert_eq!(file_and_top_cycles(&files), [0, 0, 1]);
    }
}
