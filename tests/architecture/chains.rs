//! Measure 4: chains of combinators per 100 lines of code.
//!
//! A run of method calls is one chain; `.await`, `?`, fields and parentheses do not end it. A chain
//! counts where it has two or more calls and one of them is a combinator of the list below. The
//! list has methods of `Option`, `Result`, `bool` and iterators. So `a.iter().map(f)` counts, and
//! `a.map(f)` alone does not. Chains with two or more combinators are counted a second time, as a
//! stricter measure. A chain in an argument is counted apart from the chain around it. Arguments of
//! macros are read where they are expressions.
//!
//! The same count over hyper, tower, rustls, tokio and axum gives 0.3 to 0.6, and 0.04 to 0.10 for
//! two combinators.

use syn::parse::Parser as _;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};
use syn::{Expr, ExprMethodCall, Macro, Token};

use crate::comments::all_lines;
use crate::figure::{Figure, hold};
use crate::lexer::parsed;
use crate::tree::{Text, sources};

/// The methods that count as combinators.
const COMBINATORS: [&str; 23] = [
    "and_then",
    "filter",
    "filter_map",
    "find_map",
    "flat_map",
    "fold",
    "inspect_err",
    "is_none_or",
    "is_some_and",
    "map",
    "map_or",
    "map_or_else",
    "ok_or",
    "ok_or_else",
    "or_else",
    "skip_while",
    "take_while",
    "then",
    "then_some",
    "unwrap_or",
    "unwrap_or_default",
    "unwrap_or_else",
    "zip",
];

/// The chains of one file.
struct Chains {
    path: String,
    /// Chains with a combinator.
    found: Vec<String>,
    /// Those of them with two or more.
    pure: Vec<String>,
}

impl Chains {
    /// Visits one chain from its last call to its start, and what its calls are given.
    fn chain(&mut self, last: &ExprMethodCall) {
        let mut calls = Vec::new();
        let mut length = 0;
        let mut call = last;
        loop {
            length += 1;
            if COMBINATORS.contains(&call.method.to_string().as_str()) {
                calls.push(call.method.to_string());
            }
            for argument in &call.args {
                self.visit_expr(argument);
            }
            match receiver(&call.receiver) {
                Expr::MethodCall(next) => call = next,
                start => {
                    self.visit_expr(start);
                    break;
                }
            }
        }
        if length < 2 || calls.is_empty() {
            return;
        }
        calls.reverse();
        let place = format!("{}:{} {}", self.path, last.span().start().line, calls.join(", "));
        if calls.len() > 1 {
            self.pure.push(place.clone());
        }
        self.found.push(place);
    }
}

/// A receiver without what does not end a chain.
fn receiver(expression: &Expr) -> &Expr {
    match expression {
        Expr::Await(inner) => receiver(&inner.base),
        Expr::Try(inner) => receiver(&inner.expr),
        Expr::Field(inner) => receiver(&inner.base),
        Expr::Paren(inner) => receiver(&inner.expr),
        other => other,
    }
}

impl<'ast> Visit<'ast> for Chains {
    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        self.chain(call);
    }

    fn visit_macro(&mut self, called: &'ast Macro) {
        let arguments =
            Punctuated::<Expr, Token![,]>::parse_terminated.parse2(called.tokens.clone());
        for argument in arguments.iter().flatten() {
            self.visit_expr(argument);
        }
        visit::visit_macro(self, called);
    }
}

/// The figures of some sources.
pub(crate) fn figures_of(files: &[Text]) -> Vec<Figure> {
    let mut places = Vec::new();
    let mut pure = Vec::new();
    for file in files {
        let mut chains = Chains { path: file.path.clone(), found: Vec::new(), pure: Vec::new() };
        chains.visit_file(&parsed(&file.text));
        places.append(&mut chains.found);
        pure.append(&mut chains.pure);
    }
    let code = all_lines(files).code;
    vec![
        Figure::rate("chains with a combinator per 100 code lines", places, 100.0, code),
        Figure::rate("chains with two combinators per 100 code lines", pure, 100.0, code),
    ]
}

/// The figures of the tree.
pub(crate) fn figures() -> Vec<Figure> {
    figures_of(sources())
}

#[test]
fn chains_stay_within_their_limits() {
    hold(&figures());
}

#[cfg(test)]
mod tests {
    use super::figures_of;
    use crate::figure::fault;
    use crate::limits::LIMITS;
    use crate::tree::Text;

    fn count(body: &str) -> [usize; 2] {
        let text = format!("async fn f() {{\n{body}\n}}\n");
        let figures = figures_of(&[Text { path: "src/a.rs".to_owned(), text }]);
        [figures[0].places.len(), figures[1].places.len()]
    }

    #[test]
    fn chains_are_counted() {
        assert_eq!(count("a.map(b).unwrap_or(c)"), [1, 1]);
        assert_eq!(count("a.filter(b).get(0)?.x.await.or_else(c)"), [1, 1]);
        assert_eq!(count("a.map(|x| x.filter(b).map(c)).or_else(d)"), [2, 2]);
        assert_eq!(count("assert!(a.map(b).is_some_and(c), \"no\")"), [1, 1]);
        assert_eq!(count("a.iter().map(b).collect()"), [1, 0]);
        assert_eq!(count("f(a.map(b)).filter(c)"), [0, 0]);
        assert_eq!(count("a.lock().get(0)"), [0, 0]);
    }

    #[test]
    fn many_chains_are_noticed() {
        let text = format!("fn f() {{\n{}}}\n", "a.map(b).unwrap_or(c);\n".repeat(20));
        let figures = figures_of(&[Text { path: "src/a.rs".to_owned(), text }]);
        assert!(figures.iter().all(|figure| fault(&LIMITS, figure).is_some()));
    }
}
