//! No import cycle among the modules of the library: a test reads the `use` lines of `src/`.
//!
//! Two graphs are checked: the files, and the top-level modules with everything in their folders. Imports of unit tests do
//! not count. A file that belongs to a binary is not reached from `lib.rs` and is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules, and what each imports.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// The sources by module, as reached by `mod` lines from `lib.rs`. The crate's root has an empty name.
fn sources(file: &Path, folder: &Path, module: &str, found: &mut BTreeMap<String, String>) {
    let text = fs::read_to_string(file).expect("a source file");
    let text = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
    for line in text.lines() {
        let declared = line.split_once("mod ").and_then(|(before, name)| {
            let is_declaration = before.is_empty() || before.starts_with("pub");
            name.strip_suffix(';').filter(|_| is_declaration)
        });
        if let Some(name) = declared {
            let path = if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") };
            sources(&folder.join(format!("{name}.rs")), &folder.join(name), &path, found);
        }
    }
    found.insert(module.to_owned(), text);
}

/// The paths of a `use` tree, without what braces leave open.
fn paths(tree: &str) -> Vec<String> {
    let Some((prefix, rest)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().trim().to_owned()];
    };
    let inner = rest.trim_end().strip_suffix('}').expect("a closing brace");
    let (mut depth, mut parts) = (0_usize, vec![String::new()]);
    for character in inner.chars() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("a part").push(character);
    }
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts.flat_map(|part| paths(&format!("{}{part}", prefix.trim()))).collect()
}

/// The module that `path`, written in `module`, leads to.
fn resolve(path: &str, module: &str, modules: &BTreeMap<String, String>) -> Option<String> {
    let here = || module.split("::").filter(|name| !name.is_empty());
    let mut names: Vec<&str> = path.split("::").collect();
    let mut base: Vec<&str> = match names[0] {
        "crate" => Vec::new(),
        "self" | "super" => here().collect(),
        // A child of this module, or else another crate.
        child if modules.contains_key(&here().chain([child]).collect::<Vec<_>>().join("::")) => {
            here().collect()
        }
        _ => return None,
    };
    if matches!(names[0], "crate" | "self") {
        names.remove(0);
    }
    while names.first() == Some(&"super") {
        names.remove(0);
        base.pop();
    }
    base.extend(names);
    while !modules.contains_key(&base.join("::")) {
        base.pop();
    }
    Some(base.join("::"))
}

fn graph(modules: &BTreeMap<String, String>) -> Graph {
    let mut graph = Graph::new();
    for (module, text) in modules.iter().filter(|(module, _)| !module.is_empty()) {
        let imports = graph.entry(module.clone()).or_default();
        for statement in text.split(';') {
            let lines = statement.lines().skip_while(|line| !is_use(line));
            let statement = lines.collect::<Vec<_>>().join(" ");
            let Some((_, tree)) = statement.split_once("use ") else { continue };
            for path in paths(tree) {
                imports.extend(resolve(&path, module, modules).filter(|to| to != module && !to.is_empty()));
            }
        }
    }
    graph
}

fn is_use(line: &str) -> bool {
    line.starts_with("use ") || line.starts_with("pub use ") || line.starts_with("pub(crate) use ")
}

/// The same graph with each folder as one module.
fn folded(graph: &Graph) -> Graph {
    let top = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
    let mut folded = Graph::new();
    for (module, imports) in graph {
        let module = top(module);
        let others = imports.iter().map(|to| top(to)).filter(|to| *to != module);
        folded.entry(module.clone()).or_default().extend(others);
    }
    folded
}

/// Modules that import each other in a circle: what is left after everything that imports nothing that is left, and
/// everything that nothing that is left imports, is taken away.
fn cyclic(graph: &Graph) -> Graph {
    let mut left = graph.clone();
    loop {
        let imported: BTreeSet<_> = left.values().flatten().cloned().collect();
        let before = left.len();
        left.retain(|module, imports| !imports.is_empty() && imported.contains(module));
        let modules: BTreeSet<_> = left.keys().cloned().collect();
        for imports in left.values_mut() {
            imports.retain(|to| modules.contains(to));
        }
        if left.len() == before && left.values().all(|imports| !imports.is_empty()) {
            return left;
        }
    }
}

fn library() -> Graph {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = BTreeMap::new();
    sources(&source.join("lib.rs"), &source, "", &mut modules);
    graph(&modules)
}

#[test]
fn top_level_modules_import_in_one_direction() {
    let graph = folded(&library());
    // The reader sees what everybody knows.
    assert!(graph.len() > 20 && graph["server"].contains("replica"), "{graph:#?}");
    let cyclic = cyclic(&graph);
    assert!(cyclic.is_empty(), "modules that import each other: {cyclic:#?}");
}

#[test]
fn files_import_in_one_direction() {
    let graph = library();
    let cyclic = cyclic(&graph);
    assert!(cyclic.is_empty(), "files that import each other: {cyclic:#?}");
}

#[test]
fn a_cycle_is_found_and_what_leads_to_it_is_not() {
    let text = |imports: &str| imports.to_owned();
    let modules = BTreeMap::from([
        ("a".to_owned(), text("use std::fmt;\nuse crate::b::{self, One};\n")),
        ("b".to_owned(), text("pub use self::c::{Two,\n    Three};\n")),
        ("b::c".to_owned(), text("use super::super::d::Four;\n")),
        ("d".to_owned(), text("pub(crate) use crate::{b::Five as Six};\n")),
    ]);
    let graph = graph(&modules);
    assert_eq!(cyclic(&graph).into_keys().collect::<Vec<_>>(), ["b", "b::c", "d"]);
    assert_eq!(cyclic(&folded(&graph)).into_keys().collect::<Vec<_>>(), ["b", "d"]);
}
