//! Converts events to the members of a record's payload, and back.

use super::{AgentStatus, Event, JWK_BYTES_MAX, Left, Previous, STATUSES, TOKEN_BYTES_MAX};
use crate::audit::format::fault::RecordFault;
use crate::audit::format::payload::{PayloadReader, PayloadWriter, cut, number};
use crate::json;
use crate::json::Value;

impl Previous {
    /// The object form; its members are in canonical order.
    fn value(&self) -> Value<'_> {
        let mut object = json::Object::new();
        object.set("origin", Value::from_text(cut(&self.origin)));
        object.set("root", Value::from_text(cut(&self.root)));
        object.set("size", number(self.size));
        Value::Object(object)
    }
}

impl PayloadReader<'_> {
    /// Decodes the end of an epoch.
    fn previous(&self, member: &'static str) -> Result<Previous, RecordFault> {
        let previous = self.object(member)?;
        Ok(Previous {
            origin: previous.text("origin")?,
            size: previous.number("size")?,
            root: previous.text("root")?,
        })
    }

    /// Decodes the part that a loss has left.
    fn left(&self) -> Result<Left, RecordFault> {
        let left = self.object("left")?;
        Ok(Left { size: left.number("size")?, root: left.text("root")? })
    }

    /// Decodes the part that a loss has left; `None` where the member is missing.
    fn optional_left(&self) -> Result<Option<Left>, RecordFault> {
        if self.has("left") { Ok(Some(self.left()?)) } else { Ok(None) }
    }

    /// Decodes a status word.
    fn status(&self) -> Result<AgentStatus, RecordFault> {
        let word = self.text("status")?;
        // An unknown status is an error: a default could make a revoked agent active.
        for (status, known) in STATUSES {
            if known == word {
                return Ok(status);
            }
        }
        Err(RecordFault::Member("status"))
    }
}

/// Writes the members of a status change: the name as `member`, the new status and the reason.
fn status_change<'e>(
    into: &mut PayloadWriter<'e>,
    member: &'static str,
    name: &'e str,
    status: AgentStatus,
    reason: &'e str,
) {
    into.name(member, name);
    into.name("status", status.as_str());
    into.name("reason", reason);
}

