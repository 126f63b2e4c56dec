//! `audit replay` and `audit export`. Replay accepts what follows from the log and names what does
//! not. An export opens its own records only.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use token_shield::audit::format::event::{AgentStatus, Event};
use token_shield::audit::format::request::{
    Admission, BodyDigest, Caller, Outcome, RefusedRequest, RequestContext, Used,
};
use token_shield::audit::read::reader;
use token_shield::audit::read::replay::{ReplayReport, replay};
use token_shield::audit::store::log::{Log, LogSettings, NewEpoch, cache_against};
use token_shield::audit::store::vault::Vault;
use token_shield::clock::{ManualClock, Timestamp};
use token_shield::id::{HandleId, KeyId, RequestId, TokenId};

const BEGAN: Timestamp = Timestamp(1_790_000_000_000);

struct Book {
    data: tempfile::TempDir,
    clock: Arc<ManualClock>,
    log: Log,
}

fn settings(data: &Path) -> LogSettings {
    LogSettings { reserve: 0, ..LogSettings::of_data(data, "gw.example") }
}

impl Book {
    fn new() -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let clock = Arc::new(ManualClock::at(BEGAN));
        let (log, _) = Log::open(settings(data.path()), Arc::clone(&clock) as _).expect("a log");
        Self { data, clock, log }
    }

    /// Records an event, one minute later.
    fn add(&self, event: Event) -> u64 {
        self.clock.advance(Duration::from_secs(60));
        self.log.append_blocking(event, None).expect("sealed").index
    }

    /// Records an event at once.
    fn at_once(&self, event: Event) -> u64 {
        self.log.append_blocking(event, None).expect("sealed").index
    }

    fn replay(&self) -> ReplayReport {
        let epochs = reader::epochs(&settings(self.data.path()).dir).expect("a log");
        let vault = Vault::read(&settings(self.data.path()).record_keys).expect("keys");
        replay(&epochs, &vault, |_| ()).expect("it can be read")
    }

    /// The disagreements: record indices and messages.
    fn found(&self) -> Vec<(String, String)> {
        self.replay().disagreements.into_iter().map(|found| (found.record, found.what)).collect()
    }
}

/// A request that arrived at the time of its record.
fn about(number: u128, handle: Option<HandleId>) -> RequestContext {
    arrived(number, handle, Timestamp(BEGAN.0 * 2))
}

/// A request that arrived before its record.
fn arrived(number: u128, handle: Option<HandleId>, at: Timestamp) -> RequestContext {
    let caller = Caller {
        agent: "acme/reader/child".parse().expect("agent"),
        principal: "user:ada".parse().expect("principal"),
        chain: vec![(TokenId([1; 32]), KeyId([2; 32])), (TokenId([3; 32]), KeyId([4; 32]))],
    };
    RequestContext {
        request: RequestId::new(at.0, number),
        caller: Arc::new(caller),
        handle,
        peer: None,
        operation: "chat",
        model: Some("m".into()),
        policy: "p".into(),
    }
}

const BODY: BodyDigest = BodyDigest { bytes: 1, digest: [7; 32] };

fn admitted(about: RequestContext) -> Event {
    let (digest_key, forwarded) = ([3; 16], Some(BODY));
    Event::Admission(Box::new(Admission {
        about,
        upstream: None,
        model_digest: None,
        output_tokens: Some(100),
        stripped: Vec::new(),
        fetches: Vec::new(),
        digest_key,
        received: BODY,
        forwarded,
    }))
}

fn admission(number: u128) -> Event {
    admitted(about(number, None))
}

fn outcome(number: u128, admission: u64, output: u64) -> Event {
    closing(about(number, None), admission, "ok", Some((10, output)))
}

/// The outcome of a request that was not served.
fn ended(number: u128, admission: u64, code: &'static str) -> Event {
    closing(about(number, None), admission, code, None)
}

