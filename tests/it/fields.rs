//! docs/FIELDS.md lists the fields of the profiles. It is generated from `config/profiles/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use token_shield::model::Profile;
use toml::{Table, Value};

/// The rules of one profile, by shape and field.
type Rules = BTreeMap<String, BTreeMap<String, String>>;

/// The table of a profile, merged over the one of its base.
fn merged(name: &str) -> Table {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/profiles");
    let text = fs::read_to_string(folder.join(format!("{name}.toml"))).expect("a profile");
    let own: Table = text.parse().expect("TOML");
    let Some(base) = own.get("base").and_then(Value::as_str) else { return own };
    let mut table = merged(base);
    merge(&mut table, own);
    table
}

/// Merges tables, and replaces all other values.
fn merge(lower: &mut Table, upper: Table) {
    for (key, value) in upper {
        match (lower.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => {
                lower.insert(key, value);
            }
        }
    }
}

/// The rules of a profile. A shape has the fields of the shapes that it includes.
fn rules(name: &str) -> Rules {
    let table = merged(name);
    let part = |key: &str| table[key].as_table().expect("a table");
    let (shapes, mut rules) = (part("shape"), Rules::new());
    for (shape, own) in shapes {
        let fields = rules.entry(shape.clone()).or_default();
        let included = part("include").get(shape).and_then(Value::as_array);
        let included = included.into_iter().flatten().map(|other| {
            let other = other.as_str().expect("a name");
            &shapes[other]
        });
        for from in included.chain([own]) {
            for (field, rule) in from.as_table().expect("fields") {
                fields.insert(field.clone(), rule.as_str().expect("a rule").to_owned());
            }
        }
    }
    for (union, about) in part("union") {
        let fields = rules.entry(union.clone()).or_default();
        let tag = about["tag"].as_str().expect("a tag");
        for (member, rule) in about["members"].as_table().expect("members") {
            let rule = rule.as_str().expect("a rule").to_owned();
            fields.insert(format!("{tag} = {member}"), rule);
        }
        for fallback in ["missing", "other"] {
            if let Some(rule) = about.get(fallback) {
                let rule = rule.as_str().expect("a rule").to_owned();
                fields.insert(format!("{tag}: {fallback}"), rule);
            }
        }
    }
    rules
}

/// The rules of a field, each with the profiles that have it. Profiles without the field are left
/// out.
fn cell(by_profile: &[(&str, Rules)], shape: &str, field: &str) -> String {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for (profile, rules) in by_profile {
        let Some(rule) = rules.get(shape).and_then(|fields| fields.get(field)) else { continue };
        match groups.iter_mut().find(|(known, _)| known == rule) {
            Some((_, profiles)) => profiles.push(profile),
            None => groups.push((rule.clone(), vec![profile])),
        }
    }
    let mut cells = Vec::new();
    for (rule, profiles) in groups {
        let rule = rule.replace('|', "\\|");
        if profiles.len() == by_profile.len() {
            return format!("`{rule}`");
        }
        cells.push(format!("{}: `{rule}`", profiles.join(", ")));
    }
    cells.join("; ")
}

/// The document.
fn document() -> String {
    let mut by_profile = Vec::new();
    for name in Profile::NAMES {
        by_profile.push((name, rules(name)));
    }
    let mut fields: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (_, rules) in &by_profile {
        for (shape, own) in rules {
            let known = fields.entry(shape).or_default();
            known.extend(own.keys().map(String::as_str));
            known.sort_unstable();
            known.dedup();
        }
    }
    let mut text = String::from(
        "# Fields of requests\n\n\
         For client authors and operators: which fields reach which server. This page is generated \
         from\n`config/profiles/`, and a test keeps it equal. The head of `generic.toml` there \
         explains the rules.\n\n\
         A field without a rule is dropped, and the answer names it in `token-shield-dropped`. It \
         is refused\nif it is on a list below, or if the class has `unknown_fields = \"refuse\"`. \
         `null` passes in every\nfield that is not required.\n\n",
    );
    let generic = merged("generic");
    for (list, about) in [
        ("never", "Refused from every caller: code, adapters, caches, identities of the server."),
        ("binding", "Refused where the server does not have them: they bound or shape an answer."),
    ] {
        text.push_str(&format!("**`{list}`.** {about}\n\n```text\n"));
        for names in generic[list].as_array().expect("a list").chunks(4) {
            let names: Vec<&str> =
                names.iter().map(|name| name.as_str().expect("a name")).collect();
            text.push_str(&format!("{}\n", names.join("  ")));
        }
        text.push_str("```\n\n");
    }
    for (shape, names) in fields {
        text.push_str(&format!("## {shape}\n\n| field | rule |\n| --- | --- |\n"));
        for field in names {
            text.push_str(&format!("| `{field}` | {} |\n", cell(&by_profile, shape, field)));
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_document_lists_the_fields_of_the_profiles() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/FIELDS.md");
    let expect = document();
    if std::env::var_os("TOKEN_SHIELD_WRITE_DOCS").is_some() {
        fs::write(&file, &expect).expect("written");
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expect, "docs/FIELDS.md is old: run this test with TOKEN_SHIELD_WRITE_DOCS=1");
    // A part of the table that is known.
    assert!(found.contains("| `guided_json` | vllm: `schema-text \\| schema` |"));
}
