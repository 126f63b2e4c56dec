//! Decides which issuer a principal belongs to: the one that names it most exactly.

/// The principals that an issuer may speak for, and the patterns of the other issuers.
///
/// A pattern is a name, or the beginning of a name followed by `*`. Each principal belongs to one
/// issuer: the one with the longest pattern that matches. A whole name comes before a beginning. So
/// limits, records and usage of a name never belong to two issuers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principals {
    /// The issuer's own patterns.
    own: Vec<String>,
    /// The patterns of all other issuers.
    others: Vec<String>,
}

impl Principals {
    /// All principals, where there is no other issuer.
    #[must_use]
    pub fn all() -> Self {
        Self::of(vec!["*".to_owned()])
    }

    /// The principals that match one of `own`, where there is no other issuer.
    #[must_use]
    pub const fn of(own: Vec<String>) -> Self {
        Self { own, others: Vec::new() }
    }

    /// The same, where other issuers have these patterns.
    #[must_use]
    pub fn beside(mut self, others: Vec<String>) -> Self {
        self.others = others;
        self
    }

    /// The issuer's own patterns.
    #[must_use]
    pub fn own(&self) -> &[String] {
        &self.own
    }

    /// True where the principal belongs to the issuer.
    #[must_use]
    pub fn include(&self, principal: &str) -> bool {
        let own = closest(&self.own, principal);
        // Strictly greater: with equal patterns it would belong to two issuers, so it belongs to
        // none.
        own.is_some() && own > closest(&self.others, principal)
    }

    /// The patterns as text for a message.
    #[must_use]
    pub fn in_words(&self) -> String {
        let own = self.own.join(", ");
        if self.others.is_empty() {
            own
        } else {
            format!("{own}, without those that another issuer names more exactly")
        }
    }
}

/// How exactly a pattern names a principal; a greater value is more exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Exactness {
    /// Bytes before the `*`, or of the whole name. Compared first.
    bytes: usize,
    /// True for a whole name.
    whole: bool,
}

/// The most exact of the patterns that match.
fn closest(patterns: &[String], principal: &str) -> Option<Exactness> {
    let mut closest = None;
    for pattern in patterns {
        // No match is less than any match.
        closest = closest.max(exactness(pattern, principal));
    }
    closest
}

/// How exactly a pattern names a principal; `None` where it does not match.
fn exactness(pattern: &str, principal: &str) -> Option<Exactness> {
    match pattern.strip_suffix('*') {
        Some(beginning) if principal.starts_with(beginning) => {
            Some(Exactness { bytes: beginning.len(), whole: false })
        }
        None if principal == pattern => Some(Exactness { bytes: pattern.len(), whole: true }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Principals;

    fn patterns(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(|pattern| (*pattern).to_owned()).collect()
    }

    #[test]
    fn each_principal_belongs_to_one_issuer() {
        let sets = [
            patterns(&["*"]),
            patterns(&["support:*", "team:red"]),
            patterns(&["support:night:*", "team:*", "support:ada"]),
        ];
        let issuers: Vec<Principals> = (0..sets.len())
            .map(|place| {
                let others = sets.iter().enumerate().filter(|(other, _)| *other != place);
                let others = others.flat_map(|(_, patterns)| patterns.clone()).collect();
                Principals::of(sets[place].clone()).beside(others)
            })
            .collect();
        for (principal, owner) in [
            ("user:ada", 0),
            ("support", 0),
            ("support:", 1),
            ("support:bob", 1),
            ("support:night", 1),
            ("support:night:bob", 2),
            ("support:ada", 2),
            ("support:adam", 1),
            ("team:red", 1),
            ("team:reds", 2),
            ("team:", 2),
        ] {
            let owners: Vec<usize> =
                (0..issuers.len()).filter(|place| issuers[*place].include(principal)).collect();
            assert_eq!(owners, [owner], "{principal}");
        }
    }

    #[test]
    fn an_issuer_alone_has_what_it_names() {
        assert!(Principals::all().include("user:ada"));
        let some = Principals::of(patterns(&["team:*", "user:ada"]));
        assert!(some.include("team:x") && some.include("user:ada"));
        assert!(!some.include("user:adam") && !some.include("team"));
    }
}
