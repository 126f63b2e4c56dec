//! Measure 6: names of types that two or more types have, in percent of all names.

use std::collections::BTreeMap;

use syn::visit::{self, Visit};
use syn::{Ident, ItemEnum, ItemStruct, ItemTrait, ItemType, ItemUnion};

use crate::figure::{Figure, hold, rate};
use crate::lexer::parsed;
use crate::tree::{Text, sources};

/// The names of types and the files that define them.
#[derive(Default)]
struct Names {
    path: String,
    found: BTreeMap<String, Vec<String>>,
}

impl Names {
    fn name(&mut self, name: &Ident) {
        self.found.entry(name.to_string()).or_default().push(self.path.clone());
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        self.name(&item.ident);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast ItemEnum) {
        self.name(&item.ident);
        visit::visit_item_enum(self, item);
    }

    fn visit_item_union(&mut self, item: &'ast ItemUnion) {
        self.name(&item.ident);
        visit::visit_item_union(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast ItemTrait) {
        self.name(&item.ident);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast ItemType) {
        self.name(&item.ident);
        visit::visit_item_type(self, item);
    }
}

/// The figures of some sources.
pub(crate) fn figures_of(files: &[Text]) -> Vec<Figure> {
    let mut names = Names::default();
    for file in files {
        names.path.clone_from(&file.path);
        names.visit_file(&parsed(&file.text));
    }
    let mut shared: Vec<(&String, &Vec<String>)> =
        names.found.iter().filter(|name| name.1.len() > 1).collect();
    shared.sort_by_key(|name| std::cmp::Reverse(name.1.len()));
    let places = shared
        .iter()
        .map(|name| format!("{} {}: {}", name.1.len(), name.0, name.1.join(", ")))
        .collect();
    let percent = rate(shared.len(), 100.0, names.found.len());
    vec![Figure::new("type names used for two or more types, percent", percent, places)]
}

/// The figures of the tree.
pub(crate) fn figures() -> Vec<Figure> {
    figures_of(sources())
}

#[test]
fn names_stay_within_their_limits() {
    hold(&figures());
}

#[cfg(test)]
mod tests {
    use super::figures_of;
    use crate::figure::fault;
    use crate::limits::LIMITS;
    use crate::tree::Text;

    fn file(path: &str, text: &str) -> Text {
        Text { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_name_of_two_types_is_noticed() {
        let files = [
            file("src/a.rs", "struct Tally; enum Held {} trait Reach {} type Own = u8;"),
            file(
                "src/b.rs",
                "mod m { struct Tally; } fn f() { struct Own; } impl R for A { type Held = u8; }",
            ),
        ];
        let figures = figures_of(&files);
        assert_eq!(figures[0].places, ["2 Own: src/a.rs, src/b.rs", "2 Tally: src/a.rs, src/b.rs"]);
        assert!((figures[0].today - 50.0).abs() < 0.1);
        assert!(fault(&LIMITS, &figures[0]).is_some());
    }
}
