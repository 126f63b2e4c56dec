//! One record of the log: canonical JSON (RFC 8785), at most 65,535 bytes. Reading accepts only what writing gives.

use std::borrow::Cow;
use std::str::FromStr;

use crate::clock::Timestamp;
use crate::id::AgentName;
use crate::id::KeyId;
use crate::id::Principal;
use crate::id::TokenId;
use crate::json;

/// Bytes of a record at the most: an entry's length is two bytes (C2SP tlog-tiles).
pub const RECORD_BYTES_MAX: usize = 65_535;
/// Bytes of a text in a record at the most.
pub const TEXT_BYTES_MAX: usize = 256;
/// Bytes of a public JWK in a record at the most; one for ML-DSA-65 has about 2,700.
pub const JWK_BYTES_MAX: usize = 8_192;

/// Something that happened, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When. Never earlier than the record before.
    pub at: Timestamp,
    /// The operator who asked for it, such as `uid:0`; none where the gateway acted by itself.
    pub by: Option<String>,
    /// What.
    pub event: Event,
}

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
const STANDINGS: [(Standing, &str); 4] = [
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

/// Why bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// Not JSON at all.
    #[error("not JSON: {0}")]
    Json(json::Fault),
    /// A member is missing, of the wrong type, or its text does not name such a thing.
    #[error("member {0:?} is missing or not what it should be")]
    Member(&'static str),
    /// A `kind` that this version does not know.
    #[error("kind {0:?} is not known to this version")]
    Kind(String),
    /// It says what a record says, but not in the one way to write it.
    #[error("not in canonical form, or with members that do not belong there")]
    Form,
    /// Its time lies before that of the record before it.
    #[error("its time lies before that of the record before it")]
    Earlier,
    /// A name that would have to be cut to fit, and would then name something else.
    #[error("{member} has {bytes} bytes, a record keeps {most}")]
    TooLong {
        /// Which member.
        member: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        most: usize,
    },
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
            Self::KeyAdded { issuer, jwk, .. } => vec![("issuer", issuer, TEXT_BYTES_MAX), ("jwk", jwk, JWK_BYTES_MAX)],
            Self::Start { .. } | Self::Stop | Self::AgentStanding { .. } | Self::KeyRetired { .. } | Self::KeyRevoked { .. } => {
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
    fn members(&self) -> Vec<(&'static str, Cow<'_, str>)> {
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
            Self::KeyAdded { issuer, jwk, kid } => {
                vec![("issuer", cut(issuer)), ("jwk", cut_to(jwk, JWK_BYTES_MAX)), ("kid", kid.to_string().into())]
            }
            Self::KeyRetired { kid, reason } | Self::KeyRevoked { kid, reason } => {
                vec![("kid", kid.to_string().into()), ("reason", cut(reason))]
            }
        }
    }

    fn of(kind: &str, plain: &Plain<'_>) -> Result<Self, RecordFault> {
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
            "key-added" => Self::KeyAdded { issuer: plain.text("issuer")?, jwk: plain.text("jwk")?, kid: plain.name("kid")? },
            "key-retired" => Self::KeyRetired { kid: plain.name("kid")?, reason: plain.text("reason")? },
            "key-revoked" => Self::KeyRevoked { kid: plain.name("kid")?, reason: plain.text("reason")? },
            unknown => return Err(RecordFault::Kind(cut(unknown).into_owned())),
        })
    }
}

