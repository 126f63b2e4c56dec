//! Mistakes at the doors of egress, made on purpose, and the checks that notice them.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use token_shield::clock::{Clock, SystemClock};
use token_shield::guard::egress::destination::Host;
use token_shield::guard::egress::fetch_quota::FetchQuota;
use token_shield::guard::egress::fetches::{Fetches, Wanted};
use token_shield::guard::egress::policy::{
    EgressPolicy, Entry, Lists, SelfEndpoints, TokenRestrictions, Use,
};
use token_shield::guard::egress::text::{Found, Kind, MARK, Scanner, Verdict};
use token_shield::guard::limiter::{Kind as Subjects, Limiter};
use token_shield::model::answer::StreamFilter;
use token_shield::model::inline::{Content, Mark};
use token_shield::model::response_text::{self, Channel, ChannelId, TextFilter};
use token_shield::model::tools::{Arguments, Tools};
use token_shield::model::{Operation, Profile, Terms, UnknownFields, read};
use token_shield::proxy::buffer::{Buffers, Room};
use token_shield::proxy::fetch::{FetchJob, Fetcher};
use token_shield::proxy::resolve::Resolver;
use token_shield::refusal::Code;
use token_shield::token::Names;

// ---- the judge --------------------------------------------------------------------------------------------------------------

fn entries(lines: &[&str]) -> Vec<Entry> {
    lines.iter().map(|line| line.parse().expect("an entry")).collect()
}

fn policy() -> EgressPolicy {
    let lists = Lists {
        media: entries(&["good.example", "*.good.example", "gpu.example:8000"]),
        ..Lists::default()
    };
    EgressPolicy::new(
        lists,
        SelfEndpoints {
            upstreams: vec![(Host::Name("gpu.example".to_owned()), 8000)],
            listeners: Vec::new(),
        },
    )
}

#[track_caller]
fn judged(url: &str, narrowing: &TokenRestrictions, expect: bool) {
    assert_eq!(policy().evaluate(Use::Media, url, narrowing).is_ok(), expect, "{url}");
}

pub(super) fn the_judge_compares_what_it_reads() {
    let none = TokenRestrictions::default();
    judged("HTTPS://GOOD.example/", &none, true);
    judged("https://good.example:8443/", &none, false);
    judged("https://a.good.example/", &none, true);
    judged("https://evilgood.example/", &none, false);
    judged("http://gpu.example:8000/v1", &none, false);
    judged(
        "https://good.example/",
        &TokenRestrictions {
            hosts: vec![Names::read(&["else.example"], 64).expect("a list")],
            nothing: false,
        },
        false,
    );
    let named = policy().evaluate(Use::Media, "https://good.example/", &none).expect("listed");
    assert!(
        policy().address(&named, "[::ffff:127.0.0.1]:443".parse().expect("an address")).is_err()
    );
}

// ---- what is fetched --------------------------------------------------------------------------------------------------------

/// Answers every question for an A record with the next of `answers`, over and over; all else with nothing.
fn names(answers: Vec<Vec<Ipv4Addr>>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = socket.local_addr().expect("address");
    std::thread::spawn(move || {
        let (mut buffer, mut turn) = ([0; 512], 0);
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let query = &buffer[..length];
            let name =
                query[12..].iter().position(|byte| *byte == 0).map_or(length, |end| 12 + end + 5);
            let question = &query[12..name];
            let found = if question.ends_with(&[0, 1, 0, 1]) {
                turn += 1;
                answers[(turn - 1) % answers.len()].clone()
            } else {
                Vec::new()
            };
            let mut reply = vec![
                query[0],
                query[1],
                0x81,
                0x80,
                0,
                1,
                0,
                u8::try_from(found.len()).expect("few"),
                0,
                0,
                0,
                0,
            ];
            reply.extend_from_slice(question);
            for address in found {
                reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                reply.extend_from_slice(&address.octets());
            }
            let _ = socket.send_to(&reply, from);
        }
    });
    address
}

/// Answers everybody with `head` and `body`, and counts them.
fn server(address: &str, head: &'static str, body: &'static [u8]) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(address).expect("bind");
    let (port, reached) =
        (listener.local_addr().expect("address").port(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&reached);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::SeqCst);
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer);
            let _ = write!(stream, "HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(body);
        }
    });
    (port, reached)
}

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR and so on";
const FINE: &str = "200 OK\r\ncontent-type: image/png";

