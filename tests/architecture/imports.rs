//! The paths that a source file uses: its imports, taken apart, and the paths in its code.

use std::collections::BTreeMap;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{ItemMod, ItemUse, Macro, UseTree, Visibility};

use crate::lexer::parsed;

/// What one file uses, as it is written there.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    /// Imports by the name that they bring in.
    pub(crate) names: BTreeMap<String, Vec<String>>,
    /// All paths of two or more parts, imports included. An inline module's `super` is taken back
    /// to the file.
    pub(crate) paths: Vec<Vec<String>>,
    /// How many inline modules are around the place that is visited.
    depth: usize,
}

/// What a file uses.
pub(crate) fn uses(text: &str) -> Uses {
    let mut uses = Uses::default();
    uses.visit_file(&parsed(text));
    uses
}

impl Uses {
    /// A path as the file itself would write it: inside an inline module, `super` leads to the file
    /// first.
    fn add(&mut self, mut path: Vec<String>) -> Vec<String> {
        for _ in 0..self.depth {
            match path.first().map(String::as_str) {
                Some("super") => path[0] = "self".to_owned(),
                Some("self") | None => {}
                Some(_) => break,
            }
            if path.len() > 1 && path[0] == "self" && path[1] == "super" {
                path.remove(0);
            }
        }
        if path.len() > 1 {
            self.paths.push(path.clone());
        }
        path
    }

    fn tree(&mut self, tree: &UseTree, before: &[String]) {
        let mut path = before.to_vec();
        match tree {
            UseTree::Path(part) => {
                path.push(part.ident.to_string());
                self.tree(&part.tree, &path);
            }
            UseTree::Name(part) if part.ident == "self" => self.import(path.last().cloned(), path),
            UseTree::Name(part) => {
                path.push(part.ident.to_string());
                self.import(path.last().cloned(), path);
            }
            UseTree::Rename(part) => {
                if part.ident != "self" {
                    path.push(part.ident.to_string());
                }
                self.import(Some(part.rename.to_string()), path);
            }
            UseTree::Group(group) => {
                for part in &group.items {
                    self.tree(part, &path);
                }
            }
            UseTree::Glob(_) => {
                self.add(path);
            }
        }
    }

    fn import(&mut self, name: Option<String>, path: Vec<String>) {
        let path = self.add(path);
        if let Some(name) = name {
            self.names.insert(name, path);
        }
    }

    /// The paths in a macro's tokens, which no parser of expressions reads.
    fn tokens(&mut self, stream: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in stream {
            match token {
                TokenTree::Ident(word) if colons == 2 => path.push(word.to_string()),
                TokenTree::Ident(word) => {
                    self.end(&mut path);
                    path.push(word.to_string());
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => {
                    self.end(&mut path);
                    self.tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => self.end(&mut path),
            }
            colons = 0;
        }
        self.end(&mut path);
    }

    fn end(&mut self, path: &mut Vec<String>) {
        if path.len() > 1 {
            self.add(std::mem::take(path));
        }
        path.clear();
    }
}

impl<'ast> Visit<'ast> for Uses {
    fn visit_item_use(&mut self, import: &'ast ItemUse) {
        self.tree(&import.tree, &[]);
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        self.depth += usize::from(module.content.is_some());
        visit::visit_item_mod(self, module);
        self.depth -= usize::from(module.content.is_some());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.add(path.segments.iter().map(|part| part.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast Macro) {
        visit::visit_macro(self, called);
        self.tokens(called.tokens.clone());
    }

    /// `pub(in path)` sets who may use an item; it uses no module.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

#[cfg(test)]
mod tests {
    use super::uses;

    fn paths(text: &str) -> Vec<String> {
        uses(text).paths.iter().map(|path| path.join("::")).collect()
    }

    #[test]
    fn grouped_imports_are_taken_apart() {
        assert_eq!(
            paths("use crate::{a, b::{self, c as d}}; use super::{x::y, z};"),
            ["crate::a", "crate::b", "crate::b::c", "super::x::y", "super::z"]
        );
        assert_eq!(uses("use a::b as c;").names["c"], ["a", "b"]);
    }

    #[test]
    fn paths_in_code_and_in_macros_are_found() {
        assert_eq!(
            paths(
                "fn f(a: crate::a::A) { super::b::go(); vec![self::c::D { e: crate::f::g() }]; }"
            ),
            ["crate::a::A", "super::b::go", "self::c::D", "crate::f::g"]
        );
    }

    #[test]
    fn an_inline_module_is_part_of_its_file() {
        assert_eq!(
            paths("mod m { use super::a; use super::super::b; use self::c; }"),
            ["self::a", "super::b", "self::c"]
        );
    }
}
