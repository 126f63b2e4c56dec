//! The limits of the measures.
//!
//! A part of the tree has the row with its name after ": ". Without such a row it has the row of
//! the measure. So a new folder, document or group of prose has a limit from its first day.

use crate::figure::Bound;

/// The limit of one measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    /// The measure, as the tests and the table name it.
    pub(crate) measure: &'static str,
    /// Which side of the limit is a fault.
    pub(crate) bound: Bound,
    /// The limit.
    pub(crate) limit: f64,
}

const fn most(measure: &'static str, limit: f64) -> Limit {
    Limit { measure, bound: Bound::AtMost, limit }
}

const fn least(measure: &'static str, limit: f64) -> Limit {
    Limit { measure, bound: Bound::AtLeast, limit }
}

/// The limit of a word: twice the anchors' rate, or twice [`RARE`] for a word that the anchors
/// hardly use: one occurrence in 50,000 words.
const fn word(measure: &'static str, anchors: f64) -> Limit {
    let limit = if anchors < RARE { 2.0 * RARE } else { 2.0 * anchors };
    Limit { measure, bound: Bound::AtMost, limit }
}

/// The smallest rate of a word that the anchors' 266,738 words can show, per 10,000 words.
pub(crate) const RARE: f64 = 0.1;

/// How often all the listed words together occur in the anchors, per 10,000 words.
///
/// This rate and those of single words below are of the published sources of hyper 1.12.0, tower
/// 0.5.3, rustls 0.23.46, tokio 1.54.1 and axum 0.8.9: their comments and README files, without
/// their tests. The table measures them again where `HOUSE_ANCHORS` names their folders.
const ANCHORS: f64 = 5.59;

/// All limits.
pub(crate) const LIMITS: [Limit; 32] = [
    // 1. Cycles.
    most("cycles between top-level modules", 0.0),
    most("cycles between files", 0.0),
    most("files in a cycle", 0.0),
    // 2. Sizes.
    most("files over 500 lines", 0.0),
    most("lines of the longest file", 500.0),
    most("lines of the median file", 162.0),
    most("functions over 70 lines", 0.0),
    // 3. Comments.
    least("doc lines per 100 code lines, at least", 20.0),
    most("doc lines per 100 code lines, at most", 25.0),
    least("// lines per 100 code lines", 4.0),
    // 4. Chains of combinators.
    most("chains with a combinator per 100 code lines", 1.5),
    most("chains with two combinators per 100 code lines", 0.2),
    // 5. Named closures and tuples.
    most("named closures per 100 code lines", 0.1),
    most("functions with a tuple parameter", 0.0),
    // 6. Names of types.
    most("type names used for two or more types, percent", 5.0),
    // 7. Width of lines.
    most("lines over 100 characters", 0.0),
    most("lines over 120 characters", 0.0),
    // 8. Words.
    most("listed words per 10,000", 2.0 * ANCHORS),
    word("word per 10,000: stand", 0.00),
    word("word per 10,000: behind", 1.16),
    word("word per 10,000: nobody", 0.19),
    word("word per 10,000: nothing", 3.41),
    word("word per 10,000: whoever", 0.00),
    word("word per 10,000: go on", 0.00),
    word("word per 10,000: give way", 0.00),
    word("word per 10,000: is said", 0.00),
    word("word per 10,000: door", 0.00),
    word("word per 10,000: of its own", 0.00),
    word("word per 10,000: lie", 0.04),
    word("word per 10,000: at all", 0.79),
    // 9. Sentences.
    most("words per sentence", 16.0),
    most("sentences over 25 words, percent", 5.0),
];
