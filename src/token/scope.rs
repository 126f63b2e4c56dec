//! The closed table of scopes. Nothing is granted that is not named.

/// What a token may be used for.
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
    /// `models.read`.
    ModelsRead,
    /// `egress.connect`.
    EgressConnect,
    /// `mcp.call`.
    McpCall,
}

impl Scope {
    /// The whole table.
    pub const ALL: [Self; 9] = [
        Self::Chat,
        Self::Completions,
        Self::Embeddings,
        Self::Responses,
        Self::Messages,
        Self::Rerank,
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
            Self::ModelsRead => "models.read",
            Self::EgressConnect => "egress.connect",
            Self::McpCall => "mcp.call",
        }
    }
}

/// The scope that covers every `inference.…` scope.
pub const EVERY_INFERENCE: &str = "inference.*";

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u16);

impl Scopes {
    /// Adds a scope by its name; false where the table has no such name.
    pub fn add(&mut self, name: &str) -> bool {
        let before = self.0;
        for scope in Scope::ALL {
            if scope.as_str() == name || name == EVERY_INFERENCE && scope.as_str().starts_with("inference.") {
                self.0 |= 1 << scope as u16;
            }
        }
        self.0 != before || Scope::ALL.iter().any(|scope| scope.as_str() == name) || name == EVERY_INFERENCE
    }

    /// True where `scope` is granted.
    #[must_use]
    pub const fn allow(&self, scope: Scope) -> bool {
        self.0 & 1 << scope as u16 != 0
    }

    /// The granted scopes' names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        Scope::ALL.into_iter().filter(|scope| self.allow(*scope)).map(Scope::as_str)
    }
}
