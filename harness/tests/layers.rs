//! Imports point one way: who may import whom, read from the source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The layers, and what each may import. `commands` and the binary's file may import everything.
const LAYERS: [(&str, &[&str]); 15] = [
    ("model", &[]),
    ("host", &["model"]),
    ("artifacts", &["model", "host"]),
    ("console", &[]),
    ("options", &["model"]),
    ("scenario", &["model", "options"]),
    ("load", &["model", "host"]),
    ("rollout", &["model", "scenario", "host", "artifacts"]),
    ("record", &["model"]),
    ("analysis", &["model", "record"]),
    ("report", &["model", "analysis"]),
    ("stored_report", &["model", "record", "analysis"]),
    ("compare", &["model", "analysis", "report", "stored_report"]),
    ("progress", &["model", "console", "record", "report"]),
    ("experiment", &["model", "scenario", "load", "rollout", "record", "host"]),
];

/// Imports that the table forbids and that are still there: the file, and what it imports. A line that is no longer true
/// fails the test.
const EXCEPTIONS: [(&str, &str); 0] = [];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("the source is here") {
        let path = entry.expect("a readable directory").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The source without its comments and its tests: tests may import what they like.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    text.lines().map(|line| line.split("//").next().unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// The names that follow `crate::` in a text, groups in braces included.
fn imported(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, prefix) in code.match_indices("crate::") {
        let rest = &code[at + prefix.len()..];
        let name = |text: &str| -> String {
            text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        if let Some(group) = rest.strip_prefix('{') {
            let group = group.split('}').next().unwrap_or(group);
            names.extend(group.split(',').map(name).filter(|name| !name.is_empty()));
        } else {
            names.insert(name(rest));
        }
    }
    names
}

/// The paths of all `use` declarations in a text, one each, as they are written.
fn used(code: &str) -> Vec<String> {
    fn expand(tree: &str, prefix: &str, found: &mut Vec<String>) {
        let Some((head, group)) = tree.split_once('{') else {
            found.push(format!("{prefix}{}", tree.trim()));
            return;
        };
        let (prefix, group) = (format!("{prefix}{}", head.trim()), &group[..group.rfind('}').unwrap_or(0)]);
        let (mut depth, mut begin) = (0_usize, 0);
        for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    expand(&group[begin..at], &prefix, found);
                    begin = at + 1;
                }
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    for (at, declaration) in code.match_indices("use ") {
        let line = code[..at].rsplit('\n').next().unwrap_or_default().trim_start();
        let is_declaration = line.is_empty() || (line.starts_with("pub") && line.ends_with([' ', ')']));
        if let Some(tree) = is_declaration.then(|| code[at + declaration.len()..].split(';').next()).flatten()
        {
            expand(tree, "", &mut found);
        }
    }
    found
}

/// The file that a path in `file` leads to, if it is another one of the crate.
fn leads_to<'a>(path: &str, file: &str, files: &'a BTreeMap<String, String>) -> Option<&'a str> {
    let mut at: Vec<&str> = file.split('/').collect();
    let mut names = path.split("::").map(str::trim).peekable();
    match *names.peek()? {
        "crate" => at.clear(),
        "self" => {}
        "super" => {
            while names.next_if_eq(&"super").is_some() {
                at.pop();
            }
        }
        child if files.contains_key(&format!("{file}/{child}")) => {}
        _ => return None,
    }
    at.extend(names.filter(|name| !matches!(*name, "crate" | "self")));
    let lengths = (1..=at.len()).rev();
    let (found, _) =
        lengths.map(|length| at[..length].join("/")).find_map(|path| files.get_key_value(&path))?;
    (found != file).then_some(found)
}

