//! What can happen, and the members that a record keeps of it.

use std::borrow::Cow;
use std::str::FromStr;

use crate::audit::record::RecordFault;
use crate::clock::Timestamp;
use crate::id::{AgentName, HandleId, KeyId, Principal, TokenId};
use crate::json;

/// Bytes of a text in a record at the most.
pub const TEXT_BYTES_MAX: usize = 256;
/// Bytes of a public JWK in a record at the most; one for ML-DSA-65 has about 2,700.
pub const JWK_BYTES_MAX: usize = 8_192;
/// Bytes of a token behind a handle at the most; one signed with ML-DSA-65 has about 5,600.
pub const TOKEN_BYTES_MAX: usize = 10_000;

/// What can happen. Reasons and versions are free text; everything else names something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The gateway started.
    Start {
        /// Its version.
        version: String,
        /// The hash of the rules and config in force.
        policy: String,
    },
    /// The gateway stopped in good order.
    Stop,
    /// An agent became known.
    AgentRegistered {
        /// The agent.
        agent: AgentName,
        /// In whose name it acts, where that is fixed.
        principal: Option<Principal>,
        /// Its class in the config.
        class: String,
    },
    /// An agent's standing changed.
    AgentStanding {
        /// The agent.
        agent: AgentName,
        /// The new standing.
        standing: Standing,
        /// Why.
        reason: String,
    },
    /// A token was issued here.
    TokenRegistered {
        /// The token's identity.
        token: TokenId,
        /// Its label.
        jti: String,
        /// The token's `iss`.
        issuer: String,
        /// The key that signed it.
        kid: KeyId,
        /// Its agent.
        agent: AgentName,
        /// Its principal.
        principal: Principal,
        /// When it ends.
        expires: Timestamp,
    },
    /// A token was revoked.
    TokenRevoked {
        /// The token's identity.
        token: TokenId,
        /// Its label.
        jti: String,
        /// Its agent.
        agent: AgentName,
        /// Why.
        reason: String,
    },
    /// A handle stands for a token from now on, in the place of the one before.
    HandleSet {
        /// The handle's identity.
        handle: HandleId,
        /// The signed token. Wherever this record is known it is taken by the handle alone.
        token: String,
        /// The token's identity.
        id: TokenId,
        /// Its agent.
        agent: AgentName,
        /// Until when tokens may be put behind it, where that is fixed.
        until: Option<Timestamp>,
    },
    /// A handle is void.
    HandleRevoked {
        /// The handle's identity.
        handle: HandleId,
        /// Its agent.
        agent: AgentName,
        /// Why.
        reason: String,
    },
    /// A key may sign tokens from now on.
    KeyAdded {
        /// For which `iss`.
        issuer: String,
        /// The public JWK in canonical JSON.
        jwk: String,
        /// Its thumbprint.
        kid: KeyId,
    },
    /// A key signs no new tokens; those that it signed hold until they end.
    KeyRetired {
        /// Its thumbprint.
        kid: KeyId,
        /// From when on, where that is not at once.
        from: Option<Timestamp>,
        /// Why.
        reason: String,
    },
    /// A key and every token that it signed are void.
    KeyRevoked {
        /// Its thumbprint.
        kid: KeyId,
        /// Why.
        reason: String,
    },
}

/// What an agent may do at all, as an operator's command sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// What its token grants.
    Active,
    /// Nothing for now: an operator paused it.
    Suspended,
    /// Nothing for now: something looked wrong.
    Quarantined,
    /// Nothing ever again.
    Revoked,
}

/// Every standing with its word.
pub(super) const STANDINGS: [(Standing, &str); 4] = [
    (Standing::Active, "active"),
    (Standing::Suspended, "suspended"),
    (Standing::Quarantined, "quarantined"),
    (Standing::Revoked, "revoked"),
];

impl Standing {
    /// The word in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Quarantined => "quarantined",
            Self::Revoked => "revoked",
        }
    }
}