/// How one fetch is set up.
struct Fetch {
    port: u16,
    dns: SocketAddr,
    own: SelfEndpoints,
    networks: &'static str,
    bytes_max: u64,
    per_hour: u64,
}

impl Fetch {
    fn of(port: u16) -> Self {
        let dns = names(vec![vec![Ipv4Addr::LOCALHOST]]);
        Self {
            port,
            dns,
            own: SelfEndpoints::default(),
            networks: "127.0.0.1/32",
            bytes_max: 1 << 20,
            per_hour: 1 << 20,
        }
    }

    /// Fetches `times` times for one agent; what the last of them gave.
    fn run(self, times: usize) -> Result<Vec<Content>, Code> {
        let Self { port, dns, own, networks, bytes_max, per_hour } = self;
        let media = entries(&[&format!("pics.test:{port}")]);
        let lists = Lists {
            media,
            networks: vec![networks.parse().expect("a network")],
            ..Lists::default()
        };
        let policy = EgressPolicy::new(lists, own);
        let profile = Profile::named("vllm").expect("a profile");
        let terms =
            Terms { profile: &profile, unknown_fields: UnknownFields::Refuse, model_upstream: "m" };
        let body = format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"http://pics.test:{port}/a"}}}}]}}]}}"#
        );
        let call = read(Operation::ChatCompletions, body.as_bytes())
            .and_then(|read| read.understand(&terms));
        let mut call = call.expect("a call");
        let mark = Mark::new([1; 16]);
        call.inline(&mark, |_| true);
        let controlled = |url: &str| {
            policy.evaluate(Use::Media, url, &TokenRestrictions::default()).expect("listed")
        };
        let wanted = |reach: &token_shield::model::Reach| Wanted {
            reach: reach.clone(),
            controlled: controlled(&reach.target),
        };
        let fetches = Fetches { mark, wanted: call.inlets().iter().map(wanted).collect() };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let agent = Limiter::new(Arc::clone(&clock)).subject(Subjects::Agent, "a/b");
        let fetch_quota = Arc::new(FetchQuota::new(clock));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let resolver = Resolver::new(Some(dns)).expect("a resolver");
            let fetcher = Fetcher {
                resolver,
                tls: Err("none".to_owned()),
                bytes_max,
                time_max: Duration::from_secs(20),
            };
            let mut last = Ok(Vec::new());
            for _ in 0..times {
                let room = Room::of(&Arc::new(Buffers::new(1 << 30)));
                let (policy, fetch_quota) = (&policy, &fetch_quota);
                let (agents, time, mut contents) = (&[agent], Duration::from_secs(60), Vec::new());
                let mut errand = FetchJob { policy, agents, fetch_quota, per_hour, room, time };
                last = match fetcher.all(&fetches, &mut errand, &mut contents).await {
                    Ok(()) => Ok(contents),
                    Err(refusal) => Err(refusal.code),
                };
            }
            last
        })
    }
}

pub(super) fn every_address_of_a_name_is_judged() {
    let (port, _) = server("127.0.0.1:0", FINE, PNG);
    let both = names(vec![vec![Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 0, 0, 1)]]);
    assert_eq!(Fetch { dns: both, ..Fetch::of(port) }.run(1), Err(Code::EgressUncontrolled));
    assert!(Fetch::of(port).run(1).is_ok());
}

pub(super) fn what_was_judged_is_dialled() {
    let (port, _) = server("127.0.0.1:0", FINE, PNG);
    let (_, elsewhere) = server(&format!("127.0.0.2:{port}"), FINE, PNG);
    let flipping = names(vec![vec![Ipv4Addr::LOCALHOST], vec![Ipv4Addr::new(127, 0, 0, 2)]]);
    let _ = Fetch { dns: flipping, ..Fetch::of(port) }.run(4);
    assert_eq!(elsewhere.load(Ordering::SeqCst), 0, "somebody else was connected to");
}

pub(super) fn an_upstream_is_one_under_every_name() {
    let (port, reached) = server("127.0.0.1:0", FINE, PNG);
    let own = SelfEndpoints {
        upstreams: vec![(Host::Name("localhost".to_owned()), port)],
        listeners: Vec::new(),
    };
    assert_eq!(Fetch { own, ..Fetch::of(port) }.run(1), Err(Code::EgressUncontrolled));
    assert_eq!(reached.load(Ordering::SeqCst), 0);
}