fn closing(
    about: RequestContext,
    admission: u64,
    code: &'static str,
    usage: Option<(u64, u64)>,
) -> Event {
    let (digest_key, delivered) =
        ([3; 16], if usage.is_some() { BODY } else { BodyDigest::default() });
    let (upstream, model_digest, detail, outbound) = (None, None, None, (Vec::new(), 0));
    Event::Outcome(Box::new(Outcome {
        about,
        admission,
        upstream,
        model_digest,
        code,
        detail,
        status: 200,
        ms: 5,
        usage: usage.map(|(input, output)| Used { input, output, source: "reported" }),
        outbound,
        fetched: Vec::new(),
        forwarded: None,
        digest_key,
        delivered,
    }))
}

fn refusal(code: &'static str) -> Event {
    refused(about(99, None), code)
}

fn refused(about: RequestContext, code: &'static str) -> Event {
    Event::Refusal(Box::new(RefusedRequest {
        about,
        stage: "authenticated",
        code,
        detail: None,
        param: None,
        status: 403,
        ms: 1,
    }))
}

fn standing(agent: &str, status: AgentStatus) -> Event {
    Event::AgentStatus { agent: agent.parse().expect("agent"), status, reason: "a test".to_owned() }
}

fn token_revoked(token: u8) -> Event {
    let agent = "acme/reader".parse().expect("agent");
    Event::TokenRevoked {
        token: TokenId([token; 32]),
        jti: "x".to_owned(),
        agent,
        reason: "a test".to_owned(),
    }
}

#[test]
fn what_follows_from_the_log_is_no_disagreement() {
    let book = Book::new();
    let first = book.add(admission(1));
    book.add(outcome(1, first, 100));
    book.add(standing("acme/reader", AgentStatus::Suspended));
    // The request was in progress at the time of the revocation, and was checked again.
    let late = book.at_once(admission(2));
    book.add(ended(2, late, "agent-suspended"));
    book.add(refusal("agent-suspended"));
    book.add(standing("acme/reader", AgentStatus::Active));
    book.add(admission(3));
    book.add(Event::Start { version: "1".to_owned(), policy: "p".to_owned() });
    book.add(token_revoked(3));
    book.add(refusal("token-revoked"));
    book.add(refusal("rate-exceeded"));
    let done = book.replay();
    assert_eq!(done.disagreements, []);
    assert_eq!(
        (done.admissions, done.outcomes, done.refusals, done.unknown, done.open),
        (3, 2, 3, 1, 0)
    );
    assert!(
        done.state
            .lines()
            .iter()
            .any(|line| line.contains("acme/reader") && line.contains("active")),
        "{:?}",
        done.state
    );
}

#[test]
fn a_token_behind_a_revoked_handle_is_refused_by_whatever_it_is_shown_as() {
    let book = Book::new();
    let handle = HandleId([9; 32]);
    let agent = || "acme/reader/child".parse().expect("agent");
    let (token, principal) = ("t".to_owned(), "user:ada".parse().expect("principal"));
    book.add(Event::HandleSet {
        handle,
        token,
        id: TokenId([3; 32]),
        agent: agent(),
        principal,
        until: None,
    });
    book.add(Event::HandleRevoked { handle, agent: agent(), reason: "a test".to_owned() });
    book.add(refusal("handle-revoked"));
    assert_eq!(book.found(), []);
}

