//! The authenticator: which subject it charges for a token, and what it caches.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use token_shield::audit::format::event::{AgentStatus, Event};
use token_shield::audit::format::record::Record;
use token_shield::clock::{ManualClock, Timestamp};
use token_shield::config;
use token_shield::crypto::{Algorithm, Fast, SigningKey};
use token_shield::guard::authenticate::{
    Authenticator, Credential, TokenLookup, VerificationLimits,
};
use token_shield::guard::egress::policy::SelfEndpoints;
use token_shield::guard::limiter::Limiter;
use token_shield::guard::table::Tables;
use token_shield::json::Value;
use token_shield::keyring::{IssuerKeys, Keyring};
use token_shield::refusal::{Code, Refusal};
use token_shield::registry::Registry;
use token_shield::token::constraint::{Constraint, ConstraintType};
use token_shield::token::delegate::{Narrowed, delegate};
use token_shield::token::jwk::Jwk;
use token_shield::token::mint::{MintRequest, Parties, TokenSpan, mint};

use super::forge::{Forge, NOW};

/// An authenticator with everything that it needs, and a clock that the test sets.
struct Door {
    forge: Forge,
    registry: Arc<Registry>,
    keyring: Arc<Keyring>,
    clock: Arc<ManualClock>,
    authenticator: Authenticator,
    tables: Arc<Tables>,
}

impl Door {
    /// An authenticator with this size of the token cache, and these rates (peer, root).
    fn new(token_cache: usize, rates: (u32, u32)) -> Self {
        let forge = Forge::new(Algorithm::Ed25519);
        let known = &forge.known[&forge.kid];
        let keyring = Arc::new(Keyring::new());
        keyring.set_issuers(vec![IssuerKeys {
            policy: Arc::clone(&known.issuer),
            keys: vec![Jwk::of(known.key.clone())],
        }]);
        let clock = Arc::new(ManualClock::at(Timestamp(NOW * 1000)));
        let registry = Arc::new(Registry::new());
        let (peer_rps, root_rps) = rates;
        let authenticator = Authenticator::new(
            Arc::clone(&keyring),
            Arc::clone(&registry),
            Arc::new(Limiter::new(clock.clone())),
            Box::new(Fast),
            clock.clone(),
            VerificationLimits { token_cache, peer_rps, root_rps },
        );
        let config = config::read("name = \"test\"\n", Path::new(".")).expect("config");
        let tables = Arc::new(
            Tables::build(&config.guard, Vec::new(), SelfEndpoints::default()).expect("tables"),
        );
        Self { forge, registry, keyring, clock, authenticator, tables }
    }

    /// Presents a token from an address. Returns how it was found.
    fn ask_from(&self, peer: [u8; 4], token: &str) -> Result<TokenLookup, Refusal> {
        let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("value");
        let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        let credential = Credential::read(&headers).expect("credential");
        let known = self.authenticator.authenticate(
            &credential,
            IpAddr::from(peer),
            Arc::clone(&self.tables),
        );
        known.map(|known| known.found).map_err(|denied| denied.refusal)
    }

    fn ask(&self, token: &str) -> Result<TokenLookup, Code> {
        self.ask_from([127, 0, 0, 1], token).map_err(|refusal| refusal.code)
    }

    /// A valid token with its own id.
    fn root(&self, number: usize) -> String {
        self.forge.token(&[("jti", &format!("\"root-{number}\""))])
    }

    /// Applies an event to the state, as after its record.
    fn apply(&self, event: Event) {
        let record = Record { at: Timestamp(NOW * 1000), by: None, event };
        self.keyring.apply(&record);
        self.registry.apply(&record);
    }
}

/// A root with a holder's key, and the tokens that this key delegates.
struct Planner {
    holder: SigningKey,
    root: String,
}