pub(super) fn only_the_content_itself_is_taken() {
    let (elsewhere, _) = server(
        "127.0.0.1:0",
        "302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-type: image/png",
        PNG,
    );
    assert_eq!(
        Fetch::of(elsewhere).run(1),
        Err(Code::FetchFailed),
        "where else it leads is not followed, nor what stands there taken"
    );
    let (port, _) = server("127.0.0.1:0", FINE, b"<svg xmlns='http://www.w3.org/2000/svg'/>");
    assert_eq!(Fetch::of(port).run(1), Err(Code::FetchFailed), "what calls itself a PNG");
    let (port, _) = server("127.0.0.1:0", FINE, PNG);
    assert_eq!(
        Fetch { bytes_max: 20, ..Fetch::of(port) }.run(1),
        Err(Code::FetchFailed),
        "more than may come"
    );
    let per_hour = 3 * PNG.len() as u64;
    assert!(Fetch { per_hour, ..Fetch::of(port) }.run(3).is_ok());
    assert_eq!(Fetch { per_hour, ..Fetch::of(port) }.run(4), Err(Code::FetchAllowance));
}

// ---- answers ----------------------------------------------------------------------------------------------------------------

/// A door at which `good.example` alone is controlled, and `links.example` as a link; tools that are called `fetch` are judged.
#[derive(Default)]
struct Door {
    scanners: BTreeMap<(u64, String), Scanner>,
    ended: bool,
    blocks: bool,
}

/// A verdict, and whether it ends the answer.
fn verdict(found: &Found<'_>, blocks: bool, ended: &mut bool) -> Verdict {
    let host = found.url.ok().and_then(EgressPolicy::host).unwrap_or_default();
    if host == "good.example"
        || (host == "links.example" && found.kind == Kind::Clicked)
        || found.fenced
    {
        return Verdict::Pass;
    }
    *ended |= blocks;
    if blocks { Verdict::Block } else { Verdict::Strip }
}

impl TextFilter for Door {
    fn push(&mut self, channel: Channel<'_>, text: &str, out: &mut String) {
        let Self { scanners, ended, blocks } = self;
        let scanner = scanners
            .entry((channel.choice, channel.key.to_owned()))
            .or_insert_with(|| Scanner::new(true));
        scanner.push(text, out, &mut |found| verdict(found, *blocks, ended));
    }

    fn flush(&mut self, channel: Channel<'_>, out: &mut String) {
        let Self { scanners, ended, blocks } = self;
        if let Some(scanner) = scanners.get_mut(&(channel.choice, channel.key.to_owned())) {
            scanner.pause(out, &mut |found| verdict(found, *blocks, ended));
        }
    }

    fn boundary(&mut self) {}

    fn holding(&self, choice: Option<u64>) -> Vec<ChannelId> {
        let held = self
            .scanners
            .iter()
            .filter(|(_, scanner)| scanner.is_holding())
            .map(|((choice, key), _)| ChannelId { choice: *choice, key: key.clone() });
        held.filter(|id| choice.is_none_or(|choice| choice == id.choice)).collect()
    }
}

impl Tools for Door {
    fn any(&self) -> bool {
        true
    }

    fn judges(&self, tool: &str) -> bool {
        tool == "fetch"
    }

    fn call(&mut self, _: &str, arguments: Arguments<'_>) -> bool {
        let passes = !format!("{arguments:?}").contains(&format!("{:?}", b'~'))
            && !matches!(arguments, Arguments::Text(_));
        self.ended |= !passes;
        passes
    }

    fn ended(&self) -> bool {
        self.ended
    }
}

fn event(delta: &str, more: &str) -> Vec<u8> {
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{delta}{more}}}]}}\n\n").into_bytes()
}

fn delta(key: &str, text: &str) -> String {
    format!("{{\"{key}\":{}}}", serde_json::to_string(text).expect("a string"))
}