impl Event {
    /// Writes the members of the payload.
    pub(in crate::audit::format) fn members<'e>(&'e self, into: &mut PayloadWriter<'e>) {
        match self {
            Self::Start { version, policy } => {
                into.name("version", version);
                into.name("policy", policy);
            }
            Self::Stop => {}
            Self::Reload { policy } => into.name("policy", policy),
            Self::Handover { version, policy } => {
                into.name("version", version);
                into.name("policy", policy);
            }
            Self::Epoch { .. }
            | Self::Forgotten { .. }
            | Self::Restored { .. }
            | Self::Backup { .. }
            | Self::Exported { .. }
            | Self::Disclosed { .. }
            | Self::ReloadRefused { .. } => self.custody_members(into),
            Self::Pruned { through, reason } => {
                into.name("through", through);
                into.optional("reason", reason.as_deref());
            }
            Self::Clock { behind_ms, accepted } => {
                into.number("behind_ms", *behind_ms);
                into.value("accepted", Value::Bool(*accepted));
            }
            Self::KeysChanged { issuer, kids } => {
                into.name("issuer", issuer);
                into.long("kids", kids, JWK_BYTES_MAX);
            }
            Self::ModelAccepted { model, digest, reason } => {
                into.name("model", model);
                into.name("digest", digest);
                into.name("reason", reason);
            }
            Self::AgentRegistered { agent, principal, class } => {
                into.name("agent", agent.as_str());
                into.name("class", class);
                into.principal(principal.as_ref());
            }
            Self::AgentStatus { agent, status, reason } => {
                status_change(into, "agent", agent.as_str(), *status, reason)
            }
            Self::NamespaceStatus { namespace, status, reason } => {
                status_change(into, "namespace", namespace, *status, reason)
            }
            Self::PrincipalStatus { principal, status, reason } => {
                status_change(into, "principal", principal.as_str(), *status, reason);
            }
            Self::Admission(admission) => admission.members(into),
            Self::Outcome(outcome) => outcome.members(into),
            Self::Refusal(refused) => refused.members(into),
            Self::Refusals(counts) | Self::UnauthenticatedRefusals(counts) => counts.members(into),
            // Its payload was encoded by the process that created it.
            Self::Written(_) => {}
            Self::TokenRegistered { .. }
            | Self::TokenSigned { .. }
            | Self::TokenRevoked { .. }
            | Self::HandleSet { .. }
            | Self::HandleRevoked { .. } => self.token_members(into),
            Self::KeyAdded { .. } | Self::KeyRetired { .. } | Self::KeyRevoked { .. } => {
                self.key_members(into);
            }
        }
    }

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the events of keys alone; the others are in `members`"
    )]
    /// Writes the members of an event about a key.
    fn key_members<'e>(&'e self, into: &mut PayloadWriter<'e>) {
        match self {
            Self::KeyAdded { issuer, jwk, kid } => {
                into.name("issuer", issuer);
                into.long("jwk", jwk, JWK_BYTES_MAX);
                into.owned("kid", kid.to_string());
            }
            Self::KeyRetired { kid, from, reason } => {
                into.owned("kid", kid.to_string());
                into.name("reason", reason);
                into.moment("from", *from);
            }
            Self::KeyRevoked { kid, reason } => {
                into.owned("kid", kid.to_string());
                into.name("reason", reason);
            }
            _ => {}
        }
    }

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the events of the log itself and of its copies alone; the others are in `members`"
    )]
    /// Writes the members of an event about the log itself or its copies.
    fn custody_members<'e>(&'e self, into: &mut PayloadWriter<'e>) {
        match self {
            Self::Epoch { previous, reason, left } => {
                if let Some(left) = left {
                    let mut object = json::Object::new();
                    object.set("root", Value::from_text(cut(&left.root)));
                    object.set("size", number(left.size));
                    into.value("left", Value::Object(object));
                }
                into.value("previous", previous.value());
                into.name("reason", reason);
            }
            Self::Forgotten { record_key, reason } => {
                into.name("record_key", record_key);
                into.optional("reason", reason.as_deref());
            }
            Self::Restored { head } => into.value("head", head.value()),
            Self::Backup { keys, operator_keys } => {
                into.value("keys", Value::Bool(*keys));
                into.value("operator_keys", Value::Bool(*operator_keys));
            }
            Self::Exported { epochs, principal, keys } => {
                into.long("epochs", epochs, JWK_BYTES_MAX);
                into.principal(principal.as_ref());
                into.value("keys", Value::Bool(*keys));
            }
            Self::Disclosed { records } => into.long("records", records, JWK_BYTES_MAX),
            Self::ReloadRefused { why } => into.name("why", why),
            _ => {}
        }
    }

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the events of tokens and handles alone; the others are in `members`"
    )]
    /// Writes the members of an event about a token or a handle.
    fn token_members<'e>(&'e self, into: &mut PayloadWriter<'e>) {
        match self {
            Self::TokenSigned { token, jti, agent, principal, expires } => {
                into.owned("token", token.to_string());
                into.name("jti", jti);
                into.name("agent", agent.as_str());
                into.name("principal", principal.as_str());
                into.owned("expires", expires.to_string());
            }
            Self::TokenRegistered { token, jti, issuer, kid, agent, principal, expires } => {
                into.owned("token", token.to_string());
                into.name("jti", jti);
                into.name("issuer", issuer);
                into.owned("kid", kid.to_string());
                into.name("agent", agent.as_str());
                into.name("principal", principal.as_str());
                into.moment("expires", Some(*expires));
            }
            Self::TokenRevoked { token, jti, agent, reason } => {
                into.owned("token", token.to_string());
                into.name("jti", jti);
                into.name("agent", agent.as_str());
                into.name("reason", reason);
            }
            Self::HandleSet { handle, token, id, agent, principal, until } => {
                into.owned("handle", handle.to_string());
                into.long("token", token, TOKEN_BYTES_MAX);
                into.owned("id", id.to_string());
                into.name("agent", agent.as_str());
                into.name("principal", principal.as_str());
                into.moment("until", *until);
            }
            Self::HandleRevoked { handle, agent, reason } => {
                into.owned("handle", handle.to_string());
                into.name("agent", agent.as_str());
                into.name("reason", reason);
            }
            _ => {}
        }
    }

    /// Decodes the event `token-signed`.
    fn signed_of(plain: &PayloadReader<'_>) -> Result<Self, RecordFault> {
        Ok(Self::TokenSigned {
            token: plain.name("token")?,
            jti: plain.text("jti")?,
            agent: plain.name("agent")?,
            principal: plain.name("principal")?,
            expires: plain.name("expires")?,
        })
    }

    /// Decodes the event `exported`.
    fn exported_of(plain: &PayloadReader<'_>) -> Result<Self, RecordFault> {
        let principal = plain.optional_name("principal")?;
        Ok(Self::Exported { epochs: plain.text("epochs")?, principal, keys: plain.truth("keys")? })
    }

    /// Decodes the event `pruned`.
    fn pruned_of(plain: &PayloadReader<'_>) -> Result<Self, RecordFault> {
        let reason = plain.optional_text("reason")?;
        Ok(Self::Pruned { through: plain.text("through")?, reason })
    }

    /// Decodes the event of that kind; `None` for a kind that does not change the state. Only
    /// people and auditors read those.
    pub(in crate::audit::format) fn of(
        kind: &str,
        plain: &PayloadReader<'_>,
    ) -> Result<Option<Self>, RecordFault> {
        Ok(Some(match kind {
            // The state does not depend on these kinds. Their members are checked only as canonical
            // JSON.
            "admission" | "outcome" | "refusal" | "refusals" | "unauthenticated-refusals" => {
                return Ok(None);
            }
            "reload" => Self::Reload { policy: plain.text("policy")? },
            "handover" => {
                Self::Handover { version: plain.text("version")?, policy: plain.text("policy")? }
            }
            "epoch" => Self::Epoch {
                previous: plain.previous("previous")?,
                reason: plain.text("reason")?,
                left: plain.optional_left()?,
            },
            "pruned" => Self::pruned_of(plain)?,
            "clock" => Self::Clock {
                behind_ms: plain.number("behind_ms")?,
                accepted: plain.truth("accepted")?,
            },
            "keys-changed" => {
                Self::KeysChanged { issuer: plain.text("issuer")?, kids: plain.text("kids")? }
            }
            "model-accepted" => Self::ModelAccepted {
                model: plain.text("model")?,
                digest: plain.text("digest")?,
                reason: plain.text("reason")?,
            },
            "start" => {
                Self::Start { version: plain.text("version")?, policy: plain.text("policy")? }
            }
            "stop" => Self::Stop,
            other => return Self::of_agent(other, plain).map(Some),
        }))
    }

    /// Decodes the event of that kind about an agent, a namespace or a principal.
    fn of_agent(kind: &str, plain: &PayloadReader<'_>) -> Result<Self, RecordFault> {
        Ok(match kind {
            "agent-registered" => Self::AgentRegistered {
                agent: plain.name("agent")?,
                principal: plain.optional_name("principal")?,
                class: plain.text("class")?,
            },
            "agent-status" => Self::AgentStatus {
                agent: plain.name("agent")?,
                status: plain.status()?,
                reason: plain.text("reason")?,
            },
            "namespace-status" => Self::NamespaceStatus {
                namespace: plain.text("namespace")?,
                status: plain.status()?,
                reason: plain.text("reason")?,
            },
            "principal-status" => Self::PrincipalStatus {
                principal: plain.name("principal")?,
                status: plain.status()?,
                reason: plain.text("reason")?,
            },
            other => return Self::of_token(other, plain),
        })
    }

    /// Decodes the event of that kind about a token or a handle.
    fn of_token(kind: &str, plain: &PayloadReader<'_>) -> Result<Self, RecordFault> {
        Ok(match kind {
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
                principal: plain.name("principal")?,
                until: plain.optional_name("until")?,
            },
            "handle-revoked" => Self::HandleRevoked {
                handle: plain.name("handle")?,
                agent: plain.name("agent")?,
                reason: plain.text("reason")?,
            },
            other => return Self::of_key(other, plain),
        })
    }

    /// Decodes the event of that kind about an issuer's key.
    fn of_key(kind: &str, plain: &PayloadReader<'_>) -> Result<Self, RecordFault> {
        Ok(match kind {
            "key-added" => Self::KeyAdded {
                issuer: plain.text("issuer")?,
                jwk: plain.text("jwk")?,
                kid: plain.name("kid")?,
            },
            "key-retired" => Self::KeyRetired {
                kid: plain.name("kid")?,
                from: plain.optional_name("from")?,
                reason: plain.text("reason")?,
            },
            "key-revoked" => {
                Self::KeyRevoked { kid: plain.name("kid")?, reason: plain.text("reason")? }
            }
            other => return Self::of_custody(other, plain),
        })
    }

    /// Decodes the event of that kind about the log itself or its copies. An unknown kind is an
    /// error.
    fn of_custody(kind: &str, plain: &PayloadReader<'_>) -> Result<Self, RecordFault> {
        Ok(match kind {
            "forgotten" => Self::Forgotten {
                record_key: plain.text("record_key")?,
                reason: plain.optional_text("reason")?,
            },
            "restored" => Self::Restored { head: plain.previous("head")? },
            "backup" => Self::Backup {
                keys: plain.truth("keys")?,
                operator_keys: plain.truth("operator_keys")?,
            },
            "exported" => Self::exported_of(plain)?,
            "disclosed" => Self::Disclosed { records: plain.text("records")? },
            "token-signed" => Self::signed_of(plain)?,
            "reload-refused" => Self::ReloadRefused { why: plain.text("why")? },
            // A kind of a newer version may change the state, so it is not skipped.
            unknown => return Err(RecordFault::Kind(cut(unknown).into_owned())),
        })
    }
}