/// A cycle of files that import one another, if there is one. That a module knows the files below it is none.
fn cycle(files: &BTreeMap<String, String>) -> Option<Vec<&str>> {
    let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (file, code) in files {
        let others = used(code);
        let others = others.iter().filter_map(|path| leads_to(path, file, files));
        let above = format!("{file}/");
        imports.insert(file, others.filter(|other| !other.starts_with(&above)).collect());
    }
    // What imports nothing that is left is in no cycle.
    while let Some(free) = imports
        .iter()
        .find(|(_, others)| others.iter().all(|other| !imports.contains_key(other)))
        .map(|(file, _)| *file)
    {
        imports.remove(free);
    }
    (!imports.is_empty()).then(|| imports.into_keys().collect())
}

/// The library's files: path below `src` without the extension, and code.
fn files() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    let read = |path: PathBuf| {
        let below = path.strip_prefix(&root).expect("it lies below").with_extension("");
        let text = std::fs::read_to_string(&path).expect("a readable file");
        (below.display().to_string(), code(&text))
    };
    let files = paths.into_iter().map(read);
    files.filter(|(file, _)| !matches!(file.as_str(), "lib" | "main")).collect()
}

/// The imports that the table forbids.
fn forbidden(imports: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<(String, String)> {
    let mut forbidden = BTreeSet::new();
    for (file, modules) in imports {
        let layer = file.split('/').next().unwrap_or(file);
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) else { continue };
        let is_layer = |module: &str| module == layer || allowed.contains(&module);
        for module in modules.iter().filter(|module| !is_layer(module)) {
            forbidden.insert((file.clone(), module.clone()));
        }
    }
    forbidden
}

#[test]
fn every_import_points_to_a_lower_layer() {
    let exceptions: BTreeSet<(String, String)> =
        EXCEPTIONS.iter().map(|(file, module)| ((*file).to_owned(), (*module).to_owned())).collect();
    let files = files();
    let imports = files.iter().map(|(file, code)| (file.clone(), imported(code))).collect();
    let forbidden = forbidden(&imports);
    let new: Vec<_> = forbidden.difference(&exceptions).collect();
    assert!(new.is_empty(), "these files import a module that their layer may not import: {new:?}");
    let gone: Vec<_> = exceptions.difference(&forbidden).collect();
    assert!(gone.is_empty(), "these exceptions are no longer needed: {gone:?}");
}

#[test]
fn layers_have_no_cycle() {
    for (position, (layer, allowed)) in LAYERS.iter().enumerate() {
        for lower in *allowed {
            let below = LAYERS[..position].iter().any(|(name, _)| name == lower);
            assert!(below, "{layer} may import {lower}, which does not come before it");
        }
    }
}

#[test]
fn reversed_import_is_found() {
    let reversed = "use crate::record::recorder::Recorder;\n#[cfg(test)]\nmod tests { use crate::report; }\n";
    let files = BTreeMap::from([("model/clock".to_owned(), imported(&code(reversed)))]);
    assert_eq!(forbidden(&files), BTreeSet::from([("model/clock".to_owned(), "record".to_owned())]));
    let grouped = imported("use crate::{model::clock::Moment, report, verdict};");
    assert_eq!(grouped, ["model", "report", "verdict"].map(str::to_owned).into());
}

#[test]
fn no_files_import_one_another() {
    let files = files();
    assert_eq!(cycle(&files), None, "and whatever imports these");
}

#[test]
fn cycle_of_files_is_found() {
    let file = |path: &str, code: &str| (path.to_owned(), code.to_owned());
    let straight = [
        file("load", "use crate::model::{clock, phase::Phase};"),
        file("load/client", "use super::pulse::{self, Beat};"),
        file("load/pulse", "use crate::model::clock::Moment;"),
        file("model", ""),
        file("model/clock", "use std::time::Duration;"),
        file("model/phase", "use super::clock::Moment;"),
    ];
    let mut files = BTreeMap::from(straight);
    assert_eq!(cycle(&files), None);
    files.insert("load/pulse".to_owned(), "use crate::load::client::Client;".to_owned());
    assert_eq!(cycle(&files), Some(vec!["load/client", "load/pulse"]));
}
