//! The limits of the measures, and their goals.
//!
//! A limit is a ratchet: it only becomes stricter. If a figure is better than its limit by a
//! twentieth, the tests print that the limit can be tightened. If a goal is reached, the limit is
//! the goal.
//!
//! A part of the tree has the row with its name after ": ". Without such a row it has the row of
//! the measure. So a new folder, document or group of prose has the goal as its limit.

use crate::figure::Bound;

/// The limit of one measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    /// The measure, as the tests and the table name it.
    pub(crate) measure: &'static str,
    /// Which side of the limit is a fault.
    pub(crate) bound: Bound,
    /// Where the figure should go.
    pub(crate) goal: f64,
    /// What the figure may be today.
    pub(crate) limit: f64,
}

const fn most(measure: &'static str, goal: f64, limit: f64) -> Limit {
    Limit { measure, bound: Bound::AtMost, goal, limit }
}

const fn least(measure: &'static str, goal: f64, limit: f64) -> Limit {
    Limit { measure, bound: Bound::AtLeast, goal, limit }
}

/// The limit of a word. The goal is twice the anchors' rate, or twice [`RARE`] for a word that the
/// anchors hardly use: one occurrence in 50,000 words.
const fn word(measure: &'static str, anchors: f64, limit: f64) -> Limit {
    let goal = if anchors < RARE { 2.0 * RARE } else { 2.0 * anchors };
    Limit { measure, bound: Bound::AtMost, goal, limit: if limit < goal { goal } else { limit } }
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
pub(crate) const LIMITS: [Limit; 69] = [
    // 1. Cycles.
    most("cycles between top-level modules", 0.0, 0.0),
    most("cycles between files", 0.0, 0.0),
    most("files in a cycle", 0.0, 0.0),
    // 2. Sizes.
    most("files over 500 lines", 0.0, 0.0),
    most("lines of the longest file", 500.0, 500.0),
    most("lines of the median file", 162.0, 162.0),
    most("functions over 70 lines", 0.0, 0.0),
    // 3. Comments.
    least("doc lines per 100 code lines, at least", 20.0, 20.0),
    most("doc lines per 100 code lines, at most", 25.0, 25.0),
    least("// lines per 100 code lines", 4.0, 4.0),
    // 4. Chains of combinators.
    most("chains with a combinator per 100 code lines", 1.5, 3.33),
    most("chains with two combinators per 100 code lines", 0.2, 0.48),
    // 5. Named closures and tuples.
    most("named closures per 100 code lines", 0.1, 0.66),
    most("functions with a tuple parameter", 0.0, 72.0),
    // 6. Names of types.
    most("type names used for two or more types, percent", 5.0, 5.0),
    // 7. Width of lines.
    most("lines over 100 characters", 0.0, 0.0),
    most("lines over 100 characters: src", 0.0, 133.0),
    most("lines over 100 characters: tests", 0.0, 59.0),
    most("lines over 100 characters: benches", 0.0, 14.0),
    most("lines over 100 characters: loadtest", 0.0, 7.0),
    most("lines over 100 characters: fuzz", 0.0, 0.0),
    most("lines over 100 characters: documents", 0.0, 16.0),
    most("lines over 100 characters: configs", 0.0, 2.0),
    most("lines over 100 characters: Python", 0.0, 0.0),
    most("lines over 120 characters", 0.0, 0.0),
    most("lines over 120 characters: src", 0.0, 65.0),
    most("lines over 120 characters: tests", 0.0, 34.0),
    most("lines over 120 characters: benches", 0.0, 11.0),
    most("lines over 120 characters: loadtest", 0.0, 4.0),
    most("lines over 120 characters: fuzz", 0.0, 0.0),
    most("lines over 120 characters: documents", 0.0, 5.0),
    most("lines over 120 characters: configs", 0.0, 1.0),
    most("lines over 120 characters: Python", 0.0, 0.0),
    // 8. Words.
    most("listed words per 10,000", 2.0 * ANCHORS, 2.0 * ANCHORS),
    most("listed words per 10,000: comments", 2.0 * ANCHORS, 19.61),
    most("listed words per 10,000: CLI help", 2.0 * ANCHORS, 2.0 * ANCHORS),
    most("listed words per 10,000: docs", 2.0 * ANCHORS, 37.1),
    most("listed words per 10,000: config", 2.0 * ANCHORS, 2.0 * ANCHORS),
    most("listed words per 10,000: messages", 2.0 * ANCHORS, 62.0),
    word("word per 10,000: stand", 0.00, 5.98),
    word("word per 10,000: behind", 1.16, 4.11),
    word("word per 10,000: nobody", 0.19, 0.38),
    word("word per 10,000: nothing", 3.41, 12.09),
    word("word per 10,000: whoever", 0.00, 0.21),
    word("word per 10,000: go on", 0.00, 1.15),
    word("word per 10,000: give way", 0.00, 0.47),
    word("word per 10,000: is said", 0.00, 0.2),
    word("word per 10,000: door", 0.00, 0.2),
    word("word per 10,000: of its own", 0.00, 0.81),
    word("word per 10,000: lie", 0.04, 0.27),
    word("word per 10,000: at all", 0.79, 1.58),
    // 9. Sentences.
    most("words per sentence", 16.0, 16.0),
    most("words per sentence: docs/ARCHITECTURE.md", 16.0, 16.0),
    most("words per sentence: docs/AUDIT.md", 16.0, 16.0),
    most("words per sentence: docs/EGRESS.md", 16.0, 16.0),
    most("words per sentence: docs/OPERATIONS.md", 16.0, 16.0),
    most("words per sentence: docs/PERFORMANCE.md", 16.0, 16.0),
    most("words per sentence: docs/THREATS.md", 16.0, 16.0),
    most("words per sentence: docs/TOKEN.md", 16.0, 16.0),
    most("sentences over 25 words, percent", 5.0, 5.0),
    most("sentences over 25 words, percent: docs/ARCHITECTURE.md", 5.0, 5.0),
    most("sentences over 25 words, percent: docs/AUDIT.md", 5.0, 5.0),
    most("sentences over 25 words, percent: docs/EGRESS.md", 5.0, 5.0),
    most("sentences over 25 words, percent: docs/OPERATIONS.md", 5.0, 5.0),
    most("sentences over 25 words, percent: docs/PERFORMANCE.md", 5.0, 5.0),
    most("sentences over 25 words, percent: docs/RUNBOOK.md", 5.0, 5.0),
    most("sentences over 25 words, percent: docs/THREATS.md", 5.0, 5.0),
    most("sentences over 25 words, percent: docs/TOKEN.md", 5.0, 5.0),
    most("sentences over 25 words, percent: README.md", 5.0, 5.0),
];