/// Events of which one does not follow from those before it. With its position, and the message
/// about it.
fn that_do_not_follow() -> Vec<(Vec<Event>, usize, &'static str)> {
    let handle = HandleId([9; 32]);
    let set = |id| Event::HandleSet {
        handle,
        token: "t".to_owned(),
        id: TokenId([id; 32]),
        agent: "acme/reader/child".parse().expect("agent"),
        principal: "user:ada".parse().expect("principal"),
        until: None,
    };
    let gone = |kid| Event::KeyRevoked { kid: KeyId([kid; 32]), reason: "a test".to_owned() };
    let registered = Event::TokenRegistered {
        token: TokenId([1; 32]),
        jti: "x".to_owned(),
        issuer: "i".to_owned(),
        kid: KeyId([2; 32]),
        agent: "acme/reader".parse().expect("agent"),
        principal: "user:ada".parse().expect("principal"),
        expires: BEGAN.plus(Duration::from_secs(90)),
    };
    let revoked = Event::HandleRevoked {
        handle,
        agent: "acme/reader".parse().expect("agent"),
        reason: "a test".to_owned(),
    };
    vec![
        (
            vec![standing("acme/reader", AgentStatus::Suspended), admission(1), outcome(1, 1, 1)],
            1,
            "acme/reader is not active",
        ),
        (
            vec![
                standing("acme/reader/child", AgentStatus::Revoked),
                admission(1),
                outcome(1, 1, 1),
            ],
            1,
            "child is not active",
        ),
        (vec![token_revoked(1), admission(1), ended(1, 1, "upstream-error")], 1, "is revoked"),
        (vec![gone(4), admission(1), outcome(1, 1, 1)], 1, "is revoked"),
        (vec![registered, admission(1), outcome(1, 1, 1)], 1, "has expired"),
        (
            vec![set(3), revoked, admitted(about(1, Some(handle))), outcome(1, 2, 1)],
            2,
            "is revoked",
        ),
        (vec![set(3), admission(1)], 1, "only through a handle"),
        (vec![set(5), admitted(about(1, Some(handle)))], 1, "has another token"),
        (vec![admission(1), admission(1)], 1, "admitted before"),
        (vec![admission(1), outcome(1, 0, 1), admission(1)], 2, "admitted before"),
        (vec![admission(1), outcome(2, 0, 1)], 1, "no open admission"),
        (vec![admission(1), outcome(1, 0, 1), outcome(1, 0, 1)], 2, "no open admission"),
        (vec![admission(1), admission(2), outcome(1, 1, 1)], 2, "names another"),
        (vec![admission(1), outcome(1, 0, 101)], 1, "101 tokens were used, and 100 were admitted"),
        (vec![admission(1), Event::Stop], 0, "the gateway stopped in good order"),
        (vec![refusal("agent-suspended")], 0, "no earlier record is a reason"),
        (vec![refusal("token-revoked")], 0, "no earlier record is a reason"),
        (vec![refusal("key-revoked")], 0, "no earlier record is a reason"),
        (
            vec![standing("acme/reader", AgentStatus::Suspended), refusal("agent-quarantined")],
            1,
            "no earlier record is a reason",
        ),
    ]
}

#[test]
fn what_does_not_follow_is_named() {
    for (events, place, expect) in that_do_not_follow() {
        let book = Book::new();
        for event in events {
            book.add(event);
        }
        let found = book.found();
        assert!(found.len() == 1 && found[0].1.contains(expect), "{expect}: {found:?}");
        assert_eq!(found[0].0, format!("e000001#{place}"), "{expect}");
    }
}

#[test]
fn what_was_on_its_way_is_judged_by_the_books_that_it_met() {
    let book = Book::new();
    let handle = HandleId([9; 32]);
    let set = |id| {
        let (agent, principal) =
            ("acme/reader/child".parse().expect("agent"), "user:ada".parse().expect("principal"));
        Event::HandleSet {
            handle,
            token: "t".to_owned(),
            id: TokenId([id; 32]),
            agent,
            principal,
            until: None,
        }
    };
    book.add(set(3));
    let slow = arrived(1, Some(handle), BEGAN.plus(Duration::from_secs(60)));
    // Its body was long. Meanwhile its handle got the next token.
    book.add(set(7));
    book.add(set(8));
    let late = book.add(admitted(slow.clone()));
    book.add(closing(slow, late, "ok", None));
    // It was refused, and the record of the refusal waited for a slow disk.
    let suspended = arrived(2, None, BEGAN.plus(Duration::from_secs(400)));
    book.add(standing("acme/reader", AgentStatus::Suspended));
    book.at_once(standing("acme/reader", AgentStatus::Active));
    book.clock.advance(Duration::from_secs(40));
    book.at_once(refused(suspended, "agent-suspended"));
    assert_eq!(book.found(), []);
}

