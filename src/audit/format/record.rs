//! One record of the log: canonical JSON (RFC 8785) of at most 65,535 bytes. The decoder accepts
//! only the encoder's form.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::audit::format::envelope::{ALWAYS_PLAIN, Envelope, aad, outer};
use crate::audit::format::event::Event;
use crate::audit::format::fault::RecordFault;
use crate::audit::format::key::{EncryptionKey, Opener};
use crate::audit::format::payload::{PayloadReader, PayloadWriter, moment};
use crate::clock::Timestamp;
use crate::crypto::encryption;
use crate::json;

/// An event with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The time; never earlier than the previous record's.
    pub at: Timestamp,
    /// The operator who caused it, such as `uid:0`; `None` where the gateway acted by itself.
    pub by: Option<String>,
    /// The event.
    pub event: Event,
}

impl Record {
    /// The record's bytes, which are also the leaf in the tree. With a `key` the payload is
    /// encrypted. Encoding cannot fail: texts are cut to
    /// [`crate::audit::format::event::TEXT_BYTES_MAX`] (a JWK to
    /// [`crate::audit::format::event::JWK_BYTES_MAX`]) at the end of a character. Times are limited
    /// to the years 1970 to 9998. A caller must check names with [`Event::fits`] first.
    #[must_use]
    pub fn encode(&self, key: Option<&EncryptionKey<'_>>) -> Vec<u8> {
        let plain = if let Event::Written(written) = &self.event {
            // Another process has encoded it. Such an event has no operator, so `by` is not added.
            written.payload().as_bytes().to_vec()
        } else {
            payload(&self.event, self.by.as_deref())
        };
        let (at, kind) = (moment(self.at).to_string(), self.event.kind());
        match key.filter(|_| !ALWAYS_PLAIN.contains(&kind)) {
            Some(EncryptionKey { id, key, salt }) => {
                let encrypted =
                    encryption::encrypt(key, salt, aad(&at, id, kind).as_bytes(), &plain);
                let encrypted = URL_SAFE_NO_PAD.encode(encrypted);
                outer(&at, kind, &format!(",\"ciphertext\":\"{encrypted}\",\"key\":\"{id}\""))
                    .into_bytes()
            }
            None => outer(&at, kind, &String::from_utf8_lossy(&plain)).into_bytes(),
        }
    }

    /// Decodes `bytes`, if they are exactly the output of [`Record::encode`] for the result. `None`
    /// where the kind does not change the state, or the key was destroyed.
    ///
    /// # Errors
    /// When the form is wrong, or the payload cannot be decrypted.
    pub fn decode(bytes: &[u8], opener: &dyn Opener) -> Result<Option<Self>, RecordFault> {
        let envelope = Envelope::read(bytes)?;
        Self::of(&envelope, opener)
    }

    /// [`Record::decode`] of a record whose envelope was read.
    ///
    /// # Errors
    /// As [`Record::decode`].
    pub fn of(envelope: &Envelope<'_>, opener: &dyn Opener) -> Result<Option<Self>, RecordFault> {
        if envelope.is_transient() {
            return Ok(None);
        }
        let at = envelope.moment()?;
        let Some(payload) = envelope.open(opener)? else { return Ok(None) };
        let document =
            json::parse(payload.as_bytes(), &json::Limits::deep(4)).map_err(RecordFault::Json)?;
        let json::Value::Object(members) = &document else { return Err(RecordFault::Form) };
        let plain = PayloadReader(members);
        let by = plain.optional_text("by")?;
        let Some(event) = Event::of(envelope.kind, &plain)? else { return Ok(None) };
        let read = Self { at, by, event };
        // The event is encoded again and compared. This finds unknown members, and texts that the
        // encoder would have cut.
        let mut members = PayloadWriter::default();
        read.event.members(&mut members);
        members.optional("by", read.by.as_deref());
        let mut again = Vec::with_capacity(payload.len());
        json::write(&members.into_object(), &mut again);
        if again == payload.as_bytes() { Ok(Some(read)) } else { Err(RecordFault::Form) }
    }
}