impl Record {
    /// The record's bytes, which are also the leaf in the tree. Cannot fail: texts are cut to [`TEXT_BYTES_MAX`] (a JWK to
    /// [`JWK_BYTES_MAX`]) at a character's end, times to the years 1970 to 9998. What names something should be asked
    /// [`Event::fits`] first.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut members = self.event.members();
        members.extend(self.by.as_deref().map(|by| ("by", cut(by))));
        members.sort_unstable_by_key(|(name, _)| *name);
        let mut plain = json::Object::new();
        for (name, text) in members {
            plain.set(name, json::Value::String(text));
        }
        let mut record = json::Object::new();
        record.set("at", json::Value::from_text(moment(self.at).to_string()));
        record.set("kind", json::Value::from_text(self.event.kind()));
        record.set("plain", json::Value::Object(plain));
        record.set("v", json::Value::from_u64(1));
        let mut bytes = Vec::with_capacity(512);
        json::write(&json::Value::Object(record), &mut bytes);
        bytes
    }

    /// What `bytes` say, if they are exactly what [`Record::encode`] would give for it.
    ///
    /// # Errors
    /// When they are not.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordFault> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(RecordFault::TooLong { member: "the record", bytes: bytes.len(), most: RECORD_BYTES_MAX });
        }
        let document = json::parse(bytes, &json::Limits::deep(2)).map_err(RecordFault::Json)?;
        let record = document.as_object().ok_or(RecordFault::Form)?;
        let text = |member| record.get(member).and_then(json::Value::as_str).ok_or(RecordFault::Member(member));
        if record.get("v").and_then(json::Value::as_u64) != Some(1) {
            return Err(RecordFault::Member("v"));
        }
        let plain = Plain(record.get("plain").and_then(json::Value::as_object).ok_or(RecordFault::Member("plain"))?);
        let read = Self {
            at: text("at")?.parse().map_err(|_| RecordFault::Member("at"))?,
            by: plain.has("by").then(|| plain.text("by")).transpose()?,
            event: Event::of(text("kind")?, &plain)?,
        };
        // Order, escapes, spaces, members that nobody asked for: all of it shows here.
        if read.encode() == bytes { Ok(read) } else { Err(RecordFault::Form) }
    }
}

/// The inside of a record, being read.
struct Plain<'a>(&'a json::Object<'a>);

impl Plain<'_> {
    fn has(&self, member: &str) -> bool {
        self.0.get(member).is_some()
    }

    fn text(&self, member: &'static str) -> Result<String, RecordFault> {
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

fn cut(text: &str) -> Cow<'_, str> {
    cut_to(text, TEXT_BYTES_MAX)
}

fn cut_to(text: &str, most: usize) -> Cow<'_, str> {
    Cow::Borrowed(text.get(..text.floor_char_boundary(most)).unwrap_or_default())
}