#[test]
fn what_is_taken_back_before_it_is_asked_again_does_not_count() {
    let book = Book::new();
    book.add(standing("acme/reader", AgentStatus::Suspended));
    let first = book.at_once(admission(1));
    book.at_once(standing("acme/reader", AgentStatus::Active));
    book.add(outcome(1, first, 1));
    assert_eq!(book.found(), []);
    // A part of the answer was sent all the same.
    book.add(standing("acme/reader", AgentStatus::Suspended));
    let second = book.add(admission(2));
    book.add(closing(about(2, None), second, "aborted", Some((10, 1))));
    assert_eq!(book.found().len(), 1);
}

#[test]
fn a_part_of_a_log_misses_no_reasons_that_may_stand_before_it() {
    let book = Book::new();
    book.add(standing("acme/reader", AgentStatus::Suspended));
    book.log.close().expect("closed");
    let begin = Some(NewEpoch { reason: "a test".to_owned(), by: None, after_loss: false });
    let own = settings(book.data.path());
    let (log, _) = Log::open(LogSettings { begin, ..own.clone() }, Arc::clone(&book.clock) as _)
        .expect("a log");
    log.append_blocking(refusal("agent-suspended"), None).expect("sealed");
    log.append_blocking(admitted(about(1, Some(HandleId([9; 32])))), None).expect("sealed");
    log.close().expect("closed");
    // The suspension is in the removed epoch, so its absence is no disagreement.
    fs::remove_dir_all(own.dir.join("e000001")).expect("removed");
    assert_eq!(book.found(), []);
}

#[test]
fn a_forgotten_admission_excuses_its_own_outcome_and_no_other() {
    let book = Book::new();
    let first = book.add(admission(1));
    let forget = |vault: &mut Vault| vault.id_of("user:ada").map(|id| vault.destroy(&id));
    forget(&mut book.log.vault().lock().expect("the keys")).expect("a key").expect("destroyed");
    for (number, expect) in [(1, 0), (2, 1)] {
        book.add(closing(about(number, None), if number == 1 { first } else { 77 }, "ok", None));
        assert_eq!(book.found().len(), expect, "request {number}");
    }
    book.add(refusal("agent-suspended"));
    assert_eq!(book.found().len(), 2, "who is suspended stands in records that can still be read");
}

#[test]
fn a_cache_that_says_otherwise_is_found() {
    let book = Book::new();
    for number in 0..5 {
        book.add(token_revoked(number));
    }
    book.log.close().expect("closed");
    let settings = settings(book.data.path());
    let epochs = reader::epochs(&settings.dir).expect("a log");
    assert_eq!(cache_against(&settings.cache, &epochs).expect("read"), Some(vec![]));
    // The cache's file has each record once, in the same bytes as the log.
    let mut bytes = fs::read(&settings.cache).expect("the cache");
    let record = reader::one(&epochs[0], 3).expect("a record");
    let place =
        bytes.windows(record.len()).position(|window| window == record).expect("the record");
    // One changed bit within the record.
    bytes[place + record.len() - 20] ^= 1;
    fs::write(&settings.cache, bytes).expect("changed");
    let found = cache_against(&settings.cache, &epochs).expect("read").expect("a cache");
    assert!(!found.is_empty(), "a changed record is found");
    fs::remove_file(&settings.cache).expect("removed");
    assert_eq!(cache_against(&settings.cache, &epochs).expect("read"), None);
}

