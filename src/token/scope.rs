//! The closed table of scopes. A token grants only what it names.

/// A permission in a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// `inference.chat`.
    Chat,
    /// `inference.completions`.
    Completions,
    /// `inference.embeddings`.
    Embeddings,
    /// `inference.responses`.
    Responses,
    /// `inference.messages`.
    Messages,
    /// `inference.rerank`.
    Rerank,
    /// `inference.audio`.
    Audio,
    /// `inference.images`.
    Images,
    /// `inference.tokenize`.
    Tokenize,
    /// `inference.tensors`.
    Tensors,
    /// `models.read`.
    ModelsRead,
    /// `egress.connect`.
    EgressConnect,
    /// `mcp.call`.
    McpCall,
}

impl Scope {
    /// The whole table.
    pub const ALL: [Self; 13] = [
        Self::Chat,
        Self::Completions,
        Self::Embeddings,
        Self::Responses,
        Self::Messages,
        Self::Rerank,
        Self::Audio,
        Self::Images,
        Self::Tokenize,
        Self::Tensors,
        Self::ModelsRead,
        Self::EgressConnect,
        Self::McpCall,
    ];

    /// The scope's name in a token.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "inference.chat",
            Self::Completions => "inference.completions",
            Self::Embeddings => "inference.embeddings",
            Self::Responses => "inference.responses",
            Self::Messages => "inference.messages",
            Self::Rerank => "inference.rerank",
            Self::Audio => "inference.audio",
            Self::Images => "inference.images",
            Self::Tokenize => "inference.tokenize",
            Self::Tensors => "inference.tensors",
            Self::ModelsRead => "models.read",
            Self::EgressConnect => "egress.connect",
            Self::McpCall => "mcp.call",
        }
    }
}

impl Scope {
    /// The scope with exactly that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }

    /// Whether `name` grants the scope. `inference.*` is the only pattern. All other names must
    /// match exactly.
    fn is_named(self, name: &str) -> bool {
        self.as_str() == name || name == EVERY_INFERENCE && self.as_str().starts_with("inference.")
    }
}

/// The scope that covers every `inference.…` scope.
pub(super) const EVERY_INFERENCE: &str = "inference.*";

/// A set of scopes, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u16);

impl Scopes {
    /// Adds a scope by its name; false where the table has no such name.
    #[must_use]
    pub fn add(&mut self, name: &str) -> bool {
        let mut granted = 0;
        for scope in Scope::ALL {
            if scope.is_named(name) {
                granted |= Self::bit(scope);
            }
        }
        self.0 |= granted;
        granted != 0
    }

    /// The bit of a scope.
    const fn bit(scope: Scope) -> u16 {
        1 << scope as u16
    }

    /// True where `scope` is granted.
    #[must_use]
    pub const fn allow(&self, scope: Scope) -> bool {
        self.0 & Self::bit(scope) != 0
    }

    /// True where `other` grants every scope of this set.
    #[must_use]
    pub const fn within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// The granted scopes' names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        Scope::ALL.into_iter().filter(|scope| self.allow(*scope)).map(Scope::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(names: &[&str], expect: &[&str]) {
        let mut scopes = Scopes::default();
        assert!(names.iter().all(|name| scopes.add(name)));
        assert_eq!(scopes.names().collect::<Vec<_>>(), expect);
    }

    #[test]
    fn only_what_is_named_is_granted() {
        check(&[], &[]);
        check(&["models.read"], &["models.read"]);
        check(&["inference.chat", "inference.chat", "mcp.call"], &["inference.chat", "mcp.call"]);
        let inference =
            Scope::ALL.map(Scope::as_str).into_iter().filter(|name| name.starts_with("inference."));
        check(&["inference.*"], &inference.collect::<Vec<_>>());
    }

    #[test]
    fn names_outside_the_table_are_none() {
        for name in [
            "",
            "*",
            "inference",
            "inference.",
            "inference.chat ",
            "Inference.chat",
            "models.*",
            "inference.*.x",
            "models.write",
        ] {
            assert!(!Scopes::default().add(name), "{name:?}");
        }
    }
}
