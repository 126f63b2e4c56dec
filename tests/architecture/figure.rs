//! A figure of today, its limit, and the comparison of the two.

use crate::limits::{LIMITS, Limit};

/// Whether a figure should be small or large.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    /// The figure must not be above its limit.
    AtMost,
    /// The figure must not be below its limit.
    AtLeast,
}

/// What one measure found today.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// The measure's name in the table of limits, with ": " and a part of the tree where it is
    /// taken per part.
    pub(crate) measure: String,
    /// The figure.
    pub(crate) today: f64,
    /// The places that make up the figure, the worst first.
    pub(crate) places: Vec<String>,
}

impl Figure {
    /// A figure and the places that make it up.
    pub(crate) fn new(measure: &str, today: f64, places: Vec<String>) -> Self {
        Self { measure: measure.to_owned(), today, places }
    }

    /// A count of places.
    pub(crate) fn count(measure: &str, places: Vec<String>) -> Self {
        Self::new(measure, whole(places.len()), places)
    }

    /// How often something occurs, per so many lines or words.
    pub(crate) fn rate(measure: &str, places: Vec<String>, per: f64, of: usize) -> Self {
        Self::new(measure, rate(places.len(), per, of), places)
    }
}

/// A count as a floating-point number.
pub(crate) fn whole(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("a count of this tree fits in 32 bits"))
}

/// `count` per `per` of `of`; 0 of an empty tree.
pub(crate) fn rate(count: usize, per: f64, of: usize) -> f64 {
    if of == 0 { 0.0 } else { whole(count) * per / whole(of) }
}

/// The row of the table for a figure: the row of its part, or else the row of its measure.
pub(crate) fn row<'a>(limits: &'a [Limit], measure: &str) -> Option<&'a Limit> {
    let own = limits.iter().find(|limit| limit.measure == measure);
    own.or_else(|| {
        let (whole, _) = measure.split_once(": ")?;
        limits.iter().find(|limit| limit.measure == whole)
    })
}

/// What is wrong with a figure, if anything.
pub(crate) fn fault(limits: &[Limit], figure: &Figure) -> Option<String> {
    let Some(limit) = row(limits, &figure.measure) else {
        return Some(format!("{}: no limit in tests/architecture/limits.rs", figure.measure));
    };
    let (broken, side) = match limit.bound {
        Bound::AtMost => (figure.today > limit.limit + ROUNDING, "above"),
        Bound::AtLeast => (figure.today < limit.limit - ROUNDING, "below"),
    };
    if !broken {
        return None;
    }
    let Figure { measure, today, places } = figure;
    Some(format!(
        "{measure}: {today:.2} is {side} the limit {:.2}\n    {}",
        limit.limit,
        places.join("\n    ")
    ))
}

/// Fails where a figure is beyond its limit.
pub(crate) fn hold(figures: &[Figure]) {
    let faults: Vec<String> = figures.iter().filter_map(|figure| fault(&LIMITS, figure)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Figures are compared to this precision.
const ROUNDING: f64 = 0.005;

#[cfg(test)]
mod tests {
    use super::{Bound, Figure, fault, row};
    use crate::limits::Limit;

    const SAMPLE: [Limit; 3] = [
        Limit { measure: "lines", bound: Bound::AtMost, limit: 40.0 },
        Limit { measure: "reasons", bound: Bound::AtLeast, limit: 1.0 },
        Limit { measure: "lines: docs", bound: Bound::AtMost, limit: 2.0 },
    ];

    fn figure(measure: &str, today: f64) -> Figure {
        Figure::new(measure, today, Vec::new())
    }

    #[test]
    fn a_figure_beyond_its_limit_is_a_fault() {
        assert!(fault(&SAMPLE, &figure("lines", 40.0)).is_none());
        assert!(fault(&SAMPLE, &figure("lines", 41.0)).is_some());
        assert!(fault(&SAMPLE, &figure("reasons", 1.0)).is_none());
        assert!(fault(&SAMPLE, &figure("reasons", 0.9)).is_some());
        assert!(fault(&SAMPLE, &figure("unknown", 0.0)).is_some());
    }

    #[test]
    fn a_part_without_a_row_has_the_row_of_its_measure() {
        assert_eq!(row(&SAMPLE, "lines: docs").map(|limit| limit.limit), Some(2.0));
        assert_eq!(row(&SAMPLE, "lines: src").map(|limit| limit.limit), Some(40.0));
    }
}
