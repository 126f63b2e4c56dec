//! Fetches of media: the addresses that the gateway connects to, and the content that it accepts.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use token_shield::clock::{Clock, SystemClock};
use token_shield::guard::egress::destination::Host;
use token_shield::guard::egress::fetch_quota::FetchQuota;
use token_shield::guard::egress::fetches::{Fetches, WantedContent};
use token_shield::guard::egress::policy::{
    EgressPolicy, Lists, SelfEndpoints, TokenRestrictions, Use,
};
use token_shield::guard::limiter::{Limiter, SubjectKind as Subjects};
use token_shield::model::inline::{Content, Placeholder};
use token_shield::model::{BodyRules, Operation, Profile, UnknownFields, read};
use token_shield::proxy::buffer::{Buffers, Room};
use token_shield::proxy::fetch::{FetchJob, Fetcher};
use token_shield::proxy::resolve::Resolver;
use token_shield::refusal::Code;

/// A DNS server. It answers each question for an A record with the next element of `answers`, again
/// from the start after the last one. Other questions get an empty answer.
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
            // Type A, class IN (RFC 1035 section 3.2).
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
                // A pointer to the name in the question, type A, class IN, TTL 0, four bytes.
                reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                reply.extend_from_slice(&address.octets());
            }
            let _ = socket.send_to(&reply, from);
        }
    });
    address
}

/// Answers every client with `head` and `body`, and counts them.
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

/// The setup of one fetch.
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

    /// Fetches `times` times for one agent. Returns the result of the last fetch.
    fn run(self, times: usize) -> Result<Vec<Content>, Code> {
        let Self { port, dns, own, networks, bytes_max, per_hour } = self;
        let media = vec![format!("pics.test:{port}").parse().expect("an entry")];
        let lists = Lists {
            media,
            networks: vec![networks.parse().expect("a network")],
            ..Lists::default()
        };
        let policy = EgressPolicy::new(lists, own);
        let profile = Profile::named("vllm").expect("a profile");
        let terms = BodyRules {
            profile: &profile,
            unknown_fields: UnknownFields::Refuse,
            model_upstream: "m",
        };
        let body = format!(
            concat!(
                r#"{{"model":"m","messages":[{{"role":"user","#,
                r#""content":[{{"type":"image_url","image_url":{{"url":"http://pics.test:"#,
                r#"{port}/a"}}}}]}}]}}"#
            ),
            port = port
        );
        let call = read(Operation::ChatCompletions, body.as_bytes())
            .and_then(|read| read.understand(&terms));
        let mut call = call.expect("a call");
        let mark = Placeholder::new([1; 16]);
        call.inline(&mark, |_| true);
        let controlled = |url: &str| {
            policy.evaluate(Use::Media, url, &TokenRestrictions::default()).expect("listed")
        };
        let wanted = |reach: &token_shield::model::ExternalReference| WantedContent {
            reach: reach.clone(),
            controlled: controlled(&reach.target),
        };
        let fetches = Fetches { mark, wanted: call.inline_slots().iter().map(wanted).collect() };
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

#[test]
fn every_address_of_a_name_is_judged() {
    let (port, _) = server("127.0.0.1:0", FINE, PNG);
    // One internal address is enough: the client could choose it.
    let both = names(vec![vec![Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 0, 0, 1)]]);
    assert_eq!(Fetch { dns: both, ..Fetch::of(port) }.run(1), Err(Code::EgressUncontrolled));
    assert!(Fetch::of(port).run(1).is_ok());
}

#[test]
fn only_judged_addresses_are_connected_to() {
    let (port, _) = server("127.0.0.1:0", FINE, PNG);
    let (_, elsewhere) = server(&format!("127.0.0.2:{port}"), FINE, PNG);
    // DNS rebinding: the second answer names an address that the policy does not allow.
    let flipping = names(vec![vec![Ipv4Addr::LOCALHOST], vec![Ipv4Addr::new(127, 0, 0, 2)]]);
    let _ = Fetch { dns: flipping, ..Fetch::of(port) }.run(4);
    assert_eq!(elsewhere.load(Ordering::SeqCst), 0, "another address was connected to");
}

#[test]
fn an_upstream_is_refused_under_every_name() {
    let (port, reached) = server("127.0.0.1:0", FINE, PNG);
    // The name in the URL differs from the upstream's name, but both lead to one address.
    let own = SelfEndpoints {
        upstreams: vec![(Host::Name("localhost".to_owned()), port)],
        listeners: Vec::new(),
    };
    assert_eq!(Fetch { own, ..Fetch::of(port) }.run(1), Err(Code::EgressUncontrolled));
    assert_eq!(reached.load(Ordering::SeqCst), 0);
}

#[test]
fn content_of_a_redirection_is_not_taken() {
    let head = "302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-type: image/png";
    let (port, _) = server("127.0.0.1:0", head, PNG);
    assert_eq!(Fetch::of(port).run(1), Err(Code::FetchFailed));
}

#[test]
fn content_is_taken_for_what_its_bytes_are() {
    let (port, _) = server("127.0.0.1:0", FINE, b"<svg xmlns='http://www.w3.org/2000/svg'/>");
    assert_eq!(Fetch::of(port).run(1), Err(Code::FetchFailed), "an SVG that is sent as a PNG");
}

#[test]
fn content_has_at_most_the_bytes_of_the_limit() {
    let (port, _) = server("127.0.0.1:0", FINE, PNG);
    assert_eq!(Fetch { bytes_max: 20, ..Fetch::of(port) }.run(1), Err(Code::FetchFailed));
}

#[test]
fn an_agent_fetches_at_most_its_bytes_of_an_hour() {
    let (port, _) = server("127.0.0.1:0", FINE, PNG);
    let per_hour = 3 * PNG.len() as u64;
    assert!(Fetch { per_hour, ..Fetch::of(port) }.run(3).is_ok());
    assert_eq!(Fetch { per_hour, ..Fetch::of(port) }.run(4), Err(Code::FetchQuota));
}
