//! All figures as one table: `cargo test --test architecture table -- --nocapture`.
//!
//! With `HOUSE_PLACES=1` the places that make up each figure follow its row. With `HOUSE_ANCHORS`,
//! the folders of the anchors' sources with ':' between them, the words' limits are checked too.

use crate::figure::{Bound, Figure, fault, row};
use crate::limits::{LIMITS, Limit};
use crate::{
    chains, closures, comments, cycles, functions, names, sentences, sizes, widths, words,
};

fn all() -> Vec<Figure> {
    let measures = [
        cycles::figures,
        sizes::figures,
        functions::figures,
        comments::figures,
        chains::figures,
        closures::figures,
    ];
    let more = [names::figures, widths::figures, words::figures, sentences::figures];
    measures.iter().chain(&more).flat_map(|figures| figures()).collect()
}

fn line(figure: &Figure, limit: &Limit) -> String {
    let side = match limit.bound {
        Bound::AtMost => "≤",
        Bound::AtLeast => "≥",
    };
    let note = if fault(&LIMITS, figure).is_some() { "beyond the limit" } else { "" };
    format!("| {} | {:.2} | {side} {:.2} | {note} |", figure.measure, figure.today, limit.limit)
}

/// Whether a row of the limits is for a figure, or for its measure as a whole.
fn is_for(row: &str, figure: &Figure) -> bool {
    match figure.measure.strip_prefix(row) {
        Some(part) => part.is_empty() || part.starts_with(": "),
        None => false,
    }
}

/// The rows of the limits that no figure has.
fn unused<'a>(limits: &'a [Limit], figures: &[Figure]) -> Vec<&'a str> {
    let mut rows: Vec<&str> = limits.iter().map(|limit| limit.measure).collect();
    rows.retain(|row| !figures.iter().any(|figure| is_for(row, figure)));
    rows
}

#[test]
fn the_table_has_every_measure() {
    let figures = all();
    let places = std::env::var_os("HOUSE_PLACES").is_some();
    println!("| measure | today | limit | |\n| --- | --- | --- | --- |");
    for figure in &figures {
        let limit = row(&LIMITS, &figure.measure).expect("every measure has a limit");
        println!("{}", line(figure, limit));
        if places {
            println!("    {}", figure.places.join("\n    "));
        }
    }
    assert_eq!(unused(&LIMITS, &figures), [""; 0], "rows without a measure");
    if let Ok(folders) = std::env::var("HOUSE_ANCHORS") {
        assert_eq!(words::anchor_faults(&folders), [""; 0]);
    }
}

#[test]
fn a_row_without_a_measure_is_noticed() {
    let figures = [Figure::new("lines: src", 0.0, Vec::new())];
    let row = Limit { measure: "lines: src", bound: Bound::AtMost, limit: 0.0 };
    let limits = [row, Limit { measure: "lines", ..row }, Limit { measure: "lines: docs", ..row }];
    assert_eq!(unused(&limits, &figures), ["lines: docs"]);
}