/// Runs the command line. Returns its success and its output.
fn audit(words: &[&str]) -> (bool, String) {
    let ran = Command::new(env!("CARGO_BIN_EXE_token-shield"))
        .arg("audit")
        .args(words)
        .output()
        .expect("the command");
    (ran.status.success(), String::from_utf8([ran.stdout, ran.stderr].concat()).expect("UTF-8"))
}

#[test]
fn an_export_opens_its_own_records_and_no_others() {
    let Book { data, clock, log } = Book::new();
    let seal = |log: &Log, event| log.append_blocking(event, None).expect("sealed");
    seal(&log, admission(1));
    seal(&log, token_revoked(1));
    log.close().expect("closed");
    let begin = Some(NewEpoch { reason: "a test".to_owned(), by: None, after_loss: false });
    let (log, _) =
        Log::open(LogSettings { begin, ..settings(data.path()) }, Arc::clone(&clock) as _)
            .expect("a log");
    seal(&log, admission(2));
    log.close().expect("closed");
    let dir = settings(data.path()).dir;
    let (dir, to) = (dir.to_str().expect("UTF-8"), data.path().join("out"));
    let to = to.to_str().expect("UTF-8");
    let (done, said) = audit(&["export", to, "--dir", dir]);
    assert!(done && said.contains("e000001: 2 records") && !said.contains("e000002:"), "{said}");
    let (exported, keys, vkeys) =
        (format!("{to}/audit"), format!("{to}/keys.jsonl"), format!("{to}/log.vkeys"));
    let (_, said) = audit(&["verify", &exported, "--log-keys", &vkeys]);
    assert!(
        said.contains("valid: gw.example/e000001") && said.contains("END UNPROVEN"),
        "no head goes along: {said}"
    );
    let opened = |dir: &str, keys: &str| {
        let (done, said) = audit(&["query", dir, "--keys", keys]);
        assert!(done, "{said}");
        let lines = said.lines().filter(|line| !line.contains(r#""payload":null"#));
        lines
            .map(|line| line.split(r#""record":""#).nth(1).expect("a record")[..9].to_owned())
            .collect::<BTreeSet<_>>()
    };
    let expect = |records: &[&str]| {
        records.iter().map(|record| (*record).to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(opened(&exported, &keys), expect(&["e000001#0", "e000001#1"]));
    // The principal's later records stay encrypted. The epoch's first record is always in plain
    // text.
    assert_eq!(opened(dir, &keys), expect(&["e000001#0", "e000001#1", "e000002#0"]));
    let one = format!("{to}-one");
    assert!(
        audit(&["export", &one, "--dir", dir, "--principal", "user:ada", "--epochs", "e000001"]).0
    );
    assert_eq!(
        opened(&format!("{one}/audit"), &format!("{one}/keys.jsonl")),
        expect(&["e000001#0"])
    );
    let none = format!("{to}-none");
    assert!(
        audit(&["export", &none, "--dir", dir, "--without-keys"]).0
            && !Path::new(&none).join("keys.jsonl").exists()
    );
    let nowhere = format!("{to}-not");
    for (words, expect) in [
        (vec!["export", to, "--dir", dir], "is there already"),
        (vec!["export", &nowhere, "--dir", &exported], "no closed epoch yet"),
        (vec!["export", &nowhere, "--dir", dir, "--log-keys", "/nowhere"], "/nowhere"),
        (vec!["export", "/nowhere/x", "--dir", dir, "--epochs", "e000002"], "it is being written"),
        (
            vec!["export", "/nowhere/x", "--dir", dir, "--epochs", "e000007"],
            "there is no such epoch",
        ),
    ] {
        let (done, said) = audit(&words);
        assert!(!done && said.contains(expect), "{said}");
    }
    let left = fs::read_dir(data.path())
        .expect("the folder")
        .map(|entry| entry.expect("entry").file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("out-not")).collect();
    assert!(left.is_empty(), "what fails leaves nothing half: {left:?}");
}