impl Event {
    /// The event's word: `kind` in the record and in metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Stop => "stop",
            Self::AgentRegistered { .. } => "agent-registered",
            Self::AgentStanding { .. } => "agent-standing",
            Self::TokenRegistered { .. } => "token-registered",
            Self::TokenRevoked { .. } => "token-revoked",
            Self::HandleSet { .. } => "handle-set",
            Self::HandleRevoked { .. } => "handle-revoked",
            Self::KeyAdded { .. } => "key-added",
            Self::KeyRetired { .. } => "key-retired",
            Self::KeyRevoked { .. } => "key-revoked",
        }
    }

    /// Whether every name in the event can be recorded whole. Free text need not: it is cut.
    ///
    /// # Errors
    /// The first name that is too long.
    pub fn fits(&self) -> Result<(), RecordFault> {
        for (member, text, most) in match self {
            Self::AgentRegistered { class, .. } => vec![("class", class, TEXT_BYTES_MAX)],
            Self::TokenRegistered { jti, issuer, .. } => vec![("jti", jti, TEXT_BYTES_MAX), ("issuer", issuer, TEXT_BYTES_MAX)],
            Self::TokenRevoked { jti, .. } => vec![("jti", jti, TEXT_BYTES_MAX)],
            Self::HandleSet { token, .. } => vec![("token", token, TOKEN_BYTES_MAX)],
            Self::KeyAdded { issuer, jwk, .. } => vec![("issuer", issuer, TEXT_BYTES_MAX), ("jwk", jwk, JWK_BYTES_MAX)],
            Self::Start { .. }
            | Self::Stop
            | Self::AgentStanding { .. }
            | Self::HandleRevoked { .. }
            | Self::KeyRetired { .. }
            | Self::KeyRevoked { .. } => {
                vec![]
            }
        } {
            if text.len() > most {
                return Err(RecordFault::TooLong { member, bytes: text.len(), most });
            }
        }
        Ok(())
    }

    /// The members of `plain`.
    pub(super) fn members(&self) -> Vec<(&'static str, Cow<'_, str>)> {
        match self {
            Self::Start { version, policy } => vec![("version", cut(version)), ("policy", cut(policy))],
            Self::Stop => vec![],
            Self::AgentRegistered { agent, principal, class } => {
                let mut members = vec![("agent", agent.as_str().into()), ("class", cut(class))];
                members.extend(principal.as_ref().map(|principal| ("principal", principal.as_str().into())));
                members
            }
            Self::AgentStanding { agent, standing, reason } => {
                vec![("agent", agent.as_str().into()), ("standing", standing.as_str().into()), ("reason", cut(reason))]
            }
            Self::TokenRegistered { token, jti, issuer, kid, agent, principal, expires } => vec![
                ("token", token.to_string().into()),
                ("jti", cut(jti)),
                ("issuer", cut(issuer)),
                ("kid", kid.to_string().into()),
                ("agent", agent.as_str().into()),
                ("principal", principal.as_str().into()),
                ("expires", moment(*expires).to_string().into()),
            ],
            Self::TokenRevoked { token, jti, agent, reason } => vec![
                ("token", token.to_string().into()),
                ("jti", cut(jti)),
                ("agent", agent.as_str().into()),
                ("reason", cut(reason)),
            ],
            Self::HandleSet { handle, token, id, agent, until } => {
                let mut members = vec![
                    ("handle", handle.to_string().into()),
                    ("token", cut_to(token, TOKEN_BYTES_MAX)),
                    ("id", id.to_string().into()),
                    ("agent", agent.as_str().into()),
                ];
                members.extend(until.map(|until| ("until", moment(until).to_string().into())));
                members
            }
            Self::HandleRevoked { handle, agent, reason } => {
                vec![("handle", handle.to_string().into()), ("agent", agent.as_str().into()), ("reason", cut(reason))]
            }
            Self::KeyAdded { issuer, jwk, kid } => {
                vec![("issuer", cut(issuer)), ("jwk", cut_to(jwk, JWK_BYTES_MAX)), ("kid", kid.to_string().into())]
            }
            Self::KeyRetired { kid, from, reason } => {
                let mut members = vec![("kid", kid.to_string().into()), ("reason", cut(reason))];
                members.extend(from.map(|from| ("from", moment(from).to_string().into())));
                members
            }
            Self::KeyRevoked { kid, reason } => vec![("kid", kid.to_string().into()), ("reason", cut(reason))],
        }
    }

    pub(super) fn of(kind: &str, plain: &Plain<'_>) -> Result<Self, RecordFault> {
        Ok(match kind {
            "start" => Self::Start { version: plain.text("version")?, policy: plain.text("policy")? },
            "stop" => Self::Stop,
            "agent-registered" => Self::AgentRegistered {
                agent: plain.name("agent")?,
                principal: plain.has("principal").then(|| plain.name("principal")).transpose()?,
                class: plain.text("class")?,
            },
            "agent-standing" => {
                Self::AgentStanding { agent: plain.name("agent")?, standing: plain.standing()?, reason: plain.text("reason")? }
            }
            "token-registered" => Self::TokenRegistered {
                token: plain.name("token")?,
                jti: plain.text("jti")?,
                issuer: plain.text("issuer")?,
                kid: plain.name("kid")?,
                agent: plain.name("agent")?,
                principal: plain.name("principal")?,
                expires: plain.name("expires")?,
            },
            "token-revoked" => Self::TokenRevoked {
                token: plain.name("token")?,
                jti: plain.text("jti")?,
                agent: plain.name("agent")?,
                reason: plain.text("reason")?,
            },
            "handle-set" => Self::HandleSet {
                handle: plain.name("handle")?,
                token: plain.text("token")?,
                id: plain.name("id")?,
                agent: plain.name("agent")?,
                until: plain.has("until").then(|| plain.name("until")).transpose()?,
            },
            "handle-revoked" => {
                Self::HandleRevoked { handle: plain.name("handle")?, agent: plain.name("agent")?, reason: plain.text("reason")? }
            }
            "key-added" => Self::KeyAdded { issuer: plain.text("issuer")?, jwk: plain.text("jwk")?, kid: plain.name("kid")? },
            "key-retired" => Self::KeyRetired {
                kid: plain.name("kid")?,
                from: plain.has("from").then(|| plain.name("from")).transpose()?,
                reason: plain.text("reason")?,
            },
            "key-revoked" => Self::KeyRevoked { kid: plain.name("kid")?, reason: plain.text("reason")? },
            unknown => return Err(RecordFault::Kind(cut(unknown).into_owned())),
        })
    }
}

