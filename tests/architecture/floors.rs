//! The floors of docs/ARCHITECTURE.md: a file uses lower floors and its own folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The floor of each room, by the first parts of its path under `src/`. The longest match counts.
const FLOORS: [(&str, u8); 27] = [
    ("id", 0),
    ("refusal", 0),
    ("clock", 0),
    ("crypto", 0),
    ("durable", 0),
    ("json", 0),
    ("lock", 0),
    ("log_lines", 0),
    ("secret", 0),
    ("suggest", 0),
    ("failpoint", 0),
    ("token", 1),
    ("model", 1),
    ("merkle", 0),
    ("audit", 1),
    ("registry", 2),
    ("keyring", 2),
    ("metrics", 2),
    ("health", 2),
    ("weights", 2),
    ("guard", 3),
    ("audit/store", 3),
    ("proxy", 4),
    ("control", 4),
    ("config", 5),
    ("app", 6),
    ("cli", 7),
];

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&root, &mut found);
    let name = |path: &PathBuf| {
        path.strip_prefix(&root)
            .expect("under src")
            .with_extension("")
            .to_string_lossy()
            .trim_end_matches("/mod")
            .to_owned()
    };
    found.iter().map(|path| (name(path), fs::read_to_string(path).expect("source"))).collect()
}

fn floor(room: &str) -> Option<u8> {
    let under = |prefix: &str| room == prefix || room.starts_with(&format!("{prefix}/"));
    FLOORS
        .iter()
        .filter(|(prefix, _)| under(prefix))
        .max_by_key(|(prefix, _)| prefix.len())
        .map(|(_, floor)| *floor)
}

/// The faults of one file's imports: what it uses from a higher floor, from a neighbour on its own,
/// or in a way that hides.
fn faults(file: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if matches!(file, "lib" | "main") {
        return faults;
    }
    let Some(own) = floor(file) else { return vec![format!("{file}: has no floor")] };
    for (number, line) in text.lines().enumerate() {
        for (place, _) in line.match_indices("crate::") {
            if line.trim_start().starts_with("//") {
                continue;
            }
            let rest = &line[place + "crate::".len()..];
            let path: String = rest
                .chars()
                .take_while(|letter| letter.is_alphanumeric() || matches!(letter, '_' | ':'))
                .collect();
            let parts: Vec<&str> = path.split("::").filter(|part| !part.is_empty()).collect();
            let at = format!("{file}:{}", number + 1);
            let Some(first) = parts.first() else {
                faults.push(format!("{at}: a grouped import from the crate's root"));
                continue;
            };
            let room = if *first == "audit" && parts.len() > 1 {
                format!("audit/{}", parts[1])
            } else {
                (*first).to_owned()
            };
            let Some(used) = floor(&room) else {
                faults.push(format!("{at}: {room} has no floor"));
                continue;
            };
            let own_folder = file.split('/').next() == Some(first);
            if used > own || used == own && !own_folder && used != 0 {
                faults.push(format!("{at}: floor {own} uses {room} on floor {used}"));
            }
            if room == "audit/read" && file.starts_with("audit/format") {
                faults.push(format!("{at}: audit/format uses audit/read"));
            }
        }
        if line.contains("crate::*") {
            faults.push(format!("{file}:{}: a glob import hides what is used", number + 1));
        }
    }
    faults
}

#[test]
fn every_room_uses_only_lower_floors_and_its_own_folder() {
    let faults: Vec<String> =
        sources().iter().flat_map(|(file, text)| faults(file, text)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_breach_of_the_floors_is_noticed() {
    for (file, line) in [
        ("token/verify", "use crate::guard::pace::Paced;"),
        ("guard/pace", "use crate::proxy::Gateway;"),
        ("proxy/mod", "use crate::control::Control;"),
        ("token/verify", "use crate::model::Dialect;"),
        ("audit/read/verify", "use crate::audit::store::log::Log;"),
        ("audit/format/record", "use crate::audit::store::vault::Vault;"),
        ("audit/format/record", "use crate::audit::read::tiles::Tiles;"),
        ("guard/pace", "use crate::{token, model};"),
        ("guard/pace", "use crate::*;"),
        ("attic/box", "use crate::id::AgentName;"),
    ] {
        assert!(!faults(file, line).is_empty(), "{file}: {line}");
    }
}
