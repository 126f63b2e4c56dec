//! Tokens with any content. All of them are signed with a key that the gateway knows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use token_shield::clock::Timestamp;
use token_shield::crypto::{Algorithm, Both, SigningKey, Verifier};
use token_shield::id::KeyId;
use token_shield::refusal::{Code, Refusal};
use token_shield::token::jwk::Jwk;
use token_shield::token::{
    IssuerPolicy, KeySource, KnownKey, PostQuantum, Presented, Verified, verify,
};

/// The number of cases that this test has written.
static RECORDED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// The time of the tests, in seconds: ten seconds after the tokens were issued.
pub(crate) const NOW: i64 = 1_790_000_010;

/// The claims of a valid token, each as JSON text.
const CLAIMS: &[(&str, &str)] = &[
    ("iss", r#""https://operator.example""#),
    ("aud", r#""https://gateway.example""#),
    ("sub", r#""team:research""#),
    ("client_id", r#""research/summarizer""#),
    ("iat", "1790000000"),
    ("exp", "1790003600"),
    ("jti", r#""01JB0000000000000000000000""#),
    ("del_depth", "0"),
    ("del_max_depth", "1"),
    (
        "authorization_details",
        r#"[{"type":"agent_delegation","scopes":["inference.chat"],"constraints":[]}]"#,
    ),
];

/// A valid payload with `changes`: a claim is set to a JSON text, or removed if the text is empty.
pub(crate) fn payload(changes: &[(&str, &str)]) -> String {
    let mut members: Vec<(&str, &str)> = CLAIMS.to_vec();
    for (name, value) in changes {
        match members.iter_mut().find(|(known, _)| known == name) {
            Some(member) => member.1 = value,
            None => members.push((name, value)),
        }
    }
    let members: Vec<String> = members
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// An operator's key, and a gateway that knows it.
pub(crate) struct Forge {
    pub(crate) key: SigningKey,
    pub(crate) kid: KeyId,
    pub(crate) known: HashMap<KeyId, Arc<KnownKey>>,
}

impl KeySource for Forge {
    fn key(&self, kid: &KeyId) -> Option<Arc<KnownKey>> {
        self.known.get(kid).cloned()
    }
}

impl Forge {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        Self::with(algorithm, |_| {})
    }

    /// The same with a changed policy. The default allows both namespaces, 30 days and Ed25519.
    pub(crate) fn with(algorithm: Algorithm, change: impl FnOnce(&mut IssuerPolicy)) -> Self {
        let mut policy = IssuerPolicy {
            iss: "https://operator.example".to_owned(),
            aud: "https://gateway.example".to_owned(),
            namespaces: vec!["research".to_owned(), "support".to_owned()],
            ttl_max: Duration::from_secs(30 * 86_400),
            post_quantum: PostQuantum::Off,
            handles: true,
            principals: token_shield::token::Principals::all(),
            list_max: 64,
        };
        change(&mut policy);
        let key = SigningKey::from_seed(algorithm, [5; 32].into());
        let public = Jwk::of(key.public().expect("key"));
        let known =
            KnownKey { id: public.id(), key: public.key().clone(), issuer: Arc::new(policy) };
        Self { key, kid: public.id(), known: HashMap::from([(public.id(), Arc::new(known))]) }
    }

    /// The header of a valid token.
    pub(crate) fn header(&self) -> String {
        format!(
            r#"{{"typ":"at+jwt","alg":"{}","kid":"{}"}}"#,
            self.key.algorithm().as_str(),
            self.kid
        )
    }

    /// A token with exactly this header and payload, signed correctly.
    pub(crate) fn sign(&self, header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> String {
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes())))
    }

    /// A valid token with changed claims.
    pub(crate) fn token(&self, changes: &[(&str, &str)]) -> String {
        self.sign(self.header(), payload(changes))
    }

    pub(crate) fn verify_with(
        &self,
        token: &str,
        verifier: &dyn Verifier,
        now: i64,
    ) -> Result<Verified, Refusal> {
        verify(&Presented::read(token)?, self, verifier, Timestamp(now * 1000))
    }

    /// The gateway's verdict on `token`. Both implementations must agree.
    pub(crate) fn verify(&self, token: &str) -> Result<Verified, Refusal> {
        self.verify_with(token, &Both, NOW)
    }

    #[track_caller]
    pub(crate) fn check(&self, token: &str, expect: Result<(), Code>) {
        self.record(token, expect);
        let found = self.verify(token);
        let detail = found.as_ref().err().map(|refusal| format!("{refusal} {:?}", refusal.detail));
        assert_eq!(found.map(|_| ()).map_err(|refusal| refusal.code), expect, "{detail:?}");
    }

    /// Adds the case to `tests/vectors` if TOKEN_SHIELD_WRITE_VECTORS is set. Its name is the test
    /// and the line.
    #[track_caller]
    pub(crate) fn record(&self, token: &str, expect: Result<(), Code>) {
        let Some(folder) = std::env::var_os("TOKEN_SHIELD_WRITE_VECTORS") else { return };
        let thread = std::thread::current();
        let test = thread.name().unwrap_or_default().trim_start_matches("token::");
        // The test module is a part of `token` in a separate file. Its vectors keep their names.
        let test = test.trim_start_matches("authority::");
        let place = RECORDED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let known: Vec<&Arc<KnownKey>> = self.known.values().collect();
        let policy = &known.first().expect("a key").issuer;
        let keys: Vec<serde_json::Value> = known
            .iter()
            .map(|known| serde_json::from_str(&Jwk::of(known.key.clone()).write()).expect("JSON"))
            .collect();
        let vector = serde_json::json!({
            "id": format!("{}/{place}", test.replace("::", "/").replace('_', " ")),
            "token": token,
            "jwks": { "keys": keys },
            "iss": policy.iss,
            "aud": policy.aud,
            "now": NOW,
            "namespaces": policy.namespaces, "ttl_max": policy.ttl_max.as_secs(),
            "pq": match policy.post_quantum {
                PostQuantum::Off => "off",
                PostQuantum::RequiredRoot => "required-root",
                PostQuantum::Required => "required",
            },
            "code": expect.err().map(Code::as_str),
        });
        let file = std::path::Path::new(&folder).join(format!("{}.jsonl", test.replace("::", "-")));
        let mut out = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(file)
            .expect("a file of vectors");
        std::io::Write::write_all(&mut out, format!("{vector}\n").as_bytes()).expect("written");
    }
}
