//! One record of the log: canonical JSON (RFC 8785), at most 65,535 bytes. Reading accepts only what writing gives.

use crate::audit::event::{Event, Plain, cut, moment};
use crate::clock::Timestamp;
use crate::json;

/// Bytes of a record at the most: an entry's length is two bytes (C2SP tlog-tiles).
pub const RECORD_BYTES_MAX: usize = 65_535;

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

impl Record {
    /// The record's bytes, which are also the leaf in the tree. Cannot fail: texts are cut to [`crate::audit::event::TEXT_BYTES_MAX`] (a JWK to
    /// [`crate::audit::event::JWK_BYTES_MAX`]) at a character's end, times to the years 1970 to 9998. What names something should be asked
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::event::{JWK_BYTES_MAX, STANDINGS, Standing};
    use crate::id::{AgentName, HandleId, KeyId, Principal, TokenId};

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
        let handle = HandleId([3; 32]);
        for until in [None, Some(expires)] {
            same(Event::HandleSet { handle, token: text(), id: token, agent: agent(), until });
        }
        same(Event::HandleRevoked { handle, agent: agent(), reason: text() });
        same(Event::KeyAdded { issuer: text(), jwk: text(), kid });
        for from in [None, Some(expires)] {
            same(Event::KeyRetired { kid, from, reason: text() });
        }
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
        let set = Event::HandleSet {
            handle: HandleId([255; 32]),
            token: worst(99_999),
            id: TokenId([255; 32]),
            agent: agent(),
            until: Some(Timestamp(i64::MAX)),
        };
        let largest = Record { at: Timestamp(i64::MAX), by: Some(worst(999)), event: set }.encode();
        assert!((60_000..=RECORD_BYTES_MAX).contains(&largest.len()), "{}", largest.len());
        let early = Record { at: Timestamp(i64::MIN), by: None, event: Event::Stop };
        assert_eq!(Record::decode(&early.encode()).map(|read| read.at), Ok(Timestamp(0)));
    }
}