/// The payload of a record of `event`.
fn payload(event: &Event, by: Option<&str>) -> Vec<u8> {
    let mut members = PayloadWriter::default();
    event.members(&mut members);
    members.optional("by", by);
    let mut payload = Vec::with_capacity(1024);
    json::write(&members.into_object(), &mut payload);
    payload
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::format::envelope::RECORD_BYTES_MAX;
    use crate::audit::format::event::{AgentStatus, JWK_BYTES_MAX, Left, Previous, STATUSES};
    use crate::audit::format::key::{KeyLookup, RecordKeyId};
    use crate::id::{AgentName, HandleId, KeyId, Principal, TokenId};

    struct Nobody;
    impl Opener for Nobody {
        fn held(&self, _: &RecordKeyId) -> KeyLookup<'_> {
            KeyLookup::Missing
        }
    }

    struct One;
    impl Opener for One {
        fn held(&self, id: &RecordKeyId) -> KeyLookup<'_> {
            if id.0 == [4; 16] { KeyLookup::Key(&[5; 32]) } else { KeyLookup::Destroyed }
        }
    }

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
        assert_eq!(Record::decode(&given.encode(None), &Nobody), Ok(Some(given.clone())));
        let key = EncryptionKey { id: RecordKeyId([4; 16]), key: &[5; 32], salt: [6; 16] };
        let encrypted = given.encode(Some(&key));
        assert_eq!(Record::decode(&encrypted, &One), Ok(Some(given.clone())));
        if given.event.kind() != "epoch" {
            assert_eq!(Record::decode(&encrypted, &Nobody), Err(RecordFault::KeyMissing(key.id)));
        }
        let alone = Record { by: None, ..given };
        assert_eq!(Record::decode(&alone.encode(None), &Nobody), Ok(Some(alone)));
    }

    #[track_caller]
    fn refuses(bytes: &str, fault: RecordFault) {
        assert_eq!(Record::decode(bytes.as_bytes(), &Nobody), Err(fault));
    }

    fn text() -> String {
        "a \"b\"\\\n\u{1f}\u{7f} é 😀 \u{e000}".to_owned()
    }

    #[test]
    fn every_event_of_tokens_and_keys_comes_back() {
        let (kid, token) = (KeyId([1; 32]), TokenId([2; 32]));
        let principal: Principal = "user:ada".parse().expect("principal");
        let expires = Timestamp(1_800_000_000_000);
        same(Event::TokenRegistered {
            token,
            jti: text(),
            issuer: text(),
            kid,
            agent: agent(),
            principal: principal.clone(),
            expires,
        });
        same(Event::TokenRevoked { token, jti: text(), agent: agent(), reason: text() });
        let handle = HandleId([3; 32]);
        for until in [None, Some(expires)] {
            same(Event::HandleSet {
                handle,
                token: text(),
                id: token,
                agent: agent(),
                principal: principal.clone(),
                until,
            });
        }
        same(Event::HandleRevoked { handle, agent: agent(), reason: text() });
        same(Event::KeyAdded { issuer: text(), jwk: text(), kid });
        for from in [None, Some(expires)] {
            same(Event::KeyRetired { kid, from, reason: text() });
        }
        same(Event::KeyRevoked { kid, reason: text() });
        same(Event::TokenSigned {
            token,
            jti: text(),
            agent: agent(),
            principal,
            expires: Timestamp(1_800_000_000_000),
        });
    }

    #[test]
    fn every_other_event_comes_back() {
        let principal: Principal = "user:ada".parse().expect("principal");
        same(Event::Start { version: text(), policy: text() });
        same(Event::Stop);
        same(Event::Handover { version: text(), policy: text() });
        same(Event::AgentRegistered { agent: agent(), principal: None, class: text() });
        same(Event::AgentRegistered {
            agent: agent(),
            principal: Some(principal.clone()),
            class: text(),
        });
        for (status, word) in STATUSES {
            assert_eq!(status.as_str(), word);
            same(Event::AgentStatus { agent: agent(), status, reason: text() });
            same(Event::NamespaceStatus {
                namespace: "research".to_owned(),
                status,
                reason: text(),
            });
            same(Event::PrincipalStatus { principal: principal.clone(), status, reason: text() });
        }
        same(Event::Reload { policy: text() });
        let previous = Previous { origin: "gw/e000001".to_owned(), size: 7, root: text() };
        for left in [None, Some(Left { size: 9, root: text() })] {
            same(Event::Epoch { previous: previous.clone(), reason: text(), left });
        }
        for accepted in [false, true] {
            same(Event::Clock { behind_ms: 5000, accepted });
        }
        for reason in [None, Some(text())] {
            same(Event::Forgotten { record_key: text(), reason });
        }
        same(Event::Restored { head: previous });
        same(Event::Backup { keys: true, operator_keys: false });
        for principal in [None, Some(principal.clone())] {
            same(Event::Exported { epochs: text(), principal, keys: true });
        }
        same(Event::Disclosed { records: text() });
        same(Event::ReloadRefused { why: text() });
        same(Event::KeysChanged { issuer: text(), kids: text() });
        same(Event::ModelAccepted { model: text(), digest: text(), reason: text() });
    }

    #[test]
    fn what_was_forgotten_stays_closed() {
        let key = EncryptionKey { id: RecordKeyId([7; 16]), key: &[5; 32], salt: [6; 16] };
        assert_eq!(Record::decode(&revoked("x").encode(Some(&key)), &One), Ok(None));
        let wrong = EncryptionKey { id: RecordKeyId([4; 16]), key: &[8; 32], salt: [6; 16] };
        assert_eq!(
            Record::decode(&revoked("x").encode(Some(&wrong)), &One),
            Err(RecordFault::Closed)
        );
    }

    #[test]
    fn every_changed_byte_of_a_sealed_record_is_noticed_by_its_form_or_its_box() {
        let key = EncryptionKey { id: RecordKeyId([4; 16]), key: &[5; 32], salt: [6; 16] };
        let bytes = revoked("lost").encode(Some(&key));
        for place in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[place / 8] ^= 1 << (place % 8);
            assert_ne!(Record::decode(&changed, &One), Ok(Some(revoked("lost"))), "bit {place}");
        }
    }

    #[test]
    fn the_form_is_canonical() {
        let event = Event::AgentStatus {
            agent: agent(),
            status: AgentStatus::Suspended,
            reason: "tea".to_owned(),
        };
        let expect = concat!(
            r#"{"at":"2026-09-21T14:13:20.120Z","kind":"agent-status","#,
            r#""payload":{"agent":"acme/reader","by":"uid:0","reason":"tea","#,
            r#""status":"suspended"},"v":1}"#
        );
        assert_eq!(String::from_utf8(record(event).encode(None)).expect("UTF-8"), expect);
    }

    #[test]
    fn another_form_is_refused() {
        let stop = r#"{"at":"2026-09-21T14:13:20.120Z","kind":"stop","payload":{},"v":1}"#;
        assert!(Record::decode(stop.as_bytes(), &Nobody).is_ok());
        refuses(&format!("{stop}\n"), RecordFault::Form);
        refuses(&stop.replace("{}", "{ }"), RecordFault::Form);
        refuses(&stop.replace("{}", r#"{"more":"x"}"#), RecordFault::Form);
        refuses(&stop.replace(r#","v":1"#, r#","v":1,"z":0"#), RecordFault::Form);
        refuses(&stop.replace("stop", "\\u0073top"), RecordFault::Member("kind"));
        refuses(
            r#"{"kind":"stop","at":"2026-09-21T14:13:20.120Z","payload":{},"v":1}"#,
            RecordFault::Form,
        );
        refuses(&stop.replace(":1}", ":2}"), RecordFault::Newer(2));
        refuses(&stop.replace(":1}", ":01}"), RecordFault::Form);
        refuses(&stop.replace(":1}", ":0}"), RecordFault::Form);
        refuses(&stop.replace("{}", r#"{"z":1,"a":1}"#), RecordFault::Form);
        refuses(&stop.replace("{}", r#"{"a":1.5}"#), RecordFault::Form);
        refuses(&stop.replace("120Z", "12Z"), RecordFault::Member("at"));
        refuses(&stop.replace("stop", "start"), RecordFault::Member("version"));
        refuses(&stop.replace("stop", "flood"), RecordFault::Kind("flood".to_owned()));
        refuses("[]", RecordFault::Form);
        let long = String::from_utf8(revoked("x").encode(None))
            .expect("UTF-8")
            .replace("\"x\"", &format!("\"{}\"", "x".repeat(257)));
        refuses(&long, RecordFault::Form);
        assert!(matches!(
            Record::decode(&[b' '; RECORD_BYTES_MAX + 1], &Nobody),
            Err(RecordFault::TooLong { .. })
        ));
        // The greatest length itself is allowed: such a record is refused for another reason.
        assert_eq!(Record::decode(&[b' '; RECORD_BYTES_MAX], &Nobody), Err(RecordFault::Form));
    }

    #[test]
    fn free_text_is_cut_at_a_character_and_names_are_not() {
        let reason = format!("{}é", "x".repeat(255));
        let read = Record::decode(&revoked(&reason).encode(None), &Nobody).expect("record");
        assert_eq!(read, Some(revoked(&"x".repeat(255))));
        assert_eq!(revoked(&reason).event.fits(), Ok(()));
        let added = |bytes| Event::KeyAdded {
            issuer: String::new(),
            jwk: "x".repeat(bytes),
            kid: KeyId([0; 32]),
        };
        assert_eq!(added(JWK_BYTES_MAX).fits(), Ok(()));
        let fault =
            RecordFault::TooLong { member: "jwk", bytes: JWK_BYTES_MAX + 1, most: JWK_BYTES_MAX };
        assert_eq!(added(JWK_BYTES_MAX + 1).fits(), Err(fault));
    }

    #[test]
    fn the_largest_record_is_small_enough() {
        // JSON escapes a control character with six bytes (RFC 8785 section 3.2.2.2).
        let worst = |bytes| "\u{1}".repeat(bytes);
        let added =
            Event::KeyAdded { issuer: worst(999), jwk: worst(99_999), kid: KeyId([255; 32]) };
        let largest =
            Record { at: Timestamp(i64::MAX), by: Some(worst(999)), event: added }.encode(None);
        assert!((50_000..=RECORD_BYTES_MAX).contains(&largest.len()), "{}", largest.len());
        assert!(Record::decode(&largest, &Nobody).is_ok());
        let set = Event::HandleSet {
            handle: HandleId([255; 32]),
            token: worst(99_999),
            id: TokenId([255; 32]),
            agent: agent(),
            principal: "user:ada".parse().expect("principal"),
            until: Some(Timestamp(i64::MAX)),
        };
        let largest =
            Record { at: Timestamp(i64::MAX), by: Some(worst(999)), event: set }.encode(None);
        assert!((60_000..=RECORD_BYTES_MAX).contains(&largest.len()), "{}", largest.len());
        let early = Record { at: Timestamp(i64::MIN), by: None, event: Event::Stop };
        assert_eq!(
            Record::decode(&early.encode(None), &Nobody).map(|read| read.map(|read| read.at)),
            Ok(Some(Timestamp(0)))
        );
    }
}