/// `at`, moved into the years that RFC 3339 can write.
fn moment(at: Timestamp) -> Timestamp {
    const YEAR_9999: i64 = 253_370_764_800_000;
    Timestamp(at.0.clamp(0, YEAR_9999 - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> AgentName {
        "acme/reader".parse().expect("agent")
    }

    fn record(event: Event) -> Record {
        Record { at: Timestamp(1_790_000_000_120), by: Some("uid:0".to_owned()), event }
    }

    fn revoked(reason: &str) -> Record {
        record(Event::KeyRevoked { kid: KeyId([0; 32]), reason: reason.to_owned() })
    }

    #[track_caller]
    fn same(event: Event) {
        let given = record(event);
        assert_eq!(Record::decode(&given.encode()), Ok(given.clone()));
        let alone = Record { by: None, ..given };
        assert_eq!(Record::decode(&alone.encode()), Ok(alone));
    }

    #[track_caller]
    fn refuses(bytes: &str, fault: RecordFault) {
        assert_eq!(Record::decode(bytes.as_bytes()), Err(fault));
    }

    #[test]
    fn every_event_comes_back() {
        let (kid, token) = (KeyId([1; 32]), TokenId([2; 32]));
        let principal: Principal = "user:ada".parse().expect("principal");
        let text = || "a \"b\"\\\n\u{1f}\u{7f} é 😀 \u{e000}".to_owned();
        same(Event::Start { version: text(), policy: text() });
        same(Event::Stop);
        same(Event::AgentRegistered { agent: agent(), principal: None, class: text() });
        same(Event::AgentRegistered { agent: agent(), principal: Some(principal.clone()), class: text() });
        for (standing, word) in STANDINGS {
            assert_eq!(standing.as_str(), word);
            same(Event::AgentStanding { agent: agent(), standing, reason: text() });
        }
        let expires = Timestamp(1_800_000_000_000);
        same(Event::TokenRegistered { token, jti: text(), issuer: text(), kid, agent: agent(), principal, expires });
        same(Event::TokenRevoked { token, jti: text(), agent: agent(), reason: text() });
        same(Event::KeyAdded { issuer: text(), jwk: text(), kid });
        same(Event::KeyRetired { kid, reason: text() });
        same(Event::KeyRevoked { kid, reason: text() });
    }

    #[test]
    fn the_form_is_canonical() {
        let event = Event::AgentStanding { agent: agent(), standing: Standing::Suspended, reason: "tea".to_owned() };
        let expect = concat!(
            r#"{"at":"2026-09-21T14:13:20.120Z","kind":"agent-standing","#,
            r#""plain":{"agent":"acme/reader","by":"uid:0","reason":"tea","standing":"suspended"},"v":1}"#
        );
        assert_eq!(String::from_utf8(record(event).encode()).expect("UTF-8"), expect);
    }

    #[test]
    fn another_form_is_refused() {
        let stop = r#"{"at":"2026-09-21T14:13:20.120Z","kind":"stop","plain":{},"v":1}"#;
        assert!(Record::decode(stop.as_bytes()).is_ok());
        refuses(&format!("{stop}\n"), RecordFault::Form);
        refuses(&stop.replace("{}", "{ }"), RecordFault::Form);
        refuses(&stop.replace("{}", r#"{"more":"x"}"#), RecordFault::Form);
        refuses(&stop.replace(r#","v":1"#, r#","v":1,"z":0"#), RecordFault::Form);
        refuses(&stop.replace("stop", "\\u0073top"), RecordFault::Form);
        refuses(r#"{"kind":"stop","at":"2026-09-21T14:13:20.120Z","plain":{},"v":1}"#, RecordFault::Form);
        refuses(&stop.replace(":1}", ":2}"), RecordFault::Member("v"));
        refuses(&stop.replace("120Z", "12Z"), RecordFault::Member("at"));
        refuses(&stop.replace("stop", "start"), RecordFault::Member("version"));
        refuses(&stop.replace("stop", "flood"), RecordFault::Kind("flood".to_owned()));
        refuses("[]", RecordFault::Form);
        let long = String::from_utf8(revoked("x").encode()).expect("UTF-8").replace("\"x\"", &format!("\"{}\"", "x".repeat(257)));
        refuses(&long, RecordFault::Form);
        assert!(matches!(Record::decode(b"{"), Err(RecordFault::Json(_))));
        assert!(matches!(Record::decode(&[b' '; RECORD_BYTES_MAX + 1]), Err(RecordFault::TooLong { .. })));
    }

    #[test]
    fn free_text_is_cut_at_a_character_and_names_are_not() {
        let reason = format!("{}é", "x".repeat(255));
        let read = Record::decode(&revoked(&reason).encode()).expect("record");
        assert_eq!(read, revoked(&"x".repeat(255)));
        assert_eq!(revoked(&reason).event.fits(), Ok(()));
        let added = |bytes| Event::KeyAdded { issuer: String::new(), jwk: "x".repeat(bytes), kid: KeyId([0; 32]) };
        assert_eq!(added(JWK_BYTES_MAX).fits(), Ok(()));
        let fault = RecordFault::TooLong { member: "jwk", bytes: JWK_BYTES_MAX + 1, most: JWK_BYTES_MAX };
        assert_eq!(added(JWK_BYTES_MAX + 1).fits(), Err(fault));
    }

    #[test]
    fn the_largest_record_is_small_enough() {
        // A control character takes six bytes.
        let worst = |bytes| "\u{1}".repeat(bytes);
        let added = Event::KeyAdded { issuer: worst(999), jwk: worst(99_999), kid: KeyId([255; 32]) };
        let largest = Record { at: Timestamp(i64::MAX), by: Some(worst(999)), event: added }.encode();
        assert!((50_000..=RECORD_BYTES_MAX).contains(&largest.len()), "{}", largest.len());
        assert!(Record::decode(&largest).is_ok());
        let early = Record { at: Timestamp(i64::MIN), by: None, event: Event::Stop };
        assert_eq!(Record::decode(&early.encode()).map(|read| read.at), Ok(Timestamp(0)));
    }
}
