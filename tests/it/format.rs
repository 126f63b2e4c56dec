//! The format of records and batches, by examples that are no record of this gateway.

use token_shield::audit::format::envelope::Envelope;
use token_shield::audit::format::event::{Event, Written};
use token_shield::audit::format::fault::RecordFault;
use token_shield::audit::format::journal::{Builder, reach};
use token_shield::audit::format::key::{EncryptionKey, KeyLookup, Opener, RecordKeyId};
use token_shield::audit::format::note::{LogSigner, read_vkeys};
use token_shield::audit::format::record::Record;
use token_shield::clock::Timestamp;
use token_shield::id::KeyId;
use token_shield::merkle::Tree;

/// A record with a time and a payload.
fn plain(at: &str, payload: &str) -> String {
    format!(r#"{{"at":"{at}","kind":"refusal","payload":{payload},"v":1}}"#)
}

const AT: &str = "2026-11-21T08:15:30.000Z";

#[test]
fn a_payload_has_one_form() {
    for payload in ["{}", r#"{"a":1,"z":[{"b":"c"}]}"#] {
        assert!(Envelope::read(plain(AT, payload).as_bytes()).is_ok(), "{payload}");
    }
    for payload in [r#"{"z":1,"a":1}"#, r#"{"a":9007199254740992}"#, r#"{"a":[{"z":1,"b":1}]}"#] {
        let read = plain(AT, payload);
        assert_eq!(Envelope::read(read.as_bytes()).err(), Some(RecordFault::Form), "{payload}");
    }
}

#[test]
fn a_time_is_one_of_the_calendar() {
    for at in ["2024-02-29T23:59:59.999Z", AT] {
        assert!(Envelope::read(plain(at, "{}").as_bytes()).is_ok(), "{at}");
    }
    for at in [
        "2026-11-21T24:00:00.000Z",
        "2026-11-21T00:60:00.000Z",
        "2026-11-21T00:00:60.000Z",
        "2026-02-29T00:00:00.000Z",
        "2026-04-31T00:00:00.000Z",
    ] {
        let read = plain(at, "{}");
        assert_eq!(Envelope::read(read.as_bytes()).err(), Some(RecordFault::Member("at")), "{at}");
    }
}

/// Has one key.
struct OneKey;

impl Opener for OneKey {
    fn held(&self, _: &RecordKeyId) -> KeyLookup<'_> {
        KeyLookup::Key(&[5; 32])
    }
}

#[test]
fn a_ciphertext_is_bound_to_its_record() {
    let event = Event::KeyRevoked { kid: KeyId([0; 32]), reason: "a reason".to_owned() };
    let record = Record { at: Timestamp(1_790_000_000_120), by: None, event };
    let key = EncryptionKey { id: RecordKeyId([4; 16]), key: &[5; 32], salt: [6; 16] };
    let bytes = String::from_utf8(record.encode(Some(&key))).expect("UTF-8");
    assert_eq!(Record::decode(bytes.as_bytes(), &OneKey), Ok(Some(record)));
    // The same ciphertext at another time, and of another kind.
    for changed in [bytes.replace(".120Z", ".121Z"), bytes.replace("key-revoked", "key-retired")] {
        assert_ne!(changed, bytes);
        assert!(Record::decode(changed.as_bytes(), &OneKey).is_err());
    }
    // Another character is no base64url.
    let at = bytes.find("ciphertext").expect("a ciphertext") + 20;
    for odd in ["+", "/", "=", "."] {
        let mut changed = bytes.clone();
        changed.replace_range(at..=at, odd);
        let read = Envelope::read(changed.as_bytes()).err();
        assert_eq!(read, Some(RecordFault::Member("ciphertext")), "{odd}");
    }
}

#[test]
fn an_event_of_another_process_is_kept_as_it_is() {
    let payload = r#"{"request":"rq_01M00000000000000000000000"}"#;
    let request = "rq_01M00000000000000000000000".parse().ok();
    assert!(request.is_some());
    let written = Written::new("refusal", None, payload.to_owned()).expect("it may be passed on");
    assert_eq!((written.kind(), written.payload()), ("refusal", payload));
    assert_eq!(written.request(), request);
    assert_eq!(Written::new("key-revoked", None, payload.to_owned()), None);
    assert_eq!(Written::new("refusal", None, "[]".to_owned()), None);
    let revoked = Event::KeyRevoked { kid: KeyId([0; 32]), reason: String::new() };
    assert!(revoked.is_control() && !Event::Written(Box::new(written)).is_control());
}

#[test]
fn a_copy_reaches_exactly_to_its_size() {
    let mut segment = Vec::new();
    let mut ends = Vec::new();
    let mut tree = Tree::new();
    for record in [b"one", b"two"] {
        let mut batch = Builder::new(tree);
        batch.push(record).expect("room");
        let (bytes, after) = batch.finish();
        segment.extend_from_slice(&bytes);
        ends.push(segment.len());
        tree = after;
    }
    assert_eq!(reach(&segment, 0), (0, 0));
    assert_eq!(reach(&segment, 1), (ends[0], 1));
    assert_eq!(reach(&segment, 2), (ends[1], 2));
    assert_eq!(reach(&segment, 3), (ends[1], 2));
}

#[test]
fn empty_lines_and_comments_of_a_key_file_are_ignored() {
    let signer = LogSigner::read(&LogSigner::generate().expect("keys").write()).expect("keys");
    let keys = signer.public("gw.example/e000001").expect("public keys");
    let text = format!("# the keys of a log\n\n{}\n\n", keys.lines());
    assert_eq!(read_vkeys(&text).expect("keys").len(), 1);
}