/// The inside of a record, being read.
pub(super) struct Plain<'a>(pub(super) &'a json::Object<'a>);

impl Plain<'_> {
    pub(super) fn has(&self, member: &str) -> bool {
        self.0.get(member).is_some()
    }

    pub(super) fn text(&self, member: &'static str) -> Result<String, RecordFault> {
        let text = self.0.get(member).and_then(json::Value::as_str);
        text.map(str::to_owned).ok_or(RecordFault::Member(member))
    }

    fn name<T: FromStr>(&self, member: &'static str) -> Result<T, RecordFault> {
        self.text(member)?.parse().map_err(|_| RecordFault::Member(member))
    }

    fn standing(&self) -> Result<Standing, RecordFault> {
        let word = self.text("standing")?;
        let known = STANDINGS.iter().find(|(_, known)| *known == word);
        known.map(|(standing, _)| *standing).ok_or(RecordFault::Member("standing"))
    }
}

pub(super) fn cut(text: &str) -> Cow<'_, str> {
    cut_to(text, TEXT_BYTES_MAX)
}

fn cut_to(text: &str, most: usize) -> Cow<'_, str> {
    Cow::Borrowed(text.get(..text.floor_char_boundary(most)).unwrap_or_default())
}

/// `at`, moved into the years that RFC 3339 can write.
pub(super) fn moment(at: Timestamp) -> Timestamp {
    const YEAR_9999: i64 = 253_370_764_800_000;
    Timestamp(at.0.clamp(0, YEAR_9999 - 1))
}
