//! Measure 5: closures that `let` gives a name, per 100 lines of code.

use syn::visit::{self, Visit};
use syn::{Expr, Local, Pat};

use crate::comments::all_lines;
use crate::figure::{Figure, hold};
use crate::lexer::parsed;
use crate::tree::{Text, sources};

/// The named closures of one file.
struct Closures {
    path: String,
    found: Vec<String>,
}

impl<'ast> Visit<'ast> for Closures {
    fn visit_local(&mut self, local: &'ast Local) {
        if let Some(start) = &local.init
            && is_closure(&start.expr)
            && let Some(name) = name(&local.pat)
        {
            self.found.push(format!("{}:{} {name}", self.path, name.span().start().line));
        }
        visit::visit_local(self, local);
    }
}

fn is_closure(expression: &Expr) -> bool {
    match expression {
        Expr::Closure(_) => true,
        Expr::Reference(inner) => is_closure(&inner.expr),
        Expr::Paren(inner) => is_closure(&inner.expr),
        _ => false,
    }
}

fn name(pattern: &Pat) -> Option<&syn::Ident> {
    match pattern {
        Pat::Ident(name) => Some(&name.ident),
        Pat::Type(typed) => name(&typed.pat),
        _ => None,
    }
}

/// The figures of some sources.
pub(crate) fn figures_of(files: &[Text]) -> Vec<Figure> {
    let mut places = Vec::new();
    for file in files {
        let mut closures = Closures { path: file.path.clone(), found: Vec::new() };
        closures.visit_file(&parsed(&file.text));
        places.append(&mut closures.found);
    }
    vec![Figure::rate("named closures per 100 code lines", places, 100.0, all_lines(files).code)]
}

/// The figures of the tree.
pub(crate) fn figures() -> Vec<Figure> {
    figures_of(sources())
}

#[test]
fn closures_stay_within_their_limits() {
    hold(&figures());
}

#[cfg(test)]
mod tests {
    use super::figures_of;
    use crate::figure::fault;
    use crate::limits::LIMITS;
    use crate::tree::Text;

    #[test]
    fn named_closures_are_noticed() {
        let text = "fn f() {
            let a = |x| x;
            let mut b = move |x| x;
            let c: &dyn Fn() = &|| g();
            h(|x| x);
        }";
        let figures = figures_of(&[Text { path: "src/a.rs".to_owned(), text: text.to_owned() }]);
        assert_eq!(figures[0].places, ["src/a.rs:2 a", "src/a.rs:3 b", "src/a.rs:4 c"]);
        assert!(fault(&LIMITS, &figures[0]).is_some());
    }
}