/// What comes out of a stream of these events.
fn streamed(door: Door, events: &[Vec<u8>]) -> String {
    let (mut filter, mut out) =
        (StreamFilter::new(Operation::ChatCompletions, true, door), Vec::new());
    for event in events {
        filter.push(event, &mut out).expect("events that can be read");
    }
    filter.finish(&mut out).expect("events that can be read");
    String::from_utf8(out).expect("UTF-8")
}

/// The texts of `key` in it, put together.
fn said(stream: &str, key: &str) -> String {
    let events = stream
        .lines()
        .filter_map(|line| line.strip_prefix("data: {"))
        .map(|line| format!("{{{line}"));
    let parsed =
        events.map(|event| serde_json::from_str::<serde_json::Value>(&event).expect("JSON"));
    parsed
        .filter_map(|event| event["choices"][0]["delta"][key].as_str().map(str::to_owned))
        .collect()
}

#[track_caller]
fn text(key: &str, pieces: &[&str], expect: &str) {
    let events: Vec<Vec<u8>> = pieces.iter().map(|piece| event(&delta(key, piece), "")).collect();
    assert_eq!(
        said(&streamed(Door::default(), &events), key),
        expect.replace('@', MARK),
        "{pieces:?}"
    );
}

pub(super) fn texts_lead_nowhere_else() {
    text(
        "content",
        &["see https://", "a-very-long-name-", "that-outgrows-windows.", "evil.example", "/x ok"],
        "see https@ ok",
    );
    text("reasoning_content", &["see https://evil.example/ ok"], "see https@ ok");
    text("content", &["![a]\n\n[a]: https://links.example/ 'b'"], "![a]\n\n[a]: https@ 'b'");
    text("content", &["https&#58;//evil.example/ ok"], "https@ ok");
    text("content", &["![a](https://^", "&#64;evil.example/x) ok"], "![a](https://^@) ok");
    text("content", &["it is about https:"], "it is about https:");
}

pub(super) fn fences_are_believed_where_all_readers_see_them() {
    let (mut scanner, mut out) = (Scanner::new(false), String::new());
    let mut ended = false;
    scanner.push("```\nhttps://evil.example/ \n```\n", &mut out, &mut |found| {
        verdict(found, false, &mut ended)
    });
    assert!(!out.contains("evil"), "the text goes on from one that is not seen here: {out}");
}

pub(super) fn tokens_of_what_has_changed_are_left_out() {
    let tokens = r#","logprobs":{"content":[{"token":"https://evil.example/"}]}"#;
    let out =
        streamed(Door::default(), &[event(&delta("content", "https://evil.example/ ok"), tokens)]);
    assert!(!out.contains("evil.example"), "{out}");
    let whole = format!(
        r#"{{"choices":[{{"index":0,"message":{}{tokens}}}]}}"#,
        delta("content", "https://evil.example/ ok")
    );
    let out = response_text::whole(whole.as_bytes(), &mut Door::default())
        .expect("JSON")
        .expect("changed");
    assert!(!String::from_utf8_lossy(&out).contains("evil.example"));
}

fn call(index: u64, name: &str, arguments: &str) -> Vec<u8> {
    let arguments = serde_json::to_string(arguments).expect("a string");
    event(
        &format!(
            r#"{{"tool_calls":[{{"index":{index},"function":{{"name":"{name}","arguments":{arguments}}}}}]}}"#
        ),
        "",
    )
}

pub(super) fn calls_go_on_as_they_are_or_not_at_all() {
    let over = event("{}", r#","finish_reason":"tool_calls""#);
    let events = [
        call(0, "write", r#"{"a":"https://evil.example/ "}"#),
        call(1, "fetch", r#"{"u":"fine"}"#),
        over.clone(),
    ];
    assert_eq!(streamed(Door::default(), &events).into_bytes(), events.concat());
    let events = [call(0, "fetch", r#"{"u":"~"}"#), over];
    assert_eq!(streamed(Door::default(), &events), "");
}

pub(super) fn nothing_follows_what_ends_an_answer() {
    let blocks = Door { blocks: true, ..Door::default() };
    let events = [
        event(&delta("content", "a https://evil.example/ "), ""),
        event(&delta("content", "behind"), ""),
    ];
    let all = [events.concat(), b"data: [DONE]\n\n".to_vec()].concat();
    let out = streamed(blocks, &[all]);
    assert!(!out.contains("behind") && !out.contains("DONE"), "{out}");
}