impl Planner {
    fn new(door: &Door, number: u8, limits: Vec<Constraint>) -> Self {
        let holder = SigningKey::from_seed(Algorithm::Ed25519, [100 + number; 32].into());
        let (agent, principal) = (format!("research/planner-{number}"), "team:research");
        let (agent, principal) =
            (agent.parse().expect("agent"), principal.parse().expect("principal"));
        let parties = Parties { iss: "https://operator.example", aud: "https://gateway.example" };
        let span = TokenSpan { issued: Timestamp(NOW * 1000), lifetime: Duration::from_secs(3600) };
        let mut request = MintRequest::new(parties, agent, principal, span, u128::from(number));
        request.limits = limits;
        request.limits.push(Constraint::bearer_children().expect("a row"));
        let request = request.delegable(Jwk::of(holder.public().expect("key")), 2);
        let root = mint(&request, &door.forge.key).expect("a root");
        Self { holder, root }
    }

    /// A new child of the root.
    fn leaf(&self, number: u128) -> String {
        let wanted = Narrowed { name: "reader".to_owned(), ..Narrowed::default() };
        delegate(&self.root, &self.holder, &wanted, Timestamp(NOW * 1000), number).expect("a child")
    }
}

/// A chain with a wrong last signature.
fn spoiled(chain: &str) -> String {
    let (signed, signature) = chain.rsplit_once('.').expect("a signature");
    let first = if signature.starts_with('A') { "B" } else { "A" };
    format!("{signed}.{first}{}", &signature[1..])
}

/// Valid tokens are not counted against their address. So many agents at one address can connect at
/// once, as after a restart.
#[test]
fn two_thousand_agents_behind_one_address_are_let_in_at_once() {
    let door = Door::new(4096, (5, 100));
    for number in 0..2_000 {
        assert_eq!(door.ask(&door.root(number)), Ok(TokenLookup::Verified), "{number}");
    }
    assert_eq!(door.ask(&door.root(7)), Ok(TokenLookup::Cached));
    // Invalid tokens are counted. After the limit, no new token from that address is checked.
    let bad = spoiled(&door.root(0));
    let codes: Vec<_> = (0..7).map(|_| door.ask(&bad)).collect();
    assert_eq!(codes[..5], [Err(Code::TokenSignature); 5]);
    assert_eq!(codes[5..], [Err(Code::PeerRate); 2]);
    assert_eq!(door.ask(&door.root(2_001)), Err(Code::PeerRate));
    assert_eq!(door.ask(&door.root(8)), Ok(TokenLookup::Cached), "who is known is not asked");
    assert_eq!(
        door.ask_from([127, 0, 0, 2], &door.root(2_001)).ok(),
        Some(TokenLookup::Verified),
        "another address has its own"
    );
}

#[test]
fn fresh_chains_of_one_root_are_bounded() {
    let door = Door::new(4096, (1_000, 20));
    let (greedy, other) = (Planner::new(&door, 1, Vec::new()), Planner::new(&door, 2, Vec::new()));
    let first = greedy.leaf(0);
    assert_eq!(door.ask(&first), Ok(TokenLookup::Verified));
    // The rate is 20 new chains in a second for one root: one above, and 19 here.
    let asked: Vec<_> = (1..100).map(|number| door.ask(&greedy.leaf(number))).collect();
    assert_eq!(asked[..19], [Ok(TokenLookup::Verified); 19]);
    assert!(asked[19..].iter().all(|answer| *answer == Err(Code::RootRate)));
    let refusal = door.ask_from([127, 0, 0, 1], &greedy.leaf(1_000)).expect_err("used up");
    assert_eq!(refusal.retry_after, Some(Duration::from_millis(50)));
    // From another address it is still the same root.
    assert_eq!(
        door.ask_from([127, 0, 0, 2], &greedy.leaf(1_001)).map_err(|no| no.code),
        Err(Code::RootRate)
    );
    assert_eq!(door.ask(&first), Ok(TokenLookup::Cached), "what is known goes on");
    assert_eq!(door.ask(&other.leaf(0)), Ok(TokenLookup::Verified), "another root has its own");
    door.clock.advance(Duration::from_secs(1));
    assert_eq!(door.ask(&greedy.leaf(2_000)), Ok(TokenLookup::Verified));
}

