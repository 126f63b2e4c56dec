//! The files that are measured: the sources without their tests, and all others by their ending.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::lexer::tokens;

/// A file: its path from the root of the tree, with `/`, and its text.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    /// The path.
    pub(crate) path: String,
    /// The content.
    pub(crate) text: String,
}

/// The root of the tree.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder with an ending, in the order of their paths. What a build makes is left
/// out.
pub(crate) fn texts(root: &Path, folder: &str, ending: &str) -> Vec<Text> {
    let mut found = Vec::new();
    walk(&root.join(folder), ending, &mut found);
    found.sort();
    found.iter().map(|path| read(root, path)).collect()
}

fn read(root: &Path, path: &Path) -> Text {
    let name =
        path.strip_prefix(root).expect("under the root").to_string_lossy().replace('\\', "/");
    Text { path: name, text: fs::read_to_string(path).expect("text") }
}

fn walk(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | "node_modules" | ".git") {
                walk(&path, ending, found);
            }
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
}

/// The files of the root itself with an ending.
pub(crate) fn top(root: &Path, ending: &str) -> Vec<Text> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(root).expect("folder").map(|entry| entry.expect("entry").path()).collect();
    found.retain(|path| path.is_file() && path.to_string_lossy().ends_with(ending));
    found.sort();
    found.iter().map(|path| read(root, path)).collect()
}

/// The sources of this tree without their tests, read once.
pub(crate) fn sources() -> &'static [Text] {
    static SOURCES: LazyLock<Vec<Text>> = LazyLock::new(|| product(&root(), "src"));
    &SOURCES
}

/// A product's sources without their tests: files of tests are left out, and items of tests are
/// blanked.
pub(crate) fn product(root: &Path, folder: &str) -> Vec<Text> {
    let mut files = texts(root, folder, ".rs");
    let mut tests = BTreeSet::new();
    for file in &mut files {
        let cut = without_tests(&file.text);
        tests.extend(cut.modules.iter().map(|module| format!("{}/{module}", children(&file.path))));
        file.text = cut.text;
    }
    files.retain(|file| !tests.iter().any(|test| is_module(&file.path, test)));
    files
}

fn is_module(path: &str, module: &str) -> bool {
    let Some(rest) = path.strip_prefix(module) else { return false };
    rest == ".rs" || rest.starts_with('/')
}

/// The folder in which the child modules of a file are.
pub(crate) fn children(path: &str) -> String {
    let stem = path.trim_end_matches(".rs");
    let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
    if matches!(name, "mod" | "lib" | "main") { folder.to_owned() } else { stem.to_owned() }
}

/// A source without its tests.
struct Cut {
    /// The text, in which each byte of a test is a space, so that all others keep their places.
    text: String,
    /// The modules of tests that are files of their own.
    modules: Vec<String>,
}

fn without_tests(text: &str) -> Cut {
    let mut modules = Vec::new();
    let mut ranges = Vec::new();
    find_tests(tokens(text), &mut ranges, &mut modules);
    let mut bytes = text.as_bytes().to_vec();
    for range in ranges {
        for byte in &mut bytes[range] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    Cut { text: String::from_utf8(bytes).expect("whole items are cut"), modules }
}

fn find_tests(stream: TokenStream, ranges: &mut Vec<Range<usize>>, modules: &mut Vec<String>) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        if let [TokenTree::Punct(hash), TokenTree::Group(attribute), ..] = &tokens[at..]
            && hash.as_char() == '#'
            && is_test(attribute.stream())
        {
            let length = item_length(&tokens[at..]);
            let item = &tokens[at..at + length];
            let last = item.last().expect("the attribute at least").span().byte_range().end;
            ranges.push(hash.span().byte_range().start..last);
            modules.extend(file_module(item));
            at += length;
            continue;
        }
        if let TokenTree::Group(group) = &tokens[at] {
            find_tests(group.stream(), ranges, modules);
        }
        at += 1;
    }
}

/// Whether an attribute is `cfg(test)` or `cfg(all(test, …))`.
fn is_test(attribute: TokenStream) -> bool {
    let text = attribute.to_string().replace(' ', "");
    text == "cfg(test)" || text.starts_with("cfg(all(test,")
}

/// How many tokens an item takes from its first attribute to its end.
fn item_length(tokens: &[TokenTree]) -> usize {
    let mut at = 0;
    while let [TokenTree::Punct(hash), TokenTree::Group(_), ..] = &tokens[at..]
        && hash.as_char() == '#'
    {
        at += 2;
    }
    let mut braces_end = None;
    for (offset, token) in tokens[at..].iter().enumerate() {
        let length = at + offset + 1;
        match token {
            TokenTree::Ident(word) if braces_end.is_none() => {
                braces_end = keyword(&word.to_string())
            }
            TokenTree::Ident(word) if *word == "fn" => braces_end = Some(true),
            TokenTree::Punct(punct) if punct.as_char() == ';' => return length,
            // A field, a variant, an arm.
            TokenTree::Punct(punct) if punct.as_char() == ',' && braces_end.is_none() => {
                return length;
            }
            TokenTree::Group(group)
                if group.delimiter() == Delimiter::Brace && braces_end == Some(true) =>
            {
                return length;
            }
            TokenTree::Ident(_)
            | TokenTree::Punct(_)
            | TokenTree::Group(_)
            | TokenTree::Literal(_) => {}
        }
    }
    tokens.len()
}

/// Whether an item that begins with this word may end with braces; `None` where the word does not
/// tell.
fn keyword(word: &str) -> Option<bool> {
    match word {
        "fn" | "mod" | "impl" | "struct" | "enum" | "trait" | "union" | "unsafe" | "async"
        | "extern" | "macro_rules" => Some(true),
        "use" | "const" | "static" | "type" | "let" => Some(false),
        _ => None,
    }
}

/// The name of a module that is a file of its own.
fn file_module(item: &[TokenTree]) -> Option<String> {
    let [.., TokenTree::Ident(word), TokenTree::Ident(name), TokenTree::Punct(end)] = item else {
        return None;
    };
    (*word == "mod" && end.as_char() == ';').then(|| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::{children, without_tests};

    #[test]
    fn tests_are_cut_and_all_others_keep_their_places() {
        let text = "use a::b;\n#[cfg(test)]\nuse a::{c, d};\nfn f() { g(); }\n\
                    #[cfg(test)]\n#[path = \"x\"]\nmod tests {\n    fn é() {}\n}\n\
                    #[cfg(test)]\nmod more;\nfn z() {}\n";
        let cut = without_tests(text);
        assert_eq!(cut.modules, ["more"]);
        assert_eq!(cut.text.len(), text.len());
        assert_eq!(
            cut.text.split_whitespace().collect::<Vec<_>>().join(" "),
            "use a::b; fn f() { g(); } fn z() {}"
        );
        assert_eq!(cut.text.find("fn z"), text.find("fn z"));
    }

    #[test]
    fn a_field_of_tests_ends_at_its_comma() {
        let cut =
            without_tests("struct S {\n    a: u8,\n    #[cfg(test)]\n    b: u8,\n    c: u8,\n}\n");
        assert_eq!(
            cut.text.split_whitespace().collect::<Vec<_>>().join(" "),
            "struct S { a: u8, c: u8, }"
        );
    }

    #[test]
    fn children_are_beside_a_mod_and_below_another_file() {
        assert_eq!(children("src/proxy/mod.rs"), "src/proxy");
        assert_eq!(children("src/app.rs"), "src/app");
        assert_eq!(children("src/lib.rs"), "src");
    }
}
