//! Measures 2 and 5: long functions, and functions with a tuple among their parameters.
//!
//! A parameter is a tuple where its pattern is one or its type is one, by value or by reference,
//! also through a type alias of the same file. A tuple inside of another type (`&[(A, B)]`,
//! `Option<(A, B)>`) is not counted. Closures are not counted.

use std::collections::BTreeSet;

use syn::visit::{self, Visit};
use syn::{Block, FnArg, ImplItemFn, ItemFn, ItemType, Pat, Signature, TraitItemFn, Type};

use crate::figure::{Figure, hold};
use crate::lexer::parsed;
use crate::tree::{Text, sources};

/// The names of one file's type aliases of tuples.
#[derive(Default)]
struct Aliases {
    names: BTreeSet<String>,
}

impl<'ast> Visit<'ast> for Aliases {
    fn visit_item_type(&mut self, item: &'ast ItemType) {
        if self.is_tuple(&item.ty) {
            self.names.insert(item.ident.to_string());
        }
    }
}

impl Aliases {
    fn has_tuple(&self, argument: &FnArg) -> bool {
        match argument {
            FnArg::Receiver(_) => false,
            FnArg::Typed(typed) => matches!(*typed.pat, Pat::Tuple(_)) || self.is_tuple(&typed.ty),
        }
    }

    /// A tuple, or a reference to one. `()` is none.
    fn is_tuple(&self, ty: &Type) -> bool {
        match ty {
            Type::Tuple(tuple) => !tuple.elems.is_empty(),
            Type::Reference(reference) => self.is_tuple(&reference.elem),
            Type::Paren(inner) => self.is_tuple(&inner.elem),
            Type::Path(path) => path
                .path
                .segments
                .last()
                .is_some_and(|name| self.names.contains(&name.ident.to_string())),
            _ => false,
        }
    }
}

/// The functions of one file that break a rule.
struct Functions<'a> {
    aliases: &'a Aliases,
    path: &'a str,
    lines: &'a [&'a str],
    long: Vec<String>,
    tuples: Vec<String>,
}

impl Functions<'_> {
    fn function(&mut self, signature: &Signature, block: Option<&Block>) {
        let name =
            format!("{}:{} {}", self.path, signature.ident.span().start().line, signature.ident);
        if let Some(block) = block {
            let lines = body_lines(block, self.lines);
            if lines > LONGEST {
                self.long.push(format!("{name}: {lines} lines"));
            }
        }
        if signature.inputs.iter().any(|argument| self.aliases.has_tuple(argument)) {
            self.tuples.push(name);
        }
    }
}

/// The longest body of a function, in lines.
const LONGEST: usize = 70;

/// The lines of code between a body's braces, nested functions included. Comments and empty lines
/// do not count, as in clippy's `too_many_lines`: a reason must not make a function too long.
fn body_lines(block: &Block, lines: &[&str]) -> usize {
    let braces = block.brace_token.span;
    let (open, close) = (braces.open().start().line, braces.close().start().line);
    let mut count = 0;
    for line in lines.iter().take(close.saturating_sub(1)).skip(open) {
        let line = line.trim();
        if !line.is_empty() && !line.starts_with("//") {
            count += 1;
        }
    }
    count
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.function(&function.sig, Some(&function.block));
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.function(&function.sig, Some(&function.block));
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        self.function(&function.sig, function.default.as_ref());
        visit::visit_trait_item_fn(self, function);
    }
}

/// The figures of some sources.
pub(crate) fn figures_of(files: &[Text]) -> Vec<Figure> {
    let mut long = Vec::new();
    let mut tuples = Vec::new();
    for file in files {
        let source = parsed(&file.text);
        let mut aliases = Aliases::default();
        aliases.visit_file(&source);
        let lines: Vec<&str> = file.text.lines().collect();
        let mut functions = Functions {
            aliases: &aliases,
            path: &file.path,
            lines: &lines,
            long: Vec::new(),
            tuples: Vec::new(),
        };
        functions.visit_file(&source);
        long.append(&mut functions.long);
        tuples.append(&mut functions.tuples);
    }
    vec![
        Figure::count("functions over 70 lines", long),
        Figure::count("functions with a tuple parameter", tuples),
    ]
}

/// The figures of the tree.
pub(crate) fn figures() -> Vec<Figure> {
    figures_of(sources())
}

#[test]
fn functions_stay_within_their_limits() {
    hold(&figures());
}

#[cfg(test)]
mod tests {
    use super::figures_of;
    use crate::tree::Text;

    fn sample(text: String) -> Vec<usize> {
        figures_of(&[Text { path: "src/a.rs".to_owned(), text }])
            .iter()
            .map(|figure| figure.places.len())
            .collect()
    }

    #[test]
    fn a_long_function_is_noticed() {
        assert_eq!(sample(format!("fn f() {{\n{}}}", "g();\n".repeat(70))), [0, 0]);
        assert_eq!(sample(format!("fn f() {{\n{}}}", "g();\n".repeat(71))), [1, 0]);
        assert_eq!(sample(format!("impl A {{ fn f() {{\n{}}} }}", "g();\n".repeat(71))), [1, 0]);
        // Reasons and empty lines do not count.
        assert_eq!(sample(format!("fn f() {{\n{}}}", "// Why.\n\n".repeat(71))), [0, 0]);
    }

    #[test]
    fn a_tuple_parameter_is_noticed() {
        for text in [
            "fn f((a, b): (u8, u8)) {}",
            "trait T { fn f(a: &(u8, u8)); }",
            "fn f((a, b): Pair) {}",
            "type Pair = (u8, u8); fn f(a: &Pair) {}",
        ] {
            assert_eq!(sample(text.to_owned()), [0, 1], "{text}");
        }
        for text in ["fn f(a: ()) -> (u8, u8) {}", "struct Pair(u8, u8); fn f(Pair(a, b): Pair) {}"]
        {
            assert_eq!(sample(text.to_owned()), [0, 0], "{text}");
        }
    }
}