/// An attacker who has seen a chain knows its root. Invalid text after the root must not use up the
/// rate of those who may delegate.
#[test]
fn garbage_behind_a_root_is_charged_to_its_sender() {
    let door = Door::new(4096, (50, 2));
    let planner = Planner::new(&door, 1, Vec::new());
    let bad = spoiled(&planner.leaf(0));
    for _ in 0..50 {
        assert_eq!(door.ask(&bad), Err(Code::TokenSignature));
    }
    assert_eq!(door.ask(&bad), Err(Code::PeerRate));
    assert_eq!(door.ask_from([127, 0, 0, 2], &planner.leaf(1)).ok(), Some(TokenLookup::Verified));
    assert_eq!(door.ask_from([127, 0, 0, 2], &planner.leaf(2)).ok(), Some(TokenLookup::Verified));
}

#[test]
fn who_may_not_act_takes_no_memory() {
    let door = Door::new(4096, (1_000, 1_000));
    let planner = Planner::new(&door, 1, Vec::new());
    let reason = "a test".to_owned();
    let agent = "research/planner-1".parse().expect("agent");
    door.apply(Event::AgentStatus { agent, status: AgentStatus::Suspended, reason });
    for number in 0..100 {
        assert_eq!(door.ask(&planner.leaf(number)), Err(Code::AgentSuspended));
    }
    // A suspended agent could otherwise fill the token cache.
    assert_eq!(door.authenticator.remembered_bytes(), 0);
}

#[test]
fn a_holders_key_that_is_revoked_ends_every_chain_that_it_is_in() {
    let door = Door::new(4096, (1_000, 1_000));
    let (stolen, spared) = (Planner::new(&door, 1, Vec::new()), Planner::new(&door, 2, Vec::new()));
    let known = stolen.leaf(0);
    assert_eq!(door.ask(&known), Ok(TokenLookup::Verified));
    let kid = Jwk::of(stolen.holder.public().expect("key")).id();
    door.apply(Event::KeyRevoked { kid, reason: "stolen".to_owned() });
    // The status is checked on each request, also for a token from the cache.
    assert_eq!(door.ask(&known), Err(Code::KeyRevoked), "one that was known");
    assert_eq!(door.ask(&stolen.leaf(1)), Err(Code::KeyRevoked), "one that was signed afterwards");
    assert_eq!(door.ask(&spared.leaf(0)), Ok(TokenLookup::Verified));
    assert!(door.keyring.row(&kid).is_none(), "it never was an operator's key");
    assert_eq!(door.keyring.revoked_holders().len(), 1);
}

/// The tokens that use the most memory for their length: lists with the shortest names and the
/// maximum of entries.
#[test]
fn the_worst_tokens_take_what_is_documented() {
    let door = Door::new(128, (1_000_000, 1_000_000));
    let names = |first: u32| {
        let names = (0..64).map(|number| {
            Value::from_text(char::from_u32(first + number).expect("a character").to_string())
        });
        Value::Array(names.collect())
    };
    let list = |key| Constraint::new(key, ConstraintType::OneOf, names(0x21_00)).expect("a list");
    let planner =
        Planner::new(&door, 1, vec![list("model"), list("egress_host"), list("tool_type")]);
    for number in 0..400 {
        assert_eq!(door.ask(&planner.leaf(number)), Ok(TokenLookup::Verified));
    }
    let (taken, documented) = (door.authenticator.remembered_bytes(), 128 * (9 << 10));
    assert!(taken <= documented, "{taken} bytes of {documented}");
    assert!(taken > documented / 2, "{taken} bytes: the memory is not used");
}
